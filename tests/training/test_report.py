"""Results, predictions, plots and card of a run."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from runs import arguments

import train
from hub.data.load import load
from hub.files import UserError
from hub.training.report import accepted_by, command_line
from modeling_wbc import WBCConfig, WBCForImageClassification


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
    assert validation["num_images"] == sum(name == "bccd" for name in load(blood)["validation"]["lab"])
    results = json.loads((tmp_path / "out" / "test_results.json").read_text(encoding="utf-8"))
    assert {"bccd", "pbc"} <= results["subsets"].keys()


def test_a_run_shorter_than_the_logging_steps_gets_a_card_without_curves(data, tiny, tmp_path):
    schedule = ("--do_train", "--do_eval", "--max_steps", "1", "--logging_steps", "10", "--save_strategy", "no")
    more = ("--report_to", "none", "--validation_split", "0")
    train.main(arguments(data, tiny, tmp_path / "out", *schedule, *more))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "confusion_matrix.png" in card
    assert "learning_curves.png" not in card
    assert not (tmp_path / "out" / "learning_curves.png").exists()


def write_folder(dataset, root, names):
    """Write splits as `<root>/<name>/<class>/<file>`, or `<root>/<class>/<file>` where the name is empty."""
    for split, name in names.items():
        labels = dataset[split].features["label"]
        for index, row in enumerate(dataset[split]):
            folder = root / name / labels.int2str(row["label"])
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{index}.png")
    return str(root)


@pytest.mark.parametrize(
    "names, validated, cut",
    [({"train": ""}, 4, "4 of 24 training images"), ({"train": "train", "test": "val"}, 12, None)],
)
def test_folders_without_a_test_split_are_validated_and_said_so(data, tiny, tmp_path, caplog, names, validated, cut):
    folder = write_folder(load(data), tmp_path / "cells", names)
    caplog.set_level("INFO")
    train.main(arguments(folder, tiny, tmp_path / "out", "--num_train_epochs", "1"))
    results = json.loads((tmp_path / "out" / "validation_results.json").read_text(encoding="utf-8"))
    assert results["num_images"] == validated
    assert not (tmp_path / "out" / "test_results.json").exists()
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"Measured on the `validation` split of {folder}, {validated} images" in card
    assert "A test on other images may give lower figures" in card
    assert f"| Validation | {cut or 'split of the data set'}" in card
    assert "put images to test on into test/<class>/<file>" in caplog.text
    assert (f"it is {cut}" in caplog.text) == bool(cut)
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["max_novelty"] > 0


def test_a_run_without_validation_and_test_images_trains(data, tiny, tmp_path, caplog):
    folder = write_folder(load(data), tmp_path / "cells", {"train": ""})
    train.main(arguments(folder, tiny, tmp_path / "out", "--max_steps", "1", "--validation_split", "0"))
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "so there are no results; put images to test on into test/<class>/<file>" in caplog.text


def test_a_finished_run_is_not_trained_or_written_again(trained, data, tiny, tmp_path, caplog):
    output, _ = trained
    copy = shutil.copytree(output, tmp_path / "copy")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    schedule = ("--num_train_epochs", "2", "--do_train", "--do_eval", "--resume_from_checkpoint")
    for more in ((), (str(copy / "checkpoint-3"),)):
        train.main(arguments(data, tiny, copy, *schedule, *more))
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
        assert "is finished, with 6 steps: nothing is trained or written" in caplog.text
        caplog.clear()
    # What is left of the run is done: its evaluation, or further epochs.
    for path in copy.glob("*_results.json"):
        if path.name != "train_results.json":
            path.unlink()
    train.main(arguments(data, tiny, copy, *schedule))
    assert json.loads((copy / "test_results.json").read_text(encoding="utf-8"))["num_images"] == 12
    assert "train_loss" not in json.loads((copy / "train_results.json").read_text(encoding="utf-8"))
    train.main(arguments(data, tiny, copy, "--num_train_epochs", "3", *schedule[2:]))
    assert json.loads((copy / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 9
    assert json.loads((copy / "train_results.json").read_text(encoding="utf-8"))["train_loss"] > 0


def test_a_finished_run_without_checkpoints_is_not_overwritten(data, tiny, tmp_path):
    run = arguments(data, tiny, tmp_path, "--do_train", "--max_steps", "1", "--save_strategy", "no")
    train.main(run)
    with pytest.raises(UserError, match="holds a finished run, whose model and results would be overwritten"):
        train.main(run)


def test_predictions_alone_are_those_of_the_evaluation(trained, data, tmp_path):
    output, _ = trained
    train.main(["--do_predict", *arguments(data, str(output), tmp_path / "out")])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test_predictions.csv"]
    assert (tmp_path / "out" / "test_predictions.csv").read_bytes() == (output / "test_predictions.csv").read_bytes()


@pytest.mark.parametrize(
    "environment, command",
    [
        ({}, "python train.py --run_name 'my run'"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, "accelerate launch train.py --run_name 'my run'"),
        (
            {"ACCELERATE_MIXED_PRECISION": "bf16", "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4"},
            "accelerate launch --num_processes 4 --mixed_precision bf16 train.py --run_name 'my run'",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"},
            "torchrun --nnodes 2 --nproc_per_node 4 train.py --run_name 'my run'",
        ),
    ],
)
def test_the_command_is_the_one_that_was_run(monkeypatch, environment, command):
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID", "WORLD_SIZE", "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert command_line(["--run_name", "my run"]) == command


def test_an_image_is_accepted_as_a_cell_is_known():
    """By the rule of `analyze`: an unfamiliar stain is not accepted, as it is not known."""
    config = WBCConfig(max_novelty=1.5, max_smear_novelty=2.0, min_focus=0.7)
    scores = {"novelty": np.float32([1.0, 1.5, 1.6, 3.0, 1.0]), "focus": np.float32([1.0, 0.75, 1.0, 1.0, 0.5])}
    assert accepted_by(config, scores).tolist() == [True, True, False, False, False]
    assert accepted_by(WBCConfig(max_novelty=1.55), scores).tolist() == [True, True, False, False, True]
    assert accepted_by(WBCConfig(min_focus=0.7), scores) is None
    assert accepted_by(config, {}) is None
