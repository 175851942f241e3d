"""Figures of a split as a whole and of its subsets: by lab, class, label audit and group."""

import functools
from collections.abc import Mapping, Sequence, Set

import numpy as np

from hub.data.bccd import doubtful_labels
from hub.evaluation.format import format_percent
from hub.evaluation.inputs import softmax
from hub.evaluation.intervals import bootstrap_intervals
from hub.evaluation.metrics import compute_figures

# The columns of a data set that identify the image of a row.
KNOWN_COLUMNS = ("file_name", "lab", "photograph", "group")


def evaluate_logits(
    logits: np.ndarray,
    references: np.ndarray,
    label_names: Sequence[str],
    columns: Mapping[str, Sequence],
    seen_fields: Set[str] = frozenset(),
    accepted: np.ndarray | None = None,
) -> dict:
    """Evaluate a model on a split as a whole and on its subsets.

    Args:
        logits: float (N, C).
        references: N true class ids, integers in [0, C).
        label_names: The C names of the classes.
        columns: Those of `KNOWN_COLUMNS` that the split has, N values each; None where a value is unknown.
        seen_fields: The values of the column `group` that the training images have.
        accepted: bool (N,), whether the OOD score of each image is within the model's threshold. Default: the model
            has none.

    Returns:
        The figures of `WBCMetric` with intervals, calibration error and, where photographs are known, the accuracy
        over photographs; with `accepted`, `kept`, the in-distribution acceptance, which is its mean; `label_names`;
        `num_images`; and `subsets`, the same for each subset by its name, with its `title`:

        - each lab by its name, where the split has the column `lab`;
        - `<K>_classes`, where only K classes occur: only these are answers, as for a user who can rule out the others;
        - `<K>_shared_classes`, where all labs have images of only K classes: the images of these classes, and
          only these are answers;
        - `without_doubtful_labels`, without the photographs that the label audit doubts;
        - `without_seen_fields`, without the images of `seen_fields`.

        With a column `lab`, each lab has the last four, with its name in front: `bccd_4_classes`.

    Raises:
        ValueError: A class id is out of range, or lengths differ.
    """
    photographs = columns.get("photograph", [None] * len(references))
    results = _figures(logits, references, label_names, photographs, accepted)
    results["subsets"] = {
        name: {"title": title}
        | _figures(
            logits[np.ix_(rows, classes)],
            np.searchsorted(classes, references[rows]),
            [label_names[index] for index in classes],
            [photographs[row] for row in rows],
            accepted if accepted is None else accepted[rows],
        )
        for name, title, rows, classes in _subsets(references, len(label_names), columns, seen_fields)
    }
    return results


def _figures(
    logits: np.ndarray,
    references: np.ndarray,
    label_names: Sequence[str],
    photographs: Sequence[str | None],
    accepted: np.ndarray | None,
) -> dict:
    """The figures of one subset; see `evaluate_logits`."""
    photographs = None if all(name is None for name in photographs) else photographs
    results = compute_figures(
        logits.argmax(-1),
        references,
        label_names,
        photographs=photographs,
        probabilities=softmax(logits),
        intervals=True,
    )
    if accepted is not None:
        results["kept"] = float(accepted.mean())
        # Acceptance is the accuracy of a prediction that should be "yes" for every image.
        drawn = bootstrap_intervals(
            accepted.astype(int), np.ones(len(accepted), int), ["no", "yes"], photographs=photographs
        )
        results["intervals"]["kept"] = drawn["accuracy"]
    return results | {"label_names": list(label_names), "num_images": len(references)}


def _subsets(
    references: np.ndarray, num_labels: int, columns: Mapping[str, Sequence], seen_fields: Set[str]
) -> list[tuple]:
    """(name, title, rows, class ids) of each subset of `evaluate_logits`, in its order."""
    every_row, every_class = np.arange(len(references)), np.arange(num_labels)
    wholes = [("", "", every_row)]
    found = []
    labs = list(dict.fromkeys(columns.get("lab", ())))
    if labs:
        origin = np.array(columns["lab"])
        wholes = [(f"{name}_", f"{name}, ", every_row[origin == name]) for name in labs]
        found = [(prefix[:-1], prefix[:-1], rows, every_class) for prefix, _, rows in wholes]
    doubted = {row["photograph"] for row in doubtful_labels()}
    avoided = (
        ("without_doubtful_labels", "without doubtful labels", "photograph", doubted),
        ("without_seen_fields", "without fields that training images show", "group", seen_fields),
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
    """The `subsets` of the results of `evaluate_logits` as the rows of a table, the first one the head."""
    rows = [["Images", "Number", "Photographs", "Accuracy (%)", "Macro F1 (%)", "Calibration error (%)"]]
    if "kept" in results:
        rows[0].append("In-distribution acceptance (%)")
    for part in results["subsets"].values():
        accuracy, macro_f1, calibration_error = (
            format_percent(part, name) for name in ("accuracy", "macro_f1", "expected_calibration_error")
        )
        if not all(map(sum, part["confusion_matrix"])):
            macro_f1 = "–"  # A class without an image counts as 0 in this mean, which says nothing about the others.
        photographs = str(part.get("num_photographs", "–"))
        rows.append([part["title"], f"{part['num_images']:,}", photographs, accuracy, macro_f1, calibration_error])
        if "kept" in results:
            rows[-1].append(format_percent(part, "kept"))
    return rows
