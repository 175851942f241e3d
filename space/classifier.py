"""The model of the Space, and its answers to images as plain values."""

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import cached_file

from space.backends import ONNX_FILES, place, use_backend
from space.jobs import CancelledError, Turns, check_cancelled
from space.texts import Text, text, type_name
from space.zero_gpu import ON_ZERO_GPU, analyze_on_gpu

logger = logging.getLogger(__name__)

# More than a fifth of the answers below this probability are wrong, if the probabilities are calibrated.
CONFIDENT = 0.8
_ADAPTING_CELLS = 1024  # of those without a correction, at most
# The remark of a cell that is that of a smear, but stained or lit unlike those of the training.
UNFAMILIAR_STAIN = "unfamiliar stain"


class Classifier:
    """A model of the Hub or of a folder.

    An answer to an image is a dictionary, ready for JSON (`docs/api.md` describes it to callers):

    - `file`: its name.
    - `status`: "sure", "doubtful" (a confidence below `CONFIDENT`), "unknown" (out of distribution), "empty" (no white
      cell detected) or "unreadable".
    - `label`, `confidence`, `probabilities`: those of the first known cell, or None without one.
    - `remark`: a short English text to show beside the label.
    - `width`, `height`: in pixels, or None if the image cannot be read.
    - `pages`: how many pages or frames the file has, of which the first is read, or None if it cannot be read.
    - `cells`: for each cell `box` and `window` (the crop), both as left, top, right and bottom in pixels; `label`,
      `confidence`, `probabilities`; `second`, the second most probable type; `known`, `novelty`, `focus`; `remark`,
      why the cell is unknown; `activation_map`, rows of the evidence for the label in each part of the crop; and
      `stage` of maturation and `attributes`, where the model tells them.

    Attributes:
        source: The folder or the Hub id.
        name: The name of the model to show, with the beginning of the SHA-256 of its weights. The place of a folder
            on the server is not public.
        labels: The cell types, in the order of the model's outputs.
        map_side: The side of a crop in cells of the activation map: its values lie at 0, 1, ... on either axis, and
            the crop ends at `map_side`.
    """

    def __init__(self, source: str, backend: str = "torch"):
        """Load a model and its image processor.

        Args:
            source: The folder or the Hub id.
            backend: What computes the network, one of `BACKENDS`.

        Raises:
            ValueError: if the model does not detect cells, or the backend has no file or package.
        """
        self.source = source
        self.name = _name(source)
        self.model = AutoModelForImageClassification.from_pretrained(source, trust_remote_code=True).eval()
        if not hasattr(self.model, "analyze"):
            raise ValueError(f"it is a {type(self.model).__name__}, which detects no cells in images")
        on_gpu = torch.cuda.is_available() and not ON_ZERO_GPU and backend not in ONNX_FILES
        place(self.model, torch.device("cuda" if on_gpu else "cpu"))
        use_backend(self.model, backend)
        self._loaded_model = self.model
        self.image_processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
        # The stride of the network's last feature map is 32 pixels.
        self.map_side = self.model.config.image_size / 32
        self.labels = [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]
        Turns().share(self.model)

    def results(self) -> dict | None:
        """Return the measured figures beside the weights, or None if there are none."""
        path = cached_file(self.source, "results.json", _raise_exceptions_for_missing_entries=False)
        return json.loads(Path(path).read_text(encoding="utf-8")) if path else None

    def answers(
        self, sources: Iterable[tuple[str, object]], preview_size: int, on_read: Callable[[], None] = lambda: None
    ) -> list[tuple[dict, Image.Image | None]]:
        """Analyse images together, or one by one if that fails, so that no image keeps the others from their answers.

        Args:
            sources: For each image its name, and what `fetch_images` of the image processor reads or the error that
                made the image unavailable.
            preview_size: The most pixels of a preview's longer side.
            on_read: Is called after each image, when its cells are found.

        Returns:
            For each image its answer, and a preview in RGB or None if it cannot be read or analysed.

        Raises:
            CancelledError: if the job that asks is cancelled.
        """
        sources = list(sources)
        try:
            return self._answers_together(sources, preview_size, on_read)
        except CancelledError:
            raise
        except Exception:
            logger.exception("analysing the images one by one, as analysing them together failed")
        answers = []
        for name, source in sources:
            try:
                answers += self._answers_together([(name, source)], preview_size)
            except CancelledError:
                raise
            except Exception:
                logger.exception("the analysis of an image failed")
                answers.append(self._read(name, ValueError("its analysis failed")))
        return answers

    def adapted(self, sources: Iterable[object], corrections: list[str | None]) -> "Classifier":
        """Return a classifier with a copy of the model that is adapted to images of one lab.

        Args:
            sources: The images, or the errors that made them unavailable.
            corrections: For each cell of these images the type that somebody gave it, or None.

        Raises:
            ValueError: if the images have another number of cells.
        """
        # What the adapting takes is bounded: all that were corrected, and of the others a part.
        step = -(-len(corrections) // _ADAPTING_CELLS)
        crops, labels, number = [], [], 0
        for source in sources:
            _, image = self._read("", source)
            for crop in () if image is None else self.image_processor.preprocess_cells(image)["pixel_values"]:
                label = corrections[number] if number < len(corrections) else None
                if label is not None or number % step == 0:
                    crops.append(crop)
                    labels.append(label)
                number += 1
        if number != len(corrections):
            raise ValueError(f"{len(corrections)} cells were answered, but the images have {number}")
        adapted = copy.copy(self)
        adapted.model = self.model.adapt(torch.stack(crops), labels)
        return adapted

    def _answers_together(
        self, sources: Iterable[tuple[str, object]], preview_size: int, on_read: Callable[[], None] = lambda: None
    ) -> list[tuple[dict, Image.Image | None]]:
        """Analyse images together; arguments and result as of `answers`."""
        answers = []

        def readable() -> Iterator[Image.Image]:
            # Keep one image in memory at a time, however many are analysed together.
            for name, source in sources:
                check_cancelled()
                answer, image = self._read(name, source)
                answers.append((answer, None if image is None else _preview(image, preview_size)))
                if image is not None:
                    yield image
                    del image
                on_read()

        # Another model in its place, such as an adapted one, is in this process alone.
        if ON_ZERO_GPU and self.model is self._loaded_model:
            fields = iter(analyze_on_gpu(self.source, list(readable())))
        else:
            fields = iter(self.model.analyze(readable(), self.image_processor))
        for answer, preview in answers:
            if preview is not None:
                _add_cells(answer, next(fields).cells)
        return answers

    def _read(self, name: str, source) -> tuple[dict, Image.Image | None]:
        """Return an answer without cells, and the image if it can be read."""
        answer: dict[str, Any] = {"file": name, "status": "unreadable", "label": None, "confidence": None}
        answer |= {"probabilities": None, "remark": "", "width": None, "height": None, "cells": []}
        answer["pages"] = None
        try:
            if isinstance(source, Exception):
                raise source
            image = self.image_processor.fetch_images(source)
        except (ValueError, MemoryError) as error:
            # The message names the file on the server, which is not the visitor's.
            read = source if isinstance(source, str) else "in memory"
            answer["remark"] = str(error).removeprefix(f"cannot read the image {read}: ") or "it is too large"
            return answer, None
        answer |= {"status": "empty", "width": image.width, "height": image.height}
        answer["pages"] = image.info.get("pages", 1)
        return answer, image


def _name(source: str) -> str:
    """Return the name of a model: its Hub id or the name of its folder, and which weights these are."""
    name = Path(source).name if Path(source).is_dir() else source
    weights = cached_file(source, "model.safetensors", _raise_exceptions_for_missing_entries=False)
    if weights is None:
        return name
    with open(weights, "rb") as file:
        return f"{name} (SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"


def _preview(image: Image.Image, size: int) -> Image.Image:
    preview = image.copy() if max(image.size) <= size else image.reduce(max(image.size) // size)
    preview.thumbnail((size, size))
    return preview


def _add_cells(answer: dict, cells: Iterable) -> None:
    answer["cells"] = [
        {
            "box": list(cell.box),
            # Published checkpoints of earlier releases call it `window`.
            "window": list(cell.crop_box if hasattr(cell, "crop_box") else cell.window),
            "label": cell.label,
            "confidence": cell.probabilities[cell.label],
            "probabilities": cell.probabilities,
            "second": next(iter(sorted(cell.probabilities, key=cell.probabilities.get, reverse=True)[1:]), None),
            "known": cell.known,
            "novelty": cell.novelty,
            # A checkpoint published earlier measures no focus.
            "focus": getattr(cell, "focus", None),
            "remark": getattr(cell, "remark", None),
            "activation_map": cell.activation_map,
            # Nor does it tell stages and attributes.
            "stage": getattr(cell, "stage", None),
            "attributes": getattr(cell, "attributes", {}),
        }
        for cell in cells
    ]
    known = [cell for cell in answer["cells"] if cell["known"]]
    if known:
        answer |= {key: known[0][key] for key in ("label", "confidence", "probabilities")}
        answer["status"] = status_of(known[0])
    elif answer["cells"]:
        answer["status"] = "unknown"
    answer["remark"] = remark(answer).en


def status_of(cell: dict) -> str:
    """Return "sure", "doubtful" or "unknown"."""
    if not cell["known"]:
        return "unknown"
    return "sure" if cell["confidence"] >= CONFIDENT else "doubtful"


def is_out_of_focus(cell: dict) -> bool:
    """Whether blur is a reason why a cell is unknown."""
    return (cell["remark"] or "").startswith("out of focus")


def first_known(answer: dict) -> int:
    """Return the index of the first known cell, or 0 without one."""
    return next((index for index, cell in enumerate(answer["cells"]) if cell["known"]), 0)


def candidates(cell: dict) -> list[str]:
    """Return the most probable type, and the second if it is at least half as probable."""
    first, second = sorted(cell["probabilities"], key=cell["probabilities"].get, reverse=True)[:2]
    close = cell["probabilities"][second] >= cell["probabilities"][first] / 2
    return [first, second] if close else [first]


def remark(answer: dict) -> Text:
    """Return a short text to show beside the type of an answer, which may be empty."""
    status, cells = answer["status"], answer["cells"]
    if status == "unreadable":
        return text("remark.unreadable", reason=answer["remark"])
    parts = []
    if status == "unknown" and is_out_of_focus(cells[0]):
        parts.append(text("remark.focus"))
    elif status == "unknown" and cells[0]["remark"] == UNFAMILIAR_STAIN:
        parts.append(text("remark.stain", type=type_name(cells[0]["label"])))
    elif status in ("empty", "unknown"):
        parts.append(text(f"remark.{status}"))
    elif status == "doubtful":
        names = [type_name(label) for label in candidates(cells[first_known(answer)])]
        if len(names) == 2:
            parts.append(text("remark.one_of_two", first=names[0], second=names[1]))
        else:
            parts.append(text("remark.doubtful"))
    if len(cells) > 1 and status not in ("empty", "unknown"):
        parts.append(text("remark.cells", count=len(cells)))
    if answer["pages"] > 1:
        parts.append(text("remark.pages", count=answer["pages"]))
    return Text("; ".join(part.en for part in parts), "; ".join(part.zh for part in parts))
