"""Classification of many images into one table: `python -m hub predict`."""

import csv
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageClassification

from hub.evaluation.format import text_table
from hub.files import UserError, check_output
from modeling_wbc import Cell, Field
from modeling_wbc.reading_wbc import read_image

logger = logging.getLogger(__name__)


def predict(images: Iterable[Path], model: str | os.PathLike, output: Path, draw: bool = False) -> dict:
    """Find and classify the white cells of images, and write them to `output/cells.csv`, a row for each.

    The columns are `file`; `left`, `top`, `right` and `bottom` of the cell's box in pixels; the detector's `score`;
    the most probable `label`; `known`, whether the cell looks like those of a smear (`yes` or `no`); `distance` and
    `novelty` as in [`Cell`]; and the probability of each type by its name. An image that cannot be read is logged and
    left out.

    Args:
        images: Files, or folders of images.
        model: A classifier, by folder or id on the Hub.
        output: A folder to write; new or empty.
        draw: Whether to write each image with its cells drawn in, too.

    Returns:
        `counts`, the number of known cells of each type; `unknown`, the number of the other cells; `images`, the
        number of images that were read; `unreadable`, the number of those that could not be.

    Raises:
        UserError: There is no image, or `output` is not empty.
        OSError: The classifier cannot be loaded.
    """
    check_output(output)
    paths = find_images(images)
    model = load_classifier(model)
    output.mkdir(parents=True, exist_ok=True)
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    counts, unknown, unreadable = Counter(), 0, 0
    # Row by row, so that an interruption leaves the table of the images before it.
    with open(output / "cells.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["file", "left", "top", "right", "bottom", "score", "label", "known", "distance", "novelty", *labels]
        )
        for number, (path, field) in enumerate(tqdm(read_images(model, paths), total=len(paths), unit="image")):
            if field is None:
                unreadable += 1
                continue
            counts.update(field.counts)
            unknown += field.unknown
            writer.writerows(_row(path, cell) for cell in field.cells)
            if draw:
                field.draw(read_image(path)).save(output / f"{number:05d}-{path.stem}.png")
    return {
        "counts": {label: counts[label] for label in labels},
        "unknown": unknown,
        "images": len(paths) - unreadable,
        "unreadable": unreadable,
    }


def describe(found: dict) -> str:
    """The result of `predict` as text: a table of the cell types, and a sentence about the images."""
    total = sum(found["counts"].values())
    rows = [[label, f"{count:,}", f"{100 * count / max(1, total):.1f}"] for label, count in found["counts"].items()]
    return (
        f"{text_table([['Type', 'Cells', 'Share (%)'], *rows])}\n"
        f"{total:,} cells, and {found['unknown']:,} that look like none, in {found['images']:,} images; "
        f"{found['unreadable']:,} could not be read"
    )


def find_images(paths: Iterable[Path]) -> list[Path]:
    """List the files among `paths`, and the files in the folders among them, at any depth, with an image's suffix.

    Raises:
        UserError: A path does not exist, or there is no file at all.
    """
    known = Image.registered_extensions()
    found = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in known)
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"no such file or folder: {path}")
    if not found:
        raise UserError("the folders hold no image; name image files, or folders of files with an image's suffix")
    return found


def load_classifier(source: str | os.PathLike):
    """Load a `WBCForImageClassification` by its folder or id on the Hub, in evaluation mode, on the GPU if any.

    Raises:
        OSError: It cannot be loaded, or is another kind of model.
    """
    try:
        model = AutoModelForImageClassification.from_pretrained(source, trust_remote_code=True)
    except (OSError, ValueError) as error:
        raise OSError(f"could not load the classifier {source}: {str(error).strip().splitlines()[0]}") from error
    if not hasattr(model, "analyze"):
        raise OSError(f"{source} is a {type(model).__name__}, which finds no cells; name a WBCForImageClassification")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def read_images(model, paths: Iterable[Path]) -> Iterator[tuple[Path, Field | None]]:
    """Analyse images one at a time: yield each path with its field, or with None if it cannot be read; log these."""
    for path in paths:
        try:
            yield path, model.analyze(path)
        except ValueError as error:
            logger.warning(f"{error}; going on with the next")
            yield path, None


def _row(path: Path, cell: Cell) -> list[str | Path]:
    """The values of a cell in `cells.csv`."""
    box = [f"{side:.1f}" for side in cell.box]
    known = "yes" if cell.known else "no"
    probabilities = [f"{probability:.5f}" for probability in cell.probabilities.values()]
    return [
        path,
        *box,
        f"{cell.score:.3f}",
        cell.label,
        known,
        f"{cell.distance:.3f}",
        f"{cell.novelty:.3f}",
        *probabilities,
    ]
