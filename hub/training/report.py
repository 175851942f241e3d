"""Files of a training run: results, predictions, the saved model and the record of its training."""

import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PreTrainedConfig
from transformers.trainer_utils import PredictionOutput

from hub.evaluation.compare import write_predictions
from hub.evaluation.format import table_1, text_table
from hub.evaluation.heads import evaluate_attributes, evaluate_stages, heads_rows
from hub.evaluation.subsets import KNOWN_COLUMNS, evaluate_logits, parts_rows
from hub.files import write_json
from hub.training.arguments import DataArguments
from hub.training.calibration import logits_of
from hub.training.images import CellImages
from hub.training.splits import EVALUATED_SPLITS
from hub.training.trainer import TRAINING_NAME, WBCTrainer, finished_steps
from modeling_wbc.field_wbc import remark_on

logger = logging.getLogger(__name__)


def evaluate_split(
    trainer: WBCTrainer, images: CellImages, names: Sequence[str], split: str, seen_fields: set[str]
) -> dict:
    """Evaluate the model on a split; write `<split>_results.json` and `<split>_predictions.csv`, and print a table.

    Args:
        trainer: Holds the model; the files are written to its output folder.
        images: The split.
        names: The class names, in the order of the model's class ids.
        split: The name of the split.
        seen_fields: The fields, by the column `group`, of which the training split has images.

    Returns:
        The results, as `hub.evaluation.subsets.evaluate_logits` gives them, the Trainer's figures and, as `stages` and
        `attributes`, the figures of `hub.evaluation.heads` where the model has the heads and the split the labels.
    """
    output, columns, scores = predict_split(trainer, images, names, split)
    logits = logits_of(output.predictions)
    results = {name.removeprefix(f"{split}_"): value for name, value in output.metrics.items()}
    accepted = accepted_by(trainer.model.config, scores)
    results |= evaluate_logits(logits, output.label_ids, names, columns, seen_fields, accepted)
    results |= _evaluate_heads(trainer.model.config, output, images, names, columns.get("photograph"))
    if trainer.is_world_process_zero():
        write_json(Path(trainer.args.output_dir, f"{split}_results.json"), results)
        print(f"\n{split}: {len(images)} images\n{table_1(results, names)}")
        if results["subsets"]:
            print(f"\n{split}, in parts\n{text_table(parts_rows(results))}")
        if len(rows := heads_rows(results)) > 1:
            print(f"\n{split}, stages and attributes\n{text_table(rows)}")
    return results


def predict_split(
    trainer: WBCTrainer, images: CellImages, names: Sequence[str], split: str
) -> tuple[PredictionOutput, dict[str, list], dict[str, np.ndarray]]:
    """Predict a split, and write `<split>_predictions.csv`.

    Args:
        trainer: Holds the model; the file is written to its output folder.
        images: The split, of N images.
        names: The class names, in the order of the model's class ids.
        split: The name of the split.

    Returns:
        The Trainer's output; the columns of the data set that identify an image, N values each; and, of a model with
        an OOD score, `distance`, `novelty` and `focus`, float (N,).
    """
    output = trainer.predict(images, metric_key_prefix=split)
    columns = {name: images.dataset[name][:] for name in KNOWN_COLUMNS if name in images.dataset.column_names}
    scores = {}
    if isinstance(output.predictions, tuple):
        _, scores["distance"], scores["novelty"], *_, scores["focus"] = output.predictions
    if trainer.is_world_process_zero():
        shown = {name: map("{:.4f}".format, values) for name, values in scores.items()}
        path = Path(trainer.args.output_dir, f"{split}_predictions.csv")
        write_predictions(path, logits_of(output.predictions), output.label_ids, names, columns | shown)
    return output, columns, scores


