"""What a teacher says of the views that a student is trained on, and the loss of a student that disagrees."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput

_TEMPERATURE = 2.0


class Distillation:
    """The loss of a student that disagrees with a teacher about the same view (Beyer et al. 2022).

    Args:
        teacher: A network with a `config.image_size` that returns `logits`, `embeddings` and, with the heads,
            `stage_logits` and `attribute_logits`; it is put into evaluation mode.
        weight: Share, in [0, 1], of the teacher's answers in the loss; the labels have the rest.
        likeness: Weight of the likeness of images (Tung & Mori 2019).
    """

    def __init__(self, teacher: nn.Module, weight: float = 0.5, likeness: float = 2.0):
        self.teacher = teacher.eval()
        self.weight = weight
        self.likeness = likeness

    def loss(self, pixel_values: Tensor, outputs: ModelOutput, hard: Tensor) -> Tensor:
        """The joint loss of labels and teacher.

        Args:
            pixel_values: (N, 3, S, S), the views that the student saw, which the teacher sees at its own size.
            outputs: The student's.
            hard: The loss of the labels, a scalar.

        Returns:
            (1 - w) hard + w (D(types) + D(stages) + D(attributes)) + v L, D being the divergence of Kullback and
            Leibler of teacher and student at a temperature of 2, times 4, and L the mean squared difference of the
            cosines between all pairs of centred embeddings.
        """
        size = self.teacher.config.image_size
        with torch.no_grad():
            if pixel_values.shape[-1] != size:
                pixel_values = F.interpolate(pixel_values, (size, size), mode="bilinear", antialias=True)
            told = self.teacher(pixel_values)
        soft = _divergence(outputs["logits"], told["logits"])
        if told.get("stage_logits") is not None and outputs.get("stage_logits") is not None:
            soft = soft + _divergence(outputs["stage_logits"], told["stage_logits"])
        if told.get("attribute_logits") is not None and outputs.get("attribute_logits") is not None:
            pairs = [(own, told["attribute_logits"][name]) for name, own in outputs["attribute_logits"].items()]
            soft = soft + torch.stack([_divergence(*pair) for pair in pairs]).mean()
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
