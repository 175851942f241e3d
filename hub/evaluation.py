"""What a model's answers to a split are worth: figures of the whole and of the parts that matter, and predictions."""

import csv
import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hub.dataset import label_review
from hub.metrics import WBCMetric, bootstrap_intervals, format_percent, paired_bootstrap

# The columns of a data set that say which image a row is.
KNOWN_COLUMNS = ("file_name", "dataset", "photograph", "field")


def evaluate_logits(
    logits: np.ndarray,
    references: np.ndarray,
    label_names: Sequence[str],
    columns: Mapping[str, Sequence],
    seen_fields: set[str] = frozenset(),
    known: np.ndarray | None = None,
) -> dict:
    """Evaluate a model on a split, as a whole and in parts.

    Args:
        logits: float (N, C).
        references: N true class ids, integers in [0, C).
        label_names: The C names of the classes.
        columns: Those of `KNOWN_COLUMNS` that the split has, N values each; None where a value is unknown.
        seen_fields: The fields that the training images show.
        known: bool (N,), whether the model takes the image for one of its classes at all. Default: it was not asked.

    Returns:
        The figures of `WBCMetric` with intervals, calibration error and, where photographs are known, those of
        photographs; with `known`, `kept`, the share of images for which it is true; `label_names`; `num_images`; and
        `subsets`, the same for each part by its name, with its `title`:

        - each data set by its name, where the split has a column `dataset`;
        - `<K>_classes`, where only K classes occur, over these classes: what an answer is worth when the others are
          known to be out of the question;
        - `<K>_shared_classes`, where the other data sets have images of only K of the classes: the images of these,
          and over these;
        - `without_doubtful_labels`, without the photographs of `hub/label_review.csv`;
        - `without_seen_fields`, without images of `seen_fields`.

        Of a split of several data sets, the last four are given for each, with its name in front: `bccd_4_classes`.
    """
    photographs = columns.get("photograph", [None] * len(references))
    results = _figures(logits, references, label_names, photographs, known)
    results["subsets"] = {
        name: {"title": title}
        | _figures(
            logits[np.ix_(rows, classes)],
            np.searchsorted(classes, references[rows]),
            [label_names[index] for index in classes],
            [photographs[row] for row in rows],
            known if known is None else known[rows],
        )
        for name, title, rows, classes in _subsets(references, len(label_names), columns, seen_fields)
    }
    return results


def _figures(logits, references, label_names: Sequence[str], photographs: Sequence[str | None], known) -> dict:
    photographs = None if all(name is None for name in photographs) else photographs
    results = WBCMetric().compute(
        predictions=logits.argmax(-1),
        references=references,
        label_names=label_names,
        photographs=photographs,
        probabilities=_softmax(logits),
        intervals=True,
    )
    if known is not None:
        results["kept"] = float(known.mean())
        # Whether an image is known is a prediction, too, that should be "yes".
        drawn = bootstrap_intervals(
            known.astype(int), np.ones(len(known), int), ["no", "yes"], photographs=photographs
        )
        results["intervals"]["kept"] = drawn["accuracy"]
    return results | {"label_names": list(label_names), "num_images": len(references)}


def _subsets(references, num_labels: int, columns: Mapping[str, Sequence], seen_fields: set[str]) -> list[tuple]:
    """(name, title, rows, class ids) of each part that `evaluate_logits` tells of."""
    every_row, every_class = np.arange(len(references)), np.arange(num_labels)
    wholes = [("", "", every_row)]
    found = []
    if "dataset" in columns:
        origin = np.array(columns["dataset"])
        wholes = [(f"{name}_", f"{name}, ", every_row[origin == name]) for name in dict.fromkeys(columns["dataset"])]
        found = [(prefix[:-1], prefix[:-1], rows, every_class) for prefix, _, rows in wholes]
    avoided = (
        (
            "without_doubtful_labels",
            "without doubtful labels",
            "photograph",
            {row["photograph"] for row in label_review()},
        ),
        ("without_seen_fields", "without fields that training images show", "field", seen_fields),
    )
    occurring = [np.unique(references[whole]) for *_, whole in wholes]
    shared = functools.reduce(np.intersect1d, occurring)
    for (prefix, of, whole), classes in zip(wholes, occurring, strict=True):
        if len(classes) < num_labels:
            title = f"{of}only the {len(classes)} classes that occur"
            found.append((f"{prefix}{len(classes)}_classes", title, whole, classes))
        if 1 < len(shared) < len(classes):
            title = f"{of}only the {len(shared)} classes that all data sets have"
            rows = whole[np.isin(references[whole], shared)]
            found.append((f"{prefix}{len(shared)}_shared_classes", title, rows, shared))
        for name, title, column, values in avoided:
            if column in columns:
                rows = np.array([row for row in whole if columns[column][row] not in values], dtype=int)
                if 0 < len(rows) < len(whole):
                    found.append((prefix + name, of + title, rows, every_class))
    return found


def parts_rows(results: dict) -> list[list[str]]:
    """The `subsets` of what `evaluate_logits` returns as the rows of a table, the first one the head."""
    rows = [["Images", "Number", "Photographs", "Accuracy (%)", "Macro F1 (%)", "Calibration error (%)"]]
    if "kept" in results:
        rows[0].append("Kept (%)")
    for part in results["subsets"].values():
        accuracy, macro_f1, calibration_error = (
            format_percent(part, name) for name in ("accuracy", "macro_f1", "expected_calibration_error")
        )
        if not all(map(sum, part["confusion_matrix"])):
            macro_f1 = "–"  # Classes without an image count as 0 in it, which would say nothing of the others.
        photographs = str(part.get("num_photographs", "–"))
        rows.append([part["title"], f"{part['num_images']:,}", photographs, accuracy, macro_f1, calibration_error])
        if "kept" in results:
            rows[-1].append(format_percent(part, "kept"))
    return rows


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
        for values, reference, row in zip(known, references, _softmax(logits), strict=True):
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
        ValueError: There is no run of the one or the other, or the files do not list the same images and classes.
        OSError: A file cannot be read.
    """
    if not first or not second:
        raise ValueError(f"runs of both are compared, got {len(first)} and {len(second)}")
    tables = {folder: read_predictions(Path(folder, f"{split}_predictions.csv")) for folder in (*first, *second)}
    one = tables[first[0]]
    for folder, table in tables.items():
        if (table.images, table.label_names) != (one.images, one.label_names):
            raise ValueError(f"{folder} and {first[0]} were not evaluated on the same images and classes of {split}")
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
    """Read what `write_predictions` wrote. Raises `ValueError` if the file is another one, `OSError` without one."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or ())
        if not {"label", "prediction"} <= set(columns):
            raise ValueError(f"{path} has the columns {columns}; label and prediction were expected")
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
        ValueError: The file is another one, or knows no photographs.
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
        raise ValueError(f"{path} tells of no image which photograph it shows")
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


def _softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().softmax(-1).numpy()
