"""Chula, white cells of five types in fields of stained smears, with boxes (Chulalongkorn University, Bangkok).

The layout that is read has windows of each cell at full resolution and the fields reduced; the publisher's own
repository (https://github.com/singgihbekti/WBC_Dataset) has the fields at full resolution and a text file of boxes for
each, which is not read.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path

import pandas as pd
from datasets import ClassLabel, DatasetDict, Features, Image, Sequence, Value

from hub.data.columns import to_datasets
from hub.data.publisher import Publisher, Reading, Splits
from hub.data.raw import check_classes, image_size, list_files, read_files
from hub.data.splits import hold_out
from hub.files import UserError, one_line

logger = logging.getLogger(__name__)

CHULA_CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
# Width and height in pixels of the published fields, which the windows were cut from.
FIELD_SIZE = (1440, 900)
_COLUMNS = ("field", "slide", "label", "left", "top", "right", "bottom", "cell")
_EDGES = ("left", "top", "right", "bottom")


def chula_rows(source: Path, seed: int) -> Reading:
    """Read Chula's cells, and its fields with their boxes.

    The group of a cell is the number of its slide, without the letter of the type that the slide was searched for:
    `E-8`, `L-8`, `M-8` and the mirrored `HF-M-8` are `8`. Fields of one number share their colours and, in places,
    their edge of the smear, so that they are taken for one slide. `train` and `validation` share no group, see
    `hub.data.splits.hold_out`.

    Args:
        source: Holds `boxes.csv`, `cells/<class>/<field>_<number>.jpg`, `fields/<field>.jpg` and
            `unlabelled_fields.txt`.
        seed: Of the splits.

    Returns:
        The cells; and as `fields` the fields, with the same splits and `unlabelled`, the fields whose labels are
        missing: `image`, `file_name`, `group`, and `objects` with `bbox` (x, y, width, height in pixels of the image)
        and `category` of each box.

    Raises:
        UserError: A file or folder is missing or damaged, or a class folder is missing, unknown or empty.
    """
    boxes = read_boxes(source)
    rows = read_files(list_files(source / "cells", CHULA_CLASSES), source)
    by_cell = boxes.set_index("cell")
    fields = _read_fields(source, boxes)
    for path, row in rows.items():
        if row["file_name"] not in by_cell.index:
            raise UserError(f"{source / 'boxes.csv'} has no row for {path}")
        known = by_cell.loc[row["file_name"]]
        if known["label"] != row["label"]:
            raise UserError(f"{source / 'boxes.csv'} calls {row['file_name']} a {known['label']}")
        row["group"] = slide_number(known["slide"])
        width, height = image_size(fields[known["field"]]["image"]["bytes"])
        scale = (FIELD_SIZE[0] / width, FIELD_SIZE[1] / height) * 2
        row["box"] = box_in_window(
            [edge * factor for edge, factor in zip(known[list(_EDGES)], scale, strict=True)],
            image_size(row["image"]["bytes"])[0],
        )
    for name in boxes["cell"][~boxes["cell"].isin({row["file_name"] for row in rows.values()})]:
        logger.warning("%s is listed in boxes.csv and was not read", name)
    cells = list(rows.values())
    check_classes(cells, CHULA_CLASSES, str(source))
    train, validation = hold_out(cells, seed)
    splits = {split: part for split, part in (("train", train), ("validation", validation)) if part}
    return Reading(splits, fields=_split_fields(fields, boxes, splits))


def box_in_window(box: list[float], side: int) -> list[float]:
    """Place a box in the window that was cut around it.

    A window is a square around the centre of its box, moved to lie within the field, its corner rounded down, so that
    its place follows from the box. All 510 windows were correlated with the enlarged fields (0.95 or more): each lies
    within a pixel of that place. The table gives boxes to a tenth of a reduced pixel, 0.2 pixels of the window.

    Args:
        box: Left, top, right and bottom in pixels of the full field (`FIELD_SIZE`).
        side: Of the window, in pixels.

    Returns:
        Left, top, right and bottom in pixels of the window, clipped to it.
    """
    placed = [0.0] * 4
    for axis, length in enumerate(FIELD_SIZE):
        centre = (box[axis] + box[axis + 2]) / 2
        start = math.floor(min(max(centre - side / 2, 0), length - side))
        for edge in (axis, axis + 2):
            placed[edge] = min(max(box[edge] - start, 0.0), float(side))
    return placed


def slide_number(slide: str) -> str:
    """The number of a slide: `8` for `M-8` and for `HF-M-8`, the mirror images of some of its fields."""
    return re.sub(r"^(HF-)?[A-Z]-", "", slide)


def read_boxes(source: Path) -> pd.DataFrame:
    """Read `boxes.csv`: a row for each cell, with its edges in pixels of the reduced field.

    Raises:
        UserError: The file is missing or no such table, or names a class that is unknown.
    """
    path = source / "boxes.csv"
    if not source.is_dir():
        raise UserError(f"no such folder: {source}")
    if not path.is_file():
        raise UserError(f"{source} holds no boxes.csv, the table of the annotated cells")
    try:
        boxes = pd.read_csv(path, dtype=dict.fromkeys(("field", "slide", "label", "cell"), str), encoding="utf-8")
        if missing := [name for name in _COLUMNS if name not in boxes]:
            raise UserError(f"{path} has no column {missing[0]}; {', '.join(_COLUMNS)} were expected")
        boxes = boxes.astype(dict.fromkeys(_EDGES, float))
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({one_line(error)})") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} holds an edge of a box that is no number ({one_line(error)})") from error
    if unknown := sorted(set(boxes["label"]) - set(CHULA_CLASSES)):
        raise UserError(f"{path} names the class {unknown[0]}; one of {', '.join(CHULA_CLASSES)} was expected")
    return boxes


def _read_fields(source: Path, boxes: pd.DataFrame) -> dict[str, dict]:
    """The rows of all fields by their name, with `group`; those that are unlabelled have no boxes."""
    folder = source / "fields"
    if not folder.is_dir():
        raise UserError(f"{source} holds no folder fields, the fields that the boxes lie in")
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    fields = {path.name: row for path, row in read_files([(path, None) for path in paths], source).items()}
    listed = source / "unlabelled_fields.txt"
    unlabelled = set(listed.read_text(encoding="utf-8").split()) if listed.is_file() else set()
    if missing := sorted(set(boxes["field"]) - set(fields)):
        raise UserError(f"{folder} holds no readable {missing[0]}, which boxes.csv names")
    if unexplained := sorted(set(fields) - set(boxes["field"]) - unlabelled):
        raise UserError(f"{folder / unexplained[0]} is in neither boxes.csv nor unlabelled_fields.txt")
    for name, row in fields.items():
        row["group"] = slide_number(name.rpartition("_")[0])
    return fields


def _split_fields(fields: dict[str, dict], boxes: pd.DataFrame, splits: Splits) -> DatasetDict:
    """The fields as a data set for detection, in the splits of their cells."""
    columns = Features(
        {
            "image": Image(),
            "file_name": Value("string"),
            "group": Value("string"),
            "objects": Sequence(
                {"bbox": Sequence(Value("float32"), length=4), "category": ClassLabel(names=list(CHULA_CLASSES))}
            ),
        }
    )
    side = {row["group"]: split for split, rows in splits.items() for row in rows}
    parts: Splits = {split: [] for split in (*splits, "unlabelled")}
    annotated = dict(iter(boxes.groupby("field")))
    for name, row in fields.items():
        known = annotated.get(name)
        split = "unlabelled" if known is None else side[row["group"]]
        objects = (
            {"bbox": [], "category": []}
            if known is None
            else {
                "bbox": [
                    [left, top, right - left, bottom - top]
                    for left, top, right, bottom in known[list(_EDGES)].itertuples(index=False)
                ],
                "category": known["label"].tolist(),
            }
        )
        parts[split].append(row | {"objects": objects})
    return to_datasets({split: rows for split, rows in parts.items() if rows}, columns)


CHULA = Publisher(
    "chula",
    CHULA_CLASSES,
    license="mit",
    rows=chula_rows,
    optional=("group", "box"),
    title="Chula, white blood cells in fields with strong colour casts",
    source=(
        "[singgihbekti/WBC_Dataset](https://github.com/singgihbekti/WBC_Dataset): Embedded System and Integrated "
        "Circuit Design Laboratory, Chulalongkorn University, Bangkok. MIT licence; cite the repository."
    ),
    labels_by="the publisher; confirmed by the Faculty of Medicine of Chulalongkorn University",
    splits_by=(
        "by slide number, about 80/20 of each type, no slide on both sides; the letter before the number is the type "
        "that the slide was searched for, and fields of one number look alike, so they count as one slide"
    ),
    caveats=(
        "The fields have strong colour casts and vignettes, and some cells are out of focus.",
        "Type and slide are confounded: most monocytes are of slide 8, all basophils of slides with no other type.",
        "Many cells were photographed several times, at other places of the field.",
        "12 fields have no labels at the origin. They are unlabelled, not empty.",
        "A row is a window of at least 300 x 300 pixels at full resolution; `box` is the annotated cell in it, right "
        "to a pixel. The folder `fields` beside the cells holds the whole fields, reduced to 640 x 400, with all "
        "boxes: load it as a data set of its own.",
    ),
    where="get the images and boxes of https://github.com/singgihbekti/WBC_Dataset by hand and name their folder",
)
