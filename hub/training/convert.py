"""Conversion of ResNet-34 weights of other publishers."""

import re

import torch
from torch import Tensor


def convert_resnet_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a ResNet-34 as torchvision, timm and IBN-Net publish it to those of `WBCModel`.

    The values stay the same. The halves that IBN-Net (`resnet34_ibn_a`) holds as `bn1.IN.*` and `bn1.BN.*` are
    joined, the instance half first; its running statistics, which IBN-Net does not have and nothing uses, are 0 and 1.
    The classifier `fc.*` is left out, as in the paper's transfer.

    ```python
    model.resnet.load_state_dict(convert_resnet_state_dict(torchvision.models.resnet34(weights="DEFAULT").state_dict()))
    ```

    Args:
        state_dict: The weights by name: `conv1.weight`, `layer1.0.bn1.running_mean`, ...

    Returns:
        The weights for `WBCModel.load_state_dict`. Those of a plain ResNet-34 fit the layouts `bn`, `ibn` and `ibn-a`;
        those of IBN-Net fit, by their meaning, `ibn-a` only.

    Raises:
        ValueError: A name is not one of a ResNet-34.
    """
    converted = {}
    for name, tensor in state_dict.items():
        if name.startswith("fc."):
            continue
        half = re.fullmatch(r"(.+)\.(IN|BN)\.(\w+)", name)
        if half is None:
            converted[_resnet_name(name)] = tensor
            continue
        norm, kind, entry = half.groups()
        key = _resnet_name(f"{norm}.{entry}")
        if kind == "IN":  # weight and bias, to which those of BN are appended
            converted[key] = torch.cat((tensor, state_dict[f"{norm}.BN.{entry}"]))
        elif entry == "num_batches_tracked":
            converted[key] = tensor
        elif entry in ("running_mean", "running_var"):
            instance = torch.full_like(state_dict[f"{norm}.IN.weight"], 0 if entry == "running_mean" else 1)
            converted[key] = torch.cat((instance, tensor))
    return converted


def _resnet_name(name: str) -> str:
    """Return transformers' name of a ResNet-34 weight, given torchvision's."""
    if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        kind, entry = match.groups()
        return f"embedder.embedder.{'convolution' if kind == 'conv' else 'normalization'}.{entry}"
    if match := re.fullmatch(r"layer([1-4])\.(\d+)\.(conv|bn)([12])\.(\w+)", name):
        stage, block, kind, index, entry = match.groups()
        part = f"layer.{int(index) - 1}.{'convolution' if kind == 'conv' else 'normalization'}"
    elif match := re.fullmatch(r"layer([1-4])\.(\d+)\.downsample\.([01])\.(\w+)", name):
        stage, block, index, entry = match.groups()
        part = f"shortcut.{('convolution', 'normalization')[int(index)]}"
    else:
        raise ValueError(
            f"{name!r} is no weight of a ResNet-34 as torchvision, timm or IBN-Net name it (conv1.weight, "
            f"layer1.0.bn1.weight, layer2.0.downsample.0.weight, ...)"
        )
    return f"encoder.stages.{int(stage) - 1}.layers.{block}.{part}.{entry}"
