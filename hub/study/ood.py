"""How well a classifier says "I don't know": images that show no white cell, and how many of them it refuses."""

import importlib.util
import json
import logging
import os
import string
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AutoImageProcessor

from hub.data.load import load
from hub.evaluation.intervals import wilson_interval
from hub.files import UserError, check_output
from hub.inference.predict import load_classifier
from hub.study.detection import boxes_sheet, empty_halves, find_annotated
from modeling_wbc import Field, WBCImageProcessor

logger = logging.getLogger(__name__)


_SIZE = (320, 240)


_DRAWN = 200  # images of each kind that is drawn


_CROPS = 6  # of each sample photograph, beside the whole


# Packages that many have installed, and where in them sample images lie.
_SAMPLES = (("skimage", "data"), ("sklearn", "datasets/images"), ("matplotlib", "mpl-data/sample_data"))


_ENDINGS = (".jpg", ".png")


def ood_images(bccd: Path | None = None) -> Iterator[tuple[str, Image.Image]]:
    """Yields (kind, RGB image) of everything that a classifier of white cells should refuse.

    The kinds are `drawn scenes`, `noise`, `blank and colour`, `text`, `sample images` (of scikit-image, scikit-learn
    and matplotlib, as far as they are installed, whole and in pieces) and, with BCCD's photographs and annotations,
    `red cells` (halves of photographs in which no white cell is annotated or found). Always the same images.

    Args:
        bccd: A folder that holds `Original_Images` and `Annotations`.
    """
    for kind, draw in (
        ("drawn scenes", _scene),
        ("noise", _noise),
        ("blank and colour", _colour),
        ("text", _text),
    ):
        for seed in range(_DRAWN):
            yield kind, draw(np.random.default_rng([seed, len(kind)]))
    for path in sample_images():
        with Image.open(path) as image:
            image = image.convert("RGB")
        yield "sample images", image
        rng = np.random.default_rng(0)
        for _ in range(_CROPS):
            width, height = (int(side * rng.uniform(0.3, 0.7)) for side in image.size)
            left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
            yield "sample images", image.crop((left, top, left + width, top + height))
    if bccd is not None:
        photographs, processor = bccd / "Original_Images", WBCImageProcessor()
        findings = find_annotated(lambda image: processor.find_cells(image)[0], photographs, bccd / "Annotations")
        for half in empty_halves(findings, photographs):
            yield "red cells", half


def sample_images() -> list[Path]:
    """The sample images of installed packages, at least 64 pixels high and wide."""
    found = []
    for package, folder in _SAMPLES:
        spec = importlib.util.find_spec(package)
        if spec is None:
            logger.warning(f"{package} is not installed: its sample images are left out")
            continue
        for path in sorted(Path(spec.submodule_search_locations[0], folder).iterdir()):
            if path.suffix.lower() in _ENDINGS:
                with Image.open(path) as image:
                    if min(image.size) >= 64:
                        found.append(path)
    return found


def _scene(rng: np.random.Generator) -> Image.Image:
    """Ground under a sky, and shapes on them."""
    image = Image.new("RGB", _SIZE)
    pen = ImageDraw.Draw(image)
    width, height = _SIZE
    horizon = int(rng.uniform(0.3, 0.8) * height)
    for top, bottom in ((0, horizon), (horizon, height)):
        first, last = rng.integers(0, 256, (2, 3))
        for y in range(top, bottom):
            mix = (y - top) / (bottom - top)
            pen.line((0, y, width, y), tuple((first + mix * (last - first)).astype(int).tolist()))
    for _ in range(rng.integers(3, 15)):
        x, y = rng.uniform((0, 0), _SIZE)
        reach = rng.uniform(8, 90)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        match rng.integers(4):
            case 0:
                pen.ellipse((x - reach, y - reach * rng.uniform(0.3, 1), x + reach, y + reach), colour)
            case 1:
                pen.rectangle((x - reach, y - reach * rng.uniform(0.3, 1), x + reach, y + reach), colour)
            case 2:
                pen.polygon([(x + a, y + b) for a, b in rng.normal(0, reach, (rng.integers(3, 7), 2))], colour)
            case 3:
                pen.line((x, y, *rng.uniform((0, 0), _SIZE)), colour, width=int(rng.integers(1, 12)))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))


