"""The arguments of `train.py`, beside those of transformers' Trainer."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_available
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hub.files import UserError
from hub.training.augmentation import AUGMENTATIONS
from modeling_wbc.configuration_wbc import MINING, NORM_LAYOUTS

IMAGENET_WEIGHTS = "microsoft/resnet-34"
PAPER_BATCH_SIZE = 128
MIXED = "mixed"  # the augmentation of stored crops


def _switch(text: str) -> Any:
    """Return a field that is True, False or, if it is not given, None."""
    return field(default=None, metadata={"nargs": "?", "const": True, "help": text})


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
    validation_split: float = field(
        default=0.15,
        metadata={
            "help": "The share of the training images to validate on where the dataset has no validation split, cut "
            "by group (or photograph) and stratified by class; 0 trains on all and neither validates nor calibrates."
        },
    )
    augment: str = field(
        default="paper",
        metadata={
            "choices": [*AUGMENTATIONS, MIXED],
            "help": "Augmentation of the training images: 'paper' flips them and rotates them by any angle; 'strong' "
            "also varies stain and light; 'mixed', for crops of cells, also mixes the stains at random and varies "
            "place, size and camera, on the device and on crops that are cut out once.",
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
            "help": "The lab, by its name in the column `lab`, to which training, validation and calibration are "
            "restricted; the test split keeps all labs, and so measures the transfer to the others. Default: all."
        },
    )
    leave_out: str | None = field(
        default=None,
        metadata={
            "help": "The lab, by its name in the column `lab`, that training, validation and calibration leave out; "
            "the test split keeps it, and `python -m hub labs` measures the transfer to it. Default: none."
        },
    )
    balanced: bool = field(
        default=False,
        metadata={
            "help": "Whether to sample the training images evenly over labs, then classes, then photographs, as "
            "far as the dataset has these columns; an epoch draws as many as there are, with replacement."
        },
    )
    balance: float = field(
        default=1.0,
        metadata={
            "help": "How evenly --balanced draws: the exponent of its probabilities, from 0, each image as often as "
            "any other, to 1."
        },
    )
    teacher: list[str] | None = field(
        default=None,
        metadata={
            "help": "Folders of teachers, from whose answers about the crops of --augment mixed the network learns "
            "beside the labels: what `python -m hub teacher` trained, or classifiers with the same types. "
            "Default: none."
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
    stage_loss_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the stages' cross entropy in the loss, for a dataset with a column `stage`; 0 switches "
            "the head off. Default: that of the weights, or 1."
        },
    )
    attribute_loss_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the attributes' cross entropy in the loss, for a dataset with further columns of class "
            "labels; 0 switches the head off. Default: that of the weights, or 1."
        },
    )
    image_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width in pixels of the network's input. Default: that of the weights, or 224, "
            "of Inception and Xception 299."
        },
    )
    stain_size: int | None = field(
        default=None,
        metadata={
            "help": "Height and width in pixels of the thumbnail of the stain normaliser before the network, which is "
            "fitted before a training with --augment mixed; 0 for none. Default: that of the weights, or 0."
        },
    )
    channels_last: bool = field(
        default=True, metadata={"help": "Whether to hold images and feature maps in channels-last memory format."}
    )


@dataclass
class WBCTrainingArguments(TrainingArguments):
    """TrainingArguments with the paper's recipe as defaults, and the task as the user asked for it.

    TrainingArguments itself sets `do_eval` wherever `eval_strategy` is given, so the task is read before that. Without
    any of `do_train`, `do_eval`, `do_predict` and `calibrate`, a run trains and evaluates.

    Attributes:
        validates_by_default: Whether `eval_strategy` is a default, dropped where there is nothing to validate on.
        calibrates_training: Whether a training that has a validation split is followed by a calibration.
        chooses_workers: Whether the number of worker processes is left to the script.

    Raises:
        UserError: Nothing is to be done, DeepSpeed is missing, or the paper's batch cannot be divided evenly among
            processes, devices and accumulation steps.
    """

    output_dir: str = field(default="outputs/wbc", metadata={"help": "The folder to write to."})
    do_train: bool | None = _switch("Whether to train. Default: unless only another task is asked for.")
    do_eval: bool | None = _switch(
        "Whether to evaluate on the validation and test splits. Default: unless only another task is asked for."
    )
    do_predict: bool | None = _switch(
        "Whether to write the predictions of the test split, which --do_eval writes as well. Default: no."
    )
    calibrate: bool | None = _switch(
        "Whether to fit temperature and OOD threshold of weights that are not trained, and to save the model with "
        "them in the output folder. Training fits them too if there is a validation split, unless this is False."
    )
    eval_strategy: str | None = field(
        default=None,
        metadata={
            "choices": [each.value for each in IntervalStrategy],
            "help": "When to validate in training: 'no', 'steps' or 'epoch'. Default: after each epoch, in a run that "
            "evaluates or chooses its best checkpoint.",
        },
    )
    dataloader_num_workers: int | None = field(
        default=None,
        metadata={
            "help": "Worker processes that load images. Default: none, or up to 8 on the free cores with --find_cell."
        },
    )
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
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Share of the moving average of the weights that each step keeps, e.g. 0.999. The average is what "
            "is saved, calibrated and evaluated in the end; checkpoints hold both. Default: no average."
        },
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
        if self.deepspeed and not is_deepspeed_available():
            # Asked for here, as transformers keeps a broken configuration for the rest of the process.
            raise UserError("--deepspeed needs the package deepspeed. Install it, or leave the argument out.")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"--ema_decay is {self.ema_decay}; give a share from 0, for no average, to below 1.")
        if self.ema_decay and self.load_best_model_at_end:
            raise UserError("--ema_decay saves the average, --load_best_model_at_end a checkpoint. Choose one.")
        self._choose_task()
        self._choose_validation()
        self.chooses_workers = self.dataloader_num_workers is None
        self.dataloader_num_workers = self.dataloader_num_workers or 0
        given = self.per_device_train_batch_size
        if given is None:
            self.per_device_train_batch_size = PAPER_BATCH_SIZE
        # TrainingArguments refuses bf16 without an accelerator unless the CPU is chosen explicitly.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        asked = self.do_eval
        super().__post_init__()
        self.do_eval = asked
        # CellImages makes the model's arguments out of the dataset's columns, so none may be removed before.
        self.remove_unused_columns = False
        # The Trainer would log the last finite loss in place of a NaN; here a NaN ends the run.
        self.logging_nan_inf_filter = False
        self.dataloader_pin_memory = self.dataloader_pin_memory and torch.cuda.is_available()
        shares = self.world_size * max(1, self.n_gpu) * self.gradient_accumulation_steps
        if given is None and shares > 0:
            if PAPER_BATCH_SIZE % shares:
                raise UserError(
                    f"the batch of {PAPER_BATCH_SIZE} does not divide into {shares} equal shares (processes x devices "
                    "x accumulation steps). Name --per_device_train_batch_size."
                )
            self.per_device_train_batch_size = PAPER_BATCH_SIZE // shares

    @property
    def needs_validation(self) -> bool:
        """Whether the run cannot do without a validation split."""
        is_asked = self.eval_strategy != IntervalStrategy.NO and not self.validates_by_default
        is_used = is_asked or self.eval_on_start or self.metric_for_best_model is not None
        return bool(self.calibrate or (self.do_train and is_used))

    def _choose_task(self) -> None:
        """Replace each task that is not given by its default."""
        only_others = bool(self.do_eval or self.do_predict or self.calibrate)
        self.calibrates_training = self.calibrate is not False
        self.calibrate = bool(self.calibrate)
        if self.do_eval is None:
            self.do_eval = not (self.do_train or self.do_predict)
        if self.do_train is None:
            self.do_train = not only_others
        self.do_predict = bool(self.do_predict)
        if not (self.do_train or self.do_eval or self.do_predict or self.calibrate):
            raise UserError("nothing is left to do. Ask for --do_train, --do_eval or --do_predict.")

    def _choose_validation(self) -> None:
        """Replace an `eval_strategy` that is not given by its default."""
        if self.save_strategy == SaveStrategy.BEST and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        self.validates_by_default = self.eval_strategy is None
        if not self.validates_by_default:
            return
        needs_metric = self.load_best_model_at_end or self.save_strategy == SaveStrategy.BEST
        needs_metric = needs_metric or self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        self.eval_strategy = "epoch" if self.do_train and (self.do_eval or needs_metric) else "no"
        if self.do_train and self.load_best_model_at_end and self.save_strategy == SaveStrategy.STEPS:
            # The best checkpoint is known only if each is validated.
            self.eval_strategy, self.eval_steps = "steps", self.eval_steps or self.save_steps
