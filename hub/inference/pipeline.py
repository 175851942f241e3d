"""Many images to fields: worker processes read images and find cells, this process classifies crops of several images.

The functions are those of `model.analyze`, which does the same in one process.
"""

import logging
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
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

# Images that wait for each of the worker processes, or lie ready there: what bounds the memory.
_PREFETCH = 2
_PATIENCE = 10.0  # seconds for the image that is read when the work is broken off

Numbered = tuple[int, Input]


def analyze_inputs(
    model, inputs: Iterable[Numbered], workers: int, batch_size: int, keep_images: bool = False
) -> Iterator[tuple[int, Input, Field | None, Image.Image | None]]:
    """Read images, find their cells and classify these.

    While the network computes a batch, worker processes go on until the next one is there. So at most one batch of
    crops, or of images without cells, waits for the network beside that in which crops are gathered, and with them
    `2 * workers` images: `inputs` is asked for the next image only when there is room.

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

    def cells() -> Generator[BatchFeature, None, None]:
        with closing(load_cells(reader, inputs, workers, batch_size)) as loaded:
            for number, item, found, image in loaded:
                waiting.append((number, item, image))
                yield _NO_CELLS if found is None else _as_tensors(found)

    with closing(cells()) as found:
        for field in classify_cells(found, model.config, classifier, batch_size):
            number, item, image = waiting.popleft()
            if (reason := classifier.failures.pop(id(field), None)) is not None:
                item.status, item.reason = FAILED, reason
            yield number, item, None if item.status else field, image


def load_cells(
    reader: "CellReader", inputs: Iterable[Numbered], workers: int, batch_size: int
) -> Generator[tuple, None, None]:
    """Apply `reader` to inputs; if there are worker processes, ahead of the use by a batch of crops."""
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
    if not workers:
        yield from loader
        return
    # Workers start here: a process is not to be forked while a thread computes.
    with closing(_Ahead(iter(loader), batch_size)) as ahead:
        yield from ahead


class _Ahead:
    """Takes what `CellReader` found from an iterator in a thread, and waits when a batch of crops is there.

    Args:
        source: Yields the results of a `CellReader`.
        batch_size: The number of crops, or of images without any, to hold.
    """

    def __init__(self, source: Iterator[tuple], batch_size: int):
        self._source = source
        self._batch_size = batch_size
        self._held: deque[tuple[tuple, int]] = deque()
        self._size = 0
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        try:
            for result in self._source:
                _, _, found, _ = result
                size = max(1, len(found["scores"])) if found else 1
                with self._changed:
                    self._held.append((result, size))
                    self._size += size
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._size < self._batch_size or self._closed)
                    if self._closed:
                        return
        except BaseException as error:  # whatever it is, it belongs to the thread that waits
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[tuple]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._held or self._ended)
                if not self._held:
                    break
                result, size = self._held.popleft()
                self._size -= size
                self._changed.notify_all()
            yield result
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread, and with it the worker processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_PATIENCE)


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
