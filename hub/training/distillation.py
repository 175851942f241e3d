"""What teachers say of the views that a student is trained on, and the loss of a student that disagrees."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import ModelOutput

_TEMPERATURE = 2.0


class Distillation:
    """The loss of a student that disagrees with teachers about the same view (Beyer et al. 2022).

    Args:
        teachers: Networks with a `config.image_size` that return `logits`, `embeddings` and, with the heads,
            `stage_logits` and `attribute_logits`; they are put into evaluation mode. One may be what the student
            starts from (Furlanello et al. 2018).
        weight: Share, in [0, 1], of the teachers' answers in the loss; the labels have the rest.
        likeness: Weight of the likeness of images (Tung & Mori 2019).
    """

    def __init__(self, teachers: Sequence[nn.Module], weight: float = 0.5, likeness: float = 2.0):
        self.teachers = [teacher.eval() for teacher in teachers]
        self.weight = weight
        self.likeness = likeness

    def loss(self, pixel_values: Tensor, outputs: ModelOutput, hard: Tensor) -> Tensor:
        """The joint loss of labels and teachers.

        Args:
            pixel_values: (N, 3, S, S), the views that the student saw, which each teacher sees at its own size.
            outputs: The student's.
            hard: The loss of the labels, a scalar.

        Returns:
            (1 - w) hard + w (D(types) + D(stages) + D(attributes)) + v L, D being the divergence of Kullback and
            Leibler of teacher and student at a temperature of 2, times 4, and L the mean squared difference of the
            cosines between all pairs of centred embeddings; D and L are means over the teachers.
        """
        told = torch.stack([self._disagreement(teacher, pixel_values, outputs) for teacher in self.teachers])
        return (1 - self.weight) * hard + told.mean()

    def _disagreement(self, teacher: nn.Module, pixel_values: Tensor, outputs: ModelOutput) -> Tensor:
        size = teacher.config.image_size
        with torch.no_grad():
            if pixel_values.shape[-1] != size:
                pixel_values = F.interpolate(pixel_values, (size, size), mode="bilinear", antialias=True)
            told = teacher(pixel_values)
        soft = _divergence(outputs["logits"], told["logits"])
        if told.get("stage_logits") is not None and outputs.get("stage_logits") is not None:
            soft = soft + _divergence(outputs["stage_logits"], told["stage_logits"])
        if told.get("attribute_logits") is not None and outputs.get("attribute_logits") is not None:
            pairs = [(own, told["attribute_logits"][name]) for name, own in outputs["attribute_logits"].items()]
            soft = soft + torch.stack([_divergence(*pair) for pair in pairs]).mean()
        cosines = [_cosines(embeddings.float()) for embeddings in (outputs["embeddings"], told["embeddings"])]
        return self.weight * soft + self.likeness * F.mse_loss(*cosines)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = (logits.float() / _TEMPERATURE for logits in (student, teacher))
    return _TEMPERATURE**2 * F.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
    )


def _cosines(embeddings: Tensor) -> Tensor:
    centred = F.normalize(embeddings - embeddings.mean(0), dim=1)
    return centred @ centred.T
