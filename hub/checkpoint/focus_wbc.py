"""Focus of a crop: how much of its detail is fine detail."""

import torch
from torch import Tensor
from torch.nn import functional as F

_SIDE = 128  # pixels to which a crop is resized, so that the scales below are shares of its side
_FINE, _COARSE = 1.0, 2.0  # standard deviations of the two Laplacians of Gaussian, in these pixels
_RADIUS = 60  # the corners of the crop show other cells
_MARGIN = 6  # pixels beside the padding of a cell at the border of its image: the step there is never out of focus
_FLAT = 0.02  # range of pixel values in a row or column of padding, at most: about a grey level
_LEAST_PIXELS = 500


@torch.no_grad()
def measure_focus(pixel_values: Tensor) -> Tensor:
    r"""Ratio of the energies of fine and coarse detail in crops.

    The channels' mean I of each crop, resized to 128 x 128 pixels, is filtered by Laplacians of Gaussian,

    $$\mathrm{focus} = \frac{\sigma_1 \, \mathrm{rms}(\nabla^2 G_{\sigma_1} * I)}
    {\sigma_2 \, \mathrm{rms}(\nabla^2 G_{\sigma_2} * I)}, \qquad \sigma_1 = 1, \sigma_2 = 2$$

    over a disc in the middle of the crop, without padding. The ratio does not depend on contrast, and through the
    resizing not on the number of pixels of the crop. The variance of the Laplacian is a usual measure of focus
    (Pech-Pacheco et al. 2000); dividing by that of a coarser scale makes it comparable between labs and cell types.

    Args:
        pixel_values: (N, C, H, W), normalised crops.

    Returns:
        (N,) float32, at least 0: above 1 for most sharp crops, about 0.6 for a blur with a standard deviation of 1/50
        of the crop's side, and 0 for a crop without any detail.
    """
    grey = pixel_values.float().mean(1, keepdim=True)
    if len(grey) == 0:
        return grey.new_zeros(0)
    if grey.shape[2:] != (_SIDE, _SIDE):
        grey = F.interpolate(grey, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False)
    shown = _shown(grey[:, 0])
    fine, coarse = (_detail(grey, sigma)[:, 0].square() for sigma in (_FINE, _COARSE))
    fine, coarse = ((energy * shown).sum((1, 2)) for energy in (fine, coarse))
    smallest = _FLAT**2 * 1e-3
    return torch.where(coarse > smallest, (fine / coarse.clamp_min(smallest)).sqrt(), 0.0)


def _shown(grey: Tensor) -> Tensor:
    """Mask (N, H, W) of the pixels in the middle of crops (N, H, W) that are no padding."""
    inside = torch.ones_like(grey, dtype=torch.bool)
    for axis in (1, 2):
        varied = (grey.amax(3 - axis) - grey.amin(3 - axis)) > _FLAT
        # Rows and columns within the margin of a flat one are left out, too.
        near = F.max_pool1d((~varied).float()[:, None], 2 * _MARGIN + 1, stride=1, padding=_MARGIN)[:, 0] > 0
        inside &= ~near.unsqueeze(3 - axis)
    offset = torch.arange(_SIDE, device=grey.device) - (_SIDE - 1) / 2
    middle = offset.square()[:, None] + offset.square() < _RADIUS**2
    shown = inside & middle
    return shown | (shown.sum((1, 2), keepdim=True) < _LEAST_PIXELS)


def _detail(grey: Tensor, sigma: float) -> Tensor:
    """Laplacian of Gaussian, times `sigma`, of images (N, 1, H, W)."""
    radius = round(4 * sigma)
    offset = torch.arange(-radius, radius + 1, device=grey.device, dtype=grey.dtype)
    gaussian = torch.exp(-offset.square() / (2 * sigma**2))
    gaussian = gaussian / gaussian.sum()
    second = gaussian * (offset.square() / sigma**4 - 1 / sigma**2)
    second = second - second.mean()  # a constant image has no detail
    kernel = sigma * (second[:, None] * gaussian + gaussian[:, None] * second)
    return F.conv2d(F.pad(grey, (radius,) * 4, mode="replicate"), kernel[None, None])
