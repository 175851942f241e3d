"""IBN-ResNet34 for white blood cells: transformers' ResNet with IBN norms and the loss of Ma et al. 2020."""

import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.image_utils import ImageInput
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention
from transformers.models.resnet.modeling_resnet import ResNetModel
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple

from .adapt_wbc import adapt_model
from .configuration_wbc import WBCConfig
from .field_wbc import Field, analyze_images
from .group_norm_wbc import InstanceGroupNorm2d
from .heads_wbc import HeadLosses, LabelLoss, split_attributes
from .image_processing_wbc import WBCImageProcessor
from .loss_wbc import HardMinedCenterLoss, check_labels
from .norm_wbc import InstanceBatchNorm2d
from .novelty_wbc import SmearNovelty
from .output_wbc import WBCImageClassifierOutput
from .pretrained_wbc import WBCPreTrainedModel
from .stain_wbc import StainNormalizer

logger = logging.get_logger(__name__)


class WBCModel(WBCPreTrainedModel, ResNetModel):
    """A ResNet-34 with the norms of [`WBCConfig.norm_layout`].

    Parameters, buffers and state dict are those of [`transformers.ResNetModel`], so that
    `WBCModel.from_pretrained("microsoft/resnet-34")` starts from ImageNet weights; `"ibn-b"` and `"ibn-in"` add their
    instance norms as `activation.normalization`, and `config.stain_size` a [`StainNormalizer`] as `stain`.
    """

    # Head weights, ignored when loading the backbone.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^(classifier|center_loss|novelty|\w+_head)\."]

    def __init__(self, config: WBCConfig):
        super().__init__(config)
        self.stain = StainNormalizer(config.stain_size) if config.stain_size else None
        layout, num_stages = config.norm_layout, len(self.encoder.stages)
        for index, stage in enumerate(self.encoder.stages):
            if layout in ("ibn", "ibn-in", "ign") or (layout == "ibn-a" and index < num_stages - 1):
                norm = InstanceGroupNorm2d if layout == "ign" else InstanceBatchNorm2d
                for block in stage.layers:
                    first = block.layer[0]
                    first.normalization = norm(first.normalization.num_features)
            if (layout == "ibn-b" and index < 2) or (layout == "ibn-in" and index >= num_stages - 2):
                for block in stage.layers:
                    norm = nn.InstanceNorm2d(config.hidden_sizes[index], affine=True)
                    block.activation = nn.Sequential(OrderedDict(normalization=norm, activation=block.activation))
            for block in stage.layers:
                # With random weights, every residual branch starts at zero (Goyal et al. 2017, section 5.1): otherwise
                # the loss diverges in the first steps at the learning rate that suits the later ones.
                init.zeros_(block.layer[-1].normalization.weight)

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Compute feature maps and pooled features of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, C, H, W)`): normalised images, C being `config.num_channels`.
            output_hidden_states (`bool`, *optional*): whether to return the feature maps before and after every stage.

        Returns:
            `last_hidden_state` (N, 512, H / 32, W / 32), `pooler_output` (N, 512, 1, 1) and, on request,
            `hidden_states`, a tuple of five feature maps.

        Raises:
            ValueError: if `pixel_values` has another shape.
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values must have shape (N, {self.config.num_channels}, H, W), got {tuple(pixel_values.shape)}"
            )
        if self.stain is not None:
            pixel_values = self.stain(pixel_values)
        return super().forward(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)


class WBCForImageClassification(WBCPreTrainedModel):
    """[`WBCModel`] with a linear classifier, trained by cross entropy and the hard-mined centre loss.

    With `config.stages` and `config.attributes`, further linear heads tell a cell's stage of maturation and its
    attributes from the same embedding.

    The state dict is that of [`transformers.ResNetForImageClassification`] plus the class centres,
    `center_loss.centers` (K, 512), the OOD statistics, `novelty.mean` (D,) and `novelty.whitening` (D, D), with
    `config.novelty_stages` also `novelty.direction` (D,) and `novelty.offset` (), see [`SmearNovelty`], and `weight`
    and `bias` of `stage_head` and `attribute_head`, whose rows are in the order of the configuration.
    """

    # A model without the heads may be loaded from weights that have them.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^\w+_head\."]

    def __init__(self, config: WBCConfig):
        super().__init__(config)
        self.resnet = WBCModel(config)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(config.hidden_sizes[-1], config.num_labels))
        self.center_loss = HardMinedCenterLoss(
            config.num_labels,
            config.hidden_sizes[-1],
            margin=config.center_loss_margin,
            alpha=config.center_loss_alpha,
            mining=config.mining,
        )
        self.novelty = SmearNovelty.of(config)
        stages, attributes = (
            sum(map(len, names.values())) for names in (config.active_stages, config.active_attributes)
        )
        self.stage_head = nn.Linear(config.hidden_sizes[-1], stages) if stages else None
        self.attribute_head = nn.Linear(config.hidden_sizes[-1], attributes) if attributes else None
        self.head_losses = HeadLosses(config)
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, LabelLoss):
            init.copy_(module.columns, module.make_columns())

    def _reset_fitted_values(self, saved: dict, info: dict) -> None:
        new = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
        has_new_head = any(name.startswith("classifier.") for name in new)
        if has_new_head and self.config.temperature == saved.get("temperature"):
            self.config.temperature = 1.0
        for name in ("max_novelty", "max_smear_novelty"):
            if (has_new_head or "novelty.whitening" in new) and getattr(self.config, name) == saved.get(name):
                setattr(self.config, name, None)
        if has_new_head:
            self.center_loss.centers.zero_()
        for head, what in (("stage_head", "stages"), ("attribute_head", "attributes")):
            if any(name.startswith(f"{head}.") for name in new):
                logger.warning(f"the weights have none for these {what}: {head} starts at random, so train it")

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        stage_ids: Tensor | None = None,
        attribute_ids: Tensor | None = None,
    ) -> WBCImageClassifierOutput:
        """Classify images of white blood cells.

        The names of the last two arguments lack the word "label": transformers' `Trainer` takes every argument that
        has it for a label that each batch must hold, and gives no loss and no metric for one without.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, C, H, W)`): normalised images, C being `config.num_channels`.
            labels (`torch.LongTensor` of shape `(N,)`, *optional*): class indices in [0, K), for the loss. In training
                mode, they also move the class centres.
            output_hidden_states (`bool`, *optional*): whether to return the feature maps before and after every stage.
            stage_ids (`torch.LongTensor` of shape `(N,)`, *optional*): positions of the stages in the lists of
                `config.stages` one after the other, -100 where the stage is unknown, for the loss.
            attribute_ids (`torch.LongTensor` of shape `(N, A)`, *optional*): positions of the values of the A
                attributes in the lists of `config.attributes`, -100 where one is unknown, for the loss.

        Returns:
            A [`WBCImageClassifierOutput`].

        Raises:
            ValueError: if a shape differs from the above, a label or id is out of range, or ids are given for a head
                that the model does not have.
        """
        if labels is not None:
            check_labels(labels, pixel_values.shape[0], self.config.num_labels)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = self.resnet(pixel_values, output_hidden_states=output_hidden_states or not self.training)
        embeddings = outputs.pooler_output.flatten(1)
        logits = self.classifier(embeddings) / self.config.temperature
        with torch.no_grad():
            # Elementwise: matrix products are inexact in float16 and under autocast.
            offsets = embeddings[:, None].float() - self.center_loss.centers.float()
            distance = offsets.square().sum(-1).amin(1).sqrt()
            stages = self.config.novelty_stages or (1,)
            novelty = None if self.training else self.novelty(*(outputs.hidden_states[stage] for stage in stages))
        stage_logits, attribute_logits = self._head_logits(embeddings)

        loss, losses = None, {}
        if labels is not None:
            losses["cross_entropy"] = F.cross_entropy(logits.float(), labels)
            losses["center_loss"] = self.center_loss(embeddings, labels)
        if any(ids is not None for ids in (labels, stage_ids, attribute_ids)):
            losses |= self.head_losses(stage_logits, attribute_logits, stage_ids, attribute_ids)
            loss = self.total_loss(losses)
        return WBCImageClassifierOutput(
            loss=loss,
            logits=logits,
            distance=distance,
            novelty=novelty,
            stage_logits=stage_logits,
            attribute_logits=attribute_logits,
            embeddings=embeddings,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            **losses,
        )

    def _head_logits(self, embeddings: Tensor) -> tuple[Tensor | None, dict[str, Tensor] | None]:
        """Logits (N, S) of the stages and, by name, (N, V) of each attribute; None without the head."""
        stage_logits = None if self.stage_head is None else self.stage_head(embeddings)
        if self.attribute_head is None:
            return stage_logits, None
        return stage_logits, split_attributes(self.attribute_head(embeddings), self.config.active_attributes)

    def total_loss(self, losses: dict[str, Tensor]) -> Tensor:
        """Sum of the parts of the loss by their names in the output, times their weights in the configuration."""
        return sum(getattr(self.config, f"{name}_weight", 1) * loss for name, loss in losses.items())

    def class_activation_maps(self, pixel_values: Tensor) -> Tensor:
        r"""Exact contributions of each part of an image to each logit (Zhou et al. 2016).

        The classifier is linear and the embedding is the mean of the last feature map f over its positions (y, x), so

        $$\mathrm{logit}_k = \frac{1}{hw} \sum_{y,x} \mathrm{map}_k(y, x), \qquad
        \mathrm{map}_k(y, x) = \frac{w_k \cdot f(y, x) + b_k}{T}$$

        with the classifier's weights w and bias b and the temperature T.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, C, H, W)`): normalised images.

        Returns:
            `torch.Tensor` of shape `(N, K, h, w)`, h and w being a 32nd of H and W, rounded up.
        """
        return self.position_logits(self.resnet(pixel_values).last_hidden_state)

    def position_logits(self, feature_map: Tensor) -> Tensor:
        """Logits (N, K, h, w) of each position of the last feature map (N, 512, h, w): class activation maps."""
        size, _, height, width = feature_map.shape
        # The classifier is called as it is: an adapter or a quantised module may stand for it.
        logits = self.classifier(feature_map.permute(0, 2, 3, 1).flatten(0, 2))
        return logits.view(size, height, width, -1).permute(0, 3, 1, 2) / self.config.temperature

    def analyze(
        self,
        images: ImageInput | str | os.PathLike | Iterable,
        image_processor: WBCImageProcessor | None = None,
        batch_size: int = 32,
    ) -> Field | list[Field]:
        """Find the white cells of images and classify each; cells beyond the OOD threshold are marked as unknown.

        ```python
        field = model.analyze("smear.jpg")
        field.differential  # {"eosinophil": 0.5, ...}
        field.draw(PIL.Image.open("smear.jpg")).save("analysed.png")
        ```

        Args:
            images (path, URL, open file, PIL image, array or tensor, or a list or another iterable of them): the
                images, read one at a time, see [`WBCImageProcessor.fetch_images`]. An array or tensor is always one
                image, (H, W, 3) or (3, H, W).
            image_processor ([`WBCImageProcessor`], *optional*): the processor that finds the cells. Default: the
                model's `image_processor`; a model without one takes whole images. Without `do_find_cell`, the whole
                image is one cell.
            batch_size (`int`, defaults to 32): number of cells that the network classifies at once.

        Returns:
            A [`Field`] for one image, a list of them for several. The field of an image without cells is empty.

        Raises:
            ValueError: if an image cannot be read; the message names the file.
        """
        return analyze_images(self, images, image_processor or self.image_processor_or_default(), batch_size)

    def adapt(
        self,
        images: ImageInput | str | os.PathLike | Iterable,
        labels: Iterable | None = None,
        image_processor: WBCImageProcessor | None = None,
        move_norms: bool | None = None,
    ) -> "WBCForImageClassification":
        """Adapt a copy to a lab by images of its own; this model stays as it is. See [`adapt_model`].

        Args:
            images: images of the lab as in [`~WBCForImageClassification.analyze`], or `pixel_values` (N, C, H, W).
            labels: the type of the foremost cell of each image: its name, its class id, or None where it is not known.
            image_processor: as in `analyze`.
            move_norms: whether the norms' statistics move. Default: where their shift is above `config.max_shift`.

        Returns:
            The copy, with what has moved in `config.adaptation`.

        Raises:
            ValueError: if there is no cell, an image or a label cannot be read, or this model is an adapted copy.
        """
        return adapt_model(self, images, labels, image_processor or self.image_processor_or_default(), move_norms)


WBCModel.register_for_auto_class("AutoModel")
WBCForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["WBCForImageClassification", "WBCModel"]
