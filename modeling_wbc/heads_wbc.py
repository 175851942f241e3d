"""Losses of the heads for stages and attributes of a cell, of which an image may lack some."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .configuration_wbc import WBCConfig

# The id of a label that is not known.
UNKNOWN_ID = -100


class LabelLoss(nn.Module):
    r"""Cross entropy of several labels of an image, whose logits stand side by side.

    Args:
        sizes (list of `int`): number of values of each of the L labels, each at least 1.

    Attributes:
        columns: (L, V) integer buffer, not saved: the column of each value of each label among the logits, V being the
            largest size; -1 where a label has fewer values.
    """

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.sizes = list(sizes)
        self.register_buffer("columns", self.make_columns(), persistent=False)

    def make_columns(self) -> Tensor:
        """Return the buffer `columns`, on the CPU."""
        columns = torch.full((len(self.sizes), max(self.sizes)), -1, device="cpu")
        numbers = torch.arange(sum(self.sizes), device="cpu")
        for row, part in zip(columns, numbers.split(self.sizes), strict=True):
            row[: len(part)] = part
        return columns

    def forward(self, logits: Tensor, ids: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
        r"""Mean over the L labels of the cross entropy of each, which is the mean over the images that have the label.

        It is [`torch.nn.functional.cross_entropy`] with `ignore_index=-100`, but 0 with a gradient of zeros, not NaN,
        where no image has the label. When `torch.distributed` is initialised, a training step divides by the number
        of labels of all processes, so that the gradient, averaged by `DistributedDataParallel`, is that of one process
        with the joined batch. The loss, averaged over the processes, is also that of the joined batch.

        Args:
            logits: (N, S), S being the sum of `sizes`: those of the first label, then those of the second, ...
            ids: (N, L) integers, each in [0, size) or -100 where it is not known; (N,) for a single label.
                Default: none is known, which still connects the head with the loss, by gradients of 0.
            label_smoothing: the share, in [0, 1], of the target that is spread evenly over all values of a label.

        Returns:
            A scalar, float32.

        Raises:
            ValueError: if `ids` has another shape or type, or holds another value. Values are checked on the CPU only,
                as reading them from another device would delay it.
        """
        if ids is None:
            ids = torch.full((len(logits), len(self.sizes)), UNKNOWN_ID, device=logits.device)
        ids = ids[:, None] if ids.ndim == 1 else ids
        self._check_ids(ids, len(logits))
        padding = self.columns < 0
        columns = self.columns.clamp(min=0).flatten()
        padded = logits.float().index_select(1, columns).view(len(logits), *padding.shape)
        padded = padded.masked_fill(padding, torch.finfo(padded.dtype).min)
        log_probabilities = padded.log_softmax(-1)  # (N, L, V)
        losses = -log_probabilities.gather(-1, ids.clamp(min=0)[..., None]).squeeze(-1)
        if label_smoothing:
            spread = -log_probabilities.masked_fill(padding, 0).sum(-1) / (~padding).sum(-1)
            losses = (1 - label_smoothing) * losses + label_smoothing * spread
        known = ids != UNKNOWN_ID
        counts, processes = known.sum(0), 1
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            processes = dist.get_world_size()
            dist.all_reduce(counts)
        return (processes * losses.masked_fill(~known, 0).sum(0) / counts.clamp(min=1)).mean()

    def _check_ids(self, ids: Tensor, batch_size: int) -> None:
        shape = (batch_size, len(self.sizes))
        if ids.shape != shape or ids.is_floating_point():
            raise ValueError(
                f"ids must be integers of shape {shape}, one for each image and label, got {ids.dtype} of shape "
                f"{tuple(ids.shape)}"
            )
        if ids.device.type != "cpu" or torch.compiler.is_compiling():
            return
        sizes = torch.tensor(self.sizes)
        if bool(((ids != UNKNOWN_ID) & ((ids < 0) | (ids >= sizes))).any()):
            raise ValueError(
                f"ids must be {UNKNOWN_ID} or from 0 to below {self.sizes}, got {ids.amin(0).tolist()} to "
                f"{ids.amax(0).tolist()}"
            )


class HeadLosses(nn.Module):
    """Losses of the stage head and the attribute head of [`WBCForImageClassification`], as far as it has them."""

    def __init__(self, config: WBCConfig):
        super().__init__()
        stages, attributes = config.active_stages.values(), config.active_attributes.values()
        self.stage = LabelLoss([sum(map(len, stages))]) if stages else None
        self.attribute = LabelLoss([*map(len, attributes)]) if attributes else None

    def forward(
        self,
        stage_logits: Tensor | None,
        attribute_logits: dict[str, Tensor] | None,
        stage_ids: Tensor | None = None,
        attribute_ids: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, Tensor]:
        """Return the scalars `stage_loss` and `attribute_loss`, see [`LabelLoss`].

        Args:
            stage_logits: as in [`WBCImageClassifierOutput`], like `attribute_logits`.
            attribute_logits: see there.
            stage_ids: as in [`WBCForImageClassification.forward`], like `attribute_ids`. Default: none is known.
            attribute_ids: see there.
            label_smoothing: see [`LabelLoss`].

        Raises:
            ValueError: if ids do not fit the logits, or are given without the head.
        """
        losses = {}
        joined = None if attribute_logits is None else torch.cat([*attribute_logits.values()], dim=1)
        stage, attribute = (self.stage, stage_logits, stage_ids), (self.attribute, joined, attribute_ids)
        for name, (loss, logits, ids) in {"stage": stage, "attribute": attribute}.items():
            if loss is not None:
                losses[f"{name}_loss"] = loss(logits, ids, label_smoothing)
            elif ids is not None:
                raise ValueError(f"{name}_ids were given to a model without {name}s: name them in `config.{name}s`")
        return losses


def split_attributes(logits: Tensor, attributes: dict[str, list[str]]) -> dict[str, Tensor]:
    """Take the logits (N, S) of all attributes, side by side, apart: by name, those (N, V) of each one's V values."""
    return dict(zip(attributes, logits.split([*map(len, attributes.values())], dim=1), strict=True))


__all__ = ["UNKNOWN_ID", "HeadLosses", "LabelLoss", "split_attributes"]
