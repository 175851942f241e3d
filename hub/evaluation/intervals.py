"""Intervals and comparisons by a bootstrap over photographs and runs, and Wilson's interval of a share.

Images that show the same photograph are not independent: BCCD's 2,487 test files show 71. So intervals come from
resampling photographs, not files (the cluster bootstrap; Davison & Hinkley 1997, section 3.8).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from .grouping import calibration_gaps, cluster_ids, majority_right, sum_by
from .inputs import check_length, checked_ids, class_ids, class_keys


def bootstrap_intervals(
    predictions: ArrayLike,
    references: ArrayLike,
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
    images; where photographs are unknown, it draws images. The interval covers the choice of photographs, but neither
    another lab nor another training run. A figure that is the same for every photograph, such as a recall of 1, has
    an interval of no width, which proves nothing about other photographs: look at how many there are of the class.
    The interval of the calibration error is shifted up, as every resample repeats images.

    Args:
        predictions: N class ids, integers in [0, C).
        references: N true class ids, integers in [0, C).
        label_names: The C names of the classes.
        photographs: The name of the photograph that each image shows, or None where it stands for itself.
        probabilities: (N, C) floats in [0, 1], for the interval of `expected_calibration_error`.
        resamples: The number of resamples.
        confidence: The share of resamples within the interval, in (0, 1).
        seed: Seed of the generator; the same seed gives the same intervals.

    Returns:
        [low, high] in [0, 1] by the name of the figure in the results of `WBCMetric`.

    Raises:
        ValueError: Lengths differ, or an id is no integer or out of range.
    """
    keys = class_keys(label_names)
    predictions, references = checked_ids(predictions, references, len(keys))
    clusters = cluster_ids(photographs, references)
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


