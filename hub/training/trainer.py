"""Trainer with the parts of the loss in its log, a stop at a NaN, complete checkpoints and exact resume."""

import json
import logging
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hub.files import HUB_ERRORS, UserError, one_line
from hub.training.arguments import WBCTrainingArguments
from hub.training.averaging import AveragedWeights
from hub.training.distillation import Distillation
from hub.training.images import CellImages
from hub.training.sampling import BalancedSampler
from hub.training.views import CellViews, to_light, to_pixel_values
from modeling_wbc.focus_wbc import measure_focus
from modeling_wbc.stain_wbc import StainNormalizer

logger = logging.getLogger(__name__)

TRAINING_NAME = "train_results.json"
# The outputs of a model that are predicted beside its logits, in this order.
PREDICTED = ("distance", "novelty", "stage_logits", "attribute_logits")


class AugmentationEpoch(TrainerCallback):
    """Set the epoch of the training images: accelerate sets it of samplers only."""

    def __init__(self, dataset: CellImages):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Set the epoch, counted from 0."""
        self.dataset.set_epoch(int(state.epoch))


class WBCTrainer(Trainer):
    """Trainer that logs the parts of the loss, stops at a NaN and never leaves half a checkpoint.

    Args:
        *args: Those of `Trainer`.
        memory_format: Of the images, `torch.contiguous_format` or `torch.channels_last`.
        balanced: Whether to draw the training images by `BalancedSampler`.
        balance: See `hub.training.sampling.balanced_weights`.
        views: Makes the views of training images that are `CropImages`, on the device of the model.
        distillation: From a teacher, of training images that are `CropImages`.
        **kwargs: Those of `Trainer`; `train_dataset` and `eval_dataset` are `CellImages`.
    """

    def __init__(
        self,
        *args,
        memory_format=torch.contiguous_format,
        balanced: bool = False,
        balance: float = 1.0,
        views: CellViews | None = None,
        distillation: Distillation | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.memory_format = memory_format
        self.balanced = balanced
        self.balance = balance
        self.views = views
        self.distillation = distillation
        self._drawn = (-1, 0)  # the step, and how many batches of it have their views
        self._generator = torch.Generator()  # of the batch
        # Sums over the steps since the last line of the log; the Trainer itself logs the loss alone.
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.average: AveragedWeights | None = None
        if self.train_dataset is not None:
            self.add_callback(AugmentationEpoch(self.train_dataset))
            if self.args.ema_decay:
                self.average = AveragedWeights(self.model, self.args.ema_decay)
                self.add_callback(self.average)

    def _get_train_sampler(self, train_dataset=None):
        if self.balanced:
            return BalancedSampler(self.train_dataset, self.balance)
        return super()._get_train_sampler(train_dataset)

    def get_eval_dataloader(self, eval_dataset=None):
        """Return the loader of the validation images, all of them."""
        with self._keeping_the_last_batch():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        """Return the loader of a split's images, all of them."""
        with self._keeping_the_last_batch():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _keeping_the_last_batch(self):
        """Restrict --dataloader_drop_last to training: the Trainer would leave images out of the results as well."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def train(self, *args, **kwargs):
        """Train, and return the figures of the training; without a step, as of a finished run, there is no loss."""
        normalizers = [module for module in self.model.modules() if isinstance(module, StainNormalizer)]
        hooks = [each.register_forward_hook(self._vary_normalized) for each in normalizers if self.views is not None]
        try:
            output = super().train(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        if self.average is not None:
            self.average.copy_to(self.model)
        if self.state.global_step == self._initial_global_step:
            del output.metrics["train_loss"]
        return output

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the model's loss, and in training add the parts of it to those to be logged.

        With label smoothing, each cross entropy in it is the smoothed one.

        Raises:
            UserError: The loss in training is not finite.
        """
        if inputs["pixel_values"].dtype == torch.uint8:  # crops that `views` are drawn of
            inputs["pixel_values"] = self._views_of(inputs["pixel_values"])
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=self.memory_format)
        outputs = model(**inputs)
        loss = outputs["loss"]
        if model.training:
            if self.args.label_smoothing_factor:
                loss = self._smoothed_loss(outputs, inputs)
            if self.distillation is not None:
                loss = self.distillation.loss(inputs["pixel_values"], outputs, loss)
            self._check_finite(loss)
            self._add_to_log(outputs, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def _views_of(self, crops: Tensor) -> Tensor:
        """Draw a view (N, 3, S, S) float32 of each crop, by seed, step, batch of the step and process alone."""
        assert self.views is not None
        step, batch = self.state.global_step, 0
        if self._drawn[0] == step:
            batch = self._drawn[1]
        self._drawn = (step, batch + 1)
        name = f"{self.args.seed} {step} {batch} {self.args.process_index}"
        self._generator.manual_seed(random.Random(name).getrandbits(63))
        with torch.autocast(crops.device.type, enabled=False):
            return to_pixel_values(self.views(crops, self._generator))

    def _vary_normalized(self, normalizer: StainNormalizer, args: tuple, pixel_values: Tensor) -> Tensor:
        """What the network sees in training of the images (N, 3, S, S) that a stain normaliser returns."""
        if not normalizer.training:  # between two epochs, the model is evaluated
            return pixel_values
        assert self.views is not None
        with torch.autocast(pixel_values.device.type, enabled=False):
            light = self.views.vary_normalized(to_light(pixel_values.float()), self._generator)
            return to_pixel_values(light).to(pixel_values.dtype)

    def _smoothed_loss(self, outputs, inputs: dict[str, Tensor]) -> Tensor:
        """Return the loss with label smoothing in the cross entropy of the types and of the other heads."""
        smoothing = self.args.label_smoothing_factor
        loss = F.cross_entropy(outputs["logits"].float(), inputs["labels"], label_smoothing=smoothing)
        if outputs.get("center_loss") is None:  # baselines have none
            return loss
        values = (outputs.get("stage_logits"), outputs.get("attribute_logits"))
        ids = (inputs.get("stage_ids"), inputs.get("attribute_ids"))
        losses = self.model.head_losses(*values, *ids, label_smoothing=smoothing)
        return self.model.total_loss({"cross_entropy": loss, "center_loss": outputs["center_loss"], **losses})

    def planned_steps(self) -> int:
        """The number of optimiser steps of the whole run."""
        return self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    def _check_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            weight = getattr(self.model.config, "center_loss_weight", None)
            or_weight = "" if weight is None else f" or --center_loss_weight (now {weight})"
            raise UserError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}. Lower --learning_rate (now "
                f"{self.args.learning_rate}){or_weight}, or clip with --max_grad_norm 1, and start again"
                f"{self._or_resume()}"
            )

    def _add_to_log(self, outputs, labels: Tensor) -> None:
        logged = {"accuracy": (outputs["logits"].argmax(-1) == labels).float().mean()}
        if outputs.get("center_loss") is not None:
            logged["cross_entropy"], logged["center_loss"] = outputs["cross_entropy"], outputs["center_loss"]
            logged["active_fraction"] = self.model.center_loss.active_fraction
        logged |= {name: outputs[name] for name in ("stage_loss", "attribute_loss") if outputs.get(name) is not None}
        for name, value in logged.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        self.steps += 1

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test"):
        """Predict logits; with a model that has them also distance, novelty, and the logits of stages and attributes.

        Of a model with an OOD score, the focus of the images comes last.

        Args:
            test_dataset: `CellImages`.
            ignore_keys: Outputs to leave out. Default: those of the model's configuration but the above.
            metric_key_prefix: The prefix of the metrics' names.
        """
        if ignore_keys is None:
            ignored = getattr(self.model.config, "keys_to_ignore_at_inference", ())
            ignore_keys = [key for key in ignored if key not in PREDICTED]
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Predict a batch; of a model with an OOD score, where it is asked for, also the focus of its images, last."""
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if isinstance(logits, tuple) and "novelty" not in (ignore_keys or ()):
            logits = (*logits, measure_focus(inputs["pixel_values"]))
        return loss, logits, labels

    def log(self, logs, start_time=None):
        """Log the means of the parts of the loss beside the loss itself."""
        if "loss" in logs and self.steps:
            means = self.accelerator.reduce(torch.stack([*self.sums.values()]) / self.steps, "mean").tolist()
            logs |= {name: round(value, 4) for name, value in zip(self.sums, means, strict=True)}
            self.sums.clear()
            self.steps = 0
        # A list, the confusion matrix, belongs in the results file; trackers draw curves of numbers.
        super().log({name: value for name, value in logs.items() if not isinstance(value, list)}, start_time)

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
            raise UserError(
                f"a weight is no longer finite at step {self.state.global_step}, so no checkpoint is written. Lower "
                f"--learning_rate (now {self.args.learning_rate}) and start again{self._or_resume()}"
            )
        with self.saving(folder):
            if self.average is not None and self.args.should_save:
                self.average.save(folder)
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(Path(resume_from_checkpoint))

    def _save(self, output_dir=None, state_dict=None):
        folder = Path(output_dir or self.args.output_dir)
        if folder == Path(self.args.output_dir):
            # Files must not change while they are uploaded.
            self._finish_current_push()
        super()._save(output_dir, state_dict)
        # A pickle, which nothing here reads and no user should have to trust.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def init_hf_repo(self, token=None, private=None):
        """Create the repository to push to, if it does not exist.

        Raises:
            UserError: The Hub or the network refuses.
        """
        with self._pushing("the repository of --push_to_hub could not be created or reached"):
            super().init_hf_repo(token, private)
        if self.is_world_process_zero():
            # Transformers writes the pickle again before it pushes a checkpoint; uploads skip ignored files.
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".gitignore").write_text(f"{TRAINING_ARGS_NAME}\n", encoding="utf-8")

    def push_to_hub(self, *args, **kwargs):
        """Push the output folder to the Hub.

        Raises:
            UserError: The Hub or the network refuses.
        """
        with self._pushing(f"the model is saved in {self.args.output_dir}, but the push broke off"):
            return super().push_to_hub(*args, **kwargs)

    @contextmanager
    def _pushing(self, what: str):
        """Turn errors of the Hub or the network into a `UserError` that names the remedy."""
        try:
            yield
        except HUB_ERRORS as error:
            raise UserError(
                f"{what}: {one_line(error)}. Log in with `hf auth login` or HF_TOKEN, name the repository with "
                f"--hub_model_id NAME/NAME, and start again{self._or_resume()}"
            ) from error

    def create_model_card(self, *args, **kwargs):
        """Write the Trainer's model card unless there is the one of `hub.publish.model_card.write_report`."""
        if not Path(self.args.output_dir, "README.md").is_file():
            super().create_model_card(*args, **kwargs)

    @contextmanager
    def saving(self, folder: Path):
        """Turn a failure to write `folder` into a `UserError` that names the remedy, and remove half a checkpoint."""
        try:
            yield
        except Exception as error:  # OSError, SafetensorError, torch.save's RuntimeError and others
            if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
                shutil.rmtree(folder, ignore_errors=True)
            free = shutil.disk_usage(self.args.output_dir).free / 2**20
            raise UserError(
                f"could not write {folder} ({error}); {free:.0f} MiB are free there. Make room, or name another "
                f"--output_dir, and start again{self._or_resume()}"
            ) from error

    def _or_resume(self) -> str:
        checkpoint = last_checkpoint(self.args.output_dir)
        return f", from {checkpoint} with --resume_from_checkpoint." if checkpoint else "."


