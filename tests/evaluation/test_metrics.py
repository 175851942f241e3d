import json
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
from evaluation_cases import PAPER_NAMES, clustered_case, random_case

from hub.evaluation import metrics
from hub.evaluation.metrics import WBCMetric, expected_calibration_error, photograph_accuracy


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


def test_evaluate_loads_the_file_where_this_project_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path))
    predictions, references, photographs = clustered_case(clusters=6, size=4)
    given = {
        "predictions": predictions,
        "references": references,
        "label_names": ["a", "b", "c"],
        "photographs": photographs,
        "probabilities": np.eye(3)[predictions],
        "intervals": True,
    }
    expected = WBCMetric().compute(**given)
    for name in [name for name in sys.modules if name.partition(".")[0] == "hub"]:
        monkeypatch.setitem(sys.modules, name, None)  # An import of it fails.
    with pytest.raises(ModuleNotFoundError):
        import hub.evaluation.metrics  # noqa: F401
    loaded = evaluate.load(metrics.__file__, keep_in_memory=True)
    assert Path(sys.modules[type(loaded).__module__].__file__).is_relative_to(tmp_path)
    assert loaded.compute(**given) == expected


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_calibration_error([[2.0, -1.0]], [0]), "softmax"),
        (lambda: expected_calibration_error([[np.nan, 0.5]], [0]), "softmax"),
        (lambda: expected_calibration_error([0.5, 0.5], [0, 1]), r"shape \(2,\)"),
        (lambda: expected_calibration_error([[0.5, 0.5]], [0, 1]), "each of the 2 references"),
        (lambda: photograph_accuracy([0], [-1], ["p"]), "references hold"),
    ],
)
def test_errors_of_single_figures(call, message):
    with pytest.raises(ValueError, match=message):
        call()
