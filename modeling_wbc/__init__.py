"""The IBN-ResNet34 white-blood-cell classifier: everything that travels with its weights."""

from .configuration_wbc import WBCConfig
from .field_wbc import Cell, Field
from .image_processing_wbc import WBCImageProcessor
from .loss_wbc import HardMinedCenterLoss
from .modeling_wbc import (
    InstanceBatchNorm2d,
    WBCForImageClassification,
    WBCImageClassifierOutput,
    WBCModel,
    WBCPreTrainedModel,
    convert_resnet_state_dict,
)
from .novelty_wbc import SmearNovelty

__all__ = [
    "Cell",
    "Field",
    "HardMinedCenterLoss",
    "InstanceBatchNorm2d",
    "SmearNovelty",
    "WBCConfig",
    "WBCForImageClassification",
    "WBCImageClassifierOutput",
    "WBCImageProcessor",
    "WBCModel",
    "WBCPreTrainedModel",
    "convert_resnet_state_dict",
]
