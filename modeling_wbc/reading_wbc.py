"""Reading of images: files, PIL images, arrays and tensors become upright RGB with 8 bits per channel.

Training and inference read by `read_image`, or by `rgb_pixels` what is an array already, so that both see the same
pixels. Pillow alone does not suffice: its conversion clips 16 bits of grey to white, it reads 12 bits of colour in a
16-bit file as almost black, and 16 bits in uncompressed planes as noise.
"""

import base64
import binascii
import io
import os
import sys
import urllib.request
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

# Formats of photographs, and none that Pillow passes to another program, as it does PostScript.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY_MODES = ("L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_EXPECTED = "integers from 0 to 65535 or floats from 0 to 1 or from 0 to 255"
_HALF_LEVEL = 0.5 / 255  # what rounds to a level of 8 bits is in range
# Floats whose maximum lies between 1 and this are neither: normalised by a mean and a deviation, or overshot in a
# resize. In [0, 255], such an image would be black.
_MIN_BYTE_RANGE = 3.0
_DOWNLOAD_TIMEOUT = 60.0  # seconds
# Tags of TIFF.
_SUBFILE_TYPE, _BITS, _PHOTOMETRIC, _SAMPLES, _ORIENTATION, _PLANAR = 254, 258, 262, 277, 274, 284


class ImageReadError(OSError, ValueError):
    """An image that cannot be read. The message names the file and the reason."""


def read_image(source) -> Image.Image:
    """Read one image.

    Args:
        source: a path; an `http(s)` or `data:` URL or base64; an encoded file as bytes, as an open binary file or as a
            row `{"bytes": ..., "path": ...}` of `datasets.Image(decode=False)`; a PIL image; or an array or tensor as
            in `rgb_pixels`.

    Returns:
        A new PIL image in mode RGB, upright by its EXIF orientation, transparency on white. Of several pages or frames
        it is the first, or the current one of a PIL image, and `image.info["pages"]` is their number. Three grey pages
        of a TIFF are joined as red, green and blue, and are one page.

    Raises:
        ImageReadError: if the image cannot be read.
    """
    name = _name(source)
    try:
        if isinstance(source, (np.ndarray, Tensor)):
            pixels = rgb_pixels(source)
            pixels = pixels.numpy(force=True) if isinstance(pixels, Tensor) else pixels
            return Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))
        return upright_rgb(source) if isinstance(source, Image.Image) else _decode(_open(source))
    except Image.DecompressionBombError as error:
        most = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        reason = f"it states more than {most}, as a decompression bomb does; cut out a part of it"
        raise ImageReadError(f"cannot read the image {name}: {reason}") from error
    except Exception as error:  # decoders raise errors of every kind for damaged files
        raise ImageReadError(f"cannot read the image {name}: {error or type(error).__name__}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a PIL image as `read_image` does.

    What Pillow has loaded of a file already stays as loaded: of 16 bits per channel in colour the upper 8.

    Raises:
        ValueError: if the values are out of range, or the layout of the file needs a package that is missing.
    """
    pages = 1
    if isinstance(image, ImageFile.ImageFile):
        # The other frames of an MPO are previews and gain maps of the same photograph.
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        image.info.pop("pages", None)  # a text of a PNG may have this name
        image, pages = _decode_deep(image, pages)
    if image.mode in _GREY_MODES and image.mode != "L":
        image = _with_orientation(Image.fromarray(to_eight_bits(np.asarray(image))), image)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    image = _to_rgb(image)
    if pages > 1:
        image.info["pages"] = pages
    return image


def rgb_pixels(image: np.ndarray | Tensor, channels_first: bool | None = None) -> np.ndarray | Tensor:
    """Convert one image from an array or tensor to RGB, 8 bits per channel, see `to_eight_bits`.

    Args:
        image: (H, W) grey, or with 1, 3 (RGB) or 4 (RGBA) channels first or last. An array may have any strides and be
            read-only; a tensor may lie on any device, have dtype bfloat16 and require a gradient.
        channels_first: whether the channels come first. By default, they do where the first axis has 1, 3 or 4
            entries, even if the last has, too.

    Returns:
        (3, H, W) uint8, of the same type and on the same device, writable; transparency on white.

    Raises:
        ValueError: if the shape or the values are out of range.
    """
    if isinstance(image, Tensor):
        ready = image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0
        if ready and channels_first is not False:
            return image
        # NumPy has no bfloat16; float32 holds what matters of all floats.
        array = (image.float() if image.is_floating_point() else image).numpy(force=True)
        return torch.from_numpy(rgb_pixels(array, channels_first)).to(image.device)
    axis = -1
    if image.ndim == 2:
        image = image[..., None]
    elif image.ndim == 3 and (image.shape[0] in (1, 3, 4) if channels_first is None else channels_first):
        axis = 0
    if image.ndim != 3 or image.shape[axis] not in (1, 3, 4) or image.size == 0:
        raise ValueError(
            "an image must have one channel (grey), three channels (RGB) or four (RGBA), first or last, and at least "
            f"one pixel, got {image.dtype} {image.shape}"
        )
    colors, alpha = np.split(image, [3], axis)
    pixels = np.moveaxis(to_eight_bits(colors), axis, 0)
    if alpha.size:
        rgba = _merged("RGBA", [*pixels, *np.moveaxis(to_eight_bits(alpha), axis, 0)])
        return np.array(_to_rgb(rgba)).transpose(2, 0, 1)
    if len(pixels) == 1:
        return np.repeat(pixels, 3, axis=0)
    return pixels if pixels.flags.writeable and min(pixels.strides) >= 0 else pixels.copy()


def to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Reduce pixels to 8 bits by their dtype and maximum.

    - uint8 stays as it is, and False and True become 0 and 255.
    - Other integers have 8, 10, 12, 14 or 16 significant bits, the fewest that hold the maximum; the upper 8 stay.
    - Floats with a maximum of at most 1 are multiplied by 255 and rounded, others with one from 3 to 255 are rounded.
      Each image is judged by itself: of a float image in [0, 255], values up to 1 alone would be black without a cell.

    Args:
        pixels: of any shape with at least one entry.

    Returns:
        uint8, of the same shape.

    Raises:
        ValueError: if the dtype is another, or a value is negative, not finite or beyond these ranges.
    """
    kind = pixels.dtype.kind
    if pixels.dtype == np.uint8:
        return pixels
    if kind == "b":
        return pixels * np.uint8(255)
    if kind not in "iuf":
        raise ValueError(f"an image must have {_EXPECTED}, got {pixels.dtype} {pixels.shape}")
    low, high = pixels.min().item(), pixels.max().item()
    if kind in "iu" and 0 <= low and high < 1 << 16:
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
        return (pixels >> (bits - 8)).astype(np.uint8)
    if kind == "f" and low > -_HALF_LEVEL and high < 1 + _HALF_LEVEL:
        return np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)
    if kind == "f" and low > -0.5 and _MIN_BYTE_RANGE <= high < 255.5:
        return np.rint(pixels).astype(np.uint8)
    raise ValueError(
        f"an image must have {_EXPECTED}, got {pixels.dtype} {pixels.shape} from {low:.6g} to {high:.6g}"
        + ("; undo its normalisation, or clip it" if kind == "f" and low > -10 and high < _MIN_BYTE_RANGE else "")
    )


