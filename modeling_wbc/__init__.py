"""The IBN-ResNet34 white-blood-cell classifier: everything that travels with its weights."""

from .configuration_wbc import WBCConfig
from .field_wbc import Cell, Field
from .image_processing_wbc import WBCImageProcessor
from .loss_wbc import HardMinedCenterLoss
from .modeling_wbc import WBCForImageClassification, WBCModel
from .norm_wbc import InstanceBatchNorm2d, SyncInstanceBatchNorm2d
from .novelty_wbc import SmearNovelty
from .output_wbc import WBCImageClassifierOutput
from .pipeline_wbc import WBCImageClassificationPipeline
from .pretrained_wbc import WBCPreTrainedModel

__all__ = [
    "Cell",
    "Field",
    "HardMinedCenterLoss",
    "InstanceBatchNorm2d",
    "SmearNovelty",
    "SyncInstanceBatchNorm2d",
    "WBCConfig",
    "WBCForImageClassification",
    "WBCImageClassificationPipeline",
    "WBCImageClassifierOutput",
    "WBCImageProcessor",
    "WBCModel",
    "WBCPreTrainedModel",
]
