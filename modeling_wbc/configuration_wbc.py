"""Configuration of the IBN-ResNet34 white-blood-cell classifier."""

import itertools
from typing import ClassVar

from transformers import ResNetConfig

NORM_LAYOUTS = ("bn", "ibn", "ibn-a", "ibn-b", "ibn-in", "ign")
MINING = ("batch", "class", "none")
# Raised whenever code of the version before would read new weights, but answer otherwise than they should.
CODE_VERSION = 2


class WBCConfig(ResNetConfig):
    """Configuration of [`WBCModel`] and [`WBCForImageClassification`]: a ResNet-34 by default.

    `WBCConfig()` describes the network of Ma et al. 2020, "White blood cell classification based on improved residual
    neural network": a ResNet-34 with instance-batch normalisation in its residual blocks, and the four classes of
    BCCD. All arguments of [`transformers.ResNetConfig`] are accepted; those below are new or have another default.

    Args:
        norm_layout (`str`, defaults to `"ibn"`): kind and place of the norms in the residual blocks.

            - `"bn"`: batch norm throughout, the plain ResNet.
            - `"ibn"`: after the first convolution of every block, instance norm for one half of the channels and batch
              norm for the other.
            - `"ibn-a"`: the same in all stages but the last (Pan et al. 2018, IBN-Net-a).
            - `"ibn-b"`: batch norm throughout, and an affine instance norm after the addition of every block of the
              first two stages (after IBN-Net-b, Pan et al. 2018, which has it in the last block of a stage only).
            - `"ibn-in"`: as `"ibn"`, and an affine instance norm after the addition of every block of the last two
              stages (the paper: "IN in the high layers").
            - `"ign"`: as `"ibn"`, with group norm in place of batch norm in the second half of the channels. A control
              that is not the paper's, see [`InstanceGroupNorm2d`].
        center_loss_weight (`float`, defaults to 0.001): lambda of equation 12, at least 0. The paper gives no value.
            Trained on BCCD from random weights, all features collapsed to one point with 0.01, but not with 0.0001.
        center_loss_margin (`float`, defaults to 1.0): m of equations 8-10, a squared distance, at least 0. The paper
            gives no value.
        center_loss_alpha (`float`, defaults to 0.5): rate at which the class centres follow the features, in [0, 1]
            (Wen et al. 2016).
        mining (`str`, defaults to `"batch"`): pairs of the centre loss, `"batch"`, `"class"` or `"none"`, see
            [`HardMinedCenterLoss`].
        image_size (`int`, defaults to 224): height and width in pixels of the network's input. The image processor
            saved with the model resizes to it.
        stain_size (`int`, defaults to 0): height and width in pixels of the thumbnail that a [`StainNormalizer`]
            before the ResNet reads, at least 0. With 0, there is none.
        temperature (`float`, defaults to 1.0): divisor of the classifier's scores, above 0, which calibrates the
            softmax of the logits (Guo et al. 2017). Fitted after training.
        max_novelty (`float`, *optional*): OOD threshold, above 0: `analyze` marks an image with a larger
            [`WBCImageClassifierOutput.novelty`] as unknown. Fitted after training; with None, no image is unknown for
            its novelty.
        max_smear_novelty (`float`, *optional*): second OOD threshold, above 0: up to it, an image beyond `max_novelty`
            is a smear of an unfamiliar stain, whose type is a guess, and above it no smear. Fitted after training;
            with None, every image beyond `max_novelty` is no smear.
        novelty_stages (list of `int`, *optional*): the stages, counted from 1, whose feature maps [`SmearNovelty`]
            compares. Set when the OOD score is fitted. With None, as in checkpoints of version 1, it compares that of
            the first stage, without the direction towards what lies beside cells.
        min_focus (`float`, *optional*): focus threshold, above 0: `analyze` marks a cell whose crop has a smaller
            [`Cell.focus`] as unknown, since it is out of focus. Fitted after training; with None, no cell is.
        max_shift (`float`, defaults to 0.12): shift of the norms' statistics, at least 0, up to which
            [`WBCForImageClassification.adapt`] takes a lab's crops for those of the training and leaves the norms as
            they are.
        adaptation (`dict`, *optional*): what `adapt` has changed, in a copy that it made, see there.
        stages (dict of lists of `str`, *optional*): names of the stages of maturation of each type that has any, such
            as `{"neutrophil": ["band neutrophil", "segmented neutrophil"]}`. Their order is that of the stage ids.
        attributes (dict of lists of `str`, *optional*): names of the values of each attribute of a cell, such as
            `{"cell_size": ["big", "small"]}`. Their order is that of the attribute ids.
        stage_loss_weight (`float`, defaults to 1.0): weight of the stages' cross entropy in the loss, at least 0. With
            0, the model has no stage head.
        attribute_loss_weight (`float`, defaults to 1.0): the same of the attributes.
        code_version (`int`): version of the code that saved the weights. That of older code is read, and becomes this
            code's.

    Raises:
        ValueError: if an argument is outside the values given above, names of stages or attributes are missing or
            repeated, or newer code saved the weights.
    """

    model_type = "wbc"
    # The Trainer's predictions are the logits alone, as an image classifier's `compute_metrics` expects. For distance
    # and novelty too, pass `ignore_keys` without them to `Trainer.predict`.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "distance",
        "novelty",
        "embeddings",
        "hidden_states",
        "cross_entropy",
        "center_loss",
        "stage_logits",
        "attribute_logits",
        "stage_loss",
        "attribute_loss",
    ]

    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    layer_type: str = "basic"
    norm_layout: str = "ibn"
    center_loss_weight: float = 0.001
    center_loss_margin: float = 1.0
    center_loss_alpha: float = 0.5
    mining: str = "batch"
    image_size: int = 224
    stain_size: int = 0
    temperature: float = 1.0
    max_novelty: float | None = None
    max_smear_novelty: float | None = None
    novelty_stages: list[int] | None = None
    min_focus: float | None = None
    max_shift: float = 0.12
    adaptation: dict | None = None
    stages: dict[str, list[str]] | None = None
    attributes: dict[str, list[str]] | None = None
    stage_loss_weight: float = 1.0
    attribute_loss_weight: float = 1.0
    code_version: int = CODE_VERSION

    def __post_init__(self, **kwargs):
        _check_code_version(self.code_version)
        self.code_version = CODE_VERSION
        if self.id2label is None and kwargs.get("num_labels") is None:
            self.id2label = {0: "eosinophil", 1: "lymphocyte", 2: "monocyte", 3: "neutrophil"}
        super().__post_init__(**kwargs)
        if self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}

        if self.layer_type != "basic":
            raise ValueError(
                f"layer_type must be 'basic', the two-convolution residual block of ResNet-34, got {self.layer_type!r}"
            )
        for name, allowed in (("norm_layout", NORM_LAYOUTS), ("mining", MINING)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        weights = ("center_loss_weight", "center_loss_margin", "stage_loss_weight", "attribute_loss_weight")
        for name in (*weights, "stain_size", "max_shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.center_loss_alpha <= 1:
            raise ValueError(f"center_loss_alpha must be in [0, 1], got {self.center_loss_alpha}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        for name in ("max_novelty", "max_smear_novelty", "min_focus"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be above 0 or None, got {value}")
        _check_novelty_stages(self.novelty_stages, len(self.depths))
        _check_names("stages", self.stages or {}, over_all=True)
        _check_names("attributes", self.attributes or {}, over_all=False)

    @property
    def active_stages(self) -> dict[str, list[str]]:
        """The `stages` that the model has a head for: none with a weight of 0."""
        return (self.stages or {}) if self.stage_loss_weight else {}

    @property
    def active_attributes(self) -> dict[str, list[str]]:
        """The `attributes` that the model has a head for: none with a weight of 0."""
        return (self.attributes or {}) if self.attribute_loss_weight else {}


def _check_novelty_stages(stages: list[int] | None, count: int) -> None:
    """Raise ValueError unless `stages` is None or a list of different stages of `count`."""
    if stages is None:
        return
    listed = [*stages] if isinstance(stages, list | tuple) else []
    if not listed or not {*listed} <= {*range(1, count + 1)} or len({*listed}) < len(listed):
        raise ValueError(f"novelty_stages must be None or a list of different stages from 1 to {count}, got {stages}")


def _check_code_version(version: int) -> None:
    """Raise ValueError if newer code than this one saved the weights."""
    if version > CODE_VERSION:
        raise ValueError(
            f"version {version} of the code saved these weights, this is version {CODE_VERSION}: load them with their "
            "own code (trust_remote_code=True, without code_revision), or update this code"
        )


def _check_names(what: str, lists: dict[str, list[str]], over_all: bool) -> None:
    """Raise ValueError unless `lists` holds lists of names, none twice in one or, with `over_all`, in all of them."""
    if not isinstance(lists, dict) or not all(isinstance(names, list | tuple) and names for names in lists.values()):
        raise ValueError(f"{what} must be a dict of lists of one name or more, got {lists!r}")
    together = list(itertools.chain(*lists.values())) if over_all else []
    for names in (*lists.values(), together):
        if len(set(names)) < len(names):
            raise ValueError(f"{what} must have different names, got {list(names)}")


WBCConfig.register_for_auto_class()

__all__ = ["WBCConfig"]
