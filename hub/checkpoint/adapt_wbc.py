"""Adaptation of a classifier to a lab by images of its own, see `WBCForImageClassification.adapt`."""

import copy
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .few_shot_wbc import fit_head, shrink_centers
from .field_wbc import is_one_image
from .image_processing_wbc import WBCImageProcessor
from .norm_wbc import InstanceBatchNorm2d

# The old statistics of a norm count as much as this number of crops.
PRIOR_CROPS = 8
# The norms whose shift counts, as a share of all: the last ones, before which the network makes its own labs alike.
LAST_NORMS = 1 / 6
# Crops of fewer types differ from those of the training by their types, whatever the lab.
MIN_VARIETY = 2.0
# Of more crops a sample is drawn, so that memory and time are bounded: of those without a label, and of each type.
MAX_CROPS, MAX_LABELLED = 256, 64
# The share of a lab's crops that the OOD threshold accepts, and the most that it grows to, times the old one.
KNOWN_SHARE, MAX_GROWTH = 0.98, 1.25
_UNKNOWN = -1  # the class id of a crop without a label
_BATCH = 64


def adapt_model(
    model: PreTrainedModel,
    images,
    labels,
    image_processor: WBCImageProcessor,
    move_norms: bool | None = None,
) -> PreTrainedModel:
    r"""Adapt a copy of a classifier to a lab.

    Where the norms move, mean and variance of each batch norm, and of the batch half of each [`InstanceBatchNorm2d`],
    become those of its input over n crops of the lab, shrunk towards the old ones (Schneider et al. 2020),

    $$\mathrm{new} = \frac{n \, \mathrm{lab} + k \, \mathrm{old}}{n + k}, \qquad k = 8$$

    By default they do if the shift (see `_shift`) is above `config.max_shift` and the crops look like two types or
    more. Labels move the class centres and, if it then names more of the labelled cells right, the head: see
    `fit_head` and `shrink_centers`. The OOD threshold `config.max_novelty` rises, if need be, until 98 % of the crops
    are known, but not beyond `config.max_smear_novelty`, or 1.25 times its old value in a model without that.

    At most 256 crops without a label and 64 of each type are used, drawn from all by a fixed seed.

    Args:
        model: a [`WBCForImageClassification`].
        images: as in [`WBCForImageClassification.adapt`], like the other arguments.
        labels: see there.
        image_processor: see there.
        move_norms: see there.

    Returns:
        The copy. Its `config.adaptation` holds the number of `crops` that were used; `without_cell`, that of images
        without one; `shift`, `variety` (the effective number of types that the crops look like), and `norms_moved`;
        `labels`, the number of labelled cells by type; `right_of_labelled`, how many of these the old head names right
        `before` and the new one in leave-one-out `after` (None for labels of fewer than two types), and `head_moved`;
        and, `before` and `after`, the OOD threshold `max_novelty` and the share of the crops that it makes `known`.

    Raises:
        ValueError: as [`WBCForImageClassification.adapt`] does.
    """
    if model.config.adaptation is not None:
        raise ValueError("the model is an adapted copy: adapt the original, with all images of the lab at once")
    types = [model.config.id2label[index] for index in range(model.config.num_labels)]
    crops, classes, without_cell = _gather(images, labels, image_processor, types)
    adapted = copy.deepcopy(model)
    training = [module for module in adapted.modules() if module.training]
    adapted.eval()

    norms = _batch_norms(adapted)
    with _measuring(norms):
        embeddings, old_novelty, probabilities = _classify(adapted, crops)
    shift, variety = _shift(norms), _effective_number(probabilities.mean(0))
    moves = shift > model.config.max_shift and variety >= MIN_VARIETY if move_norms is None else bool(move_norms)
    novelty = old_novelty
    if moves:
        share = len(crops) / (len(crops) + PRIOR_CROPS)
        with _measuring(norms, share):
            _classify(adapted, crops)
        for norm in norms:
            norm.move(norm.mean, norm.var, share)
        embeddings, novelty, _ = _classify(adapted, crops)

    adapted.config.adaptation = {
        "crops": len(crops),
        "without_cell": without_cell,
        "shift": shift,
        "variety": variety,
        "norms_moved": moves,
        **_adapt_head(adapted, embeddings, classes, types),
        **_adapt_threshold(adapted, old_novelty, novelty),
    }
    for module in training:
        module.training = True
    return adapted


# --- Crops ---


class _Sample:
    """At most `size` of the items that are added, each as likely as another (reservoir sampling; Vitter 1985)."""

    def __init__(self, size: int):
        self.items: list = []
        self._size, self._seen, self._generator = size, 0, torch.Generator().manual_seed(0)

    def add(self, item) -> None:
        self._seen += 1
        if len(self.items) < self._size:
            self.items.append(item)
            return
        place = int(torch.randint(self._seen, (), generator=self._generator))
        if place < self._size:
            self.items[place] = item


