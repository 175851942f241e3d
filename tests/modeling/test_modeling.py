"""WBCConfig, WBCModel and WBCForImageClassification: structure, outputs, foreign weights, saving and loading."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, ViTImageProcessor

from hub.data.synthetic import draw_field
from hub.training.weights import convert_resnet_state_dict
from modeling_wbc import (
    HardMinedCenterLoss,
    InstanceBatchNorm2d,
    WBCConfig,
    WBCForImageClassification,
    WBCImageProcessor,
    WBCModel,
)

LAYOUTS = ("bn", "ibn", "ibn-a", "ibn-b", "ibn-in")
RESNET_34 = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3], "layer_type": "basic"}


def tiny_config(**kwargs):
    return WBCConfig(**({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]} | kwargs))


def randomise(model, seed=0):
    """Weights and running statistics of norms as if trained; features neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
                module.weight.uniform_(0.3, 1.2, generator=generator)
                module.bias.normal_(0, 0.2, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.num_batches_tracked.fill_(7)
    return model.eval()


def tiny_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    model = randomise(WBCForImageClassification(tiny_config(**kwargs)), seed)
    model.center_loss.centers.normal_()
    return model


def images(batch_size=4, size=32, channels=3, seed=0):
    return torch.randn(batch_size, channels, size, size, generator=torch.Generator().manual_seed(seed))


def blocks(model):
    """(stage, block, the block) of every residual block."""
    for stage, layers in enumerate(model.encoder.stages):
        for index, block in enumerate(layers.layers):
            yield stage, index, block


@pytest.fixture(scope="module")
def meta_models():
    with torch.device("meta"):
        return {layout: WBCModel(WBCConfig(norm_layout=layout)) for layout in LAYOUTS}


# Configuration


def test_config_defaults():
    config = WBCConfig()
    assert config.id2label == {0: "eosinophil", 1: "lymphocyte", 2: "monocyte", 3: "neutrophil"}
    assert config.label2id == {"eosinophil": 0, "lymphocyte": 1, "monocyte": 2, "neutrophil": 3}
    assert config.num_labels == 4
    assert config.model_type == "wbc"
    assert (config.embedding_size, config.layer_type) == (64, "basic")
    assert (list(config.hidden_sizes), list(config.depths)) == ([64, 128, 256, 512], [3, 4, 6, 3])
    assert (config.norm_layout, config.mining, config.image_size) == ("ibn", "batch", 224)
    assert (config.center_loss_weight, config.center_loss_margin, config.center_loss_alpha) == (0.001, 1.0, 0.5)


def test_config_takes_other_labels():
    assert WBCConfig(num_labels=3).num_labels == 3
    assert len(WBCConfig(num_labels=3).id2label) == 3
    config = WBCConfig(id2label={0: "blast", 1: "band"})
    assert config.num_labels == 2
    assert config.label2id == {"blast": 0, "band": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("norm_layout", "gn"),
        ("mining", "hard"),
        ("center_loss_weight", -0.1),
        ("center_loss_margin", -1.0),
        ("center_loss_alpha", -0.1),
        ("center_loss_alpha", 1.1),
        ("temperature", 0),
        ("temperature", -1.0),
        ("max_novelty", 0.0),
        ("layer_type", "bottleneck"),
    ],
)
def test_config_refuses_a_wrong_value(name, value):
    with pytest.raises(ValueError) as error:
        WBCConfig(**{name: value})
    assert name in str(error.value)
    assert str(value) in str(error.value)


def test_config_survives_json(tmp_path):
    values = {
        "norm_layout": "ibn-b",
        "center_loss_weight": 0.5,
        "center_loss_margin": 3.0,
        "center_loss_alpha": 0.25,
        "mining": "class",
        "image_size": 96,
        "hidden_sizes": [8, 16],
        "depths": [1, 2],
        "embedding_size": 4,
        "id2label": {0: "blast", 1: "band", 2: "other"},
    }
    config = WBCConfig(**values)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "wbc"
    loaded = WBCConfig.from_pretrained(tmp_path)
    for name, value in values.items():
        assert getattr(loaded, name) == value, name
    assert loaded.label2id == config.label2id
    WBCConfig().save_pretrained(tmp_path)
    assert WBCConfig.from_pretrained(tmp_path).to_dict() == WBCConfig().to_dict() | {
        "auto_map": {"AutoConfig": "configuration_wbc.WBCConfig"}
    }


