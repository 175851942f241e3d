"""The networks that Ma et al. 2020 compare theirs with (Table 2), for `train.py --architecture`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperModel,
)

from hub.study.cnn_lstm import CnnLstmConfig, CnnLstmForImageClassification

AutoConfig.register(CnnLstmConfig.model_type, CnnLstmConfig)
AutoModelForImageClassification.register(CnnLstmConfig, CnnLstmForImageClassification)


@dataclass(frozen=True)
class Baseline:
    """A network of timm, as it is or with an LSTM that reads its last feature map.

    Attributes:
        network: Its name in timm.
        weights: The id of its ImageNet weights on the Hub.
        image_size: Height and width in pixels of the images that it was made for.
        lstm: Whether it is a [`CnnLstmForImageClassification`].
    """

    network: str
    weights: str
    image_size: int
    lstm: bool = False


BASELINES = {
    "inception_v3": Baseline("inception_v3", "timm/inception_v3.tv_in1k", 299),
    "resnet50": Baseline("resnet50", "timm/resnet50.tv_in1k", 224),
    "inception_v3-lstm": Baseline("inception_v3", "timm/inception_v3.tv_in1k", 299, lstm=True),
    "resnet50-lstm": Baseline("resnet50", "timm/resnet50.tv_in1k", 224, lstm=True),
    "xception-lstm": Baseline("legacy_xception", "timm/legacy_xception.tf_in1k", 299, lstm=True),
}


def baseline_of(source: str) -> str | None:
    """The name of the rival whose weights `source`, a folder or an id on the Hub, holds, or None.

    Raises:
        OSError: There is no configuration.
    """
    config, _ = PreTrainedConfig.get_config_dict(source)
    lstm = config.get("model_type") == CnnLstmConfig.model_type
    for name, rival in BASELINES.items():
        if (rival.network, rival.lstm) == (config.get("architecture"), lstm):
            return name
    return None


def load_baseline(
    name: str, source: str | None, names: Sequence[str], image_size: int | None, do_train: bool
) -> PreTrainedModel:
    """A rival, to be trained or evaluated.

    Args:
        name: One of `BASELINES`.
        source: Its weights, by folder or id on the Hub, or those of its network without the LSTM; None for random
            ones.
        names: The classes to tell apart. Weights that know these keep their classifier and their order of the classes;
            others get a new classifier.
        image_size: Height and width of the images in pixels. Default: the weights', or what the network was made for.
        do_train: Whether a new classifier will do.

    Returns:
        The model; its configuration tells `image_size`.

    Raises:
        OSError: The weights cannot be loaded.
        ValueError: `source` holds another network, or does not know the classes that are only evaluated.
    """
    rival = BASELINES[name]
    labels = {"id2label": dict(enumerate(names)), "label2id": {label: index for index, label in enumerate(names)}}
    if source is None or baseline_of(source) != name:
        if rival.lstm:
            config = CnnLstmConfig(architecture=rival.network, **labels)
        else:
            config = TimmWrapperConfig(architecture=rival.network, **labels)
        model = AutoModelForImageClassification.from_config(config)
        _initialize(model)
    if source is not None:
        held = baseline_of(source)
        if held is None or BASELINES[held].network != rival.network or (BASELINES[held].lstm and not rival.lstm):
            raise ValueError(f"{source} holds {held or 'another network'}, which {name} does not start from")
        known = set(AutoConfig.from_pretrained(source).id2label.values())
        whole = known == set(names) if do_train else known >= set(names)
        if not (whole or do_train):
            raise ValueError(
                f"the dataset's classes {sorted(set(names) - known)} are unknown to {source}, which tells apart "
                f"{sorted(known)}. Evaluate it on a dataset of these, or train it with --do_train"
            )
        if held != name:
            model.trunk = TimmWrapperModel.from_pretrained(source, use_safetensors=True)
        elif whole:
            model = AutoModelForImageClassification.from_pretrained(source, use_safetensors=True)
        else:
            model = AutoModelForImageClassification.from_pretrained(
                source, use_safetensors=True, ignore_mismatched_sizes=True, num_labels=len(names), **labels
            )
            classifier_of(model).reset_parameters()
        image_size = image_size or getattr(model.config, "image_size", None)
    model.config.image_size = image_size or rival.image_size
    return model


def classifier_of(model: PreTrainedModel) -> nn.Linear:
    """The last layer of a rival."""
    return model.classifier if isinstance(model, CnnLstmForImageClassification) else model.timm_model.get_classifier()


def describe_baseline(model: PreTrainedModel) -> str:
    """What network a rival is, in words."""
    config = model.config
    if isinstance(model, CnnLstmForImageClassification):
        return f"timm's {config.architecture} and an LSTM of {config.hidden_size}"
    return f"timm's {config.architecture}"


def normalization_of(model: PreTrainedModel) -> dict[str, list[float]]:
    """`image_mean` and `image_std` that a rival's weights expect, as far as they are not ImageNet's usual ones."""
    config = getattr(model, "trunk", model).config
    known = getattr(config, "pretrained_cfg", None) or {}
    return {f"image_{name}": list(known[name]) for name in ("mean", "std") if name in known}


@torch.no_grad()
def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide the logits of a rival by a temperature, for good: it has no place for one but its last layer."""
    for parameter in classifier_of(model).parameters():
        parameter /= temperature


def _initialize(model: PreTrainedModel) -> None:
    """Draw a rival's weights as those of the ResNet-34 are drawn: convolutions after He et al. 2015 by the fan out,
    everything else as PyTorch has it. The wrapper would draw all of them with a standard deviation of 0.02.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.LSTM):
            module.reset_parameters()
        elif hasattr(module, "zero_init_last"):  # a residual block of timm's, which starts switched off too
            module.zero_init_last()
