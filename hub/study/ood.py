"""Out-of-distribution (OOD) images: how many of those that show no white cell a classifier refuses."""

import importlib.util
import logging
import os
import string
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.metrics import roc_auc_score
from tqdm import tqdm
from transformers import AutoImageProcessor

from hub.data.load import load
from hub.evaluation.format import ood_tables, text_table
from hub.evaluation.intervals import wilson_interval
from hub.evaluation.sheets import BoxedImage, boxes_sheet
from hub.files import UserError, check_output, write_json
from hub.inference.predict import load_classifier
from hub.study.annotations import empty_halves, find_annotated
from modeling_wbc import Field, WBCImageProcessor
from modeling_wbc.reading_wbc import read_image

logger = logging.getLogger(__name__)

DRAWN_IMAGES = 200  # of each kind that is drawn
SAMPLE_CROPS = 6  # of each sample photograph, beside the whole
_SIZE = (320, 240)
# Widely installed packages, and the folders of their sample images.
_SAMPLES = (("skimage", "data"), ("sklearn", "datasets/images"), ("matplotlib", "mpl-data/sample_data"))
_ENDINGS = (".jpg", ".png")


def ood_images(bccd: Path | None = None, trained_on: Collection[str] = ()) -> Iterator[tuple[str, Image.Image]]:
    """Yield (kind, RGB image) of images that a classifier of white cells should refuse, the same ones in every call.

    The kinds are `drawn scenes`, `noise`, `blank and colour`, `text`, `sample images` (whole and cropped, of those of
    scikit-image, scikit-learn and matplotlib that are installed) and, with BCCD's photographs and annotations,
    `red cells` (halves of photographs in which no white cell is annotated or found) and `red cells, trained on` (those
    of photographs of the training, whose platelets and red cells the OOD score was fitted to).

    Args:
        bccd: A folder that holds `Original_Images` and `Annotations`.
        trained_on: The names of the photographs of the training.

    Raises:
        UserError: `bccd` holds no annotated photographs.
    """
    if bccd is not None:  # first, so that missing annotations are reported at once
        photographs, processor = bccd / "Original_Images", WBCImageProcessor()
        findings = find_annotated(lambda image: processor.find_cells(image)[0], photographs, bccd / "Annotations")
    for kind, draw in (
        ("drawn scenes", _scene),
        ("noise", _noise),
        ("blank and colour", _colour),
        ("text", _text),
    ):
        for seed in range(DRAWN_IMAGES):
            yield kind, draw(np.random.default_rng([seed, len(kind)]))
    for path in sample_images():
        image = read_image(path)
        yield "sample images", image
        rng = np.random.default_rng(0)
        for _ in range(SAMPLE_CROPS):
            width, height = (int(side * rng.uniform(0.3, 0.7)) for side in image.size)
            left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
            yield "sample images", image.crop((left, top, left + width, top + height))
    if bccd is not None:
        for kind, is_of_kind in (("red cells", False), ("red cells, trained on", True)):
            of_kind = [finding for finding in findings if (finding.name in trained_on) == is_of_kind]
            for half in empty_halves(of_kind, photographs):
                yield kind, half


def sample_images() -> list[Path]:
    """The sample images of installed packages, at least 64 pixels high and wide."""
    found = []
    for package, folder in _SAMPLES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
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


