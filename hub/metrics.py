"""Accuracy, precision, recall and F1 of a white-blood-cell classifier, laid out as table 1 of Ma et al. (2020).

This file imports nothing of this project, so `evaluate.load("hub/metrics.py")` works as well as an import.
"""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

# Ma et al. (2020), table 1: precision, recall and F1 of each class in percent.
PAPER_TABLE_1 = {
    "eosinophil": {"precision": 90, "recall": 90, "f1": 90},
    "lymphocyte": {"precision": 100, "recall": 99, "f1": 100},
    "monocyte": {"precision": 99, "recall": 89, "f1": 93},
    "neutrophil": {"precision": 81, "recall": 89, "f1": 85},
    "average": {"precision": 92, "recall": 92, "f1": 92},
}
# Ma et al. (2020), abstract and table 2: accuracy in percent.
PAPER_ACCURACY = 92

_FIGURES = ("precision", "recall", "f1")

_DESCRIPTION = """\
Accuracy, and precision, recall and F1 of every class, with their plain and support-weighted means, and the confusion
matrix."""

_CITATION = """\
@article{ma2020white,
  title   = {White blood cell classification based on improved residual neural network},
  author  = {Ma, Li and Shuai, Renjun and Liu, Wenjia and Li, Wenyu},
  journal = {Computer Engineering and Design},
  volume  = {41},
  number  = {10},
  pages   = {2982--2987},
  year    = {2020},
  doi     = {10.16208/j.issn1000-7024.2020.10.046}
}"""

_INPUTS_DESCRIPTION = """
Args:
    predictions: N class ids, integers in [0, len(label_names)).
    references: N true class ids, integers in [0, len(label_names)).
    label_names: The name of each class, in the order of the ids.

Returns:
    A dict of Python floats, ints and lists that `json.dumps` takes; all figures lie in [0, 1]:
    `accuracy`; `precision_<name>`, `recall_<name>`, `f1_<name>` and `support_<name>` of each class, where a space in
    a name reads as an underscore; `macro_*`, the plain means over all of label_names; `weighted_*`, the means weighted
    by support; `confusion_matrix`, a list of rows of counts, one row per true class, one column per predicted class.

    A ratio of zero by zero counts as 0. A class without support therefore has precision, recall and F1 0: it lowers
    the macro means, as it has shown nothing, and leaves the weighted ones alone.

Raises:
    ValueError: Lengths differ, nothing was given, an id is no integer or out of range, or label_names is empty or
        holds two names that give the same key.
"""


class WBCMetric(evaluate.Metric):
    """The figures of Ma et al. (2020), table 1, for any set of classes.

    Needs no download and, made directly, writes no file: `WBCMetric().compute(predictions=..., references=...,
    label_names=...)`. `add` and `add_batch` gather batches first, as with every metric of `evaluate`.

    Args:
        keep_in_memory: Hold what was added in memory; False, which distributed use needs, writes it to the cache.
        **kwargs: Passed to `evaluate.Metric`.
    """

    def __init__(self, *args, keep_in_memory: bool = True, **kwargs):
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate creates its cache folder even for a metric that never writes to it
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        ids = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": ids, "references": ids}),
        )

    def add_batch(self, *, predictions, references):
        """Add N predictions and references: array-likes of integers, shape (N,), N > 0."""
        # Checked here because evaluate casts to int64, which turns 1.7 into 1 without a word.
        predictions, references = _class_ids("predictions", predictions), _class_ids("references", references)
        if len(predictions) != len(references):
            raise ValueError(
                f"got {len(predictions)} predictions and {len(references)} references; "
                "give one prediction for each reference"
            )
        super().add_batch(predictions=predictions, references=references)

    def add(self, *, prediction, reference):
        """Add one prediction and its reference, two integers."""
        self.add_batch(predictions=[prediction], references=[reference])

    def compute(self, *, predictions=None, references=None, label_names: Sequence[str]) -> dict | None:
        """Compute the figures of what is given here, or was added before.

        Returns None on every process but the first.
        """
        if predictions is None and references is None:
            if self.writer is None:
                raise ValueError("got no predictions; give predictions and references, or add some before compute()")
        else:
            self.add_batch(predictions=predictions, references=references)
        # What was added must not reach the next call when this one fails; evaluate itself drops it only on success.
        try:
            return super().compute(label_names=label_names)
        finally:
            self.writer = self.buf_writer = self.data = None

    def _compute(self, predictions, references, label_names) -> dict:
        keys = _class_keys(label_names)
        predictions, references = np.asarray(predictions), np.asarray(references)
        for what, ids in (("predictions", predictions), ("references", references)):
            outside = np.unique(ids[(ids < 0) | (ids >= len(keys))])
            if len(outside):
                raise ValueError(
                    f"{what} hold the class ids {outside.tolist()[:10]}, but the {len(keys)} label_names allow 0 to "
                    f"{len(keys) - 1}; give every class its name, and drop ids such as -100 that mean 'ignore'"
                )

        labels = list(range(len(keys)))
        *scores, support = precision_recall_fscore_support(references, predictions, labels=labels, zero_division=0)
        matrix = confusion_matrix(references, predictions, labels=labels)
        results = {"accuracy": float(accuracy_score(references, predictions))}
        for figure, values in zip(_FIGURES, scores, strict=True):
            results |= {f"{figure}_{key}": float(value) for key, value in zip(keys, values, strict=True)}
            results[f"macro_{figure}"] = float(np.mean(values))
            results[f"weighted_{figure}"] = float(np.average(values, weights=support))
        results |= {f"support_{key}": int(count) for key, count in zip(keys, support, strict=True)}
        results["confusion_matrix"] = matrix.tolist()
        return results


