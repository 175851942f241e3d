"""The detector: finds the white cells of a field by their stain, without trained weights.

Stain is blue light less green light, each as a share of the background's: nuclei let blue pass and absorb green. The
mean stain of nuclei is 0.33 to 0.62 in BCCD and 0.33 to 0.47 in PBC; the rims of red cells reach 0.18.

NumPy throughout: its single thread is faster at these sizes than PyTorch's many, and leaves the other cores to the
network.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

NUCLEUS_MARGIN = 0.15  # a cell's box reaches beyond its nucleus on each side by this share of the nucleus's side

# Stain.
_MIN_EDGE_STAIN = 0.15  # at the edge of a nucleus, in the palest image
_MIN_MEAN_STAIN = 0.2  # of a nucleus, in the palest image,
_MIN_PALE_STAIN = 0.16  # unless it is so wide that it can be neither a platelet nor the rim of a red cell
_NUCLEUS_SHARE = (0.5, 0.75)  # of the strongest stain of the image: bounds of the stain at the edge of a nucleus
_OTSU_BINS = 64
_CELL_SHARE = 0.35  # of the nucleus's threshold: the edge of a connected cell
# Green light, as a share of the background's.
_CLEAR = 0.85  # brighter pixels show the background
_BLACK = 0.2  # darker pixels lie outside of the field
# Annotations: flat colours that no Romanowsky stain has. Nuclei that pass so little green pass less blue, too.
_INK_GREEN = 0.1  # at most, as a share of the background's light
_INK_BLUE = 0.9  # at least
_INK_RANGE = 1 / 32  # at most, of three pixels in a line, as a share of the background's light
_INK_PIXELS = 24  # at least
# Waists, along the long axis of a blob.
_MAX_WAIST = 0.6  # two cells touch where the width is less than this share of the smaller one's,
_MIN_BULGE = 0.35  # unless the smaller one's width is less than this share of the larger one's: a bump,
_MIN_OPEN = 0.3  # and if more than this share of the notches beside the waist shows the background
# Sizes.
_MIN_AREA = 0.15  # nuclei with less than this share of the typical area are platelets, or slivers at the border
_MIN_WIDTH = 0.5  # narrower nuclei than this share of a red cell are platelets, even in a field without white cells,
_PALE_WIDTH = 0.8  # of a red cell: the least width of a pale nucleus
_SINGLE_WIDTH = 1 / 12  # unless they are wider than this share of the image, which then shows a single platelet


def detect_cells(image: np.ndarray) -> tuple[Tensor, Tensor]:
    """Find every white cell of an image whose nucleus is at least about fifteen pixels across.

    A nucleus is a region of strong stain, a cell is the region of weaker stain connected to it. Cells that touch are
    split at the waist between them.

    Args:
        image: (3, H, W), of any real dtype, in any range that begins at 0.

    Returns:
        `boxes` (N, 4) float32, left, top, right and bottom in pixels, each a nucleus with a margin of
        `NUCLEUS_MARGIN`, clipped to the image; and `scores` (N,) float32 in (0, 1), in descending order. N may be 0.
    """
    longest = max(image.shape)
    step = min(1 if longest < 480 else max(2, round(longest / 1280)), *image.shape[1:])
    stain, light = _measure_stain(without_annotations(image, step), step)
    threshold = _nucleus_threshold(stain, light)
    nuclei = np.zeros((0, 6)) if threshold is None else _measure_nuclei(stain, light, threshold)
    if len(nuclei) == 0:
        return torch.zeros(0, 4), torch.zeros(0)
    typical_area = _typical_size(nuclei[:, 4])
    nuclei = nuclei[nuclei[:, 4] >= _MIN_AREA * typical_area]
    nuclei = nuclei[~_too_pale(nuclei, stain, light)]

    low, high, area, mean_stain = nuclei[:, :2], nuclei[:, 2:4], nuclei[:, 4], nuclei[:, 5]
    end = np.array(stain.shape[::-1])
    cut = (low <= 0).any(1) | (high >= end).any(1)
    scores = (1 - _MIN_EDGE_STAIN / mean_stain) * np.sqrt(np.minimum(1, area / typical_area)) * np.where(cut, 0.5, 1)
    margin = NUCLEUS_MARGIN * np.sqrt((high - low).prod(1, keepdims=True))
    boxes = np.concatenate((np.maximum(0, low - margin), np.minimum(end, high + margin)), 1) * step
    order = np.argsort(-scores, kind="stable")
    return torch.from_numpy(boxes[order]).float(), torch.from_numpy(scores[order]).float()


def background_color(image: np.ndarray) -> np.ndarray:
    """Colour (3,), float32, of the background of an image (3, H, W): the median of its brightest three tenths."""
    stride = max(1, min(image.shape[1:]) // 160)
    pixels = image[:, ::stride, ::stride].reshape(3, -1).astype(np.float32)
    brightness = pixels.sum(0)
    return np.median(pixels[:, brightness >= np.quantile(brightness, 0.7)], axis=1)


def without_annotations(image: np.ndarray, step: int) -> np.ndarray:
    """Replace arrows, text and frames of saturated blue to magenta by the colour of the background.

    Such colours have more stain than any nucleus and would set the threshold of the whole image. Those of other hues
    have none.

    Args:
        image: (3, H, W), of any real dtype, in any range that begins at 0.
        step: pixels on a side of the tiles whose means the detector takes.

    Returns:
        A copy of the image, or the image itself if it has no such annotation.
    """
    background = background_color(image)
    ink = (image[1] < _INK_GREEN * background[1]) & (image[2] > _INK_BLUE * background[2])
    if not ink.any():
        return image
    padded = np.pad(image.astype(np.float32), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows, columns = np.nonzero(ink)
    flat: np.ndarray = np.zeros(len(rows), dtype=bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        line = [padded[:, rows + 1 + side * dy, columns + 1 + side * dx] for side in (-1, 0, 1)]
        flat |= (np.ptp(line, axis=0) <= _INK_RANGE * background[:, None]).all(0)
    if flat.sum() < _INK_PIXELS:
        return image
    # Where some of it is flat, the rest of that colour is ink too, and the edges, smooth or compressed, are a blend.
    reach = 2 + step
    for axis in (0, 1):
        padded = np.pad(ink, [(reach, reach) if axis == side else (0, 0) for side in (0, 1)])
        ink = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis).any(-1)
    return np.where(ink, background[:, None, None].astype(image.dtype), image)


def connected_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label the connected components of a mask, with neighbours at sides and corners.

    Union-find over runs of pixels: the runs of each row are joined with the runs of the next row that they touch, all
    at once.

    Args:
        mask: (H, W) bool.

    Returns:
        Row, column and component (0, 1, ...) of every pixel of the mask, in row-major order: three (N,) integer
        arrays.
    """
    row, start, stop = _runs(mask)
    # Row-major positions, with a gap between rows, so that bisection finds the touching runs.
    stride = mask.shape[1] + 2
    first = np.searchsorted(row * stride + stop, (row + 1) * stride + start)
    last = np.searchsorted(row * stride + start, (row + 1) * stride + stop, side="right")
    count = np.maximum(0, last - first)
    upper = np.repeat(np.arange(len(row)), count)
    lower = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)

    root = np.arange(len(row))
    while (root[upper] != root[lower]).any():
        a, b = root[upper], root[lower]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]
    _, component = np.unique(root, return_inverse=True)
    rows, columns = np.nonzero(mask)
    return rows, columns, np.repeat(component, stop - start)


