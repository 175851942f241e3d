#!/usr/bin/env python
"""Trains and evaluates the white-blood-cell classifier.

    accelerate launch train.py                                                     # drawn cells, no network needed
    accelerate launch train.py --dataset_name data/bccd --output_dir outputs/bccd  # the paper's recipe on real cells

Defaults are the recipe of Ma et al. 2020; `--help` lists every argument, those of transformers' Trainer included.
The output folder holds the model as `from_pretrained` reads it, `test_results.json`, the plots and a model card.
"""

import json
import logging
import os
import sys
from pathlib import Path

import joblib
import torch
import transformers
from transformers import HfArgumentParser, set_seed
from transformers.trainer_utils import IntervalStrategy

from hub.data.load import load
from hub.evaluation.metrics import WBCMetric
from hub.files import UserError, write_json
from hub.publish.model_card import write_report
from hub.study.baselines import describe_baseline, normalization_of
from hub.training.arguments import DataArguments, ModelArguments, WBCTrainingArguments
from hub.training.augmentation import ANY_LAB, AUGMENTATIONS
from hub.training.calibration import calibrate, logits_of
from hub.training.images import CellImages, only_of
from hub.training.memory import keep_freed_memory
from hub.training.report import describe_training, evaluate_split
from hub.training.trainer import AugmentationEpoch, WBCTrainer, checkpoint_to_resume
from hub.training.weights import base_weights, load_image_processor, load_model
from modeling_wbc import WBCForImageClassification

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> None:
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, WBCTrainingArguments), description=__doc__.splitlines()[0]
    )
    model_args, data_args, args = parser.parse_args_into_dataclasses(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    for http in ("httpx", "httpx2"):  # which name each request to the Hub
        logging.getLogger(http).setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    resume = checkpoint_to_resume(args) if args.do_train else None
    set_seed(args.seed)
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if args.use_cpu and launched and os.environ.get("OMP_NUM_THREADS") == "1":
        # What launchers set unless told otherwise: it suits a GPU's process and leaves the other cores idle.
        torch.set_num_threads(max(1, joblib.cpu_count() // args.world_size))
    if args.use_cpu:
        keep_freed_memory()

    with args.main_process_first(desc="loading the dataset"):
        dataset = load(data_args.dataset_name, data_args.dataset_config_name)
    needed = ["train"] * (args.do_train or model_args.calibrate) + ["validation"] * model_args.calibrate
    needed += ["test"] * args.do_eval
    if missing := [split for split in needed if split not in dataset]:
        raise UserError(
            f"{data_args.dataset_name} has no split {' and no split '.join(missing)}, only {', '.join(dataset)}."
        )
    if data_args.train_on:
        dataset = only_of(dataset, data_args.train_on)
    names = dataset[needed[0]].features["label"].names
    source = base_weights(model_args, data_args)
    model = load_model(model_args, source, names, args.do_train)
    is_rival = not isinstance(model, WBCForImageClassification)
    image_processor = load_image_processor(
        source, model.config.image_size, data_args.find_cell, normalization_of(model) if is_rival else None
    )
    if image_processor.do_find_cell and args.dataloader_num_workers == 0:
        # So that the network does not wait for windows to be found.
        args.dataloader_num_workers = max(1, min(8, joblib.cpu_count() // args.world_size - 1))
    memory_format = torch.channels_last if model_args.channels_last else torch.contiguous_format
    model = model.to(memory_format=memory_format)
    # The model's order of the classes counts, which need not be the dataset's.
    label_ids = [model.config.label2id[name] for name in names]
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]

    def images(split: str, augment: str = "none", **options) -> CellImages:
        return CellImages(dataset[split], image_processor, label_ids, AUGMENTATIONS[augment], args.seed, **options)

    metric = WBCMetric(keep_in_memory=True)
    if "validation" in dataset and args.do_train and args.do_eval and args.eval_strategy == IntervalStrategy.NO:
        args.eval_strategy = IntervalStrategy.EPOCH
    sgd = (torch.optim.SGD, {"lr": args.learning_rate, "momentum": args.momentum})
    trainer = WBCTrainer(
        model=model,
        args=args,
        train_dataset=(images("train", data_args.augment) if args.do_train else None),
        eval_dataset=images("validation") if "validation" in dataset else None,
        processing_class=image_processor,
        compute_metrics=lambda output: metric.compute(
            predictions=logits_of(output.predictions).argmax(-1), references=output.label_ids, label_names=names
        ),
        optimizer_cls_and_kwargs=sgd if args.optim == "sgd" else None,
        memory_format=memory_format,
        balanced=data_args.balanced,
    )

    if args.do_train:
        trainer.add_callback(AugmentationEpoch(trainer.train_dataset))
        metrics = trainer.train(resume_from_checkpoint=resume).metrics
        calibration = "none"
        if trainer.eval_dataset is not None:
            calibration = calibrate(trainer, images("train", stain=ANY_LAB))
        with trainer.saving(Path(args.output_dir)):
            trainer.save_model(_internal_call=True)  # pushed below, with its card
            trainer.save_state()
            if trainer.is_world_process_zero():
                metrics |= describe_training(trainer, model_args, data_args, calibration, metrics["train_runtime"])
                write_json(Path(args.output_dir, "train_results.json"), metrics)
    elif model_args.calibrate:
        calibration = calibrate(trainer, images("train", stain=ANY_LAB))
        with trainer.saving(Path(args.output_dir)):
            trainer.save_model(_internal_call=True)
            trained = Path(args.output_dir, "train_results.json")
            if trainer.is_world_process_zero() and trained.is_file():
                metrics = json.loads(trained.read_text())
                metrics["recipe"]["Calibration"] = calibration
                write_json(trained, metrics)
    if args.do_eval:
        has_fields = "train" in dataset and "field" in dataset["train"].column_names
        seen_fields = set(dataset["train"]["field"][:]) - {None} if has_fields else set()
        for split in ("validation", "test_photographs", "test_simple", "test"):
            if split in dataset:
                # In validation, training has found the cells already.
                split_images = trainer.eval_dataset if split == "validation" else images(split)
                results = evaluate_split(trainer, split_images, names, split, seen_fields)
        if trainer.is_world_process_zero():
            write_report(
                args.output_dir,
                dataset,
                data_args.dataset_name,
                results,
                names,
                rival=describe_baseline(model) if is_rival else None,
                model_id=trainer.hub_model_id,
            )
    if args.push_to_hub:
        trainer.push_to_hub()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
