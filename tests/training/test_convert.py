"""convert_resnet_state_dict: weights as torchvision, timm and IBN-Net publish them."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

from hub.training.weights import convert_resnet_state_dict
from modeling_wbc import WBCConfig, WBCModel
from tests.modeling.builders import assert_same_features, images, randomise


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
