"""Augmentation of training images: flips, rotations, stain and light, place and size of the crop."""

import math

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from modeling_wbc import WBCImageProcessor


class StainJitter:
    """An image of a smear -> the same smear as another lab could have stained and lit it: a tensor (3, H, W), uint8.

    In optical density, which is the amount of stain times its colour (Beer and Lambert), the image is taken apart into
    haematoxylin, eosin and diaminobenzidine (Ruifrok & Johnston 2001), whose mixtures the dyes of blood smears are.
    The amount of each is multiplied by a factor between 1 - `stain` and 1 + `stain` (Tellez et al. 2018), and the
    light of each channel by one between exp(-`light`) and exp(`light`), all uniform but for the exponential. Draws
    from torch's generator.
    """

    # Rows: what each stain takes of red, green and blue light.
    colors = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])

    def __init__(self, stain: float = 0.3, light: float = 0.05):
        self.stain = stain
        self.light = light
        self.amounts = torch.linalg.inv(self.colors)

    def __call__(self, image) -> Tensor:
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
# What may be done to a training image. The paper rotates and flips, and changes neither scale nor colour, because the
# size and the intensity of the nucleus tell the classes apart.
AUGMENTATIONS = {
    "none": None,
    "paper": v2.Compose(_FLIPS_AND_ROTATIONS),
    "strong": v2.Compose([*_FLIPS_AND_ROTATIONS, StainJitter()]),
}
# What smears look like is told by images of them as many labs could have made them. Of PBC's four types, a
# model of BCCD alone keeps 2 % without this and 94 % with it; with more of it, red cells pass for white ones.
ANY_LAB = StainJitter(stain=0.5, light=0.12)


class CellCrop:
    """A training image -> the window around one of its cells, as the network sees it: a tensor (3, S, S).

    Place and size of the window vary, so that the classifier forgives the finder: it is shifted by up to a tenth of
    its side and zoomed by 0.75 to 1.35, log-uniformly. `augment` is applied to a larger piece, so that a rotation
    turns the cell's surroundings in and not black corners, and scaled down, where it is large, to what the network
    can see the details of. Draws from torch's generator.
    """

    shift = 0.1
    zoom = (0.75, 1.35)
    detail = 1.5  # pixels of the piece for each of the network's input

    def __init__(self, image_processor: WBCImageProcessor, augment):
        self.image_processor = image_processor
        self.augment = augment

    def __call__(self, image: Image.Image, box: Tensor) -> Tensor:
        """The window around the cell in `box` (4,): left, top, right and bottom in pixels."""
        left, top, right, _ = self.image_processor.crop_boxes(box[None])[0].tolist()
        x, y, size = (torch.rand(3, dtype=torch.float64) * 2 - 1).tolist()
        low, high = map(math.log, self.zoom)
        side = (right - left) * math.exp((low + high + size * (high - low)) / 2)
        x, y = (left + right) / 2 + self.shift * side * x, top + (right - left) / 2 + self.shift * side * y
        half = side * math.sqrt(2) / 2
        (piece,) = self.image_processor.crop(image, torch.tensor([[x - half, y - half, x + half, y + half]]))
        if side > (seen := self.detail * self.image_processor.size["height"]):
            side = seen
            piece = v2.functional.resize(piece, [math.ceil(side * math.sqrt(2))] * 2, antialias=True)
        return v2.functional.center_crop(self.augment(piece), [max(1, round(side))])
