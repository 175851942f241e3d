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

from .detection_wbc import MARGIN, background_color, detect_cells

# What Pillow may read: photographs as people have them, and no format that it hands to another program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class WBCImageProcessorKwargs(ImagesKwargs, total=False):
    """do_find_cell (`bool`, *optional*, defaults to `True`):
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
        return detect_cells(self._tensor(image).numpy(force=True))

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
            side = side * (boxes[:, 2:] - boxes[:, :2]).amax(1) / (1 + 2 * MARGIN)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        return torch.cat((middle - side[:, None] / 2, middle + side[:, None] / 2), 1)

    def crop(self, image: ImageInput, windows: Tensor) -> list[Tensor]:
        """Cuts windows (N, 4) out of an image: N tensors (3, S, S) of the image's dtype.

        What lies beyond the image has the colour of its background.
        """
        image = self._tensor(image)
        _, height, width = image.shape
        background = torch.from_numpy(background_color(image.numpy(force=True))).to(image)
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


WBCImageProcessor.register_for_auto_class()


__all__ = ["WBCImageProcessor"]
