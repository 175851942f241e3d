"""Checks before anything starts, of arguments that transformers accepts and that would fail or mislead later."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel

from hub.files import UserError, one_line
from hub.training.arguments import DataArguments, ModelArguments, WBCTrainingArguments
from hub.training.trainer import WBCTrainer


class Range(NamedTuple):
    """The values that arguments may take; an argument of None is not given."""

    names: tuple[str, ...]
    low: float = 0
    below: float = float("inf")
    above_low: bool = False

    def check(self, name: str, value: float | None) -> None:
        """Raise `UserError` if the value is outside the range or NaN."""
        if value is None or (self.low <= value < self.below and not (self.above_low and value == self.low)):
            return
        least = f"{'above' if self.above_low else 'at least'} {self.low}"
        raise UserError(
            f"--{name} is {value}; give {least}{f' and below {self.below}' if self.below < 1e300 else ''}."
        )


_RANGES = (
    Range(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "eval_accumulation_steps",
            "image_size",
            "ddp_timeout",
        ),
        low=1,
    ),
    Range(("num_train_epochs", "logging_steps", "eval_steps", "save_steps"), above_low=True),
    Range(
        (
            "learning_rate",
            "momentum",
            "weight_decay",
            "max_grad_norm",
            "center_loss_weight",
            "center_loss_margin",
            "dataloader_num_workers",
            "eval_delay",
        )
    ),
    Range(("validation_split", "label_smoothing_factor", "adam_beta1", "adam_beta2"), below=1),
    Range(("balance",), below=1.0000001),
    Range(("stain_size",)),
    Range(("seed", "data_seed"), below=2**32),
)
# Arguments that a classifier of images has no use for, or whose effect its results do not survive.
_UNSUPPORTED = {
    "batch_eval_metrics": "the results need all predictions at once; --eval_accumulation_steps saves GPU memory",
    "prediction_loss_only": "the results are made of the predictions",
    "bf16_full_eval": "the saved weights would lose precision; --bf16 evaluates in bfloat16, too",
    "fp16_full_eval": "the saved weights would lose precision; --fp16 evaluates in float16, too",
    "neftune_noise_alpha": "it adds noise to the embeddings of words",
    "use_liger_kernel": "its kernels are those of language models",
    "optim_target_modules": "its optimisers are those of language models",
}


@contextmanager
def refusing_arguments(what: str = "") -> Iterator[None]:
    """Turn what transformers and accelerate raise about arguments into a `UserError` of one line, `what` in front."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}{one_line(error).rstrip('.')}.") from error


def check_arguments(
    model_args: ModelArguments, data_args: DataArguments, args: WBCTrainingArguments, unknown: Sequence[str] = ()
) -> None:
    """Raise `UserError` if an argument is unknown, out of range, unsupported, or contradicts another one."""
    if unknown:
        raise UserError(f"unknown arguments: {' '.join(unknown)}; --help lists all that there are.")
    given = vars(model_args) | vars(data_args) | vars(args)
    if args.max_steps > 0:
        del given["num_train_epochs"]
    elif args.max_steps != -1:
        raise UserError(f"--max_steps is {args.max_steps}; give at least 1, or leave it out for --num_train_epochs.")
    for strategy in ("logging", "eval", "save"):
        if given[f"{strategy}_strategy"] != "steps":
            del given[f"{strategy}_steps"]
    for allowed in _RANGES:
        for name in allowed.names:
            allowed.check(name, given.get(name))
    for name, reason in _UNSUPPORTED.items():
        if given[name]:
            raise UserError(f"--{name} is not supported: {reason}. Leave it out.")
    _check_combinations(data_args, args)


def _check_combinations(data_args: DataArguments, args: WBCTrainingArguments) -> None:
    """Raise `UserError` if an argument has an unsupported value or contradicts another one."""
    if args.label_names not in (None, ["labels"]):
        raise UserError("--label_names is not supported: the labels are those of the column `label`. Leave it out.")
    if not args.eval_do_concat_batches:
        raise UserError("--eval_do_concat_batches False is not supported: the results need all predictions in one.")
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise UserError(
            f"--train_sampling_strategy {args.train_sampling_strategy} sorts texts by their length, which images do "
            "not have. Name random or sequential."
        )
    if data_args.balanced and args.train_sampling_strategy != "random":
        raise UserError("--balanced draws at random. Leave it or --train_sampling_strategy out.")
    if args.optim == "sgd" and args.optim_args:
        raise UserError("--optim_args does not reach the optimiser sgd. Set --momentum and --weight_decay.")


def check_model(model: PreTrainedModel, args: WBCTrainingArguments) -> None:
    """Raise `UserError` if the model does not support an argument, or images of its size have too few pixels."""
    if args.activation_checkpointing and not model.supports_gradient_checkpointing:
        raise UserError(
            "--gradient_checkpointing is not supported by this network. Save memory with a lower "
            "--per_device_train_batch_size and as many --gradient_accumulation_steps."
        )
    size = model.config.image_size
    images = torch.zeros(2, 3, size, size)
    try:
        # A copy, as the running statistics of the norms change in training.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(model).float().cpu().train(args.do_train)(pixel_values=images)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--image_size {size} is too small for this network: {one_line(error)}.") from error


def check_trainer(trainer: WBCTrainer) -> None:
    """Raise `UserError` if optimiser, schedule, metric or loading of images cannot be what the arguments ask for."""
    args = trainer.args
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise UserError("--dataloader_persistent_workers has no workers. Set --dataloader_num_workers above 0.")
    if not args.do_train:
        return
    if not len(trainer.get_train_dataloader()):
        raise UserError(
            f"--dataloader_drop_last drops all {len(trainer.train_dataset)} training images, which fill no batch of "
            f"{args.train_batch_size} on each of {args.world_size} processes. Leave it out, or lower "
            "--per_device_train_batch_size."
        )
    _check_metric(trainer)
    is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if is_sharded and args.ema_decay:
        raise UserError("--ema_decay averages whole weights, which FSDP and DeepSpeed share out. Leave it out.")
    if not is_sharded:
        with refusing_arguments(f"--optim {args.optim.value} or --lr_scheduler_type {args.lr_scheduler_type.value}: "):
            trainer.create_optimizer_and_scheduler(num_training_steps=10)
        trainer.optimizer = trainer.lr_scheduler = None


def _check_metric(trainer: WBCTrainer) -> None:
    """Raise `UserError` if the validation does not give the metric that is to choose the best checkpoint."""
    wanted = trainer.args.metric_for_best_model
    if wanted is None:
        return
    classes = trainer.model.config.num_labels
    figures = trainer.compute_metrics(EvalPrediction(np.zeros((1, classes)), np.zeros(1, dtype=int)))
    known = ["loss", *(name for name, value in figures.items() if not isinstance(value, list))]
    if wanted.removeprefix("eval_") not in known:
        raise UserError(f"--metric_for_best_model names {wanted}; the validation gives {', '.join(known)}.")
