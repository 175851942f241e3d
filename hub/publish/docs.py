"""Figures of the README, the docs and the model card, rendered from the results that they come from.

`python -m hub docs` rewrites what differs, `python -m hub docs --check` names it. A Markdown file marks what is
rendered by comments that a reader of the page does not see:

- a figure by its address, in a comment right behind it: `90.3 (77.9 to 98.0)<!-- =checkpoint/splits/... -->`;
- a table by its name, between two comments: `<!-- table: NAME -->` and `<!-- end -->`, each on a line of its own.

An address is the name of a results file and the keys to a value in it, joined by slashes: `checkpoint` stands for
`hub/checkpoint/results.json`, any other name for `results/<name>/results.json`. See `figure_text` for how values are
written. A table is one of `TABLES`, one that the caller gives, or the address of a list of rows.
"""

import functools
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hub.evaluation.format import (
    adaptation_table,
    format_difference,
    format_interval,
    format_percent,
    labs_table,
    markdown_table,
    ood_tables,
    robustness_table,
)
from hub.evaluation.heads import heads_rows
from hub.files import UserError

ROOT = Path(__file__).parents[2]
CHECKPOINT = Path("hub", "checkpoint")

_FIGURE = re.compile(r"(?P<text>[+-]?\d[\d,.]*(?:\s\([^()]*\))?)?<!--\s*=(?P<address>[^>]*?)\s*-->")
_TABLE = re.compile(r"(?P<begin><!-- table: (?P<name>[^>\n]*?) -->\n)(?P<body>.*?)(?P<end>\n<!-- end -->)", re.DOTALL)

# The rows of the checkpoint's tables: title, split, part of it.
_BCCD_ROWS = (
    ("BCCD TEST, over its four types", "test", "bccd_4_classes"),
    ("BCCD TEST, over all eight", "test", "bccd"),
    ("BCCD TEST, without doubtful labels", "test", "bccd_without_doubtful_labels"),
    ("BCCD TEST, without fields that training images show", "test", "bccd_without_seen_fields"),
    ("BCCD TEST's photographs themselves", "test_photographs", "bccd_4_classes"),
    ("BCCD TEST_SIMPLE", "test_simple", "bccd_4_classes"),
    ("BCCD validation", "validation", "bccd_4_classes"),
)
_OTHER_ROWS = (
    ("PBC test", "test", "pbc"),
    ("PBC validation", "validation", "pbc"),
    ("Chula validation", "validation", "chula"),
)
_CHECKPOINT_ROWS = _BCCD_ROWS + _OTHER_ROWS
_README_ROWS = tuple(row for row in _CHECKPOINT_ROWS if row[1] != "validation" and row[2] != "bccd")


