#!/usr/bin/env python
"""Trains and evaluates the white-blood-cell classifier.

    accelerate launch train.py                                                     # drawn cells, no network needed
    accelerate launch train.py --dataset_name data/bccd --output_dir outputs/bccd  # the paper's recipe on real cells

Defaults are the recipe of Ma et al. 2020; `--help` lists every argument, those of transformers' Trainer included.
The output folder holds the model as `from_pretrained` reads it, `test_results.json`, the plots and a model card.
"""

import json
import logging
import math
import os
import random
import shlex
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode, v2
from transformers import HfArgumentParser, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.image_utils import ChannelDimension
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from hub import dataset as hub_dataset
from hub.calibration import choose_limit, fit_novelty, fit_temperature
from hub.evaluation import KNOWN_COLUMNS, evaluate_logits, parts_rows, write_predictions
from hub.memory import keep_freed_memory
from hub.metrics import WBCMetric, table_1, text_table
from hub.model import write_card
from hub.plots import plot_confusion_matrix, plot_learning_curves
from hub.repository import HTTP_ERRORS, one_line
from hub.rivals import RIVALS, describe_rival, divide_logits, load_rival, normalization_of, rival_of
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor, WBCModel
from modeling_wbc.configuration_wbc import MINING, NORM_LAYOUTS

logger = logging.getLogger(__name__)

PAPERS = "ibn-resnet34"
IMAGENET_WEIGHTS = "microsoft/resnet-34"
PAPER_BATCH_SIZE = 128
# So many training images tell what a smear looks like.
SMEARS_FITTED = 2000


class PublisherAugmentation:
    """A photograph of BCCD -> one of the files that its publisher could have made of it.

    It is resized to 320 x 240 pixels, rotated by up to 20 degrees, shifted by up to 10 % of its sides, sheared by up
    to 0.2 radians, all uniform, filled with black, flipped both ways by chance, and its grey levels are stretched to
    end at 0 and 255: Keras' ImageDataGenerator with `save_to_dir`. The affine maps that `hub dataset build` finds for
    TRAIN's 9,957 files lie within these bounds and reach them. Draws from torch's generator.
    """

    size = (320, 240)

    def __call__(self, image: Image.Image) -> Image.Image:
        rotation, down, right, shear = (torch.rand(4, dtype=torch.float64) * 2 - 1).tolist()
        rotation, shear = math.radians(20) * rotation, 0.2 * shear
        width, height = self.size
        sine, cosine = math.sin(rotation), math.cos(rotation)
        # Keras' matrices, rows before columns, from a pixel of the result to its source, about the middle.
        matrix = (
            np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
            @ np.array([[1, 0, 0.1 * height * down], [0, 1, 0.1 * width * right], [0, 0, 1]])
            @ np.array([[1, -math.sin(shear), 0], [0, math.cos(shear), 0], [0, 0, 1]])
        )
        middle = np.array([[1, 0, height / 2], [0, 1, width / 2], [0, 0, 1]])
        (a, b, c), (d, e, f), _ = (middle @ matrix @ np.linalg.inv(middle)).tolist()
        image = image.resize(self.size, Image.Resampling.BOX)
        # Pillow's coefficients put columns before rows.
        image = image.transform(self.size, Image.Transform.AFFINE, (e, d, f, b, a, c), Image.Resampling.BILINEAR)
        for flip in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
            if torch.rand(()) < 0.5:
                image = image.transpose(flip)
        pixels = np.asarray(image, dtype=np.float32)
        pixels = pixels - pixels.min()
        return Image.fromarray(np.rint(pixels * (255 / max(1.0, pixels.max()))).astype(np.uint8))


