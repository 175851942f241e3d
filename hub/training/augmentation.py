"""Augmentation of training images: flips, rotations, stain and light, place and size of the crop."""

import math
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from modeling_wbc import WBCImageProcessor


class StainJitter:
    """Change the stain and the light of a smear image at random, as they differ between labs.

    The image is taken to optical density, which is the amount of stain times its colour (Beer and Lambert), and split
    into haematoxylin, eosin and diaminobenzidine (Ruifrok & Johnston 2001); the dyes of blood smears are close to
    mixtures of these. Each amount is multiplied by a factor drawn uniformly from 1 - `stain` to 1 + `stain`
    (Tellez et al. 2018), and the light of each channel by exp(u), u drawn uniformly from -`light` to `light`.
    Draws from torch's generator.

    Args:
        stain: The largest relative change of an amount of stain, in [0, 1].
        light: The largest change of the logarithm of the light, at least 0.
    """

    # Rows: absorption of red, green and blue light by each stain.
    colors = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])

    def __init__(self, stain: float = 0.3, light: float = 0.05):
        self.stain = stain
        self.light = light
        self.amounts = torch.linalg.inv(self.colors)

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Return the changed image, uint8 (3, H, W), of a PIL image or a uint8 tensor (3, H, W)."""
        pixels = v2.functional.to_image(image)
        density = -torch.log((pixels.float() + 1) / 256).flatten(1)  # (3, H * W)
        factors = 1 + self.stain * (2 * torch.rand(3) - 1)
        light = self.light * (2 * torch.rand(3, 1) - 1)
        mixed = (self.amounts * factors) @ self.colors  # (3, 3), from densities to densities
        jittered = 256 * torch.exp(light - mixed.T @ density) - 1
        return jittered.clamp(0, 255).round().to(torch.uint8).reshape(pixels.shape)


_FLIPS_AND_ROTATIONS = (
    v2.RandomHorizontalFlip(),
    v2.RandomVerticalFlip(),
    v2.RandomRotation(180, interpolation=InterpolationMode.BILINEAR),
)
# The choices of `--augment`. The paper flips and rotates, and keeps scale and colour, because the size and the
# intensity of the nucleus distinguish the classes.
AUGMENTATIONS = {
    "none": None,
    "paper": v2.Compose(_FLIPS_AND_ROTATIONS),
    "strong": v2.Compose([*_FLIPS_AND_ROTATIONS, StainJitter()]),
}


class CellCrop:
    """Crop a training image around one of its cells, with random shift and zoom.

    The random shift and zoom make the classifier robust to errors of the detector: the crop is shifted by up to a
    tenth of its side and scaled by a factor of 0.75 to 1.35, drawn log-uniformly. `augment` is applied to a larger
    piece of the image, so that a rotation brings in the surroundings of the cell and no black corners. A piece that
    is much larger than the network's input is scaled down first. Draws from torch's generator.

    Args:
        image_processor: Defines the crop of a box and the size of the network's input.
        augment: Applied to a uint8 tensor (3, P, P), returns another one of the same shape.
    """

    shift = 0.1
    zoom = (0.75, 1.35)
    detail = 1.5  # largest side of the crop, in sides of the network's input

    def __init__(self, image_processor: WBCImageProcessor, augment: Callable[[Tensor], Tensor]):
        self.image_processor = image_processor
        self.augment = augment

    def __call__(self, image: Image.Image, box: Tensor) -> Tensor:
        """Return the crop, uint8 (3, S, S), around the cell in `box` (4,): left, top, right and bottom in pixels."""
        left, top, right, _ = self.image_processor.crop_boxes(box[None])[0].tolist()
        x, y, size = (torch.rand(3, dtype=torch.float64) * 2 - 1).tolist()
        low, high = map(math.log, self.zoom)
        side = (right - left) * math.exp((low + high + size * (high - low)) / 2)
        x, y = (left + right) / 2 + self.shift * side * x, top + (right - left) / 2 + self.shift * side * y
        half = side * math.sqrt(2) / 2
        (piece,) = self.image_processor.crop(image, torch.tensor([[x - half, y - half, x + half, y + half]]))
        if side > (largest := self.detail * self.image_processor.size["height"]):
            side = largest
            piece = v2.functional.resize(piece, [math.ceil(side * math.sqrt(2))] * 2, antialias=True)
        return v2.functional.center_crop(self.augment(piece), [max(1, round(side))])
