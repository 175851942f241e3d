"""Fonts for class names in any script."""

import unicodedata
from functools import cache

from PIL import ImageFont, features

# Where Pillow's own font lacks a letter, fonts that Linux, Windows and macOS come with or offer, in this order. Pillow
# looks for them in the folders of the system.
_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "segoeui.ttf",
    "Arial Unicode.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "DroidSansFallback.ttf",
    "msyh.ttc",
    "simsun.ttc",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "STHeiti Light.ttc",
    "msgothic.ttc",
    "malgun.ttf",
    "AppleSDGothicNeo.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "Nirmala.ttf",
    "LeelawUI.ttf",
    "FreeSans.ttf",
    "unifont.ttf",
)


def legible(text: str, size: float, fallback: str) -> tuple[str, ImageFont.ImageFont | ImageFont.FreeTypeFont]:
    """A font that has every letter of a text.

    Args:
        text: any text.
        size: height of the font in pixels.
        fallback: ASCII text to show instead if no font has every letter.

    Returns:
        The text, or `fallback`, and a font for it.
    """
    for name in (None, *_FONTS):
        if (font := _load(name, size)) is not None and has_letters(font, text):
            return text, font
    return fallback, ImageFont.load_default(size)


def has_letters(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether a font has a glyph for every letter of a text, and not the box that stands for a missing one."""
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType has a bitmap of Latin 1
        return text.isascii()
    if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in text) and not features.check("raqm"):
        return False  # letters would stand alone and from left to right
    box = _glyph(font, "\uffff")  # no character, so in no font
    return all(letter.isascii() or letter.isspace() or _glyph(font, letter) != box for letter in text)


def _glyph(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _load(name: str | None, size: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont | None:
    """A font by its file's name, Pillow's own by None; None if there is no such file."""
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except (OSError, ImportError):
        return None
