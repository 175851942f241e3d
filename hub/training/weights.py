"""Where the weights start: ImageNet, a folder or id, or at random."""

import re
from contextlib import suppress

import torch
from torch import Tensor

from hub.files import UserError, one_line
from hub.study.baselines import BASELINES, baseline_of, load_baseline
from hub.training.arguments import IMAGENET_WEIGHTS, PAPERS, DataArguments, ModelArguments
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor, WBCModel


def base_weights(model_args: ModelArguments, data_args: DataArguments) -> str | None:
    """Where the weights start: an id or a folder, or None for random ones."""
    rival = BASELINES.get(model_args.architecture)
    imagenet = rival.weights if rival else IMAGENET_WEIGHTS
    source = model_args.model_name_or_path or (imagenet if data_args.dataset_name else "none")
    return None if source == "none" else source


def load_model(args: ModelArguments, source: str | None, names: list[str], do_train: bool):
    """The model to train or evaluate.

    With weights whose classes are those of the dataset, in any order, everything is loaded. With others, training
    starts from all of them but the classifier and the class centres. Evaluation alone needs a model that knows every
    class of the dataset.
    """
    overrides = {
        name: getattr(args, name)
        for name in ("norm_layout", "center_loss_weight", "center_loss_margin", "mining", "image_size")
        if getattr(args, name) is not None
    }
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    try:
        if source is None and not do_train:
            raise UserError("--do_eval alone needs the folder of a trained model as --model_name_or_path.")
        held = None if source is None else baseline_of(source)
        architecture = args.architecture or held or PAPERS
        if architecture in BASELINES:
            if others := sorted(overrides.keys() - {"image_size"}):
                raise UserError(f"--{others[0]} belongs to {PAPERS}; leave it out for {architecture}.")
            model = load_baseline(architecture, source, names, args.image_size, do_train)
        elif held is not None:
            raise UserError(f"{source} holds {held}, which --architecture {PAPERS} does not start from.")
        elif source is None:
            model = WBCForImageClassification(WBCConfig(**labels, **overrides))
        else:
            config = WBCConfig.from_pretrained(source, **overrides)
            if do_train:  # What was fitted to these weights does not fit those to come.
                config.temperature, config.max_novelty = 1.0, None
            known = set(config.id2label.values())
            if known == set(names) or (not do_train and known >= set(names)):
                model = WBCForImageClassification.from_pretrained(source, config=config)
            elif do_train:
                config.id2label, config.label2id = labels["id2label"], labels["label2id"]
                model = WBCForImageClassification(config)
                model.resnet = WBCModel.from_pretrained(source, config=config)
            else:
                raise UserError(
                    f"the dataset's classes {sorted(set(names) - known)} are unknown to {source}, which tells apart "
                    f"{sorted(known)}. Evaluate it on a dataset of these, or train it with --do_train."
                )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"could not load the weights {source}: {reason} Name a folder or another id as --model_name_or_path, or "
            "'none' to start from random weights."
        ) from error
    except (ValueError, ImportError) as error:
        raise UserError(f"{one_line(error).rstrip('.')}.") from error
    return model


def load_image_processor(
    source: str | None, image_size: int, find_cell: bool | None, normalization: dict | None = None
) -> WBCImageProcessor:
    """The image processor to train and evaluate with: that of the weights, if they were trained here, or a new one
    with `normalization`, in either case for `image_size`, and with `find_cell` if it is not None.
    """
    known = {}
    if source is not None:
        with suppress(OSError):  # not every folder of weights has one
            known, _ = WBCImageProcessor.get_image_processor_dict(source)
    if known.get("image_processor_type") != WBCImageProcessor.__name__:
        known = {"do_find_cell": False} | (normalization or {})
    known |= {"size": {"height": image_size, "width": image_size}}
    if find_cell is not None:
        known["do_find_cell"] = find_cell
    return WBCImageProcessor.from_dict(known)


def convert_resnet_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames a ResNet-34's weights as torchvision, timm and IBN-Net publish them to those of [`WBCModel`].

    The values stay as they are. The halves that IBN-Net (`resnet34_ibn_a`) holds as `bn1.IN.*` and `bn1.BN.*` are
    joined, the instance half first; its running statistics, which IBN-Net does not have and nothing uses, are 0 and 1.
    The classifier `fc.*` is left out, as the paper leaves it out of the transfer.

    ```python
    model.resnet.load_state_dict(convert_resnet_state_dict(torchvision.models.resnet34(weights="DEFAULT").state_dict()))
    ```

    Args:
        state_dict (`dict[str, torch.Tensor]`): the weights, named `conv1.weight`, `layer1.0.bn1.running_mean`, ...

    Returns:
        `dict[str, torch.Tensor]`: the same, for `WBCModel.load_state_dict`. Plain ResNet-34 weights fit the layouts
        `bn`, `ibn` and `ibn-a`; those of IBN-Net fit, by their meaning, `ibn-a` only.

    Raises:
        ValueError: if a name is none of a ResNet-34's.
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
        if kind == "IN":  # weight and bias; BN's part is joined here, whichever comes first
            converted[key] = torch.cat((tensor, state_dict[f"{norm}.BN.{entry}"]))
        elif entry == "num_batches_tracked":
            converted[key] = tensor
        elif entry in ("running_mean", "running_var"):
            instance = torch.full_like(state_dict[f"{norm}.IN.weight"], 0 if entry == "running_mean" else 1)
            converted[key] = torch.cat((instance, tensor))
    return converted


def _resnet_name(name: str) -> str:
    """Transformers' name of a ResNet-34 weight, from torchvision's."""
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
