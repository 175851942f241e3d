import json

import numpy as np
import pytest
from evaluation_cases import NAMES, case

from hub.evaluation import subsets
from hub.evaluation.format import table_1
from hub.evaluation.metrics import WBCMetric
from hub.evaluation.subsets import evaluate_logits, parts_rows


@pytest.fixture
def doubtful(monkeypatch):
    monkeypatch.setattr(subsets, "doubtful_labels", lambda: [{"photograph": "p"}, {"photograph": "elsewhere"}])


def test_a_split_of_two_data_sets_is_evaluated_in_parts(doubtful):
    logits, references, columns = case()
    results = evaluate_logits(logits, references, NAMES, columns, {"q", "unseen"})
    assert results["num_images"] == 10
    assert results["accuracy"] == pytest.approx(7 / 10)
    assert results["num_photographs"] == 3 + 4  # a file of unknown photograph is one of its own
    assert results["label_names"] == NAMES
    parts = results["subsets"]
    assert list(parts) == [
        "bccd",
        "pbc",
        "bccd_2_classes",
        "bccd_without_doubtful_labels",
        "bccd_without_seen_fields",
        "pbc_2_shared_classes",
    ]
    assert [part["num_images"] for part in parts.values()] == [6, 4, 6, 4, 2, 2]
    assert parts["bccd"]["accuracy"] == pytest.approx(4 / 6)
    assert parts["pbc"]["accuracy"] == pytest.approx(3 / 4)
    assert parts["bccd_2_classes"]["accuracy"] == pytest.approx(5 / 6)
    assert parts["bccd_2_classes"]["label_names"] == ["eosinophil", "neutrophil"]
    assert parts["bccd_2_classes"]["confusion_matrix"] == [[4, 0], [1, 1]]
    assert parts["bccd_without_doubtful_labels"]["accuracy"] == pytest.approx(3 / 4)
    assert parts["bccd_without_seen_fields"]["accuracy"] == pytest.approx(1 / 2)
    # Of pbc the images and answers that are eosinophil or neutrophil: the last two, both right.
    assert parts["pbc_2_shared_classes"]["confusion_matrix"] == [[1, 0], [0, 1]]
    assert "photograph_accuracy" in parts["bccd"]
    assert "photograph_accuracy" not in parts["pbc"]
    for part in [results, *parts.values()]:
        assert {"accuracy", "macro_f1", "expected_calibration_error"} <= part["intervals"].keys()
        assert table_1(part, part["label_names"])
    assert json.loads(json.dumps(results)) == results
    head, *rows = parts_rows(results)
    assert [row[1:3] for row in rows] == [["6", "3"], ["4", "–"], ["6", "3"], ["4", "2"], ["2", "1"], ["2", "–"]]
    assert rows[0][3].startswith("66.7 (")
    assert rows[2][3].startswith("83.3 (")
    # A mean over classes needs images of all of them: bccd has no basophil.
    assert [row[head.index("Macro F1 (%)")] == "–" for row in rows] == [True, False, False, True, True, False]


def test_in_distribution_acceptance(doubtful):
    logits, references, columns = case()
    accepted = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 0], dtype=bool)
    results = evaluate_logits(logits, references, NAMES, columns, accepted=accepted)
    assert results["kept"] == pytest.approx(7 / 10)
    assert results["subsets"]["bccd"]["kept"] == pytest.approx(4 / 6)
    assert results["subsets"]["pbc"]["kept"] == pytest.approx(3 / 4)
    # Photographs are drawn whole: of bccd's three, one is refused with both files, so shares are thirds.
    low, high = results["subsets"]["bccd"]["intervals"]["kept"]
    assert (low, high) == pytest.approx((0, 1))
    head, *rows = parts_rows(results)
    assert head[-1] == "In-distribution acceptance (%)"
    assert rows[1][-1].startswith("75.0 (")
    assert "in-distribution acceptance (%): 70.0 (" in table_1(results, NAMES)
    assert "In-distribution acceptance (%)" not in parts_rows(evaluate_logits(logits, references, NAMES, columns))[0]


def test_a_split_of_one_data_set_has_no_part_of_its_name(doubtful):
    logits, references, columns = case()
    del columns["lab"]
    results = evaluate_logits(logits, references, NAMES, columns)
    assert list(results["subsets"]) == ["without_doubtful_labels"]
    assert results["subsets"]["without_doubtful_labels"]["num_images"] == 8
    assert evaluate_logits(logits, references, NAMES, {})["subsets"] == {}


def test_probabilities_are_the_softmax_of_the_logits():
    logits, references, columns = case()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = WBCMetric().compute(
        predictions=logits.argmax(1),
        references=references,
        label_names=NAMES,
        photographs=columns["photograph"],
        probabilities=probabilities,
        intervals=True,
    )
    results = evaluate_logits(logits.astype(np.float32), references, NAMES, columns)
    assert results["expected_calibration_error"] == pytest.approx(expected["expected_calibration_error"], abs=1e-6)
    assert results["intervals"]["recall_eosinophil"] == expected["intervals"]["recall_eosinophil"]
