import json
import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest
import scipy.stats

from hub.evaluation import metrics
from hub.evaluation.format import PAPER_ACCURACY, PAPER_TABLE_1, markdown_table_1, table_1
from hub.evaluation.intervals import bootstrap_intervals, paired_bootstrap
from hub.evaluation.metrics import WBCMetric, expected_calibration_error, photograph_accuracy

PAPER_NAMES = ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("a test reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)


def random_case(names=PAPER_NAMES, n=400, absent=(), seed=0):
    rng = np.random.default_rng(seed)
    present = [k for k in range(len(names)) if k not in absent]
    references = rng.choice(present, n)
    predictions = np.where(rng.random(n) < 0.8, references, rng.integers(0, len(names), n))
    return predictions, references


def test_by_hand():
    # true class 0: 3 images, 2 right, 1 taken for "big cell"; true class 1: 2 images, 1 right, 1 taken for 0
    results = WBCMetric().compute(
        predictions=[0, 0, 1, 1, 0], references=[0, 0, 0, 1, 1], label_names=["small", "big cell"]
    )
    assert results["confusion_matrix"] == [[2, 1], [1, 1]]
    assert results["accuracy"] == pytest.approx(3 / 5)
    assert results["precision_small"] == pytest.approx(2 / 3)
    assert results["recall_small"] == pytest.approx(2 / 3)
    assert results["precision_big_cell"] == pytest.approx(1 / 2)
    assert results["f1_big_cell"] == pytest.approx(1 / 2)
    assert (results["support_small"], results["support_big_cell"]) == (3, 2)
    assert results["macro_recall"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert results["weighted_f1"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)


@pytest.mark.parametrize("absent", [(), (0,), (1, 3)])
def test_against_numpy(absent):
    names = ["a", "b", "c", "d", "e"]
    predictions, references = random_case(names, absent=absent)
    results = WBCMetric().compute(predictions=predictions, references=references, label_names=names)

    figures = {"precision": [], "recall": [], "f1": []}
    for k, name in enumerate(names):
        hits = np.sum((predictions == k) & (references == k))
        support, predicted = np.sum(references == k), np.sum(predictions == k)
        expected = {
            "precision": hits / max(predicted, 1),
            "recall": hits / max(support, 1),
            "f1": 2 * hits / max(support + predicted, 1),
        }
        for figure, value in expected.items():
            assert results[f"{figure}_{name}"] == pytest.approx(value)
            figures[figure].append(value)
        assert results[f"support_{name}"] == support
        assert results["confusion_matrix"][k] == [np.sum((references == k) & (predictions == j)) for j in range(5)]
    for figure, values in figures.items():
        assert results[f"macro_{figure}"] == pytest.approx(sum(values) / 5)
    assert results["accuracy"] == pytest.approx(np.mean(predictions == references))
    assert results["weighted_recall"] == pytest.approx(results["accuracy"])


def test_json_round_trip():
    predictions, references = random_case()
    results = WBCMetric().compute(predictions=predictions, references=references, label_names=PAPER_NAMES)
    assert json.loads(json.dumps(results)) == results


def test_batches_add_up():
    predictions, references = random_case()
    metric = WBCMetric()
    for part in np.array_split(np.arange(len(references)), 3):
        metric.add_batch(predictions=predictions[part], references=references[part])
    gathered = metric.compute(label_names=PAPER_NAMES)
    at_once = metric.compute(predictions=predictions, references=references, label_names=PAPER_NAMES)
    assert gathered == at_once


def test_writes_no_file(tmp_path):
    metric = WBCMetric(cache_dir=str(tmp_path))
    metric.compute(predictions=[0, 1], references=[0, 1], label_names=["a", "b"])
    assert not list(tmp_path.rglob("*"))


def test_evaluate_loads_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path))
    predictions, references = random_case()
    loaded = evaluate.load(metrics.__file__, keep_in_memory=True)
    given = {"predictions": predictions, "references": references, "label_names": PAPER_NAMES}
    assert loaded.compute(**given) == WBCMetric().compute(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"predictions": [0, 1], "references": [0]}, "2 predictions and 1 references"),
        ({"predictions": [], "references": []}, "at least one"),
        ({"predictions": None, "references": None}, "no predictions"),
        ({"predictions": [0], "references": None}, "no references"),
        ({"predictions": [0, 2], "references": [0, 1]}, r"predictions hold the class ids \[2\].*0 to 1"),
        ({"predictions": [0, 1], "references": [0, -100]}, r"references hold the class ids \[-100\]"),
        ({"predictions": [0.0, 1.7], "references": [0, 1]}, "integer class ids; got float64"),
        ({"predictions": ["a", "b"], "references": [0, 1]}, "integer class ids; got <U1"),
        ({"predictions": [[0, 1]], "references": [[0, 1]]}, r"shape \(1, 2\)"),
        ({"predictions": [0], "references": [0], "label_names": []}, "one or more different names"),
        ({"predictions": [0], "references": [0], "label_names": ["a b", "a_b"]}, "rename"),
    ],
)
def test_errors(given, message):
    metric = WBCMetric()
    with pytest.raises(ValueError, match=message):
        metric.compute(**{"label_names": ["a", "b"], **given})
    # nothing of the failed call is left behind
    right = metric.compute(predictions=[0, 1], references=[0, 1], label_names=["a", "b"])
    assert right["confusion_matrix"] == [[1, 0], [0, 1]]


