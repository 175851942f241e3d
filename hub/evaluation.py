"""What a model's answers to a split are worth: figures of the whole and of the parts that matter, and predictions."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from hub.dataset import label_review
from hub.metrics import WBCMetric, format_percent

# The columns of a data set that say which image a row is.
KNOWN_COLUMNS = ("file_name", "dataset", "photograph", "field")


def evaluate_logits(
    logits: np.ndarray,
    references: np.ndarray,
    label_names: Sequence[str],
    columns: Mapping[str, Sequence],
    seen_fields: set[str] = frozenset(),
) -> dict:
    """Evaluate a model on a split, as a whole and in parts.

    Args:
        logits: float (N, C).
        references: N true class ids, integers in [0, C).
        label_names: The C names of the classes.
        columns: Those of `KNOWN_COLUMNS` that the split has, N values each; None where a value is unknown.
        seen_fields: The fields that the training images show.

    Returns:
        The figures of `WBCMetric` with intervals, calibration error and, where photographs are known, those of
        photographs; `label_names`; `num_images`; and `subsets`, the same for each part by its name, with its `title`:

        - each data set by its name, where the split has a column `dataset`;
        - `<K>_classes`, where only K classes occur, over these classes: what an answer is worth when the others are
          known to be out of the question;
        - `without_doubtful_labels`, without the photographs of `hub/label_review.csv`;
        - `without_seen_fields`, without images of `seen_fields`.

        Of a split of several data sets, the last three are given for each, with its name in front: `bccd_4_classes`.
    """
    photographs = columns.get("photograph", [None] * len(references))
    results = _figures(logits, references, label_names, photographs)
    results["subsets"] = {
        name: {"title": title}
        | _figures(
            logits[np.ix_(rows, classes)],
            np.searchsorted(classes, references[rows]),
            [label_names[index] for index in classes],
            [photographs[row] for row in rows],
        )
        for name, title, rows, classes in _subsets(references, len(label_names), columns, seen_fields)
    }
    return results


def _figures(logits, references, label_names: Sequence[str], photographs: Sequence[str | None]) -> dict:
    results = WBCMetric().compute(
        predictions=logits.argmax(-1),
        references=references,
        label_names=label_names,
        photographs=None if all(name is None for name in photographs) else photographs,
        probabilities=_softmax(logits),
        intervals=True,
    )
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
    for prefix, of, whole in wholes:
        occurring = np.unique(references[whole])
        if len(occurring) < num_labels:
            title = f"{of}only the {len(occurring)} classes that occur"
            found.append((f"{prefix}{len(occurring)}_classes", title, whole, occurring))
        for name, title, column, values in avoided:
            if column in columns:
                rows = np.array([row for row in whole if columns[column][row] not in values], dtype=int)
                if 0 < len(rows) < len(whole):
                    found.append((prefix + name, of + title, rows, every_class))
    return found


def parts_rows(results: dict) -> list[list[str]]:
    """The `subsets` of what `evaluate_logits` returns as the rows of a table, the first one the head."""
    rows = [["Images", "Number", "Photographs", "Accuracy (%)", "Macro F1 (%)", "Calibration error (%)"]]
    for part in results["subsets"].values():
        accuracy, macro_f1, calibration_error = (
            format_percent(part, name) for name in ("accuracy", "macro_f1", "expected_calibration_error")
        )
        if not all(map(sum, part["confusion_matrix"])):
            macro_f1 = "–"  # Classes without an image count as 0 in it, which would say nothing of the others.
        photographs = str(part.get("num_photographs", "–"))
        rows.append([part["title"], f"{part['num_images']:,}", photographs, accuracy, macro_f1, calibration_error])
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


def _softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().softmax(-1).numpy()