def _class_ids(what: str, values) -> np.ndarray:
    """Check that `values` are N > 0 integers and return them as int64, shape (N,)."""
    if values is None:
        raise ValueError(f"got no {what}; give both predictions and references")
    array = np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{what} must be a list of at least one class id; got an array of shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{what} must be integer class ids; got {array.dtype} such as {array[0]!r}; "
            "take the argmax of logits, or map names to ids"
        )
    return array.astype(np.int64)


def _class_keys(label_names: Sequence[str]) -> list[str]:
    """Return the names as they appear in result keys."""
    keys = [name.replace(" ", "_") for name in label_names]
    if not keys or len(set(keys)) != len(keys):
        raise ValueError(
            f"label_names must be one or more different names; got {list(label_names)}; rename the classes"
        )
    return keys


def table_1(results: dict, label_names: Sequence[str]) -> str:
    """Lay the results out as table 1 of Ma et al. (2020), in plain text, beside the paper's own figures.

    Args:
        results: What `WBCMetric.compute` returns.
        label_names: The names it was given.

    Returns:
        Lines of text without a final newline: a header, a row for each class, a row of support-weighted means, all in
        percent, and the accuracy. The paper has a figure where it knows the class (the case of letters aside), and an
        average only beside its own four classes; elsewhere there is a dash.

    Raises:
        ValueError: label_names are not those of the results.
    """
    rows = _table_rows(results, label_names)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *rest = (
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *rest)))
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], "", _accuracy_line(results, label_names)])


def markdown_table_1(results: dict, label_names: Sequence[str]) -> str:
    """Like `table_1`, as a Markdown table."""
    rows = _table_rows(results, label_names)
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    rule = "| --- |" + " ---: |" * (len(rows[0]) - 1)
    return "\n".join([head, rule, *body, "", _accuracy_line(results, label_names)])


def _table_rows(results: dict, label_names: Sequence[str]) -> list[list[str]]:
    """Return the cells of table 1: a header, the classes, the average."""
    keys = _class_keys(label_names)
    if missing := [name for name, key in zip(label_names, keys, strict=True) if f"support_{key}" not in results]:
        raise ValueError(f"the results know no class {missing}; give the label_names they were computed with")
    rows = [["Cell type", "Precision (%)", "paper", "Recall (%)", "paper", "F1 (%)", "paper", "Support"]]
    for name, key in zip(label_names, keys, strict=True):
        paper = PAPER_TABLE_1.get(name.lower(), {})
        names = {figure: f"{figure}_{key}" for figure in _FIGURES}
        rows.append(_table_row(name, results, names, paper, results[f"support_{key}"]))
    paper = PAPER_TABLE_1["average"] if _papers_classes(label_names) else {}
    names = {figure: f"weighted_{figure}" for figure in _FIGURES}
    total = sum(results[f"support_{key}"] for key in keys)
    rows.append(_table_row("average / total", results, names, paper, total))
    return rows


def _table_row(title: str, results: dict, names: dict[str, str], paper: dict[str, int], support: int) -> list[str]:
    cells = [title]
    for figure in _FIGURES:
        cells += [_percent(results, names[figure]), str(paper.get(figure, "-"))]
    return [*cells, str(support)]


def _accuracy_line(results: dict, label_names: Sequence[str]) -> str:
    paper = PAPER_ACCURACY if _papers_classes(label_names) else "-"
    return f"Accuracy (%): {_percent(results, 'accuracy')}, paper {paper}"


def _papers_classes(label_names: Sequence[str]) -> bool:
    return {name.lower() for name in label_names} == PAPER_TABLE_1.keys() - {"average"}


def _percent(results: dict, name: str) -> str:
    return f"{100 * results[name]:.1f}"
