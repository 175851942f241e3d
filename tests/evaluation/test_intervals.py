import numpy as np
import pytest
import scipy.stats
from evaluation_cases import PAPER_NAMES, clustered_case, random_case

from hub.evaluation.intervals import (
    bootstrap_intervals,
    bootstrap_means,
    paired_bootstrap,
    unpaired_difference,
    wilson_interval,
)


def test_a_bootstrap_over_files_is_scipys():
    """With every cluster of size one: the stratified interval of accuracy against scipy's, a sample a class."""
    predictions, references = random_case(n=300)
    right = [(predictions == references)[references == k].astype(float) for k in range(4)]

    def accuracy(*classes, axis):
        return sum(values.sum(axis=axis) for values in classes) / sum(values.shape[axis] for values in classes)

    expected = scipy.stats.bootstrap(
        right, accuracy, method="percentile", n_resamples=20_000, vectorized=True, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = bootstrap_intervals(predictions, references, PAPER_NAMES, resamples=20_000)
    assert ours["accuracy"] == pytest.approx([expected.low, expected.high], abs=0.004)

    for k, name in enumerate(PAPER_NAMES):
        one = scipy.stats.bootstrap(
            (right[k],), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(k)
        ).confidence_interval
        assert ours[f"recall_{name}"] == pytest.approx([one.low, one.high], abs=0.015)


def test_whole_photographs_are_drawn():
    """The interval over photographs is that of scipy over the photographs' means, and wider than over files."""
    predictions, references, photographs = clustered_case()
    means = (predictions == references).reshape(40, 30).mean(axis=1)
    strata = [means[np.arange(40) % 3 == k] for k in range(3)]

    def accuracy(*classes, axis):
        return sum(values.sum(axis=axis) for values in classes) / 40

    expected = scipy.stats.bootstrap(
        strata, accuracy, method="percentile", n_resamples=20_000, vectorized=True, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = bootstrap_intervals(predictions, references, ["a", "b", "c"], photographs=photographs, resamples=20_000)[
        "accuracy"
    ]
    assert ours == pytest.approx([expected.low, expected.high], abs=0.006)
    over_files = bootstrap_intervals(predictions, references, ["a", "b", "c"])["accuracy"]
    assert ours[1] - ours[0] > 3 * (over_files[1] - over_files[0])


def test_intervals_by_hand():
    # Class 0 has one photograph, so every resample holds it as it is; of class 1's two, one is right and one is wrong.
    predictions, references = [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]
    intervals = bootstrap_intervals(predictions, references, ["a", "b"], photographs=["p", "p", "q", "q", "r", "r"])
    assert intervals["recall_a"] == [1, 1]
    assert intervals["recall_b"] == [0, 1]
    assert intervals["accuracy"] == pytest.approx([2 / 6, 1])
    assert intervals["precision_a"] == pytest.approx([1 / 3, 1])
    assert intervals["photograph_accuracy"] == pytest.approx([1 / 3, 1])


def test_unknown_photographs_stand_for_themselves():
    predictions, references, photographs = clustered_case()
    given = [None if number % 2 else name for number, name in enumerate(photographs)]
    named = [f"file {number}" if number % 2 else name for number, name in enumerate(photographs)]
    arguments = predictions, references, ["a", "b", "c"]
    assert bootstrap_intervals(*arguments, photographs=given) == bootstrap_intervals(*arguments, photographs=named)
    assert (
        bootstrap_intervals(*arguments, photographs=[None] * 1200)["accuracy"]
        == (bootstrap_intervals(*arguments)["accuracy"])
    )


def test_seeds():
    case = (*random_case(), PAPER_NAMES)
    assert bootstrap_intervals(*case) == bootstrap_intervals(*case, seed=0)
    assert bootstrap_intervals(*case) != bootstrap_intervals(*case, seed=1)


def test_paired_bootstrap():
    predictions, references, photographs = clustered_case()
    names = ["a", "b", "c"]
    same = paired_bootstrap(predictions, predictions, references, names, photographs=photographs)
    assert same["accuracy"] == {"difference": 0, "low": 0, "high": 0, "p_value": 1}
    # Better by the same share of each photograph: certain, although each model's own interval is wide.
    better = predictions.copy()
    better[::10] = references[::10]
    compared = paired_bootstrap(better, predictions, references, names, photographs=photographs)["accuracy"]
    assert compared["difference"] == pytest.approx(np.mean(better == references) - np.mean(predictions == references))
    assert 0 < compared["low"] < compared["difference"] < compared["high"]
    assert compared["p_value"] < 0.01
    low, high = bootstrap_intervals(predictions, references, names, photographs=photographs)["accuracy"]
    assert compared["high"] - compared["low"] < (high - low) / 3
    back = paired_bootstrap(predictions, better, references, names, photographs=photographs)["accuracy"]
    assert back["low"] == pytest.approx(-compared["high"])
    assert back["p_value"] == compared["p_value"]


def test_paired_bootstrap_against_scipy():
    predictions, references = random_case(n=300)
    other, _ = random_case(n=300, seed=0)
    other = np.where(np.arange(300) % 7 == 0, (references + 1) % 4, other)
    gain = (predictions == references).astype(float) - (other == references)
    strata = [gain[references == k] for k in range(4)]

    def difference(*classes, axis):
        return sum(values.sum(axis=axis) for values in classes) / 300

    expected = scipy.stats.bootstrap(
        strata, difference, method="percentile", n_resamples=20_000, vectorized=True, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = paired_bootstrap(predictions, other, references, PAPER_NAMES, resamples=20_000)["accuracy"]
    assert [ours["low"], ours["high"]] == pytest.approx([expected.low, expected.high], abs=0.004)


def test_the_seeds_of_two_recipes_widen_what_the_photographs_leave_open():
    """A recipe whose runs lie far apart is not better for certain, however many images each of them has."""
    rng = np.random.default_rng(0)
    references = rng.integers(0, 2, 4000)

    def run(accuracy):
        return np.where(rng.random(4000) < accuracy, references, 1 - references)

    first, second = [run(share) for share in (0.5, 0.6, 0.9)], [run(0.5) for _ in range(3)]
    apart = paired_bootstrap(first, second, references, ["a", "b"])["accuracy"]
    assert apart["difference"] == pytest.approx(1 / 6, abs=0.02)
    # One of 27 resamples has the best run three times and one has the worst, each more than 2.5 %.
    assert apart["low"] == pytest.approx(0, abs=0.05)
    assert apart["high"] == pytest.approx(0.4, abs=0.05)
    single = paired_bootstrap(first[2], second, references, ["a", "b"])["accuracy"]
    assert single["difference"] == pytest.approx(0.4, abs=0.02)
    assert single["high"] - single["low"] < 0.06
    with pytest.raises(ValueError, match="got no run"):
        paired_bootstrap(first, np.empty((0, 4000), int), references, ["a", "b"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_intervals([0, 1], [0], ["a", "b"]), "2 predictions and 1 references"),
        (lambda: bootstrap_intervals([0, 2], [0, 1], ["a", "b"]), "0 to 1"),
        (lambda: bootstrap_intervals([0], [0], ["a"], photographs=["p", "q"]), "2 photographs and 1"),
        (lambda: paired_bootstrap([0], [0, 1], [0, 1], ["a", "b"]), "1 predictions and 2 references"),
    ],
)
def test_wrong_arguments_of_the_bootstrap(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wilson_interval_of_one_in_ten():
    # Wilson (1927) by hand: centre (x + z²/2) / (n + z²), half width z / (n + z²) * sqrt(x (n - x) / n + z²/4).
    z = scipy.stats.norm.ppf(0.975)
    middle, half = (1 + z**2 / 2) / (10 + z**2), z / (10 + z**2) * np.sqrt(0.9 + z**2 / 4)
    assert wilson_interval(1, 10) == pytest.approx([0.1, middle - half, middle + half])
    assert wilson_interval(0, 10)[:2] == [0, 0]
    assert wilson_interval(10, 10)[::2] == [1, 1]
    assert np.isnan(wilson_interval(0, 0)).all()


def test_intervals_of_means_are_those_of_the_figures_that_are_means():
    predictions, references, photographs = clustered_case()
    names = ["a", "b", "c"]
    figures = bootstrap_intervals(predictions, references, names, photographs=photographs)
    right = {"right": predictions == references}
    assert bootstrap_means(right, references, groups=photographs)["right"] == pytest.approx(figures["accuracy"])
    balanced = bootstrap_means(right, references, groups=photographs, balanced=True)["right"]
    assert balanced == pytest.approx(figures["macro_recall"])
    assert bootstrap_means(right, references)["right"] == pytest.approx(
        bootstrap_intervals(predictions, references, names)["accuracy"]
    )


def test_a_group_may_have_several_classes_and_a_resample_may_lack_one():
    # Class 2 is the commonest of no group: a resample that draws "p" twice lacks it, one that draws "q" has it right.
    references, groups = [0, 0, 0, 0, 0, 2], ["p", "p", "p", "q", "q", "q"]
    values = {"right": np.array([0, 0, 0, 0, 0, 1])}
    balanced = bootstrap_means(values, references, groups=groups, balanced=True)
    assert balanced["right"] == [0, 0.5]
    with pytest.raises(ValueError, match="got 5 right and 6 references"):
        bootstrap_means({"right": np.zeros(5)}, references)


def test_an_unpaired_difference_of_shares_is_newcombes():
    """Example of Newcombe 1998, Statistics in Medicine 17, 873-890, table II, method 10: 56 of 70 less 48 of 80."""
    difference = unpaired_difference(wilson_interval(48, 80), wilson_interval(56, 70))
    assert difference == pytest.approx({"difference": 0.2, "low": 0.0524, "high": 0.3339}, abs=5e-5)