class Results:
    """The results files under a folder, read when they are asked for."""

    def __init__(self, root: Path):
        self.root = root
        self.read = functools.cache(self._read)

    def _read(self, name: str, file: str = "results") -> dict:
        path = Path(CHECKPOINT if name == "checkpoint" else Path("results", name), f"{file}.json")
        try:
            return json.loads((self.root / path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"there is no {path}: mend the address that begins with {name}") from None

    def find(self, address: str) -> tuple[Any, dict | list, str]:
        """Find a value by its address.

        Args:
            address: `<name>/<key>/<key>...`; a number stands for the place in a list.

        Returns:
            The value, the dict or list that holds it, and its key there.

        Raises:
            UserError: There is no such file or key.
        """
        name, *keys = address.split("/")
        value, holder, key = self.read(name), {}, name
        for key in keys:
            holder = value
            try:
                value = holder[int(key)] if isinstance(holder, list) else holder[key]
            except (KeyError, IndexError, TypeError, ValueError):
                raise UserError(f"the results hold no {address}: nothing is called {key} there") from None
        return value, holder, key


def figure_text(results: Results, address: str) -> str:
    """Write the figure at an address.

    A share with an interval is written in percent, `90.3 (77.9 to 98.0)`; a difference in points, with signs; a whole
    number with commas, `2,487`; any other number as it stands, or in percent if the address ends with ` %`.

    Args:
        results: Where to look.
        address: See the module.

    Raises:
        UserError: There is no such value, or it is not a figure.
    """
    percent = address.endswith(" %")
    value, holder, key = results.find(address.removesuffix(" %"))
    match holder:
        case dict() if key in holder.get("intervals", {}):
            return format_percent(holder, key)
        case {"interval": [low, high]} if key == "mean":
            return format_interval((value, low, high))
        case {"difference": _, "low": _, "high": _} if key == "difference":
            return _text(holder, address)
    if percent and isinstance(value, int | float):
        return f"{100 * value:.1f}"
    return _text(value, address)


def _text(value: Any, name: str) -> str:
    """The text of the figure `name`; raise `UserError` if it is none."""
    match value:
        case {"difference": _, "low": _, "high": _}:
            return format_difference(value)
        case [int() | float(), int() | float(), int() | float()]:
            return format_interval(value)
        case bool() | dict() | list() | None:
            raise UserError(f"{name} is no figure, but {type(value).__name__}: name one below it")
        case int():
            return f"{value:,}"
        case _:
            return str(value)


def rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows with the same keys as a Markdown table: the keys are its head, the first column the names.

    Raises:
        UserError: A value is no figure.
    """
    return markdown_table([[*rows[0]], *([_text(value, name) for name, value in row.items()] for row in rows)])


def _checkpoint_table(results: Results, rows: Sequence[tuple[str, str, str]]) -> str:
    head = ["Images", "Number", "Photographs", "Accuracy (%)", "Macro F1 (%)", "Calibration error (%)", "Accepted (%)"]
    table = [head]
    splits = results.read("checkpoint")["splits"]
    for title, split, part in rows:
        found = splits[split]["subsets"][part]
        accuracy, macro_f1, calibration, kept = (
            format_percent(found, name) for name in ("accuracy", "macro_f1", "expected_calibration_error", "kept")
        )
        if not all(map(sum, found["confusion_matrix"])):
            macro_f1 = "–"  # Types without an image count as 0 in it.
        photographs = str(found.get("num_photographs", "–"))
        table.append([title, f"{found['num_images']:,}", photographs, accuracy, macro_f1, calibration, kept])
    return markdown_table(table)


def _ood_table(results: Results) -> str:
    refused, _ = ood_tables(results.read("checkpoint"))
    return markdown_table(refused)


TABLES: dict[str, Callable[[Results], str]] = {
    "readme": lambda results: _checkpoint_table(results, _README_ROWS),
    "checkpoint": lambda results: _checkpoint_table(results, _CHECKPOINT_ROWS),
    "heads": lambda results: markdown_table(heads_rows(results.read("checkpoint")["splits"]["test"])),
    "labs": lambda results: markdown_table(labs_table(results.read("labs"))),
    "corruptions": lambda results: markdown_table(robustness_table(results.find("labs/corruptions")[0])),
    "adaptation": lambda results: markdown_table(adaptation_table(results.read("labs", "adaptation"))),
    "ood": _ood_table,
}


def table_text(results: Results, name: str, given: Mapping[str, Callable[[Results], str]]) -> str:
    """Write the table `name`, from `TABLES`, from `given`, or the rows at that address.

    Raises:
        UserError: There is no such table, or it holds something that is no figure.
    """
    tables = {**TABLES, **given}
    if write := tables.get(name):
        return write(results)
    rows, *_ = results.find(name)
    if not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
        raise UserError(f"there is no table {name}: name one of {', '.join(sorted(tables))}, or a list of rows")
    return rows_table(rows)


def render(text: str, results: Results, given: Mapping[str, Callable[[Results], str]]) -> tuple[str, list[str]]:
    """Render the marked figures and tables of a Markdown text.

    Args:
        text: The text as it stands.
        results: The results that it quotes.
        given: More tables, beside `TABLES`.

    Returns:
        The text as the results have it, and a line for each mark where it differs from the one given.

    Raises:
        UserError: A mark has no figure before it, or names nothing in the results.
    """
    differences = []

    def table(match: re.Match) -> str:
        written = table_text(results, match["name"], given)
        if match["body"].strip() != written:
            differences.append(f"table {match['name']}")
        return f"{match['begin']}\n{written}\n{match['end']}"

    def figure(match: re.Match) -> str:
        address = " ".join(match["address"].split())
        written = figure_text(results, address)
        if match["text"] is None:
            raise UserError(f"no figure stands right before the mark of {address}: write {written} there")
        if " ".join(match["text"].split()) == written:
            return match[0]
        differences.append(f"{address}: the text has {match['text']}, the results {written}")
        return match[0].replace(match["text"], written, 1)

    if text.count("<!-- table:") != len(_TABLE.findall(text)):
        raise UserError("a table has no <!-- end --> on a line of its own")
    return _FIGURE.sub(figure, _TABLE.sub(table, text)), differences


def card_text(checkpoint: Path) -> str:
    """Render the model card of a checkpoint from its `results.json`."""
    # PyTorch and transformers come with it; the texts above do without.
    from hub.publish.model import write_results_card
    from hub.publish.model_card import PLOTS

    results = json.loads((checkpoint / "results.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, checkpoint.name)
        folder.mkdir()
        for name in PLOTS:  # The card shows the plots that lie beside it.
            if (checkpoint / name).is_file():
                (folder / name).touch()
        write_results_card(folder, results)
        return (folder / "README.md").read_text(encoding="utf-8")


def update(
    root: Path | None = None, *, check: bool = False, given: Mapping[str, Callable[[Results], str]] | None = None
) -> list[str]:
    """Bring README, docs and the checkpoint's card in line with the results.

    Args:
        root: The repository. Default: the one that this file is in.
        check: Whether to leave the files as they are.
        given: Tables that other rooms write, by name.

    Returns:
        A line for each figure, table or card that differed, with its file first.

    Raises:
        UserError: A mark names nothing in the results.
    """
    root = root or ROOT
    results, found = Results(root), []
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        try:
            rendered, differences = render(text, results, given or {})
        except UserError as error:
            raise UserError(f"{path.relative_to(root)}: {error}") from error
        found += [f"{path.relative_to(root)}: {difference}" for difference in differences]
        if rendered != text and not check:
            path.write_text(rendered, encoding="utf-8")
    card = root / CHECKPOINT / "README.md"
    if card.is_file():
        rendered = card_text(card.parent)
        if rendered != card.read_text(encoding="utf-8"):
            found.append(f"{card.relative_to(root)}: the card")
            if not check:
                card.write_text(rendered, encoding="utf-8")
    return found