# Structure


def test_has_as_many_parameters_as_resnet_34():
    with torch.device("meta"):
        model = WBCForImageClassification(WBCConfig())
        reference = torchvision.models.resnet34(num_classes=4)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 21_286_724
    assert count == sum(parameter.numel() for parameter in reference.parameters())


@pytest.mark.parametrize("layout", ["bn", "ibn", "ibn-a"])
def test_state_dict_is_that_of_resnet_34(layout, meta_models):
    with torch.device("meta"):
        reference = ResNetModel(ResNetConfig(**RESNET_34))
    assert {key: (value.shape, value.dtype) for key, value in meta_models[layout].state_dict().items()} == {
        key: (value.shape, value.dtype) for key, value in reference.state_dict().items()
    }


def test_classifier_state_dict_is_that_of_resnet_34_the_centres_and_the_novelty():
    with torch.device("meta"):
        model = WBCForImageClassification(WBCConfig())
        reference = ResNetForImageClassification(ResNetConfig(**RESNET_34, num_labels=4))
    expected = {key: value.shape for key, value in reference.state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()} == expected | {
        "center_loss.centers": (4, 512),
        "novelty.mean": (128,),
        "novelty.whitening": (128, 128),
    }


@pytest.mark.parametrize(
    ("layout", "stages"),
    [("bn", ()), ("ibn", (0, 1, 2, 3)), ("ibn-a", (0, 1, 2)), ("ibn-b", ()), ("ibn-in", (0, 1, 2, 3))],
)
def test_instance_batch_norm_follows_the_first_convolution_of_the_blocks(layout, stages, meta_models):
    model = meta_models[layout]
    found = {name for name, module in model.named_modules() if isinstance(module, InstanceBatchNorm2d)}
    depths = (3, 4, 6, 3)
    assert found == {
        f"encoder.stages.{stage}.layers.{block}.layer.0.normalization"
        for stage in stages
        for block in range(depths[stage])
    }
    plain = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
    assert len(plain) == 36 - len(found)  # a ResNet-34 has 36 norms


@pytest.mark.parametrize(
    ("layout", "stages"), [("bn", ()), ("ibn", ()), ("ibn-a", ()), ("ibn-b", (0, 1)), ("ibn-in", (2, 3))]
)
def test_instance_norm_follows_the_addition(layout, stages, meta_models):
    model = meta_models[layout]
    found = {name for name, module in model.named_modules() if isinstance(module, nn.InstanceNorm2d)}
    expected = {
        f"encoder.stages.{stage}.layers.{block}.activation.normalization"
        for stage in stages
        for block in range((3, 4, 6, 3)[stage])
    }
    assert found == expected
    for stage, _, block in blocks(model):
        if stage in stages:
            norm = block.activation.normalization
            assert norm.affine
            assert norm.weight.shape == (WBCConfig().hidden_sizes[stage],)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_computes_what_its_layout_says(layout):
    """Every block of a tiny network of four stages, from functional norms."""
    torch.manual_seed(0)
    model = WBCModel(tiny_config(norm_layout=layout, hidden_sizes=[8, 10, 12, 14], depths=[2, 1, 1, 1]))
    randomise(model)

    def batch_norm(x, norm):
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    x = images(2, 24, 8)
    for stage, _, block in blocks(model):
        first, second = block.layer
        hidden, norm = first.convolution(x), first.normalization
        expected = batch_norm(hidden, norm)
        if layout in ("ibn", "ibn-in") or (layout == "ibn-a" and stage < 3):
            half = hidden.shape[1] // 2
            instance = F.instance_norm(hidden[:, :half], weight=norm.weight[:half], bias=norm.bias[:half])
            expected = torch.cat([instance, expected[:, half:]], dim=1)
        expected = batch_norm(second.convolution(expected.relu()), second.normalization)
        if isinstance(block.shortcut, nn.Identity):
            expected = expected + x
        else:
            expected = expected + batch_norm(block.shortcut.convolution(x), block.shortcut.normalization)
        if (layout == "ibn-b" and stage < 2) or (layout == "ibn-in" and stage >= 2):
            norm = block.activation.normalization
            expected = F.instance_norm(expected, weight=norm.weight, bias=norm.bias)
        expected = expected.relu()
        result = block(x)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=2e-5)
        x = result


