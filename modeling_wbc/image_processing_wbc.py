"""Image processor: reads smear images, finds white blood cells and crops them to the network's input."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import ViTImageProcessor
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
)
from transformers.processing_utils import ImagesKwargs

from .detection_wbc import NUCLEUS_MARGIN, background_color, detect_cells
from .illumination_wbc import correct_illumination
from .reading_wbc import read_image, rgb_pixels, upright_rgb


class WBCImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]  # a TypedDict
    """Options of a call, see [`WBCImageProcessor`]."""

    # Saved in `preprocessor_config.json` as `window_*`, since `crop_size` is transformers' own name for the size in
    # pixels of a centre crop.
    do_correct_illumination: bool
    do_find_cell: bool
    window_size: int | float
    window_unit: str


class WBCImageProcessor(ViTImageProcessor):
    r"""Turn smear images into the network's input: a crop around the white cell, resized and normalised.

    With `do_find_cell`, each image is replaced by a square crop around its foremost white cell, the first of
    [`~WBCImageProcessor.find_cells`]; an image without cells stays whole. Without `do_find_cell`, this is
    [`transformers.ViTImageProcessor`], which squeezes the whole image, as Ma et al. 2020 do.

    Images of any dtype and mode are converted to RGB with 8 bits per channel first, see `rgb_pixels` of
    `reading_wbc.py`, so that floats in [0, 1], as `ToTensor` returns them, give the same `pixel_values` as the image
    that they were made of, with `do_rescale` and without it.

    Args:
        do_correct_illumination (`bool`, defaults to `False`): whether to divide the image by its own background before
            anything else, so that lamp, exposure and vignette do not matter, see `illumination_wbc.py`.
        do_find_cell (`bool`, defaults to `True`): whether to crop the image to a cell.
        window_size (`float`, defaults to 2.0): side of the crop, in units of `window_unit`, above 0.
        window_unit (`str`, defaults to `"nucleus"`): `"nucleus"`, the longer side of the nucleus with all its lobes,
            a scale that is the same for every lab, or `"pixel"`, pixels of the image.
        kwargs: those of [`transformers.ViTImageProcessor`]: `size`, `image_mean`, ... Mean and standard deviation are
            ImageNet's by default, and images are converted to RGB.

    Raises:
        ValueError: if `window_size` is not above 0 or `window_unit` is unknown.
    """

    valid_kwargs = WBCImageProcessorKwargs
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_convert_rgb = True
    do_correct_illumination = False
    do_find_cell = True
    window_size = 2.0
    window_unit = "nucleus"

    def find_cells(self, image: ImageInput) -> tuple[Tensor, Tensor]:
        """Find every white cell of an image whose nucleus is at least about fifteen pixels across.

        A nucleus is a region that passes blue light and absorbs green light, relative to the image's own background
        and strongest stain, so that lamp, camera and stain may differ. A cell is the connected region around a
        nucleus. Cells that touch are split at the waist between them.

        Args:
            image (PIL image, array or tensor): one image; arrays and tensors are (H, W) grey or have 1, 3 (RGB) or 4
                (RGBA) channels, first or last; integers from 0 to 65535, floats from 0 to 1 or from 0 to 255.

        Returns:
            `boxes` (N, 4) float32, the cells' left, top, right and bottom in pixels of the image, and `scores` (N,)
            float32 in (0, 1), in descending order. A score grows with the stain of the nucleus and its size relative
            to the others, and is halved if the image's border cuts the nucleus. N may be 0.

        Raises:
            ValueError: if the image has another shape, no pixels, or values out of range.
        """
        return detect_cells(self._corrected(image).numpy(force=True))

    def fetch_images(self, image_url_or_urls):
        """Read an image, or a list of images.

        Args:
            image_url_or_urls: a path, a URL, bytes, an open binary file or a PIL image, or a list of them. Arrays and
                tensors are returned as they are, grey ones (H, W) with an axis for their channel.

        Returns:
            A PIL image or a list of them: the first frame, upright, RGB, transparency on white, 8 bits per channel;
            `info["pages"]` is the number of pages or frames if there are several, see `read_image` of
            `reading_wbc.py`.

        Raises:
            ImageReadError: a `ValueError` and `OSError`, if an image cannot be read; the message names the file and
                the reason.
        """
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, (np.ndarray, Tensor)):
            return image_url_or_urls[None] if image_url_or_urls.ndim == 2 else image_url_or_urls
        return read_image(image_url_or_urls)

    def crop_boxes(self, boxes: Tensor, window_size: float | None = None, window_unit: str | None = None) -> Tensor:
        """Squares around the centres of cells, to crop the image to.

        Args:
            boxes: (N, 4) float32, left, top, right and bottom of the cells in pixels of the image.
            window_size: side of the squares in units of `window_unit`. Default: that of this processor.
            window_unit: `"nucleus"` or `"pixel"`. Default: that of this processor.

        Returns:
            (N, 4) float32, like `boxes`. A square may reach beyond the image.
        """
        side = torch.full((len(boxes),), float(window_size or self.window_size))
        if (window_unit or self.window_unit) == "nucleus":
            side = side * (boxes[:, 2:] - boxes[:, :2]).amax(1) / (1 + 2 * NUCLEUS_MARGIN)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        return torch.cat((middle - side[:, None] / 2, middle + side[:, None] / 2), 1)

    def crop(self, image: ImageInput, crop_boxes: Tensor) -> list[Tensor]:
        """Crop an image to squares; beyond the image, a crop has the colour of the image's background.

        Args:
            image: as in [`~WBCImageProcessor.find_cells`].
            crop_boxes: (N, 4), as [`~WBCImageProcessor.crop_boxes`] returns them.

        Returns:
            N tensors (3, S, S) uint8, S being the side in pixels of each square, at least 1. Their illumination is
            corrected if `do_correct_illumination` is set, so call the processor on them without it.
        """
        return self._crop(self._corrected(image), crop_boxes)

    @staticmethod
    def _crop(image: Tensor, crop_boxes: Tensor) -> list[Tensor]:
        """Crop an image (3, H, W) of any dtype."""
        _, height, width = image.shape
        background = torch.from_numpy(background_color(image.numpy(force=True))).to(image)
        crops = []
        for left, top, right, _ in crop_boxes.round().long().tolist():
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
            `pixel_values` (N, 3, H, W), `boxes` and `crop_boxes` (N, 4) and `scores` (N,), all float32. Without
            `do_find_cell` there is one cell, the whole image, with score 1.
        """
        image = self._corrected(image)
        if self.do_find_cell:
            boxes, scores = detect_cells(image.numpy(force=True))
            crop_boxes = self.crop_boxes(boxes)
            crops = self._crop(image, crop_boxes)
        else:
            crop_boxes = boxes = torch.tensor([[0.0, 0, image.shape[2], image.shape[1]]])
            scores, crops = torch.ones(1), [image]
        if crops:
            # The format is given, since it cannot be inferred of a crop that is three pixels high and wide.
            form = {"input_data_format": ChannelDimension.FIRST, "return_tensors": "pt"}
            pixel_values = self(crops, do_find_cell=False, do_correct_illumination=False, **form)["pixel_values"]
        else:
            pixel_values = torch.zeros(0, 3, self.size["height"], self.size["width"])
        return BatchFeature({"pixel_values": pixel_values, "boxes": boxes, "crop_boxes": crop_boxes, "scores": scores})

    @classmethod
    def from_dict(cls, image_processor_dict: dict, **kwargs):
        """A processor from its saved configuration; that of another class is read with `do_find_cell=False`."""
        # Other processors know no detector: their models were trained on whole images.
        if image_processor_dict.get("image_processor_type", cls.__name__) != cls.__name__:
            image_processor_dict = {**image_processor_dict, "do_find_cell": False}
        return super().from_dict(image_processor_dict, **kwargs)

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        do_rescale: bool | None = None,
        **kwargs,
    ) -> Tensor | np.ndarray:
        """Convert an image to RGB (3, H, W): uint8, or float32 in [0, 1] of such floats if `do_rescale` is `False`."""
        if isinstance(image, Image.Image):
            # `fetch_images` has converted what transformers hands over.
            return super().process_image(image if image.mode == "RGB" else upright_rgb(image), True, **kwargs)
        if not isinstance(image, (np.ndarray, Tensor)):
            raise ValueError(f"an image must be a PIL image, an array or a tensor, got {type(image)}")
        first = None if input_data_format is None else ChannelDimension(input_data_format) == ChannelDimension.FIRST
        pixels = rgb_pixels(image, first)
        # `do_rescale=False` says that the floats are scaled already; those in [0, 255] stay so.
        if do_rescale is False and "float" in str(image.dtype) and image.max() < 2:
            pixels = pixels / (255 if isinstance(pixels, Tensor) else np.float32(255))
        return super().process_image(pixels, False, ChannelDimension.FIRST, **kwargs)

    def _tensor(self, image: ImageInput) -> Tensor:
        """One image as a tensor (3, H, W) uint8."""
        return torch.as_tensor(self.process_image(self.fetch_images(image)))

    def _corrected(self, image: ImageInput) -> Tensor:
        """One image as a tensor (3, H, W) uint8, its illumination corrected if this processor does so."""
        image = self._tensor(image)
        return correct_illumination(image) if self.do_correct_illumination else image

    def _standardize_kwargs(self, **kwargs) -> dict:
        size, unit = kwargs.get("window_size"), kwargs.get("window_unit")
        if size is not None and not size > 0:
            raise ValueError(f"window_size must be above 0, got {size}")
        if unit not in (None, "nucleus", "pixel"):
            raise ValueError(f"window_unit must be 'nucleus' or 'pixel', got {unit!r}")
        return super()._standardize_kwargs(**kwargs)

    def _preprocess(
        self,
        images,
        do_correct_illumination: bool,
        do_find_cell: bool,
        window_size: float,
        window_unit: str,
        **kwargs,
    ) -> BatchFeature:
        if do_correct_illumination:
            images = [self._with_corrected_light(image) for image in images]
        if do_find_cell:
            images = [self._crop_foremost_cell(image, window_size, window_unit) for image in images]
        return super()._preprocess(images, **kwargs)

    @staticmethod
    def _with_corrected_light(image):
        """Correct an image, a tensor or an array, uint8 or floats in [0, 1], which stay what they are."""
        pixels = torch.as_tensor(image)
        if pixels.dtype == torch.uint8:
            pixels = correct_illumination(pixels)
        else:
            pixels = correct_illumination((pixels * 255).round().to(torch.uint8)).to(pixels.dtype) / 255
        return pixels if isinstance(image, Tensor) else pixels.numpy()

    def _crop_foremost_cell(self, image, window_size: float, window_unit: str):
        """Crop an image, a tensor or an array, to its foremost cell; without cells it stays whole."""
        boxes, _ = detect_cells(self._tensor(image).numpy(force=True))
        if len(boxes) == 0:
            return image
        (crop,) = self._crop(torch.as_tensor(image), self.crop_boxes(boxes[:1], window_size, window_unit))
        return crop if isinstance(image, Tensor) else crop.numpy()


WBCImageProcessor.register_for_auto_class()


__all__ = ["WBCImageProcessor"]
