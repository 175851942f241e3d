"""Intervals: a bootstrap over photographs and runs, and Wilson's for shares."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest

from hub.evaluation.checks import (
    calibration_gaps,
    checked_ids,
    class_ids,
    class_keys,
    cluster_ids,
    majority_right,
    sum_by,
)


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
    keys = class_keys(label_names)
    predictions, references = checked_ids(predictions, references, len(keys))
    clusters = cluster_ids(photographs, len(references))
    weights = _resampled_weights(clusters, references, resamples, seed)
    drawn = _figures(_resampled_confusion(weights, clusters, predictions, references, len(keys)), keys)
    if photographs is not None:
        right = majority_right(predictions, references, clusters)
        drawn["photograph_accuracy"] = weights @ right / weights.sum(axis=1)
    if probabilities is not None:
        gaps = sum_by(clusters, calibration_gaps(probabilities, references))
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
    keys = class_keys(label_names)
    references = class_ids("references", references)
    clusters = cluster_ids(photographs, len(references))
    weights = _resampled_weights(clusters, references, resamples, seed)
    # The data themselves are the first row, so that point and resamples go the same way.
    weights = np.concatenate([np.ones_like(weights[:1]), weights])
    generator = np.random.default_rng([seed, 1])

    def figures(runs) -> dict[str, np.ndarray]:
        checked = [checked_ids(run, references, len(keys))[0] for run in np.atleast_2d(runs)]
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


def wilson_interval(count: int, total: int) -> list[float]:
    """`count` of `total`: the share with both ends of Wilson's 95 % interval."""
    if total == 0:
        return [float("nan")] * 3
    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return [count / total, interval.low, interval.high]


def _resampled_weights(clusters: np.ndarray, references: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each resample draws each cluster: float64 (resamples, G). A cluster's class is its commonest one."""
    votes = sum_by(clusters, np.eye(references.max() + 1)[references])
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


def _interval(values: np.ndarray, confidence: float) -> list[float]:
    tail = 100 * (1 - confidence) / 2
    return np.percentile(values, [tail, 100 - tail]).tolist()
