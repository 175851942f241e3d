"""Analysis of whole images: the cells of a field, their differential count, and a picture of both."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from transformers import PreTrainedModel
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput

from .configuration_wbc import WBCConfig
from .focus_wbc import measure_focus
from .fonts_wbc import legible
from .image_processing_wbc import WBCImageProcessor
from .output_wbc import WBCImageClassifierOutput
from .reading_wbc import upright_rgb

# Classes of a model that a differential count of white cells leaves out.
_NOT_WHITE = ("erythroblast", "platelet")
NO_SMEAR, UNFAMILIAR_STAIN, OUT_OF_FOCUS = "no smear", "unfamiliar stain", "out of focus"
_UNKNOWN_COLOR = "#666666"
# Okabe and Ito's colours, distinct for colour-blind readers too, those first that contrast with the pinks and violets
# of a smear.
_COLORS = ("#0072b2", "#009e73", "#d55e00", "#000000", "#56b4e9", "#f0e442", "#e69f00", "#cc79a7")


@dataclass(repr=False)
class Cell:
    """One cell of an image.

    Attributes:
        box: left, top, right and bottom in pixels of the image.
        crop_box: the same of the crop that the network classified, which may reach beyond the image.
        score: the detector's score, in (0, 1], see [`WBCImageProcessor.find_cells`]; 1 for a whole image.
        label: the most probable type: a guess if the `remark` is "unfamiliar stain", otherwise meaningless unless
            `known`.
        probabilities: the probability of every type, summing to 1, in the order of the model's classes.
        distance: Euclidean distance of the cell's embedding to the nearest class centre.
        novelty: the OOD score of the crop, at least 0, see [`SmearNovelty`]; about 1 for images of the training
            distribution.
        known: whether `novelty` is at most the OOD threshold `config.max_novelty`, and `focus` at least
            `config.min_focus`.
        activation_map: rows of the contributions of each part of the crop to `label`, see
            [`WBCForImageClassification.class_activation_maps`].
        focus: ratio of fine to coarse detail of the crop, at least 0, see [`measure_focus`]; above 1 for most sharp
            cells.
        remark: why the cell is not `known`, "unfamiliar stain", "no smear", "out of focus", or two of them, see
            [`remark_on`]; None for a known cell.
        stage: the most probable stage of maturation among those of `label`; None where the model knows none of it.
        stage_probabilities: the probability of every stage of `label`, summing to 1; not calibrated.
        attributes: the most probable value of each attribute, by its name.
        attribute_probabilities: the probability of every value of each attribute, by its name; not calibrated.
    """

    box: tuple[float, float, float, float]
    crop_box: tuple[float, float, float, float]
    score: float
    label: str
    probabilities: dict[str, float]
    distance: float
    novelty: float
    known: bool
    activation_map: list[list[float]]
    focus: float | None = None
    remark: str | None = None
    stage: str | None = None
    stage_probabilities: dict[str, float] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    attribute_probabilities: dict[str, dict[str, float]] = field(default_factory=dict)

    def __repr__(self) -> str:
        left, top, right, bottom = (round(side) for side in self.box)
        reason = "" if self.known else f" unknown ({self.remark})," if self.remark else " unknown,"
        return (
            f"<Cell:{reason} {self.label} {self.probabilities[self.label]:.0%}, "
            f"box ({left}, {top}, {right}, {bottom}), novelty {self.novelty:.2f}"
            f"{'' if self.focus is None else f', focus {self.focus:.2f}'}>"
        )


@dataclass(repr=False)
class Field:
    """Cells of one image, the result of [`WBCForImageClassification.analyze`].

    Attributes:
        cells: the cells, in descending order of their score.
        labels: the model's types, in the order of its classes.
        pages: the number of pages or frames of the file, of which the first was analysed.
        stages: the stages of each type of which the model tells them, see [`WBCConfig.stages`].
    """

    cells: list[Cell]
    labels: tuple[str, ...]
    pages: int = 1
    stages: dict[str, list[str]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Number of known cells of each type."""
        found = [cell.label for cell in self.cells if cell.known]
        return {label: found.count(label) for label in self.labels}

    @property
    def stage_counts(self) -> dict[str, dict[str, int]]:
        """Number of known cells of each stage, by its type; their sum is the type's of `counts`."""
        found = [(cell.label, cell.stage) for cell in self.cells if cell.known]
        return {
            label: {stage: found.count((label, stage)) for stage in stages} for label, stages in self.stages.items()
        }

    @property
    def unknown(self) -> int:
        """Number of cells of an unfamiliar stain, of no smear or out of focus, which are not counted as any type."""
        return sum(not cell.known for cell in self.cells)

    @property
    def differential(self) -> dict[str, float]:
        """Differential count: the share, in [0, 1], of each type in the known white cells of the image.

        Erythroblasts and platelets are not white cells and are left out. Without any white cell, all shares are 0.
        """
        white = {label: count for label, count in self.counts.items() if label not in _NOT_WHITE}
        total = max(1, sum(white.values()))
        return {label: count / total for label, count in white.items()}

    def __repr__(self) -> str:
        counts = [f"{count} {label}" for label, count in self.counts.items() if count]
        if self.unknown:
            counts.append(f"{self.unknown} unknown")
        cells = f"{len(self.cells)} cell{'' if len(self.cells) == 1 else 's'}"
        return f"<Field: {cells}{': ' if counts else ''}{', '.join(counts)}>"

    def draw(self, image: Image.Image) -> Image.Image:
        """Draw each cell's box, type and probability, or the word "unknown", into a copy of the analysed image.

        The type of a cell of an unfamiliar stain, a guess, is drawn in grey and with a question mark. A type whose
        name has letters that no font at hand has is drawn as "class" and its index.

        Args:
            image: the analysed image, of any mode that [`WBCImageProcessor.fetch_images`] reads.

        Returns:
            An upright RGB image.
        """
        image = upright_rgb(image)
        pen = ImageDraw.Draw(image)
        unit = min(image.size) / 240
        size = max(10, 9 * unit)
        lettering = {
            label: legible(label, size, f"class {index}") for index, label in enumerate((*self.labels, "unknown"))
        }
        pad = max(2, round(1.5 * unit))
        # In ascending order of the score, so that the label of the highest lies on top.
        for cell in reversed(self.cells):
            color = _COLORS[self.labels.index(cell.label) % len(_COLORS)] if cell.known else _UNKNOWN_COLOR
            left, top, right, bottom = cell.box
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=max(1, pad))
            guessed = cell.remark == UNFAMILIAR_STAIN
            name, font = lettering[cell.label if cell.known or guessed else "unknown"]
            probability = f"{'?' if guessed else ''} {cell.probabilities[cell.label]:.0%}"
            text = f"{name}{probability}" if cell.known or guessed else name
            x0, y0, x1, y1 = pen.textbbox((0, 0), text, font=font)
            width, height = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
            # Above the box, or inside it at the upper edge of the image, and never beyond the right edge.
            x = max(0, min(left, image.width - width))
            y = top - height if top >= height else top
            pen.rectangle((x, y, x + width, y + height), fill=color)
            luma = sum(share * int(color[i : i + 2], 16) for share, i in ((0.3, 1), (0.59, 3), (0.11, 5)))
            pen.text((x + pad - x0, y + pad - y0), text, font=font, fill="black" if luma > 150 else "white")
        return image


