"""The arguments of `train.py`, beside those of transformers' Trainer."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from hub.files import UserError
from hub.training.augmentation import AUGMENTATIONS
from modeling_wbc.configuration_wbc import MINING, NORM_LAYOUTS

IMAGENET_WEIGHTS = "microsoft/resnet-34"
PAPER_BATCH_SIZE = 128


@dataclass
class DataArguments:
    """The data set, and how its images become the network's input."""

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "A folder written by `python -m hub dataset build`, a folder of images with one folder for each "
            "class, or the id of a dataset on the Hub. Default: drawn cells."
        },
    )
    dataset_config_name: str | None = field(
        default=None, metadata={"help": "The configuration of the dataset on the Hub."}
    )
    augment: str = field(
        default="paper",
        metadata={
            "choices": list(AUGMENTATIONS),
            "help": "Augmentation of the training images: 'paper' flips them and rotates them by any angle; 'strong' "
            "also varies stain and light.",
        },
    )
    find_cell: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Whether to crop each image around its cell, with random shift and zoom in training, instead of "
            "showing the whole field. Default: as the weights were trained; whole fields for new ones.",
        },
    )
    train_on: str | None = field(
        default=None,
        metadata={
            "help": "The data set, by its name in the column `lab`, to which training, validation and calibration "
            "are restricted; the test split keeps all, and so measures the transfer to the others. Default: all."
        },
    )
    balanced: bool = field(
        default=False,
        metadata={
            "help": "Whether to sample the training images evenly over labs, then classes, then photographs, as "
            "far as the dataset has these columns; an epoch draws as many as there are, with replacement."
        },
    )


@dataclass
class ModelArguments:
    """The weights to start from, and the settings of the paper's network."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": f"The weights to start from: a ResNet-34 of transformers, torchvision or timm by id or folder, an "
            f"output folder of this script, or 'none' for random ones. Default: {IMAGENET_WEIGHTS} (ImageNet) or "
            "timm's weights of the architecture, and 'none' for drawn cells."
        },
    )
    norm_layout: str | None = field(
        default=None,
        metadata={
            "choices": list(NORM_LAYOUTS),
            "help": "Norms of the residual blocks. Default: those of the weights, or 'ibn'.",
        },
    )
    center_loss_weight: float | None = field(
        default=None, metadata={"help": "lambda of equation 12. Default: that of the weights, or 0.001."}
    )
    center_loss_margin: float | None = field(
        default=None, metadata={"help": "m of equation 10. Default: that of the weights, or 1."}
    )
    mining: str | None = field(
        default=None,
        metadata={
            "choices": list(MINING),
            "help": "The pairs of the centre loss: the batch's hardest, or every class's; 'none' is the plain centre "
            "loss. Default: that of the weights, or 'batch'.",
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width in pixels of the network's input. Default: that of the weights, or 224, "
            "of Inception and Xception 299."
        },
    )
    calibrate: bool = field(
        default=False,
        metadata={
            "help": "Whether to fit temperature and OOD threshold of weights that are only evaluated, and to save the "
            "model with them in the output folder. Training always fits them if there is a validation split."
        },
    )
    channels_last: bool = field(
        default=True, metadata={"help": "Whether to hold images and feature maps in channels-last memory format."}
    )


@dataclass
class WBCTrainingArguments(TrainingArguments):
    """TrainingArguments with the paper's recipe as defaults.

    Raises:
        UserError: The paper's batch cannot be divided evenly among processes, devices and accumulation steps.
    """

    output_dir: str | None = field(default="outputs/wbc", metadata={"help": "The folder to write to."})
    per_device_train_batch_size: int | None = field(
        default=None,
        metadata={
            "help": f"Images a step on each device. Default: {PAPER_BATCH_SIZE} over all devices, processes and "
            "accumulation steps together."
        },
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Images a step in evaluation."})
    num_train_epochs: float = field(default=10, metadata={"help": "Passes over the training split."})
    optim: str = field(default="sgd", metadata={"help": "The optimiser, any that Trainer knows."})
    learning_rate: float = field(default=1e-3, metadata={"help": "The (peak) learning rate."})
    momentum: float = field(default=0.9, metadata={"help": "The momentum of SGD."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The schedule of the learning rate."})
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "The largest norm of the gradient, which is clipped to it; 0 clips nothing."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    report_to: str | None = field(
        default="tensorboard", metadata={"help": "The tracker to log to: 'tensorboard', 'none', ..."}
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: 'epoch', 'steps', ..."})
    save_total_limit: int | None = field(default=2, metadata={"help": "The number of checkpoints to keep."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": "last",
            "help": "Resume from the last checkpoint in the output folder, or from the one named.",
        },
    )

    def __post_init__(self):
        given = self.per_device_train_batch_size
        if given is None:
            self.per_device_train_batch_size = PAPER_BATCH_SIZE
        # TrainingArguments refuses bf16 without an accelerator unless the CPU is chosen explicitly.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        # CellImages makes the model's arguments out of the dataset's columns, so none may be removed before.
        self.remove_unused_columns = False
        # The Trainer would log the last finite loss in place of a NaN; here a NaN ends the run.
        self.logging_nan_inf_filter = False
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        if not (self.do_train or self.do_eval):
            self.do_train = self.do_eval = True
        if given is None:
            shares = self.world_size * max(1, self.n_gpu) * self.gradient_accumulation_steps
            if PAPER_BATCH_SIZE % shares:
                raise UserError(
                    f"the batch of {PAPER_BATCH_SIZE} does not divide into {shares} equal shares (processes x devices "
                    "x accumulation steps). Name --per_device_train_batch_size."
                )
            self.per_device_train_batch_size = PAPER_BATCH_SIZE // shares
