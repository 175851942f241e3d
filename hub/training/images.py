"""Rows of a data set as the network's input."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from PIL import Image
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.image_utils import ChannelDimension

from hub.data.columns import origins
from hub.files import UserError
from hub.training.augmentation import CellCrop
from hub.training.heads import head_ids
from modeling_wbc import WBCConfig, WBCImageProcessor
from modeling_wbc.reading_wbc import read_image


def foremost_cell(image_processor: WBCImageProcessor, image: Image.Image) -> Tensor:
    """The box (4,) float32 of an image's first cell, as `WBCImageProcessor.find_cells` gives it; zeros without one."""
    boxes, _ = image_processor.find_cells(image)
    return boxes[0] if len(boxes) else torch.zeros(4)


class CellImages(torch.utils.data.Dataset):
    """Rows of a `datasets.Dataset` as the model's input: `pixel_values` (3, H, W) float32 and `labels`, an int.

    For a model with the heads, also `stage_ids` and `attribute_ids`, int64 (A,), see `hub.training.heads.head_ids`.

    The augmentation of a row depends on seed, epoch and row alone, so that a resumed run sees the same images, with
    any number of worker processes.

    Where the image processor detects cells, the foremost cell of each image is detected once, or taken from the
    dataset's column `foremost_cell` (see `foremost_cell`); training images are cropped by `CellCrop`.

    Args:
        dataset: Rows with `image` and `label`, and optionally `lab`, `photograph` and `foremost_cell`.
        image_processor: Resizes and normalises the images, and detects and crops cells if `do_find_cell` is set.
        label_ids: The model's class id of each of the dataset's labels. Default: by their names in `config`.
        augment: Applied to training images; None for evaluation.
        seed: Seed of the augmentation.
        config: The configuration of the model. Without it, there are no `stage_ids` and `attribute_ids`.

    Raises:
        ValueError: Neither `label_ids` nor `config` is given.

    Attributes:
        boxes: (N, 4) float32, the box of the foremost cell of each row; NaN where it was not looked for yet.
        head_ids: `stage_ids` (N,) and `attribute_ids` (N, A) of all rows, as far as the model has the heads.
    """

    def __init__(
        self,
        dataset: Dataset,
        image_processor: WBCImageProcessor,
        label_ids: list[int] | None = None,
        augment: Callable | None = None,
        seed: int = 0,
        config: PreTrainedConfig | None = None,
    ):
        self.dataset = dataset.cast_column("image", ImageFeature(decode=False))  # `read_image` decodes
        self.image_processor = image_processor
        if label_ids is None:
            if config is None:
                raise ValueError("got neither label_ids nor config, which tell the model's class ids: give one")
            label_ids = [config.label2id[name] for name in dataset.features["label"].names]
        self.labels = [label_ids[label] for label in dataset["label"][:]]
        self.augment = augment
        self.seed = seed
        # Shared, as workers that outlive an epoch (`dataloader_persistent_workers`) hold copies of all else.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        # Shared, so that one worker process need not detect a cell that another one has detected.
        self.boxes = torch.full((len(dataset), 4), torch.nan).share_memory_()
        if "foremost_cell" in dataset.column_names:
            self.boxes[:] = torch.tensor(dataset["foremost_cell"][:])
        self.head_ids = head_ids(dataset, config) if isinstance(config, WBCConfig) else {}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the augmentation depends on."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """The epoch that the augmentation depends on."""
        return int(self._epoch)

    @property
    def origins(self) -> list[str]:
        """The lab of each row; the empty string where the column `lab` is missing."""
        return self.dataset["lab"][:] if "lab" in self.dataset.column_names else [""] * len(self)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        image = read_image(self.dataset[index]["image"])
        with self._seeded(index):
            image, is_crop = self._view(image, index)
        # Named explicitly, since a crop of three pixels' height and width would be ambiguous.
        form = {"input_data_format": ChannelDimension.FIRST} if isinstance(image, Tensor) else {}
        if is_crop:  # its illumination is corrected
            form["do_correct_illumination"] = False
        inputs = self.image_processor(image, do_find_cell=False, return_tensors="pt", **form)
        return {"pixel_values": inputs["pixel_values"][0]} | self.targets(index)

    def targets(self, index: int) -> dict:
        """What a row has beside `pixel_values`."""
        return {"labels": self.labels[index]} | {name: ids[index] for name, ids in self.head_ids.items()}

    def _view(self, image: Image.Image, index: int) -> tuple[Image.Image | Tensor, bool]:
        """Return the augmented crop of the foremost cell, or the augmented image without a cell, and which it is."""
        box = self._box(image, index) if self.image_processor.do_find_cell else torch.zeros(4)
        if not box.any():
            return (image if self.augment is None else self.augment(image)), False
        if self.augment is None:
            (crop,) = self.image_processor.crop(image, self.image_processor.crop_boxes(box[None]))
            return crop, True
        return CellCrop(self.image_processor, self.augment)(image, box), True

    @contextmanager
    def _seeded(self, index: int) -> Iterator[None]:
        """Seed torch's generator by seed, epoch and row, and restore its state afterwards."""
        with torch.random.fork_rng(devices=[]):
            # Not `torch.manual_seed`, which takes a millisecond to seed the accelerators too.
            torch.default_generator.manual_seed(random.Random(f"{self.seed} {self.epoch} {index}").getrandbits(63))
            yield

    def _box(self, image: Image.Image, index: int) -> Tensor:
        """Return the box (4,) of the image's foremost cell, or zeros where no cell is found."""
        if self.boxes[index].isnan().any():
            self.boxes[index] = foremost_cell(self.image_processor, image)
        return self.boxes[index]


def only_of(dataset: DatasetDict, train_on: str | None = None, leave_out: str | None = None) -> DatasetDict:
    """Return the splits, with the rows for training and validation reduced to certain labs.

    Args:
        dataset: With a split `train`.
        train_on: The lab to keep, by its name in the column `lab`. Default: all.
        leave_out: The lab to leave out. Default: none.

    Raises:
        UserError: The training split has no such lab, or no row of a split remains.
    """
    kept = dict(dataset)
    if (train_on or leave_out) and "train" not in dataset:
        raise UserError("--train_on and --leave_out choose labs to train on, and the dataset has no split `train`.")
    for flag, lab, keeps in (("--train_on", train_on, np.equal), ("--leave_out", leave_out, np.not_equal)):
        if lab is None:
            continue
        known = [name for name in dict.fromkeys(origins(dataset["train"], "lab")) if name is not None]
        if lab not in known:
            raise UserError(f"{flag} names {lab!r}; the column `lab` of the training split has {known}.")
        for split in {"train", "validation"} & set(dataset):
            (rows,) = np.nonzero(keeps(np.array(origins(kept[split], "lab"), dtype=object), lab))
            if not len(rows):
                raise UserError(f"{flag} {lab} leaves no image in the split {split}; name another lab.")
            kept[split] = kept[split].select(rows)
    return DatasetDict(kept)


def without_single_lab(dataset: DatasetDict) -> DatasetDict:
    """Return the splits, without the column `lab` if all are of one: its figures would repeat those of the whole."""
    if len({name for split in dataset.values() for name in origins(split, "lab")}) > 1:
        return dataset
    return DatasetDict(
        {name: split.remove_columns(sorted({"lab"} & {*split.column_names})) for name, split in dataset.items()}
    )