class StainJitter:
    """An image of a smear -> the same smear as another lab could have stained and lit it: a tensor (3, H, W), uint8.

    In optical density, which is the amount of stain times its colour (Beer and Lambert), the image is taken apart into
    haematoxylin, eosin and diaminobenzidine (Ruifrok & Johnston 2001), whose mixtures the dyes of blood smears are.
    The amount of each is multiplied by a factor between 1 - `stain` and 1 + `stain` (Tellez et al. 2018), and the
    light of each channel by one between exp(-`light`) and exp(`light`), all uniform but for the exponential. Draws
    from torch's generator.
    """

    # Rows: what each stain takes of red, green and blue light.
    colors = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])

    def __init__(self, stain: float = 0.3, light: float = 0.05):
        self.stain = stain
        self.light = light
        self.amounts = torch.linalg.inv(self.colors)

    def __call__(self, image) -> Tensor:
        pixels = v2.functional.to_image(image)
        density = -torch.log((pixels.float() + 1) / 256).flatten(1)  # (3, H * W)
        factors = 1 + self.stain * (2 * torch.rand(3) - 1)
        light = self.light * (2 * torch.rand(3, 1) - 1)
        mixed = (self.amounts * factors) @ self.colors  # (3, 3), from densities to densities
        jittered = 256 * torch.exp(light - mixed.T @ density) - 1
        return jittered.clamp(0, 255).round().to(torch.uint8).reshape(pixels.shape)


_FLIPS_AND_ROTATIONS = (
    v2.RandomHorizontalFlip(),
    v2.RandomVerticalFlip(),
    v2.RandomRotation(180, interpolation=InterpolationMode.BILINEAR),
)
# What may be done to a training image. The paper rotates and flips, and changes neither scale nor colour, because the
# size and the intensity of the nucleus tell the classes apart.
AUGMENTATIONS = {
    "none": None,
    "paper": v2.Compose(_FLIPS_AND_ROTATIONS),
    "strong": v2.Compose([*_FLIPS_AND_ROTATIONS, StainJitter()]),
}


# What smears look like is told by images of them as many labs could have made them. Of PBC's four types, a
# model of BCCD alone keeps 2 % without this and 94 % with it; with more of it, red cells pass for white ones.
ANY_LAB = StainJitter(stain=0.5, light=0.12)


class CellWindow:
    """A training image -> the window around one of its cells, as the network sees it: a tensor (3, S, S).

    Place and size of the window vary, so that the classifier forgives the finder: it is shifted by up to a tenth of
    its side and zoomed by 0.75 to 1.35, log-uniformly. `augment` is applied to a larger piece, so that a rotation
    turns the cell's surroundings in and not black corners, and scaled down, where it is large, to what the network
    can see the details of. Draws from torch's generator.
    """

    shift = 0.1
    zoom = (0.75, 1.35)
    detail = 1.5  # pixels of the piece for each of the network's input

    def __init__(self, image_processor: WBCImageProcessor, augment):
        self.image_processor = image_processor
        self.augment = augment

    def __call__(self, image: Image.Image, box: Tensor) -> Tensor:
        """The window around the cell in `box` (4,): left, top, right and bottom in pixels."""
        left, top, right, _ = self.image_processor.windows(box[None])[0].tolist()
        x, y, size = (torch.rand(3, dtype=torch.float64) * 2 - 1).tolist()
        low, high = map(math.log, self.zoom)
        side = (right - left) * math.exp((low + high + size * (high - low)) / 2)
        x, y = (left + right) / 2 + self.shift * side * x, top + (right - left) / 2 + self.shift * side * y
        half = side * math.sqrt(2) / 2
        (piece,) = self.image_processor.crop(image, torch.tensor([[x - half, y - half, x + half, y + half]]))
        if side > (seen := self.detail * self.image_processor.size["height"]):
            side = seen
            piece = v2.functional.resize(piece, [math.ceil(side * math.sqrt(2))] * 2, antialias=True)
        return v2.functional.center_crop(self.augment(piece), [max(1, round(side))])


