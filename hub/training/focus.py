"""Focus threshold: how much fine detail the crop of a cell must have."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from hub.training.sampling import deciding_labs
from modeling_wbc.focus_wbc import measure_focus

# Standard deviation of the blur that makes a cell unreadable, as a share of the side of its crop: for nine tenths of
# PBC, whose crops at 200 x 200 pixels are up to 183 pixels wide, 3 pixels or less.
BLUR = 1 / 60
KEPT = 0.995  # of each data set's sharp crops
REFUSED = 0.975  # of each data set's blurred crops


@torch.no_grad()
def measure_blurred(pixel_values: Tensor) -> Tensor:
    """Focus of crops after a blur by a Gaussian of `BLUR`.

    Args:
        pixel_values: (N, 3, H, W) float, normalised crops.

    Returns:
        (N,) float32, see `modeling_wbc.focus_wbc.measure_focus`.
    """
    sigma = BLUR * pixel_values.shape[-1]
    size = 2 * round(3 * sigma) + 1
    return measure_focus(gaussian_blur(pixel_values.float(), [size, size], [sigma, sigma]))


def fit_focus_threshold(
    sharp: ArrayLike,
    blurred: ArrayLike,
    origins: Sequence[str] | None = None,
    kept: float = KEPT,
    refused: float = REFUSED,
) -> float:
    """The least focus that refuses the blurred crops of every data set and keeps the sharp ones.

    Args:
        sharp: N focus values, of crops that the classifier was not trained on.
        blurred: N focus values, of the same crops after a blur.
        origins: The name of the data set of each, of which the large ones decide, see `deciding_labs`. Default: they
            are one.
        kept: The share of each data set's sharp crops, in (0, 1], that is at or above the threshold, at least. It goes
            before `refused` where both cannot be had.
        refused: The share of each data set's blurred crops, in (0, 1], that is below the threshold, at least.

    Raises:
        ValueError: Lengths differ, or nothing was given.
    """
    sharp, blurred = np.asarray(sharp, dtype=np.float64), np.asarray(blurred, dtype=np.float64)
    origins = np.zeros(len(sharp)) if origins is None else np.asarray(origins)
    if sharp.ndim != 1 or not len(sharp) == len(blurred) == len(origins) > 0:
        raise ValueError(f"got {len(sharp)} sharp and {len(blurred)} blurred values and {len(origins)} origins")
    names = deciding_labs(origins)
    most = min(np.quantile(sharp[origins == name], 1 - kept, method="inverted_cdf") for name in names)
    least = max(np.quantile(blurred[origins == name], refused, method="higher") for name in names)
    # Above the last value to refuse.
    return float(min(most, np.nextafter(least, np.inf)))
