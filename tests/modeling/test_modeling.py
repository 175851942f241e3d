"""WBCModel and WBCForImageClassification: structure, outputs, losses, export."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from modeling_wbc import (
    HardMinedCenterLoss,
    InstanceBatchNorm2d,
    WBCConfig,
    WBCForImageClassification,
    WBCModel,
)
from tests.modeling.builders import (
    LAYOUTS,
    RESNET_34,
    assert_same_features,
    images,
    randomise,
    tiny_config,
    tiny_model,
)


def blocks(model):
    """(stage, block, the block) of every residual block."""
    for stage, layers in enumerate(model.encoder.stages):
        for index, block in enumerate(layers.layers):
            yield stage, index, block


@pytest.fixture(scope="module")
def meta_models():
    with torch.device("meta"):
        return {layout: WBCModel(WBCConfig(norm_layout=layout)) for layout in LAYOUTS}


# Structure


def test_has_as_many_parameters_as_resnet_34():
    with torch.device("meta"):
        model = WBCForImageClassification(WBCConfig())
        reference = torchvision.models.resnet34(num_classes=4)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 21_286_724
    assert count == sum(parameter.numel() for parameter in reference.parameters())


@pytest.mark.parametrize("layout", ["bn", "ibn", "ibn-a", "ign"])
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


def instance_group_norm(x, weight, bias):
    """Each channel of the first half, and each group of channels of the second, by its own mean and variance."""
    half = x.shape[1] // 2
    size = max(number for number in (1, 2, 4, 8, 16) if (x.shape[1] - half) % number == 0)
    groups = [[channel] for channel in range(half)]
    groups += [list(range(first, first + size)) for first in range(half, x.shape[1], size)]
    result = torch.empty_like(x)
    for group in groups:
        values = x[:, group]
        mean, var = values.mean((1, 2, 3), keepdim=True), values.var((1, 2, 3), correction=0, keepdim=True)
        result[:, group] = (values - mean) / (var + 1e-5).sqrt()
    return result * weight[:, None, None] + bias[:, None, None]


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
        if layout == "ign":
            expected = instance_group_norm(hidden, norm.weight, norm.bias)
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


def test_layout_bn_is_transformers_resnet():
    plain_model = WBCModel(WBCConfig(norm_layout="bn")).eval()
    torch.manual_seed(0)
    reference = randomise(ResNetModel(ResNetConfig(**RESNET_34)))
    plain_model.load_state_dict(reference.state_dict(), strict=True)
    with torch.no_grad():
        assert_same_features(plain_model, reference(images(2, 64)).pooler_output.flatten(1))


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


def test_class_activation_maps_add_up_to_the_logits():
    model, pixel_values = tiny_model(), images(6, 48)
    warm = WBCForImageClassification(model.config).eval()
    warm.load_state_dict(model.state_dict())
    for temperature in (1.0, 0.4):
        warm.config.temperature = temperature
        with torch.no_grad():
            maps, logits = warm.class_activation_maps(pixel_values), warm(pixel_values).logits
        assert maps.shape == (6, 4, 6, 6)  # the small network here reduces to an eighth
        torch.testing.assert_close(maps.mean((2, 3)), logits)
    warm.config.temperature = 1.0

    # A map shows where the evidence is: without one place of the feature map, the logit lacks that place's part.
    with torch.no_grad():
        features = model.resnet(pixel_values).last_hidden_state
        features[:, :, 2, 3] = 0
        without = model.classifier(features.mean((2, 3)))
    maps = model.class_activation_maps(pixel_values).detach()
    bias = model.classifier[1].bias.detach()
    torch.testing.assert_close(maps.mean((2, 3)) - without, (maps[:, :, 2, 3] - bias) / 36, rtol=1e-3, atol=1e-5)


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
