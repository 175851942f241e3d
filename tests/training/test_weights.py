"""Initial weights: other classes, other publishers, and errors that name the remedy."""

import json
from pathlib import Path

import pytest
import timm
import torch
from runs import TINY, arguments
from safetensors.torch import load_file
from timm.models import save_for_hf
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

import train
from hub.data.columns import features
from hub.data.load import load, save
from hub.files import UserError
from hub.training.arguments import ModelArguments
from hub.training.weights import load_image_processor, load_model


def test_weights_of_other_classes_start_all_but_the_classifier(tiny):
    args = ModelArguments(norm_layout="bn")
    model = load_model(args, tiny, ["basophil", "platelet"], do_train=True)
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
    model = load_model(ModelArguments(), str(tmp_path), ["basophil", "platelet"], do_train=True)
    expected = peer.resnet.encoder.stages[1].layers[0].layer[0].convolution.weight
    assert torch.equal(model.resnet.encoder.stages[1].layers[0].layer[0].convolution.weight, expected)
    assert model.config.norm_layout == "ibn"


def published(folder, network, **options):
    """A network of random weights as timm publishes it, without the classifier that the transfer leaves out anyway."""
    torch.manual_seed(1)
    model = timm.create_model(network, **options)
    save_for_hf(model, folder, safe_serialization=True)
    return model.state_dict()


@pytest.mark.parametrize("layout", ["ibn", "ibn-in"])
def test_resnet_weights_under_torchvisions_names_start_a_run(tmp_path, layout):
    weights = published(tmp_path, "resnet34", num_classes=2)
    args = ModelArguments(norm_layout=layout, image_size=64)
    model = load_model(args, str(tmp_path), ["basophil", "platelet"], do_train=True)
    assert torch.equal(model.resnet.embedder.embedder.convolution.weight, weights["conv1.weight"])
    block = model.resnet.encoder.stages[2].layers[1].layer[0]
    assert torch.equal(block.convolution.weight, weights["layer3.1.conv1.weight"])
    assert torch.equal(block.normalization.running_var, weights["layer3.1.bn1.running_var"])
    assert (model.config.norm_layout, model.config.image_size) == (layout, 64)
    assert model.config.id2label == {0: "basophil", 1: "platelet"}
    with pytest.raises(UserError, match=r"\['basophil'\] are unknown to"):
        load_model(args, str(tmp_path), ["basophil"], do_train=False)


@pytest.mark.parametrize(
    "network, options, message",
    [
        ("resnet18", {}, "missing or too many, such as encoder.stages.0.layers.2"),
        ("resnet34", {"in_chans": 1}, "holds another network than a ResNet-34: .*size mismatch"),
        ("resnet26", {}, "'layer1.0.bn3.bias' is no weight of a ResNet-34"),
    ],
)
def test_another_resnet_under_torchvisions_names_is_refused(tmp_path, network, options, message):
    published(tmp_path, network, num_classes=2, **options)
    with pytest.raises(ValueError, match=message):
        load_model(ModelArguments(), str(tmp_path), ["basophil", "platelet"], do_train=True)


def test_the_models_order_of_classes_counts(trained, data, tmp_path):
    output, _ = trained
    before = json.loads((output / "test_results.json").read_text(encoding="utf-8"))
    splits = load(data)
    names = splits["test"].features["label"].names[::-1]
    relabelled = splits.map(lambda row: {"label": 3 - row["label"]}, features=features(tuple(names)))
    save(relabelled, tmp_path / "reversed")
    train.main(["--do_eval", *arguments(str(tmp_path / "reversed"), str(output), tmp_path / "out")])
    after = json.loads((tmp_path / "out" / "test_results.json").read_text(encoding="utf-8"))
    assert after["confusion_matrix"] == before["confusion_matrix"]
    assert after["label_names"] == before["label_names"]


@pytest.mark.parametrize(
    "source, message",
    [("microsoft/resnet-34", "'none' to start from random weights"), ("no/such/folder", "no/such/folder")],
)
def test_weights_that_cannot_be_loaded_are_named_with_the_remedy(data, tiny, tmp_path, source, message):
    with pytest.raises(UserError, match=message):
        train.main(["--do_train", *arguments(data, tiny, tmp_path / "out"), "--model_name_or_path", source])
    assert not list(tmp_path.glob("out/checkpoint-*"))


def test_damaged_weights_are_named(tmp_path, tiny):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(Path(tiny, name).read_bytes()[:2000])
    with pytest.raises(OSError, match=r"model.safetensors of .* is damaged"):
        load_model(ModelArguments(), str(tmp_path), ["basophil", "platelet"], do_train=True)


def test_evaluating_on_unknown_classes_is_refused(trained, data, tmp_path):
    output, _ = trained
    splits = load(data)
    names = ("eosinophil", "lymphocyte", "monocyte", "platelet")
    save(splits.cast_column("label", features(names)["label"]), tmp_path / "other")
    with pytest.raises(UserError, match=r"\['platelet'\] are unknown to .*run"):
        train.main(["--do_eval", *arguments(str(tmp_path / "other"), str(output), tmp_path / "out")])


def test_weights_of_whole_fields_are_trained_on_whole_fields(tiny, tmp_path):
    assert not load_image_processor(tiny, 32, None).do_find_cell
    assert load_image_processor(tiny, 32, True).do_find_cell
    assert not load_image_processor(None, 32, None).do_find_cell
    ResNetForImageClassification(ResNetConfig(**{k: v for k, v in TINY.items() if k != "image_size"})).save_pretrained(
        tmp_path
    )
    ViTImageProcessor(size=77, do_normalize=False).save_pretrained(tmp_path)
    converted = load_image_processor(str(tmp_path), 48, None)
    assert (converted.do_find_cell, converted.do_normalize, converted.size.height) == (False, True, 48)
