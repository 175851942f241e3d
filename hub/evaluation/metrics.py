"""Accuracy, precision, recall and F1 of a white-blood-cell classifier: the figures of Ma et al. (2020), table 1.

`evaluate.load("hub/evaluation/metrics.py")` works as well as an import, and in a process that has no package `hub`:
`evaluate` copies this file together with those that it imports by a leading dot. It does not look for the imports of
these, so each file of this project that they need is imported here, too, and imports no other.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from .grouping import calibration_gaps, cluster_ids, majority_right
from .inputs import FIGURES, check_length, checked_ids, class_ids, class_keys
from .intervals import bootstrap_intervals

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
    photographs: The name of the photograph that each of the N images shows, or None where it is not known and the
        image stands for itself. Default: none is known.
    probabilities: (N, len(label_names)) floats in [0, 1], the predicted probability of each class. Default: not known.
    intervals: Whether to add 95 % intervals; about 0.1 s for BCCD's test split.

Returns:
    A dict of Python floats, ints and lists that `json.dumps` takes; all figures lie in [0, 1]:
    `accuracy`; `precision_<name>`, `recall_<name>`, `f1_<name>` and `support_<name>` of each class, where a space in
    a name reads as an underscore; `macro_*`, the plain means over all of label_names; `weighted_*`, the means weighted
    by support; `confusion_matrix`, a list of rows of counts, one row per true class, one column per predicted class.

    With photographs: `num_photographs` and `photograph_accuracy` (see `photograph_accuracy`). With probabilities:
    `expected_calibration_error` (see that function). With intervals: `intervals`, the [low, high] of each of these
    figures by its name (see `bootstrap_intervals`).

    A ratio of zero by zero counts as 0. A class without support therefore has precision, recall and F1 0: it lowers
    the macro means and does not change the weighted ones.

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

    # `evaluate.Metric` sets it, and has no types.
    writer: datasets.arrow_writer.ArrowWriter | None

    def __init__(self, *args, keep_in_memory: bool = True, **kwargs):
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate creates its cache folder even for a metric that never writes to it.
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
        # Checked here because evaluate casts to int64, which silently turns 1.7 into 1.
        predictions, references = class_ids("predictions", predictions), class_ids("references", references)
        check_length("predictions", predictions, references)
        super().add_batch(predictions=predictions, references=references)

    def add(self, *, prediction, reference):
        """Add one prediction and its reference, two integers."""
        self.add_batch(predictions=[prediction], references=[reference])

    def compute(
        self,
        *,
        predictions=None,
        references=None,
        label_names: Sequence[str],
        photographs: Sequence[str | None] | None = None,
        probabilities: np.ndarray | None = None,
        intervals: bool = False,
    ) -> dict | None:
        """Compute the figures of the predictions given here, or added before.

        Args, results and errors are those of the module's `_INPUTS_DESCRIPTION`, which `inputs_description` shows.
        Returns None on every process but the first.
        """
        if predictions is None and references is None:
            if self.writer is None:
                raise ValueError("got no predictions; give predictions and references, or add some before compute()")
        else:
            self.add_batch(predictions=predictions, references=references)
        # The added predictions must not reach the next call if this one fails; evaluate drops them only on success.
        try:
            return super().compute(
                label_names=label_names, photographs=photographs, probabilities=probabilities, intervals=intervals
            )
        finally:
            self.writer = self.buf_writer = self.data = None

    def _compute(self, predictions, references, label_names, **options) -> dict:
        return compute_figures(predictions, references, label_names, **options)


def compute_figures(
    predictions: ArrayLike,
    references: ArrayLike,
    label_names: Sequence[str],
    *,
    photographs: Sequence[str | None] | None = None,
    probabilities: np.ndarray | None = None,
    intervals: bool = False,
) -> dict[str, Any]:
    """The figures of `WBCMetric` for predictions that one process holds.

    Args, results and errors are those of the module's `_INPUTS_DESCRIPTION`.
    """
    keys = class_keys(label_names)
    predictions, references = checked_ids(predictions, references, len(keys))
    labels = list(range(len(keys)))
    *scores, support = precision_recall_fscore_support(references, predictions, labels=labels, zero_division=0)
    matrix = confusion_matrix(references, predictions, labels=labels)
    results: dict[str, Any] = {"accuracy": float(accuracy_score(references, predictions))}
    for figure, values in zip(FIGURES, scores, strict=True):
        results |= {f"{figure}_{key}": float(value) for key, value in zip(keys, values, strict=True)}
        results[f"macro_{figure}"] = float(np.mean(values))
        results[f"weighted_{figure}"] = float(np.average(values, weights=support))
    results |= {f"support_{key}": int(count) for key, count in zip(keys, support, strict=True)}
    results["confusion_matrix"] = matrix.tolist()
    if photographs is not None:
        results["num_photographs"] = len(np.unique(cluster_ids(photographs, references)))
        results["photograph_accuracy"] = photograph_accuracy(predictions, references, photographs)
    if probabilities is not None:
        results["expected_calibration_error"] = expected_calibration_error(probabilities, references)
    if intervals:
        results["intervals"] = bootstrap_intervals(
            predictions, references, label_names, photographs=photographs, probabilities=probabilities
        )
    return results


def expected_calibration_error(probabilities: np.ndarray, references: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error, in [0, 1] (Guo et al. 2017, equation 3).

    The images are put into `bins` bins of equal width by their confidence, the probability of the likeliest class. The
    error is the absolute difference between accuracy and mean confidence of a bin, averaged over the images. In a
    small set it is above 0 even where the probabilities are perfect.

    Args:
        probabilities: (N, C) floats in [0, 1].
        references: N true class ids, integers in [0, C).
        bins: The number of bins.

    Raises:
        ValueError: The shapes do not fit, or a probability is outside [0, 1].
    """
    references = class_ids("references", references)
    gaps = calibration_gaps(probabilities, references, bins)
    return float(np.abs(gaps.sum(axis=0)).sum() / len(references))


def photograph_accuracy(predictions: ArrayLike, references: ArrayLike, photographs: Sequence[str | None]) -> float:
    """Accuracy by majority vote over the images of each photograph, in [0, 1]; a tie counts as wrong.

    Args:
        predictions: N class ids.
        references: N true class ids; those of one photograph must agree.
        photographs: The name of the photograph that each image shows, or None where it stands for itself.

    Raises:
        ValueError: Lengths differ, or a photograph has images of several classes.
    """
    predictions, references = checked_ids(predictions, references)
    return float(majority_right(predictions, references, cluster_ids(photographs, references)).mean())
