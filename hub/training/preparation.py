"""What precedes a training on stored crops: the crops, the teacher, the fit of the stain normaliser."""

from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedModel

from hub.files import UserError
from hub.training.arguments import MIXED, DataArguments
from hub.training.augmentation import AUGMENTATIONS
from hub.training.crops import CropImages
from hub.training.distillation import Distillation
from hub.training.images import CellImages
from hub.training.stain import fit_stain_normalizer
from hub.training.teacher import Teacher
from hub.training.trainer import WBCTrainer
from hub.training.views import CellViews
from modeling_wbc import WBCConfig, WBCForImageClassification


def training_images(images: partial[CellImages], dataset: Dataset, args: DataArguments) -> CellImages:
    """Return the training images: stored crops for `--augment mixed`, else images that are augmented one by one.

    Args:
        images: Makes `CellImages` of a split, with all arguments but `augment`.
        dataset: The training split.
        args: The augmentation.

    Raises:
        UserError: Stored crops are wanted of whole fields.
    """
    if args.augment != MIXED:
        return images(dataset, augment=AUGMENTATIONS[args.augment])
    if not images.keywords["image_processor"].do_find_cell:
        raise UserError(f"--augment {MIXED} shows crops of cells: add --find_cell, or name another augmentation.")
    return CropImages(dataset, **images.keywords)


def views_of(images: CellImages | None, image_size: int) -> CellViews | None:
    """The views of training images that are stored crops; None of others, which are augmented when they are read."""
    return CellViews(image_size) if isinstance(images, CropImages) else None


def prepare_crops(trainer: WBCTrainer, args: DataArguments, fit_stain: bool) -> None:
    """Store the crops, load the teachers, and fit a new stain normaliser to them or take the first teacher's.

    Args:
        trainer: Holds the model and the training images; nothing is done unless these are `CropImages`.
        args: Names the teachers.
        fit_stain: Whether to fit the model's `StainNormalizer` if its weights are new; a run that is resumed has it.

    Raises:
        UserError: There is no such teacher, it saw other labs or tells other types, or it is given without stored
            crops.
    """
    images, model = trainer.train_dataset, trainer.model
    if not isinstance(images, CropImages):
        if args.teacher:
            raise UserError(f"--teacher needs --augment {MIXED}, whose crops it looks at.")
        return
    with trainer.args.main_process_first(desc="cutting out cells"):
        images.store(trainer.args.dataloader_num_workers)
    teachers = [load_teacher(folder, trainer, args) for folder in args.teacher or ()]
    if teachers:
        trainer.distillation = Distillation(teachers)
    normalizer = getattr(getattr(model, "resnet", None), "stain", None)
    if normalizer is not None:
        if fit_stain and not normalizer.mixture.any():
            fitted = teachers[0].stain if teachers and isinstance(teachers[0], Teacher) else None
            if fitted is not None and fitted.size == normalizer.size:
                normalizer.load_state_dict(fitted.state_dict())  # teacher and student see the same
            else:
                fit_stain_normalizer(normalizer, images, device=trainer.args.device)
        normalizer.requires_grad_(False)


def load_teacher(folder: str, trainer: WBCTrainer, args: DataArguments) -> PreTrainedModel:
    """Load a teacher of the trainer's model: a `Teacher`, or a classifier with the same types.

    Raises:
        UserError: There is none in the folder, it may have seen labs that the training is not to see, or it tells
            other types, stages or attributes.
    """
    if not Path(folder, "config.json").is_file():
        raise UserError(f"--teacher: no trained teacher in {folder}; make one with `hub teacher`.")
    config, own = WBCConfig.from_pretrained(folder), trainer.model.config
    left_out = getattr(config, "left_out", None)
    if args.train_on or args.leave_out != left_out:
        flag = f"--leave_out {left_out}" if left_out else "neither --train_on nor --leave_out"
        raise UserError(
            f"--teacher: the one in {folder} needs {flag}, as it would tell of labs that this training is "
            "not to see. `hub teacher --leave_out LAB` makes one for another selection."
        )
    for name in ("id2label", "active_stages", "active_attributes"):
        if getattr(config, name) != getattr(own, name):
            raise UserError(f"--teacher: the one in {folder} has the {name} {getattr(config, name)}, not the model's.")
    kind = Teacher if hasattr(config, "teacher_network") else WBCForImageClassification
    return kind.from_pretrained(folder).to(trainer.args.device, memory_format=trainer.memory_format)