@torch.no_grad()
def ood_scores(model, processor, images: Iterable[Image.Image], batch_size: int = 64) -> np.ndarray:
    """OOD scores (novelty) of N images as `processor` crops them: float32 (N,), higher for less smear-like ones."""
    images, scores = iter(images), []
    while batch := list(islice(images, batch_size)):
        pixel_values = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in batch])
        scores.append(model(pixel_values.to(model.device)).novelty.numpy(force=True))
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def measure(
    model: str | os.PathLike, dataset_name: str, output: Path, split: str = "test", bccd: Path | None = None
) -> dict:
    """Measure how many images that show no white cell a classifier refuses, and how many smears it keeps.

    Writes `ood_results.json` and `accepted.png`, the images that were not refused.

    Args:
        model: A classifier, by folder or id on the Hub.
        dataset_name: The smears to keep, as for `train.py`; its split `train` names the photographs of the training.
        output: A folder to write; new or empty.
        split: The split of the smears.
        bccd: Holds `Original_Images` and `Annotations`; adds crops of red cells alone.

    Returns:
        The content of `ood_results.json`:

        - `ood`: for `all` OOD images and those of each kind, `images`, their number, and the shares with Wilson's
          95 % interval in which `nothing_found` by the detector, all that was found is `refused`, and the foremost
          cell, or else the whole image, is `refused_as_a_cell`.
        - `smears`: for each data set of the smears, `images`, the share `kept` within the OOD threshold, and `auroc`,
          by the name of the score the area under the ROC curve against all OOD images.

    Raises:
        UserError: The classifier has no OOD threshold, the data are not there, or `output` is not empty.
        OSError: The classifier cannot be loaded.
    """
    source = model
    check_output(output)
    model = load_classifier(source)
    if (threshold := model.config.max_novelty) is None:
        raise UserError(f"{source} refuses nothing: its configuration has no max_novelty")
    processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=True)
    smears = load(dataset_name)
    if split not in smears:
        raise UserError(f"{dataset_name} has no split {split}, only {', '.join(smears)}")
    train = smears.get("train")
    trained_on = set(train["photograph"][:]) if train is not None and "photograph" in train.column_names else ()
    smears = smears[split]
    images = list(ood_images(bccd, trained_on))
    fields = [model.analyze(image) for _, image in tqdm(images, desc="OOD", unit="image")]
    ood = _foremost_scores(model, processor, images, fields)
    rows = tqdm(smears, desc=split, unit="image")
    in_distribution = ood_scores(model, processor, (read_image(row["image"]) for row in rows))
    origins = smears["lab"][:] if "lab" in smears.column_names else [split] * len(smears)

    results = {
        "ood": _refused([kind for kind, _ in images], fields, ood > threshold),
        "smears": _kept(origins, in_distribution, ood, threshold),
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / "ood_results.json", results)
    accepted = [
        BoxedImage(kind, image, torch.tensor([cell.box for cell in field.cells if cell.known]))
        for (kind, image), field in zip(images, fields, strict=True)
        if field.unknown < len(field.cells)
    ]
    boxes_sheet(accepted, columns=8, width=160).save(output / "accepted.png")
    return results


def describe(results: dict) -> str:
    """The result of `measure` as text: its two tables."""
    return "\n\n".join(map(text_table, ood_tables(results)))


def _foremost_scores(
    model, processor, images: Sequence[tuple[str, Image.Image]], fields: Sequence[Field]
) -> np.ndarray:
    """`ood_scores` of analysed images, which already hold the score of their cells: float32 (N,)."""
    without_cells = (image for (_, image), field in zip(images, fields, strict=True) if not field.cells)
    whole = iter(ood_scores(model, processor, without_cells))
    return np.array([field.cells[0].novelty if field.cells else next(whole) for field in fields], np.float32)


def _refused(kinds: Sequence[str], fields: Sequence[Field], refused_as_a_cell: np.ndarray) -> dict:
    """The shares of refused OOD images, of all and of each kind."""
    shares = {
        "nothing_found": [not field.cells for field in fields],
        "refused": [field.unknown == len(field.cells) for field in fields],
        "refused_as_a_cell": refused_as_a_cell,
    }
    table = pd.DataFrame(shares)
    parts = {"all": table} | {str(kind): part for kind, part in table.groupby(np.array(kinds), sort=False)}
    return {
        kind: {"images": len(part)} | {name: wilson_interval(int(part[name].sum()), len(part)) for name in shares}
        for kind, part in parts.items()
    }


def _kept(origins: Sequence[str], in_distribution: np.ndarray, ood: np.ndarray, threshold: float) -> dict:
    """The share of smears within the threshold, and the separation from OOD images, for each data set of smears."""
    figures = {}
    for name, scores in pd.Series(in_distribution).groupby(np.array(origins), sort=False):
        is_ood = np.r_[np.zeros(len(scores)), np.ones(len(ood))]
        figures[name] = {
            "images": len(scores),
            "kept": float((scores <= threshold).mean()),
            "auroc": {"novelty": float(roc_auc_score(is_ood, np.r_[scores, ood]))},
        }
    return figures
