"""Figures of stages and attributes, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from hub.evaluation.heads import evaluate_attributes, evaluate_stages, heads_rows
from hub.evaluation.intervals import bootstrap_intervals

NAMES = ["ig", "monocyte", "neutrophil"]
STAGES = {"neutrophil": ["band", "segmented"], "ig": ["myelocyte", "promyelocyte"]}


def one_hot(ids, size):
    return np.eye(size)[ids]


def test_a_stage_is_right_with_its_type_and_among_the_stages_of_the_type():
    types = np.array([2, 2, 2, 1, 0, 0, 2])
    predicted = np.array([2, 2, 1, 1, 0, 2, 2])
    stage_ids = np.array([0, 1, 1, -100, 3, 3, -100])
    # The highest score is a stage of another type in the first row, where that of `band` beats `segmented`.
    stage_logits = np.array(
        [[2, 1, 9, 9], [0, 1, 0, 0], [0, 1, 0, 0], [9, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 9], [0, 1, 0, 0]]
    )
    results = evaluate_stages(one_hot(predicted, 3), stage_logits, types, stage_ids, NAMES, STAGES)
    assert results["label_names"] == ["monocyte", "band", "segmented", "myelocyte", "promyelocyte"]
    # Rows 0, 1 and 4 of five; the monocyte in addition. The last row's stage is not known: it does not count.
    assert results["stage_accuracy"] == pytest.approx(3 / 5)
    assert results["num_staged"] == 5
    assert results["accuracy"] == pytest.approx(4 / 6)
    assert results["num_images"] == 6
    expected = [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]]
    assert results["confusion_matrix"] == expected
    for name, (low, high) in results["intervals"].items():
        assert low <= results[name] <= high


def test_without_a_known_stage_or_attribute_there_is_no_figure():
    unknown = np.full(3, -100)
    assert evaluate_stages(np.eye(3), np.zeros((3, 4)), np.arange(3), unknown, NAMES, STAGES) == {}
    assert evaluate_attributes({"size": np.eye(3)}, unknown[:, None], np.arange(3)) == {}
    assert len(heads_rows({"accuracy": 1.0})) == 1


@pytest.fixture
def attributes():
    generator = np.random.default_rng(0)
    truth = np.stack([generator.integers(0, size, 120) for size in (2, 3)] + [np.full(120, -100)], axis=1)
    truth[::5, 1] = -100
    logits = {
        name: one_hot(np.where(generator.random(120) < 0.7, np.maximum(truth[:, number], 0), 0), size)
        for number, (name, size) in enumerate({"size": 2, "shape": 3, "nobody knows": 2}.items())
    }
    return logits, truth


def test_the_figures_of_attributes_are_scikit_learns(attributes):
    logits, truth = attributes
    results = evaluate_attributes(logits, truth, np.zeros(120, int))
    assert list(results["each"]) == ["size", "shape"]
    for number, figures in enumerate(results["each"].values()):
        known = truth[:, number] >= 0
        predicted = list(logits.values())[number].argmax(1)[known]
        assert figures["num_images"] == known.sum()
        assert figures["accuracy"] == pytest.approx((predicted == truth[known, number]).mean())
        assert figures["macro_f1"] == pytest.approx(f1_score(truth[known, number], predicted, average="macro"))
    for name in ("accuracy", "macro_f1"):
        assert results[name] == pytest.approx(np.mean([figures[name] for figures in results["each"].values()]))


def test_the_interval_of_one_label_is_that_of_the_bootstrap_of_types(attributes):
    logits, truth = attributes
    photographs = [f"photograph {row // 3}" for row in range(120)]
    strata = np.arange(120) // 60
    results = evaluate_attributes({"size": logits["size"]}, truth[:, :1], strata, photographs)
    # With the labels as strata too, the same resamples are drawn.
    expected = bootstrap_intervals(logits["size"].argmax(1), truth[:, 0], ["a", "b"])
    same = evaluate_attributes({"size": logits["size"]}, truth[:, :1], truth[:, 0])
    for name in ("accuracy", "macro_f1"):
        assert same["each"]["size"]["intervals"][name] == pytest.approx(expected[name])
        assert same["intervals"][name] == pytest.approx(expected[name])
        # Three images of a photograph are drawn together.
        low, high = results["intervals"][name]
        assert low < results[name] < high


def test_attributes_that_vary_together_have_a_wider_mean_than_independent_ones():
    generator = np.random.default_rng(1)
    first, second = (generator.random(300) < 0.7).astype(int), (generator.random(300) < 0.7).astype(int)
    truth = np.ones((300, 2), int)

    def width(right):
        logits = {str(number): one_hot(column, 2) for number, column in enumerate(right)}
        low, high = evaluate_attributes(logits, truth, np.zeros(300, int))["intervals"]["accuracy"]
        return high - low

    assert width([first, first]) / width([first, second]) == pytest.approx(2**0.5, abs=0.15)


def test_the_table_has_a_row_for_every_figure(attributes):
    logits, truth = attributes
    stages = evaluate_stages(np.eye(3), np.eye(4)[[2, 0, 0]], np.arange(3), np.array([2, -100, 0]), NAMES, STAGES)
    rows = heads_rows({"stages": stages, "attributes": evaluate_attributes(logits, truth, np.zeros(120, int))})
    assert [row[0] for row in rows[1:]] == [
        "stages", "types and stages, 5 classes", "size", "shape", "mean of 2 attributes",
    ]  # fmt: skip
    assert rows[1][1:3] == ["2", "100.0 (100.0 to 100.0)"]
    assert rows[4][1] == "96"
