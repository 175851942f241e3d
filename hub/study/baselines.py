"""Baselines: the networks that Ma et al. 2020 compare theirs with (Table 2), for `train.py --architecture`."""

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
    """A network of timm, alone or with an LSTM that reads its last feature map.

    Attributes:
        network: Its name in timm.
        weights: The id of its ImageNet weights on the Hub.
        image_size: Height and width in pixels of the images that it was designed for.
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
    """Return the name of the baseline whose weights `source`, a folder or a Hub id, holds, or None.

    Raises:
        OSError: There is no configuration.
    """
    config, _ = PreTrainedConfig.get_config_dict(source)
    lstm = config.get("model_type") == CnnLstmConfig.model_type
    for name, baseline in BASELINES.items():
        if (baseline.network, baseline.lstm) == (config.get("architecture"), lstm):
            return name
    return None


def load_baseline(
    name: str, source: str | None, names: Sequence[str], image_size: int | None, do_train: bool
) -> PreTrainedModel:
    """Load a baseline to train or evaluate it.

    Args:
        name: One of `BASELINES`.
        source: Its weights, by folder or Hub id, or those of its network without the LSTM; None for random ones.
        names: The classes of the dataset. Weights of these classes keep their classifier and their order of the
            classes; others get a new classifier.
        image_size: Height and width of the images in pixels. Default: that of the weights, or of the network's design.
        do_train: Whether the model is trained, so that a new classifier is allowed.

    Returns:
        The model; its configuration holds `image_size`.

    Raises:
        OSError: The weights cannot be loaded.
        ValueError: `source` holds another network, or is to be evaluated on classes that it does not know.
    """
    baseline = BASELINES[name]
    labels: dict[str, dict] = {
        "id2label": dict(enumerate(names)),
        "label2id": {label: index for index, label in enumerate(names)},
    }
    if source is None:
        model = _new_model(baseline, labels)
    else:
        held = baseline_of(source)
        if held is None or BASELINES[held].network != baseline.network or (BASELINES[held].lstm and not baseline.lstm):
            raise ValueError(f"{source} holds {held or 'another network'}, which {name} does not start from")
        known = set(AutoConfig.from_pretrained(source).id2label.values())
        if not (do_train or known >= set(names)):
            raise ValueError(
                f"the dataset's classes {sorted(set(names) - known)} are unknown to {source}, which tells apart "
                f"{sorted(known)}. Evaluate it on a dataset of these, or train it with --do_train"
            )
        if held != name:
            model = _new_model(baseline, labels)
            model.trunk = TimmWrapperModel.from_pretrained(source, use_safetensors=True)
        elif known == set(names) or not do_train:
            model = AutoModelForImageClassification.from_pretrained(source, use_safetensors=True)
        else:
            model = AutoModelForImageClassification.from_pretrained(
                source, use_safetensors=True, ignore_mismatched_sizes=True, num_labels=len(names), **labels
            )
            classifier_of(model).reset_parameters()
        image_size = image_size or getattr(model.config, "image_size", None)
    model.config.image_size = image_size or baseline.image_size
    return model


def _new_model(baseline: Baseline, labels: dict[str, dict]) -> PreTrainedModel:
    """Return a baseline of random weights."""
    kind = CnnLstmConfig if baseline.lstm else TimmWrapperConfig
    model = AutoModelForImageClassification.from_config(kind(architecture=baseline.network, **labels))
    _initialize(model)
    return model


def classifier_of(model: PreTrainedModel) -> nn.Linear:
    """Return the last layer of a baseline."""
    return model.classifier if isinstance(model, CnnLstmForImageClassification) else model.timm_model.get_classifier()


def describe_baseline(model: PreTrainedModel) -> str:
    """Describe a baseline's network in words, for the model card."""
    config = model.config
    if isinstance(model, CnnLstmForImageClassification):
        return f"timm's {config.architecture} and an LSTM of {config.hidden_size}"
    return f"timm's {config.architecture}"


def normalization_of(model: PreTrainedModel) -> dict[str, list[float]]:
    """Return `image_mean` and `image_std` of a baseline's weights, as far as timm names them; else an empty dict."""
    config = getattr(model, "trunk", model).config
    known = getattr(config, "pretrained_cfg", None) or {}
    return {f"image_{name}": list(known[name]) for name in ("mean", "std") if name in known}


@torch.no_grad()
def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide the logits of a baseline by a temperature, in its last layer, since its configuration has none."""
    for parameter in classifier_of(model).parameters():
        parameter.div_(temperature)


def _initialize(model: PreTrainedModel) -> None:
    """Draw the weights of a baseline in the way of the ResNet-34.

    Convolutions follow He et al. 2015, by the fan out; all else is PyTorch's default. timm's wrapper in transformers
    would draw all of them with a standard deviation of 0.02.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear | nn.LSTM):
            module.reset_parameters()
        elif hasattr(module, "zero_init_last"):  # a residual block of timm, switched off at first as in the ResNet-34
            module.zero_init_last()
