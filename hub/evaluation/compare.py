"""Predictions as files, and runs compared by them."""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hub.evaluation.intervals import paired_bootstrap
from hub.evaluation.subsets import softmax
from hub.files import UserError


def write_predictions(
    path: Path, logits: np.ndarray, references: np.ndarray, label_names: Sequence[str], columns: Mapping[str, Sequence]
) -> None:
    """Write a CSV with a row for each image: what is known of it, its class, the predicted one, all probabilities.

    The arguments are those of `evaluate_logits`. Two such files of the same split are what
    `hub.metrics.paired_bootstrap` compares.
    """
    known = zip(*columns.values(), strict=True) if columns else ((),) * len(references)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "label", "prediction", *label_names])
        for values, reference, row in zip(known, references, softmax(logits), strict=True):
            answer = label_names[row.argmax()]
            writer.writerow([*values, label_names[reference], answer, *(f"{value:.5f}" for value in row)])


def compare(first: Sequence[Path], second: Sequence[Path], split: str) -> dict:
    """Compare two recipes by what their runs predicted for the same images.

    Args:
        first: The output folders of one recipe, one for each seed.
        second: Those of the other one.
        split: Whose `<split>_predictions.csv` are compared.

    Returns:
        `first` and `second`, the accuracy of each run; `num_images`; `num_photographs`, None where they are not
        known; and the figures of `hub.metrics.paired_bootstrap`, which draws both photographs and runs.

    Raises:
        UserError: There is no run of the one or the other, or the files do not list the same images and classes.
        OSError: A file cannot be read.
    """
    if not first or not second:
        raise UserError(f"runs of both are compared, got {len(first)} and {len(second)}")
    tables = {folder: read_predictions(Path(folder, f"{split}_predictions.csv")) for folder in (*first, *second)}
    one = tables[first[0]]
    for folder, table in tables.items():
        if (table.images, table.label_names) != (one.images, one.label_names):
            raise UserError(f"{folder} and {first[0]} were not evaluated on the same images and classes of {split}")
    photographs = [photograph for _, photograph in one.images]
    sides = [[tables[folder] for folder in runs] for runs in (first, second)]
    return {
        "first": [run.accuracy for run in sides[0]],
        "second": [run.accuracy for run in sides[1]],
        "num_images": len(one.references),
        "num_photographs": len(set(photographs)) if all(photographs) else None,
    } | compare_predictions(*sides)


def compare_predictions(first: Sequence["Predictions"], second: Sequence["Predictions"]) -> dict:
    """What `hub.metrics.paired_bootstrap` says of the runs of two recipes on the same images, in the same order."""
    return paired_bootstrap(
        *(np.stack([run.predictions for run in runs]) for runs in (first, second)),
        first[0].references,
        first[0].label_names,
        photographs=[photograph or None for _, photograph in first[0].images],
    )


@dataclass(frozen=True)
class Predictions:
    """What `write_predictions` wrote of N images and C classes.

    Attributes:
        images: The file and the photograph of each image; "" where the photograph is not known.
        datasets: The data set that each is from, "" where that is not known.
        label_names: The names of the classes.
        references: int (N,), the true class ids.
        predictions: int (N,), the predicted ones.
        probabilities: float (N, C), rounded.
    """

    images: list[tuple[str, str]]
    datasets: list[str]
    label_names: list[str]
    references: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of right predictions, in [0, 1]."""
        return float((self.predictions == self.references).mean())


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote. Raises `UserError` if the file is another one, `OSError` without one."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or ())
        if not {"label", "prediction"} <= set(columns):
            raise UserError(f"{path} has the columns {columns}; label and prediction were expected")
        rows = list(reader)
    names = columns[columns.index("prediction") + 1 :]
    return Predictions(
        [(row.get("file_name") or str(number), row.get("photograph") or "") for number, row in enumerate(rows)],
        [row.get("dataset") or "" for row in rows],
        names,
        *(np.array([names.index(row[name]) for row in rows]) for name in ("label", "prediction")),
        np.array([[float(row[name]) for name in names] for row in rows]),
    )


def mistaken_photographs(path: Path) -> list[tuple[str, str, str, int, int]]:
    """The photographs that cost a model its errors, the costliest first.

    Args:
        path: What `write_predictions` wrote of a split whose photographs are known.

    Returns:
        Of each photograph with a misread file: its name, its class, the commonest of the wrong answers, how many of
        its files are misread, and how many there are.

    Raises:
        UserError: The file is another one, or knows no photographs.
        OSError: It cannot be read.
    """
    table = read_predictions(path)
    files, wrong = Counter(), defaultdict(Counter)
    for (_, photograph), *ids in zip(table.images, table.references, table.predictions, strict=True):
        label, answer = (table.label_names[index] for index in ids)
        if photograph:
            files[photograph, label] += 1
            if answer != label:
                wrong[photograph, label][answer] += 1
    if not files:
        raise UserError(f"{path} tells of no image which photograph it shows")
    rows = [(*of, answers.most_common(1)[0][0], answers.total(), files[of]) for of, answers in wrong.items()]
    return sorted(rows, key=lambda row: (-row[3], row[0]))


def comparison_rows(compared: dict) -> list[list[str]]:
    """What `compare` returns as the rows of a table, the first one the head."""
    difference = [f"{100 * compared['accuracy'][name]:+.1f}" for name in ("difference", "low", "high")]
    return [
        ["", "Accuracy of each run (%)", "Mean (%)"],
        *(
            [
                title,
                ", ".join(f"{100 * value:.1f}" for value in compared[title]),
                f"{100 * np.mean(compared[title]):.1f}",
            ]
            for title in ("first", "second")
        ),
        ["difference", f"p = {compared['accuracy']['p_value']:.3f}", "{} ({} to {})".format(*difference)],
    ]
