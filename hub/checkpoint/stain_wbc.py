"""Stain normalisation: a small network brings the stain of each crop to that of the training."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .illumination_wbc import BACKGROUND

_LEAST_LIGHT = 1 / 255  # of the background's


def optical_density(light: Tensor) -> Tensor:
    """Minus the logarithm of light, as a share of the background's; of any shape."""
    return -light.clamp(min=_LEAST_LIGHT).log()


class StainNormalizer(nn.Module):
    r"""Mixes the optical densities of a crop so that its stain becomes one that the classifier was trained on.

    Dyes and camera channels of another lab change the density d = -log(light / background's light) of a pixel, a
    vector of three channels, by a matrix (Ruifrok & Johnston 2001). A convolutional network reads a thumbnail of the
    crop and estimates the matrix that undoes the change,

    $$d' = (I + A(\mathrm{thumbnail}))\, d.$$

    It is fitted without labels, to undo random changes of the training images, and frozen before the classifier is
    trained. New weights leave the image as it is.

    Args:
        size: Height and width of the thumbnail in pixels.
        width: Number of channels of the network.
    """

    def __init__(self, size: int = 32, width: int = 64):
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(
            nn.Conv2d(6, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
            nn.GELU(),
        )
        self.hidden = nn.Linear(3 * width, 2 * width)
        # No `nn.Linear`, which transformers would draw at random: new weights change nothing.
        self.mixture = nn.Parameter(torch.zeros(2 * width, 9))
        self.offset = nn.Parameter(torch.zeros(9))

    def reset_parameters(self) -> None:
        """Set the weights with which `forward` changes nothing; those of the layers are drawn as all others."""
        init.zeros_(self.mixture)
        init.zeros_(self.offset)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalise the stain of images.

        Args:
            pixel_values: (N, 3, H, W), of corrected illumination, normalised by ImageNet's mean and deviation.

        Returns:
            The same of the same shape and dtype.
        """
        mean, deviation = (
            torch.tensor(values, device=pixel_values.device).view(3, 1, 1)
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        # In float32: 16 bits have too few digits for the logarithm of bright light.
        light = (pixel_values.float() * deviation + mean) * (255 / BACKGROUND)
        density = optical_density(light)
        mixed = torch.einsum("nij,njhw->nihw", self.estimate(density), density)
        light = torch.exp(-mixed.clamp(-0.2, 6.0)) * (BACKGROUND / 255)
        return ((light - mean) / deviation).to(pixel_values.dtype)

    def estimate(self, density: Tensor) -> Tensor:
        """The matrices (N, 3, 3) float32 that bring densities (N, 3, H, W) to those of the training."""
        thumbnail = F.adaptive_avg_pool2d(density, self.size)
        # Where colours are near each other, their ratios tell the dye better than their amounts.
        share = thumbnail / (thumbnail.sum(1, keepdim=True).clamp(min=0) + 0.15)
        features = self.layers(torch.cat((thumbnail, share), 1).to(self.mixture.dtype))
        pooled = torch.cat((features.mean((2, 3)), features.amax((2, 3)), features.square().mean((2, 3))), 1)
        change = (F.gelu(self.hidden(pooled)) @ self.mixture + self.offset).float().view(-1, 3, 3)
        return torch.eye(3, device=density.device) + change


__all__ = ["StainNormalizer", "optical_density"]
