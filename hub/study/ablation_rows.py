"""The rows of the ablation study as data: each row is one set of arguments of `train.py`, trained by seed and by lab.

All rows see the same images of the four cell types that both labs have, and share one recipe and one budget.
"""

import fnmatch
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hub.files import UserError

LABS = {"bccd": "BCCD", "pbc": "PBC"}
CENTER_LOSS_WEIGHT = 0.0001
CENTER_LOSS_MARGIN = 1.0


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: Selects the row in `--rows`, and names its folders.
        table: `baselines`, `ablations` or `search`. Rows of `search` are scored on validation alone.
        columns: The text of its first columns.
        arguments: The arguments of `train.py` that set it apart.
        seeds: The number of runs on each lab, with the seeds 1, 2, ...
        labs: The data sets that it is trained on, one at a time.
        start: Where the weights come from: `random`, `imagenet`, or the name of another row, whose run on PBC with
            seed 1 is used.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    arguments: tuple[str, ...]
    seeds: int = 1
    labs: tuple[str, ...] = ("bccd",)
    start: str = "random"

    @property
    def network(self) -> str:
        """One of `BASELINES`, or the norm layout of the paper's network."""
        named = dict(itertools.pairwise(self.arguments))
        return named.get("--architecture") or named.get("--norm_layout") or "ibn"

    @property
    def starts_from_row(self) -> bool:
        """Whether it starts from the weights of another row, which has seen images of PBC."""
        return self.start not in ("random", "imagenet")


class Run(NamedTuple):
    """One training: a row, the lab that it is trained on (`bccd` or `pbc`) and the seed."""

    row: Row
    lab: str
    seed: int


class Idea(NamedTuple):
    """An idea, and the names of the rows with and without it, which are alike in everything else."""

    title: str
    with_rows: tuple[str, ...]
    without_rows: tuple[str, ...]


# Short name: title in the tables, arguments of `train.py`.
_WEIGHT = ("--center_loss_weight", str(CENTER_LOSS_WEIGHT))
_LOSSES = {
    "ce": ("cross entropy", ("--center_loss_weight", "0")),
    "center": ("+ centre", (*_WEIGHT, "--mining", "none")),
    "hard": ("+ hard-mined centre", _WEIGHT),
    "hard-class": ("+ hard-mined centre, by class", (*_WEIGHT, "--mining", "class")),
}
_AUGMENTATIONS = {
    "none": ("none", ("--augment", "none")),
    "paper": ("the paper's", ("--augment", "paper")),
    "strong": ("the paper's, stain varied", ("--augment", "strong")),
    "field": ("the paper's, of whole fields", ("--augment", "paper", "--find_cell", "False")),
}
# Title in the tables, ending of the row's name.
_STARTS = {
    "random": ("random", ""),
    "imagenet": ("ImageNet", "-from-imagenet"),
    "ibn-hard": ("PBC's cells", "-from-pbc"),
}


def _ablation(norm: str, loss: str = "hard", augment: str = "paper", start: str = "random", seeds: int = 1) -> Row:
    loss_title, loss_arguments = _LOSSES[loss]
    augment_title, augment_arguments = _AUGMENTATIONS[augment]
    start_title, ending = _STARTS[start]
    return Row(
        name=f"{norm}-{loss}" + (f"-{augment}" if augment != "paper" else "") + ending,
        table="ablations",
        columns=(norm, loss_title, start_title, augment_title),
        arguments=("--norm_layout", norm, *loss_arguments, *augment_arguments),
        seeds=seeds,
        labs=("bccd", "pbc") if start == "random" else ("bccd",),
        start=start,
    )


def _search(name: str, weight: float = CENTER_LOSS_WEIGHT, margin: float = CENTER_LOSS_MARGIN) -> Row:
    weight, margin = str(weight), str(margin)
    arguments = ("--norm_layout", "ibn", "--center_loss_weight", weight, "--center_loss_margin", margin)
    return Row(f"search-{name}", "search", (weight, margin), arguments)


def _baseline(architecture: str, title: str, accuracy: int) -> Row:
    """A network of the paper's Table 2, with the paper's accuracy in percent."""
    return Row(architecture, "baselines", (title, str(accuracy)), ("--architecture", architecture))


