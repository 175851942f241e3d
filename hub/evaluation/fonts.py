"""Fonts of plots for names in any script."""

import unicodedata
from collections.abc import Iterable
from functools import cache

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

# From this version on, matplotlib joins Arabic letters and sets them from right to left.
_RIGHT_TO_LEFT = (3, 11)


def legible(text: str, fallback: str | None = None) -> str:
    """A text that the installed fonts can show; `set_fonts` sets them.

    Args:
        text: Any text, such as the name of a class.
        fallback: An ASCII text to return if no font has every letter. Default: the text with question marks for the
            letters that no font has.
    """
    lacking = {letter for letter in _unusual(text) if _family_with(letter) is None}
    if not lacking:
        return text
    return fallback if fallback is not None else "".join("?" if letter in lacking else letter for letter in text)


def legible_names(names: Iterable[str], kind: str = "class") -> list[str]:
    """Names that the installed fonts can show; others become `kind` and their index, such as "class 3"."""
    return [legible(name, f"{kind} {index}") for index, name in enumerate(names)]


def set_fonts(figure: Figure) -> None:
    """Set the fonts of each text of a figure to ones that together have every letter of it."""
    for text in figure.findobj(Text):
        letters = _unusual(text.get_text())
        if letters:
            # One family for all letters if there is one, since letters of several look patched.
            found = _family_with(letters)
            families = [found] if found else sorted({name for letter in letters if (name := _family_with(letter))})
            text.set_fontfamily([*matplotlib.rcParams["font.family"], *families])


def _unusual(text: str) -> str:
    """The letters of a text that the font of plots lacks, each once and in order."""
    usual = _letters(findfont(FontProperties(family=matplotlib.rcParams["font.family"])))
    turned = matplotlib.__version_info__[:2] < _RIGHT_TO_LEFT
    return "".join(
        letter
        for letter in dict.fromkeys(text)
        if not letter.isspace() and (ord(letter) not in usual or (turned and _is_right_to_left(letter)))
    )


def _is_right_to_left(letter: str) -> bool:
    return unicodedata.bidirectional(letter) in ("R", "AL")


@cache
def _letters(path: str) -> frozenset[int]:
    """Code points that a font has, by its file."""
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):  # a damaged file, or a format that FreeType cannot read
        return frozenset()


def _family_with(letters: str) -> str | None:
    """An installed family that has all of these letters, upright fonts of normal weight first; None without one."""
    if matplotlib.__version_info__[:2] < _RIGHT_TO_LEFT and any(map(_is_right_to_left, letters)):
        return None
    codes = set(map(ord, letters))
    # A font of last resort has a box for every code point, and STIXNonUnicode has its signs where others have letters.
    names = [font.name.lower().replace(" ", "") for font in fontManager.ttflist]
    fonts = [
        font
        for font, name in zip(fontManager.ttflist, names, strict=True)
        if "lastresort" not in name and "nonunicode" not in name
    ]
    fonts.sort(key=lambda font: (font.style != "normal", font.weight != 400, font.name))
    return next((font.name for font in fonts if codes <= _letters(font.fname)), None)
