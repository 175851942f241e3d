"""train.py, run as its users run it: through its arguments, on drawn cells, with a tiny network."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
from runs import arguments, launch
from safetensors.torch import load_file
from transformers import AutoImageProcessor

import train
from hub.data.bccd import BCCD_CLASSES
from hub.data.load import load, save
from hub.data.synthetic import drawn_cells
from hub.files import UserError
from hub.training.arguments import WBCTrainingArguments
from modeling_wbc import WBCForImageClassification, WBCImageProcessor


def test_the_defaults_are_the_papers_recipe(tmp_path):
    args = WBCTrainingArguments(output_dir=str(tmp_path))
    assert (args.optim, args.learning_rate, args.momentum, args.weight_decay) == ("sgd", 0.001, 0.9, 0)
    assert args.per_device_train_batch_size == 128
    assert args.lr_scheduler_type == "constant"
    assert args.max_grad_norm == 0
    assert args.do_train
    assert args.do_eval
    accumulated = WBCTrainingArguments(output_dir=str(tmp_path), gradient_accumulation_steps=4)
    assert accumulated.per_device_train_batch_size == 32


def test_two_processes_share_the_batch_of_128(tiny, tmp_path):
    output = tmp_path / "two"
    save(drawn_cells(seed=0, train=130, test=8), tmp_path / "cells")
    process = launch(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("train.py", "--dataset_name", str(tmp_path / "cells"), "--model_name_or_path", tiny, "--bf16"),
        *("--validation_split", "0"),
        *("--output_dir", str(output), "--num_train_epochs", "1", "--logging_steps", "1", "--do_train", "--do_eval"),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    recipe = json.loads((output / "train_results.json").read_text(encoding="utf-8"))
    assert recipe["recipe"]["Batch"] == 128
    assert recipe["recipe"]["Precision"] == "bf16"
    assert recipe["command"].startswith("torchrun --standalone --nproc_per_node 2 train.py --dataset_name")
    assert json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["global_step"] == 2
    assert json.loads((output / "test_results.json").read_text(encoding="utf-8"))["num_images"] == 8
    assert printed.count("average / total") == 1


def test_data_that_cannot_be_loaded_are_named(data, tiny, tmp_path):
    with pytest.raises(UserError, match="nobody/no-such-cells"):
        train.main(["--do_train", *arguments(data, tiny, tmp_path / "out"), "--dataset_name", "nobody/no-such-cells"])
    assert not list(tmp_path.glob("out/checkpoint-*"))


def test_a_data_set_to_train_on_that_is_not_there_is_named(blood, tiny, tmp_path):
    with pytest.raises(UserError, match="--train_on names 'PBC'"):
        train.main([*arguments(blood, tiny, tmp_path / "out"), "--train_on", "PBC"])


def test_a_balanced_run_resumes_and_reports_each_data_set(blood, tiny, tmp_path, capsys):
    schedule = (
        *("--do_train", "--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "4", "--balanced"),
        *("--eval_strategy", "epoch"),
    )
    train.main(arguments(blood, tiny, tmp_path / "whole", *schedule, "--do_eval"))
    printed = capsys.readouterr().out
    # Each epoch has three steps; step 4 is the first of the second.
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    train.main(arguments(blood, tiny, tmp_path / "resumed", *schedule, "--resume_from_checkpoint"))
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name

    results = json.loads((tmp_path / "whole" / "test_results.json").read_text(encoding="utf-8"))
    occurring, shared = ("bccd_4_classes", "pbc_3_classes"), ("bccd_2_shared_classes", "pbc_2_shared_classes")
    assert results["subsets"].keys() == {"bccd", "pbc", *occurring, *shared}
    assert results["subsets"]["bccd"]["num_photographs"] == 8
    assert len(results["subsets"]["bccd"]["label_names"]) == 5
    assert results["subsets"]["bccd_4_classes"]["label_names"] == list(BCCD_CLASSES)
    low, high = results["subsets"]["bccd"]["intervals"]["accuracy"]
    assert low <= results["subsets"]["bccd"]["accuracy"] <= high
    assert "\nbccd, only the 4 classes that occur  " in printed
    with open(tmp_path / "whole" / "test_predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == results["num_images"]
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == pytest.approx(results["accuracy"])
    assert (
        json.loads((tmp_path / "whole" / "test_photographs_results.json").read_text(encoding="utf-8"))["num_images"]
        == 8
    )
    card = (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")
    assert "| bccd, only the 4 classes that occur |" in card
    assert "95 % intervals" in card
    assert "evenly" in card


def test_a_model_of_crops_is_trained_saved_and_evaluated_as_such(data, tiny, tmp_path):
    schedule = ("--do_train", "--do_eval", "--num_train_epochs", "2", "--find_cell")
    train.main(arguments(data, tiny, tmp_path / "one", *schedule))
    train.main(arguments(data, tiny, tmp_path / "two", *schedule, "--dataloader_num_workers", "2"))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())

    processor = AutoImageProcessor.from_pretrained(tmp_path / "one", trust_remote_code=True)
    assert processor.do_find_cell
    assert (processor.size.height, processor.size.width) == (32, 32)
    assert "crops around cells" in (tmp_path / "one" / "README.md").read_text(encoding="utf-8")
    # Its figures are those of crops; evaluated alone it sees crops again, or whole fields on request.
    model = WBCForImageClassification.from_pretrained(tmp_path / "one").eval()
    results = {}
    for name, more in {"again": (), "whole": ("--find_cell", "False")}.items():
        train.main(["--do_eval", *arguments(data, str(tmp_path / "one"), tmp_path / name, *more)])
        with open(tmp_path / name / "test_predictions.csv", newline="", encoding="utf-8") as file:
            results[name] = list(csv.DictReader(file))
        pixels = WBCImageProcessor(size=32, do_find_cell=name == "again")(
            [image.convert("RGB") for image in load(data)["test"]["image"]], return_tensors="pt"
        )["pixel_values"]
        with torch.no_grad():
            labels = [model.config.id2label[index] for index in model(pixels).logits.argmax(1).tolist()]
        assert [row["prediction"] for row in results[name]] == labels
    with open(tmp_path / "one" / "test_predictions.csv", newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == results["again"]
    assert results["again"] != results["whole"]