def bootstrap_labels(
    predictions: np.ndarray,
    references: np.ndarray,
    sizes: Sequence[int],
    strata: np.ndarray | Sequence[int],
    *,
    photographs: Sequence[str | None] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[dict[str, list[float]]]:
    """Percentile intervals of accuracy and macro F1 of several labels of the same images, and of their means.

    The bootstrap is that of `bootstrap_intervals`, with the same resamples for every label, so that the interval of
    the mean over labels covers how they vary together. A resample without an image that has a label is left out of
    the figures of this label.

    Args:
        predictions: (N, L) class ids of L labels, integers.
        references: (N, L) true class ids, below 0 where a label is not known.
        sizes: The number of classes of each of the L labels.
        strata: N class ids, integers of at least 0, by which the resamples are stratified.
        photographs: The name of the photograph that each image shows, or None where it stands for itself.
        resamples: The number of resamples.
        confidence: The share of resamples within the interval, in (0, 1).
        seed: Seed of the generator; the same seed gives the same intervals.

    Returns:
        [low, high] in [0, 1] of `accuracy` and `macro_f1`, for each label and last for the mean over the labels.
    """
    clusters = cluster_ids(photographs, np.asarray(strata))
    weights = _resampled_weights(clusters, np.asarray(strata), resamples, seed)
    drawn = []
    for number, size in enumerate(sizes):
        known = references[:, number] >= 0
        confusion = _resampled_confusion(
            weights, clusters[known], predictions[known, number], references[known, number], size
        )
        confusion[confusion.sum(axis=(1, 2)) == 0] = np.nan
        figures = _figures(confusion, [str(index) for index in range(size)])
        drawn.append({name: figures[name] for name in ("accuracy", "macro_f1")})
    drawn.append({name: np.mean([figures[name] for figures in drawn], axis=0) for name in drawn[0]})
    return [
        {name: _interval(values[~np.isnan(values)], confidence) for name, values in figures.items()}
        for figures in drawn
    ]


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    references: ArrayLike,
    label_names: Sequence[str],
    *,
    photographs: Sequence[str | None] | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Compare two models, or two recipes by several runs each, by their predictions of the same images.

    Both see the same resamples of photographs, those of `bootstrap_intervals`. Each resample also draws, with
    replacement and independently of the photographs, as many runs of each recipe as there are (the pigeonhole
    bootstrap; Owen 2007), so the interval covers the choice of seeds, as far as a few runs show it. The interval of a
    recipe of one run does not cover other seeds.

    Args:
        first: The class ids that one model predicts, integers in [0, C): (N,), or (R, N) of R runs of a recipe.
        second: The class ids that the other one predicts, likewise, of any number of runs.
        references: N true class ids.
        label_names: The C names of the classes.
        photographs: The name of the photograph that each image shows, or None where it stands for itself.
        resamples: The number of resamples.
        confidence: The share of resamples within the interval, in (0, 1).
        seed: Seed of the generator; the same seed gives the same figures.

    Returns:
        For each of `accuracy`, `macro_recall` and `macro_f1`, over the predictions of all runs together: `difference`,
        the first figure less the second; `low` and `high`, its interval; `p_value`, of the two-sided test against no
        difference: twice the share of resamples on the rarer side of 0, with one resample added to it, at most 1.

    Raises:
        ValueError: Lengths differ, there is no run, or an id is no integer or out of range.
    """
    keys = class_keys(label_names)
    references = class_ids("references", references)
    clusters = cluster_ids(photographs, references)
    weights = _resampled_weights(clusters, references, resamples, seed)
    # The data themselves are the first row, so that the point estimate is computed as the resamples are.
    weights = np.concatenate([np.ones_like(weights[:1]), weights])
    generator = np.random.default_rng([seed, 1])

    def figures(runs: ArrayLike) -> dict[str, np.ndarray]:
        checked = [checked_ids(run, references, len(keys))[0] for run in np.atleast_2d(runs)]
        if not checked:
            raise ValueError("got no run to compare; give the predictions of one at least")
        confusion = [_resampled_confusion(weights, clusters, run, references, len(keys)) for run in checked]
        times = generator.multinomial(len(checked), [1 / len(checked)] * len(checked), size=resamples)
        times = np.concatenate([np.ones_like(times[:1]), times])
        return _figures(np.einsum("br,rbij->bij", times, confusion), keys)

    one, other = figures(first), figures(second)
    return {
        figure: _difference(one[figure] - other[figure], confidence)
        for figure in ("accuracy", "macro_recall", "macro_f1")
    }


def bootstrap_means(
    values: Mapping[str, np.ndarray],
    references: np.ndarray | Sequence[int],
    *,
    groups: Sequence[str | None] | None = None,
    balanced: bool = False,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Percentile intervals of means over images, by the bootstrap of `bootstrap_intervals`.

    Args:
        values: By the name of each figure, the value of each image, such as whether it is right: float or bool (N,).
        references: N > 0 true class ids, integers of at least 0, by which the resamples are stratified.
        groups: The group that each image is of, such as a photograph, a slide or a patient, which may have images of
            several classes; None where an image stands for itself.
        balanced: Whether a figure is the mean over the classes of its means in each, in place of that over images. A
            class that a resample lacks is left out of its mean.
        resamples: The number of resamples.
        confidence: The share of resamples within the interval, in (0, 1).
        seed: Seed of the generator; the same seed gives the same resamples.

    Returns:
        [low, high] by the name of the figure.

    Raises:
        ValueError: Lengths differ, or `references` holds no class ids.
    """
    references = class_ids("references", references)
    clusters = cluster_ids(groups, references)
    weights = _resampled_weights(clusters, references, resamples, seed)
    classes = np.eye(references.max() + 1)[references][:, np.unique(references)]
    images = weights @ sum_by(clusters, classes)
    drawn = {}
    for name, of_image in values.items():
        check_length(name, of_image, references)
        sums = weights @ sum_by(clusters, classes * np.asarray(of_image, dtype=np.float64)[:, None])
        if balanced:
            means = np.divide(sums, images, out=np.full_like(sums, np.nan), where=images > 0)
            drawn[name] = np.nanmean(means, axis=1)
        else:
            drawn[name] = sums.sum(axis=1) / images.sum(axis=1)
    return {name: _interval(means, confidence) for name, means in drawn.items()}


def unpaired_difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """The second figure less the first, with an interval from those of the figures alone.

    The method of variance estimates recovery (Zou & Donner 2008, Statistics in Medicine 27, 1693-1702) takes the
    figures as independent. Figures of two models on the same images vary together, so the interval is then too wide:
    with their predictions, `paired_bootstrap` gives a narrower one.

    Args:
        first: A figure and both ends of its interval.
        second: The same of the other model.

    Returns:
        `difference`, `low` and `high`.
    """
    (one, one_low, one_high), (two, two_low, two_high) = first, second
    difference = two - one
    return {
        "difference": difference,
        "low": difference - float(np.hypot(two - two_low, one_high - one)),
        "high": difference + float(np.hypot(two_high - two, one - one_low)),
    }


def wilson_interval(count: int, total: int) -> list[float]:
    """The share `count / total` and Wilson's 95 % interval of it: [share, low, high], NaN where `total` is 0."""
    if total == 0:
        return [float("nan")] * 3
    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return [count / total, interval.low, interval.high]


def _resampled_weights(clusters: np.ndarray, references: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each resample draws each cluster, stratified by its commonest class: float64 (resamples, G)."""
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


def _resampled_confusion(
    weights: np.ndarray, clusters: np.ndarray, predictions: np.ndarray, references: np.ndarray, n: int
) -> np.ndarray:
    """The confusion matrix of each resample: float64 (resamples, n, n)."""
    cells = clusters * n * n + references * n + predictions
    counts = np.bincount(cells, minlength=weights.shape[1] * n * n).reshape(-1, n * n)
    return (weights @ counts).reshape(-1, n, n)


def _figures(confusion: np.ndarray, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Every figure of R confusion matrices, (R, n, n), by its name in the results: (R,) each."""
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


def _difference(values: np.ndarray, confidence: float) -> dict[str, float]:
    """Difference, interval and p-value; `values` is the difference in the data, then in each resample, (1 + R,)."""
    drawn = values[1:]
    rarer = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    low, high = _interval(drawn, confidence)
    return {
        "difference": float(values[0]),
        "low": low,
        "high": high,
        "p_value": min(1.0, 2 * (float(rarer) + 1) / (len(drawn) + 1)),
    }


def _interval(values: np.ndarray, confidence: float) -> list[float]:
    """Both ends of the percentile interval that holds the share `confidence` of the values."""
    tail = 100 * (1 - confidence) / 2
    return np.percentile(values, [tail, 100 - tail]).tolist()
