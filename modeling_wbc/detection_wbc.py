"""The detector: finds the white cells of a field by their stain."""

import numpy as np
import torch
from torch import Tensor

# What the finder takes for a cell. Stain is blue less green, each as a share of the background's light: nuclei of
# BCCD have 0.33 to 0.62 on average, of PBC 0.33 to 0.47, the rims of red cells up to 0.18.
_FAINTEST = 0.15  # a nucleus may have this stain at its edge in the palest image
_PALEST = 0.2  # and this on average
_NUCLEUS = 0.5  # of the strongest stain in the image: the edge of a nucleus
_CYTOPLASM = 0.35  # of that: the edge of what hangs together with it as one cell
_WAIST = 0.6  # two cells touch where the width is less than this share of the smaller one's
_BULGE = 0.35  # unless the smaller one's width is less than this share of the larger one's: then it is a bump
_OPEN = 0.3  # and the notches beside the waist show the background in this share of them
_CLEAR = 0.85  # of the background's green light: what shows it
_BLACK = 0.2  # of it: what is darker lies outside of the field
_SMALLEST = 0.15  # nuclei with less than this share of the typical area are platelets, or slivers at the border
_PLATELET = 0.5  # and those less wide than this share of a red cell are platelets, even where there is no nucleus
_SINGLE = 1 / 12  # unless they are wider than this share of the image, which then shows them and little else
MARGIN = 0.15  # how far a cell reaches beyond its nucleus on each side, in sides of the nucleus's box


def detect_cells(image: np.ndarray) -> tuple[Tensor, Tensor]:
    """[`WBCImageProcessor.find_cells`] of an image (3, H, W).

    In NumPy, whose single thread is faster at this size than PyTorch's many, and leaves the others to the network.
    """
    longest = max(image.shape)
    step = min(1 if longest < 480 else max(2, round(longest / 1280)), *image.shape[1:])
    stain, light = _stain(image, step)
    stained = stain[stain > _FAINTEST].astype(np.float64)
    if len(stained) == 0:
        return torch.zeros(0, 4), torch.zeros(0)
    # Nearly the maximum, which a single pixel would decide; unlike a quantile, it does not depend on how much of the
    # image is stained.
    power = stained**7
    threshold = max(_FAINTEST, _NUCLEUS * (power @ stained) / power.sum())

    nuclei = []  # left, top, right, bottom, area and mean stain of each
    for rows, columns, stains in _cells(stain, light, threshold):
        nucleus = stains > threshold
        if nucleus.any():
            y, x = rows[nucleus], columns[nucleus]
            nuclei.append((x.min(), y.min(), x.max() + 1, y.max() + 1, nucleus.sum(), stains[nucleus].mean()))
    nuclei = np.array(nuclei, dtype=np.float64).reshape(-1, 6)
    width = (nuclei[:, 2:4] - nuclei[:, :2]).max(1)
    small = width < _SINGLE * min(stain.shape)
    if small.any():
        nuclei = nuclei[~(small & (width < _PLATELET * _red_cell_width(stain, light)))]
        if len(nuclei) == 0:
            return torch.zeros(0, 4), torch.zeros(0)
    typical = _typical(nuclei[:, 4])
    nuclei = nuclei[(nuclei[:, 4] >= _SMALLEST * typical) & (nuclei[:, 5] >= _PALEST)]

    low, high, area, mean_stain = nuclei[:, :2], nuclei[:, 2:4], nuclei[:, 4], nuclei[:, 5]
    limit = np.array(stain.shape[::-1])
    cut = (low <= 0).any(1) | (high >= limit).any(1)
    scores = (1 - _FAINTEST / mean_stain) * np.sqrt(np.minimum(1, area / typical)) * np.where(cut, 0.5, 1)
    margin = MARGIN * np.sqrt((high - low).prod(1, keepdims=True))
    boxes = np.concatenate((np.maximum(0, low - margin), np.minimum(limit, high + margin)), 1) * step
    order = np.argsort(-scores, kind="stable")
    return torch.from_numpy(boxes[order]).float(), torch.from_numpy(scores[order]).float()


