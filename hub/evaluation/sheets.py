"""Contact sheets: many images in one picture, each under its caption, with boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from modeling_wbc.reading_wbc import read_image

_GAP = 4
_LINE = 14
_ANNOTATED, _FOUND = "#00c000", "#ff0000"


class BoxedImage(NamedTuple):
    """An image for `boxes_sheet`.

    Attributes:
        caption: One line of text.
        image: The image or its file.
        boxes: The detected boxes (N, 4) in pixels: left, top, right and bottom.
        annotated: The annotated boxes (M, 4).
    """

    caption: str
    image: Image.Image | Path
    boxes: Tensor
    annotated: Tensor = torch.zeros(0, 4)


def boxes_sheet(images: Sequence[BoxedImage], columns: int = 4, width: int = 320) -> Image.Image:
    """Draw images side by side, with annotated boxes in green and detected ones in red.

    Args:
        images: Of any sizes.
        columns: The number of images in a line.
        width: The width of each image in the sheet, in pixels.
    """
    tiles = []
    for caption, source, boxes, annotated in images:
        image = source if isinstance(source, Image.Image) else read_image(source)
        scale = width / image.width
        tile = image.resize((width, round(image.height * scale)))
        pen = ImageDraw.Draw(tile)
        for color, group in ((_ANNOTATED, annotated), (_FOUND, boxes)):
            for left, top, right, bottom in (group * scale).tolist():
                pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=2)
        tiles.append(captioned(tile, caption))
    return contact_sheet(tiles, columns, width)


def captioned(image: Image.Image, caption: str) -> Image.Image:
    """The image below a white strip with its caption, of one or several lines."""
    strip = _LINE * len(caption.splitlines()) + 2
    tile = Image.new("RGB", (image.width, image.height + strip), "white")
    tile.paste(image, (0, strip))
    ImageDraw.Draw(tile).text((2, 2), caption, fill="black")
    return tile


def contact_sheet(tiles: Sequence[Image.Image], columns: int, width: int) -> Image.Image:
    """Lay out tiles of one width and of any heights in lines of `columns`; without a tile, the sheet is blank."""
    height = max((tile.height for tile in tiles), default=_LINE) + _GAP
    lines = max(1, -(-len(tiles) // columns))
    sheet = Image.new("RGB", (columns * (width + _GAP), lines * height), "white")
    for number, tile in enumerate(tiles):
        sheet.paste(tile, (number % columns * (width + _GAP), number // columns * height))
    return sheet
