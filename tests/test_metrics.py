import json
import socket
from pathlib import Path

import evaluate
import numpy as np
import pytest

from hub import metrics
from hub.metrics import PAPER_ACCURACY, PAPER_TABLE_1, WBCMetric, markdown_table_1, table_1

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