ROWS = (
    _ablation("bn", "ce", seeds=3),
    _ablation("bn", "hard", seeds=3),
    _ablation("ibn", "ce", seeds=3),
    _ablation("ibn", "hard", seeds=3),
    _ablation("ibn-a"),
    _ablation("ibn-b"),
    _ablation("ibn-in"),
    _ablation("ibn", "center"),
    _ablation("ibn", "hard-class"),
    _ablation("ibn", augment="none"),
    _ablation("ibn", augment="strong", seeds=3),
    _ablation("ibn", augment="field"),
    _ablation("ibn", start="ibn-hard", seeds=3),
    _ablation("ibn", start="imagenet", seeds=3),
    _search("lambda-0.001", weight=0.001),
    _search("lambda-0.01", weight=0.01),
    _search("margin-0.1", margin=0.1),
    _search("margin-10.0", margin=10.0),
    _baseline("inception_v3", "Inception v3", 84),
    _baseline("resnet50", "ResNet50", 87),
    _baseline("inception_v3-lstm", "Inception v3 and LSTM", 87),
    _baseline("resnet50-lstm", "ResNet50 and LSTM", 89),
    _baseline("xception-lstm", "Xception and LSTM", 90),
    Row("ibn-resnet34", "baselines", ("IBN-ResNet34, the paper's", "92"), _WEIGHT),
)
# The row that the other rows of a table are compared with.
REFERENCES = {"ablations": "bn-ce", "baselines": "ibn-resnet34"}
# The paper's method among the ablations.
PAPER = "ibn-hard"
IDEAS = (
    Idea("IBN in place of BN", ("ibn-ce", "ibn-hard"), ("bn-ce", "bn-hard")),
    Idea("hard-mined centre loss beside cross entropy", ("bn-hard", "ibn-hard"), ("bn-ce", "ibn-ce")),
    Idea("mining in place of the plain centre loss", ("ibn-hard",), ("ibn-center",)),
    Idea("a start from PBC's cells", ("ibn-hard-from-pbc",), ("ibn-hard",)),
    Idea("a start from ImageNet", ("ibn-hard-from-imagenet",), ("ibn-hard",)),
    Idea("the paper's augmentation", ("ibn-hard",), ("ibn-hard-none",)),
    Idea("varied stain beside it", ("ibn-hard-strong",), ("ibn-hard",)),
    Idea("crops in place of whole fields", ("ibn-hard",), ("ibn-hard-field",)),
)
# Names of before, in `--rows` and in saved results.
_OLD_TABLES = {"rivals": "baselines"}
OLD_IDEAS = {"windows in place of whole fields": "crops in place of whole fields"}


def selected(patterns: Sequence[str] | None, imagenet: bool) -> list[Row]:
    """The rows whose name or table matches one of the patterns; without patterns, all rows.

    Args:
        patterns: Names of rows or tables, in which `*` stands for anything.
        imagenet: Whether to include rows that start from ImageNet weights.

    Raises:
        UserError: No row matches.
    """
    rows = [row for row in ROWS if imagenet or row.start != "imagenet"]
    if not patterns:
        return rows
    current = [_OLD_TABLES.get(pattern, pattern) for pattern in patterns]
    rows = [row for row in rows if any(fnmatch.fnmatch(of, p) for p in current for of in (row.name, row.table))]
    if not rows:
        names = ", ".join(row.name for row in ROWS)
        raise UserError(f"no row is called {' or '.join(patterns)}; there are {names}")
    return rows


def runs_of(rows: Iterable[Row]) -> list[Run]:
    """The runs of some rows in the order of training, with those of other rows that they start from.

    Seed comes before seed, and within a seed a run comes after the one that it starts from.
    """
    runs = [Run(row, lab, seed) for row in rows for lab in row.labs for seed in range(1, row.seeds + 1)]
    needed = {row.start for row in rows if row.starts_from_row}
    runs += [run for row in ROWS if row.name in needed and (run := Run(row, "pbc", 1)) not in runs]
    return sorted(runs, key=lambda run: (run.seed, run.row.starts_from_row))


def run_folder(output: Path, name: str, lab: str, seed: int) -> Path:
    """The output folder of one run of the row `name`."""
    return output / "rows" / f"{name}-{lab}-{seed}"


def finished_runs(output: Path, row: Row, lab: str) -> dict[int, Path]:
    """The folders of a row's finished runs on a lab, by seed."""
    folders = {seed: run_folder(output, row.name, lab, seed) for seed in range(1, row.seeds + 1)}
    return {seed: folder for seed, folder in folders.items() if (folder / "run.json").is_file()}
