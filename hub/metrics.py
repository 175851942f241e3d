"""Accuracy, precision, recall and F1 of a white-blood-cell classifier, laid out as table 1 of Ma et al. (2020).

Images that show the same photograph are not independent: BCCD's 2,487 test files show 71. So intervals come from
resampling photographs, not files (the cluster bootstrap; Davison & Hinkley 1997, section 3.8).

This file imports nothing of this project, so `evaluate.load("hub/metrics.py")` works as well as an import.
"""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from scipy.stats import binomtest
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
    photographs: The name of the photograph that each of the N images shows, or None where it is not known and the
        image stands for itself. Default: none is known.
    probabilities: (N, len(label_names)) floats in [0, 1], how likely each class is. Default: not known.
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
        _check_lengths(predictions, references)
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
            return super().compute(
                label_names=label_names, photographs=photographs, probabilities=probabilities, intervals=intervals
            )
        finally:
            self.writer = self.buf_writer = self.data = None

    def _compute(self, predictions, references, label_names, photographs, probabilities, intervals) -> dict:
        keys = _class_keys(label_names)
        predictions, references = _in_range(predictions, references, len(keys))
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
        if photographs is not None:
            results["num_photographs"] = len(np.unique(_clusters(photographs, len(references))))
            results["photograph_accuracy"] = photograph_accuracy(predictions, references, photographs)
        if probabilities is not None:
            results["expected_calibration_error"] = expected_calibration_error(probabilities, references)
        if intervals:
            results["intervals"] = bootstrap_intervals(
                predictions, references, label_names, photographs=photographs, probabilities=probabilities
            )
        return results


def expected_calibration_error(probabilities: np.ndarray, references: Sequence[int], bins: int = 15) -> float:
    """How far confidence and accuracy are apart, in [0, 1] (Guo et al. 2017, equation 3).

    The images are put into `bins` bins of equal width by the probability of their likeliest class; the absolute
    differences between the mean of that probability and the share of images it is right for are averaged over the
    images. In a small set it is above 0 even where the probabilities are perfect.

    Args:
        probabilities: (N, C) floats in [0, 1].
        references: N true class ids, integers in [0, C).
        bins: The number of bins.

    Raises:
        ValueError: The shapes do not fit, or a probability is outside [0, 1].
    """
    references = _class_ids("references", references)
    gaps = _calibration_gaps(probabilities, references, bins)
    return float(np.abs(gaps.sum(axis=0)).sum() / len(references))


def confidence_bins(confidence: np.ndarray, bins: int = 15) -> np.ndarray:
    """The bin of each of N confidences in [0, 1]: int (N,), k for those in (k / bins, (k + 1) / bins]."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def photograph_accuracy(
    predictions: Sequence[int], references: Sequence[int], photographs: Sequence[str | None]
) -> float:
    """The share of photographs, in [0, 1], of whose images more are given the right class than any other one.

    Args:
        predictions: N class ids.
        references: N true class ids; those of one photograph must agree.
        photographs: The name of the photograph that each image shows, or None where it stands for itself.

    Raises:
        ValueError: Lengths differ, or a photograph has images of several classes.
    """
    predictions, references = _in_range(predictions, references)
    return float(_majority(predictions, references, _clusters(photographs, len(references))).mean())


def bootstrap_intervals(
    predictions: Sequence[int],
    references: Sequence[int],
    label_names: Sequence[str],
    *,
    photographs: Sequence[str | None] | None = None,
    probabilities: np.ndarray | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Percentile intervals of every figure of `WBCMetric`, by a bootstrap over photographs, stratified by class.

    Each resample draws, with replacement and class by class, as many photographs as there are, each with all its
    images; where photographs are unknown, it draws images. What the interval covers is the choice of photographs. It
    covers neither another lab nor another run of the training. A figure that is the same for every photograph, such
    as a recall of 1, has an interval of no width, which is no proof that it is so elsewhere: with few photographs of
    a class, look at their number. That of the calibration error is shifted up, as every resample repeats images.

    Args:
        predictions: N class ids, integers in [0, C).
        references: N true class ids, integers in [0, C).
        label_names: The C names of the classes.
        photographs: The name of the photograph that each image shows, or None where it stands for itself.
        probabilities: (N, C) floats in [0, 1], for the interval of `expected_calibration_error`.
        resamples: How many are drawn.
        confidence: The share of resamples within the interval.
        seed: Of the generator; the same seed gives the same intervals.

    Returns:
        [low, high] by the name that the figure has among the results of `WBCMetric`.

    Raises:
        ValueError: Lengths differ, or an id is no integer or out of range.
    """
    keys = _class_keys(label_names)
    predictions, references = _in_range(predictions, references, len(keys))
    clusters = _clusters(photographs, len(references))
    weights = _resampled_weights(clusters, references, resamples, seed)
    drawn = _figures(_resampled_confusion(weights, clusters, predictions, references, len(keys)), keys)
    if photographs is not None:
        right = _majority(predictions, references, clusters)
        drawn["photograph_accuracy"] = weights @ right / weights.sum(axis=1)
    if probabilities is not None:
        gaps = _sum_by(clusters, _calibration_gaps(probabilities, references))
        images = weights @ np.bincount(clusters)
        drawn["expected_calibration_error"] = np.abs(weights @ gaps).sum(axis=1) / images
    return {name: _interval(values, confidence) for name, values in drawn.items()}