class TrainingError(Exception):
    """Something the user can mend; the message says how."""


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
    photographs: bool = field(
        default=False,
        metadata={
            "help": "Whether to show, in place of each file of BCCD, the photograph that it was made from, augmented "
            "afresh each time as the publisher did it, and not by --augment. Needs a dataset that knows them."
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
            "choices": [PAPERS, *RIVALS],
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
                raise TrainingError(
                    f"the batch of {PAPER_BATCH_SIZE} does not divide into {shares} equal shares (processes x devices "
                    "x accumulation steps). Name --per_device_train_batch_size."
                )
            self.per_device_train_batch_size = PAPER_BATCH_SIZE // shares


class CellImages(torch.utils.data.Dataset):
    """Rows of a `datasets.Dataset` as the model's input: `pixel_values` (3, H, W) float32 and `labels`, an int.

    The augmentation of a row is a function of seed, epoch and row alone, so that a resumed run sees the same images
    whatever the number of worker processes.

    With `photographs`, rows with a column `photograph`, the rows whose `photograph` is among these show it instead,
    augmented by `PublisherAugmentation`.

    Where the image processor finds cells, `augment` comes with the window, see `CellWindow`. Each image's foremost
    cell is looked for once, and not at all where the dataset has a column `foremost_cell`, as
    `hub.dataset.foremost_cell` gives it. `stain` changes the images before anything else.
    """

    def __init__(
        self, dataset, image_processor, label_ids: list[int], augment=None, seed: int = 0, photographs=None, stain=None
    ):
        self.dataset = dataset
        self.image_processor = image_processor
        self.labels = [label_ids[label] for label in dataset["label"][:]]
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        # Of each row's foremost cell, not a number before it is looked for: once, and for all worker processes.
        self.boxes = torch.full((len(dataset), 4), torch.nan).share_memory_()
        if "foremost_cell" in dataset.column_names:
            self.boxes[:] = torch.tensor(dataset["foremost_cell"][:])
        self.stain = stain
        self.photographs = photographs
        if photographs is not None:
            row_of = {name: row for row, name in enumerate(photographs["photograph"][:])}
            self.photograph_rows = [row_of.get(name) for name in dataset["photograph"][:]]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def origins(self) -> list[str]:
        """The name of the data set that each row is from, one and the same where the column is missing."""
        return self.dataset["dataset"][:] if "dataset" in self.dataset.column_names else [""] * len(self)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        photograph = None if self.photographs is None else self.photograph_rows[index]
        source, row = (self.dataset, index) if photograph is None else (self.photographs, photograph)
        image: Image.Image = source[row]["image"].convert("RGB")
        find_cell = self.image_processor.do_find_cell
        with self._drawing(index):
            if self.stain is not None:
                image = v2.functional.to_pil_image(self.stain(image))
            if self.augment is not None and photograph is not None:
                image = PublisherAugmentation()(image)
            changes = self.stain is not None or photograph is not None
            box = self._box(image, index, changes) if find_cell else torch.zeros(4)
            if box.any() and self.augment is None:
                (image,) = self.image_processor.crop(image, self.image_processor.windows(box[None]))
            elif box.any():
                image = CellWindow(self.image_processor, self.augment)(image, box)
            elif self.augment is not None and (find_cell or photograph is None):
                image = self.augment(image)
        # Said, since a window may be three pixels high and wide.
        form = {"input_data_format": ChannelDimension.FIRST} if isinstance(image, Tensor) else {}
        inputs = self.image_processor(image, do_find_cell=False, return_tensors="pt", **form)
        return {"pixel_values": inputs["pixel_values"][0], "labels": self.labels[index]}

    @contextmanager
    def _drawing(self, index: int):
        """Draws from torch's generator are a function of seed, epoch and row, and leave no trace."""
        with torch.random.fork_rng(devices=[]):
            # Not `torch.manual_seed`, which takes a millisecond to seed the accelerators too.
            torch.default_generator.manual_seed(random.Random(f"{self.seed} {self.epoch} {index}").getrandbits(63))
            yield

    def _box(self, image: Image.Image, index: int, changes: bool) -> Tensor:
        """The box of the image's foremost cell, or zeros where it has none."""
        if changes:
            return hub_dataset.foremost_cell(self.image_processor, image)
        if self.boxes[index].isnan().any():
            self.boxes[index] = hub_dataset.foremost_cell(self.image_processor, image)
        return self.boxes[index]


class BalancedSampler(torch.utils.data.Sampler):
    """Draws rows with replacement: a dataset, a class of it, a photograph of that and a file of that, each evenly.

    What a row lacks (`dataset`, `photograph`) is passed over. The rows drawn are a function of seed and epoch.
    """

    def __init__(self, images: CellImages):
        self.images = images
        rows = images.dataset
        columns = [rows[name][:] for name in ("dataset", "label", "photograph") if name in rows.column_names]
        # From the dataset down to the row; an unknown photograph is one of its own.
        paths = [
            (*(("row", row) if value is None else value for value in values), row)
            for row, values in enumerate(zip(*columns, strict=True))
        ]
        choices: dict[tuple, set] = defaultdict(set)
        for path in paths:
            for depth, choice in enumerate(path):
                choices[path[:depth]].add(choice)
        shares = [math.prod(1 / len(choices[path[:depth]]) for depth in range(len(path))) for path in paths]
        self.weights = torch.tensor(shares, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(random.Random(f"{self.images.seed} {self.images.epoch}").getrandbits(63))
        yield from torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist()


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
                raise TrainingError(
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
            raise TrainingError(
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
        except HTTP_ERRORS as error:
            raise TrainingError(
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
            raise TrainingError(
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
            raise TrainingError(
                f"{args.output_dir} holds {last.name} of an earlier run. Go on from it with --resume_from_checkpoint, "
                "or name another --output_dir."
            )
        return None
    if args.resume_from_checkpoint.lower() in ("last", "true"):
        if last is None:
            logger.warning(f"{args.output_dir} holds no complete checkpoint: training starts from the beginning.")
        return str(last) if last else None
    if not Path(args.resume_from_checkpoint, "trainer_state.json").is_file():
        raise TrainingError(f"{args.resume_from_checkpoint} is no checkpoint of this script, or not a complete one.")
    return args.resume_from_checkpoint


def only_of(dataset, name: str):
    """The splits, with those for training and validation cut to the rows whose column `dataset` says `name`."""
    known = dataset["train"].unique("dataset") if "dataset" in dataset["train"].column_names else []
    if name not in known:
        raise TrainingError(f"--train_on names {name!r}; the column `dataset` of the training split has {known}.")
    cut = {}
    for split in {"train", "validation"} & set(dataset):
        (rows,) = np.nonzero(np.array(dataset[split]["dataset"][:]) == name)
        cut[split] = dataset[split].select(rows)
    return type(dataset)({**dataset, **cut})


def base_weights(model_args: ModelArguments, data_args: DataArguments) -> str | None:
    """Where the weights start: an id or a folder, or None for random ones."""
    rival = RIVALS.get(model_args.architecture)
    imagenet = rival.weights if rival else IMAGENET_WEIGHTS
    source = model_args.model_name_or_path or (imagenet if data_args.dataset_name else "none")
    return None if source == "none" else source


def load_model(args: ModelArguments, source: str | None, names: list[str], do_train: bool):
    """The model to train or evaluate.

    With weights whose classes are those of the dataset, in any order, everything is loaded. With others, training
    starts from all of them but the classifier and the class centres. Evaluation alone needs a model that knows every
    class of the dataset.
    """
    overrides = {
        name: getattr(args, name)
        for name in ("norm_layout", "center_loss_weight", "center_loss_margin", "mining", "image_size")
        if getattr(args, name) is not None
    }
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    try:
        if source is None and not do_train:
            raise TrainingError("--do_eval alone needs the folder of a trained model as --model_name_or_path.")
        held = None if source is None else rival_of(source)
        architecture = args.architecture or held or PAPERS
        if architecture in RIVALS:
            if others := sorted(overrides.keys() - {"image_size"}):
                raise TrainingError(f"--{others[0]} belongs to {PAPERS}; leave it out for {architecture}.")
            model = load_rival(architecture, source, names, args.image_size, do_train)
        elif held is not None:
            raise TrainingError(f"{source} holds {held}, which --architecture {PAPERS} does not start from.")
        elif source is None:
            model = WBCForImageClassification(WBCConfig(**labels, **overrides))
        else:
            config = WBCConfig.from_pretrained(source, **overrides)
            if do_train:  # What was fitted to these weights does not fit those to come.
                config.temperature, config.max_novelty = 1.0, None
            known = set(config.id2label.values())
            if known == set(names) or (not do_train and known >= set(names)):
                model = WBCForImageClassification.from_pretrained(source, config=config)
            elif do_train:
                config.id2label, config.label2id = labels["id2label"], labels["label2id"]
                model = WBCForImageClassification(config)
                model.resnet = WBCModel.from_pretrained(source, config=config)
            else:
                raise TrainingError(
                    f"the dataset's classes {sorted(set(names) - known)} are unknown to {source}, which tells apart "
                    f"{sorted(known)}. Evaluate it on a dataset of these, or train it with --do_train."
                )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"could not load the weights {source}: {reason} Name a folder or another id as --model_name_or_path, or "
            "'none' to start from random weights."
        ) from error
    except (ValueError, ImportError) as error:
        raise TrainingError(f"{one_line(error).rstrip('.')}.") from error
    return model


def load_image_processor(
    source: str | None, image_size: int, find_cell: bool | None, normalization: dict | None = None
) -> WBCImageProcessor:
    """The image processor to train and evaluate with: that of the weights, if they were trained here, or a new one
    with `normalization`, in either case for `image_size`, and with `find_cell` if it is not None."""
    known = {}
    if source is not None:
        with suppress(OSError):  # not every folder of weights has one
            known, _ = WBCImageProcessor.get_image_processor_dict(source)
    if known.get("image_processor_type") != WBCImageProcessor.__name__:
        known = {"do_find_cell": False} | (normalization or {})
    known |= {"size": {"height": image_size, "width": image_size}}
    if find_cell is not None:
        known["do_find_cell"] = find_cell
    return WBCImageProcessor.from_dict(known)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def calibrate(trainer: WBCTrainer, images: CellImages) -> str:
    """Fits temperature and limit to the validation split, and what tells smears from other images to training images.

    `images` are those of the training split, stained as any lab could, and otherwise unchanged. A rival has the
    temperature alone. Returns what was fitted, in words.
    """
    model, validation = trainer.model, trainer.eval_dataset
    is_rival = not isinstance(model, WBCForImageClassification)
    if not is_rival:
        model.config.temperature = 1.0
        fit_smears(trainer, images)
    output = trainer.predict(validation, metric_key_prefix="calibration")
    temperature = fit_temperature(logits_of(output.predictions), output.label_ids)
    fitted = f"temperature {temperature:.3f}"
    if is_rival:
        divide_logits(model, temperature)
    else:
        model.config.temperature = temperature
        model.config.max_novelty = choose_limit(output.predictions[2], validation.origins)
        fitted += f", known up to a novelty of {model.config.max_novelty:.2f}"
    logger.info(f"fitted to {len(validation)} images of validation: {fitted}")
    return f"{fitted}, by validation"


def fit_smears(trainer: WBCTrainer, images: CellImages) -> None:
    """Fits [`SmearNovelty`] to the images, or to `SMEARS_FITTED` of them."""
    model = trainer.model.eval()
    statistics = []
    for batch in trainer.get_eval_dataloader(
        torch.utils.data.Subset(images, evenly_drawn(images.origins, SMEARS_FITTED, images.seed))
    ):
        pixel_values = batch["pixel_values"].contiguous(memory_format=trainer.memory_format)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            stage = model.resnet.encoder.stages[0](model.resnet.embedder(pixel_values))
        statistics.append(trainer.accelerator.gather_for_metrics(model.novelty.statistics(stage)))
    mean, whitening = fit_novelty(torch.cat(statistics).numpy(force=True))
    model.novelty.mean.copy_(torch.from_numpy(mean))
    model.novelty.whitening.copy_(torch.from_numpy(whitening))


def logits_of(predictions) -> np.ndarray:
    """The logits among what the Trainer predicts: of a rival that is all there is."""
    return predictions[0] if isinstance(predictions, tuple) else predictions


def evenly_drawn(origins: list[str], count: int, seed: int) -> list[int]:
    """Rows, at most about `count`, drawn without replacement and in equal numbers from each of the `origins`."""
    names = list(dict.fromkeys(origins))
    generator, origins = np.random.default_rng(seed), np.array(origins)
    drawn = [generator.permutation(np.flatnonzero(origins == name))[: -(-count // len(names))] for name in names]
    return sorted(np.concatenate(drawn).tolist())


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
        torch.set_num_threads(max(1, cpu_count() // args.world_size))
    if args.use_cpu:
        keep_freed_memory()

    with args.main_process_first(desc="loading the dataset"):
        dataset = hub_dataset.load(data_args.dataset_name, data_args.dataset_config_name)
    needed = ["train"] * (args.do_train or model_args.calibrate) + ["validation"] * model_args.calibrate
    needed += ["test"] * args.do_eval
    if missing := [split for split in needed if split not in dataset]:
        raise TrainingError(
            f"{data_args.dataset_name} has no split {' and no split '.join(missing)}, only {', '.join(dataset)}."
        )
    if data_args.photographs and "train_photographs" not in dataset:
        raise TrainingError(
            f"--photographs needs a dataset with a split train_photographs; {data_args.dataset_name or 'drawn cells'} "
            f"has only {', '.join(dataset)}. `python -m hub dataset build bccd` makes one where it finds the "
            "photographs."
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
        args.dataloader_num_workers = max(1, min(8, cpu_count() // args.world_size - 1))
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
        train_dataset=(
            images(
                "train",
                data_args.augment,
                photographs=dataset["train_photographs"] if data_args.photographs else None,
            )
            if args.do_train
            else None
        ),
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
                rival=describe_rival(model) if is_rival else None,
                model_id=trainer.hub_model_id,
            )
    if args.push_to_hub:
        trainer.push_to_hub()


def cpu_count() -> int:
    """The CPUs that this process may run on, which in a container or under taskset are not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        network, loss = f"{describe_rival(trainer.model)}, {size}", "cross entropy"
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
            "Augmentation": data_args.augment
            + (", of BCCD its photographs afresh as the publisher did it" if data_args.photographs else ""),
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


def write_report(
    output_dir: str,
    dataset,
    dataset_name: str | None,
    results: dict,
    names: list[str],
    rival: str | None,
    model_id: str | None,
) -> None:
    """Plots and model card in the output folder, of its weights' training and the evaluation just made.

    `rival` says what network it is, if it is not the paper's; `model_id` is the id that the model has on the Hub, if
    it is pushed there.
    """
    folder = Path(output_dir)
    bccd = hub_dataset.class_counts(dataset["test"]) == hub_dataset.BCCD_PUBLISHED["test"]
    shown_name = "BCCD" if bccd else dataset_name or "drawn cells"
    plot_confusion_matrix(results, names, folder / "confusion_matrix.png", f"{shown_name}, test")
    trained = folder / "train_results.json"
    if not trained.is_file():
        logger.info(f"no model card: {folder} does not hold a model that was trained there")
        return
    training = json.loads(trained.read_text())
    state = json.loads((folder / "trainer_state.json").read_text())
    plot_learning_curves(state["log_history"], folder / "learning_curves.png")
    write_card(
        folder,
        results=results,
        label_names=names,
        dataset_name=shown_name,
        split="test",
        base_model=training["base_model"],
        command=training["command"],
        recipe=training["recipe"],
        synthetic=dataset_name is None,
        bccd=bccd,
        rival=rival,
        model_id=model_id,
    )


if __name__ == "__main__":
    try:
        main()
    except (TrainingError, hub_dataset.DatasetError) as error:
        sys.exit(f"error: {error}")
