"""Stages and attributes from a data set's columns to the ids, the loss, the results and the card."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, DatasetDict
from runs import TINY, arguments

import train
from hub.data.load import load, save
from hub.data.synthetic import drawn_cells
from hub.files import UserError
from hub.training.arguments import ModelArguments
from hub.training.heads import HeadNames, head_ids, head_names
from hub.training.images import CellImages
from hub.training.weights import load_model
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor

STAGE_NAMES = ["band", "segmented", "unused", "promonocyte"]
STAGES = {"neutrophil": ["band", "segmented"], "monocyte": ["promonocyte"]}
ATTRIBUTES = {"cell_size": ["big", "small"], "granularity": ["no", "some", "yes"]}
TYPES = ["eosinophil", "lymphocyte", "monocyte", "neutrophil"]


def labelled(rows):
    """Rows of drawn cells with made-up stages and attributes, which some lack."""
    stages, sizes, granules = [], [], []
    for number, label in enumerate(rows["label"]):
        name = rows.features["label"].names[label]
        known = {"neutrophil": [0, 1], "monocyte": [3]}.get(name)
        stages.append(None if known is None or number % 5 == 0 else known[number // 4 % len(known)])
        sizes.append(None if number % 3 == 0 else label % 2)
        granules.append(None if number % 3 == 0 else label % 3)
    columns = {
        "stage": (stages, STAGE_NAMES),
        "cell_size": (sizes, ATTRIBUTES["cell_size"]),
        "granularity": (granules, ATTRIBUTES["granularity"]),
        "nobody_knows": ([None] * len(rows), ["no", "yes"]),
    }
    for column, (values, names) in columns.items():
        rows = rows.add_column(column, values, feature=ClassLabel(names=names))
    return rows


@pytest.fixture(scope="module")
def dataset():
    return DatasetDict({split: labelled(rows) for split, rows in drawn_cells(seed=0, train=24, test=12).items()})


@pytest.fixture(scope="module")
def folder(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("heads") / "cells"
    save(DatasetDict(dataset | {"validation": dataset["test"]}), folder)
    return str(folder)


@pytest.fixture(scope="module")
def run(folder, tiny, tmp_path_factory):
    """The folder of a run of two epochs at 64 px with all heads, and what it printed."""
    output = tmp_path_factory.mktemp("run") / "run"
    flags = ("--num_train_epochs", "2", "--image_size", "64", "--stage_loss_weight", "0.5")
    train.main(arguments(folder, tiny, output, "--do_train", "--do_eval", *flags))
    return output


def test_names_and_ids_come_from_the_columns(dataset):
    names = head_names(dataset, do_train=True)
    assert names == HeadNames(STAGES, ATTRIBUTES)
    # In the model's order of names, which knows one stage less and one attribute more.
    config = WBCConfig(
        stages={"monocyte": ["promonocyte"], "neutrophil": ["segmented"]},
        attributes={"granularity": ["yes", "no", "some"], "age": ["old", "young"]},
    )
    ids = head_ids(dataset["train"], config)
    named = [None if stage is None else STAGE_NAMES[stage] for stage in dataset["train"]["stage"]]
    assert {"promonocyte", "segmented", "band", None} == set(named)
    assert ids["stage_ids"].tolist() == [{"promonocyte": 0, "segmented": 1}.get(name, -100) for name in named]
    granules = [{0: 1, 1: 2, 2: 0}.get(value, -100) for value in dataset["train"]["granularity"]]
    assert ids["attribute_ids"].tolist() == [[value, -100] for value in granules]
    row = CellImages(dataset["train"], WBCImageProcessor(size=32, do_find_cell=False), config=config)[1]
    assert row["attribute_ids"].tolist() == [granules[1], -100]
    assert row["labels"] == config.label2id[TYPES[dataset["train"]["label"][1]]]
    assert head_ids(dataset["train"], WBCConfig()) == {}
    plain = dataset["train"].remove_columns(["stage", "cell_size", "granularity"])
    assert set(head_ids(plain, config)["stage_ids"].tolist()) == {-100}


def test_a_stage_of_two_types_is_refused(dataset):
    rows = dataset["train"].remove_columns("stage").add_column("stage", [0] * 24, feature=ClassLabel(names=["young"]))
    with pytest.raises(UserError, match=r"'young' occurs in rows of \w+ and of \w+: .*--stage_loss_weight 0"):
        head_names(DatasetDict(train=rows), do_train=True)


def test_two_epochs_with_all_heads_train_log_and_report(run, folder):
    model = WBCForImageClassification.from_pretrained(run)
    assert (model.config.stages, model.config.attributes) == (STAGES, ATTRIBUTES)
    assert (model.config.stage_loss_weight, model.config.image_size) == (0.5, 64)
    steps = [
        entry
        for entry in json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
        if "stage_loss" in entry
    ]
    assert len(steps) == 6
    for step in steps:
        expected = step["cross_entropy"] + model.config.center_loss_weight * step["center_loss"]
        expected += 0.5 * step["stage_loss"] + step["attribute_loss"]
        assert step["loss"] == pytest.approx(expected, abs=1e-3)

    results = json.loads((run / "test_results.json").read_text(encoding="utf-8"))
    test = load(folder)["test"]
    pixels = model.image_processor(list(test["image"]), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model.eval()(pixels)
    for name, figures in results["attributes"]["each"].items():
        truth = np.array([-1 if value is None else value for value in test[name]])
        right = output.attribute_logits[name].argmax(1).numpy() == truth
        assert figures["num_images"] == (truth >= 0).sum() == 8
        assert figures["accuracy"] == pytest.approx(right[truth >= 0].mean())
    assert results["stages"]["label_names"] == ["eosinophil", "lymphocyte", "band", "segmented", "promonocyte"]
    assert results["stages"]["num_staged"] == sum(stage is not None for stage in test["stage"])
    card = (run / "README.md").read_text(encoding="utf-8")
    accuracy = results["attributes"]["accuracy"]
    assert f"| mean of 2 attributes | – | {100 * accuracy:.1f} (" in card
    assert "0.5 x cross entropy of the stages + 1.0 x mean cross entropy of 2 attributes" in card
    assert "stages" in json.loads((run / "validation_results.json").read_text(encoding="utf-8"))


def test_label_smoothing_reaches_the_heads(folder, tiny, tmp_path):
    """With weights of 0 for all but the heads' losses, by the definition of torch.nn.functional.cross_entropy."""
    schedule = ("--do_train", "--max_steps", "1", "--save_strategy", "no", "--label_smoothing_factor", "0.999")
    train.main(arguments(folder, tiny, tmp_path / "run", *schedule, "--report_to", "none", "--learning_rate", "1e-9"))
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    smoothed, plain = history[0]["loss"], history[0]
    # The target is uniform for every label, so that each smoothed cross entropy is at least the entropy log K.
    entropies = np.log(4) + np.log(3) + (np.log(2) + np.log(3)) / 2
    assert smoothed >= entropies + 0.001 * plain["center_loss"] - 1e-3
    assert smoothed != pytest.approx(plain["cross_entropy"] + plain["stage_loss"] + plain["attribute_loss"], abs=1e-3)


