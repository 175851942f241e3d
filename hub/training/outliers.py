"""What lies beside the cells of training images, and the cells under other stains: what the OOD score is fitted to."""

import random

import numpy as np
import torch
from torch import Tensor
from transformers.image_utils import ChannelDimension

from hub.training.images import CellImages
from hub.training.views import mix_stains
from modeling_wbc import WBCImageProcessor
from modeling_wbc.illumination_wbc import BACKGROUND
from modeling_wbc.reading_wbc import read_image

# The side of a crop beside cells, in sides of the crop around the image's foremost cell: the detector takes platelets
# and smudges for cells, of which the crops are smaller.
_SIDES = (0.35, 1.0)
# The middle part of the crop around a cell, in sides of it, which a crop beside cells leaves out.
_KEPT_CLEAR = 0.75
_TRIES = 40


class Restained(torch.utils.data.Dataset):
    """Rows of `CellImages` under other stains: the crops are those of the images as they are, their colours change.

    The change of a row depends on the seed of the images and the row alone.

    Args:
        images: The rows, without augmentation.
    """

    def __init__(self, images: CellImages):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        row = self.images[index]
        return row | {"pixel_values": restain(row["pixel_values"], self.images.image_processor, self._seed(index))}

    def _seed(self, index: int) -> int:
        return random.Random(f"{self.images.seed} restain {index}").getrandbits(63)


def restain(pixel_values: Tensor, image_processor: WBCImageProcessor, seed: int) -> Tensor:
    """Change the stains of a normalised crop at random.

    Args:
        pixel_values: (3, H, W) float32, as `image_processor` returns them.
        image_processor: Tells how the crop was normalised.
        seed: The same seed gives the same change.

    Returns:
        (3, H, W) float32, normalised as before.
    """
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    light = (pixel_values * std + mean) * (255 / BACKGROUND)
    mixed = mix_stains(light[None], 1.0, torch.Generator().manual_seed(seed))[0]
    return ((mixed * (BACKGROUND / 255)).clamp(0, 1) - mean) / std


class CropsBesideCells(torch.utils.data.Dataset):
    """Crops of training images that show none of their cells, but red cells, platelets and background.

    The detector finds the cells; no annotation is needed. A row has `pixel_values` (3, H, W) float32 and `found`,
    whether there was room beside the cells of the image; without, as in an image in which no cell is found,
    `pixel_values` are 0.

    Args:
        images: The training images.
    """

    def __init__(self, images: CellImages):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        processor = self.images.image_processor
        image = read_image(self.images.dataset[index]["image"])
        boxes, _ = processor.find_cells(image)
        square = None
        if len(boxes):
            crop_boxes = processor.crop_boxes(boxes).numpy()
            seed = random.Random(f"{self.images.seed} beside {index}").getrandbits(63)
            square = square_beside(crop_boxes, image.size, np.random.default_rng(seed))
        if square is None:
            return {"pixel_values": torch.zeros(3, processor.size["height"], processor.size["width"]), "found": False}
        crops = processor.crop(image, torch.from_numpy(square)[None])
        form = {"input_data_format": ChannelDimension.FIRST, "return_tensors": "pt"}
        form["do_correct_illumination"] = False  # which `crop` has done
        return {"pixel_values": processor(crops, do_find_cell=False, **form)["pixel_values"][0], "found": True}


def square_beside(crop_boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray | None:
    """Draw a square within an image that leaves out the middle of the crop around each cell.

    Args:
        crop_boxes: (N, 4), the squares around N > 0 cells, the foremost one first.
        size: Width and height of the image in pixels.
        rng: Draws place and side.

    Returns:
        Left, top, right and bottom, float32 (4,); None if there was no room in as many draws as are tried.
    """
    middle = (crop_boxes[:, :2] + crop_boxes[:, 2:]) / 2
    half = _KEPT_CLEAR / 2 * (crop_boxes[:, 2:] - crop_boxes[:, :2])
    for _ in range(_TRIES):
        side = min(rng.uniform(*_SIDES) * (crop_boxes[0, 2] - crop_boxes[0, 0]), *size)
        low = rng.uniform(0, np.subtract(size, side))
        if ((low + side <= middle - half) | (low >= middle + half)).any(1).all():
            return np.concatenate((low, low + side)).astype(np.float32)
    return None
