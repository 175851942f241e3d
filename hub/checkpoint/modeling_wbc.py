"""IBN-ResNet34 for white blood cells: transformers' ResNet with another norm, and the loss of Ma et al. 2020."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.image_utils import ImageInput
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention
from transformers.models.resnet.modeling_resnet import ResNetModel, ResNetPreTrainedModel
from transformers.utils import IMAGE_PROCESSOR_NAME, SAFE_WEIGHTS_NAME, ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_wbc import WBCConfig
from .field_wbc import Cell, Field
from .image_processing_wbc import WBCImageProcessor
from .loss_wbc import HardMinedCenterLoss, check_labels
from .norm_wbc import InstanceBatchNorm2d
from .novelty_wbc import SmearNovelty


class WBCPreTrainedModel(ResNetPreTrainedModel):
    """Initialisation, loading and saving of the models below."""

    config: WBCConfig
    config_class = WBCConfig
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.InstanceNorm2d):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, HardMinedCenterLoss):
            init.zeros_(module.centers)
            init.zeros_(module.active_fraction)
        elif isinstance(module, SmearNovelty):
            init.zeros_(module.mean)
            init.zeros_(module.whitening)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, output_loading_info: bool = False, **kwargs):
        """Loads a model whose weights are safetensors; a pickle, which can run code, is refused.

        Arguments and result are those of [`transformers.PreTrainedModel.from_pretrained`], which warns of weights that
        it does not find and starts them at random. Here that is an error for those of the ResNet.

        Raises:
            OSError: if the weights are missing, damaged or of another architecture; the message names their file.
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
            # The norms that "ibn-b" and "ibn-in" add start anew from weights of another layout.
            if re.match(r"(resnet\.)?(embedder|encoder)\.", name) and ".activation.normalization." not in name
        )
        if differing:
            raise OSError(
                f"{weights} holds a network of another architecture than the configuration describes: "
                f"{len(differing)} weights are missing or too many, such as {differing[0]}"
            )
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, is_main_process: bool = True, push_to_hub: bool = False, **kwargs):
        """Saves weights, configuration, image processor and code: a folder that any auto class of transformers loads
        with `trust_remote_code=True`.

        An image processor that the folder already holds stays; otherwise one is written that squeezes the whole field
        to `config.image_size` and normalises it as ImageNet is. Arguments are those of
        [`transformers.PreTrainedModel.save_pretrained`].
        """
        # All three, whichever class is saved: transformers itself adds the class at hand only.
        self.config.auto_map = {
            "AutoConfig": "configuration_wbc.WBCConfig",
            "AutoModel": "modeling_wbc.WBCModel",
            "AutoModelForImageClassification": "modeling_wbc.WBCForImageClassification",
        }
        if push_to_hub:
            # Saves to a fresh folder through this very method and uploads it, the processor too, in one commit.
            repo_id = kwargs.pop("repo_id", os.path.basename(os.path.abspath(save_directory)))
            self.push_to_hub(repo_id, **kwargs)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process and not os.path.isfile(os.path.join(save_directory, IMAGE_PROCESSOR_NAME)):
            WBCImageProcessor(size=self.config.image_size, do_find_cell=False).save_pretrained(save_directory)