def accepted_by(config, scores: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Whether `analyze` would know the cells, by their novelty and focus: bool (N,), or None without a threshold."""
    if not scores or getattr(config, "max_novelty", None) is None:
        return None
    pairs = zip(scores["novelty"].tolist(), scores["focus"].tolist(), strict=True)
    return np.array([remark_on(novelty, focus, config) is None for novelty, focus in pairs])


def is_finished(trainer: WBCTrainer) -> bool:
    """Whether a run that is to be resumed has finished before, in which case a line of the log says so."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    if not args.do_train or args.resume_from_checkpoint is None:
        return False
    steps = finished_steps(args.output_dir)
    evaluated = any((folder / f"{split}_results.json").is_file() for split in EVALUATED_SPLITS)
    if not steps or steps < trainer.planned_steps() or (args.do_eval and not evaluated):
        return False
    if args.push_to_hub or (args.do_predict and not (folder / "test_predictions.csv").is_file()):
        return False  # what is left of it, such as a push that broke off, starts from the last checkpoint
    logger.warning(
        f"the run in {folder} is finished, with {steps} steps: nothing is trained or written. Train further with a "
        f"larger --num_train_epochs, or evaluate it with --do_eval --model_name_or_path {folder}."
    )
    return True


def _evaluate_heads(
    config: PreTrainedConfig,
    output: PredictionOutput,
    images: CellImages,
    names: Sequence[str],
    photographs: Sequence[str | None] | None,
) -> dict[str, dict]:
    """Return the figures of the stages and the attributes, as far as the model has the heads and `images` the labels.

    Args:
        config: The configuration of the model.
        output: What the model predicts, see `WBCTrainer.predict`.
        images: What `output` was predicted for.
        names: The class names, in the order of the model's class ids.
        photographs: The photograph of each image, if the split has this column.
    """
    results = {}
    if "stage_ids" in images.head_ids:
        logits, _, _, stage_logits, *_ = output.predictions
        ids = images.head_ids["stage_ids"].numpy()
        results["stages"] = evaluate_stages(
            logits, stage_logits, output.label_ids, ids, names, config.active_stages, photographs
        )
    if "attribute_ids" in images.head_ids:
        *_, attribute_logits, _ = output.predictions
        ids = images.head_ids["attribute_ids"].numpy()
        results["attributes"] = evaluate_attributes(attribute_logits, ids, output.label_ids, photographs)
    return {name: figures for name, figures in results.items() if figures}


def save_training(trainer: WBCTrainer, description: dict) -> None:
    """Save the trained model, the Trainer's state and, as `train_results.json`, what `describe_training` returned.

    Raises:
        UserError: The output folder cannot be written.
    """
    folder = Path(trainer.args.output_dir)
    with trainer.saving(folder):
        trainer.save_model(_internal_call=True)  # Not pushed before its card is written.
        trainer.save_state()
        if trainer.is_world_process_zero():
            write_json(folder / TRAINING_NAME, description)


def save_calibration(trainer: WBCTrainer, calibration: str) -> None:
    """Save a model that was calibrated without training, and record that in the folder's `train_results.json`, if any.

    Raises:
        UserError: The output folder cannot be written.
    """
    path = Path(trainer.args.output_dir, TRAINING_NAME)
    with trainer.saving(path.parent):
        trainer.save_model(_internal_call=True)
        if trainer.is_world_process_zero() and path.is_file():
            metrics = json.loads(path.read_text(encoding="utf-8"))
            metrics["recipe"]["Calibration"] = calibration
            write_json(path, metrics)


def command_line(arguments: Sequence[str] | None) -> str:
    """Return the command that started this process, as the environment of its launcher tells it.

    Args:
        arguments: Those of `train.py`, if it was called from Python; None if the process has them.
    """
    script = shlex.join(["train.py", *arguments] if arguments is not None else sys.argv)
    processes, nodes = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("GROUP_WORLD_SIZE", 1))
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # set by `accelerate launch`, which calls torchrun's code
        options = [f"--num_processes {processes}"] if processes > 1 else []
        options += [f"--num_machines {nodes}"] if nodes > 1 else []
        precision = os.environ["ACCELERATE_MIXED_PRECISION"]
        options += [f"--mixed_precision {precision}"] if precision != "no" else []
        return " ".join(["accelerate launch", *options, script])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun itself calls a run "none" that is neither given an id nor --standalone.
        alone = "--standalone " if os.environ["TORCHELASTIC_RUN_ID"] != "none" else ""
        across = f"--nnodes {nodes} " if nodes > 1 else alone
        return f"torchrun {across}--nproc_per_node {os.environ['LOCAL_WORLD_SIZE']} {script}"
    return f"python {script}"


