"""Augmentation of a batch of crops on any device: surroundings, place and scale, stain, camera.

Everything is drawn on the CPU from one generator and then moved to the device of the images, so that a CPU and a GPU
see the same views under the same seed.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from modeling_wbc.illumination_wbc import BACKGROUND
from modeling_wbc.stain_wbc import optical_density

MARGIN = 1.5  # side of a stored crop, in sides of the network's crop: surroundings for rotation, shift and zoom
_CELL_RADIUS = (0.32, 0.5)  # bounds of what stays when the surroundings change, in sides of the network's crop
_RESOLUTIONS = (0.35, 0.5, 0.7)  # of a blurred image

# JPEG's example table of quantisation for luminance, ITU-T T.81, Annex K.
_JPEG_TABLE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)


class CellViews:
    """Random views of stored crops: what the training of a lab-independent classifier shows.

    Args:
        size: Height and width S of a view in pixels.
        strength: Of the mixing of stains, see `mix_stains`; 0 leaves the stain alone.
        camera: Whether tones, blur, resolution, sharpness, noise and JPEG vary, too.
        shift: The largest shift of the crop, in its sides.
        zoom: Bounds of the factor on the crop's side, drawn log-uniformly.
        surroundings: Share of the views whose surroundings come from another crop, see `swap_surroundings`.
    """

    def __init__(
        self,
        size: int,
        strength: float = 1.0,
        camera: bool = True,
        shift: float = 0.1,
        zoom: tuple[float, float] = (0.75, 1.35),
        surroundings: float = 0.5,
    ):
        self.size = size
        self.strength = strength
        self.camera = camera
        self.shift = shift
        self.zoom = zoom
        self.surroundings = surroundings

    def __call__(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one view of each crop.

        Args:
            crops: (N, 3, P, P) uint8, `MARGIN` times as wide as the network's crop, of corrected illumination.
            generator: A generator of the CPU.

        Returns:
            (N, 3, S, S) float32, light in [0, 1].
        """
        if self.surroundings:
            crops = swap_surroundings(crops, self.surroundings, generator)
        light = self.place(crops, generator)
        if self.strength:
            light = mix_stains(light, self.strength, generator)
        if self.camera:
            light = vary_camera(light, generator)
        return (light * (BACKGROUND / 255)).clamp_(0, 1)

    def vary_normalized(self, light: Tensor, generator: torch.Generator) -> Tensor:
        """Change the stain of images again after a stain normaliser has brought it to that of the training.

        The normaliser undoes nearly all of the mixing of the training images and less of the stain of another lab. A
        classifier behind it would take the colours of the training for granted: here, it sees others, in steps from
        none to 1.5 times those of `mix_stains`, and every fifth image on the way to grey.

        Args:
            light: (N, 3, S, S) float32 in [0, 1].
            generator: A generator of the CPU.

        Returns:
            The same of the same shape.
        """
        if not self.strength:
            return light
        strength = 1.5 * self.strength * torch.rand(len(light), 1, 1, generator=generator)
        return mix_stains_of_images(light, strength, generator, grey_share=0.2)

    def place(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Flip, rotate, shift and zoom; returns light as a share of the background's, (N, 3, S, S) float32."""
        count, size = len(crops), self.size
        light = crops.float() / BACKGROUND
        if crops.shape[-1] > (largest := math.ceil(MARGIN * size)):
            light = F.interpolate(light, (largest, largest), mode="bilinear", antialias=True, align_corners=False)
        turn, flip, zoom, stretch, right, down = torch.rand(6, count, generator=generator)
        turn = 2 * math.pi * turn
        low, high = map(math.log, self.zoom)
        scale = torch.exp(low + (high - low) * zoom) / MARGIN
        stretch = torch.exp(0.1 * (2 * stretch - 1))
        wide, tall = scale * stretch, scale / stretch
        flip = torch.where(flip < 0.5, -1.0, 1.0)
        shift = 2 * self.shift / MARGIN * (2 * torch.stack((right, down)) - 1)
        cos, sin = turn.cos(), turn.sin()
        rows = torch.stack((cos * wide * flip, -sin * tall, shift[0], sin * wide * flip, cos * tall, shift[1]), 1)
        grid = F.affine_grid(rows.view(-1, 2, 3).to(crops.device), [count, 3, size, size], align_corners=False)
        # Outside of the stored crop lies the background, at 1.
        return F.grid_sample(light - 1, grid, mode="bilinear", align_corners=False) + 1


def swap_surroundings(crops: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Put cells into the surroundings of others: cut and paste with soft edges (Dwibedi et al. 2017).

    The red cells around a white cell tell the lab and the slide, and in small data sets a slide tells the type: a
    classifier that reads them is wrong in the next lab. What is near the middle of a crop stays, up to a radius drawn
    for each crop, and what is farther away comes from another crop of the batch, turned by a multiple of 90 degrees.

    Args:
        crops: (N, 3, P, P) of any real dtype, `MARGIN` times as wide as the network's crop.
        share: Of the crops that are changed, in [0, 1].
        generator: A generator of the CPU.

    Returns:
        (N, 3, P, P) float32.
    """
    count, size = len(crops), crops.shape[-1]
    chosen, radius, edge = torch.rand(3, count, generator=generator)
    others = torch.randperm(count, generator=generator)
    turns = int(torch.randint(4, (1,), generator=generator))
    low, high = _CELL_RADIUS
    # One number a crop goes to its device, and the masks are made there.
    chosen, radius, edge = (each.view(-1, 1, 1, 1).to(crops.device) for each in (chosen < share, radius, edge))
    radius = (low + (high - low) * radius) / MARGIN
    edge = (0.01 + 0.03 * edge) / MARGIN
    axis = (torch.arange(size, device=crops.device) + 0.5) / size - 0.5
    distance = torch.hypot(axis[:, None], axis[None])
    outside = ((distance - radius) / edge).sigmoid() * chosen
    light = crops.float()
    return torch.lerp(light, light[others.to(crops.device)].rot90(turns, (2, 3)), outside)


def stain_mixtures(
    count: int, strength: float | Tensor, generator: torch.Generator, grey_share: float = 0.1
) -> Tensor:
    """Draw mixtures of the three densities of light, as the stains and the cameras of other labs mix them.

    A lab's dyes absorb other shares of red, green and blue light, in other amounts, and a camera's channels overlap
    in another way; all of these change the optical density linearly (Ruifrok & Johnston 2001). Tellez et al. 2018
    vary the amounts of two fixed dyes; here, the whole matrix varies around the identity,

        M = diag(exp(0.25 s a)) (I + 0.25 s B), a and B drawn from N(0, 1),

    and a tenth of the mixtures are on the way to grey, as a camera of little colour, or none, sees them.

    Args:
        count: Number N of mixtures.
        strength: s, at least 0; a number or (N, 1, 1).
        generator: A generator of the CPU.
        grey_share: Share of the mixtures that are on the way to grey.

    Returns:
        (N, 3, 3) float32: row i is the new density of channel i in terms of the old ones.
    """
    amounts = torch.exp(0.25 * strength * torch.randn(count, 3, 1, generator=generator).clamp(-2, 2))
    cross = 0.25 * strength * torch.randn(count, 3, 3, generator=generator).clamp(-2, 2)
    grey = torch.rand(count, 1, 1, generator=generator) * (torch.rand(count, 1, 1, generator=generator) < grey_share)
    mixture = (1 - grey) * (torch.eye(3) + cross) + grey * torch.full((3, 3), 1 / 3)
    return amounts * mixture


def mix_stains(light: Tensor, strength: float | Tensor, generator: torch.Generator, grey_share: float = 0.1) -> Tensor:
    """Change the stain of images by random mixtures of their densities, see `stain_mixtures`.

    The background stays white, but for up to a twentieth of light in each channel, which the correction of the
    illumination may leave.

    Args:
        light: (N, 3, H, W) float32, as a share of the background's.
        strength: At least 0; 1 is what training shows; a number or (N, 1, 1).
        generator: A generator of the CPU.
        grey_share: Share of the images that lose colour.

    Returns:
        The same of the same shape, between 0 and 1.2.
    """
    mixtures = stain_mixtures(len(light), strength, generator, grey_share).to(light.device)
    most = 0.05 * torch.as_tensor(strength).clamp(max=1).view(-1, 1, 1, 1)
    cast = most * (2 * torch.rand(len(light), 3, 1, 1, generator=generator) - 1)
    mixed = torch.einsum("nij,njhw->nihw", mixtures, optical_density(light))
    return torch.exp(cast.to(light.device) - mixed).clamp(0, 1.2)


def mix_stains_of_images(
    images: Tensor, strength: float | Tensor, generator: torch.Generator, grey_share: float = 0.1
) -> Tensor:
    """`mix_stains` of images (N, 3, H, W) float32 in [0, 1] of corrected illumination; returns such images."""
    mixed = mix_stains(images * (255 / BACKGROUND), strength, generator, grey_share)
    return (mixed * (BACKGROUND / 255)).clamp(0, 1)


def vary_camera(light: Tensor, generator: torch.Generator) -> Tensor:
    """Show images (N, 3, H, W), light as a share of the background's, as other cameras do: each step changes some."""
    for change in (change_tones, blur, sharpen, add_noise, compress):
        light = change(light, generator)
    return light


def change_tones(light: Tensor, generator: torch.Generator) -> Tensor:
    """Give three tenths of the images the tone curve of another camera: stray light and contrast, white kept white.

    Stray light f adds to what passes the cell, f + (1 - f) L; contrast is the curve L + c L (1 - L) (2 L - 1), which
    rises everywhere for |c| < 1. Neither is linear in the density, as the mixing of stains is.
    """
    chosen, stray, contrast = torch.rand(3, len(light), 1, 1, 1, generator=generator)
    chosen = chosen < 0.3
    stray, contrast = ((each * chosen).to(light.device) for each in (0.15 * stray, 1.8 * contrast - 0.9))
    shown = light.clamp(max=1)
    curved = light + contrast * shown * (1 - shown) * (2 * shown - 1)
    return torch.lerp(curved, torch.ones_like(curved), stray)


def blur(light: Tensor, generator: torch.Generator) -> Tensor:
    """Take three tenths of the images to a lower resolution and back: a poorer lens, sensor or focus."""
    chosen, level = torch.rand(2, len(light), generator=generator)
    size, light = light.shape[-2:], light.clone()
    for number, factor in enumerate(_RESOLUTIONS):
        rows = ((chosen < 0.3) & ((level * len(_RESOLUTIONS)).long() == number)).nonzero()[:, 0].to(light.device)
        if len(rows):
            small = F.interpolate(light[rows], scale_factor=factor, mode="bilinear", antialias=True)
            light[rows] = F.interpolate(small, size, mode="bicubic", align_corners=False)
    return light


def sharpen(light: Tensor, generator: torch.Generator) -> Tensor:
    """Sharpen three tenths of the images by an unsharp mask of up to twice the detail, as cameras do."""
    chosen, amount = torch.rand(2, len(light), 1, 1, 1, generator=generator)
    amount = (2 * amount * (chosen < 0.3)).to(light.device)
    row = light.new_tensor([1, 4, 6, 4, 1]) / 16
    kernel = (row[:, None] * row).expand(light.shape[1], 1, 5, 5)
    smooth = F.conv2d(F.pad(light, (2, 2, 2, 2), mode="replicate"), kernel, groups=light.shape[1])
    return (light + amount * (light - smooth)).clamp(0, 1.2)


def add_noise(light: Tensor, generator: torch.Generator) -> Tensor:
    """Add white noise of a deviation of up to 0.05 to three tenths of the images."""
    chosen, deviation = torch.rand(2, len(light), generator=generator)
    noise = torch.randn(light.shape, generator=generator).to(light.device)
    return light + noise * (0.05 * deviation * (chosen < 0.3)).view(-1, 1, 1, 1).to(light.device)


def compress(light: Tensor, generator: torch.Generator) -> Tensor:
    """Quantise three tenths of the images as JPEG of quality 20 to 90 does, all channels by the luminance's table."""
    chosen, quality = torch.rand(2, len(light), generator=generator)
    rows = (chosen < 0.3).nonzero()[:, 0]
    if not len(rows) or light.shape[-1] % 8 or light.shape[-2] % 8:
        return light
    quality = 20 + 70 * quality[rows]
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    table = torch.tensor([float(value) for value in _JPEG_TABLE.split()]).view(8, 8)
    step = (scale[:, None, None] * table).clamp(min=1).view(-1, 1, 1, 1, 8, 8) / 255
    k = torch.arange(8.0)
    dct = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / 16) / 2
    dct[0] /= math.sqrt(2)
    dct, step, rows = dct.to(light.device), step.to(light.device), rows.to(light.device)
    count, channels, height, width = light[rows].shape
    blocks = light[rows].view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = torch.round((dct @ blocks @ dct.T) / step) * step
    light = light.clone()
    light[rows] = (dct.T @ coefficients @ dct).transpose(3, 4).reshape(count, channels, height, width)
    return light


def to_pixel_values(light: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] as `pixel_values`, normalised by ImageNet's mean and deviation."""
    mean, deviation = _statistics(light)
    return (light - mean) / deviation


def to_light(pixel_values: Tensor) -> Tensor:
    """The inverse of `to_pixel_values`."""
    mean, deviation = _statistics(pixel_values)
    return pixel_values * deviation + mean


def _statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    mean, deviation = (images.new_tensor(each).view(3, 1, 1) for each in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return mean, deviation