@dataclass
class Crop:
    """A detected cell that is not classified yet.

    Attributes:
        field: the field it belongs to.
        box: as in [`Cell`].
        crop_box: as in [`Cell`].
        score: as in [`Cell`].
        pixel_values: (3, H, W) float32, the network's input.
    """

    field: Field
    box: list[float]
    crop_box: list[float]
    score: float
    pixel_values: Tensor


def analyze_images(
    model: PreTrainedModel,
    images: ImageInput | str | os.PathLike | Iterable,
    image_processor: WBCImageProcessor,
    batch_size: int,
) -> Field | list[Field]:
    """Find the white cells of images and classify them in batches that cells of several images share.

    Args:
        model ([`WBCForImageClassification`]): the classifier; the training mode of each of its modules is restored
            afterwards.
        images: as in [`WBCForImageClassification.analyze`].
        image_processor: the processor that reads images and finds cells.
        batch_size: number of cells that the network classifies at once.

    Returns:
        A [`Field`] for one image, a list of them for several.

    Raises:
        ValueError: if an image cannot be read; the message names the file.
    """
    one = is_one_image(images)
    several: Iterable = [images] if one else images  # type: ignore[assignment]
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        found = _find_all_cells(image_processor, several)
        fields = list(classify_cells(found, model.config, partial(classify_crops, model), batch_size))
    finally:
        for module in training:  # not `model.train()`: frozen norms may have been in eval mode
            module.training = True
    return fields[0] if one else fields


def is_one_image(images) -> bool:
    """Whether an argument of [`WBCForImageClassification.analyze`] is one image, not several."""
    # Of these, a path, bytes, a row of a data set and an array can be iterated, too.
    single = (str, bytes, bytearray, memoryview, Mapping, np.ndarray, Tensor)
    return isinstance(images, single) or hasattr(images, "read") or not isinstance(images, Iterable)


def find_cells(image_processor: WBCImageProcessor, image: ImageInput | str | os.PathLike) -> BatchFeature:
    """Read one image and find its cells: all that is done before the network, which worker processes may do.

    Args:
        image_processor: the processor that reads images and finds cells.
        image: as in [`WBCImageProcessor.fetch_images`].

    Returns:
        What [`WBCImageProcessor.preprocess_cells`] returns, and `pages`, as in [`Field`].

    Raises:
        ValueError: if the image cannot be read; the message names the file.
    """
    read = image_processor.fetch_images(image)
    cells = image_processor.preprocess_cells(read)
    cells["pages"] = read.info.get("pages", 1) if isinstance(read, Image.Image) else 1
    return cells


def _find_all_cells(image_processor: WBCImageProcessor, images: Iterable) -> Iterator[BatchFeature]:
    """Read images one at a time, and keep neither an image nor its cells while the next one is read."""
    for image in images:
        cells = [find_cells(image_processor, image)]
        del image
        yield cells.pop()


