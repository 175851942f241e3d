"""Two published revisions of a model side by side: figures, differences with intervals, sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from hub.evaluation.compare import Predictions, compare_predictions, read_predictions
from hub.evaluation.format import format_difference, format_interval, text_table
from hub.evaluation.intervals import unpaired_difference
from hub.files import HUB_ERRORS, UserError, one_line
from hub.publish.model import PREDICTIONS_NAME, RESULTS_NAME
from hub.publish.repository import check_repo_id, sizes_of

_FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "expected_calibration_error": "calibration error",
    "kept": "accepted",
}


@dataclass(frozen=True)
class Published:
    """A published revision of a model.

    Attributes:
        name: As it was asked for.
        results: The content of its `results.json`.
        sizes: The size in bytes of each file, by its path.
        predictions: Its predictions of the test split, None if they were not published.
    """

    name: str
    results: dict
    sizes: dict[str, int]
    predictions: Predictions | None


def read_published(name: str) -> Published:
    """Read figures, sizes and predictions of a revision.

    Args:
        name: NAME/NAME, NAME/NAME@REVISION with a branch, a tag or a commit, or a folder.

    Raises:
        UserError: There is no such revision, it has no `results.json`, or the Hub cannot be reached.
    """
    if Path(name).is_dir():
        files = {path: Path(name) / path for path in (RESULTS_NAME, PREDICTIONS_NAME) if (Path(name) / path).is_file()}
        sizes = sizes_of(Path(name))
    else:
        repo_id, _, revision = name.partition("@")
        check_repo_id(repo_id)
        try:
            info = HfApi().model_info(repo_id, revision=revision or None, files_metadata=True)
            sizes = {file.rfilename: file.size for file in info.siblings}
            files = {
                path: Path(hf_hub_download(repo_id, path, revision=info.sha))
                for path in (RESULTS_NAME, PREDICTIONS_NAME)
                if path in sizes
            }
        except (*HUB_ERRORS, EntryNotFoundError) as error:
            raise UserError(f"{name} cannot be read: {one_line(error)}") from error
    if RESULTS_NAME not in files:
        raise UserError(f"{name} has no {RESULTS_NAME}: name a model that `python -m hub model push` published")
    results = json.loads(files[RESULTS_NAME].read_text(encoding="utf-8"))
    predictions = read_predictions(files[PREDICTIONS_NAME]) if PREDICTIONS_NAME in files else None
    return Published(name, results, sizes, predictions)


def compare_models(first: str, second: str) -> dict:
    """Compare two published revisions of a model by what they publish.

    Args:
        first: See `read_published`.
        second: See `read_published`.

    Returns:
        `names`; `sizes`, the bytes of each file in both, None where one lacks it; `figures`, rows of `split`,
        `subset`, `images`, `figure`, and `first`, `second`, [value, low, high] each, with `difference`, `low`, `high`
        and `paired`, whether the interval is of a paired bootstrap over the predictions (see `paired_bootstrap`) or
        of both intervals alone (see `unpaired_difference`); `left_out`, the parts of the splits that only one has, or
        whose numbers of images differ.

    Raises:
        UserError: As `read_published`, or no part has the same number of images in both.
    """
    sides = [read_published(name) for name in (first, second)]
    one, two = ({(split, subset): part for split, subset, part in _parts(side.results)} for side in sides)
    common = [key for key, part in one.items() if key in two and _same_images(part, two[key])]
    if not common:
        raise UserError(f"{first} and {second} were measured on different images: no figure can be compared")
    paired = _paired(*(side.predictions for side in sides))
    figures = []
    for split, subset in common:
        parts = one[split, subset], two[split, subset]
        for figure in _FIGURES:
            if all(figure in part and figure in part["intervals"] for part in parts):
                values = [[part[figure], *part["intervals"][figure]] for part in parts]
                exact = paired.get(figure) if (split, subset) == ("test", None) else None
                figures.append(
                    {"split": split, "subset": subset, "images": parts[0]["num_images"], "figure": figure}
                    | {"first": values[0], "second": values[1], "paired": exact is not None}
                    | (exact or unpaired_difference(*values))
                )
    paths = dict.fromkeys(path for side in sides for path in side.sizes)
    return {
        "names": [first, second],
        "sizes": {path: [side.sizes.get(path) for side in sides] for path in paths},
        "figures": figures,
        "left_out": [_title(*key) for key in {**one, **two} if key not in common],
    }


def _parts(results: Mapping) -> Iterator[tuple[str, str | None, dict]]:
    """The splits and their subsets that have intervals."""
    for split, measured in results["splits"].items():
        for subset, part in ((None, measured), *measured.get("subsets", {}).items()):
            if "intervals" in part and "num_images" in part:
                yield split, subset, part


def _same_images(first: dict, second: dict) -> bool:
    """Whether two parts have as many images, of the same classes."""
    return all(first.get(key) == second.get(key) for key in ("num_images", "label_names"))


def _title(split: str, subset: str | None) -> str:
    return split if subset is None else f"{split}, {subset}"


def _paired(first: Predictions | None, second: Predictions | None) -> dict:
    """The differences of accuracy and macro F1 by predictions of the same images, none without."""
    if first is None or second is None:
        return {}
    same = (first.images, first.label_names) == (second.images, second.label_names)
    # The difference of `compare_predictions` is the first less the second.
    return compare_predictions([second], [first]) if same and (first.references == second.references).all() else {}


def describe(compared: dict) -> str:
    """The result of `compare_models` as text: all splits, and the subsets of the test split."""
    rows = [["Images", "Figure (%)", *compared["names"], "Difference", ""]]
    for row in compared["figures"]:
        if row["split"] == "test" or row["subset"] is None:
            title = f"{_title(row['split'], row['subset'])} ({row['images']:,})"
            values = [format_interval(row[side]) for side in ("first", "second")]
            how = "paired" if row["paired"] else "unpaired"
            rows.append([title, _FIGURES[row["figure"]], *values, format_difference(row), how])
    sizes = [["File", *compared["names"]]]
    for path, both in compared["sizes"].items():
        if both[0] != both[1]:
            sizes.append([path, *("-" if size is None else f"{size:,}" for size in both)])
    totals = [f"{sum(both[side] or 0 for both in compared['sizes'].values()):,}" for side in (0, 1)]
    sizes.append(["all files", *totals])
    lines = [
        "95 % intervals; a paired difference is by predictions of the same images, an unpaired one by both intervals "
        "alone, and wider than need be",
        text_table(rows),
        *([f"not measured alike: {'; '.join(compared['left_out'])}"] if compared["left_out"] else []),
        "",
        "Sizes in bytes, where they differ:",
        text_table(sizes),
    ]
    return "\n".join(lines)