def paired_bootstrap(
    first: np.ndarray | Sequence[int],
    second: np.ndarray | Sequence[int],
    references: Sequence[int],
    label_names: Sequence[str],
    *,
    photographs: Sequence[str | None] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Compare two models, or two recipes by several runs each, by their predictions of the same images.

    Both see the same resamples of photographs, those of `bootstrap_intervals`. Of a recipe's runs, each resample
    draws, with replacement and independently of the photographs, as many as there are (the pigeonhole bootstrap; Owen
    2007), so that the interval covers the choice of the seeds too, as well as so few runs can tell. A recipe of one
    run counts as this one model: what another seed would have given, the interval does not know.

    Args:
        first: The class ids that one model predicts, integers in [0, C): (N,), or (R, N) of R runs of a recipe.
        second: Those that the other one predicts, of any number of runs.
        references: N true class ids.
        label_names, photographs, resamples, confidence, seed: As for `bootstrap_intervals`.

    Returns:
        For each of `accuracy`, `macro_recall` and `macro_f1`, over the answers of all runs together: `difference`, the
        first model's figure less the second's; `low` and `high`, its interval; `p_value`, two-sided, of there being no
        difference: twice the share of resamples on the rarer side of 0, with one resample added to it, at most 1.

    Raises:
        ValueError: Lengths differ, there is no run, or an id is no integer or out of range.
    """
    keys = _class_keys(label_names)
    references = _class_ids("references", references)
    clusters = _clusters(photographs, len(references))
    weights = _resampled_weights(clusters, references, resamples, seed)
    # The data themselves are the first row, so that point and resamples go the same way.
    weights = np.concatenate([np.ones_like(weights[:1]), weights])
    generator = np.random.default_rng([seed, 1])

    def figures(runs) -> dict[str, np.ndarray]:
        checked = [_in_range(run, references, len(keys))[0] for run in np.atleast_2d(runs)]
        if not checked:
            raise ValueError("got no run to compare; give the predictions of one at least")
        confusion = [_resampled_confusion(weights, clusters, run, references, len(keys)) for run in checked]
        times = generator.multinomial(len(checked), [1 / len(checked)] * len(checked), size=resamples)
        times = np.concatenate([np.ones_like(times[:1]), times])
        return _figures(np.einsum("br,rbij->bij", times, confusion), keys)

    one, other = figures(first), figures(second)
    compared = {}
    for figure in ("accuracy", "macro_recall", "macro_f1"):
        difference, *drawn = one[figure] - other[figure]
        drawn = np.array(drawn)
        rarer = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
        low, high = _interval(drawn, confidence)
        compared[figure] = {
            "difference": float(difference),
            "low": low,
            "high": high,
            "p_value": min(1.0, 2 * (float(rarer) + 1) / (resamples + 1)),
        }
    return compared


def share(count: int, total: int) -> list[float]:
    """`count` of `total`: the share with both ends of Wilson's 95 % interval."""
    if total == 0:
        return [float("nan")] * 3
    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return [count / total, interval.low, interval.high]


def format_share(figure: Sequence[float]) -> str:
    """What `share` returns, in percent."""
    value, low, high = (100 * part for part in figure)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def _clusters(photographs: Sequence[str | None] | None, count: int) -> np.ndarray:
    """A number from 0 for each image, int64 (N,), equal for those that show the same photograph."""
    if photographs is None:
        return np.arange(count)
    if len(photographs) != count:
        raise ValueError(f"got {len(photographs)} photographs and {count} references; give one for each image")
    numbers: dict = {}
    # An image without a photograph has a key of its own, which no name equals.
    keys = [(index,) if name is None else name for index, name in enumerate(photographs)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _sum_by(clusters: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum the rows of `values`, (N, K), of each of the G clusters: (G, K)."""
    sums = np.zeros((clusters.max() + 1, values.shape[1]))
    np.add.at(sums, clusters, values)
    return sums


def _resampled_weights(clusters: np.ndarray, references: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each resample draws each cluster: float64 (resamples, G). A cluster's class is its commonest one."""
    votes = _sum_by(clusters, np.eye(references.max() + 1)[references])
    strata = votes.argmax(axis=1)
    generator = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(strata)))
    for stratum in np.unique(strata):
        (members,) = np.nonzero(strata == stratum)
        drawn = generator.integers(len(members), size=(resamples, len(members)))
        cells = drawn + len(members) * np.arange(resamples)[:, None]
        counts = np.bincount(cells.ravel(), minlength=resamples * len(members))
        weights[:, members] = counts.reshape(resamples, len(members))
    return weights


def _resampled_confusion(weights, clusters, predictions, references, n: int) -> np.ndarray:
    """The confusion matrix of each resample: float64 (resamples, n, n)."""
    cells = clusters * n * n + references * n + predictions
    counts = np.bincount(cells, minlength=weights.shape[1] * n * n).reshape(-1, n * n)
    return (weights @ counts).reshape(-1, n, n)


def _figures(confusion: np.ndarray, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Every figure of some confusion matrices, (R, n, n), by the name it has in the results: (R,) each."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    scores = {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
    }
    total = support.sum(axis=1)
    figures = {"accuracy": hits.sum(axis=1) / total}
    for figure, values in scores.items():
        figures |= {f"{figure}_{key}": values[:, k] for k, key in enumerate(keys)}
        figures[f"macro_{figure}"] = values.mean(axis=1)
        figures[f"weighted_{figure}"] = (values * support).sum(axis=1) / total
    return figures


def _majority(predictions: np.ndarray, references: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Whether each cluster's right class has more votes than any other: float64 (G,)."""
    n = max(predictions.max(), references.max()) + 1
    classes = _sum_by(clusters, np.eye(n)[references]) > 0
    if (mixed := classes.sum(axis=1) > 1).any():
        raise ValueError(f"{mixed.sum()} of the photographs have images of several classes; give each photograph one")
    votes = _sum_by(clusters, np.eye(n)[predictions])
    right = votes[classes]
    votes[classes] = -1
    return (right > votes.max(axis=1)).astype(float)


def _calibration_gaps(probabilities: np.ndarray, references: np.ndarray, bins: int = 15) -> np.ndarray:
    """Correctness less confidence of each image, in the column of its bin: float64 (N, bins)."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or len(probabilities) != len(references):
        raise ValueError(
            f"probabilities must have a row for each of the {len(references)} references and a column for each "
            f"class; got an array of shape {probabilities.shape}"
        )
    # Softmax in a lower precision may be off 1 by a rounding error.
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-3)).all():
        raise ValueError("probabilities must lie in [0, 1]; apply softmax to logits")
    confidence = np.minimum(probabilities.max(axis=1), 1.0)
    right = probabilities.argmax(axis=1) == references
    column = confidence_bins(confidence, bins)
    gaps = np.zeros((len(references), bins))
    gaps[np.arange(len(references)), column] = right - confidence
    return gaps


def _interval(values: np.ndarray, confidence: float) -> list[float]:
    tail = 100 * (1 - confidence) / 2
    return np.percentile(values, [tail, 100 - tail]).tolist()


def _in_range(predictions, references, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Check that there is a prediction for each reference, ids of n classes (None: of any number); both as int64."""
    predictions, references = _class_ids("predictions", predictions), _class_ids("references", references)
    _check_lengths(predictions, references)
    n = n or 1 + int(max(predictions.max(), references.max()))
    for what, ids in (("predictions", predictions), ("references", references)):
        outside = np.unique(ids[(ids < 0) | (ids >= n)])
        if len(outside):
            raise ValueError(
                f"{what} hold the class ids {outside.tolist()[:10]}, but ids from 0 to {n - 1} were expected; give "
                "every class its name, and drop ids such as -100 that mean 'ignore'"
            )
    return predictions, references


def _check_lengths(predictions: np.ndarray, references: np.ndarray) -> None:
    if len(predictions) != len(references):
        raise ValueError(
            f"got {len(predictions)} predictions and {len(references)} references; "
            "give one prediction for each reference"
        )


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
        percent and with their intervals where the results hold these, and the accuracy. The paper has a figure where
        it knows the class (the case of letters aside), and an average only beside its own four classes; elsewhere
        there is a dash.

    Raises:
        ValueError: label_names are not those of the results.
    """
    head, *body, average = text_table(_table_rows(results, label_names)).splitlines()
    rule = "-" * len(head)
    return "\n".join([head, rule, *body, rule, average, "", _accuracy_line(results, label_names)])


def markdown_table_1(results: dict, label_names: Sequence[str], paper: bool = True) -> str:
    """Like `table_1`, as a Markdown table; without `paper`, for other images than the paper's, without its figures."""
    rows = _table_rows(results, label_names)
    if not paper:
        rows = [[cell for cell, title in zip(row, rows[0], strict=True) if title != "paper"] for row in rows]
    return f"{markdown_table(rows)}\n\n{_accuracy_line(results, label_names, paper)}"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align the cells of rows of equal length: the first of each row to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown_table(rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Like `text_table`, as a Markdown table whose head is the first row, and `names` columns to the left."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * names + " ---: |" * (len(rows[0]) - names), *body])


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
        cells += [format_percent(results, names[figure]), str(paper.get(figure, "-"))]
    return [*cells, str(support)]


def _accuracy_line(results: dict, label_names: Sequence[str], paper: bool = True) -> str:
    line = f"Accuracy (%): {format_percent(results, 'accuracy')}"
    if paper:
        line += f", paper {PAPER_ACCURACY if _papers_classes(label_names) else '-'}"
    if "photograph_accuracy" in results:
        line += f"; by majority in each of {results['num_photographs']:,} photographs: "
        line += format_percent(results, "photograph_accuracy")
    if "expected_calibration_error" in results:
        line += f"; expected calibration error (%): {format_percent(results, 'expected_calibration_error')}"
    if "kept" in results:
        line += f"; taken for one of the types (%): {format_percent(results, 'kept')}"
    return line


def _papers_classes(label_names: Sequence[str]) -> bool:
    return {name.lower() for name in label_names} == PAPER_TABLE_1.keys() - {"average"}


def format_percent(results: dict, name: str) -> str:
    """The figure `name` of what `WBCMetric` returns, in percent and with its interval where there is one."""
    text = f"{100 * results[name]:.1f}"
    if name in results.get("intervals", {}):
        low, high = results["intervals"][name]
        text += f" ({100 * low:.1f} to {100 * high:.1f})"
    return text
