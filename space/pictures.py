"""Pictures of the page: previews of images, and the crops of their cells side by side in one picture."""

import base64
import io
from urllib.parse import quote

import numpy as np
from gradio.blocks import Block
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

ATLAS_COLUMNS = 16
TILE = 112  # pixels of a side
PREVIEW_QUALITY = 90
ATLAS_QUALITY = 82


def jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode an RGB image as JPEG."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return content.getvalue()


def data_url(content: bytes) -> str:
    """Return a JPEG as a URL that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def jpeg_url(image: Image.Image, quality: int = 85) -> str:
    """Return an RGB image as a URL that holds it."""
    return data_url(jpeg(image, quality))


class PictureFolder:
    """Gradio's folder of files that it serves to those who know their names, and deletes with the uploads."""

    def __init__(self, block: Block):
        """Use the folder of a component of the page."""
        self._block = block

    def url(self, content: bytes) -> str:
        """Save a JPEG, and return its URL relative to the page's."""
        path = save_bytes_to_cache(content, "picture.jpg", self._block.GRADIO_CACHE)
        self._block.temp_files.add(path)
        return "gradio_api/file=" + quote(path.replace("\\", "/"))


def atlas(preview: Image.Image, crops: list[list[float]], width: int) -> Image.Image | None:
    """Place the crops of cells side by side, `ATLAS_COLUMNS` in a row.

    Args:
        preview: The image in RGB, of any size.
        crops: Left, top, right and bottom of each crop in pixels of the image, which may reach beyond it.
        width: The width of the image in pixels.

    Returns:
        An RGB image of tiles of `TILE` pixels on a side, or None without crops.
    """
    if not crops:
        return None
    scale = preview.width / width
    rows = -(-len(crops) // ATLAS_COLUMNS)
    picture = Image.new("RGB", (ATLAS_COLUMNS * TILE, rows * TILE))
    background = background_color(preview)
    for index, crop in enumerate(crops):
        left, top, right, bottom = (round(side * scale) for side in crop)
        side = max(1, right - left, bottom - top)
        tile = Image.new("RGB", (side, side), background)
        inside = preview.crop((max(0, left), max(0, top), min(preview.width, right), min(preview.height, bottom)))
        tile.paste(inside, (max(0, -left), max(0, -top)))
        place = (index % ATLAS_COLUMNS * TILE, index // ATLAS_COLUMNS * TILE)
        picture.paste(tile.resize((TILE, TILE), Image.Resampling.BICUBIC, reducing_gap=2), place)
    return picture


def background_color(image: Image.Image) -> tuple[int, int, int]:
    """Return the colour of the background of an RGB image: the median of its brightest three tenths."""
    small = image.copy()
    small.thumbnail((96, 96))
    pixels = np.asarray(small).reshape(-1, 3)
    brightness = pixels.sum(1)
    red, green, blue = np.median(pixels[brightness >= np.quantile(brightness, 0.7)], axis=0)
    return round(red), round(green), round(blue)
