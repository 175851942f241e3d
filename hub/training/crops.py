"""Training images as crops that are cut out once, kept in a file and augmented in batches on the device."""

import ast
import hashlib
import inspect
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import config as datasets_config
from torch import Tensor
from torchvision.transforms import v2
from tqdm.auto import tqdm

from hub.training.images import CellImages, foremost_cell
from hub.training.views import MARGIN
from modeling_wbc import detection_wbc, illumination_wbc
from modeling_wbc.reading_wbc import read_image

logger = logging.getLogger(__name__)

STORED_SIZE = 192  # pixels of a stored crop, so that 128 of them show the network's crop


class CropImages(CellImages):
    """Training images as stored crops: `pixel_values` (3, P, P) uint8, P being `STORED_SIZE`.

    The foremost cell of each image is cut out once, `MARGIN` times as wide as the network's crop, at one size for all
    image sizes, and kept in a memory-mapped file, which later trainings on the same images find again. An image
    without a cell is kept whole. Labels, stages and attributes are those of [`CellImages`].

    Args:
        folder: Where the files are kept. Default: beside the cache of `datasets`.
        *args: Those of `CellImages`.
        **kwargs: Likewise.
    """

    def __init__(self, *args: Any, folder: str | os.PathLike | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.folder = Path(folder or Path(datasets_config.HF_DATASETS_CACHE, "wbc_crops"))
        self.crops: np.ndarray | None = None

    @property
    def path(self) -> Path:
        """The file of the crops; its name tells the images, the processor and the code that cut them."""
        settings = ("do_correct_illumination", "do_find_cell", "window_size", "window_unit")
        processor = [getattr(self.image_processor, name) for name in settings]
        parts = (self.dataset._fingerprint, processor, STORED_SIZE, MARGIN)
        # Without comments, which cut nothing out in another way.
        code = [ast.unparse(ast.parse(inspect.getsource(module))) for module in (detection_wbc, illumination_wbc)]
        return self.folder / f"{hashlib.sha256(f'{parts}{code}'.encode()).hexdigest()[:16]}.npy"

    def store(self, workers: int = 0) -> None:
        """Cut out the crops that are not stored yet.

        Args:
            workers: Worker processes that read images.

        Raises:
            ImageReadError: An image cannot be read; the message names it.
        """
        if not self.path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(f".{os.getpid()}.part")
            shape = (len(self), 3, STORED_SIZE, STORED_SIZE)
            crops = np.lib.format.open_memmap(part, "w+", np.uint8, shape)
            loader = torch.utils.data.DataLoader(_Cutter(self), batch_size=64, num_workers=workers)
            first = 0
            for batch in tqdm(loader, desc="Cutting out cells", unit="batch", disable=None):
                crops[first : first + len(batch)] = batch.numpy()
                first += len(batch)
            crops.flush()
            part.replace(self.path)
            logger.info(f"{len(self)} crops are kept in {self.path}")
        self.crops = np.load(self.path, mmap_mode="r")

    def __getitem__(self, index: int) -> dict:
        if self.crops is None:
            self.store()
        assert self.crops is not None
        return {"pixel_values": torch.from_numpy(self.crops[index].copy())} | self.targets(index)


def cut_out(images: CellImages, index: int) -> Tensor:
    """The stored crop (3, P, P) uint8 of one image, see [`CropImages`], read anew."""
    processor = images.image_processor
    image = read_image(images.dataset[index]["image"])
    if images.boxes[index].isnan().any():
        images.boxes[index] = foremost_cell(processor, image)
    box = images.boxes[index]
    if box.any():
        square = processor.crop_boxes(box[None])
    else:
        width, height = image.size
        side = max(width, height)
        square = torch.tensor([[width - side, height - side, width + side, height + side]]) / 2
    middle, half = (square[:, :2] + square[:, 2:]) / 2, MARGIN * (square[:, 2:] - square[:, :2]) / 2
    (crop,) = processor.crop(image, torch.cat((middle - half, middle + half), 1))
    return v2.functional.resize(crop, [STORED_SIZE, STORED_SIZE], antialias=True)


class _Cutter(torch.utils.data.Dataset):
    """The crops (3, P, P) uint8 of `CropImages`, cut out anew, for the workers of a loader."""

    def __init__(self, images: CropImages):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return cut_out(self.images, index)
