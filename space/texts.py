"""The texts of the page in English and Chinese, read from `texts.json`."""

import json
from html import escape
from pathlib import Path
from typing import NamedTuple


class Text(NamedTuple):
    """One text in both languages."""

    en: str
    zh: str

    def format(self, **values: "Text | str | float") -> "Text":
        """Fill the placeholders of both languages, each with its own language of a value that is a `Text`."""
        english = {name: value.en if isinstance(value, Text) else value for name, value in values.items()}
        chinese = {name: value.zh if isinstance(value, Text) else value for name, value in values.items()}
        return Text(self.en.format(**english), self.zh.format(**chinese))

    def capitalize(self) -> "Text":
        """Both languages with a capital first letter."""
        return Text(self.en.capitalize(), self.zh.capitalize())

    @property
    def html(self) -> str:
        """HTML of both languages, of which the style sheet shows the one that is set in Gradio."""
        return f'<span class="en" lang="en">{self.en}</span><span class="zh" lang="zh-CN">{self.zh}</span>'


class CellType(NamedTuple):
    """A type of blood cell.

    Attributes:
        name: The name, without a capital.
        description: The appearance in a stained smear, after textbooks.
        normal_percent: The normal range in percent of the white cells of adults, after MedlinePlus; None for a type
            that healthy adults lack or that is no white cell.
    """

    name: Text
    description: Text
    normal_percent: tuple[float, float] | None


MEDLINEPLUS = '<a href="https://medlineplus.gov/ency/article/003657.htm">MedlinePlus</a>'

_DATA = json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8"))
_TEXTS = {key: Text(**languages) for key, languages in _DATA["texts"].items()}
# Texts that Gradio translates itself, by the keys that it knows them by.
GRADIO_TEXTS = {key: Text(**languages) for key, languages in _DATA["gradio"].items()}
# The ninths of a crop: rows from the top, columns from the left.
PLACES = [[Text(**languages) for languages in row] for row in _DATA["places"]]
CELL_TYPES = {
    label: CellType(
        Text(**cell_type["name"]),
        Text(**cell_type["description"]),
        tuple(cell_type["normal_percent"]) if "normal_percent" in cell_type else None,
    )
    for label, cell_type in _DATA["cell_types"].items()
}
NORMAL_PERCENT = {label: kind.normal_percent for label, kind in CELL_TYPES.items() if kind.normal_percent}


def text(key: str, **values: Text | str | float) -> Text:
    """Return the text of a key of `texts.json`, an HTML fragment, with its placeholders filled.

    Args:
        key: For example "verdict.empty".
        **values: HTML or numbers for the placeholders; a `Text` where they differ between the languages.
    """
    return _TEXTS[key].format(**values)


def type_name(label: str) -> Text:
    """Return the name of a cell type as HTML; a type that `texts.json` lacks is named by its label."""
    return CELL_TYPES[label].name if label in CELL_TYPES else Text(escape(label), escape(label))


def percentage(probability: float) -> str:
    """Format a probability in percent, and never as certainty."""
    return "> 99 %" if probability > 0.99 else f"{100 * probability:.0f} %"