def _gather(images, labels, image_processor: WBCImageProcessor, types: list[str]) -> tuple[Tensor, Tensor, int]:
    """The crops to adapt to, in random order.

    Returns:
        Crops (N, C, H, W); their class ids (N,), `_UNKNOWN` without a label; the number of images without a cell.

    Raises:
        ValueError: as `WBCForImageClassification.adapt` does.
    """
    unlabelled, labelled = _Sample(MAX_CROPS), [_Sample(MAX_LABELLED) for _ in types]
    without_cell = 0
    for cells, label in _crops_and_labels(images, labels, image_processor):
        class_id = _class_id(label, types)
        without_cell += len(cells) == 0
        for number, crop in enumerate(cells):
            # A label is that of the foremost cell, which `hub labs` and the pipeline take for the image's.
            (labelled[class_id] if number == 0 and class_id != _UNKNOWN else unlabelled).add(crop.clone())
    samples = [*labelled, unlabelled]
    crops = [crop for sample in samples for crop in sample.items]
    if not crops:
        raise ValueError(
            f"nothing to adapt to: no white cell was found in {without_cell} images"
            if without_cell
            else "nothing to adapt to: there is no image"
        )
    ids = [*range(len(types)), _UNKNOWN]
    classes = [class_id for class_id, sample in zip(ids, samples, strict=True) for _ in sample.items]
    # In an order that has nothing to do with types, so that each batch looks like the lab.
    order = torch.randperm(len(crops), generator=torch.Generator().manual_seed(0))
    return torch.stack(crops)[order], torch.tensor(classes)[order], without_cell


def _crops_and_labels(images, labels, image_processor: WBCImageProcessor) -> Iterator[tuple[Tensor, object]]:
    """The crops (N, C, H, W) of each image, the foremost cell's first, and the label of the image or None."""
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        cells: Iterable[Tensor] = torch.as_tensor(images).detach().cpu().split(1)
    else:
        if is_one_image(images):
            images = [images]
            labels = None if labels is None else [labels] if isinstance(labels, str | int) else labels
        fetched = (image_processor.fetch_images(image) for image in images)
        cells = (image_processor.preprocess_cells(image)["pixel_values"] for image in fetched)
    missing = object()
    pairs = (
        zip(cells, itertools.repeat(None))
        if labels is None
        else itertools.zip_longest(
            cells, labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels, fillvalue=missing
        )
    )
    for crops, label in pairs:
        if crops is missing or label is missing:
            raise ValueError("labels must have one entry for each image, None where the type is not known")
        yield crops, label


def _class_id(label, types: list[str]) -> int:
    """The class id of a label: a name of `types`, whatever the case of its letters, a class id, or None."""
    if label is None:
        return _UNKNOWN
    if isinstance(label, str):
        names = [name.lower() for name in types]
        if label.lower() in names:
            return names.index(label.lower())
    elif isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(types):
        return int(label)
    raise ValueError(
        f"a label must be one of {', '.join(types)}, a class id below {len(types)} or None, got {label!r}"
    )


# --- Norms ---


class _BatchNorm:
    """A batch norm, or the batch half of a norm: its old statistics, and moments of its input over crops."""

    def __init__(self, module: nn.BatchNorm2d):
        self.module = module
        first = module.num_features // 2 if isinstance(module, InstanceBatchNorm2d) else 0
        self.channels = slice(first, None)
        self.old_mean, self.old_var = (
            running[self.channels].detach().float().clone() for running in (module.running_mean, module.running_var)
        )
        self.restart()

    def restart(self) -> None:
        """Forget the crops."""
        self._count = 0
        self._sums = torch.zeros(3, len(self.old_mean), dtype=torch.float64)

    def see(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Add a batch of inputs (N, C, H, W); return the mean and the biased variance (C,) of this batch alone."""
        var, mean = torch.var_mean(x[:, self.channels].float(), dim=(2, 3), correction=0)
        batch_mean = mean.mean(0)
        batch_var = var.mean(0) + (mean - batch_mean).square().mean(0)
        self._count += len(mean)
        mean, var = mean.cpu().double(), var.cpu().double()
        self._sums += torch.stack((mean, mean.square(), var)).sum(1)
        return batch_mean, batch_var

    @property
    def mean(self) -> Tensor:
        """Mean (C,) over the crops seen."""
        return (self._sums[0] / self._count).to(self.old_mean)

    @property
    def var_between(self) -> Tensor:
        """Variance (C,) of the means of single crops."""
        return (self._sums[1] / self._count - (self._sums[0] / self._count).square()).clamp_min(0).to(self.old_mean)

    @property
    def var(self) -> Tensor:
        """Biased variance (C,) over the pixels of the crops seen, by the law of total variance."""
        return (self._sums[2] / self._count).to(self.old_mean) + self.var_between

    def move(self, mean: Tensor, var: Tensor, share: float) -> None:
        """Set the running statistics to `share` times the given ones and the rest of the old ones."""
        for running, old, new in (
            (self.module.running_mean, self.old_mean, mean),
            (self.module.running_var, self.old_var, var),
        ):
            limit = torch.finfo(running.dtype).max  # of float16, which a variance may exceed
            running[self.channels] = old.lerp(new, share).clamp(-limit, limit).to(running.dtype)

    def shift(self) -> Tensor:
        """Symmetric KL divergence (C,) of old and new statistics, each a Gaussian; see `_shift`."""
        var, old_var = self.var + self.module.eps, self.old_var + self.module.eps
        # The mean over few crops differs from the old one by chance, too.
        squared = ((self.mean - self.old_mean).square() - self.var_between / self._count).clamp_min(0)
        return ((var + squared) / old_var + (old_var + squared) / var) / 4 - 0.5


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The norms of a model that normalise by running statistics."""
    modules = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)]
    return [_BatchNorm(module) for module in modules if module.running_mean is not None]


