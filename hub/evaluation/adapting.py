"""What adapting to a lab brings: the figures of a classifier after `adapt`, with few labelled cells or none."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image
from torch import Tensor
from tqdm.auto import tqdm

from hub.data.columns import origins
from hub.evaluation.format import adaptation_table, text_table
from hub.evaluation.grouping import cluster_ids, sum_by
from hub.evaluation.labs import image_source, known_types
from hub.files import UserError, write_json
from modeling_wbc.few_shot_wbc import fit_head

# Labelled cells of each type, and how often they are drawn.
LABELS = (0, 1, 5, 10, 20)
DRAWS = 20
# Images of a lab at most: their crops are in memory at once.
MAX_IMAGES = 1000
_SPLITS_TRIED = 200
_BATCH = 32


def measure_adaptation(
    model,
    labs: Mapping[str, Dataset],
    output: str | os.PathLike | None = None,
    labels: Sequence[int] = LABELS,
    draws: int = DRAWS,
) -> dict:
    """Measure in each lab how a classifier reads one half of its images after it was adapted to the other half.

    No group (field, slide or patient) is in both halves. The crops of the foremost cells are cut once, the norms
    adapted once, to the first half without labels, and the embeddings computed once for norms that are kept and once
    for norms that are moved. Each draw then takes labelled cells of the first half and fits the head to them.

    Args:
        model: A `WBCForImageClassification`, on the device to use.
        labs: As for `hub.evaluation.labs.measure`. Of more than `MAX_IMAGES` images, as many are drawn.
        output: A folder, in which `adaptation.json` is written. Default: no file.
        labels: Numbers of labelled cells of each type; of a type with fewer in the first half, all are taken.
        draws: How often these are drawn, and their figures averaged.

    Returns:
        For each lab:

        - `images`, the number of those of known type that could be read; `adapted_to` and `measured_on`, the numbers
          of cells of the first half and of images of the second;
        - `shift`, `variety` and `norms_moved` as in `config.adaptation`;
        - the balanced accuracy over the lab's types on the second half, in [0, 1], an image without a cell being
          wrong: without labels in `norms`, with norms `kept` (the model as it is) and `moved`; and in `labels`, with
          norms as `adapt` leaves them, by the number of labels `mean`, `low` and `high`, the least and the greatest of
          the draws, and `head_moved`, the share of the draws in which the head moved;
        - `known`, the share of the second half's images with a cell within the OOD threshold, `before` and `after`.

    Raises:
        UserError: The model cannot be adapted or knows no type of a lab, no cell is found in the first half of its
            images, or all are of one group.
    """
    check_adaptable(model)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    results = {}
    for lab, images in labs.items():
        known, class_ids, _ = known_types(images, lab, names)
        drawn = np.sort(np.random.default_rng(0).permutation(len(known))[:MAX_IMAGES])
        known, class_ids = known.select(drawn), class_ids[drawn]
        crops, rows = _crops(model, known, lab)
        groups = cluster_ids(origins(known, "group"), class_ids)
        first = split_in_halves(class_ids[rows], groups[rows])
        if not (found := [number for number, row in enumerate(rows) if first[number] and crops[number] is not None]):
            raise UserError(f"no cell was found in the images of the lab {lab}; leave its data set out")
        if first.all():
            raise UserError(f"the images of the lab {lab} are of one group, so that none are left to measure on")
        results[lab] = _measure(model, crops, class_ids[rows], found, ~first, labels, draws)
    if output is not None:
        write_json(Path(output) / "adaptation.json", results)
    return results


def check_adaptable(model) -> None:
    """Raise `UserError` if a classifier is an adapted copy, or its code too old to adapt."""
    if not hasattr(model, "adapt"):
        raise UserError("the model was saved by an earlier version, which cannot adapt; export it again")
    if model.config.adaptation is not None:
        raise UserError("the model is an adapted copy; adapt the original")


def describe_adaptation(results: Mapping) -> str:
    """The result of `measure_adaptation` as a table in text, shares in percent."""
    title = "Balanced accuracy (%) after adapting to one half of a lab's images, on the other"
    return f"{title}\n{text_table(adaptation_table(results))}"


def split_in_halves(class_ids: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Split images into halves that share no group and have each type in numbers as equal as groups allow.

    Args:
        class_ids: The types of N images.
        groups: The numbers of their groups.

    Returns:
        Whether each image is in the first half, bool (N,): of random splits, the one whose rarest type in either half
        is the most frequent. A type of one group is in one half alone.
    """
    generator = np.random.default_rng(0)
    numbers, members = np.unique(groups, return_inverse=True)
    counts = sum_by(members, np.eye(class_ids.max() + 1)[class_ids])
    counts = counts[:, counts.any(axis=0)]
    tried = generator.permuted(np.tile(np.arange(len(numbers)) < len(numbers) / 2, (_SPLITS_TRIED, 1)), axis=1)
    of_first = tried @ counts
    rarest = np.sort(np.minimum(of_first, counts.sum(axis=0) - of_first), axis=1)
    best = np.lexsort(rarest.T[::-1])[-1]  # by the rarest type, then by the next
    return tried[best][members]


