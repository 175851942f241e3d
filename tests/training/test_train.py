"""train.py, run as its users run it: through its arguments, on drawn cells, with a tiny network."""

import csv
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.transforms import v2
from transformers import AutoImageProcessor, ResNetConfig, ResNetForImageClassification, ViTImageProcessor

import train
from hub.data.bccd import BCCD_CLASSES
from hub.data.columns import features
from hub.data.load import load, save
from hub.data.photographs import PhotographIndex
from hub.data.synthetic import draw_field, drawn_cells
from hub.files import UserError
from hub.training.calibration import fit_novelty, fit_temperature
from hub.training.images import foremost_cell
from modeling_wbc import SmearNovelty, WBCConfig, WBCForImageClassification, WBCImageProcessor

ROOT = Path(__file__).parents[2]
TINY = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A saved data set of drawn cells: 24 to train on, 12 to test."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    save(drawn_cells(seed=0, train=24, test=12), folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of an untrained tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    WBCForImageClassification(WBCConfig(**TINY)).save_pretrained(folder)
    return str(folder)


def arguments(data, tiny, output, *more):
    return [
        *("--dataset_name", data, "--model_name_or_path", tiny, "--output_dir", str(output)),
        *("--per_device_train_batch_size", "8", "--learning_rate", "0.02", "--logging_steps", "1"),
        *("--disable_tqdm", "True", *more),
    ]