def _noise(rng: np.random.Generator) -> Image.Image:
    """Noise of some grain and colour."""
    grain = int(rng.choice([1, 1, 2, 4, 8, 16, 40]))
    shape = (-(-_SIZE[1] // grain), -(-_SIZE[0] // grain), int(rng.choice([1, 3])))
    values = rng.uniform(0, 255, shape) if rng.random() < 0.5 else rng.normal(128, rng.uniform(10, 80), shape)
    values = np.broadcast_to(values.clip(0, 255).astype(np.uint8), (*shape[:2], 3))
    resampling = Image.Resampling.NEAREST if rng.random() < 0.3 else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(values)).resize(_SIZE, resampling)


def _colour(rng: np.random.Generator) -> Image.Image:
    """One colour, or two that run into each other; the first ones drawn are black, white and grey."""
    colours = rng.integers(0, 256, (2, 3))
    if rng.random() < 0.3:
        colours = np.full((2, 3), rng.choice([0, 128, 255]))
    elif rng.random() < 0.5:
        colours[1] = colours[0]
    mix = np.linspace(0, 1, _SIZE[0])[:, None]
    row = colours[0] + mix * (colours[1] - colours[0])
    return Image.fromarray(np.broadcast_to(row, (_SIZE[1], *row.shape)).astype(np.uint8))


def _text(rng: np.random.Generator) -> Image.Image:
    """Lines of letters in one size and colour."""
    light, dark = rng.integers(190, 256, 3), rng.integers(0, 100, 3)
    paper, ink = (tuple(colour.tolist()) for colour in ((light, dark) if rng.random() < 0.8 else (dark, light)))
    image = Image.new("RGB", _SIZE, paper)
    size = float(rng.uniform(8, 60))
    font = ImageFont.load_default(size)
    letters = list(string.ascii_letters + string.digits + "     .,")
    pen = ImageDraw.Draw(image)
    for y in np.arange(4, _SIZE[1], 1.3 * size):
        pen.text((4, y), "".join(rng.choice(letters, 60)), fill=ink, font=font)
    return image


# How strange a cell is to a model, the higher the stranger, by what the model returns of N of them: (N,).
NOVELTY = "novelty"


SCORES = {
    NOVELTY: lambda output, centers: output.novelty,
    "distance to the nearest centre": lambda output, centers: output.distance,
    "angle to the nearest centre": lambda output, centers: (
        -F.cosine_similarity(output.embeddings[:, None], centers, dim=-1).amax(1)
    ),
    "length of the embedding": lambda output, centers: -output.embeddings.norm(dim=1),
    "energy of the logits": lambda output, centers: -output.logits.logsumexp(1),
    "probability of the likeliest class": lambda output, centers: -output.logits.softmax(1).amax(1),
}


@torch.no_grad()
def ood_scores(model, processor, images: Iterable[Image.Image], batch_size: int = 64) -> dict[str, np.ndarray]:
    """Every one of `SCORES` for each of N images as `processor` shows them to the model: by name, (N,)."""
    images, centers, parts = iter(images), model.center_loss.centers, []
    while batch := list(islice(images, batch_size)):
        pixel_values = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in batch])
        output = model(pixel_values.to(model.device))
        parts.append([score(output, centers).numpy(force=True) for score in SCORES.values()])
    return dict(zip(SCORES, np.concatenate(parts, axis=1), strict=True))


def measure(
    model: str | os.PathLike, dataset_name: str, output: Path, split: str = "test", bccd: Path | None = None
) -> dict:
    """Measure how many images that show no white cell a classifier refuses, and how many smears it keeps.

    Writes `ood_results.json` and `accepted.png`, the images that were not refused.

    Args:
        model: A classifier, by folder or id on the Hub.
        dataset_name: The smears to keep, as for `train.py`.
        output: A folder to write; new or empty.
        split: Of the smears.
        bccd: Holds `Original_Images` and `Annotations`; adds red cells alone.

    Returns:
        What it wrote.

    Raises:
        UserError: The classifier refuses nothing, or the data are not there.
        OSError: The classifier cannot be loaded.
    """
    source = model
    check_output(output)
    model = load_classifier(source)
    if (limit := model.config.max_novelty) is None:
        raise UserError(f"{source} refuses nothing: its configuration has no max_novelty")
    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
    smears = load(dataset_name)
    if split not in smears:
        raise UserError(f"{dataset_name} has no split {split}, only {', '.join(smears)}")
    smears = smears[split]
    try:
        foreign = list(ood_images(bccd))
    except ValueError as error:
        raise UserError(str(error)) from error
    fields = [model.analyze(image) for _, image in tqdm(foreign, desc="foreign", unit="image")]
    strange = ood_scores(model, processor, (image for _, image in foreign))
    rows = tqdm(smears, desc=split, unit="image")
    familiar = ood_scores(model, processor, (row["image"].convert("RGB") for row in rows))
    origins = smears["dataset"][:] if "dataset" in smears.column_names else [split] * len(smears)

    results = {
        "foreign": _refused([kind for kind, _ in foreign], fields, strange[NOVELTY] > limit),
        "smears": _kept(np.array(origins), familiar, strange, limit),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "ood_results.json").write_text(json.dumps(results, indent=2) + "\n")
    sheet = [
        (kind, image, torch.tensor([cell.box for cell in field.cells if cell.known]), torch.zeros(0, 4))
        for (kind, image), field in zip(foreign, fields, strict=True)
        if field.unknown < len(field.cells)
    ]
    boxes_sheet(sheet, columns=8, width=160).save(output / "accepted.png")
    return results


def _refused(kinds: Sequence[str], fields: Sequence[Field], far: np.ndarray) -> dict:
    """For all foreign images and those of each kind: how many there are, and shares with Wilson's intervals."""
    kinds = np.array(kinds)
    nothing = np.array([not field.cells for field in fields])
    refused = np.array([field.unknown == len(field.cells) for field in fields])
    parts = {"all": np.full(len(kinds), True)} | {kind: kinds == kind for kind in dict.fromkeys(kinds.tolist())}
    return {
        name: {
            "images": int(rows.sum()),
            "nothing_found": wilson_interval(int(nothing[rows].sum()), int(rows.sum())),
            "refused": wilson_interval(int(refused[rows].sum()), int(rows.sum())),
            "refused_as_a_cell": wilson_interval(int(far[rows].sum()), int(rows.sum())),
        }
        for name, rows in parts.items()
    }


def _kept(origins: np.ndarray, familiar: dict, strange: dict, limit: float) -> dict:
    """For each data set of smears: how many images are known, and how well each score tells them from foreign ones."""
    figures = {}
    for name in dict.fromkeys(origins.tolist()):
        rows = origins == name
        truth = np.r_[np.zeros(rows.sum()), np.ones(len(strange[NOVELTY]))]
        figures[name] = {
            "images": int(rows.sum()),
            "kept": float((familiar[NOVELTY][rows] <= limit).mean()),
            "auroc": {
                score: float(roc_auc_score(truth, np.r_[values[rows], strange[score]]))
                for score, values in familiar.items()
            },
        }
    return figures
