"""The contact sheet of a built BCCD: the worst matches, each file beside its photograph, to be judged by eye."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from datasets import DatasetDict
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw

from hub.data.photographs import Match, Registration
from hub.data.sift import SIZE
from hub.publish.dataset_card import AUGMENTED_SPLITS, files_of_photographs
from modeling_wbc.reading_wbc import read_image

SHEET_NAME = "worst_matches.jpg"

_WORST = 40
_COLUMNS = 4
_IMAGE_SIZE = (224, 168)
_MARGIN = 6
_CAPTION_HEIGHT = 14


def write_contact_sheet(folder: Path, dataset: DatasetDict, registration: Registration) -> None:
    """Draw the 40 files with the largest match errors, each beside its photograph, to `folder/worst_matches.jpg`.

    Args:
        folder: An existing folder.
        dataset: A built BCCD, or a union with it.
        registration: That of its files.
    """
    encoded = dataset.cast_column("image", ImageFeature(decode=False))
    errors = [
        (error, split, index)
        for split in AUGMENTED_SPLITS
        if split in dataset
        for index, error in files_of_photographs(dataset[split])["match_error"].dropna().items()
    ]
    photographs = {
        row["photograph"]: row["image"]["bytes"]
        for split, rows in encoded.items()
        if split.endswith("_photographs")
        for row in rows
    }
    pairs = []
    for _, split, index in sorted(errors, reverse=True)[:_WORST]:
        row = encoded[split][index]
        name = row["file_name"].removeprefix("bccd/")
        if match := registration.matches[name]:
            pairs.append((name, row["image"]["bytes"], photographs[match.photograph], match))
    if pairs:
        contact_sheet(pairs).save(folder / SHEET_NAME, quality=90)


def contact_sheet(pairs: Sequence[tuple[str, bytes, bytes, Match]]) -> Image.Image:
    """Draw files beside their photographs, which are drawn as the file shows them; four pairs a line.

    Args:
        pairs: (name of the file, encoded file, encoded photograph, match) of each. The caption names file, photograph
            and error, which `torchvision.utils.make_grid` could not.
    """
    width, height = _IMAGE_SIZE
    step_x, step_y = 2 * width + 3 * _MARGIN, height + _CAPTION_HEIGHT + 2 * _MARGIN
    lines = -(-len(pairs) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * step_x, lines * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, file, photograph, match) in enumerate(pairs):
        x, y = number % _COLUMNS * step_x + _MARGIN, number // _COLUMNS * step_y + _MARGIN
        pixels = np.asarray(read_image(photograph).resize(SIZE, Image.Resampling.BOX))
        drawn = Image.fromarray(cv2.warpAffine(pixels, match.transform, SIZE))
        draw.text((x, y), f"{name}: {match.photograph}, error {match.error:.2f}", fill="black")
        sheet.paste(read_image(file).resize(_IMAGE_SIZE), (x, y + _CAPTION_HEIGHT))
        sheet.paste(drawn.resize(_IMAGE_SIZE), (x + width + _MARGIN, y + _CAPTION_HEIGHT))
    return sheet