class WBCModel(WBCPreTrainedModel, ResNetModel):
    """A ResNet-34 whose norms stand as [`WBCConfig.norm_layout`] says.

    Parameters, buffers and state dict are those of [`transformers.ResNetModel`], so that
    `WBCModel.from_pretrained("microsoft/resnet-34")` starts from ImageNet; `"ibn-b"` and `"ibn-in"` add their instance
    norms under `activation.normalization`. For other publishers' weights see [`convert_resnet_state_dict`].
    """

    # Of a classifier's weights, what it is without.
    _keys_to_ignore_on_load_unexpected = [r"^(classifier|center_loss|novelty)\."]

    def __init__(self, config: WBCConfig):
        super().__init__(config)
        layout, num_stages = config.norm_layout, len(self.encoder.stages)
        for index, stage in enumerate(self.encoder.stages):
            if layout in ("ibn", "ibn-in") or (layout == "ibn-a" and index < num_stages - 1):
                for block in stage.layers:
                    first = block.layer[0]
                    first.normalization = InstanceBatchNorm2d(first.normalization.num_features)
            if (layout == "ibn-b" and index < 2) or (layout == "ibn-in" and index >= num_stages - 2):
                for block in stage.layers:
                    norm = nn.InstanceNorm2d(config.hidden_sizes[index], affine=True)
                    block.activation = nn.Sequential(OrderedDict(normalization=norm, activation=block.activation))
            for block in stage.layers:
                # Random weights start with every residual branch switched off (Goyal et al. 2017, section 5.1):
                # switched on, the first steps at a learning rate that suits the later ones make the loss leap.
                init.zeros_(block.layer[-1].normalization.weight)

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """Features of images.

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
        return super().forward(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)


@dataclass
class WBCImageClassifierOutput(ModelOutput):
    """What [`WBCForImageClassification`] returns.

    Args:
        loss (`torch.Tensor` of shape `()`, with labels only): equation 12, `cross_entropy` + lambda `center_loss`.
        logits (`torch.Tensor` of shape `(N, K)`): scores of the K classes before the softmax, already divided by
            `config.temperature`.
        distance (`torch.Tensor` of shape `(N,)`): how far the embedding lies from the nearest class centre, at least
            0: the Euclidean distance, in float32.
        novelty (`torch.Tensor` of shape `(N,)`, in eval mode only): how little the image looks like a smear, see
            [`SmearNovelty`], of the first stage's feature map. Beyond `config.max_novelty` it shows none of the
            classes.
        embeddings (`torch.Tensor` of shape `(N, 512)`): the pooled features that the classifier and the centres see.
        hidden_states (tuple of five `torch.Tensor` of shape `(N, C, H, W)`, on request): the feature maps before and
            after every stage.
        cross_entropy (`torch.Tensor` of shape `()`, with labels only): equation 7.
        center_loss (`torch.Tensor` of shape `()`, with labels only): L_f, equation 10.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    distance: Tensor | None = None
    novelty: Tensor | None = None
    embeddings: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    cross_entropy: Tensor | None = None
    center_loss: Tensor | None = None


