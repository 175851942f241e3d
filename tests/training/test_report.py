"""Results, predictions, plots and card of a run."""

import json
import re
import shutil

import pytest
from PIL import Image
from runs import arguments

import train
from hub.data.load import load
from modeling_wbc import WBCForImageClassification


def test_a_run_leaves_a_model_with_results_plots_and_card(trained):
    output, printed = trained
    model = WBCForImageClassification.from_pretrained(output)
    assert model.config.id2label == {0: "eosinophil", 1: "lymphocyte", 2: "monocyte", 3: "neutrophil"}
    assert model.center_loss.centers.abs().sum() > 0

    results = json.loads((output / "test_results.json").read_text(encoding="utf-8"))
    assert sum(map(sum, results["confusion_matrix"])) == results["num_images"] == 12
    diagonal = sum(row[index] for index, row in enumerate(results["confusion_matrix"]))
    assert results["accuracy"] == pytest.approx(diagonal / 12)
    for name in ("confusion_matrix.png", "learning_curves.png"):
        assert min(Image.open(output / name).size) > 300

    # Table 1 as the paper lays it out: ours, then the paper's, of precision, recall and F1.
    row = re.split(" {2,}", next(line for line in printed.splitlines() if line.startswith("neutrophil")))
    assert [row[2], row[4], row[6]] == ["81", "89", "85"]
    low, high = results["intervals"]["recall_neutrophil"]
    figures = re.fullmatch(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", row[3]).groups()
    assert [float(figure) for figure in figures] == pytest.approx(
        [100 * results["recall_neutrophil"], 100 * low, 100 * high], abs=0.051
    )

    card = (output / "README.md").read_text(encoding="utf-8")
    assert "accelerate launch train.py --dataset_name" in card
    assert f"--output_dir {output}" in card
    assert f"{100 * results['accuracy']:.1f}" in card
    assert not list(output.rglob("training_args.bin"))


def test_an_evaluation_alone_repeats_the_results_and_keeps_the_card(trained, data, tmp_path):
    output, _ = trained
    before = json.loads((output / "test_results.json").read_text(encoding="utf-8"))
    copy = shutil.copytree(output, tmp_path / "copy")
    train.main(["--do_eval", *arguments(data, str(copy), copy)])
    after = json.loads((copy / "test_results.json").read_text(encoding="utf-8"))
    assert after["confusion_matrix"] == before["confusion_matrix"]
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-5)
    assert "--do_train" in (copy / "README.md").read_text(encoding="utf-8")


def test_the_card_names_the_lab_that_was_left_out(blood, tiny, tmp_path):
    schedule = ("--do_train", "--do_eval", "--max_steps", "1", "--save_strategy", "no", "--report_to", "none")
    train.main(arguments(blood, tiny, tmp_path / "out", *schedule, "--leave_out", "pbc"))
    training = json.loads((tmp_path / "out" / "train_results.json").read_text(encoding="utf-8"))
    assert training["recipe"]["Data sets"] == "all, without pbc"
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| Data sets | all, without pbc |" in card
    validation = json.loads((tmp_path / "out" / "validation_results.json").read_text(encoding="utf-8"))
    assert validation["num_images"] == sum(name == "bccd" for name in load(blood)["validation"]["dataset"])
    results = json.loads((tmp_path / "out" / "test_results.json").read_text(encoding="utf-8"))
    assert {"bccd", "pbc"} <= results["subsets"].keys()


def test_a_run_shorter_than_the_logging_steps_gets_a_card_without_curves(data, tiny, tmp_path):
    schedule = ("--do_train", "--do_eval", "--max_steps", "1", "--logging_steps", "10", "--save_strategy", "no")
    train.main(arguments(data, tiny, tmp_path / "out", *schedule, "--report_to", "none"))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "confusion_matrix.png" in card
    assert "learning_curves.png" not in card
    assert not (tmp_path / "out" / "learning_curves.png").exists()
