"""Finds the white blood cells of a smear image and cuts a window around each for the network to look at."""

import os

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from transformers import ViTImageProcessor
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
    load_image,
)
from transformers.processing_utils import ImagesKwargs

# What Pillow may read: photographs as people have them, and no format that it hands to another program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

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
_MARGIN = 0.15  # how far a cell reaches beyond its nucleus on each side, in sides of the nucleus's box


class WBCImageProcessorKwargs(ImagesKwargs, total=False):
    """
    do_find_cell (`bool`, *optional*, defaults to `True`):
        Whether to show the network a window around the cell in place of the whole image.
    window_size (`float`, *optional*, defaults to 2.0):
        Side of the square window, in units of `window_unit`.
    window_unit (`str`, *optional*, defaults to `"nucleus"`):
        `"nucleus"`, the length of the cell's nucleus, or `"pixel"`, pixels of the image.
    """

    do_find_cell: bool
    window_size: int | float
    window_unit: str


class WBCImageProcessor(ViTImageProcessor):
    r"""Makes smear images the network's input: a window around the white cell, resized and normalised.

    With `do_find_cell`, each image is replaced by a square window around its foremost white cell, the first of
    [`~WBCImageProcessor.find_cells`]; an image without any stays whole. Without, this is the processor of
    [`transformers.ViTImageProcessor`], which squeezes the whole image: the way of Ma et al. 2020.

    Args:
        do_find_cell (`bool`, defaults to `True`): whether to show the network a window in place of the whole image.
        window_size (`float`, defaults to 2.0): side of the window, in units of `window_unit`.
        window_unit (`str`, defaults to `"nucleus"`): `"nucleus"`, the length of the cell's nucleus with all its
            lobes, which means the same in every lab, or `"pixel"`, pixels of the image.
        kwargs: those of [`transformers.ViTImageProcessor`]: `size`, `image_mean`, ... Mean and deviation are
            ImageNet's by default, and images are converted to RGB.

    Raises:
        ValueError: if `window_size` is not above 0 or `window_unit` is unknown.
    """

    valid_kwargs = WBCImageProcessorKwargs
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_convert_rgb = True
    do_find_cell = True
    window_size = 2.0
    window_unit = "nucleus"

    def find_cells(self, image: ImageInput) -> tuple[Tensor, Tensor]:
        """Finds every white cell of an image, if its nucleus is at least about fifteen pixels across.

        A cell is what hangs together around a nucleus, and a nucleus is where blue light passes and green does not,
        measured against the image's own background and its own strongest stain, so that lamp, camera and stain
        may differ. Cells that touch are told apart at the waist between them.

        Args:
            image (PIL image, array or tensor): one image; arrays and tensors are (H, W, 3) or (3, H, W), in any
                range that begins at 0.

        Returns:
            `boxes` (N, 4) float32, the cells' left, top, right and bottom in pixels of the image, and `scores` (N,)
            float32 in (0, 1), in descending order. A score grows with the nucleus's stain and its size beside the
            others, and is halved where the image's border cuts the nucleus. N may be 0.
        """
        return _find_cells(self._tensor(image).numpy(force=True))

    def fetch_images(self, image_url_or_urls):
        """Reads images: one for one, a list for a list.

        Args:
            image_url_or_urls: a path, an URL, an open binary file or a PIL image, or a list of them. Arrays and
                tensors are returned as they are.

        Returns:
            PIL images as they are meant to be looked at: the first frame, upright, RGB, on white where they are
            transparent, and with 8 bits a channel, of 16 the upper ones.

        Raises:
            ValueError: if one cannot be read; the message names it and says why.
        """
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, Image.Image):
            return upright_rgb(image_url_or_urls)
        if isinstance(image_url_or_urls, (str, os.PathLike)) or hasattr(image_url_or_urls, "read"):
            return _read_image(image_url_or_urls)
        return image_url_or_urls

    def windows(self, boxes: Tensor, window_size: float | None = None, window_unit: str | None = None) -> Tensor:
        """Squares (N, 4) around the middles of cells' boxes (N, 4), both left, top, right and bottom in pixels.

        Size and unit are this processor's unless given. A window may reach beyond the image.
        """
        side = torch.full((len(boxes),), float(window_size or self.window_size))
        if (window_unit or self.window_unit) == "nucleus":
            side = side * (boxes[:, 2:] - boxes[:, :2]).amax(1) / (1 + 2 * _MARGIN)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        return torch.cat((middle - side[:, None] / 2, middle + side[:, None] / 2), 1)

    def crop(self, image: ImageInput, windows: Tensor) -> list[Tensor]:
        """Cuts windows (N, 4) out of an image: N tensors (3, S, S) of the image's dtype.

        What lies beyond the image has the colour of its background.
        """
        image = self._tensor(image)
        _, height, width = image.shape
        background = torch.from_numpy(_background(image.numpy(force=True))).to(image)
        crops = []
        for left, top, right, _ in windows.round().long().tolist():
            side = max(1, right - left)
            crop = background[:, None, None].repeat(1, side, side)
            x, y = max(0, -left), max(0, -top)
            inside = image[:, max(0, top) : min(height, top + side), max(0, left) : min(width, left + side)]
            crop[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
            crops.append(crop)
        return crops

    def preprocess_cells(self, image: ImageInput) -> BatchFeature:
        """The network's input for every cell of one image.

        Args:
            image: as in [`~WBCImageProcessor.find_cells`].

        Returns:
            `pixel_values` (N, 3, H, W), `boxes` and `windows` (N, 4) and `scores` (N,), all float32. Without
            `do_find_cell` there is one cell, the whole image, with score 1.
        """
        image = self._tensor(image)
        if self.do_find_cell:
            boxes, scores = self.find_cells(image)
            windows = self.windows(boxes)
            crops = self.crop(image, windows)
        else:
            windows = boxes = torch.tensor([[0.0, 0, image.shape[2], image.shape[1]]])
            scores, crops = torch.ones(1), [image]
        if crops:
            # Said, since a crop may be three pixels high and wide.
            form = {"input_data_format": ChannelDimension.FIRST, "return_tensors": "pt"}
            pixel_values = self(crops, do_find_cell=False, **form)["pixel_values"]
        else:
            pixel_values = torch.zeros(0, 3, self.size["height"], self.size["width"])
        return BatchFeature({"pixel_values": pixel_values, "boxes": boxes, "windows": windows, "scores": scores})

    @classmethod
    def from_dict(cls, image_processor_dict: dict, **kwargs):
        # The file of another processor says nothing of windows: it was written for whole images.
        if image_processor_dict.get("image_processor_type", cls.__name__) != cls.__name__:
            image_processor_dict = {**image_processor_dict, "do_find_cell": False}
        return super().from_dict(image_processor_dict, **kwargs)

    def process_image(self, image: ImageInput, *args, **kwargs) -> Tensor:
        # Pillow's own conversion of 16 bits to RGB makes everything above 255 white.
        return super().process_image(_eight_bits(image) if isinstance(image, Image.Image) else image, *args, **kwargs)

    def _tensor(self, image: ImageInput) -> Tensor:
        image = torch.as_tensor(self.process_image(image, do_convert_rgb=True))
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"an image must have three channels and at least one pixel, got {tuple(image.shape)}")
        return image

    def _standardize_kwargs(self, **kwargs) -> dict:
        size, unit = kwargs.get("window_size"), kwargs.get("window_unit")
        if size is not None and not size > 0:
            raise ValueError(f"window_size must be above 0, got {size}")
        if unit not in (None, "nucleus", "pixel"):
            raise ValueError(f"window_unit must be 'nucleus' or 'pixel', got {unit!r}")
        return super()._standardize_kwargs(**kwargs)

    def _preprocess(self, images, do_find_cell: bool, window_size: float, window_unit: str, **kwargs) -> BatchFeature:
        if do_find_cell:
            images = [self._foremost(image, window_size, window_unit) for image in images]
        return super()._preprocess(images, **kwargs)

    def _foremost(self, image, window_size: float, window_unit: str):
        """The window around the foremost cell of an image of the backend's kind; the image itself without one."""
        boxes, _ = self.find_cells(image)
        if len(boxes) == 0:
            return image
        window = self.crop(image, self.windows(boxes[:1], window_size, window_unit))[0]
        return window if isinstance(image, Tensor) else window.numpy()