def test_table_1_beside_the_paper():
    predictions, references = random_case()
    results = WBCMetric().compute(predictions=predictions, references=references, label_names=PAPER_NAMES)
    plain = markdown_table_1(results, PAPER_NAMES, paper=False)
    assert "paper" not in plain
    assert plain.splitlines()[0].count("|") == 6
    text, markdown = table_1(results, PAPER_NAMES), markdown_table_1(results, PAPER_NAMES)
    rows = {line.split()[0].lower(): line.split() for line in text.splitlines() if line}
    for name in PAPER_NAMES:
        row = rows[name.lower()]
        paper = PAPER_TABLE_1[name.lower()]
        assert [int(cell) for cell in row[2:7:2]] == [paper["precision"], paper["recall"], paper["f1"]]
        ours = [f"{100 * results[f'{figure}_{name}']:.1f}" for figure in ("precision", "recall", "f1")]
        assert row[1:6:2] == ours
        assert row[7] == str(results[f"support_{name}"])
        assert "| " + " | ".join(row) + " |" in markdown
    average = rows["average"][3:]
    assert average[1:6:2] == ["92", "92", "92"]
    assert average[2] == f"{100 * results['accuracy']:.1f}"
    assert average[-1] == "400"
    assert f"paper {PAPER_ACCURACY}" in text
    # the rows stand in the paper's order, the average last
    assert [name for name in rows if name in PAPER_TABLE_1] == list(PAPER_TABLE_1)


def test_table_1_of_other_classes():
    names = ["basophil", "lymphocyte"]
    results = WBCMetric().compute(predictions=[0, 1], references=[0, 1], label_names=names)
    rows = [line.split() for line in table_1(results, names).splitlines()]
    assert ["basophil", "100.0", "-", "100.0", "-", "100.0", "-", "1"] in rows
    assert ["lymphocyte", "100.0", "100", "100.0", "99", "100.0", "100", "1"] in rows
    assert ["average", "/", "total", "100.0", "-", "100.0", "-", "100.0", "-", "2"] in rows
    with pytest.raises(ValueError, match="no class"):
        table_1(results, ["basophil", "monocyte"])


def test_table_1_is_the_papers():
    # 4 rows and the average of precision, recall, F1, as printed
    printed = "90 90 90 100 99 100 99 89 93 81 89 85 92 92 92"
    assert [value for row in PAPER_TABLE_1.values() for value in row.values()] == [int(v) for v in printed.split()]


