"""The Trainer: losses logged in parts, no NaN, no half checkpoint, exact resume."""

import logging
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hub.files import HUB_ERRORS, UserError, one_line
from hub.training.arguments import WBCTrainingArguments
from hub.training.images import CellImages
from hub.training.sampling import BalancedSampler

logger = logging.getLogger(__name__)


class AugmentationEpoch(TrainerCallback):
    """Tells the training images which epoch it is: accelerate tells the sampler only."""

    def __init__(self, dataset: CellImages):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.set_epoch(int(state.epoch))


class WBCTrainer(Trainer):
    """Trainer that logs the parts of the loss, stops at a NaN and never leaves half a checkpoint."""

    def __init__(self, *args, memory_format=torch.contiguous_format, balanced: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.memory_format = memory_format
        self.balanced = balanced
        # Sums over the steps since the last line of log, of which the Trainer itself logs the loss alone.
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def _get_train_sampler(self, train_dataset=None):
        if self.balanced:
            return BalancedSampler(self.train_dataset)
        return super()._get_train_sampler(train_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=self.memory_format)
        outputs = model(**inputs)
        loss = outputs["loss"]
        if model.training:
            labels = inputs["labels"]
            # Of the paper's loss, what the rivals do not have.
            center_loss = outputs.get("center_loss")
            weight = 0.0 if center_loss is None else self.model.config.center_loss_weight
            if self.args.label_smoothing_factor:
                loss = F.cross_entropy(
                    outputs["logits"].float(), labels, label_smoothing=self.args.label_smoothing_factor
                )
                if center_loss is not None:
                    loss = loss + weight * center_loss
            if not torch.isfinite(loss):
                raise UserError(
                    f"the loss is {loss.item()} at step {self.state.global_step + 1}. Lower --learning_rate (now "
                    f"{self.args.learning_rate}) or --center_loss_weight (now {weight}), or clip with "
                    f"--max_grad_norm 1, and start again{self._or_resume()}"
                )
            logged = {"accuracy": (outputs["logits"].argmax(-1) == labels).float().mean()}
            if center_loss is not None:
                logged["cross_entropy"], logged["center_loss"] = outputs["cross_entropy"], center_loss
                logged["active_fraction"] = self.model.center_loss.active_fraction
            for name, value in logged.items():
                self.sums[name] = self.sums.get(name, 0) + value.detach()
            self.steps += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        if "loss" in logs and self.steps:
            means = self.accelerator.reduce(torch.stack([*self.sums.values()]) / self.steps, "mean").tolist()
            logs |= {name: round(value, 4) for name, value in zip(self.sums, means, strict=True)}
            self.sums.clear()
            self.steps = 0
        # A confusion matrix is for the results file, not for a curve.
        super().log({name: value for name, value in logs.items() if not isinstance(value, list)}, start_time)

    def _save_checkpoint(self, model, trial):
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
            raise UserError(
                f"a weight is no longer finite at step {self.state.global_step}, so no checkpoint is written. Lower "
                f"--learning_rate (now {self.args.learning_rate}) and start again{self._or_resume()}"
            )
        with self.saving(folder):
            super()._save_checkpoint(model, trial)

    def _save(self, output_dir=None, state_dict=None):
        folder = Path(output_dir or self.args.output_dir)
        if folder == Path(self.args.output_dir):
            # What is being uploaded from there must not change under way.
            self._finish_current_push()
        super()._save(output_dir, state_dict)
        # A pickle, which nothing here reads and nobody should have to trust.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def init_hf_repo(self, token=None, private=None):
        with self._pushing("the repository of --push_to_hub cannot be had"):
            super().init_hf_repo(token, private)
        if self.is_world_process_zero():
            # Transformers puts that pickle there again before it pushes a checkpoint; the Hub leaves out what is
            # ignored.
            folder = Path(self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".gitignore").write_text(f"{TRAINING_ARGS_NAME}\n", encoding="utf-8")

    def push_to_hub(self, *args, **kwargs):
        with self._pushing(f"the model is saved in {self.args.output_dir}, but the push broke off"):
            return super().push_to_hub(*args, **kwargs)

    @contextmanager
    def _pushing(self, what: str):
        """Turns what the Hub or the network refuses into an error that says what to do."""
        try:
            yield
        except HUB_ERRORS as error:
            raise UserError(
                f"{what}: {one_line(error)}. Log in with `hf auth login` or HF_TOKEN, name the repository with "
                f"--hub_model_id NAME/NAME, and start again{self._or_resume()}"
            ) from error

    def create_model_card(self, *args, **kwargs):
        # `write_report` writes a better one, which the last push must not write over.
        if not Path(self.args.output_dir, "README.md").is_file():
            super().create_model_card(*args, **kwargs)

    @contextmanager
    def saving(self, folder: Path):
        """Turns a failure to write `folder` into an error that says what to do, and leaves no half of a checkpoint."""
        try:
            yield
        except Exception as error:  # of many kinds: OSError, safetensors' and torch.save's own
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
    """The newest complete checkpoint in a folder: a run killed while it saves leaves one without the state."""
    checkpoints = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")
    return max((path.parent for path in checkpoints), key=lambda path: int(path.name.split("-")[-1]), default=None)


def checkpoint_to_resume(args: WBCTrainingArguments) -> str | None:
    """The checkpoint that --resume_from_checkpoint means, or None to start from the beginning."""
    last = last_checkpoint(args.output_dir)
    if args.resume_from_checkpoint is None:
        if last is not None:
            raise UserError(
                f"{args.output_dir} holds {last.name} of an earlier run. Go on from it with --resume_from_checkpoint, "
                "or name another --output_dir."
            )
        return None
    if args.resume_from_checkpoint.lower() in ("last", "true"):
        if last is None:
            logger.warning(f"{args.output_dir} holds no complete checkpoint: training starts from the beginning.")
        return str(last) if last else None
    if not Path(args.resume_from_checkpoint, "trainer_state.json").is_file():
        raise UserError(f"{args.resume_from_checkpoint} is no checkpoint of this script, or not a complete one.")
    return args.resume_from_checkpoint