@contextmanager
def _measuring(norms: list[_BatchNorm], share: float | None = None) -> Iterator[None]:
    """Measure the inputs of norms; with `share`, also normalise each batch by that share of its own statistics.

    A norm's input depends on all norms before it. Moved one batch after the other, each norm sees inputs that the
    moved ones before it have made; statistics that were measured all at once under the old ones would not fit.
    """

    def hook(norm: _BatchNorm):
        def before_forward(_module, inputs) -> None:
            mean, var = norm.see(inputs[0])
            if share is not None:
                norm.move(mean, var, share)

        return before_forward

    for norm in norms:
        norm.restart()
    handles = [norm.module.register_forward_pre_hook(hook(norm)) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shift(norms: list[_BatchNorm]) -> float:
    r"""Shift of the norms' statistics, at least 0.

    It is the mean over the last norms of

    $$\mathrm{median}_c \; \tfrac12 \left(KL(p_c \| q_c) + KL(q_c \| p_c)\right)$$

    where p_c and q_c are the Gaussians with old and new mean and variance of channel c.
    """
    last = norms[-max(1, round(LAST_NORMS * len(norms))) :]
    return float(np.mean([norm.shift().median().item() for norm in last])) if last else 0.0


def _effective_number(shares: Tensor) -> float:
    """Number of types that would have this entropy if all were as frequent (Hill 1973)."""
    return torch.special.entr(shares.double()).sum().exp().item()


@torch.no_grad()
def _classify(model: PreTrainedModel, crops: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (N, D), novelty (N,) and probabilities (N, K) of crops (N, C, H, W), float32 on the CPU."""
    parts = []
    for batch in crops.tensor_split(-(-len(crops) // _BATCH)):
        outputs = model(batch.to(model.device, model.dtype))
        columns = (outputs.embeddings.float(), outputs.novelty.float(), outputs.logits.float().softmax(-1))
        parts.append([column.cpu() for column in columns])
    embeddings, novelty, probabilities = map(torch.cat, zip(*parts, strict=True))
    return embeddings, novelty, probabilities


# --- Head and threshold ---


@torch.no_grad()
def _adapt_head(model: PreTrainedModel, embeddings: Tensor, classes: Tensor, types: list[str]) -> dict:
    """Move class centres and head by labelled crops; return what is to be kept in `config.adaptation`."""
    known = classes != _UNKNOWN
    embeddings, classes = embeddings[known], classes[known]
    counts = torch.bincount(classes, minlength=len(types)).tolist()
    record: dict = {
        "labels": {name: count for name, count in zip(types, counts, strict=True) if count},
        "head_moved": False,
        "right_of_labelled": None,
    }
    if not len(classes):
        return record
    centers = model.center_loss.centers
    centers.copy_(shrink_centers(centers, embeddings, classes))
    if len(record["labels"]) > 1:  # cells of one type do not tell it from others
        head = next(module for module in model.classifier.modules() if isinstance(module, nn.Linear))
        weight, bias, before, after = fit_head(head.weight, head.bias, embeddings, classes, model.config.temperature)
        record["right_of_labelled"] = {"before": before, "after": after}
        record["head_moved"] = after > before
        if after > before:
            head.weight.copy_(weight)
            head.bias.copy_(bias)
    return record


def _adapt_threshold(model: PreTrainedModel, old_novelty: Tensor, novelty: Tensor) -> dict:
    """Raise the OOD threshold as far as the lab's crops need it; return what is to be kept in `config.adaptation`."""
    old = model.config.max_novelty
    if old is not None:
        needed = novelty.double().quantile(KNOWN_SHARE, interpolation="higher").item()
        most = getattr(model.config, "max_smear_novelty", None) or MAX_GROWTH * old
        model.config.max_novelty = max(old, min(needed, most))
    shares = (
        None if threshold is None else (values <= threshold).double().mean().item()
        for threshold, values in ((old, old_novelty), (model.config.max_novelty, novelty))
    )
    return {
        "max_novelty": {"before": old, "after": model.config.max_novelty},
        "known": dict(zip(("before", "after"), shares, strict=True)),
    }


__all__ = ["MAX_CROPS", "MAX_GROWTH", "PRIOR_CROPS", "adapt_model"]
