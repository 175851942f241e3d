"""Many images to fields: worker processes read images and find cells, this process classifies crops of several images.

The functions are those of `model.analyze`, which does the same in one process.
"""

import logging
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader, Dataset
from transformers.image_processing_utils import BatchFeature

from hub.files import dead_worker, one_line
from hub.inference.inputs import FAILED, Input, Reader
from modeling_wbc import Field, WBCImageProcessor
from modeling_wbc.field_wbc import Crop, classify_cells, classify_crops, find_cells

logger = logging.getLogger(__name__)

# Images that wait for a worker process, or for the network, for each of the workers: what bounds the memory.
_PREFETCH = 2

Numbered = tuple[int, Input]


def analyze_inputs(
    model, inputs: Iterable[Numbered], workers: int, batch_size: int, keep_images: bool = False
) -> Iterator[tuple[int, Input, Field | None, Image.Image | None]]:
    """Read images, find their cells and classify these.

    At most `2 * workers` images are ahead of the network and one batch of crops waits for it: `inputs` is asked for
    the next image only when there is room.

    Args:
        model: A `WBCForImageClassification` in eval mode.
        inputs: The images, numbered in ascending order.
        workers: The number of worker processes; 0 reads in this process.
        batch_size: The number of crops that the network classifies at once.
        keep_images: Whether the images are wanted back.

    Yields:
        For each input in its order its number; itself without its source, with status and reason where it could not
        be read or analysed; its field, or None if it was not analysed; and the image, if it is wanted and could be
        read.

    Raises:
        Exception: One for which `dead_worker` has a line, if a worker process died.
    """
    reader = CellReader(model.image_processor_or_default().to_dict(), keep_images)
    classifier = _Classifier(model)
    waiting: deque[tuple[int, Input, Image.Image | None]] = deque()

    def cells() -> Iterator[BatchFeature]:
        for number, item, found, image in load_cells(reader, inputs, workers):
            waiting.append((number, item, image))
            yield _NO_CELLS if found is None else _as_tensors(found)

    for field in classify_cells(cells(), model.config, classifier, batch_size):
        number, item, image = waiting.popleft()
        if (reason := classifier.failures.pop(id(field), None)) is not None:
            item.status, item.reason = FAILED, reason
        yield number, item, None if item.status else field, image


def load_cells(reader: "CellReader", inputs: Iterable[Numbered], workers: int) -> Iterator[tuple]:
    """Apply `reader` to inputs, in worker processes if there are any."""
    loader = DataLoader(
        reader,
        batch_size=None,
        sampler=inputs,
        num_workers=workers,
        prefetch_factor=_PREFETCH if workers else None,
        # With Python 3.14's default on Linux, workers would outlive a killed run.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
    )
    yield from loader


def _unchanged(result):
    return result


def _start_worker(number: int) -> None:
    """Have a worker process compute on one core: there are as many of them as there are cores for this."""
    threadpool_limits(1)
    torch.set_num_threads(1)


class CellReader(Dataset):
    """Inputs to cells: `reader[number, input]`; the result travels between processes as plain arrays.

    Tensors would go through shared memory, of which containers often have 64 MB.
    """

    def __init__(self, image_processor: dict[str, Any], keep_images: bool):
        self._config = image_processor
        self._keep_images = keep_images
        self._image_processor: WBCImageProcessor | None = None
        self._reader: Reader | None = None

    def __getitem__(self, numbered: Numbered) -> tuple[int, Input, dict | None, Image.Image | None]:
        if self._image_processor is None or self._reader is None:
            self._image_processor, self._reader = WBCImageProcessor.from_dict(self._config), Reader()
        number, item = numbered
        image = self._reader.read(item)
        item = replace(item, source=None)
        if image is None:
            return number, item, None, None
        if (pages := image.info.get("pages", 1)) > 1:
            item.reason = f"page 1 of {pages}"
        try:
            found = find_cells(self._image_processor, image)
        except Exception as error:  # whatever it is, the other images are still to be read
            item.status, item.reason = FAILED, f"{type(error).__name__}: {one_line(error)}"
            return number, item, None, image if self._keep_images else None
        arrays = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in found.items()}
        return number, item, arrays, image if self._keep_images else None


def _as_tensors(arrays: dict[str, Any]) -> BatchFeature:
    tensors = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in arrays.items()
    }
    return BatchFeature(tensors)


_NO_CELLS = BatchFeature(
    {
        "pixel_values": torch.zeros(0, 3, 1, 1),
        "boxes": torch.zeros(0, 4),
        "crop_boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "pages": 1,
    }
)


class _Classifier:
    """Classifies batches of crops; if one fails, crop by crop, so that the crops of other images keep their answers.

    Attributes:
        failures: Why the analysis of a field failed, by its `id`.
    """

    def __init__(self, model):
        self.model = model
        self.failures: dict[int, str] = {}

    def __call__(self, crops: list[Crop]) -> None:
        before = {id(crop.field): len(crop.field.cells) for crop in crops}
        try:
            classify_crops(self.model, crops)
        except Exception as error:
            self._note(error, crops[0].field if len(crops) == 1 else None)
            for crop in crops:
                del crop.field.cells[before[id(crop.field)] :]
            if len(crops) > 1:
                for crop in crops:
                    self([crop])
        for field in {id(crop.field): crop.field for crop in crops}.values():
            if not all(np.isfinite((cell.distance, cell.probabilities[cell.label])).all() for cell in field.cells):
                self.failures[id(field)] = "the network's output is not a finite number"

    def _note(self, error: Exception, field: Field | None) -> None:
        """Note why a field failed; an error of the worker processes is not its fault."""
        if dead_worker(error) is not None:
            raise error
        if field is None:
            logger.warning("classifying cells one by one, as classifying them together failed: %s", one_line(error))
        else:
            self.failures[id(field)] = f"{type(error).__name__}: {one_line(error)}"
