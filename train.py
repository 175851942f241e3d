#!/usr/bin/env python
"""Train and evaluate the white-blood-cell classifier.

    accelerate launch train.py                                                     # drawn cells, no network needed
    accelerate launch train.py --dataset_name data/bccd --output_dir outputs/bccd  # the paper's recipe on real cells

Defaults are the recipe of Ma et al. 2020; `--help` lists every argument, those of transformers' Trainer included.
The output folder holds the model as `from_pretrained` reads it, `test_results.json`, the plots and a model card.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

import joblib
import torch
from datasets import DatasetDict
from transformers import HfArgumentParser, PreTrainedModel, set_seed
from transformers.trainer_utils import IntervalStrategy

from hub.data.load import load
from hub.data.union import check_trainable
from hub.evaluation.metrics import WBCMetric
from hub.publish.model_card import write_report
from hub.study.baselines import describe_baseline, divide_logits, normalization_of
from hub.study.networks import NetworkArguments, imagenet_weights_of, load_network
from hub.training.arguments import DataArguments, ModelArguments, WBCTrainingArguments
from hub.training.calibration import calibrate, logits_of
from hub.training.checks import check_arguments, check_model, check_trainer, refusing_arguments
from hub.training.failures import failure_of
from hub.training.images import CellImages, only_of, without_single_lab
from hub.training.preparation import prepare_crops, training_images, views_of
from hub.training.process import set_up_process
from hub.training.report import (
    command_line,
    describe_training,
    evaluate_split,
    is_finished,
    predict_split,
    save_calibration,
    save_training,
)
from hub.training.splits import EVALUATED_SPLITS, check_splits, cut_validation, has_evaluated_split
from hub.training.trainer import WBCTrainer, checkpoint_to_resume
from hub.training.weights import base_weights, load_image_processor
from modeling_wbc import WBCForImageClassification, WBCImageProcessor


def main(arguments: list[str] | None = None) -> None:
    """Train, calibrate, evaluate and push a classifier, as far as the arguments ask for it.

    Args:
        arguments: The command line. Default: that of the process.

    Raises:
        UserError: Arguments, data or weights are wrong, the training diverges, or a file cannot be written.
    """
    command = command_line(arguments)
    model_args, data_args, args = parse_arguments(arguments)
    set_up_process(args)
    resume = checkpoint_to_resume(args) if args.do_train else None
    set_seed(args.seed)
    dataset, cut = load_dataset(data_args, args)
    source = base_weights(model_args, data_args, imagenet_weights_of(model_args.architecture))
    model = load_network(model_args, source, dataset, bool(args.do_train))
    check_model(model, args)
    baseline = None if isinstance(model, WBCForImageClassification) else describe_baseline(model)
    image_processor = load_image_processor(
        source, model.config.image_size, data_args.find_cell, normalization_of(model)
    )
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    images = partial(CellImages, image_processor=image_processor, config=model.config, seed=args.seed)
    trainer = build_trainer(model, image_processor, dataset, images, names, model_args, data_args, args)
    if is_finished(trainer):
        return
    if args.do_train:
        prepare_crops(trainer, data_args, fit_stain=resume is None)
    metrics = trainer.train(resume_from_checkpoint=resume).metrics if args.do_train else None
    calibration = "none"
    if args.calibrate or (args.do_train and args.calibrates_training and "validation" in dataset):
        calibration = calibrate(trainer, images(dataset["train"]), divide_logits)
    if metrics is not None:
        description = describe_training(trainer, metrics, data_args, source, baseline, calibration, command, cut)
        save_training(trainer, description)
    elif args.calibrate:
        save_calibration(trainer, calibration)

    if args.do_eval:
        split, results = evaluate(trainer, dataset, images, names)
        if trainer.is_world_process_zero():
            about = (data_args.dataset_name, split, results, names, baseline, trainer.hub_model_id)
            write_report(args.output_dir, dataset, *about)
    elif args.do_predict:
        predict_split(trainer, images(dataset["test"]), names, "test")
    if args.push_to_hub:
        trainer.push_to_hub()


def parse_arguments(arguments: list[str] | None) -> tuple[NetworkArguments, DataArguments, WBCTrainingArguments]:
    """Parse and check the command line, and raise `UserError` if an argument cannot be as it is."""
    kinds = (NetworkArguments, DataArguments, WBCTrainingArguments)
    parser = HfArgumentParser(kinds, description=__doc__.splitlines()[0], usage="train.py [--ARGUMENT VALUE ...]")
    with refusing_arguments():
        model_args, data_args, args, unknown = parser.parse_args_into_dataclasses(arguments, True)
    check_arguments(model_args, data_args, args, unknown)
    return model_args, data_args, args


def load_dataset(data_args: DataArguments, args: WBCTrainingArguments) -> tuple[DatasetDict, str | None]:
    """Load the dataset, with a validation split, and return it and, if that was cut here, the cut in words.

    Raises:
        UserError: A split is missing that the run needs.
    """
    with args.main_process_first(desc="loading the dataset"):
        dataset = load(data_args.dataset_name, data_args.dataset_config_name)
        if args.do_train:
            check_trainable(dataset)
    needs_train = bool(args.do_train or args.calibrate)
    check_splits(dataset, data_args.dataset_name, train=needs_train, test=bool(args.do_predict))
    dataset = without_single_lab(only_of(dataset, data_args.train_on, data_args.leave_out))
    cut = None
    if needs_train:
        dataset, cut = cut_validation(dataset, data_args.validation_split, args.seed)
    check_splits(dataset, data_args.dataset_name, validation=args.needs_validation)
    args.do_eval = args.do_eval and has_evaluated_split(dataset, data_args.dataset_name, is_needed=not args.do_train)
    return dataset, cut


def build_trainer(
    model: PreTrainedModel,
    image_processor: WBCImageProcessor,
    dataset: DatasetDict,
    images: partial[CellImages],
    names: Sequence[str],
    model_args: ModelArguments,
    data_args: DataArguments,
    args: WBCTrainingArguments,
) -> WBCTrainer:
    """Build the Trainer, and set the defaults of `args` that depend on the dataset and the image processor.

    Args:
        model: The model to train or evaluate.
        image_processor: Saved with the model.
        dataset: Trains on its split `train`, validates on `validation`.
        images: Makes the model's input out of a split.
        names: The class names, in the order of the model's class ids.
        model_args: The memory format.
        data_args: Augmentation and sampling.
        args: All other arguments.
    """
    if image_processor.do_find_cell and args.chooses_workers:
        # Worker processes detect the cells while the network computes.
        args.dataloader_num_workers = max(1, min(8, joblib.cpu_count() // args.world_size - 1))
    if "validation" not in dataset or not args.do_train:
        args.eval_strategy = IntervalStrategy.NO
    memory_format = torch.channels_last if model_args.channels_last else torch.contiguous_format
    metric = WBCMetric(keep_in_memory=True)
    sgd = (torch.optim.SGD, {"lr": args.learning_rate, "momentum": args.momentum})
    train_images = training_images(images, dataset["train"], data_args) if args.do_train else None
    with refusing_arguments():
        trainer = WBCTrainer(
            model=model.to(memory_format=memory_format),
            args=args,
            train_dataset=train_images,
            eval_dataset=images(dataset["validation"]) if "validation" in dataset else None,
            processing_class=image_processor,
            compute_metrics=lambda output: metric.compute(
                predictions=logits_of(output.predictions).argmax(-1), references=output.label_ids, label_names=names
            ),
            optimizer_cls_and_kwargs=sgd if args.optim == "sgd" else None,
            memory_format=memory_format,
            balanced=data_args.balanced,
            balance=data_args.balance,
            views=views_of(train_images, model.config.image_size),
        )
    check_trainer(trainer)
    return trainer


def evaluate(
    trainer: WBCTrainer, dataset: DatasetDict, images: Callable[..., CellImages], names: Sequence[str]
) -> tuple[str, dict]:
    """Evaluate the model on every split for evaluation, and return the name and the results of the last one."""
    has_fields = "train" in dataset and "group" in dataset["train"].column_names
    seen_fields = set(dataset["train"]["group"][:]) - {None} if has_fields else set()
    for split in (name for name in EVALUATED_SPLITS if name in dataset):
        # The validation images of training have their cells detected already.
        split_images = trainer.eval_dataset if split == "validation" else images(dataset[split])
        results = evaluate_split(trainer, split_images, names, split, seen_fields)
    return split, results


if __name__ == "__main__":
    sys.exit(failure_of(main))