def test_norms_start_as_the_identity_and_residual_branches_switched_off():
    """And the centres at zero."""
    model = WBCForImageClassification(tiny_config(norm_layout="ibn-in"))
    ends = {block.layer[-1].normalization for _, _, block in blocks(model.resnet)}
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d)):
            assert (module.weight == (0 if module in ends else 1)).all()
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert not module.running_mean.any()
            assert (module.running_var == 1).all()
    assert not model.center_loss.centers.any()


# Outputs


def test_default_output_shapes():
    model = WBCForImageClassification(WBCConfig()).eval()
    with torch.no_grad():
        output = model(images(2, 64))
    assert output.logits.shape == (2, 4)
    assert output.embeddings.shape == (2, 512)
    assert output.loss is output.cross_entropy is output.center_loss is output.hidden_states is None
    with torch.no_grad():
        features = model.resnet(images(2, 64), output_hidden_states=True)
    assert features.last_hidden_state.shape == (2, 512, 2, 2)
    assert features.pooler_output.shape == (2, 512, 1, 1)
    assert [tuple(state.shape[1:]) for state in features.hidden_states] == [
        (64, 16, 16),
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
    ]
    torch.testing.assert_close(features.pooler_output.flatten(1), output.embeddings)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("mining", ["batch", "class"])
def test_loss_is_cross_entropy_and_the_weighted_centre_loss(mining, training):
    model = tiny_model(center_loss_weight=0.3, center_loss_margin=4.0, center_loss_alpha=0.2, mining=mining).train(
        training
    )
    center_loss = HardMinedCenterLoss(4, 16, margin=4.0, alpha=0.2, mining=mining).train(training)
    center_loss.load_state_dict(model.center_loss.state_dict())
    labels = torch.tensor([0, 2, 3, 2, 1])
    output = model(images(5), labels)

    torch.testing.assert_close(
        output.logits, output.embeddings @ model.classifier[1].weight.T + model.classifier[1].bias
    )
    cross_entropy = -output.logits.log_softmax(1)[torch.arange(5), labels].mean()
    distance = center_loss(output.embeddings, labels)
    assert distance > 0
    torch.testing.assert_close(output.cross_entropy, cross_entropy)
    torch.testing.assert_close(output.center_loss, distance)
    torch.testing.assert_close(output.loss, cross_entropy + 0.3 * distance)
    torch.testing.assert_close(model.center_loss.centers, center_loss.centers)
    for result, expected in zip(
        torch.autograd.grad(output.loss, [*model.parameters()], retain_graph=True),
        torch.autograd.grad(cross_entropy + 0.3 * distance, [*model.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(result, expected)


def test_logits_are_divided_by_the_temperature_and_nothing_else_is():
    plain, cool = tiny_model().eval(), tiny_model(temperature=0.25).eval()
    cool.load_state_dict(plain.state_dict())
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        before, after = plain(images), cool(images)
    torch.testing.assert_close(after.logits, 4 * before.logits)
    torch.testing.assert_close(after.distance, before.distance)
    torch.testing.assert_close(after.embeddings, before.embeddings)


def test_distance_is_that_to_the_nearest_centre():
    model = tiny_model().eval()
    model.center_loss.centers.normal_()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        output = model(images)
    expected = torch.cdist(output.embeddings, model.center_loss.centers).amin(1)
    assert output.distance.shape == (5,)
    torch.testing.assert_close(output.distance, expected)


def test_novelty_is_that_of_the_first_stages_map_and_of_no_training_step():
    model = tiny_model()
    model.novelty.mean.normal_()
    model.novelty.whitening.normal_()
    assert model.train()(images()).novelty is None
    with torch.no_grad():
        output = model.eval()(images(), output_hidden_states=True)
    stage = output.hidden_states[1].double().numpy()
    statistics = np.concatenate((stage.mean((2, 3)), stage.std((2, 3))), axis=1)
    offset = (statistics - model.novelty.mean.numpy()) @ model.novelty.whitening.numpy().T
    assert output.novelty.numpy() == pytest.approx(np.linalg.norm(offset, axis=1), rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        coarse = model(images()).novelty
    assert coarse.dtype == torch.float32
    assert coarse.numpy() == pytest.approx(output.novelty.numpy(), rel=0.05)


def test_hidden_states_on_request():
    model = tiny_model()
    output = model(images(), output_hidden_states=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(4, 8, 8, 8), (4, 8, 8, 8), (4, 16, 4, 4)]
    torch.testing.assert_close(output.hidden_states[-1].mean((2, 3)), output.embeddings)
    assert model(images()).hidden_states is None
    model.config.output_hidden_states = True
    assert len(model(images()).hidden_states) == 3


def test_tuple_on_request():
    model = tiny_model()
    labels = torch.tensor([0, 1, 2, 3])
    output = model(images(), labels)
    result = model(images(), labels, return_dict=False)
    assert isinstance(result, tuple)
    names = ("loss", "logits", "distance", "novelty", "embeddings", "cross_entropy", "center_loss")
    expected = tuple(output[name] for name in names)
    torch.testing.assert_close(result, expected)
    result = model.resnet(images(), return_dict=False)
    assert isinstance(result, tuple)
    assert [tuple(part.shape) for part in result] == [(4, 16, 4, 4), (4, 16, 1, 1)]


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 4, 32, 32), (2, 32, 32, 3), (2, 3, 32)], ids=str)
def test_refuses_images_of_a_wrong_shape(shape):
    model = tiny_model()
    for part in (model, model.resnet):
        with pytest.raises(ValueError) as error:
            part(torch.randn(shape))
        assert "pixel_values" in str(error.value)
        assert "(N, 3, H, W)" in str(error.value)
        assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 1, 2, 4]), ["[0, 3]", "4"]),
        (torch.tensor([0, -1, 2, 3]), ["[0, 3]", "-1"]),
        (torch.tensor([0, 1, 2]), ["(4,)", "(3,)"]),
        (torch.tensor([[0, 1, 2, 3]]), ["(4,)", "(1, 4)"]),
        (torch.tensor([0.0, 1, 2, 3]), ["integers", "float32"]),
    ],
    ids=["too-large", "negative", "too-few", "2d", "float"],
)
def test_refuses_labels_that_do_not_fit(labels, words):
    model = tiny_model().train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError) as error:
        model(images(), labels)
    for word in ["labels", *words]:
        assert word in str(error.value)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} changed"