class WBCForImageClassification(WBCPreTrainedModel):
    """[`WBCModel`] with a linear classifier, trained by cross entropy and the hard-mined centre loss.

    The state dict is that of [`transformers.ResNetForImageClassification`], the class centres, `center_loss.centers`
    (K, 512), and what tells smears from other images, `novelty.mean` (128,) and `novelty.whitening` (128, 128).
    """

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
        self.novelty = SmearNovelty(config.hidden_sizes[0])
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, output_hidden_states: bool | None = None
    ) -> WBCImageClassifierOutput:
        """Classifies images of white blood cells.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, C, H, W)`): normalised images, C being `config.num_channels`.
            labels (`torch.LongTensor` of shape `(N,)`, *optional*): class indices in [0, K); with them the loss is
                computed and, in training mode, the class centres move.
            output_hidden_states (`bool`, *optional*): whether to return the feature maps before and after every stage.

        Returns:
            A [`WBCImageClassifierOutput`].

        Raises:
            ValueError: if a shape differs from the above or a label is out of range.
        """
        if labels is not None:
            check_labels(labels, pixel_values.shape[0], self.config.num_labels)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        outputs = self.resnet(pixel_values, output_hidden_states=output_hidden_states or not self.training)
        embeddings = outputs.pooler_output.flatten(1)
        logits = self.classifier(embeddings) / self.config.temperature
        with torch.no_grad():
            # Element by element: matrix products are coarse in float16 and under autocast.
            offsets = embeddings[:, None].float() - self.center_loss.centers.float()
            distance = offsets.square().sum(-1).amin(1).sqrt()
            novelty = None if self.training else self.novelty(outputs.hidden_states[1])

        loss = cross_entropy = center_loss = None
        if labels is not None:
            cross_entropy = F.cross_entropy(logits.float(), labels)
            center_loss = self.center_loss(embeddings, labels)
            loss = cross_entropy + self.config.center_loss_weight * center_loss
        return WBCImageClassifierOutput(
            loss=loss,
            logits=logits,
            distance=distance,
            novelty=novelty,
            embeddings=embeddings,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            cross_entropy=cross_entropy,
            center_loss=center_loss,
        )

    def class_activation_maps(self, pixel_values: Tensor) -> Tensor:
        r"""How much each part of an image adds to each logit (Zhou et al. 2016), exactly.

        The classifier is linear and the embedding the mean of the last feature map f over its places (y, x), so that

        $$\mathrm{logit}_k = \frac{1}{hw} \sum_{y,x} \mathrm{map}_k(y, x), \qquad
        \mathrm{map}_k(y, x) = \frac{w_k \cdot f(y, x) + b_k}{T}$$

        with the classifier's weights w and bias b and the temperature T.

        Args:
            pixel_values (`torch.Tensor` of shape `(N, C, H, W)`): normalised images.

        Returns:
            `torch.Tensor` of shape `(N, K, h, w)`, h and w being a 32nd of H and W, rounded up.
        """
        return self._activation_maps(self.resnet(pixel_values).last_hidden_state)

    def _activation_maps(self, feature_map: Tensor) -> Tensor:
        """[`~WBCForImageClassification.class_activation_maps`] of the last feature map (N, 512, h, w)."""
        linear = self.classifier[-1]
        return F.conv2d(feature_map, linear.weight[:, :, None, None], linear.bias) / self.config.temperature

    @torch.no_grad()
    def analyze(
        self,
        images: ImageInput | str | os.PathLike | Iterable,
        image_processor: WBCImageProcessor | None = None,
        batch_size: int = 32,
    ) -> Field | list[Field]:
        """Finds the white cells of images and classifies each, or says that it is nothing the model knows.

        ```python
        field = model.analyze("smear.jpg")
        field.differential  # {"eosinophil": 0.5, ...}
        field.draw(PIL.Image.open("smear.jpg")).save("analysed.png")
        ```

        Args:
            images (path, URL, open file, PIL image, array or tensor, or a list or another iterable of them): the
                images, taken and read one at a time, see [`WBCImageProcessor.fetch_images`]. Arrays and tensors are
                (H, W, 3) or (3, H, W), and one image, whatever their shape.
            image_processor ([`WBCImageProcessor`], *optional*): what finds the cells. Default: the one that lies with
                the weights, or for weights from nowhere a new one. Without `do_find_cell`, an image is one cell.
            batch_size (`int`, defaults to 32): how many cells the network looks at in one go.

        Returns:
            A [`Field`] for one image, a list of them for several. An image in which no cell is found has none.

        Raises:
            ValueError: if an image cannot be read; the message names the file.
        """
        if image_processor is None:
            image_processor = self._image_processor
        one = isinstance(images, (str, np.ndarray, Tensor)) or hasattr(images, "read")
        several = isinstance(images, Iterable) and not one
        names = tuple(self.config.id2label[index] for index in range(self.config.num_labels))
        fields, waiting = [], []  # of `waiting` cells: the field, box, window, score and pixel values

        def classify():
            pixel_values = torch.stack([pixels for *_, pixels in waiting]).to(self.device, self.dtype)
            outputs = self(pixel_values, output_hidden_states=True)
            likeliest = outputs.logits.argmax(-1)
            maps = self._activation_maps(outputs.hidden_states[-1])[torch.arange(len(waiting)), likeliest]
            probabilities = outputs.logits.float().softmax(-1)
            columns = (probabilities, likeliest, outputs.distance, outputs.novelty, maps.float())
            for (field, box, window, score, _), row, index, distance, novelty, activation_map in zip(
                waiting, *(column.tolist() for column in columns), strict=True
            ):
                shares = dict(zip(names, row, strict=True))
                known = self.config.max_novelty is None or novelty <= self.config.max_novelty
                cell = Cell(
                    tuple(box), tuple(window), score, names[index], shares, distance, novelty, known, activation_map
                )
                field.cells.append(cell)
            waiting.clear()

        training = self.training
        self.eval()
        try:
            for image in images if several else [images]:
                cells = image_processor.preprocess_cells(image_processor.fetch_images(image))
                del image  # while the cells of some small images wait, the next may be a large one
                fields.append(Field([], names))
                for box, window, score, pixels in zip(
                    cells["boxes"].tolist(),
                    cells["windows"].tolist(),
                    cells["scores"].tolist(),
                    cells["pixel_values"],
                    strict=True,
                ):
                    waiting.append((fields[-1], box, window, score, pixels))
                    if len(waiting) == batch_size:
                        classify()
            if waiting:
                classify()
        finally:
            self.train(training)
        return fields if several else fields[0]

    @cached_property
    def _image_processor(self) -> WBCImageProcessor:
        """The image processor that lies with the weights, read once; for weights from nowhere, a new one."""
        source = self.config.name_or_path
        if not source:
            return WBCImageProcessor(size=self.config.image_size)
        return WBCImageProcessor.from_pretrained(source, revision=getattr(self.config, "_commit_hash", None) or "main")


WBCModel.register_for_auto_class("AutoModel")


WBCForImageClassification.register_for_auto_class("AutoModelForImageClassification")


__all__ = ["WBCForImageClassification", "WBCModel", "WBCPreTrainedModel"]