def classify_cells(
    images: Iterable[BatchFeature], config: WBCConfig, classify: Callable[[list[Crop]], None], batch_size: int
) -> Iterator[Field]:
    """Classify the cells of images in batches that cells of several images share.

    At most one batch of crops waits at a time, and the images are taken when their cells are wanted.

    Args:
        images: the cells of each image, as [`find_cells`] returns them.
        config: the classifier's configuration.
        classify: appends a [`Cell`] for each of at most `batch_size` crops to its field, as [`classify_crops`] does.
        batch_size: number of crops in a batch.

    Yields:
        The [`Field`] of each image, in their order, as soon as all of its cells are classified.
    """
    labels = tuple(config.id2label[index] for index in range(config.num_labels))
    stages = {label: names for label, names in config.active_stages.items() if label in labels}
    crops: list[Crop] = []
    fields: deque[Field] = deque()
    for cells in images:
        fields.append(Field([], labels, cells["pages"], stages))
        columns = (cells[key].tolist() for key in ("boxes", "crop_boxes", "scores"))
        for box, crop_box, score, pixel_values in zip(*columns, cells["pixel_values"], strict=True):
            crops.append(Crop(fields[-1], box, crop_box, score, pixel_values))
            if len(crops) == batch_size:
                classify(crops)
                crops.clear()
        del cells  # while its last crops wait for a full batch, the next image may be a large one
        waiting = crops[0].field if crops else None
        while fields and fields[0] is not waiting:
            yield fields.popleft()
    if crops:
        classify(crops)
    yield from fields


def remark_on(novelty: float, focus: float, config: WBCConfig) -> str | None:
    """Say why a cell is unknown.

    Args:
        novelty: its OOD score.
        focus: its focus, see [`measure_focus`].
        config: the configuration with the thresholds `max_novelty`, `max_smear_novelty` and `min_focus`, each of which
            may be None.

    Returns:
        "unfamiliar stain", where the most probable type is a guess; "no smear"; "out of focus"; "out of focus or" one
        of the others (blur makes a smear novel, too); or None for a known cell.
    """
    remarks = []
    if config.min_focus is not None and focus < config.min_focus:
        remarks.append(OUT_OF_FOCUS)
    if config.max_novelty is not None and novelty > config.max_novelty:
        is_smear = config.max_smear_novelty is not None and novelty <= config.max_smear_novelty
        remarks.append(UNFAMILIAR_STAIN if is_smear else NO_SMEAR)
    return " or ".join(remarks) or None


@torch.no_grad()
def classify_crops(model: PreTrainedModel, crops: list[Crop]) -> None:
    """Classify crops in one batch and append a [`Cell`] for each to its field.

    Args:
        model ([`WBCForImageClassification`]): the classifier, in eval mode.
        crops: at least one.
    """
    pixel_values = torch.stack([crop.pixel_values for crop in crops]).to(model.device, model.dtype)
    outputs = model(pixel_values, output_hidden_states=True)
    likeliest = outputs.logits.argmax(-1)
    maps = model.position_logits(outputs.hidden_states[-1])[torch.arange(len(crops)), likeliest]
    probabilities = outputs.logits.float().softmax(-1)
    columns = (probabilities, likeliest, outputs.distance, outputs.novelty, maps.float(), measure_focus(pixel_values))
    for number, (crop, row, index, distance, novelty, activation_map, focus) in enumerate(
        zip(crops, *(column.tolist() for column in columns), strict=True)
    ):
        labels, remark = crop.field.labels, remark_on(novelty, focus, model.config)
        stages, attributes = _stage_and_attributes(model.config, outputs, number, labels[index])
        cell = Cell(
            box=tuple(crop.box),
            crop_box=tuple(crop.crop_box),
            score=crop.score,
            label=labels[index],
            probabilities=dict(zip(labels, row, strict=True)),
            distance=distance,
            novelty=novelty,
            known=remark is None,
            activation_map=activation_map,
            focus=focus,
            remark=remark,
            stage=max(stages, key=stages.__getitem__, default=None),
            stage_probabilities=stages,
            attributes={name: max(values, key=values.__getitem__) for name, values in attributes.items()},
            attribute_probabilities=attributes,
        )
        crop.field.cells.append(cell)


def _stage_and_attributes(
    config: WBCConfig, outputs: WBCImageClassifierOutput, number: int, label: str
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The probability of each stage of a type, and of each value of each attribute, of one image of a batch."""

    def probabilities(names: list[str], logits: Tensor) -> dict[str, float]:
        return dict(zip(names, logits.float().softmax(-1).tolist(), strict=True))

    stages, first = {}, 0
    for owner, names in config.active_stages.items():
        if owner == label:
            stages = probabilities(names, outputs["stage_logits"][number, first : first + len(names)])
        first += len(names)
    attributes = {
        name: probabilities(values, outputs["attribute_logits"][name][number])
        for name, values in config.active_attributes.items()
    }
    return stages, attributes