def test_metrics_stand_alone():
    """evaluate.load copies this one file elsewhere, where no other of the project is."""
    source = Path(metrics.__file__).read_text()
    assert not [line for line in source.splitlines() if line.startswith(("from .", "from hub", "import hub"))]


# --- Intervals ---


def clustered_case(clusters=40, size=30, seed=0):
    """Images of photographs that are mostly right or mostly wrong together: predictions, references, photographs."""
    rng = np.random.default_rng(seed)
    photographs = np.repeat(np.arange(clusters), size)
    references = photographs % 3
    skill = rng.choice([0.95, 0.2], clusters)[photographs]
    predictions = np.where(rng.random(len(references)) < skill, references, (references + 1) % 3)
    return predictions, references, [f"photo {number}" for number in photographs]


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


def test_every_figure_of_the_results_has_an_interval_around_it():
    predictions, references, photographs = clustered_case()
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], len(references))
    results = WBCMetric().compute(
        predictions=predictions,
        references=references,
        label_names=["a", "b", "c"],
        photographs=photographs,
        probabilities=probabilities,
        intervals=True,
    )
    figures = {
        name: value
        for name, value in results.items()
        if isinstance(value, float) and name != "expected_calibration_error"
    }
    assert results["intervals"].keys() == {*figures, "expected_calibration_error"}
    for name, value in figures.items():
        low, high = results["intervals"][name]
        assert 0 <= low <= value <= high <= 1
    assert results["num_photographs"] == 40
    assert json.loads(json.dumps(results)) == results
    low, high = results["intervals"]["recall_a"]
    assert f"{100 * results['recall_a']:.1f} ({100 * low:.1f} to {100 * high:.1f})" in table_1(results, list("abc"))
    assert "by majority in each of 40 photographs" in markdown_table_1(results, list("abc"))


def test_seeds():
    case = (*random_case(), PAPER_NAMES)
    assert bootstrap_intervals(*case) == bootstrap_intervals(*case, seed=0)
    assert bootstrap_intervals(*case) != bootstrap_intervals(*case, seed=1)


def test_calibration_error_by_hand():
    # Two bins: 0.3 and 0.4 cannot be a maximum of two classes, so (0, 0.5] is empty but for 0.5 itself.
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    references = [0, 0, 0, 1]
    # bin 1: right, confidence 0.5; bin 2: 1 of 3 right at a mean confidence of 0.8
    expected = (abs(1 - 0.5) + abs(1 - 2.4)) / 4
    assert expected_calibration_error(probabilities, references, bins=2) == pytest.approx(expected)
    assert expected_calibration_error([[1.0, 0.0]], [0]) == 0


def test_calibration_error_of_calibrated_predictions_is_small():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 50_000)
    references = (rng.random(50_000)[:, None] > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert expected_calibration_error(probabilities, references) < 0.01
    assert expected_calibration_error(probabilities, (references + 1) % 3) > 0.2


def test_photograph_accuracy_by_hand():
    photographs = ["p", "p", "p", "q", "q", "r", None, None]
    references = [0, 0, 0, 1, 1, 2, 0, 0]
    predictions = [0, 0, 1, 1, 0, 2, 0, 1]  # p: 2 to 1; q: a tie, which is no majority; r; two single images
    assert photograph_accuracy(predictions, references, photographs) == 3 / 5
    with pytest.raises(ValueError, match="several classes"):
        photograph_accuracy([0, 1], [0, 1], ["p", "p"])
    with pytest.raises(ValueError, match="1 photographs and 2 references"):
        photograph_accuracy([0, 1], [0, 1], ["p"])


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
        (lambda: expected_calibration_error([[2.0, -1.0]], [0]), "softmax"),
        (lambda: expected_calibration_error([[np.nan, 0.5]], [0]), "softmax"),
        (lambda: expected_calibration_error([0.5, 0.5], [0, 1]), r"shape \(2,\)"),
        (lambda: photograph_accuracy([0], [-1], ["p"]), "references hold"),
    ],
)
def test_wrong_arguments_of_the_bootstrap(call, message):
    with pytest.raises(ValueError, match=message):
        call()
