"""Predictions as files, and comparisons of runs by these files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from hub.data.columns import RENAMED
from hub.evaluation.format import format_difference, text_table
from hub.evaluation.inputs import softmax
from hub.evaluation.intervals import paired_bootstrap
from hub.files import UserError, one_line

_REMEDY = "give a <split>_predictions.csv that train.py --do_eval wrote"


@dataclass(frozen=True)
class Predictions:
    """The predictions of N images and C classes in a file of `write_predictions`.

    Attributes:
        images: The file and the photograph of each image; the file is the row number as text, and the photograph "",
            where the file has no such column.
        labs: The lab of each image, "" where it is not known.
        label_names: The C names of the classes.
        references: int64 (N,), the true class ids.
        predictions: int64 (N,), the predicted class ids.
        probabilities: float64 (N, C), rounded to 5 decimals.
    """

    images: list[tuple[str, str]]
    labs: list[str]
    label_names: list[str]
    references: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray

    @property
    def accuracy(self) -> float:
        """The share of correct predictions, in [0, 1]."""
        return float((self.predictions == self.references).mean())


def write_predictions(
    path: Path, logits: np.ndarray, references: np.ndarray, label_names: Sequence[str], columns: Mapping[str, Sequence]
) -> None:
    """Write a CSV with a row for each image: its columns, its class, the predicted class and all probabilities.

    Args:
        path: The CSV to write. `read_predictions` reads it, `compare` compares two of the same split.
        logits: float (N, C).
        references: N true class ids, integers in [0, C).
        label_names: The C names of the classes.
        columns: The first columns by name, N values each; None is written as an empty cell.

    Raises:
        ValueError: Lengths differ.
    """
    names, probabilities = np.array(label_names, dtype=object), softmax(logits)
    table = {name: list(values) for name, values in columns.items()}
    table |= {"label": names[references], "prediction": names[probabilities.argmax(-1)]}
    table |= {
        name: list(map("{:.5f}".format, column)) for name, column in zip(label_names, probabilities.T, strict=True)
    }
    # As objects, values are written as they are: in a column of their own type, None would turn integers into floats.
    pd.DataFrame(table, dtype=object).to_csv(path, index=False, lineterminator="\r\n", encoding="utf-8")


def read_predictions(path: Path) -> Predictions:
    """Read a file of `write_predictions`.

    Raises:
        UserError: The file is no such table.
        OSError: It cannot be read.
    """
    # Texts only: a file or photograph may have a name that reads as a number or as a missing value.
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8")
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no table of predictions, {one_line(error)}; {_REMEDY}") from error
    columns = list(table.columns)
    if not {"label", "prediction"} <= set(columns):
        raise UserError(f"{path} has the columns {columns}; label and prediction were expected; {_REMEDY}")
    if table.empty:
        raise UserError(f"{path} holds no image; {_REMEDY}")
    # Only the columns in front describe the image: a class may have any name.
    before = columns.index("label")
    columns[:before] = [RENAMED.get(name, name) for name in columns[:before]]
    table.columns = columns
    names = columns[columns.index("prediction") + 1 :]
    classes = pd.Index(names)
    references, predictions = (classes.get_indexer(pd.Index(table[column])) for column in ("label", "prediction"))
    if (references < 0).any() or (predictions < 0).any():
        raise UserError(f"{path} names a class that has no column of probabilities, only {names} have; {_REMEDY}")
    try:
        probabilities = table[names].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise UserError(f"{path} holds a probability that is no number, {one_line(error)}; {_REMEDY}") from error
    files, photographs, labs = (
        table.get(column, default=pd.Series("", table.index)) for column in ("file_name", "photograph", "lab")
    )
    images = [
        (file or str(row), photograph) for row, (file, photograph) in enumerate(zip(files, photographs, strict=True))
    ]
    return Predictions(images, list(labs), names, references, predictions, probabilities)


def compare(first: Sequence[Path], second: Sequence[Path], split: str) -> dict:
    """Compare two recipes by the predictions of their runs for the same images.

    Args:
        first: The output folders of one recipe, one for each seed.
        second: The output folders of the other recipe.
        split: The split whose `<split>_predictions.csv` are compared.

    Returns:
        `first` and `second`, the accuracy of each run; `num_images`; `num_photographs`, None where they are not
        known; and the figures of `paired_bootstrap`, which draws both photographs and runs.

    Raises:
        UserError: A recipe has no run, or the files do not list the same images, labels and classes.
        OSError: A file cannot be read.
    """
    if not first or not second:
        raise UserError(f"got {len(first)} and {len(second)} runs; name at least one output folder of each recipe")
    tables = {folder: read_predictions(Path(folder, f"{split}_predictions.csv")) for folder in (*first, *second)}
    one = tables[first[0]]
    for folder, table in tables.items():
        same_images = (table.images, table.label_names) == (one.images, one.label_names)
        if not same_images or (table.references != one.references).any():
            raise UserError(
                f"{folder} and {first[0]} were not evaluated on the same images and classes of {split}; "
                "evaluate both with the same --dataset_name"
            )
    photographs = [photograph for _, photograph in one.images]
    sides = [[tables[folder] for folder in runs] for runs in (first, second)]
    return {
        "first": [run.accuracy for run in sides[0]],
        "second": [run.accuracy for run in sides[1]],
        "num_images": len(one.references),
        "num_photographs": len(set(photographs)) if all(photographs) else None,
    } | compare_predictions(*sides)


def compare_predictions(first: Sequence[Predictions], second: Sequence[Predictions]) -> dict:
    """The figures of `paired_bootstrap` for the runs of two recipes on the same images in the same order."""
    return paired_bootstrap(
        np.stack([run.predictions for run in first]),
        np.stack([run.predictions for run in second]),
        first[0].references,
        first[0].label_names,
        photographs=[photograph or None for _, photograph in first[0].images],
    )


def comparison_rows(compared: dict) -> list[list[str]]:
    """The result of `compare` as the rows of a table, the first one the head."""
    rows = [["", "Accuracy of each run (%)", "Mean (%)"]]
    for title in ("first", "second"):
        runs = ", ".join(f"{100 * value:.1f}" for value in compared[title])
        rows.append([title, runs, f"{100 * np.mean(compared[title]):.1f}"])
    accuracy = compared["accuracy"]
    return [*rows, ["difference", f"p = {accuracy['p_value']:.3f}", format_difference(accuracy)]]


def describe(compared: dict, split: str) -> str:
    """The result of `compare` as text: what was compared, and a table."""
    shown = f", {compared['num_photographs']} photographs" if compared["num_photographs"] else ""
    return (
        f"{split}: {compared['num_images']:,} images{shown}; 95 % intervals by a paired bootstrap over these and over "
        f"the runs of each\n{text_table(comparison_rows(compared))}"
    )


def mistaken_photographs(path: Path) -> list[tuple[str, str, str, int, int]]:
    """The photographs with misclassified files, those with the most first.

    Args:
        path: A file of `write_predictions` of a split whose photographs are known.

    Returns:
        For each photograph with a misclassified file: its name, its class, the commonest wrong prediction, the number
        of its misclassified files, and the number of its files.

    Raises:
        UserError: The file is no such table, or names no photographs.
        OSError: It cannot be read.
    """
    table = read_predictions(path)
    names = np.array(table.label_names, dtype=object)
    images = pd.DataFrame(
        {
            "photograph": [photograph for _, photograph in table.images],
            "label": names[table.references],
            "prediction": names[table.predictions],
        }
    )
    images = images[images.photograph != ""]
    if images.empty:
        raise UserError(f"{path} does not say of any image which photograph it shows; evaluate a split of BCCD")
    rows = []
    for (photograph, label), files in images.groupby(["photograph", "label"], sort=False):
        wrong = Counter(files.prediction[files.prediction != label])
        if wrong:
            rows.append((str(photograph), str(label), wrong.most_common(1)[0][0], wrong.total(), len(files)))
    return sorted(rows, key=lambda row: (-row[3], row[0]))
