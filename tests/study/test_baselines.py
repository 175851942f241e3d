"""The baselines of the paper's Table 2: their forward pass, and training, saving and loading as of the main model."""

import json
import subprocess
import sys

import datasets
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from timm.models import save_for_hf
from torch import nn

import train
from hub.data.load import save
from hub.data.synthetic import drawn_cells
from hub.files import UserError
from hub.study.baselines import BASELINES, baseline_of, classifier_of, divide_logits, load_baseline, normalization_of
from hub.study.cnn_lstm import CnnLstmConfig, CnnLstmForImageClassification
from modeling_wbc import WBCConfig, WBCForImageClassification

NAMES = ["eosinophil", "lymphocyte", "monocyte", "neutrophil"]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A ResNet-50 as timm publishes its own on the Hub, of random weights."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(1)
    save_for_hf(timm.create_model("resnet50"), folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["model_args"]  # which those on the Hub, saved by earlier versions, do not have
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A saved data set of drawn cells, with a validation split."""
    splits = drawn_cells(seed=0, train=16, test=8)
    folder = tmp_path_factory.mktemp("data") / "cells"
    save(datasets.DatasetDict(**splits, validation=splits["test"]), folder)
    return str(folder)


def test_the_lstm_reads_the_feature_map_row_by_row():
    torch.manual_seed(0)
    model = CnnLstmForImageClassification(
        CnnLstmConfig(architecture="resnet10t", hidden_size=5, num_labels=4, image_size=96)
    ).eval()
    pixel_values = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        outputs = model(pixel_values=pixel_values, labels=torch.tensor([3, 1]))
        features = model.trunk.timm_model.forward_features(pixel_values).double().numpy()
    weights = {name: weight.double().numpy() for name, weight in model.state_dict().items()}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    expected = []
    for feature_map in features:
        _channels, height, width = feature_map.shape
        assert (height, width) == (3, 2)
        state, cell = np.zeros(5), np.zeros(5)
        for y in range(height):
            for x in range(width):
                gates = weights["lstm.weight_ih_l0"] @ feature_map[:, y, x] + weights["lstm.bias_ih_l0"]
                gates += weights["lstm.weight_hh_l0"] @ state + weights["lstm.bias_hh_l0"]
                enter, forget, candidate, leave = gates.reshape(4, 5)
                cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(candidate)
                state = sigmoid(leave) * np.tanh(cell)
        pooled = weights["projection.weight"] @ feature_map.mean((1, 2)) + weights["projection.bias"]
        expected.append(weights["classifier.weight"] @ (pooled * state) + weights["classifier.bias"])
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)
    shares = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    assert outputs.loss.item() == pytest.approx(-np.log([shares[0, 3], shares[1, 1]]).mean(), abs=1e-5)


@pytest.mark.parametrize(("name", "millions"), [("inception_v3", 21.8), ("resnet50", 23.5), ("xception-lstm", 27.1)])
def test_networks_are_those_of_their_publishers(name, millions):
    model = load_baseline(name, None, NAMES, None, do_train=True)
    # Without ImageNet's classifier: 27.2 M, of which 3.4 M are an auxiliary one that is not built, 25.6 M, 22.9 M.
    assert sum(weight.numel() for weight in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert model.config.image_size == (224 if name == "resnet50" else 299)
    for convolution in (module for module in model.modules() if isinstance(module, nn.Conv2d)):
        fan_out = convolution.weight.shape[0] * convolution.weight[0, 0].numel() // convolution.groups
        if convolution.weight.numel() > 5000:
            # PyTorch's fan does not know of groups.
            fan_out *= convolution.groups
            assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", ["resnet50", "resnet50-lstm"])
def test_starts_from_timms_weights(imagenet, name):
    published = timm.create_model("resnet50", checkpoint_path=f"{imagenet}/model.safetensors").state_dict()
    model = load_baseline(name, imagenet, NAMES, 64, do_train=True)
    network = (model.trunk if BASELINES[name].lstm else model).timm_model.state_dict()
    for key, weight in published.items():
        if not key.startswith("fc."):
            assert torch.equal(network[key], weight), key
    assert classifier_of(model).out_features == 4
    assert model.config.image_size == 64
    normalization = normalization_of(model)
    assert normalization["image_mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_loads_in_a_folder_without_this_repository(tmp_path):
    torch.manual_seed(0)
    pixel_values = torch.randn(1, 3, 64, 64)
    expected = {}
    for name in ("resnet50", "resnet50-lstm"):
        model = load_baseline(name, None, NAMES, 64, do_train=True).eval()
        model.save_pretrained(tmp_path / name)
        assert baseline_of(str(tmp_path / name)) == name
        with torch.no_grad():
            expected[name] = model(pixel_values=pixel_values).logits
    script = (
        "import json, torch\n"
        "from transformers import AutoModelForImageClassification\n"
        "torch.manual_seed(0)\n"
        "pixel_values = torch.randn(1, 3, 64, 64)\n"
        "for name in ('resnet50', 'resnet50-lstm'):\n"
        "    model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=True).eval()\n"
        "    with torch.no_grad():\n"
        "        logits = model(pixel_values=pixel_values).logits\n"
        "    print(json.dumps([name, logits.tolist(), list(model.config.id2label.values())]))\n"
    )
    process = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()[-2:]
    for line, (name, outputs) in zip(lines, expected.items(), strict=True):
        printed_name, logits, names = json.loads(line)
        assert printed_name == name
        np.testing.assert_allclose(logits, outputs, atol=1e-5)
        assert names == NAMES


@pytest.mark.parametrize("name", ["resnet50", "resnet50-lstm"])
def test_other_classes_get_a_new_classifier_and_the_same_keep_theirs(name, tmp_path):
    model = load_baseline(name, None, NAMES, 64, do_train=True)
    model.save_pretrained(tmp_path)
    again = load_baseline(name, str(tmp_path), NAMES[::-1], None, do_train=True)
    assert [*again.config.id2label.values()] == NAMES
    assert again.config.image_size == 64
    assert torch.equal(classifier_of(again).weight, classifier_of(model).weight)
    for others in (["a", "b", "c", "d"], ["a", "b"]):
        other = load_baseline(name, str(tmp_path), others, 32, do_train=True)
        assert [*other.config.id2label.values()] == others
        assert classifier_of(other).out_features == len(others)
        assert not torch.equal(classifier_of(other).weight, classifier_of(model).weight[: len(others)])
        weights = other.state_dict()
        for key, weight in model.state_dict().items():
            assert torch.equal(weight, weights[key]) or key.startswith(("classifier.", "timm_model.fc.")), key
    with pytest.raises(ValueError, match=r"\['basophil'\] are unknown to .*, which tells apart"):
        load_baseline(name, str(tmp_path), [*NAMES, "basophil"], None, do_train=False)


def test_the_temperature_divides_the_logits():
    model = load_baseline("resnet50-lstm", None, NAMES, 64, do_train=True).eval()
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(pixel_values=pixel_values).logits
        divide_logits(model, 2.5)
        torch.testing.assert_close(model(pixel_values=pixel_values).logits, before / 2.5)


def arguments(data, output, *more):
    return [
        *("--dataset_name", data, "--output_dir", str(output), "--image_size", "64", "--num_train_epochs", "1"),
        *("--per_device_train_batch_size", "8", "--learning_rate", "0.01", "--report_to", "none"),
        *("--logging_steps", "1"),
        *("--disable_tqdm", "True", *more),
    ]


def test_a_baseline_is_trained_calibrated_saved_evaluated_and_resumed(data, tmp_path):
    output = tmp_path / "run"
    train.main(arguments(data, output, "--architecture", "resnet50-lstm", "--model_name_or_path", "none"))
    results = json.loads((output / "test_results.json").read_text(encoding="utf-8"))
    training = json.loads((output / "train_results.json").read_text(encoding="utf-8"))
    assert training["recipe"]["Network"] == "timm's resnet50 and an LSTM of 512, 64 x 64 px"
    assert training["recipe"]["Loss"] == "cross entropy"
    assert training["recipe"]["Calibration"].startswith("temperature ")
    card = ModelCard.load(output / "README.md")
    assert "timm's resnet50 and an LSTM of 512" in card.text
    assert "analyze(" not in card.text
    assert "ibn-net" not in card.data.tags
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    assert [entry["accuracy"] for entry in state["log_history"] if "loss" in entry]

    train.main(arguments(data, tmp_path / "again", "--do_eval", "--model_name_or_path", str(output)))
    again = json.loads((tmp_path / "again" / "test_results.json").read_text(encoding="utf-8"))
    assert again["confusion_matrix"] == results["confusion_matrix"]
    assert again["expected_calibration_error"] == pytest.approx(results["expected_calibration_error"], abs=1e-4)
    train.main(
        [
            *arguments(data, output, "--resume_from_checkpoint", "--num_train_epochs", "2", "--architecture"),
            "resnet50-lstm",
            "--model_name_or_path",
            "none",
        ]
    )
    assert json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["epoch"] == 2


def test_what_does_not_go_together_is_named(data, tmp_path):
    output = tmp_path / "out"

    def refusal(*more):
        with pytest.raises(UserError) as error:
            train.main(arguments(data, output, "--do_train", *more))
        return str(error.value)

    assert "--mining belongs to ibn-resnet34; leave it out for resnet50" in refusal(
        "--architecture", "resnet50", "--model_name_or_path", "none", "--mining", "class"
    )
    load_baseline("resnet50", None, NAMES, 64, do_train=True).save_pretrained(tmp_path / "resnet50")
    held = str(tmp_path / "resnet50")
    assert "holds resnet50, which inception_v3 does not start from" in refusal(
        "--architecture", "inception_v3", "--model_name_or_path", held
    )
    assert "holds resnet50, which --architecture ibn-resnet34 does not start from" in refusal(
        "--architecture", "ibn-resnet34", "--model_name_or_path", held
    )
    tiny = WBCForImageClassification(WBCConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    tiny.save_pretrained(tmp_path / "wbc")
    assert "holds another network, which resnet50 does not start from" in refusal(
        "--architecture", "resnet50", "--model_name_or_path", str(tmp_path / "wbc")
    )
    assert not output.exists()