def test_a_weight_of_0_switches_a_head_off(folder, tiny, tmp_path):
    flags = ("--do_train", "--do_eval", "--max_steps", "1", "--save_strategy", "no", "--report_to", "none")
    output = tmp_path / "run"
    train.main(arguments(folder, tiny, output, *flags, "--stage_loss_weight", "0", "--attribute_loss_weight", "0"))
    model = WBCForImageClassification.from_pretrained(output)
    assert model.stage_head is model.attribute_head is None
    assert not {"stages", "attributes"} & json.loads((output / "test_results.json").read_text(encoding="utf-8")).keys()
    assert "Stages and attributes" not in (output / "README.md").read_text(encoding="utf-8")


def test_a_trained_head_goes_on_in_its_order_of_names(run):
    trained = WBCForImageClassification.from_pretrained(run)
    fewer = HeadNames({"neutrophil": ["segmented", "band"]}, {"granularity": ["yes", "no"]})
    model = load_model(ModelArguments(), str(run), TYPES, do_train=True, heads=fewer)
    assert (model.config.stages, model.config.attributes) == (STAGES, ATTRIBUTES)
    for name, weight in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_a_head_of_other_names_starts_anew_in_training_and_is_refused_in_evaluation(run):
    """As many names as before, so that the shapes of the weights do not tell."""
    trained = WBCForImageClassification.from_pretrained(run)
    others = HeadNames(STAGES, {"cell_size": ["large", "little"], "granularity": ATTRIBUTES["granularity"]})
    model = load_model(ModelArguments(), str(run), TYPES, do_train=True, heads=others)
    assert model.config.attributes == others.attributes
    assert not torch.equal(model.attribute_head.weight, trained.attribute_head.weight)
    for name, weight in trained.state_dict().items():
        if not name.startswith("attribute_head."):
            assert torch.equal(model.state_dict()[name], weight), name
    with pytest.raises(UserError, match=r"attributes large \(cell_size\), little .* --attribute_loss_weight 0"):
        load_model(ModelArguments(), str(run), TYPES, do_train=False, heads=others)
    off = load_model(ModelArguments(attribute_loss_weight=0.0), str(run), TYPES, do_train=False, heads=others)
    assert off.attribute_head is None


def test_weights_without_heads_are_evaluated_without_them_and_trained_with_them(tmp_path):
    WBCForImageClassification(WBCConfig(**TINY)).save_pretrained(tmp_path)
    names = HeadNames(STAGES, ATTRIBUTES)
    assert load_model(ModelArguments(), str(tmp_path), TYPES, do_train=False, heads=names).stage_head is None
    model = load_model(ModelArguments(), str(tmp_path), TYPES, do_train=True, heads=names)
    assert model.stage_head.weight.shape == (3, 16)
    assert load_model(ModelArguments(), str(tmp_path), ["a", "b"], do_train=True, heads=names).config.stages == STAGES
