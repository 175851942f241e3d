"""Small models, random weights and inputs that several modules of tests need."""

import pytest
import torch
from torch import nn

from modeling_wbc import WBCConfig, WBCForImageClassification
from modeling_wbc.group_norm_wbc import InstanceGroupNorm2d

LAYOUTS = ("bn", "ibn", "ibn-a", "ibn-b", "ibn-in", "ign")
RESNET_34 = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [3, 4, 6, 3], "layer_type": "basic"}


def tiny_config(**kwargs):
    return WBCConfig(**({"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]} | kwargs))


def randomise(model, seed=0):
    """Give the norms random weights and running statistics, with which features neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.InstanceNorm2d, InstanceGroupNorm2d)):
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


def assert_same_features(model, expected, size=64):
    """The pooled features of `images(2, size)` equal (2, 512) `expected` ones to 1e-5, and are not all the same."""
    with torch.no_grad():
        features = model(images(2, size)).pooler_output.flatten(1)
    assert expected.std() > 1e-2
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)


def assert_same_cells(found, expected):
    """The cells of two fields are the same; weights in another place in memory may round the last digit otherwise."""
    assert len(found.cells) == len(expected.cells) > 0
    for cell, other in zip(found.cells, expected.cells, strict=True):
        for name in ("box", "crop_box", "score", "label", "known", "remark", "stage", "attributes"):
            assert getattr(cell, name) == getattr(other, name), name
        assert cell.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        for name in ("distance", "novelty", "focus"):
            assert getattr(cell, name) == pytest.approx(getattr(other, name), rel=1e-4, abs=1e-5), name