def _measure_stain(image: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed stain and green light of an image (3, H, W), both as shares of the background's light.

    Returns:
        Two float32 arrays (H // step, W // step), computed from means of `step` x `step` pixels.
    """
    height, width = (side // step for side in image.shape[1:])
    # A drawing's background may lack a channel, which then has no shares.
    least = max(float(image.max()) / 256, float(np.finfo(np.float32).tiny))
    background = np.maximum(background_color(image), least)
    green, blue = (
        sum(tiles[i::step, j::step].astype(np.float32) for i in range(step) for j in range(step)) / (step**2 * light)
        for tiles, light in zip(image[1:, : height * step, : width * step], background[1:], strict=True)
    )
    stain = blue - green
    for _ in range(2):  # a Gaussian of standard deviation 1 along each axis
        padded = np.pad(stain, ((2, 2), (0, 0)), mode="edge")
        stain = 0.4026 * padded[2:-2] + 0.2442 * (padded[1:-3] + padded[3:-1]) + 0.0545 * (padded[:-4] + padded[4:])
        stain = np.ascontiguousarray(stain.T)
    return stain, green


def _nucleus_threshold(stain: np.ndarray, light: np.ndarray) -> float | None:
    """Stain at the edge of the nuclei of an image; None for an image without stain.

    It separates the nuclei from all else that is darker than the background, red cells above all, whose stain differs
    between labs: in some they are so blue that half of the nuclei's stain finds them, too.

    Args:
        stain: (H, W), as `_measure_stain` returns it.
        light: (H, W), likewise.
    """
    stained = stain[stain > _MIN_EDGE_STAIN].astype(np.float64)
    if len(stained) == 0:
        return None
    # A smooth maximum: a single pixel does not decide it, and unlike a quantile it does not depend on how much of the
    # image is stained.
    power = stained**7
    low, high = np.multiply(_NUCLEUS_SHARE, (power @ stained) / power.sum())
    # Beside a background without blue or green light, stain has no bounds.
    dark = stain[(light < _CLEAR) & (np.abs(stain) <= 1)]
    return max(_MIN_EDGE_STAIN, low, min(high, split_in_two(dark)))


def split_in_two(values: np.ndarray) -> float:
    """The threshold between two groups of finite values (N,), 0 of none.

    It maximises the variance between the groups (Otsu 1979), over the edges of `_OTSU_BINS` bins.
    """
    if len(values) == 0:
        return 0.0
    counts, edges = np.histogram(values, _OTSU_BINS)
    below = counts.cumsum()[:-1]
    sums = (counts * (edges[1:] + edges[:-1]) / 2).cumsum()
    above = len(values) - below
    between = (sums[-1] * below - len(values) * sums[:-1]) ** 2 / np.maximum(1, below * above)
    return float(edges[1:-1][between.argmax()])


def _measure_nuclei(stain: np.ndarray, light: np.ndarray, threshold: float) -> np.ndarray:
    """Left, top, right, bottom, area and mean stain (N, 6), float64, of the nuclei that are wider than platelets.

    Args:
        stain: (H, W), as `_measure_stain` returns it.
        light: (H, W), likewise.
        threshold: stain at the edge of a nucleus.
    """
    nuclei = []
    for rows, columns, stains in _segment_cells(stain, light, threshold):
        nucleus = stains > threshold
        if nucleus.any():
            y, x = rows[nucleus], columns[nucleus]
            nuclei.append((x.min(), y.min(), x.max() + 1, y.max() + 1, nucleus.sum(), stains[nucleus].mean()))
    nuclei = np.array(nuclei, dtype=np.float64).reshape(-1, 6)
    width = (nuclei[:, 2:4] - nuclei[:, :2]).max(1)
    small = width < _SINGLE_WIDTH * min(stain.shape)
    if small.any():  # the width of red cells takes time to measure
        nuclei = nuclei[~(small & (width < _MIN_WIDTH * _red_cell_width(stain, light)))]
    return nuclei


def _too_pale(nuclei: np.ndarray, stain: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Whether each of the nuclei (N, 6) has too little stain for its width: a mask (N,)."""
    pale = nuclei[:, 5] < _MIN_MEAN_STAIN
    wide = pale & (nuclei[:, 5] >= _MIN_PALE_STAIN)
    if wide.any():
        sides = nuclei[:, 2:4] - nuclei[:, :2]
        wide &= sides.min(1) >= max(_PALE_WIDTH * _red_cell_width(stain, light), _SINGLE_WIDTH * min(stain.shape))
    return pale & ~wide


def _segment_cells(
    stain: np.ndarray, light: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the rows, columns and stains (N,) of each cell's pixels; arguments as in `_measure_nuclei`."""
    rows, columns, component = connected_components(stain > _CELL_SHARE * threshold)
    stains = stain[rows, columns]
    nuclear = np.bincount(component, stains > threshold)
    large = nuclear >= max(1, _MIN_AREA * _typical_size(nuclear))

    pixels = np.flatnonzero(large[component])
    pixels = pixels[np.argsort(component[pixels], kind="stable")]
    queue = np.split(pixels, np.flatnonzero(np.diff(component[pixels])) + 1)
    while queue:
        pixels = queue.pop()
        second = _split_at_waist(rows[pixels], columns[pixels], light)
        if second is None:
            yield rows[pixels], columns[pixels], stains[pixels]
        else:
            queue += [pixels[second], pixels[~second]]


def _split_at_waist(rows: np.ndarray, columns: np.ndarray, light: np.ndarray) -> np.ndarray | None:
    """Split a blob at the waist across its long axis.

    Only notches that show the background make a waist: between the lobes of one nucleus lies cytoplasm.

    Args:
        rows: (N,), of the blob's pixels.
        columns: (N,), likewise.
        light: (H, W), as `_measure_stain` returns it.

    Returns:
        A mask (N,) of the pixels beyond the waist; None for a blob without a waist.
    """
    x0, y0 = columns.mean(), rows.mean()
    x, y = columns - x0, rows - y0
    angle = np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean()) / 2
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    position = np.rint(along - along.min()).astype(np.int64)
    low, high = np.full((2, position.max() + 1), across.mean())
    np.minimum.at(low, position, across)
    np.maximum.at(high, position, across)
    width = high - low + 1  # from edge to edge: a hole in the blob is no waist
    bulge = np.minimum(np.maximum.accumulate(width), np.maximum.accumulate(width[::-1])[::-1])
    waist = np.argmin(width / bulge)
    if width[waist] >= _MAX_WAIST * bulge[waist] or bulge[waist] < _MIN_BULGE * width.max():
        return None
    offset = np.arange(-bulge[waist] / 2, bulge[waist] / 2)
    offset = offset[np.abs(offset) > width[waist] / 2] + (low[waist] + high[waist]) / 2
    distance = along.min() + waist
    row = np.rint(y0 + distance * np.sin(angle) + offset * np.cos(angle)).astype(np.int64)
    column = np.rint(x0 + distance * np.cos(angle) - offset * np.sin(angle)).astype(np.int64)
    inside = (row >= 0) & (row < light.shape[0]) & (column >= 0) & (column < light.shape[1])
    clear = light[row[inside], column[inside]] > _CLEAR
    return position > waist if clear.sum() > _MIN_OPEN * clear.size else None


def _red_cell_width(stain: np.ndarray, light: np.ndarray) -> float:
    """Approximate width of a red cell in pixels of `stain` and `light` (H, W); 0 in an image without red cells.

    Red cells are dark, but not black, and have no stain. Half of their area lies in runs of at most this width, along
    the rows or along the columns, whichever are shorter: clusters of red cells are long in one direction only.
    """
    red = (light > _BLACK) & (light < _CLEAR) & (stain < _MIN_EDGE_STAIN)
    if not red.any():
        return 0.0
    widths = []
    for mask in (red, red.T):
        _, start, stop = _runs(mask)
        widths.append(_typical_size(stop - start))
    return float(min(widths))


def _typical_size(sizes: np.ndarray) -> float:
    """Median of sizes (N,), each weighted by itself: that of the nuclei, however many specks there are."""
    sizes = np.sort(sizes)
    return sizes[np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)]


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, first column and column after the last of each run of pixels along the rows of a mask (H, W)."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    return row, start, np.nonzero(edges == -1)[1]
