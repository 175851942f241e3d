"""Base class of the models: initialisation, and loading and saving together with the image processor."""

import os
import re
from contextlib import suppress
from copy import deepcopy

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import initialization as init
from transformers.image_utils import SizeDict
from transformers.models.resnet.modeling_resnet import ResNetPreTrainedModel
from transformers.utils import IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME, cached_file, logging

from .configuration_wbc import WBCConfig
from .group_norm_wbc import InstanceGroupNorm2d
from .image_processing_wbc import WBCImageProcessor
from .loss_wbc import HardMinedCenterLoss
from .novelty_wbc import SmearNovelty
from .pipeline_wbc import CUSTOM_PIPELINES
from .stain_wbc import StainNormalizer

logger = logging.get_logger(__name__)

# Arguments of `from_pretrained` that say where a file lies.
_DOWNLOAD_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class WBCPreTrainedModel(ResNetPreTrainedModel):
    """Base class: initialisation, loading and saving of a model and of the image processor that belongs to it."""

    config: WBCConfig
    config_class = WBCConfig
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"
    _image_processor: WBCImageProcessor | None = None

    @property
    def image_processor(self) -> WBCImageProcessor | None:
        """The image processor that came with the weights, or one that was assigned; None with neither.

        A classifier and its backbone share it. It is no part of the state dict.
        """
        return self.base_model._image_processor

    @image_processor.setter
    def image_processor(self, image_processor: WBCImageProcessor | None) -> None:
        self.base_model._image_processor = image_processor

    def image_processor_or_default(self) -> WBCImageProcessor:
        """The `image_processor`, or one for a model without: it takes the whole image, as Ma et al. 2020 do."""
        return self.image_processor or WBCImageProcessor(size=self.config.image_size, do_find_cell=False)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.InstanceNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, InstanceGroupNorm2d):
            for ones, zeros in ((module.weight, module.bias), (module.running_var, module.running_mean)):
                init.ones_(ones)
                init.zeros_(zeros)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, HardMinedCenterLoss):
            init.zeros_(module.centers)
            init.zeros_(module.active_fraction)
        elif isinstance(module, SmearNovelty):
            for buffer in module.buffers():
                init.zeros_(buffer)
        elif isinstance(module, StainNormalizer):
            module.reset_parameters()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info: bool = False, **kwargs):
        """Load a model from safetensors, and its image processor; a pickle, which can run code, is refused.

        Arguments and result are those of [`transformers.PreTrainedModel.from_pretrained`], which only warns of missing
        weights and initialises them at random. Missing weights of the ResNet are an error here.

        The image processor is read now, from where the weights are, into `image_processor`, and never again. If
        `image_size` differs from that of the saved configuration, it resizes to the new one. Weights without an image
        processor load too, with `image_processor` None.

        A classifier of another number of classes (`num_labels=3, ignore_mismatched_sizes=True`) is a new one, to which
        nothing is fitted: `config.temperature` is 1, `config.max_novelty` and `config.max_smear_novelty` are None,
        unless given as arguments, and the class centres are 0. The statistics of [`SmearNovelty`] are loaded, since
        they describe the images that the backbone was trained on. Other names for the same number of classes
        (`id2label`) rename those of the saved classifier, and its fitted values stay.

        Raises:
            OSError: if the weights are missing, damaged or of another architecture, or the image processor is damaged;
                the message names their file.
        """
        weights = f"{SAFE_WEIGHTS_NAME} of {pretrained_model_name_or_path}"
        kwargs["use_safetensors"] = True
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise OSError(f"{weights} is damaged: {error}. Download or export it again") from error
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise OSError(f"{weights} holds a network of another architecture: shapes differ, see above") from error
        except OSError as error:
            if SAFE_WEIGHTS_NAME not in str(error):
                raise
            raise OSError(
                f"{pretrained_model_name_or_path} has no {SAFE_WEIGHTS_NAME}, and weights of another format are not "
                "loaded: a pickle could run code"
            ) from error
        differing = sorted(
            name
            for name in (*info["missing_keys"], *info["unexpected_keys"])
            # Weights of another layout have no values for the norms that "ibn-b" and "ibn-in" add.
            if re.match(r"(resnet\.)?(embedder|encoder)\.", name) and ".activation.normalization." not in name
        )
        if differing:
            raise OSError(
                f"{weights} holds a network of another architecture than the configuration describes: "
                f"{len(differing)} weights are missing or too many, such as {differing[0]}"
            )
        if pretrained_model_name_or_path is not None:
            source = model.config.name_or_path  # of an adapter, the model that it adapts
            where = {name: kwargs[name] for name in _DOWNLOAD_ARGUMENTS if name in kwargs}
            saved = {}
            with suppress(OSError):  # a configuration that was given as `config` need not lie with the weights
                saved, _ = cls.config_class.get_config_dict(source, **where)
            model._reset_fitted_values(saved, info)
            model.image_processor = _read_image_processor(source, saved, model.config, where)
        return (model, info) if output_loading_info else model

    def _reset_fitted_values(self, saved: dict, info: dict) -> None:
        """Reset values that were fitted to a part of the saved model that was not loaded; a backbone has none.

        Args:
            saved: the saved configuration. Values that differ from it were given as arguments and stay.
            info: keys that are missing or of another shape, as `from_pretrained` reports them.
        """

    def save_pretrained(self, save_directory, is_main_process: bool = True, push_to_hub: bool = False, **kwargs):
        """Save weights, configuration, image processor and code.

        The auto classes of transformers load the folder with `trust_remote_code=True`. The model's `image_processor`
        replaces one that is in the folder: save another one after the model, as the Trainer does, or assign it to
        `image_processor`. A model without one (made of a configuration alone) leaves that of the folder as it is, and
        writes one into a folder without, which resizes whole images to `config.image_size`. Arguments are those of
        [`transformers.PreTrainedModel.save_pretrained`].
        """
        # Transformers adds only the class that is saved.
        self.config.auto_map = {
            "AutoConfig": "configuration_wbc.WBCConfig",
            "AutoModel": "modeling_wbc.WBCModel",
            "AutoModelForImageClassification": "modeling_wbc.WBCForImageClassification",
        }
        self.config.custom_pipelines = deepcopy(CUSTOM_PIPELINES)
        if push_to_hub:
            # Calls this method with a temporary folder and uploads that, with the processor, in one commit.
            repo_id = kwargs.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            self.push_to_hub(repo_id, **kwargs)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        path = os.path.join(save_directory, IMAGE_PROCESSOR_NAME)
        if is_main_process and (self.image_processor is not None or not os.path.isfile(path)):
            self.image_processor_or_default().save_pretrained(save_directory)


def _read_image_processor(source: str, saved: dict, config: WBCConfig, where: dict) -> WBCImageProcessor | None:
    """Read the image processor that lies with weights.

    Args:
        source: folder or id of the weights.
        saved: the configuration that lies there.
        config: the configuration of the loaded model.
        where: arguments of `from_pretrained` that say where files lie.

    Returns:
        The image processor; None if there is none, or if it is neither cached nor to be reached.

    Raises:
        OSError: if the file is damaged.
    """
    file = cached_file(
        source,
        IMAGE_PROCESSOR_NAME,
        **where,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        if saved.get("model_type") == WBCConfig.model_type:
            logger.warning(
                f"{source} has no {IMAGE_PROCESSOR_NAME} that can be reached: `analyze` and `save_pretrained` assume "
                "that the model was trained on whole images. If it was not, assign `model.image_processor`"
            )
        return None
    image_processor = WBCImageProcessor.from_pretrained(file)
    # Processors of other models may resize the shorter edge only; a batch of cells needs one size.
    if "height" not in image_processor.size or saved.get("image_size", config.image_size) != config.image_size:
        image_processor.size = SizeDict(height=config.image_size, width=config.image_size)
    return image_processor


__all__ = ["WBCPreTrainedModel"]
