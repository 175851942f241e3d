"""Outputs of the classifier."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class WBCImageClassifierOutput(ModelOutput):
    """Outputs of [`WBCForImageClassification`].

    Args:
        loss (`torch.Tensor` of shape `()`, with labels only): equation 12, `cross_entropy` + lambda `center_loss`.
        logits (`torch.Tensor` of shape `(N, K)`): scores of the K classes before the softmax, already divided by
            `config.temperature`.
        distance (`torch.Tensor` of shape `(N,)`): Euclidean distance of the embedding to the nearest class centre, at
            least 0, float32.
        novelty (`torch.Tensor` of shape `(N,)`, in eval mode only): OOD score, at least 0, of the first stage's
            feature map, see [`SmearNovelty`]. Images beyond `config.max_novelty` belong to none of the classes.
        embeddings (`torch.Tensor` of shape `(N, 512)`): pooled features, the input of the classifier and the centre
            loss.
        hidden_states (tuple of five `torch.Tensor` of shape `(N, C, H, W)`, on request): the feature maps before and
            after every stage.
        cross_entropy (`torch.Tensor` of shape `()`, with labels only): equation 7.
        center_loss (`torch.Tensor` of shape `()`, with labels only): L_f, equation 10.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    distance: Tensor | None = None
    novelty: Tensor | None = None
    embeddings: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    cross_entropy: Tensor | None = None
    center_loss: Tensor | None = None
