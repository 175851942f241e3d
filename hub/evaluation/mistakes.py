"""The costliest mistakes of a classifier in a lab: wrong, known, and of the highest probabilities."""

from collections.abc import Sequence

import pandas as pd
from datasets import Dataset
from PIL import Image

from hub.evaluation.sheets import captioned
from modeling_wbc.reading_wbc import read_image

TILE_WIDTH = 160
# Mistakes of each lab, at most.
MOST_MISTAKES = 24


def mistake_tiles(encoded: Dataset, predictions: pd.DataFrame, crop_boxes: Sequence) -> list[Image.Image]:
    """Draw the crops of the costliest mistakes of a lab, the most probable first, for `contact_sheet`.

    Args:
        encoded: The images of the lab, as `datasets.Image(decode=False)`.
        predictions: Rows of the `predictions.csv` of `hub.evaluation.labs.measure`; the index is the row in `encoded`.
        crop_boxes: For each of `predictions`, left, top, right and bottom of the crop in pixels, None without a cell.

    Returns:
        Tiles `TILE_WIDTH` pixels wide, each under lab, label, prediction with its probability, and file.
    """
    wrong = predictions.assign(crop_box=list(crop_boxes), confidence=pd.to_numeric(predictions["confidence"]))
    wrong = wrong[(wrong["known"] == "yes") & (wrong["prediction"] != wrong["label"])]
    wrong = wrong.sort_values("confidence", ascending=False, kind="stable").head(MOST_MISTAKES)
    tiles = []
    for row, mistake in wrong.iterrows():
        left, top, right, bottom = map(round, mistake["crop_box"])
        crop = read_image(encoded[row]["image"]).crop((left, top, right, bottom))
        caption = (
            f"{mistake['lab']}: {mistake['label']}\n{mistake['prediction']} {mistake['confidence']:.0%}\n"
            f"{mistake['file_name'][-26:]}"
        )
        tiles.append(captioned(crop.resize((TILE_WIDTH, TILE_WIDTH)), caption))
    return tiles
