"""The figures of the ablation study are those of the predictions."""

import csv

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from hub.__main__ import main
from hub.data.bccd import BCCD_CLASSES
from hub.evaluation.intervals import paired_bootstrap
from hub.study.ablation_results import collect
from hub.study.ablation_rows import REFERENCES, run_folder

REFERENCE = REFERENCES["ablations"]


def answers(output, name, lab, seed, origin):
    with open(run_folder(output, name, lab, seed) / "test_predictions.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["lab"] == origin]
    return [row["label"] for row in rows], [row["prediction"] for row in rows]


def test_figures_are_those_of_the_predictions(output):
    rows = collect(output)["rows"]
    for lab, part, origin in (("bccd", "test", "bccd"), ("bccd", "pbc", "pbc"), ("pbc", "test", "bccd")):
        ours, others = (
            [answers(output, name, lab, seed, origin) for seed in (1, 2, 3)] for name in ("ibn-hard", REFERENCE)
        )
        found = rows["ibn-hard"][lab][part]
        accuracies = [accuracy_score(*run) for run in ours]
        assert found["accuracy"] == pytest.approx(accuracies)
        assert found["mean"] == pytest.approx(np.mean(accuracies))
        assert found["macro_f1"] == pytest.approx(np.mean([f1_score(*run, average="macro") for run in ours]))
        difference = np.mean(accuracies) - np.mean([accuracy_score(*run) for run in others])
        assert found["difference"] == pytest.approx(difference)
        ids = [[[BCCD_CLASSES.index(name) for name in run[1]] for run in runs] for runs in (ours, others)]
        compared = paired_bootstrap(*ids, [BCCD_CLASSES.index(name) for name in ours[0][0]], [*BCCD_CLASSES])
        if origin == "pbc":  # whose images have no photographs
            bounds = [compared["accuracy"]["low"], compared["accuracy"]["high"]]
            assert [found["low"], found["high"]] == pytest.approx(bounds)
        assert found["low"] < difference < found["high"]
        assert found["low"] > 0
        assert found["interval"][0] < found["mean"] < found["interval"][1]
    # A row of one seed is compared with all of the reference, whose first may be its worst.
    found = rows["ibn-ce"]["bccd"]["test"]
    one = accuracy_score(*answers(output, "ibn-ce", "bccd", 1, "bccd"))
    others = [accuracy_score(*answers(output, REFERENCE, "bccd", seed, "bccd")) for seed in (1, 2, 3)]
    assert found["difference"] == pytest.approx(one - np.mean(others))
    # Its interval is at least as wide as what another seed would have given, by the spread of those of several.
    runs = [rows[name]["bccd"]["test"]["accuracy"] for name in ("ibn-hard", REFERENCE)]
    spread = np.mean([np.var(accuracy, ddof=1) for accuracy in runs]) ** 0.5
    assert min(found["difference"] - found["low"], found["high"] - found["difference"]) > 1.95 * spread
    assert "difference" not in rows[REFERENCE]["bccd"]["test"]
    assert "pbc" not in rows["ibn-ce"]
    # The paper's baselines are compared with its own network.
    baseline, paper = (
        accuracy_score(*answers(output, name, "bccd", 1, "bccd")) for name in ("resnet50", "ibn-resnet34")
    )
    assert rows["resnet50"]["bccd"]["test"]["difference"] == pytest.approx(baseline - paper)
    assert "difference" not in rows["ibn-resnet34"]["bccd"]["test"]


def test_an_idea_is_measured_by_all_runs_with_it_and_without_it(output):
    ideas = collect(output)["ideas"]
    ibn = ideas["IBN in place of BN"]
    assert (ibn["with"], ibn["without"]) == (4, 3)  # three runs of ibn-hard and one of ibn-ce, three of bn-ce
    ours = [("ibn-hard", 1), ("ibn-hard", 2), ("ibn-hard", 3), ("ibn-ce", 1)]
    for where, runs, lab, origin in (("test", ours, "bccd", "bccd"), ("back", ours[:3], "pbc", "bccd")):
        accuracy = [accuracy_score(*answers(output, name, lab, seed, origin)) for name, seed in runs]
        others = [accuracy_score(*answers(output, REFERENCE, lab, seed, origin)) for seed in (1, 2, 3)]
        assert ibn[where]["difference"] == pytest.approx(np.mean(accuracy) - np.mean(others))
    assert "a start from PBC's cells" not in ideas


def test_a_folder_of_no_study_is_named(tmp_path, capsys):
    assert main(["ablations", "--output", str(tmp_path), "--report"]) == 1
    assert f"{tmp_path} holds no plan.json" in capsys.readouterr().err