def _name(source) -> str:
    """Name the source of an image in an error."""
    if isinstance(source, Mapping):
        source = source.get("path") or ""
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None)
    name = name if isinstance(name, str) and name else "in memory"
    return name if len(name) < 1000 else f"{name[:60]}..."


def _open(source) -> str | BinaryIO:
    """Return the path or the open file that a source of `read_image` stands for."""
    if isinstance(source, Mapping):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if hasattr(source, "read"):
        if isinstance(source, io.TextIOBase):
            raise ValueError("it is open as text; open it in binary mode")
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"it must be a path, a URL, bytes, an open file, an image or an array, got {type(source)}")
    path = os.fspath(source)
    if path.startswith(("http://", "https://")):
        # Some servers refuse Python's own name.
        request = urllib.request.Request(path, headers={"User-Agent": "Mozilla/5.0 (compatible; WBCImageProcessor)"})
        with urllib.request.urlopen(request, timeout=_DOWNLOAD_TIMEOUT) as answer:
            return io.BytesIO(answer.read())
    if os.path.exists(path):
        return path
    encoded = path.partition(",")[2] if path.startswith("data:") else path
    try:
        return io.BytesIO(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError("there is no such file") from error


def _decode(file: str | BinaryIO) -> Image.Image:
    """Decode a file as `read_image` does."""
    Image.init()
    try:
        with Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
            return upright_rgb(image)
    except UnidentifiedImageError as error:
        if isinstance(file, str):
            with open(file, "rb") as opened:
                return _decode_otherwise(opened, error)
        return _decode_otherwise(file, error)


def _decode_otherwise(file: BinaryIO, error: UnidentifiedImageError) -> Image.Image:
    """Decode a file that Pillow alone does not: HEIC by pillow-heif, TIFF by tifffile."""
    file.seek(0)
    start = file.read(12)
    file.seek(0)
    if start[:4] in _TIFF_SIGNATURES:
        return _decode_tiff(file)
    if start[4:8] == b"ftyp" and start[8:] in _HEIF_BRANDS:
        try:
            import pillow_heif
        except ImportError:
            raise ValueError("it is HEIC: install pillow-heif, or save it as JPEG or PNG") from error
        return upright_rgb(pillow_heif.open_heif(file).to_pillow())
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        raise ValueError("it is AVIF: install Pillow 11.3 or newer, or save it as JPEG or PNG") from error
    formats = ", ".join((*_FORMATS, "HEIC"))
    reason = f"it is no image of the formats {formats}, or damaged; save it as PNG, TIFF or JPEG"
    raise ValueError(reason) from error


def _decode_deep(image: ImageFile.ImageFile, pages: int) -> tuple[Image.Image, int]:
    """Decode what Pillow reads wrongly or in part of a file; return other images as they are, and the page count."""
    tiff = getattr(image, "tag_v2", {})  # of TIFF only
    file: Any = image.fp
    if tiff.get(_SUBFILE_TYPE, 0) & 1 and image.tell() == 0:
        raise ValueError("its first page is a preview, as in a camera's raw file; export it as TIFF, PNG or JPEG")
    rawmodes = {str(tile.args if isinstance(tile.args, str) else tile.args[0]) for tile in image.tile if tile.args}
    deep = any(";16" in rawmode for rawmode in rawmodes) and image.mode in ("RGB", "RGBA", "RGBX", "LA")
    planar = tiff.get(_PLANAR) == 2 and len(image.tile) > 0
    misread = len(image.getbands()) != tiff.get(_SAMPLES) or (max(tiff.get(_BITS, (1,))) > 8 and not deep)
    if planar and misread:
        return _decode_tiff(file), 1
    if tiff and pages == 3 and image.tell() == 0 and image.mode in _GREY_MODES:
        return _join_pages(image)
    if image.mode.startswith("I;16") and tiff.get(_PHOTOMETRIC) == 0:  # white is zero
        return _with_orientation(Image.fromarray(255 - to_eight_bits(np.asarray(image))), image), pages
    if not deep:
        return image, pages
    # Pillow keeps the upper byte of 16 bits per channel. With 14 bits or fewer, the lower byte is needed, too.
    file.seek(0)
    content, page = io.BytesIO(file.read()), image.tell()
    upper = np.asarray(image)
    colors = 1 if image.mode == "LA" else 3
    if upper[..., :colors].max() >= 1 << 6:
        return image, pages
    if planar:
        return _decode_tiff(content), 1
    with Image.open(content, formats=[str(image.format)]) as again:
        again.seek(page)
        again.tile = [_with_swapped_bytes(tile) for tile in again.tile]
        pixels = upper.astype(np.uint16) << 8 | np.asarray(again)
    bands = [*np.moveaxis(to_eight_bits(pixels[..., :colors]), -1, 0)]
    bands += [to_eight_bits(pixels[..., band]) for band in range(colors, pixels.shape[-1])]
    return _with_orientation(_merged(image.mode, bands), image), pages


def _with_swapped_bytes(tile):
    """Return a tile of Pillow's decoder that takes the lower byte of 16 bits for the upper one."""
    native = "L" if sys.byteorder == "little" else "B"
    rawmode, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args
    order = native if rawmode[-1] == "N" else rawmode[-1]
    rawmode = rawmode[:-1] + ("B" if order == "L" else "L")
    return tile._replace(args=(rawmode, *rest) if rest else rawmode)


def _join_pages(image: ImageFile.ImageFile) -> tuple[Image.Image, int]:
    """Join three grey pages as red, green and blue, with one range; return the first page if they do not match."""
    pages, size = [], image.size
    for page in range(3):
        image.seek(page)
        if image.mode in _GREY_MODES and image.size == size:  # before a page is decoded, which may be a bomb
            pages.append(np.asarray(image))
    image.seek(0)
    if len({page.dtype for page in pages}) != 1 or len(pages) != 3:
        return image, 3
    return _with_orientation(_merged("RGB", to_eight_bits(np.stack(pages))), image), 1


def _decode_tiff(file: BinaryIO) -> Image.Image:
    """Decode a TIFF by tifffile: floats in colour, and colours in planes."""
    try:
        import tifffile
    except ImportError as error:
        raise ValueError("its layout needs tifffile: install it, or save the image as PNG or RGB TIFF") from error
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        series = tiff.series[0]
        page = series.keyframe
        if Image.MAX_IMAGE_PIXELS is not None and series.size > 4 * 2 * Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            colors = tifffile.PHOTOMETRIC(page.photometric).name
            raise ValueError(f"its colours are {colors}; save it as RGB")
        pixels, axes, pages = series.asarray(), series.axes, 1
        channels = next((axis for axis in "SC" if axis in axes and pixels.shape[axes.index(axis)] in (3, 4)), "")
        for axis in [axis for axis in axes if axis not in f"YX{channels}"]:
            pages *= pixels.shape[axes.index(axis)]
            pixels, axes = pixels.take(0, axes.index(axis)), axes.replace(axis, "")
        pixels = pixels.transpose([axes.index(axis) for axis in f"{channels}YX"])
        orientation = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
    image = read_image(pixels)
    image.getexif()[_ORIENTATION] = orientation
    if pages > 1:
        image.info["pages"] = pages
    return image


def _with_orientation(image: Image.Image, original: Image.Image) -> Image.Image:
    image.getexif()[_ORIENTATION] = original.getexif().get(_ORIENTATION, 1)
    return image


def _merged(mode: str, bands) -> Image.Image:
    return Image.merge(mode, [Image.fromarray(np.ascontiguousarray(band)) for band in bands])


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of 8 bits per channel to a new one in RGB, transparency on white."""
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(image)
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


__all__ = ["ImageReadError", "read_image", "rgb_pixels", "to_eight_bits", "upright_rgb"]
