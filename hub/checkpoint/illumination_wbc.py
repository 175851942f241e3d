"""Illumination: the background of a smear image, a smooth surface of light, and the image divided by it.

A camera's pixel is the light of the lamp at that place times the share that the smear lets pass. Dividing by the
light of the empty glass leaves the share alone, the same for every lamp, exposure and vignette (flat-field correction
without a reference image; Likar et al. 2000, and Peng et al. 2017, "BaSiC", fit such a surface to many images).
"""

import numpy as np
import torch
from torch import Tensor

BACKGROUND = 232  # the value of the background after correction, out of 255: lighter noise is not cut off

_GRID = 40  # tiles along the longer side, on whose means the surface is fitted
_BLACK = 12  # of 255: darker tiles lie outside of the field
_ASYMMETRY = 0.03  # weight of a tile below the surface, where one above it has 1
_OUTLIER = 0.1  # logarithm of light: tiles further below the surface count less, by one over their distance
_CLEAR = 0.06  # logarithm of green light: tiles less far below the surface show the background
_ITERATIONS = 8
_REFINEMENTS = 2  # of the background by the surface that was fitted to it
# Penalties on the coefficients of 1, of the two slopes, of the three curvatures and of the steepness of a vignette,
# times the number of all tiles: the less of the background is seen, the flatter the surface.
_RIDGE = np.array([0.0, 0.001, 0.001, 0.003, 0.003, 0.003, 0.003])
_DARKEST = 24  # of 255: no background is taken to be darker, or the noise of black images would become light
_LARGEST_GAIN = 3.0  # of a part of the image relative to its brightest background: the edge of a vignette


def correct_illumination(image: Tensor) -> Tensor:
    """Divide an image by its own background.

    Args:
        image: (3, H, W) uint8, RGB.

    Returns:
        The image of the same form whose background is `BACKGROUND` in each channel; light beyond 255 is cut off.
    """
    height, width = image.shape[1:]
    gain = torch.from_numpy(BACKGROUND / estimate_background(image.numpy(force=True))).to(image.device)
    # Bilinear interpolation as two products of matrices, several times as fast as `interpolate`.
    down, right = (_interpolation(*sides).to(gain) for sides in zip((height, width), gain.shape[1:], strict=True))
    corrected = (down @ gain @ right.T).mul_(image)
    return corrected.round_().clamp_(0, 255).to(torch.uint8)


def _interpolation(size: int, knots: int) -> Tensor:
    """Weights (size, knots) of linear interpolation between knots from edge to edge."""
    place = torch.linspace(0, knots - 1, size)
    return (1 - (place[:, None] - torch.arange(knots)).abs()).clamp(min=0)


def estimate_background(image: np.ndarray) -> np.ndarray:
    """Estimate the light of the background as a smooth surface.

    The logarithm of each channel is a polynomial of degree 2 of the place, and the fourth power of the distance from
    the middle, which a gradient and a vignette are close to. It is fitted to the tiles that show empty glass: first,
    an asymmetric fit (expectiles, Newey & Powell 1987) of the green light, which everything in a smear absorbs, finds
    the upper envelope of the image; the tiles on it are the background, to which all channels are fitted by ridge
    regression.

    Args:
        image: (3, H, W), of any real dtype, from 0 to 255.

    Returns:
        (3, h, w) float32, above 0: the light at a grid whose corners are those of the image, h and w at most 61.
    """
    tiles = _tile_means(image)
    _, rows, columns = tiles.shape
    middles = [np.linspace(-1, 1, 2 * number + 1)[1::2] for number in (rows, columns)]
    basis = _basis(*middles)
    light = np.log(np.maximum(tiles.reshape(3, -1).T, 1))  # (tiles, 3)
    lit = light[:, 1] > np.log(_BLACK)
    if not lit.any():
        return np.full((3, 2, 2), _DARKEST, dtype=np.float32)
    green = _envelope(basis, light[:, 1], lit)
    for _ in range(1 + _REFINEMENTS):
        clear = lit & (light[:, 1] - basis @ green > -_CLEAR)
        coefficients = _ridge(basis, light, clear.astype(np.float64))
        green = coefficients[:, 1]
    # Beyond the background that is seen, the surface goes on as far as a vignette would and no further.
    seen = basis[clear] @ coefficients
    corners = [np.linspace(-1, 1, number) for number in (rows, columns)]
    surface = np.clip(_basis(*corners) @ coefficients, seen.max(0) - np.log(_LARGEST_GAIN), seen.max(0))
    return np.maximum(_DARKEST, np.exp(surface)).T.reshape(3, rows, columns).astype(np.float32)


def _envelope(basis: np.ndarray, light: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """Coefficients (7,) of the upper envelope of the logarithm of light (N,), from the tiles that are lit."""
    start = np.zeros(basis.shape[1])
    start[0] = np.quantile(light[lit], 0.9)
    coefficients = start
    for _ in range(_ITERATIONS):
        residual = light - basis @ coefficients
        weight = np.where(residual > 0, 1.0, _ASYMMETRY * np.minimum(1, _OUTLIER / np.maximum(-residual, 1e-9)))
        coefficients = _ridge(basis, light[:, None], weight * lit)[:, 0]
    return coefficients


def _ridge(basis: np.ndarray, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coefficients (7, C) of the weighted ridge regression of values (N, C) on the basis (N, 7)."""
    weighted = basis * weight[:, None]
    penalty = np.diag(_RIDGE * len(basis) * weight.max())
    return np.linalg.solve(weighted.T @ basis + penalty + 1e-9 * np.eye(len(penalty)), weighted.T @ values)


def _basis(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The polynomials at a grid of h places down and w to the right, each in [-1, 1]: (h * w, 7) float64."""
    y, x = (grid.ravel() for grid in np.meshgrid(down, right, indexing="ij"))
    steep = (x * x + y * y) ** 2 - (x * x + y * y)
    return np.stack([np.ones_like(x), x, y, (3 * x * x - 1) / 2, x * y, (3 * y * y - 1) / 2, steep], 1)


def _tile_means(image: np.ndarray) -> np.ndarray:
    """Means of up to sixteen pixels of each tile of an image (3, H, W): (3, h, w) float64, at least 2 x 2."""
    height, width = image.shape[1:]
    step = max(1, round(max(height, width) / _GRID))
    stride = max(1, step // 4)
    sample = image[:, ::stride, ::stride].astype(np.float32)
    each = max(1, step // stride)
    rows, columns = (max(1, side // each) for side in sample.shape[1:])
    sample = sample[:, : rows * each, : columns * each]
    down, right = min(each, sample.shape[1]), min(each, sample.shape[2])
    means = sum(sample[:, i::each, j::each] for i in range(down) for j in range(right)) / (down * right)
    return np.pad(means, ((0, 0), (0, max(0, 2 - rows)), (0, max(0, 2 - columns))), mode="edge").astype(np.float64)


__all__ = ["BACKGROUND", "correct_illumination", "estimate_background"]
