"""Outputs of the classifier."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class WBCImageClassifierOutput(ModelOutput):
    """Outputs of [`WBCForImageClassification`].

    Args:
        loss (`torch.Tensor` of shape `()`, with labels only): equation 12, `cross_entropy` + lambda `center_loss`, and
            `stage_loss` and `attribute_loss` times their weights in the configuration.
        logits (`torch.Tensor` of shape `(N, K)`): scores of the K classes before the softmax, already divided by
            `config.temperature`.
        distance (`torch.Tensor` of shape `(N,)`): Euclidean distance of the embedding to the nearest class centre, at
            least 0, float32.
        novelty (`torch.Tensor` of shape `(N,)`, in eval mode only): OOD score, at least 0, of the feature maps of
            `config.novelty_stages`, see [`SmearNovelty`]. Images beyond `config.max_novelty` are unlike those of the
            training.
        stage_logits (`torch.Tensor` of shape `(N, S)`, of a model with `config.stages`): scores of the S stages of all
            types together, before the softmax. Those of one type are compared with each other only.
        attribute_logits (dict of `torch.Tensor` of shape `(N, V)`, of a model with `config.attributes`): scores of the
            V values of each attribute by its name, before the softmax.
        embeddings (`torch.Tensor` of shape `(N, 512)`): pooled features, the input of the classifier, of the other
            heads and of the centre loss.
        hidden_states (tuple of five `torch.Tensor` of shape `(N, C, H, W)`, on request): the feature maps before and
            after every stage.
        cross_entropy (`torch.Tensor` of shape `()`, with labels only): equation 7.
        center_loss (`torch.Tensor` of shape `()`, with labels only): L_f, equation 10.
        stage_loss (`torch.Tensor` of shape `()`, with labels or stage ids only): cross entropy of the stages, the mean
            over the images of a known stage; 0 without any.
        attribute_loss (`torch.Tensor` of shape `()`, with labels or attribute ids only): the mean over the attributes
            of the cross entropy of each, which is the mean over the images where it is known; 0 without any.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    distance: Tensor | None = None
    novelty: Tensor | None = None
    stage_logits: Tensor | None = None
    attribute_logits: dict[str, Tensor] | None = None
    embeddings: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    cross_entropy: Tensor | None = None
    center_loss: Tensor | None = None
    stage_loss: Tensor | None = None
    attribute_loss: Tensor | None = None
