"""The scale that an image file states, in micrometres per pixel."""

import os
import re
from typing import BinaryIO

from PIL import Image

_X_RESOLUTION, _RESOLUTION_UNIT, _DESCRIPTION = 282, 296, 270  # tags of TIFF
_MICROMETRES = {2: 25_400.0, 3: 10_000.0}  # in TIFF's units: the inch and the centimetre
_RANGE = (0.01, 2.0)  # of microscopes; 72 dots per inch is what programs write that know no scale
_OME_UNITS = {"nm": 1e-3, "\u00b5m": 1.0, "\u03bcm": 1.0, "um": 1.0, "mm": 1e3}


def micrometres_per_pixel(source: str | os.PathLike | BinaryIO) -> float | None:
    """Return the scale that the TIFF tags, OME-XML or ImageJ's description of a file state.

    Args:
        source: A path or an open binary file, whose position is kept.

    Returns:
        Micrometres per pixel, from 0.01 to 2; None if the file states none that a microscope has.
    """
    position = source.tell() if hasattr(source, "tell") else 0
    try:
        if hasattr(source, "seek"):
            source.seek(0)
        with Image.open(source) as image:
            tags = dict(getattr(image, "tag_v2", {}))
    except Exception:  # decoders raise errors of every kind; why an image cannot be read is said elsewhere
        return None
    finally:
        if hasattr(source, "seek"):
            source.seek(position)
    scale = _of_description(str(tags.get(_DESCRIPTION, "")), tags) or _of_resolution(tags)
    return scale if scale and _RANGE[0] <= scale <= _RANGE[1] else None


def _of_resolution(tags: dict, unit: float | None = None) -> float | None:
    resolution = float(tags.get(_X_RESOLUTION) or 0)
    unit = unit or _MICROMETRES.get(tags.get(_RESOLUTION_UNIT, 2))
    return unit / resolution if resolution and unit else None


def _of_description(description: str, tags: dict) -> float | None:
    try:  # OME-XML is UTF-8, which Pillow reads as Latin-1
        description = description.encode("latin-1").decode("utf-8")
    except UnicodeError:
        pass
    if match := re.search(r'PhysicalSizeX="([0-9.eE+-]+)"', description):
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', description)
        factor = _OME_UNITS.get(unit[1] if unit else "um")
        return float(match[1]) * factor if factor else None
    if re.search(r"unit=(micron|um|\\u00B5m|\u00b5m)\b", description):
        return _of_resolution(tags, 1.0)
    return None
