"""The IBN-ResNet34 white-blood-cell classifier: everything that travels with its weights."""

from .configuration_wbc import WBCConfig
from .loss_wbc import HardMinedCenterLoss
from .modeling_wbc import (
    InstanceBatchNorm2d,
    WBCForImageClassification,
    WBCImageClassifierOutput,
    WBCModel,
    WBCPreTrainedModel,
    convert_resnet_state_dict,
    whole_field_processor,
)

__all__ = [
    "HardMinedCenterLoss",
    "InstanceBatchNorm2d",
    "WBCConfig",
    "WBCForImageClassification",
    "WBCImageClassifierOutput",
    "WBCModel",
    "WBCPreTrainedModel",
    "convert_resnet_state_dict",
    "whole_field_processor",
]