def _read_image(source) -> Image.Image:
    """One image of [`WBCImageProcessor.fetch_images`], from a path, an URL or an open file."""
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "in memory")
    try:
        if isinstance(source, str) and not os.path.exists(source):  # an URL, or not there
            return load_image(source)
        with Image.open(source, formats=_FORMATS) as image:
            return upright_rgb(image)
    except UnidentifiedImageError as error:
        reason = f"it is no image of the formats {', '.join(_FORMATS)}, or damaged"
        raise ValueError(f"cannot read the image {name}: {reason}") from error
    except Exception as error:  # the decoders raise errors of every kind at what is damaged
        raise ValueError(f"cannot read the image {name}: {error or type(error).__name__}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """An image as it is meant to be looked at: upright, RGB, 8 bits a channel, on white where it is transparent."""
    image = _eight_bits(ImageOps.exif_transpose(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel, of 16 the upper ones.

    Raises:
        ValueError: if it has 32 bits, which do not say what is white.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a channel, which do not say what is white; save it with 8 or 16")
    return image


def _find_cells(image: np.ndarray) -> tuple[Tensor, Tensor]:
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
    margin = _MARGIN * np.sqrt((high - low).prod(1, keepdims=True))
    boxes = np.concatenate((np.maximum(0, low - margin), np.minimum(limit, high + margin)), 1) * step
    order = np.argsort(-scores, kind="stable")
    return torch.from_numpy(boxes[order]).float(), torch.from_numpy(scores[order]).float()


def _background(image: np.ndarray) -> np.ndarray:
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
    background = np.maximum(_background(image), np.finfo(np.float32).tiny)
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


WBCImageProcessor.register_for_auto_class()

__all__ = ["WBCImageProcessor"]
