"""Loading of initial weights: ImageNet, a folder or id, or random."""

import copy
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from hub.files import UserError, one_line
from hub.training.arguments import IMAGENET_WEIGHTS, DataArguments, ModelArguments
from hub.training.convert import convert_resnet_state_dict
from hub.training.heads import HeadNames, choose_heads
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor, WBCModel


def base_weights(
    model_args: ModelArguments, data_args: DataArguments, imagenet_weights: str = IMAGENET_WEIGHTS
) -> str | None:
    """Return the id or folder of the weights to start from, or None for random ones.

    The default is `imagenet_weights` for real cells and random weights for drawn ones.
    """
    source = model_args.model_name_or_path or (imagenet_weights if data_args.dataset_name else "none")
    return None if source == "none" else source


def config_overrides(args: ModelArguments) -> dict[str, object]:
    """Return the fields of `WBCConfig` that the arguments set."""
    names = (
        *("norm_layout", "center_loss_weight", "center_loss_margin", "mining", "image_size"),
        *("stage_loss_weight", "attribute_loss_weight", "stain_size"),
    )
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def load_model(
    args: ModelArguments, source: str | None, names: Sequence[str], do_train: bool, heads: HeadNames | None = None
) -> WBCForImageClassification:
    """Load the paper's network to train or evaluate it.

    Weights of the dataset's classes, in any order, are loaded whole. From weights of other classes, training takes
    the backbone and starts with a new classifier and new class centres. Evaluation alone needs weights of a model
    that knows every class of the dataset. The same holds for the heads of stages and attributes, see `choose_heads`.

    Args:
        args: Their settings take precedence over those of the weights.
        source: The weights, by folder or id: a model of this project, a ResNet-34 of transformers, or one under
            torchvision's names, as timm publishes it; None for random ones.
        names: The classes of the dataset.
        do_train: Whether the model is trained, so that a new classifier is allowed.
        heads: The stages and attributes of the dataset.

    Raises:
        OSError: The weights cannot be loaded.
        ValueError: The weights are not those of a ResNet-34.
        UserError: The weights are to be evaluated on classes, stages or attributes that they do not know.
    """
    overrides, heads = config_overrides(args), heads or HeadNames()
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    if source is None:
        config = WBCConfig(**labels, **overrides)
        choose_heads(config, heads, source, do_train)
        return WBCForImageClassification(config)
    converted = torchvision_weights(source)
    config = WBCConfig(**overrides) if converted else WBCConfig.from_pretrained(source, **overrides)
    known = set() if converted else set(config.id2label.values())
    if do_train:  # A calibration does not fit the weights to come.
        config.temperature = 1.0
        config.max_novelty = config.max_smear_novelty = config.min_focus = None
    elif not known >= set(names):
        raise UserError(
            f"the dataset's classes {sorted(set(names) - known)} are unknown to {source}, which tells apart "
            f"{sorted(known)}. Evaluate it on a dataset of these, or train it with --do_train."
        )
    new_heads = choose_heads(config, heads, source, do_train)
    if known == set(names) or not do_train:
        return _load_all_but(new_heads, source, config)
    config.id2label, config.label2id = labels["id2label"], labels["label2id"]
    model = WBCForImageClassification(config)
    if converted is None:
        model.resnet = WBCModel.from_pretrained(source, config=config)
        return model
    _load_backbone(model.resnet, converted, source)
    return model


def _load_all_but(new_heads: set[str], source: str, config: WBCConfig) -> WBCForImageClassification:
    """Load weights of this project, except those of the heads in `new_heads`, which are of other names."""
    held = copy.deepcopy(config)
    for kind in new_heads:
        setattr(held, kind, None)
    model = WBCForImageClassification.from_pretrained(source, config=held)
    if not new_heads:
        return model
    whole = WBCForImageClassification(config)
    whole.load_state_dict(model.state_dict(), strict=False)  # only the new heads are missing
    return whole


def _load_backbone(backbone: WBCModel, weights: dict[str, Tensor], source: str) -> None:
    """Load converted weights, and raise `ValueError` if they are not those of a ResNet-34."""
    try:
        names = [*itertools.chain(*backbone.load_state_dict(weights, strict=False))]  # missing, unexpected
    except RuntimeError as error:
        raise ValueError(f"{source} holds another network than a ResNet-34: {one_line(error)}") from error
    # The norms that the layouts "ibn-b" and "ibn-in" add are new, and a normaliser of stains.
    if differing := sorted(name for name in names if not re.match(r"stain\.|.*\.activation\.normalization\.", name)):
        raise ValueError(
            f"{source} holds another network than a ResNet-34: {len(differing)} weights are missing or too many, such "
            f"as {differing[0]}"
        )


def torchvision_weights(source: str) -> dict[str, Tensor] | None:
    """Read the weights of a ResNet-34 under torchvision's names, and return them by the names of `WBCModel`.

    Returns None if `source` has no weights under such names.

    Raises:
        ValueError: The names are of another ResNet.
    """
    with suppress(OSError, SafetensorError):  # `from_pretrained` says more about missing and damaged files.
        with safe_open(cached_file(source, SAFE_WEIGHTS_NAME), "pt") as file:
            names = list(file.keys())
            if "conv1.weight" in names:
                return convert_resnet_state_dict({name: file.get_tensor(name) for name in names})
    return None


@contextmanager
def loading_weights(source: str | None) -> Iterator[None]:
    """Turn errors of loading the weights `source` into a `UserError` that names the remedy."""
    try:
        yield
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"could not load the weights {source}: {reason} Name a folder or another id as --model_name_or_path, or "
            "'none' to start from random weights."
        ) from error
    except (ValueError, ImportError) as error:
        raise UserError(f"{one_line(error).rstrip('.')}.") from error


def load_image_processor(
    source: str | None, image_size: int, find_cell: bool | None, normalization: dict | None = None
) -> WBCImageProcessor:
    """Load the image processor of the weights, or make a new one if they are not weights of this project.

    Args:
        source: The weights, by folder or id; None for random ones.
        image_size: Height and width in pixels of the network's input.
        find_cell: Whether to crop images around their cell. Default: as the weights were trained; not with a new one.
        normalization: `image_mean` and `image_std` of a new one. Default: ImageNet's.
    """
    known = {}
    if source is not None:
        with suppress(OSError):  # not every folder of weights has one
            known, _ = WBCImageProcessor.get_image_processor_dict(source)
    if known.get("image_processor_type") != WBCImageProcessor.__name__:
        # The paper squeezes whole fields as they are; crops of cells are for labs of any light.
        known = {"do_find_cell": False, "do_correct_illumination": bool(find_cell)} | (normalization or {})
    known |= {"size": {"height": image_size, "width": image_size}}
    if find_cell is not None:
        known["do_find_cell"] = find_cell
    return WBCImageProcessor.from_dict(known)