def _crops(model, images: Dataset, lab: str) -> tuple[list[Tensor | None], np.ndarray]:
    """The crop (3, H, W) of the foremost cell of each image that can be read, None without one; the images' rows."""
    processor = model.image_processor_or_default()
    encoded = images.select_columns(["image"]).cast_column("image", Image(decode=False))
    crops, rows = [], []
    for row, image in enumerate(tqdm(encoded["image"], desc=lab, unit="image", disable=None)):
        try:
            cells = processor.preprocess_cells(processor.fetch_images(image_source(image)))["pixel_values"]
        except ValueError:  # `hub.evaluation.labs.measure` has named it
            continue
        crops.append(cells[0] if len(cells) else None)
        rows.append(row)
    return crops, np.array(rows, dtype=int)


def _measure(
    model,
    crops: list[Tensor | None],
    class_ids: np.ndarray,
    found: list[int],
    second: np.ndarray,
    labels: Sequence[int],
    draws: int,
) -> dict:
    """The figures of a lab, adapted to the crops `found` and measured on the images `second`."""
    own = torch.stack([crop for number in found if (crop := crops[number]) is not None])
    adapted = model.adapt(own)
    record = adapted.config.adaptation
    other = model.adapt(own, move_norms=not record["norms_moved"])
    readings = {bool(each.config.adaptation["norms_moved"]): _Readings(each, crops) for each in (adapted, other)}
    chosen, types = readings[record["norms_moved"]], np.unique(class_ids)

    def accuracy(logits: Tensor) -> float:
        answers = types[logits.numpy()[:, types].argmax(axis=1)]
        right = (answers == class_ids) & chosen.found
        return float(np.mean([right[second & (class_ids == each)].mean() for each in np.unique(class_ids[second])]))

    of_labels = {}
    for number in labels:
        fitted = [
            chosen.fit_labels(_draw(class_ids, found, number, seed), class_ids)
            for seed in range(draws if number else 1)
        ]
        shares = [accuracy(logits) for logits, _ in fitted]
        moved = float(np.mean([is_moved for _, is_moved in fitted]))
        of_labels[str(number)] = {
            "mean": float(np.mean(shares)),
            "low": min(shares),
            "high": max(shares),
            "head_moved": moved,
        }
    return {
        "images": len(crops),
        "adapted_to": len(own),
        "measured_on": int(second.sum()),
        **{name: record[name] for name in ("shift", "variety", "norms_moved")},
        "norms": {"kept": accuracy(readings[False].logits), "moved": accuracy(readings[True].logits)},
        "labels": of_labels,
        "known": {
            "before": readings[False].known(second, model.config.max_novelty),
            "after": chosen.known(second, adapted.config.max_novelty),
        },
    }


def _draw(class_ids: np.ndarray, found: list[int], number: int, seed: int) -> list[int]:
    """Draw `number` of the cells `found` of each type, or all of a type with fewer."""
    generator = np.random.default_rng([seed, number])
    shuffled = generator.permutation(found)
    return [index for each in np.unique(class_ids) for index in shuffled[class_ids[shuffled] == each][:number]]


class _Readings:
    """What a model makes of crops: embeddings, logits and novelty of each, and whether there is a crop at all."""

    def __init__(self, model, crops: list[Tensor | None]):
        self.found = np.array([crop is not None for crop in crops])
        self._head = next(module for module in model.classifier.modules() if isinstance(module, torch.nn.Linear))
        self._temperature = model.config.temperature
        # Without a cell, an image is wrong and unknown, whatever stands here.
        self._embeddings = torch.zeros(len(crops), self._head.in_features)
        self.logits = torch.zeros(len(crops), self._head.out_features)
        self._novelty = np.full(len(crops), np.inf)
        for numbers in torch.from_numpy(np.flatnonzero(self.found)).split(_BATCH):
            batch = torch.stack([crop for number in numbers if (crop := crops[number]) is not None])
            with torch.no_grad():
                outputs = model(batch.to(model.device, model.dtype))
            self._embeddings[numbers] = outputs.embeddings.float().cpu()
            self.logits[numbers] = outputs.logits.float().cpu()
            self._novelty[numbers.numpy()] = outputs.novelty.float().cpu().numpy()

    def fit_labels(self, labelled: Sequence[int], class_ids: np.ndarray) -> tuple[Tensor, bool]:
        """Logits (N, C) after the head was fitted to labelled crops as `adapt` does, and whether it moved."""
        if not labelled:
            return self.logits, False
        labels = torch.from_numpy(class_ids[labelled])
        weight, bias, before, after = fit_head(
            self._head.weight, self._head.bias, self._embeddings[labelled], labels, self._temperature
        )
        if after <= before or len(labels.unique()) < 2:
            return self.logits, False
        return (self._embeddings.double() @ weight.T + bias).float() / self._temperature, True

    def known(self, images: np.ndarray, threshold: float | None) -> float:
        """The share of `images`, bool (N,), with a cell within the OOD threshold."""
        return float((self._novelty <= (np.finfo(float).max if threshold is None else threshold))[images].mean())
