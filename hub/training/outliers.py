"""What the OOD score is fitted to: cells under other stains, what lies beside cells, and pictures of no smear."""

import random

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from transformers.image_utils import ChannelDimension

from hub.training.images import CellImages
from hub.training.views import mix_stains_of_images, vary_camera
from modeling_wbc import WBCImageProcessor
from modeling_wbc.illumination_wbc import BACKGROUND
from modeling_wbc.reading_wbc import read_image

# The side of a crop beside cells, in sides of the crop around the image's foremost cell: the detector takes platelets
# and smudges for cells, of which the crops are smaller.
_SIDES = (0.35, 1.0)
# The middle part of the crop around a cell, in sides of it, which a crop beside cells leaves out.
_KEPT_CLEAR = 0.75
_TRIES = 40
_LEAVES_SIZE = (240, 180)  # of a picture of dead leaves, in pixels


class Restained(torch.utils.data.Dataset):
    """Rows of `CellImages` under other stains: the crops are those of the images as they are, their colours change.

    The change of a row depends on the seed of the images and the row alone.

    Args:
        images: The rows, without augmentation.
        camera: Whether other cameras take them, too, see `hub.training.views.vary_camera`.
    """

    def __init__(self, images: CellImages, camera: bool = False):
        self.images = images
        self.camera = camera

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        row = self.images[index]
        return row | {
            "pixel_values": restain(row["pixel_values"], self.images.image_processor, self._seed(index), self.camera)
        }

    def _seed(self, index: int) -> int:
        return random.Random(f"{self.images.seed} restain {index}").getrandbits(63)


def restain(pixel_values: Tensor, image_processor: WBCImageProcessor, seed: int, camera: bool = False) -> Tensor:
    """Change the stains of a normalised crop at random.

    Args:
        pixel_values: (3, H, W) float32, as `image_processor` returns them.
        image_processor: Tells how the crop was normalised.
        seed: The same seed gives the same change.
        camera: Whether to change what a camera makes of it as well.

    Returns:
        (3, H, W) float32, normalised as before.
    """
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    image = pixel_values * std + mean
    generator = torch.Generator().manual_seed(seed)
    mixed = mix_stains_of_images(image[None], 1.0, generator)
    if camera:
        mixed = (vary_camera(mixed * (255 / BACKGROUND), generator) * (BACKGROUND / 255)).clamp(0, 1)
    return (mixed[0] - mean) / std


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
        return _outlier(processor, image, None if square is None else torch.from_numpy(square))


class DeadLeaves(torch.utils.data.Dataset):
    """What the detector takes for the foremost cell in drawings of discs and rectangles that cover one another.

    Such drawings have the edges and the sizes of natural images (the dead leaves of Lee, Mumford & Huang 2001), and
    networks learn from them in place of photographs (Baradad et al. 2021): they stand for all pictures of no smear.
    Rows are those of `CropsBesideCells`.

    Args:
        image_processor: Finds and crops cells.
        count: Number of drawings.
        seed: The same seed and row give the same drawing.
    """

    def __init__(self, image_processor: WBCImageProcessor, count: int, seed: int = 0):
        self.image_processor = image_processor
        self.count = count
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        drawing = draw_dead_leaves(np.random.default_rng([self.seed, index]))
        boxes, _ = self.image_processor.find_cells(drawing)
        square = self.image_processor.crop_boxes(boxes[:1])[0] if len(boxes) else None
        return _outlier(self.image_processor, drawing, square)


def draw_dead_leaves(rng: np.random.Generator) -> Image.Image:
    """Draw discs and rectangles of any colour over one another; areas follow a power law, as things in pictures do."""
    width, _ = _LEAVES_SIZE
    drawing = Image.new("RGB", _LEAVES_SIZE, tuple(rng.integers(0, 256, 3).tolist()))
    pen = ImageDraw.Draw(drawing)
    least = rng.uniform(4, 16)
    for _ in range(rng.integers(5, 120)):
        x, y = rng.uniform((0, 0), _LEAVES_SIZE)
        wide = min(least / max(1e-3, rng.random()) ** 0.5, 0.4 * width)
        high = wide * rng.uniform(0.5, 1)
        draw = pen.ellipse if rng.random() < 0.6 else pen.rectangle
        draw((x - wide, y - high, x + wide, y + high), tuple(rng.integers(0, 256, 3).tolist()))
    return drawing.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))


def _outlier(processor: WBCImageProcessor, image: Image.Image, square: Tensor | None) -> dict:
    """The row of a square (4,) of an image, as the network would be given a cell; one not found without a square."""
    if square is None:
        return {"pixel_values": torch.zeros(3, processor.size["height"], processor.size["width"]), "found": False}
    form = {"input_data_format": ChannelDimension.FIRST, "return_tensors": "pt"}
    form["do_correct_illumination"] = False  # which `crop` has done
    crops = processor.crop(image, square[None])
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
