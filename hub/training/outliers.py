"""What the OOD score is fitted to: cells as other labs show them, what lies beside cells, and pictures of no smear."""

import random

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from transformers.image_utils import ChannelDimension

from hub.training.crops import cut_out
from hub.training.images import CellImages
from hub.training.views import CellViews, mix_stains_of_images
from modeling_wbc import WBCImageProcessor
from modeling_wbc.reading_wbc import read_image

# The side of a crop beside cells, in sides of the crop around the image's foremost cell: the detector takes platelets
# and smudges for cells, of which the crops are smaller.
_SIDES = (0.35, 1.0)
# The middle part of the crop around a cell, in sides of it, which a crop beside cells leaves out.
_KEPT_CLEAR = 0.75
_TRIES = 40
_MIN_STRIP = 32  # pixels: a narrower strip of an image has no room for a cell
_LEAVES_SIZE = (240, 180)  # of a picture of dead leaves, in pixels


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
    mean, std = _normalization(image_processor)
    image = pixel_values * std + mean
    mixed = mix_stains_of_images(image[None], 1.0, torch.Generator().manual_seed(seed))
    return (mixed[0] - mean) / std


class OtherLabs(torch.utils.data.Dataset):
    """The foremost cells of `CellImages` as other labs may show them: random views as in training, see `CellViews`.

    Stain, camera, place and scale vary, and the surroundings: half of them are those of another row's cell. What is
    shown of a row depends on the seed of the images and the row alone.

    Args:
        images: The rows.
    """

    def __init__(self, images: CellImages):
        self.images = images
        self.views = CellViews(images.image_processor.size["height"], surroundings=1.0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        draw = random.Random(f"{self.images.seed} view {index}")
        crops = torch.stack([cut_out(self.images, row) for row in (index, draw.randrange(len(self)))])
        light = self.views(crops, torch.Generator().manual_seed(draw.getrandbits(63)))[0]
        mean, std = _normalization(self.images.image_processor)
        return {"pixel_values": (light - mean) / std} | self.images.targets(index)


def _normalization(image_processor: WBCImageProcessor) -> tuple[Tensor, Tensor]:
    mean, std = image_processor.image_mean, image_processor.image_std
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]


class CropsBesideCells(torch.utils.data.Dataset):
    """Crops of training images that show none of their cells, but red cells, platelets and background.

    The detector finds the cells; no annotation is needed. A row has `pixel_values` (3, H, W) float32 and `found`,
    whether there was such a crop; without one, as in an image in which no cell is found, `pixel_values` are 0.

    Args:
        images: The training images.
        detected: Whether the crops are those of what the detector finds where an image without its cells is searched,
            mostly platelets and red cells, as in a smear without white cells. Otherwise, they lie at random.
    """

    def __init__(self, images: CellImages, detected: bool = False):
        self.images = images
        self.detected = detected

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        processor = self.images.image_processor
        image = read_image(self.images.dataset[index]["image"])
        boxes, _ = processor.find_cells(image)
        square = None
        if len(boxes):
            crop_boxes = processor.crop_boxes(boxes).numpy()
            rng = np.random.default_rng(random.Random(f"{self.images.seed} beside {index}").getrandbits(63))
            if self.detected:
                square = detect_beside(processor, image, crop_boxes, rng)
            else:
                square = square_beside(crop_boxes, image.size, rng)
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
    middles = _middles(crop_boxes)
    for _ in range(_TRIES):
        side = min(rng.uniform(*_SIDES) * (crop_boxes[0, 2] - crop_boxes[0, 0]), *size)
        low = rng.uniform(0, np.subtract(size, side))
        square = np.concatenate((low, low + side))
        if _is_beside(square, middles):
            return square.astype(np.float32)
    return None


def detect_beside(
    processor: WBCImageProcessor, image: Image.Image, crop_boxes: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Detect something beside the cells of an image: in the strips to the left, right, top and bottom of all of them.

    Args:
        processor: Finds and crops cells. What is the most strongly stained of a strip is found there, if it is of the
            size of a nucleus, as nothing in it is as dark as one.
        image: An image with cells.
        crop_boxes: (N, 4), the squares around its N > 0 cells.
        rng: Draws one of several.

    Returns:
        The square around it, float32 (4,), which leaves out the middle of the crop around each cell; None without one.
    """
    middles = _middles(crop_boxes)
    (left, top), (right, bottom) = middles[:, :2].min(0), middles[:, 2:].max(0)
    width, height = image.size
    squares = []
    strips = ((0, 0, left, height), (right, 0, width, height), (0, 0, width, top), (0, bottom, width, height))
    for strip in np.clip(strips, 0, (width, height, width, height)).astype(int):
        if min(strip[2:] - strip[:2]) >= _MIN_STRIP:
            boxes, _ = processor.find_cells(image.crop(strip.tolist()))
            found = processor.crop_boxes(boxes).numpy() + np.tile(strip[:2], 2)
            squares += [square for square in found if _is_beside(square, middles)]
    return squares[rng.integers(len(squares))].astype(np.float32) if squares else None


def _middles(crop_boxes: np.ndarray) -> np.ndarray:
    """The middle parts (N, 4) of the crops around cells, of `_KEPT_CLEAR` of their sides."""
    middle = (crop_boxes[:, :2] + crop_boxes[:, 2:]) / 2
    half = _KEPT_CLEAR / 2 * (crop_boxes[:, 2:] - crop_boxes[:, :2])
    return np.concatenate((middle - half, middle + half), 1)


def _is_beside(square: np.ndarray, boxes: np.ndarray) -> bool:
    """Whether a square (4,) overlaps none of the boxes (N, 4)."""
    return bool(((square[2:] <= boxes[:, :2]) | (square[:2] >= boxes[:, 2:])).any(1).all())