def background_color(image: np.ndarray) -> np.ndarray:
    """The colour (3,), float32, of the light between the cells: the median of the brighter three tenths."""
    stride = max(1, min(image.shape[1:]) // 160)
    pixels = image[:, ::stride, ::stride].reshape(3, -1).astype(np.float32)
    brightness = pixels.sum(0)
    return np.median(pixels[:, brightness >= np.quantile(brightness, 0.7)], axis=1)


def _stain(image: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Stain, smoothed, and green light, as a share of the background's, of an image (3, H, W).

    Both are float32 (H // step, W // step), over means of `step` x `step` pixels.
    """
    height, width = (side // step for side in image.shape[1:])
    background = np.maximum(background_color(image), np.finfo(np.float32).tiny)
    green, blue = (
        sum(tiles[i::step, j::step].astype(np.float32) for i in range(step) for j in range(step)) / (step**2 * light)
        for tiles, light in zip(image[1:, : height * step, : width * step], background[1:], strict=True)
    )
    stain = blue - green
    for _ in range(2):  # a Gaussian of deviation 1 along each axis
        padded = np.pad(stain, ((2, 2), (0, 0)), mode="edge")
        stain = 0.4026 * padded[2:-2] + 0.2442 * (padded[1:-3] + padded[3:-1]) + 0.0545 * (padded[:-4] + padded[4:])
        stain = np.ascontiguousarray(stain.T)
    return stain, green


def _typical(areas: np.ndarray) -> float:
    """The area below which half of the total lies: that of nuclei, however many specks there are."""
    areas = np.sort(areas)
    return areas[np.searchsorted(np.cumsum(areas), areas.sum() / 2)]


def _cells(stain: np.ndarray, light: np.ndarray, threshold: float):
    """Yields rows, columns and stains of each cell's pixels, for what `_stain` gives and the nuclei's threshold."""
    rows, columns, component = _components(stain > _CYTOPLASM * threshold)
    stains = stain[rows, columns]
    nuclear = np.bincount(component, stains > threshold)
    large = nuclear >= max(1, _SMALLEST * _typical(nuclear))

    pixels = np.flatnonzero(large[component])
    pixels = pixels[np.argsort(component[pixels], kind="stable")]
    queue = np.split(pixels, np.flatnonzero(np.diff(component[pixels])) + 1)
    while queue:
        pixels = queue.pop()
        second = _beyond_waist(rows[pixels], columns[pixels], light)
        if second is None:
            yield rows[pixels], columns[pixels], stains[pixels]
        else:
            queue += [pixels[second], pixels[~second]]


def _red_cell_width(stain: np.ndarray, light: np.ndarray) -> float:
    """About the width of a red cell, in pixels of what `_stain` gives; 0 where there is none.

    Half of the area of what is dark, not black, and has no stain lies in runs of at most this many pixels, along the
    rows or the columns, whichever are shorter: red cells that hang together are long one way only.
    """
    red = (light > _BLACK) & (light < _CLEAR) & (stain < _FAINTEST)
    if not red.any():
        return 0.0
    widths = []
    for mask in (red, red.T):
        _, start, stop = _runs(mask)
        widths.append(_typical(stop - start))
    return float(min(widths))


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, first column and the column after the last, of the runs of pixels along the rows of a mask (H, W)."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    return row, start, np.nonzero(edges == -1)[1]


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and component, 0, 1, ..., of the pixels of a mask (H, W), in row-major order.

    Pixels are of one component that touch at a side or a corner. The runs of pixels along each row are joined with
    the runs of the next row that they touch, by union and find over all at once.
    """
    row, start, stop = _runs(mask)
    # Positions in the order of reading, with a gap between rows, so that bisection finds the touching runs.
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


def _beyond_waist(rows: np.ndarray, columns: np.ndarray, light: np.ndarray) -> np.ndarray | None:
    """Which pixels of a blob lie beyond the waist across its long axis, a mask (N,); None where it has no waist.

    The notches beside the waist must show the background's light (H, W): between the lobes of one nucleus lies the
    rest of its cell.
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
    if width[waist] >= _WAIST * bulge[waist] or bulge[waist] < _BULGE * width.max():
        return None
    offset = np.arange(-bulge[waist] / 2, bulge[waist] / 2)
    offset = offset[np.abs(offset) > width[waist] / 2] + (low[waist] + high[waist]) / 2
    distance = along.min() + waist
    row = np.rint(y0 + distance * np.sin(angle) + offset * np.cos(angle)).astype(np.int64)
    column = np.rint(x0 + distance * np.cos(angle) - offset * np.sin(angle)).astype(np.int64)
    inside = (row >= 0) & (row < light.shape[0]) & (column >= 0) & (column < light.shape[1])
    clear = light[row[inside], column[inside]] > _CLEAR
    return position > waist if clear.sum() > _OPEN * clear.size else None
