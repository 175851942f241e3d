"""The arguments of `train.py`, beside those of transformers' Trainer."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from hub.files import UserError
from hub.study.baselines import BASELINES
from hub.training.augmentation import AUGMENTATIONS
from modeling_wbc.configuration_wbc import MINING, NORM_LAYOUTS

PAPERS = "ibn-resnet34"
IMAGENET_WEIGHTS = "microsoft/resnet-34"
PAPER_BATCH_SIZE = 128


@dataclass
class DataArguments:
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
            "help": "What happens to training images: 'paper' flips and rotates them, any angle; 'strong' also varies "
            "stain and light.",
        },
    )
    find_cell: bool | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Whether to show the network a window around each image's cell, in training with varied place and "
            "size, and not the whole field. Default: as the weights were trained, or not.",
        },
    )
    train_on: str | None = field(
        default=None,
        metadata={
            "help": "The only data set to train, validate and calibrate on, of those that the column `dataset` names: "
            "what travels to the others shows in the test split. Default: all."
        },
    )
    balanced: bool = field(
        default=False,
        metadata={
            "help": "Whether to draw the training images evenly over datasets, then classes, then photographs, as far "
            "as the dataset has these columns; an epoch draws as many as there are, with replacement."
        },
    )


@dataclass
class ModelArguments:
    architecture: str | None = field(
        default=None,
        metadata={
            "choices": [PAPERS, *BASELINES],
            "help": f"The network: the paper's, or one that it is compared with, trained with cross entropy alone; "
            f"these need timm. Default: that of the weights, or '{PAPERS}'.",
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": f"Where the weights start: a ResNet-34 by id or folder, an output folder of this script, or "
            f"'none' for random ones. Default: {IMAGENET_WEIGHTS} (ImageNet) or what timm has for the architecture, "
            "and 'none' for drawn cells."
        },
    )
    norm_layout: str | None = field(
        default=None, metadata={"choices": list(NORM_LAYOUTS), "help": "Default: that of the weights, or 'ibn'."}
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
            "help": "Height and width in pixels that fields are squeezed to. Default: the weights', or 224, "
            "of Inception and Xception 299."
        },
    )
    calibrate: bool = field(
        default=False,
        metadata={
            "help": "Whether to fit temperature and limit of novelty of weights that are only evaluated, and to save "
            "them so in the output folder. After training this is done wherever there is a validation split."
        },
    )
    channels_last: bool = field(
        default=True, metadata={"help": "Whether to hold images and feature maps in channels-last memory format."}
    )


@dataclass
class WBCTrainingArguments(TrainingArguments):
    """TrainingArguments with the paper's recipe as defaults."""

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
    lr_scheduler_type: str = field(default="constant", metadata={"help": "How the learning rate moves."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Where to clip the gradient's norm; 0 does not."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    report_to: str | None = field(default="tensorboard", metadata={"help": "Where to log: 'tensorboard', 'none', ..."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": "last",
            "help": "Go on from the last checkpoint in the output folder, or from the one named.",
        },
    )

    def __post_init__(self):
        given = self.per_device_train_batch_size
        if given is None:
            self.per_device_train_batch_size = PAPER_BATCH_SIZE
        # Without an accelerator there is no choice, and TrainingArguments refuses bf16 unless it is made.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        # The columns of the dataset are not the arguments of the model: CellImages makes these.
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
