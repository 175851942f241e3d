"""What a teacher tells of the training images, and the loss of a student that disagrees."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput

_TEMPERATURE = 2.0


class TeacherTargets:
    """What a teacher tells of each training image, and the loss of a student that disagrees.

    Args:
        tensors: `logits` (N, K), `embeddings` (N, F) and, with the heads, `stage_logits` (N, S) and
            `attribute_logits` (N, V), float32.
        weight: Share, in [0, 1], of the teacher's answers in the loss; the labels have the rest.
        likeness: Weight of the likeness of images.
    """

    def __init__(self, tensors: dict[str, Tensor], weight: float = 0.5, likeness: float = 2.0):
        self.tensors = tensors
        self.weight = weight
        self.likeness = likeness

    def loss(self, outputs: ModelOutput, rows: Tensor, hard: Tensor) -> Tensor:
        """The joint loss of labels and teacher.

        Args:
            outputs: The student's.
            rows: (N,) integers, the images of the batch.
            hard: The loss of the labels, a scalar.

        Returns:
            (1 - w) hard + w (D(types) + D(stages) + D(attributes)) + v L, D being the divergence of Kullback and
            Leibler of teacher and student at a temperature of 2, times 4, and L the mean squared difference of the
            cosines between all pairs of centred embeddings.
        """
        device = outputs["logits"].device
        told = {name: tensor[rows.cpu()].to(device) for name, tensor in self.tensors.items()}
        soft = _divergence(outputs["logits"], told["logits"])
        if "stage_logits" in told and outputs.get("stage_logits") is not None:
            soft = soft + _divergence(outputs["stage_logits"], told["stage_logits"])
        if "attribute_logits" in told and outputs.get("attribute_logits") is not None:
            parts = [*outputs["attribute_logits"].values()]
            known = told["attribute_logits"].split([part.shape[1] for part in parts], dim=1)
            soft = soft + torch.stack([_divergence(*pair) for pair in zip(parts, known, strict=True)]).mean()
        cosines = [_cosines(embeddings.float()) for embeddings in (outputs["embeddings"], told["embeddings"])]
        return (1 - self.weight) * hard + self.weight * soft + self.likeness * F.mse_loss(*cosines)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = (logits.float() / _TEMPERATURE for logits in (student, teacher))
    return _TEMPERATURE**2 * F.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )


def _cosines(embeddings: Tensor) -> Tensor:
    centred = F.normalize(embeddings - embeddings.mean(0), dim=1)
    return centred @ centred.T
