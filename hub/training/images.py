"""Rows of a data set as the network's input."""

import random
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from transformers.image_utils import ChannelDimension

from hub.files import UserError
from hub.training.augmentation import CellCrop


def foremost_cell(image_processor, image: Image.Image) -> Tensor:
    """The box (4,) float32 of an image's first cell, as `WBCImageProcessor.find_cells` gives it; zeros without one."""
    boxes, _ = image_processor.find_cells(image)
    return boxes[0] if len(boxes) else torch.zeros(4)


class CellImages(torch.utils.data.Dataset):
    """Rows of a `datasets.Dataset` as the model's input: `pixel_values` (3, H, W) float32 and `labels`, an int.

    The augmentation of a row is a function of seed, epoch and row alone, so that a resumed run sees the same images
    whatever the number of worker processes.

    Where the image processor finds cells, `augment` comes with the window, see `CellCrop`. Each image's foremost
    cell is looked for once, and not at all where the dataset has a column `foremost_cell`, as
    `foremost_cell` gives it. `stain` changes the images before anything else.
    """

    def __init__(self, dataset, image_processor, label_ids: list[int], augment=None, seed: int = 0, stain=None):
        self.dataset = dataset
        self.image_processor = image_processor
        self.labels = [label_ids[label] for label in dataset["label"][:]]
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        # Of each row's foremost cell, not a number before it is looked for: once, and for all worker processes.
        self.boxes = torch.full((len(dataset), 4), torch.nan).share_memory_()
        if "foremost_cell" in dataset.column_names:
            self.boxes[:] = torch.tensor(dataset["foremost_cell"][:])
        self.stain = stain

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def origins(self) -> list[str]:
        """The name of the data set that each row is from, one and the same where the column is missing."""
        return self.dataset["dataset"][:] if "dataset" in self.dataset.column_names else [""] * len(self)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        image: Image.Image = self.dataset[index]["image"].convert("RGB")
        find_cell = self.image_processor.do_find_cell
        with self._drawing(index):
            if self.stain is not None:
                image = v2.functional.to_pil_image(self.stain(image))
            box = self._box(image, index) if find_cell else torch.zeros(4)
            if box.any() and self.augment is None:
                (image,) = self.image_processor.crop(image, self.image_processor.crop_boxes(box[None]))
            elif box.any():
                image = CellCrop(self.image_processor, self.augment)(image, box)
            elif self.augment is not None:
                image = self.augment(image)
        # Said, since a window may be three pixels high and wide.
        form = {"input_data_format": ChannelDimension.FIRST} if isinstance(image, Tensor) else {}
        inputs = self.image_processor(image, do_find_cell=False, return_tensors="pt", **form)
        return {"pixel_values": inputs["pixel_values"][0], "labels": self.labels[index]}

    @contextmanager
    def _drawing(self, index: int):
        """Draws from torch's generator are a function of seed, epoch and row, and leave no trace."""
        with torch.random.fork_rng(devices=[]):
            # Not `torch.manual_seed`, which takes a millisecond to seed the accelerators too.
            torch.default_generator.manual_seed(random.Random(f"{self.seed} {self.epoch} {index}").getrandbits(63))
            yield

    def _box(self, image: Image.Image, index: int) -> Tensor:
        """The box of the image's foremost cell, or zeros where it has none."""
        if self.stain is not None:
            return foremost_cell(self.image_processor, image)
        if self.boxes[index].isnan().any():
            self.boxes[index] = foremost_cell(self.image_processor, image)
        return self.boxes[index]


def only_of(dataset, name: str):
    """The splits, with those for training and validation cut to the rows whose column `dataset` says `name`."""
    known = dataset["train"].unique("dataset") if "dataset" in dataset["train"].column_names else []
    if name not in known:
        raise UserError(f"--train_on names {name!r}; the column `dataset` of the training split has {known}.")
    cut = {}
    for split in {"train", "validation"} & set(dataset):
        (rows,) = np.nonzero(np.array(dataset[split]["dataset"][:]) == name)
        cut[split] = dataset[split].select(rows)
    return type(dataset)({**dataset, **cut})