def test_bfloat16_autocast_trains_as_float32():
    losses = []
    for enabled in (False, True):
        model = tiny_model().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
        labels = torch.tensor([0, 1, 2, 3] * 2)
        losses.append([])
        for seed in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                output = model(images(8, seed=seed), labels)
            assert output.loss.dtype == torch.float32
            assert model.center_loss.centers.dtype == torch.float32
            optimizer.zero_grad()
            output.loss.backward()
            optimizer.step()
            losses[-1].append(output.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=3e-2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exports_with_a_dynamic_batch(layout):
    model = tiny_model(norm_layout=layout)
    program = torch.export.export(
        model, (images(2),), dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", max=64)}}
    )
    for batch_size in (2, 5):
        result, expected = program.module()(images(batch_size)), model(images(batch_size))
        torch.testing.assert_close(result.logits, expected.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(result.embeddings, expected.embeddings, rtol=1e-5, atol=1e-5)


# Weights of other publishers


def assert_same_features(model, expected, size=64):
    """Pooled features to 1e-5, which are not all the same."""
    with torch.no_grad():
        features = model(images(2, size)).pooler_output.flatten(1)
    assert expected.std() > 1e-2
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def torchvision_features(model, size=64):
    """Of torchvision's or timm's ResNet, or of any with their names."""
    model.fc = nn.Identity()
    with torch.no_grad():
        return model(images(2, size))


@pytest.fixture(scope="module")
def torchvision_resnet():
    torch.manual_seed(1)
    return randomise(torchvision.models.resnet34(), seed=1)


@pytest.fixture(scope="module")
def plain_model():
    return WBCModel(WBCConfig(norm_layout="bn")).eval()


def test_layout_bn_is_transformers_resnet(plain_model):
    torch.manual_seed(0)
    reference = randomise(ResNetModel(ResNetConfig(**RESNET_34)))
    plain_model.load_state_dict(reference.state_dict(), strict=True)
    with torch.no_grad():
        assert_same_features(plain_model, reference(images(2, 64)).pooler_output.flatten(1))


def test_layout_bn_is_torchvisions_resnet_34(plain_model, torchvision_resnet):
    converted = convert_resnet_state_dict(torchvision_resnet.state_dict())
    plain_model.load_state_dict(converted, strict=True)
    assert_same_features(plain_model, torchvision_features(copy.deepcopy(torchvision_resnet)))


def test_layout_bn_is_timms_resnet_34(plain_model):
    torch.manual_seed(2)
    reference = randomise(timm.create_model("resnet34", pretrained=False), seed=2)
    plain_model.load_state_dict(convert_resnet_state_dict(reference.state_dict()), strict=True)
    assert_same_features(plain_model, torchvision_features(reference))


class IBN(nn.Module):
    """The norm of IBN-Net, as its authors name the parts."""

    def __init__(self, planes):
        super().__init__()
        self.half = planes // 2
        self.IN = nn.InstanceNorm2d(self.half, affine=True)
        self.BN = nn.BatchNorm2d(planes - self.half)

    def forward(self, x):
        first, second = torch.split(x, [self.half, x.shape[1] - self.half], dim=1)
        return torch.cat([self.IN(first.contiguous()), self.BN(second.contiguous())], dim=1)


def test_layout_ibn_a_is_ibn_nets_resnet34_ibn_a(torchvision_resnet):
    reference = copy.deepcopy(torchvision_resnet)
    for stage in (reference.layer1, reference.layer2, reference.layer3):
        for block in stage:
            block.bn1 = IBN(block.bn1.num_features)
    randomise(reference, seed=3)
    state_dict = reference.state_dict()
    assert "layer1.0.bn1.IN.weight" in state_dict
    assert "layer4.0.bn1.weight" in state_dict

    model = WBCModel(WBCConfig(norm_layout="ibn-a")).eval()
    converted = convert_resnet_state_dict(state_dict)
    model.load_state_dict(converted, strict=True)
    assert_same_features(model, torchvision_features(reference))
    key = "encoder.stages.0.layers.0.layer.0.normalization"
    assert torch.equal(converted[f"{key}.weight"][:32], state_dict["layer1.0.bn1.IN.weight"])
    assert torch.equal(converted[f"{key}.running_var"][32:], state_dict["layer1.0.bn1.BN.running_var"])
    assert not converted[f"{key}.running_mean"][:32].any()
    assert (converted[f"{key}.running_var"][:32] == 1).all()
    assert converted[f"{key}.num_batches_tracked"] == 7


def test_conversion_leaves_out_the_classifier(torchvision_resnet):
    state_dict = torchvision_resnet.state_dict()
    converted = convert_resnet_state_dict(state_dict)
    assert "fc.weight" in state_dict
    assert len(converted) == len(state_dict) - 2
    kept = [value for key, value in state_dict.items() if not key.startswith("fc.")]
    assert all(any(value is tensor for tensor in converted.values()) for value in kept[:10])


@pytest.mark.parametrize(
    "name",
    ["layer5.0.conv1.weight", "head.weight", "layer1.0.conv3.weight", "layer1.0.se.weight", "resnet.conv1.weight"],
)
def test_conversion_names_an_unknown_weight(name):
    with pytest.raises(ValueError) as error:
        convert_resnet_state_dict({"conv1.weight": torch.zeros(1), name: torch.zeros(1)})
    assert name in str(error.value)


def test_loads_a_folder_of_transformers_resnet(tmp_path):
    """As `microsoft/resnet-34` is: an image classifier of 1000 labels with a configuration of type resnet."""
    torch.manual_seed(4)
    reference = randomise(ResNetForImageClassification(ResNetConfig(**RESNET_34, num_labels=1000)), seed=4)
    reference.save_pretrained(tmp_path)
    model, info = WBCModel.from_pretrained(tmp_path, norm_layout="bn", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert type(model.config) is WBCConfig
    with torch.no_grad():
        expected = reference.resnet(images(2, 64)).pooler_output.flatten(1)
    assert_same_features(model.eval(), expected)

    model, info = WBCModel.from_pretrained(tmp_path, output_loading_info=True)
    assert model.config.norm_layout == "ibn"
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, reference.resnet.state_dict()[key]), key


# Saving and loading


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


FOLDER = {
    "config.json",
    "configuration_wbc.py",
    "field_wbc.py",
    "image_processing_wbc.py",
    "loss_wbc.py",
    "model.safetensors",
    "modeling_wbc.py",
    "preprocessor_config.json",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saves_and_loads(layout, tmp_path):
    model = tiny_model(norm_layout=layout, mining="class")
    model.save_pretrained(tmp_path)
    assert FOLDER <= names(tmp_path)
    loaded, info = WBCForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.center_loss.centers.any()
    assert loaded.center_loss.mining == "class"
    assert loaded.center_loss.active_fraction == 0  # not saved, and not left uninitialised
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    backbone = WBCModel.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(images())
        torch.testing.assert_close(loaded(images()).logits, expected.logits)
        torch.testing.assert_close(backbone.eval()(images()).pooler_output.flatten(1), expected.embeddings)


def test_folder_holds_no_pickle(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.suffix for path in files} == {".json", ".py", ".safetensors"}
    assert not any(path.read_bytes()[:2] == b"PK" for path in files)


def test_an_image_processor_in_the_folder_stays(tmp_path):
    ViTImageProcessor(size={"height": 77, "width": 55}, do_normalize=False).save_pretrained(tmp_path)
    before = (tmp_path / "preprocessor_config.json").read_bytes()
    tiny_model().save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").read_bytes() == before


def drawn_cell():
    """A cell on a field of 320x240 with a red marker in each corner."""
    image = Image.new("RGB", (320, 240), (230, 220, 225))
    draw = ImageDraw.Draw(image)
    draw.ellipse((110, 60, 220, 170), fill=(190, 160, 210))
    draw.ellipse((135, 80, 190, 140), fill=(90, 40, 140))
    for x in (0, 300):
        for y in (0, 220):
            draw.rectangle((x, y, x + 19, y + 19), fill=(255, 0, 0))
    return image


STRANGER = """
import importlib.util, json, os, sys
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

assert importlib.util.find_spec("modeling_wbc") is None, "this process is to know nothing of the repository"
root = sys.argv[1]
image = Image.open(os.path.join(root, "cell.png"))
report = {}


def check(folder):
    folder = os.path.join(root, folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    backbone = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    classify = pipeline("image-classification", model=folder, trust_remote_code=True)
    with torch.no_grad():
        features, output = backbone(pixel_values), model(pixel_values)
    result = {
        "config": [type(config).__name__, config.model_type, config.norm_layout, config.id2label],
        "processor": [type(processor).__module__, type(processor).__name__],
        "classes": [type(backbone).__name__, type(model).__name__],
        "pixel_values": pixel_values,
        "features": features.pooler_output.flatten(1),
        "embeddings": output.embeddings,
        "logits": output.logits,
        "centers": model.center_loss.centers,
        "pipeline": {entry["label"]: entry["score"] for entry in classify(os.path.join(root, "cell.png"))},
    }
    return backbone, model, result


backbone, model, report["model"] = check("model")
model.save_pretrained(os.path.join(root, "model-again"))
report["model-again"] = check("model-again")[2]
backbone, model, report["backbone"] = check("backbone")
backbone.save_pretrained(os.path.join(root, "backbone-again"))
report["backbone-again"] = check("backbone-again")[2]

# A photograph of a field, by somebody who does not know that cells are found in it.
photograph, folder = os.path.join(root, "field.png"), os.path.join(root, "window")
classify = pipeline("image-classification", model=folder, trust_remote_code=True)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
field = model.analyze(photograph)
field.draw(Image.open(photograph)).save(os.path.join(root, "analysed.png"))
report["window"] = {
    "pipeline": {entry["label"]: entry["score"] for entry in classify(photograph)},
    "cells": [(cell.box, cell.label, cell.probabilities, cell.distance) for cell in field.cells],
    "differential": field.differential,
}
torch.save(report, os.path.join(root, "report.pt"))
"""


@pytest.fixture(scope="module")
def strangers_report(tmp_path_factory):
    """What a process that knows nothing of this repository makes of saved models, without a network."""
    root = tmp_path_factory.mktemp("hub")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    model = tiny_model(norm_layout="ibn-in")
    model.save_pretrained(root / "model")
    model.resnet.save_pretrained(root / "backbone")
    drawn_cell().save(root / "cell.png")
    WBCImageProcessor(size=64).save_pretrained(root / "window")
    model.save_pretrained(root / "window")
    draw_field("neutrophil", 3, (640, 480)).save(root / "field.png")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    environment |= {"HF_HOME": str(elsewhere / "hf"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(root)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return root, model, torch.load(root / "report.pt")


@pytest.mark.parametrize("folder", ["model", "model-again", "backbone", "backbone-again"])
def test_a_stranger_loads_a_saved_folder(folder, strangers_report):
    """Saved from either class, and saved again by a process that has the code from the folder only."""
    _root, model, report = strangers_report
    result = report[folder]
    assert result["config"] == ["WBCConfig", "wbc", "ibn-in", WBCConfig().id2label]
    assert result["classes"] == ["WBCModel", "WBCForImageClassification"]
    with torch.no_grad():
        expected = model(result["pixel_values"])
    for entry in ("features", "embeddings"):
        torch.testing.assert_close(result[entry], expected.embeddings, rtol=1e-5, atol=1e-5)
    assert set(result["pipeline"]) == set(model.config.label2id)
    if folder.startswith("model"):  # the other has no trained classifier
        torch.testing.assert_close(result["logits"], expected.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(result["centers"], model.center_loss.centers)
        scores = {model.config.id2label[i]: p for i, p in enumerate(expected.logits.softmax(1)[0].tolist())}
        assert result["pipeline"] == pytest.approx(scores, abs=1e-5)
    else:
        assert not result["centers"].any()


def test_saving_again_yields_a_complete_folder(strangers_report):
    root, _, _ = strangers_report
    for folder in ("model", "backbone"):
        assert names(root / f"{folder}-again") == names(root / folder) >= FOLDER
        for name in FOLDER - {"config.json", "model.safetensors"}:
            assert (root / f"{folder}-again" / name).read_bytes() == (root / folder / name).read_bytes(), name
        first, second = (json.loads((root / path / "config.json").read_text()) for path in (folder, f"{folder}-again"))
        assert first["auto_map"] == second["auto_map"]
        assert not any("--" in target for target in second["auto_map"].values())  # points at no other repository


def test_the_image_processor_squeezes_the_whole_field(strangers_report):
    """Unless told otherwise, as the paper does; no corner is cropped away."""
    module, name = strangers_report[2]["model"]["processor"]
    assert module.startswith("transformers_modules.")
    assert name == "WBCImageProcessor"
    pixel_values = strangers_report[2]["model"]["pixel_values"]
    assert pixel_values.shape == (1, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    seen = pixel_values[0] * std[:, None, None] + mean[:, None, None]
    for y in (slice(0, 12), slice(-12, None)):
        for x in (slice(0, 10), slice(-10, None)):
            corner = seen[:, y, x].mean((1, 2))
            torch.testing.assert_close(corner, torch.tensor([1.0, 0, 0]), rtol=0, atol=0.03)
    expected = torch.tensor([90, 40, 140]) / 255  # the nucleus lies where squeezing puts it
    torch.testing.assert_close(seen[:, 103, 114], expected, rtol=0, atol=0.03)


def test_a_stranger_reads_the_window_around_the_cell_of_a_photograph(strangers_report):
    root, model, report = strangers_report
    with Image.open(root / "field.png") as image:
        boxes, _ = WBCImageProcessor().find_cells(image)
        assert len(boxes) == 1
        left, top, right, bottom = WBCImageProcessor().windows(boxes)[0].round().tolist()
        side = right - left
        assert 0 <= left
        assert right <= 640
        assert 0 <= top
        assert bottom <= 480
        assert 90 < side < 320
        window = image.crop((left, top, left + side, top + side))
    stock = ViTImageProcessor(size=64, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])
    with torch.no_grad():
        output = model(stock(window, return_tensors="pt")["pixel_values"])
    scores = {model.config.id2label[i]: p for i, p in enumerate(output.logits.softmax(1)[0].tolist())}
    seen = report["window"]
    assert seen["pipeline"] == pytest.approx(scores, abs=1e-4)
    ((box, label, probabilities, distance),) = seen["cells"]
    assert box == pytest.approx(boxes[0].tolist())
    assert probabilities == pytest.approx(scores, abs=1e-4)
    assert label == max(scores, key=scores.get)
    assert seen["differential"][label] == 1
    expected = (output.embeddings - model.center_loss.centers).norm(dim=1).min()
    assert distance == pytest.approx(float(expected), rel=1e-4)
    assert Image.open(root / "analysed.png").size == (640, 480)


def test_the_processor_follows_the_image_size(tmp_path):
    tiny_model(image_size=96).save_pretrained(tmp_path)
    processor = WBCImageProcessor.from_pretrained(tmp_path)
    assert not processor.do_find_cell
    assert processor(drawn_cell(), return_tensors="pt")["pixel_values"].shape == (1, 3, 96, 96)