def last_checkpoint(output_dir: str) -> Path | None:
    """Return the newest complete checkpoint in a folder, or None.

    A run that is killed while it saves leaves a checkpoint without the Trainer's state.
    """
    checkpoints = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")
    return max((path.parent for path in checkpoints), key=lambda path: int(path.name.split("-")[-1]), default=None)


def finished_steps(output_dir: str) -> int:
    """Return the number of steps after which a run in a folder finished, or 0 where none did."""
    folder = Path(output_dir)
    if not (folder / TRAINING_NAME).is_file() or not (folder / TRAINER_STATE_NAME).is_file():
        return 0
    return json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]


def checkpoint_to_resume(args: WBCTrainingArguments) -> str | None:
    """Return the checkpoint that --resume_from_checkpoint names, or None to start from the beginning.

    Raises:
        UserError: It is no checkpoint, or the output folder holds a run and the argument is missing.
    """
    last = last_checkpoint(args.output_dir)
    if args.resume_from_checkpoint is None:
        if last is not None:
            raise UserError(
                f"{args.output_dir} holds {last.name} of an earlier run. Resume from it with "
                "--resume_from_checkpoint, or name another --output_dir."
            )
        if finished_steps(args.output_dir):
            raise UserError(
                f"{args.output_dir} holds a finished run, whose model and results would be overwritten. Name another "
                "--output_dir, or evaluate the model with --do_eval."
            )
        return None
    if args.resume_from_checkpoint.lower() in ("last", "true"):
        if last is None:
            logger.warning(f"{args.output_dir} holds no complete checkpoint: training starts from the beginning.")
        return str(last) if last else None
    if not Path(args.resume_from_checkpoint, "trainer_state.json").is_file():
        raise UserError(f"{args.resume_from_checkpoint} is no checkpoint of this script, or not a complete one.")
    return args.resume_from_checkpoint