def describe_training(
    trainer: WBCTrainer,
    metrics: dict[str, float],
    data_args: DataArguments,
    base_model: str | None,
    baseline: str | None,
    calibration: str,
    command: str,
    validation: str | None,
) -> dict:
    """Describe a training run for the model card.

    Args:
        trainer: The trainer, after training.
        metrics: The figures that `trainer.train` returned.
        data_args: The data set and the augmentation.
        base_model: The id or folder of the initial weights; None for random ones.
        baseline: The network in words, if it is a baseline and not the paper's.
        calibration: The fitted values in words, see `hub.training.calibration.calibrate`.
        command: The command that was run, see `command_line`.
        validation: The validation images in words, if they were cut from the training split.

    Returns:
        `metrics`, and `command`, `dataset`, `base_model` and `recipe`, the hyperparameters by their name on the card.
    """
    args, processor = trainer.args, trainer.processing_class
    batch = args.per_device_train_batch_size * max(1, args.n_gpu) * args.world_size * args.gradient_accumulation_steps
    optimizer = f"SGD, momentum {args.momentum}" if args.optim == "sgd" else str(args.optim)
    clip = f", gradient norm clipped at {args.max_grad_norm}" if args.max_grad_norm else ""
    network, loss = (baseline, "cross entropy") if baseline else _describe_network(trainer.model.config)
    if (told := trainer.distillation) is not None:
        teachers = "a teacher" if len(told.teachers) == 1 else f"{len(told.teachers)} teachers"
        loss = (
            f"{1 - told.weight:g} x ({loss}) + {told.weight:g} x divergence from {teachers} of the same views "
            f"+ {told.likeness:g} x difference in which images are alike"
        )
    settings = args.lr_scheduler_kwargs or {}
    schedule = [args.lr_scheduler_type.value, *(f"{name} {value}" for name, value in settings.items())]
    size = trainer.model.config.image_size
    return metrics | {
        "command": command,
        "dataset": data_args.dataset_name,
        "base_model": base_model,
        "recipe": {
            "Network": f"{network}, {size} x {size} px",
            "Loss": loss,
            "Images": (
                f"crops around cells, side {processor.window_size} in units of '{processor.window_unit}', "
                "with random shift and zoom in training"
                if processor.do_find_cell
                else "whole fields"
            ),
            "Label smoothing": args.label_smoothing_factor,
            "Augmentation": data_args.augment,
            "Data sets": (data_args.train_on or "all")
            + (f", without {data_args.leave_out}" if data_args.leave_out else ""),
            "Sampling": "evenly over data sets, classes and photographs" if data_args.balanced else "every image once",
            "Optimiser": f"{optimizer}, weight decay {args.weight_decay}{clip}",
            "Learning rate": ", ".join([str(args.learning_rate), *schedule, f"warm-up {args.warmup_steps:g}"]),
            "Weights": f"moving average, decay {args.ema_decay:g}" if args.ema_decay else "those of the last step",
            "Batch": batch,
            "Epochs": round(trainer.state.epoch, 2),
            "Precision": "fp32" if args.mixed_precision == "no" else args.mixed_precision,
            "Validation": validation or ("split of the data set" if trainer.eval_dataset is not None else "none"),
            "Calibration": calibration,
            "Seed": args.seed,
            "Device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
            "Seconds of the last run": round(metrics["train_runtime"]),
            "Software": f"torch {torch.__version__}, transformers {transformers.__version__}",
        },
    }


def _describe_network(config) -> tuple[str, str]:
    """Return the paper's network and its loss, in words."""
    kind, terms = "hard-mined centre loss", f"mining {config.mining}, margin {config.center_loss_margin}, "
    if config.mining == "none":
        kind, terms = "centre loss", ""
    loss = f"cross entropy + {config.center_loss_weight} x {kind} ({terms}alpha {config.center_loss_alpha})"
    if config.active_stages:
        loss += f" + {config.stage_loss_weight} x cross entropy of the stages"
    if config.active_attributes:
        loss += f" + {config.attribute_loss_weight} x mean cross entropy of {len(config.active_attributes)} attributes"
    return f"ResNet-34, norm layout {config.norm_layout}", loss