def launch(*args, **kwargs):
    return subprocess.Popen(
        [sys.executable, *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
    )


@pytest.fixture(scope="module")
def trained(data, tiny, tmp_path_factory):
    """A finished run of two epochs with evaluation, and what it printed."""
    output = tmp_path_factory.mktemp("trained") / "run"
    process = launch(
        *("-m", "accelerate.commands.launch", "train.py"),
        *arguments(data, tiny, output, "--num_train_epochs", "2", "--do_train", "--do_eval"),
    )
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return output, printed


def test_a_run_leaves_a_model_with_results_plots_and_card(trained):
    output, printed = trained
    model = WBCForImageClassification.from_pretrained(output)
    assert model.config.id2label == {0: "eosinophil", 1: "lymphocyte", 2: "monocyte", 3: "neutrophil"}
    assert model.center_loss.centers.abs().sum() > 0

    results = json.loads((output / "test_results.json").read_text())
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

    card = (output / "README.md").read_text()
    assert "accelerate launch train.py --dataset_name" in card
    assert f"--output_dir {output}" in card
    assert f"{100 * results['accuracy']:.1f}" in card
    assert not list(output.rglob("training_args.bin"))


def test_the_parts_of_the_loss_reach_tensorboard(trained):
    output, _ = trained
    log = EventAccumulator(str(next(output.glob("runs/*")))).Reload()
    curves = {
        name: [point.value for point in log.Scalars(f"train/{name}")]
        for name in ("loss", "cross_entropy", "center_loss", "active_fraction", "accuracy")
    }
    weight = WBCConfig().center_loss_weight
    for loss, cross_entropy, center_loss, active, accuracy in zip(*curves.values(), strict=True):
        assert loss == pytest.approx(cross_entropy + weight * center_loss, abs=1e-3)
        assert 0 <= active <= 1
        assert 0 <= accuracy <= 1
    assert len(curves["loss"]) == 6  # two epochs of 24 images, 8 a step


def test_an_evaluation_alone_repeats_the_results_and_keeps_the_card(trained, data, tmp_path):
    output, _ = trained
    before = json.loads((output / "test_results.json").read_text())
    copy = shutil.copytree(output, tmp_path / "copy")
    train.main(["--do_eval", *arguments(data, str(copy), copy)])
    after = json.loads((copy / "test_results.json").read_text())
    assert after["confusion_matrix"] == before["confusion_matrix"]
    assert after["loss"] == pytest.approx(before["loss"], abs=1e-5)
    assert "--do_train" in (copy / "README.md").read_text()


def test_a_killed_run_resumes_to_the_same_weights(data, tiny, tmp_path):
    schedule = ("--do_train", "--num_train_epochs", "3", "--save_strategy", "steps", "--save_steps", "1")
    train.main(arguments(data, tiny, tmp_path / "whole", *schedule))

    killed = tmp_path / "killed"
    process = launch("train.py", *arguments(data, tiny, killed, *schedule))
    # Step 4 is the first of the second epoch's three: the process dies in the midst of an epoch, or of a checkpoint.
    while not (killed / "checkpoint-4" / "trainer_state.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (killed / "model.safetensors").exists()

    train.main(arguments(data, tiny, killed, *schedule, "--resume_from_checkpoint"))
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", killed))
    start = load_file(Path(tiny, "model.safetensors"))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    assert not torch.equal(whole["classifier.1.weight"], start["classifier.1.weight"])


def test_half_a_checkpoint_is_passed_over(trained, tmp_path):
    output, _ = trained
    copy = shutil.copytree(output, tmp_path / "copy")
    newest = train.last_checkpoint(copy)
    half = shutil.copytree(newest, newest.with_name("checkpoint-999"))
    (half / "trainer_state.json").unlink()
    assert train.last_checkpoint(copy) == newest


def test_two_processes_share_the_batch_of_128(tiny, tmp_path):
    output = tmp_path / "two"
    save(drawn_cells(seed=0, train=160, test=8), tmp_path / "cells")
    process = launch(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("train.py", "--dataset_name", str(tmp_path / "cells"), "--model_name_or_path", tiny, "--bf16"),
        *("--output_dir", str(output), "--num_train_epochs", "1", "--logging_steps", "1", "--do_train", "--do_eval"),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    recipe = json.loads((output / "train_results.json").read_text())
    assert recipe["recipe"]["Batch"] == 128
    assert recipe["recipe"]["Precision"] == "bf16"
    assert "accelerate launch --num_processes 2 train.py" in recipe["command"]
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 2
    assert json.loads((output / "test_results.json").read_text())["num_images"] == 8
    assert printed.count("average / total") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told what to keep")
def test_a_step_on_a_cpu_uses_the_memory_of_the_last_one_again():
    # In a process of its own, since what is kept cannot be given back.
    steps = """
import resource, sys, torch
if sys.argv[1] == "keep":
    keep_freed_memory()
for step in range(10):  # of which the first lay out the heap
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**24) for _ in range(4)]  # 64 MiB each
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        way: int(subprocess.run([sys.executable, "-c", steps, way], cwd=ROOT, capture_output=True, text=True).stdout)
        for way in ("keep", "return")
    }
    assert faults["keep"] < 100 < 10_000 < faults["return"]


def test_the_defaults_are_the_papers_recipe(tmp_path):
    args = train.WBCTrainingArguments(output_dir=str(tmp_path))
    assert (args.optim, args.learning_rate, args.momentum, args.weight_decay) == ("sgd", 0.001, 0.9, 0)
    assert args.per_device_train_batch_size == 128
    assert args.lr_scheduler_type == "constant"
    assert args.max_grad_norm == 0
    assert args.do_train
    assert args.do_eval
    accumulated = train.WBCTrainingArguments(output_dir=str(tmp_path), gradient_accumulation_steps=4)
    assert accumulated.per_device_train_batch_size == 32


def test_augmentation_depends_on_seed_epoch_and_row_alone(data):
    rows = load(data)["train"]
    processor = WBCImageProcessor(size=32, do_find_cell=False)

    def image(index, epoch, seed=0):
        images = train.CellImages(rows, processor, [0, 1, 2, 3], train.AUGMENTATIONS["paper"], seed)
        images.set_epoch(epoch)
        torch.rand(epoch + 1)  # what else the process draws must not matter
        return images[index]["pixel_values"]

    assert torch.equal(image(3, epoch=1), image(3, epoch=1))
    assert not torch.equal(image(3, epoch=1), image(3, epoch=2))
    assert not torch.equal(image(3, epoch=1), image(3, epoch=1, seed=1))
    state = torch.get_rng_state()
    image(0, epoch=0)
    torch.rand(1)
    assert not torch.equal(state, torch.get_rng_state())  # and the image must not reset what others draw


def test_weights_of_other_classes_start_all_but_the_classifier(tiny):
    args = train.ModelArguments(norm_layout="bn")
    model = train.load_model(args, tiny, ["basophil", "platelet"], do_train=True)
    saved = load_file(Path(tiny, "model.safetensors"))
    loaded = model.state_dict()
    for name, weight in saved.items():
        if name.startswith("resnet."):
            assert torch.equal(loaded[name], weight), name
    assert model.classifier[1].weight.shape == (2, 16)
    assert model.center_loss.centers.shape == (2, 16)
    assert model.config.id2label == {0: "basophil", 1: "platelet"}
    assert model.config.norm_layout == "bn"


def test_resnet_weights_of_transformers_start_a_run(tmp_path):
    peer = ResNetForImageClassification(ResNetConfig(layer_type="basic", num_labels=1000, **TINY))
    peer.save_pretrained(tmp_path)
    model = train.load_model(train.ModelArguments(), str(tmp_path), ["basophil", "platelet"], do_train=True)
    expected = peer.resnet.encoder.stages[1].layers[0].layer[0].convolution.weight
    assert torch.equal(model.resnet.encoder.stages[1].layers[0].layer[0].convolution.weight, expected)
    assert model.config.norm_layout == "ibn"


def test_the_models_order_of_classes_counts(trained, data, tmp_path):
    output, _ = trained
    before = json.loads((output / "test_results.json").read_text())
    splits = load(data)
    names = splits["test"].features["label"].names[::-1]
    relabelled = splits.map(lambda row: {"label": 3 - row["label"]}, features=features(tuple(names)))
    save(relabelled, tmp_path / "reversed")
    train.main(["--do_eval", *arguments(str(tmp_path / "reversed"), str(output), tmp_path / "out")])
    after = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert after["confusion_matrix"] == before["confusion_matrix"]
    assert after["label_names"] == before["label_names"]


@pytest.mark.parametrize(
    "change, message",
    [
        (["--dataset_name", "nobody/no-such-cells"], "nobody/no-such-cells"),
        (["--model_name_or_path", "microsoft/resnet-34"], "'none' to start from random weights"),
        (["--model_name_or_path", "no/such/folder"], "no/such/folder"),
        (["--resume_from_checkpoint", "no/such/checkpoint"], "no/such/checkpoint is no checkpoint"),
        (["--learning_rate", "1e30"], "Lower --learning_rate"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(data, tiny, tmp_path, change, message):
    with pytest.raises((train.UserError, UserError), match=message):
        train.main(["--do_train", *arguments(data, tiny, tmp_path / "out"), *change])
    assert not list(tmp_path.glob("out/checkpoint-*"))


def test_evaluating_on_unknown_classes_is_refused(trained, data, tmp_path):
    output, _ = trained
    splits = load(data)
    names = ("eosinophil", "lymphocyte", "monocyte", "platelet")
    save(splits.cast_column("label", features(names)["label"]), tmp_path / "other")
    with pytest.raises(train.UserError, match=r"\['platelet'\] are unknown to .*run"):
        train.main(["--do_eval", *arguments(str(tmp_path / "other"), str(output), tmp_path / "out")])


def test_a_data_set_without_a_test_split_is_refused(data, tiny, tmp_path):
    splits = load(data)
    del splits["test"]
    save(splits, tmp_path / "cells")
    with pytest.raises(train.UserError, match="no split test, only train"):
        train.main(["--do_train", "--do_eval", *arguments(str(tmp_path / "cells"), tiny, tmp_path / "out")])


def test_a_run_is_not_overwritten_by_the_next(trained, data, tiny):
    output, _ = trained
    with pytest.raises(train.UserError, match="--resume_from_checkpoint"):
        train.main(["--do_train", *arguments(data, tiny, output)])


def test_a_full_disk_costs_no_checkpoint(data, tiny, tmp_path):
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path]).returncode:
        pytest.skip("needs a small file system, which only root can mount")
    try:
        output, ballast = tmp_path / "out", tmp_path / "ballast"
        schedule = ("--do_train", "--save_strategy", "steps", "--save_steps", "2", "--report_to", "none")
        train.main(arguments(data, tiny, output, *schedule, "--max_steps", "2"))
        with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(ballast, ballast.stat().st_size - 40_000)
        more = (*schedule, "--max_steps", "4", "--resume_from_checkpoint")
        with pytest.raises(train.UserError, match="could not write .*checkpoint-4.*Make room.*checkpoint-2"):
            train.main(arguments(data, tiny, output, *more))
        assert not (output / "checkpoint-4").exists()
        ballast.unlink()
        train.main(arguments(data, tiny, output, *more))
        assert math.isfinite(json.loads((output / "train_results.json").read_text())["train_loss"])
        assert train.last_checkpoint(output).name == "checkpoint-4"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


# --- Photographs and balance ---


@pytest.fixture(scope="module")
def blood(tmp_path_factory):
    """A small data set of two labs: photographs with files made from them as BCCD's, and single cells."""
    names = ("basophil", *BCCD_CLASSES)
    columns = features(names, photographs=True, origin=True)
    splits = {}
    for split, first in {"train": 0, "test": 100, "validation": 200}.items():
        rows = []
        photographs = []
        for number in range(first, first + 8):
            label, name = BCCD_CLASSES[number % 4], f"photo {number}"
            image = draw_field(label, seed=number, size=(160, 120))
            known = {"label": label, "photograph": name, "field": name, "dataset": "bccd"}
            photographs.append(known | {"image": image, "file_name": f"bccd/{name}.jpg"})
            for copy in range(1 + number % 3):
                torch.manual_seed(number)
                file = train.PublisherAugmentation()(image)
                rows.append(known | {"image": file, "file_name": f"bccd/{copy}_{number}.jpg", "match_error": 1.0})
        for number in range(first, first + 6):
            label = ("basophil", "monocyte", "neutrophil")[number % 3]
            image = draw_field("monocyte", seed=500 + number, size=(60, 60))
            rows.append({"label": label, "image": image, "file_name": f"pbc/{number}.jpg", "dataset": "pbc"})
        for part, content in ((split, rows), (f"{split}_photographs", photographs)):
            splits[part] = datasets.Dataset.from_dict(
                {column: [row.get(column) for row in content] for column in columns}, features=columns
            )
    folder = tmp_path_factory.mktemp("blood") / "cells"
    save(datasets.DatasetDict(splits), folder)
    return str(folder)


def test_the_publishers_augmentation_stays_within_its_bounds_and_reaches_them():
    """Its affine maps, found again as those of the published files are."""
    photograph = draw_field("neutrophil", seed=1, size=(640, 480))
    index = PhotographIndex({"p": np.asarray(photograph.convert("L").resize((320, 240), Image.Resampling.BOX))})
    maps = []
    for seed in range(60):
        torch.manual_seed(seed)
        file = train.PublisherAugmentation()(photograph)
        assert file.size == (320, 240)
        assert file.mode == "RGB"
        assert (np.asarray(file).min(), np.asarray(file).max()) == (0, 255)
        maps.append(index.find(np.asarray(file.convert("L"))).transform)
    maps = np.array(maps)
    linear, middle = maps[:, :, :2], np.array([159.5, 119.5])
    flipped = np.linalg.det(linear) < 0
    assert 15 < flipped.sum() < 45
    # A shear by s shrinks by cos(s); it does not zoom.
    area = np.abs(np.linalg.det(linear))
    assert area.min() > 0.995
    assert 1.012 < area.max() < 1 / math.cos(0.2) + 0.005
    # Rows are only rotated: y of the image of (1, 0), flips aside, tells by how much.
    rotation = np.degrees(np.arcsin(np.abs(np.linalg.inv(linear)[:, 0, 1]).clip(0, 1)))
    assert 15 < rotation.max() < 32
    # The middle is carried away by 10 % of the sides at most, turned and sheared.
    away = np.linalg.norm(linear @ middle + maps[:, :, 2] - middle, axis=1)
    assert 20 < away.max() < 1.25 * math.hypot(32, 24)


def test_the_photograph_is_shown_in_place_of_its_files(blood):
    splits = load(blood)
    processor = WBCImageProcessor(size=32, do_find_cell=False)
    ids = list(range(5))
    images = train.CellImages(
        splits["train"], processor, ids, train.AUGMENTATIONS["paper"], 3, splits["train_photographs"]
    )
    frozen = train.CellImages(splits["train"], processor, ids, train.AUGMENTATIONS["paper"], 3)
    labels = splits["train"]["label"][:]
    for index, origin in enumerate(splits["train"]["dataset"][:]):
        shown = {}
        for epoch in (0, 1):
            images.set_epoch(epoch)
            frozen.set_epoch(epoch)
            assert images[index]["labels"] == labels[index]
            shown[epoch] = images[index]["pixel_values"]
            # What has no photograph is augmented as ever.
            assert torch.equal(shown[epoch], frozen[index]["pixel_values"]) == (origin == "pbc")
        assert not torch.equal(shown[0], shown[1])
    # One row's picture is the publisher's augmentation of its own photograph.
    row = splits["train"]["photograph"].index("photo 2")
    (photograph,) = (r["image"] for r in splits["train_photographs"] if r["photograph"] == "photo 2")
    torch.manual_seed(random.Random(f"3 1 {row}").getrandbits(63))
    expected = processor(train.PublisherAugmentation()(photograph.convert("RGB")), return_tensors="pt")
    assert torch.equal(images[row]["pixel_values"], expected["pixel_values"][0])
    # With windows, it is the cell in that picture that is looked at.
    images.image_processor = WBCImageProcessor(size=32)
    torch.manual_seed(random.Random(f"3 1 {row}").getrandbits(63))
    file = train.PublisherAugmentation()(photograph.convert("RGB"))
    boxes, _ = images.image_processor.find_cells(file)
    window = train.CellCrop(images.image_processor, images.augment)(file, boxes[0])
    assert torch.equal(images[row]["pixel_values"], processor(window, return_tensors="pt")["pixel_values"][0])


def test_balance_over_data_sets_classes_and_photographs(blood):
    rows = load(blood)["train"]
    images = train.CellImages(rows, None, list(range(5)), seed=1)
    sampler = train.BalancedSampler(images)
    assert len(sampler) == len(list(sampler)) == len(rows)
    drawn = []
    for epoch in range(1000):
        images.set_epoch(epoch)
        drawn += list(sampler)
    share = np.bincount(drawn, minlength=len(rows)) / len(drawn)
    table = [(row["dataset"], row["label"], row["photograph"]) for row in rows.remove_columns("image")]

    def total(*path):
        return sum(share[k] for k, row in enumerate(table) if row[: len(path)] == path)

    for origin in ("bccd", "pbc"):
        classes = {label for name, label, _ in table if name == origin}
        assert total(origin) == pytest.approx(1 / 2, abs=0.02)
        for label in classes:
            assert total(origin, label) == pytest.approx(1 / 2 / len(classes), abs=0.02)
    # Photographs of a class are as likely as each other, whatever the number of their files.
    for number in range(8):
        path = next(row for row in table if row[2] == f"photo {number}")
        assert total(*path) == pytest.approx(1 / 2 / 4 / 2, abs=0.01)
    # Images without a photograph too, one by one.
    assert [share[k] for k, row in enumerate(table) if row[0] == "pbc"] == pytest.approx([1 / 2 / 3 / 2] * 6, abs=0.01)


def test_draws_depend_on_seed_and_epoch_alone(blood):
    rows = load(blood)["train"]

    def draw(epoch, seed=0):
        images = train.CellImages(rows, None, list(range(5)), seed=seed)
        images.set_epoch(epoch)
        return list(train.BalancedSampler(images))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1) != draw(1, seed=1)


def test_a_balanced_run_on_photographs_resumes_and_tells_each_data_set(blood, tiny, tmp_path, capsys):
    schedule = (
        *("--do_train", "--do_eval", "--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "1"),
        *("--save_total_limit", "20", "--balanced", "--photographs"),
    )
    train.main(arguments(blood, tiny, tmp_path / "whole", *schedule))
    printed = capsys.readouterr().out
    # Each epoch has three steps; step 4 is the first of the second.
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    train.main(arguments(blood, tiny, tmp_path / "resumed", *schedule, "--resume_from_checkpoint"))
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name

    results = json.loads((tmp_path / "whole" / "test_results.json").read_text())
    occurring, shared = ("bccd_4_classes", "pbc_3_classes"), ("bccd_2_shared_classes", "pbc_2_shared_classes")
    assert results["subsets"].keys() == {"bccd", "pbc", *occurring, *shared}
    assert results["subsets"]["bccd"]["num_photographs"] == 8
    assert len(results["subsets"]["bccd"]["label_names"]) == 5
    assert results["subsets"]["bccd_4_classes"]["label_names"] == list(BCCD_CLASSES)
    low, high = results["subsets"]["bccd"]["intervals"]["accuracy"]
    assert low <= results["subsets"]["bccd"]["accuracy"] <= high
    assert "\nbccd, only the 4 classes that occur  " in printed
    with open(tmp_path / "whole" / "test_predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == results["num_images"]
    assert np.mean([row["label"] == row["prediction"] for row in rows]) == pytest.approx(results["accuracy"])
    assert json.loads((tmp_path / "whole" / "test_photographs_results.json").read_text())["num_images"] == 8
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "| bccd, only the 4 classes that occur |" in card
    assert "95 % intervals" in card
    assert "publisher" in card
    assert "evenly" in card


def test_a_data_set_without_photographs_is_named(data, tiny, tmp_path):
    with pytest.raises(train.UserError, match="split train_photographs; .*has only train, test"):
        train.main(["--do_train", "--photographs", *arguments(data, tiny, tmp_path / "out")])


# Windows around cells


class Watched(WBCImageProcessor):
    """Notes the windows that it cuts."""

    cut = []

    def crop(self, image, windows):
        self.cut.append(windows[0])
        return super().crop(image, windows)


def test_windows_vary_in_place_and_size_about_the_cell():
    image = draw_field("neutrophil", 4, (640, 480))
    processor = Watched(size=600)  # so large that nothing is scaled down
    boxes, _ = processor.find_cells(image)
    left, top, right, bottom = processor.crop_boxes(boxes[:1])[0].tolist()
    Watched.cut = []
    window = train.CellCrop(processor, lambda piece: piece)
    torch.manual_seed(0)
    sides = [window(image, boxes[0]).shape for _ in range(400)]
    cut = torch.stack(Watched.cut)
    # A rotation needs a piece as large as the diagonal of what is shown.
    side = (cut[:, 2] - cut[:, 0]) / math.sqrt(2)
    zoom = side / (right - left)
    assert [shape[1] for shape in sides] == pytest.approx(side.round().tolist(), abs=1)
    assert all(len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2] for shape in sides)
    assert 0.75 <= zoom.min() < 0.77
    assert 1.32 < zoom.max() <= 1.35
    assert float(zoom.log().mean()) == pytest.approx(math.log(0.75 * 1.35) / 2, abs=0.03)
    for low, high, middle in ((0, 2, (left + right) / 2), (1, 3, (top + bottom) / 2)):
        shift = ((cut[:, low] + cut[:, high]) / 2 - middle) / side
        assert -0.1 <= shift.min() < -0.095
        assert 0.095 < shift.max() <= 0.1
        assert abs(float(shift.mean())) < 0.01


def test_a_window_turns_the_surroundings_in_and_no_black_corners():
    image = draw_field("monocyte", 1, (640, 480))
    assert np.asarray(image).min() > 20
    boxes, _ = WBCImageProcessor().find_cells(image)
    window = train.CellCrop(WBCImageProcessor(), train.AUGMENTATIONS["paper"])
    torch.manual_seed(0)
    shown = [window(image, boxes[0]) for _ in range(50)]
    assert min(int(each.min()) for each in shown) > 20
    assert any(not torch.equal(shown[0], each) for each in shown[1:])


def test_a_large_window_is_scaled_down_and_shows_the_same():
    image = draw_field("eosinophil", 3, (1280, 960))
    boxes, _ = WBCImageProcessor().find_cells(image)
    shown = []
    for size in (1000, 40):
        torch.manual_seed(5)
        window = train.CellCrop(WBCImageProcessor(size=size), lambda piece: piece)(image, boxes[0])
        shown.append(v2.functional.resize(window, [40, 40], antialias=True).float())
    assert window.shape == (3, 60, 60)
    assert (shown[0] - shown[1]).abs().mean() < 6 < (shown[0] - shown[1].flip(1)).abs().mean()


@pytest.fixture
def rows(data):
    return load(data)["train"]


def test_an_image_without_a_cell_stays_whole():
    half = Image.new("RGB", (64, 48), "white")
    half.paste("black", (0, 0, 64, 24))
    blank = datasets.Dataset.from_dict({"image": [half], "label": [0]}).cast_column("image", datasets.Image())
    processor = WBCImageProcessor(size=32)
    images = train.CellImages(blank, processor, [0], lambda whole: whole.rotate(180))
    whole = WBCImageProcessor(size=32, do_find_cell=False)(half.rotate(180), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(images[0]["pixel_values"], whole)


def test_the_cell_of_a_file_is_looked_for_once(rows, monkeypatch):
    looks = []
    find_cells = WBCImageProcessor.find_cells
    monkeypatch.setattr(
        WBCImageProcessor, "find_cells", lambda self, image: looks.append(1) or find_cells(self, image)
    )
    images = train.CellImages(rows, WBCImageProcessor(size=32), [0, 1, 2, 3], train.AUGMENTATIONS["paper"])
    first = [images[index]["pixel_values"] for index in (0, 1, 0)]
    assert len(looks) == 2
    assert torch.equal(first[0], first[2])
    images.set_epoch(1)
    assert not torch.equal(images[0]["pixel_values"], first[0])
    assert len(looks) == 2


def test_an_evaluated_image_is_what_the_image_processor_makes_of_it(rows, monkeypatch):
    processor = WBCImageProcessor(size=32)
    blank = {"image": Image.new("RGB", (64, 48), "white"), "label": 0}
    dataset = datasets.Dataset.from_list([*rows.select(range(4)), blank], features=rows.features)
    whole = [processor(row["image"].convert("RGB"), return_tensors="pt")["pixel_values"][0] for row in dataset]
    cells = [foremost_cell(processor, row["image"].convert("RGB")).tolist() for row in dataset]
    images = train.CellImages(dataset, processor, [0, 1, 2, 3])
    assert all(torch.equal(images[index]["pixel_values"], pixel_values) for index, pixel_values in enumerate(whole))
    monkeypatch.delattr(WBCImageProcessor, "find_cells")
    known = train.CellImages(dataset.add_column("foremost_cell", cells), processor, [0, 1, 2, 3])
    assert all(torch.equal(known[index]["pixel_values"], pixel_values) for index, pixel_values in enumerate(whole))


# Stain


def test_stain_jitter_multiplies_the_amounts_of_stain():
    """Against scikit-image's colour deconvolution, an implementation of its own."""
    color = pytest.importorskip("skimage.color")
    image = np.asarray(draw_field("eosinophil", 3))
    jitter = train.StainJitter()
    torch.manual_seed(1)
    changed = jitter(Image.fromarray(image))
    assert changed.dtype == torch.uint8
    assert changed.shape == (3, 240, 320)
    torch.manual_seed(1)
    factors = 1 + jitter.stain * (2 * torch.rand(3) - 1)
    light = torch.exp(jitter.light * (2 * torch.rand(3) - 1))
    amounts = color.separate_stains((image + 1.0) / 256, color.hed_from_rgb)
    expected = color.combine_stains(amounts * factors.numpy(), color.rgb_from_hed) * 256 * light.numpy() - 1
    # scikit-image cuts negative amounts off.
    comparable = ((expected > 1) & (expected < 254) & (amounts > 0)).all(-1)
    difference = changed.permute(1, 2, 0).numpy() - expected
    assert comparable.mean() > 0.05
    assert np.abs(difference[comparable]).max() < 1.5


def test_stain_jitter_stays_within_its_bounds_and_reaches_them():
    image = torch.full((3, 4, 4), 120, dtype=torch.uint8)
    jitter = train.StainJitter()
    torch.manual_seed(0)
    shown = torch.stack([jitter(image)[:, 0, 0].float() for _ in range(500)])
    density, own = -torch.log((shown + 1) / 256), -math.log(121 / 256)
    low, high = density.amin(0) / own, density.amax(0) / own
    assert (low < 0.85).all()
    assert (high > 1.15).all()
    bound = jitter.stain + jitter.light / own + 0.02
    assert low.mean() > 1 - bound
    assert high.mean() < 1 + bound
    jitter.stain = jitter.light = 0.0
    assert torch.equal(jitter(image), image)


# Calibration and one data set alone


def test_a_run_with_a_validation_split_is_calibrated_on_it(blood, tiny, tmp_path):
    schedule = ("--do_train", "--do_eval", "--num_train_epochs", "1", "--train_on", "bccd")
    train.main(arguments(blood, tiny, tmp_path / "one", *schedule))
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["temperature"] != 1
    assert config["max_novelty"] > 0
    model = WBCForImageClassification.from_pretrained(tmp_path / "one", temperature=1.0).eval()
    rows = [row for row in load(blood)["validation"] if row["dataset"] == "bccd"]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "one", trust_remote_code=True)
    with torch.no_grad():
        output = model(processor([row["image"].convert("RGB") for row in rows], return_tensors="pt")["pixel_values"])
    labels = [row["label"] for row in rows]
    assert config["temperature"] == pytest.approx(fit_temperature(output.logits.numpy(), labels), rel=1e-3)
    assert config["max_novelty"] == pytest.approx(float(output.novelty.max()), rel=1e-3)  # 99.5 % of few are all
    # What a smear looks like was learned from the training images, stained as any lab could.
    rows = [row["image"].convert("RGB") for row in load(blood)["train"] if row["dataset"] == "bccd"]
    stained = []
    for index, image in enumerate(rows):
        torch.manual_seed(random.Random(f"42 0 {index}").getrandbits(63))
        stained.append(Image.fromarray(train.ANY_LAB(image).permute(1, 2, 0).numpy()))
    with torch.no_grad():
        stage = model.resnet(processor(stained, return_tensors="pt")["pixel_values"], output_hidden_states=True)
    mean, whitening = fit_novelty(SmearNovelty.statistics(stage.hidden_states[1]).numpy())
    assert model.novelty.mean.numpy() == pytest.approx(mean, rel=1e-3, abs=1e-5)
    assert model.novelty.whitening.numpy() == pytest.approx(whitening, rel=1e-2, abs=1e-2 * np.abs(whitening).max())

    train_results = json.loads((tmp_path / "one" / "train_results.json").read_text())
    assert train_results["recipe"]["Data sets"] == "bccd"
    assert train_results["dataset"] == blood
    assert "known up to a novelty" in train_results["recipe"]["Calibration"]
    results = json.loads((tmp_path / "one" / "test_results.json").read_text())
    assert {"bccd", "pbc"} <= results["subsets"].keys()
    assert 0 <= results["kept"] <= 1
    validation = json.loads((tmp_path / "one" / "validation_results.json").read_text())
    assert validation["num_images"] == len(labels)
    assert validation["kept"] == 1

    # Evaluated alone it gives the same; trained further it starts afresh.
    train.main(["--do_eval", *arguments(blood, str(tmp_path / "one"), tmp_path / "again")])
    again = json.loads((tmp_path / "again" / "test_results.json").read_text())
    assert all(again[key] == results[key] for key in ("accuracy", "kept", "intervals", "subsets", "confusion_matrix"))
    with open(tmp_path / "again" / "test_predictions.csv", newline="") as file:
        known = [float(row["novelty"]) <= config["max_novelty"] for row in csv.DictReader(file)]
    assert np.mean(known) == pytest.approx(results["kept"])
    names = load(blood)["train"].features["label"].names
    further = train.load_model(train.ModelArguments(), str(tmp_path / "one"), names, do_train=True)
    assert (further.config.temperature, further.config.max_novelty) == (1.0, None)


def test_weights_that_are_only_evaluated_can_be_calibrated(blood, tiny, tmp_path):
    """In place, to the temperature and limit that training itself would have found, and the card says so."""
    schedule = ("--do_train", "--do_eval", "--num_train_epochs", "1")
    train.main(arguments(blood, tiny, tmp_path / "one", *schedule))
    expected = json.loads((tmp_path / "one" / "config.json").read_text())
    found = json.loads((tmp_path / "one" / "train_results.json").read_text())["recipe"]["Calibration"]
    model = WBCForImageClassification.from_pretrained(tmp_path / "one", temperature=3.0, max_novelty=None)
    model.novelty.whitening.zero_()
    model.save_pretrained(tmp_path / "one")
    own = arguments(blood, str(tmp_path / "one"), tmp_path / "one", "--do_eval")
    train.main([*own, "--calibrate"])
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    for name in ("temperature", "max_novelty"):
        assert config[name] == pytest.approx(expected[name], rel=1e-3)
    assert found in (tmp_path / "one" / "README.md").read_text()


def test_a_data_set_to_train_on_that_is_not_there_is_named(blood, data, tiny, tmp_path):
    for folder, known in ((blood, r"\['bccd', 'pbc'\]"), (data, r"\[\]")):
        with pytest.raises(train.UserError, match=f"--train_on names 'PBC'; .* has {known}"):
            train.main([*arguments(folder, tiny, tmp_path / "out"), "--train_on", "PBC"])


def test_a_model_of_windows_is_trained_saved_and_evaluated_as_such(data, tiny, tmp_path):
    schedule = ("--do_train", "--do_eval", "--num_train_epochs", "2", "--find_cell")
    train.main(arguments(data, tiny, tmp_path / "one", *schedule))
    train.main(arguments(data, tiny, tmp_path / "two", *schedule, "--dataloader_num_workers", "2"))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())

    processor = AutoImageProcessor.from_pretrained(tmp_path / "one", trust_remote_code=True)
    assert processor.do_find_cell
    assert (processor.size.height, processor.size.width) == (32, 32)
    assert "windows around cells" in (tmp_path / "one" / "README.md").read_text()
    # Its figures are those of windows; evaluated alone it looks at windows again, or at what it is told to.
    model = WBCForImageClassification.from_pretrained(tmp_path / "one").eval()
    results = {}
    for name, more in {"again": (), "whole": ("--find_cell", "False")}.items():
        train.main(["--do_eval", *arguments(data, str(tmp_path / "one"), tmp_path / name, *more)])
        with open(tmp_path / name / "test_predictions.csv", newline="") as file:
            results[name] = list(csv.DictReader(file))
        pixels = WBCImageProcessor(size=32, do_find_cell=name == "again")(
            [image.convert("RGB") for image in load(data)["test"]["image"]], return_tensors="pt"
        )["pixel_values"]
        with torch.no_grad():
            labels = [model.config.id2label[index] for index in model(pixels).logits.argmax(1).tolist()]
        assert [row["prediction"] for row in results[name]] == labels
    with open(tmp_path / "one" / "test_predictions.csv", newline="") as file:
        assert list(csv.DictReader(file)) == results["again"]
    assert results["again"] != results["whole"]


def test_weights_of_whole_fields_are_trained_on_whole_fields(tiny, tmp_path):
    assert not train.load_image_processor(tiny, 32, None).do_find_cell
    assert train.load_image_processor(tiny, 32, True).do_find_cell
    assert not train.load_image_processor(None, 32, None).do_find_cell
    ResNetForImageClassification(ResNetConfig(**{k: v for k, v in TINY.items() if k != "image_size"})).save_pretrained(
        tmp_path
    )
    ViTImageProcessor(size=77, do_normalize=False).save_pretrained(tmp_path)
    foreign = train.load_image_processor(str(tmp_path), 48, None)
    assert (foreign.do_find_cell, foreign.do_normalize, foreign.size.height) == (False, True, 48)
