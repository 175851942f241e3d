"""Pictures of the page as data URLs: previews, heat maps, thumbnails."""

import base64
import io

import numpy as np
from PIL import Image

from space.texts import PLACES, Text

THUMBNAIL_SIZE = 72
_HEAT_MAP_SIZE = 96


def jpeg_url(image: Image.Image, quality: int = 85) -> str:
    """Return an RGB image as a data URL."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def heat_map_url(activation_map: list[list[float]], side: float) -> str:
    """Draw an activation map as a transparent PNG of 96 x 96 pixels, and return its data URL.

    The picture is transparent where the map is at most 0, then yellow to red at the maximum of the map.

    Args:
        activation_map: Rows of the evidence for a type, whose values lie at 0, 1, ... on either axis of the crop.
        side: Where the crop ends, in the same unit.
    """
    values = np.maximum(np.array(activation_map), 0)
    values = values / max(values.max(), 1e-6)
    for _ in range(2):  # along one axis, then the other
        places = np.linspace(0, side, _HEAT_MAP_SIZE)
        values = np.stack([np.interp(places, np.arange(len(line)), line) for line in values.T])
    pixels = np.stack((np.full_like(values, 255), 220 * (1 - values), 0 * values, 255 * values), -1)
    content = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def hottest_place(activation_map: list[list[float]], side: float) -> Text:
    """Name the ninth of the crop that holds the maximum of its activation map; arguments as in `heat_map_url`."""
    values = np.array(activation_map)
    row, column = (min(2, int(3 * place / side)) for place in np.unravel_index(values.argmax(), values.shape))
    return PLACES[row][column]


def thumbnail_url(answer: dict, preview: Image.Image, cell: dict) -> str:
    """Cut the crop of a cell out of the preview, and return it as a small JPEG's data URL."""
    scale = preview.width / answer["width"]
    left, top, right, bottom = (round(value * scale) for value in cell["window"])
    return jpeg_url(preview.crop((left, top, right, bottom)).resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE)), 80)
