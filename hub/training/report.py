"""Figures, plots and card of a training run."""

import logging
import shlex
import sys
from pathlib import Path

import torch
import transformers

from hub.evaluation.compare import write_predictions
from hub.evaluation.format import table_1, text_table
from hub.evaluation.subsets import KNOWN_COLUMNS, evaluate_logits, parts_rows
from hub.files import write_json
from hub.study.baselines import describe_baseline
from hub.training.calibration import logits_of
from hub.training.images import CellImages
from hub.training.trainer import WBCTrainer
from hub.training.weights import base_weights
from modeling_wbc import WBCForImageClassification

logger = logging.getLogger(__name__)


def evaluate_split(trainer: WBCTrainer, images: CellImages, names: list[str], split: str, seen_fields: set) -> dict:
    """Figures of one split, also written to `<split>_results.json`, and its predictions, `<split>_predictions.csv`."""
    output = trainer.predict(images, metric_key_prefix=split)
    logits = logits_of(output.predictions)
    columns = {name: images.dataset[name][:] for name in KNOWN_COLUMNS if name in images.dataset.column_names}
    results = {name.removeprefix(f"{split}_"): value for name, value in output.metrics.items()}
    known, scores = None, {}
    if isinstance(trainer.model, WBCForImageClassification):
        _, distance, novelty = output.predictions
        scores = {"distance": map("{:.4f}".format, distance), "novelty": map("{:.4f}".format, novelty)}
        if (limit := trainer.model.config.max_novelty) is not None:
            known = novelty <= limit
    results |= evaluate_logits(logits, output.label_ids, names, columns, seen_fields, known)
    if trainer.is_world_process_zero():
        folder = Path(trainer.args.output_dir)
        write_json(folder / f"{split}_results.json", results)
        write_predictions(folder / f"{split}_predictions.csv", logits, output.label_ids, names, columns | scores)
        print(f"\n{split}: {len(images)} images\n{table_1(results, names)}")
        if results["subsets"]:
            print(f"\n{split}, in parts\n{text_table(parts_rows(results))}")
    return results


def describe_training(trainer: WBCTrainer, model_args, data_args, calibration: str, runtime: float) -> dict:
    """What the model card tells of a training run, as `train_results.json` keeps it."""
    args, config, processor = trainer.args, trainer.model.config, trainer.processing_class
    processes = f"--num_processes {args.world_size} " if args.world_size > 1 else ""
    batch = args.per_device_train_batch_size * max(1, args.n_gpu) * args.world_size * args.gradient_accumulation_steps
    optimizer = f"SGD, momentum {args.momentum}" if args.optim == "sgd" else str(args.optim)
    clip = f", gradient norm clipped at {args.max_grad_norm}" if args.max_grad_norm else ""
    size = f"{config.image_size} x {config.image_size} px"
    if isinstance(trainer.model, WBCForImageClassification):
        network = f"ResNet-34, norm layout {config.norm_layout}, {size}"
        mined = f"mining {config.mining}, margin {config.center_loss_margin}, "
        kind, terms = ("centre loss", "") if config.mining == "none" else ("hard-mined centre loss", mined)
        loss = f"cross entropy + {config.center_loss_weight} x {kind} ({terms}alpha {config.center_loss_alpha})"
    else:
        network, loss = f"{describe_baseline(trainer.model)}, {size}", "cross entropy"
    return {
        "command": f"accelerate launch {processes}{shlex.join(sys.argv)}",
        "dataset": data_args.dataset_name,
        "base_model": base_weights(model_args, data_args),
        "recipe": {
            "Network": network,
            "Loss": loss,
            "Images": (
                f"windows around cells, side {processor.window_size} in units of '{processor.window_unit}', "
                "in training varied in place and size"
                if processor.do_find_cell
                else "whole fields"
            ),
            "Label smoothing": args.label_smoothing_factor,
            "Augmentation": data_args.augment,
            "Data sets": data_args.train_on or "all",
            "Sampling": "evenly over data sets, classes and photographs" if data_args.balanced else "every image once",
            "Optimiser": f"{optimizer}, weight decay {args.weight_decay}{clip}",
            "Learning rate": f"{args.learning_rate}, {args.lr_scheduler_type.value}, warm-up {args.warmup_steps:g}",
            "Batch": batch,
            "Epochs": round(trainer.state.epoch, 2),
            "Precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
            "Calibration": calibration,
            "Seed": args.seed,
            "Device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
            "Seconds of the last run": round(runtime),
            "Software": f"torch {torch.__version__}, transformers {transformers.__version__}",
        },
    }
