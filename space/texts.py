"""The texts of the page in English and Chinese, read from `texts.json`."""

import json
import re
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

    @property
    def html(self) -> str:
        """HTML of both languages, of which the style sheet shows the one that is set."""
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


MEDLINEPLUS_URL = "https://medlineplus.gov/ency/article/003657.htm"

_DATA = json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8"))
_TEXTS = {key: Text(**languages) for key, languages in _DATA["texts"].items()}
# Texts that the page's script fills and shows, by the keys that it knows them by.
PAGE_TEXTS = {key: Text(**languages) for key, languages in _DATA["page"].items()}
WORKING = Text(**_DATA["working"]["text"])
# The stages of maturation, the attributes, and the values of each as `attribute.value`.
STAGES, ATTRIBUTES, VALUES = (
    {name: Text(**languages) for name, languages in _DATA[kind].items()} for kind in ("stages", "attributes", "values")
)
_REASONS = [(re.compile(pattern, re.DOTALL), chinese) for pattern, chinese in _DATA["reasons"]]
CELL_TYPES = {
    label: CellType(
        Text(**cell_type["name"]),
        Text(**cell_type["description"]),
        tuple(cell_type["normal_percent"]) if "normal_percent" in cell_type else None,
    )
    for label, cell_type in _DATA["cell_types"].items()
}


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


def reason_text(reason: str) -> Text:
    """Return why a file cannot be read in both languages; the English one, where `texts.json` lacks the Chinese.

    Args:
        reason: The `remark` of an unreadable answer.
    """
    for pattern, chinese in _REASONS:
        if match := pattern.fullmatch(reason):
            return Text(reason, chinese.format(*match.groups()))
    return Text(reason, reason)
