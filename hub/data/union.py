"""Build the data set of one lab, or of several labs as one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import DatasetDict

from hub.data.bccd import BCCD
from hub.data.chula import CHULA
from hub.data.columns import OPTIONAL, TYPES, features, to_datasets
from hub.data.lisc import LISC
from hub.data.pbc import PBC
from hub.data.publisher import Publisher, Reading, Splits
from hub.data.raabin import RAABIN
from hub.files import UserError

if TYPE_CHECKING:
    from hub.data.near_duplicates import Pair
    from hub.data.photographs import Registration

PUBLISHERS = {publisher.name: publisher for publisher in (BCCD, PBC, CHULA, LISC, RAABIN)}
# The labs of a union, in the order of its rows.
UNITED = (BCCD.name, PBC.name, CHULA.name)


@dataclass(frozen=True)
class Built:
    """A data set that was built from raw folders.

    Attributes:
        dataset: The splits.
        registration: The photographs of BCCD's files, None where it has none.
        fields: Chula's fields with their boxes, None without Chula.
        pairs: The near-duplicates, by file name.
        found: `near_duplicates`, as `hub.data.near_duplicates.near_duplicate_report` gives it; with WBCAtt
            `agreement`, as `hub.data.wbcatt.annotator_agreement` gives it.
    """

    dataset: DatasetDict
    registration: Registration | None
    fields: DatasetDict | None
    pairs: list[Pair]
    found: dict


def build_lab(publisher: Publisher, reading: Reading, cache: Path | None = None) -> Built:
    """Build the data set of one lab: keep near-duplicates together, and turn rows into columns.

    Args:
        publisher: That of the images.
        reading: Its raw folder, as `Publisher.read` reads it.
        cache: As for `hub.data.near_duplicates.find_near_duplicates`.
    """
    pairs, found = _near_duplicates(reading.splits, {publisher.name: publisher}, cache)
    dataset = to_datasets(reading.splits, publisher.columns)
    return Built(dataset, reading.registration, reading.fields, pairs, reading.found | {"near_duplicates": found})


def build_union(
    sources: Mapping[str, str | os.PathLike],
    seed: int = 0,
    cache: Path | None = None,
    **extra: Path | None,
) -> Built:
    """Build the union of several labs.

    Splits of the same name are put together in the order of `sources`. The column `lab` names the publisher of a row,
    and `file_name` starts with that name. All images are held in memory (about 300 to 500 MB). Every union has all
    columns of `hub.data.columns.OPTIONAL`; what a lab does not have is None.

    Args:
        sources: The raw folder of each publisher, by its name in `PUBLISHERS`.
        seed: Of the splits that are cut here.
        cache: As for `hub.data.near_duplicates.find_near_duplicates`.
        **extra: Further folders that publishers take, such as `wbcatt`.

    Raises:
        UserError: There is no lab, one may be validated on only, or a folder is not laid out as published.
    """
    if not sources:
        raise UserError(f"a union needs at least one lab: name the folder of {', '.join(UNITED)}")
    publishers = {name: PUBLISHERS[name] for name in sources}
    union: Splits = {}
    readings = {}
    for name, source in sources.items():
        if publishers[name].validation_only:
            raise UserError(f"{name} is validated on and never trained on: build it alone")
        own = {key: folder for key, folder in extra.items() if key in publishers[name].extra_folders}
        readings[name] = publishers[name].read(source, seed, **own)
        for split, rows in readings[name].splits.items():
            for row in rows:
                row["file_name"] = f"{name}/{row['file_name']}"
            union.setdefault(split, []).extend(rows)
    pairs, near_duplicates = _near_duplicates(union, publishers, cache)
    found: dict = {"near_duplicates": near_duplicates}
    for reading in readings.values():
        found |= reading.found
    return Built(
        dataset=to_datasets(union, features(TYPES, *OPTIONAL)),
        registration=next((each.registration for each in readings.values() if each.registration), None),
        fields=next((each.fields for each in readings.values() if each.fields), None),
        pairs=pairs,
        found=found,
    )


def check_trainable(dataset: DatasetDict) -> None:
    """Raise `UserError` if the rows to train on have one of a lab that may be validated on only, such as LISC."""
    forbidden = {name for name, publisher in PUBLISHERS.items() if publisher.validation_only}
    known = "train" in dataset and "lab" in dataset["train"].column_names
    if known and (found := forbidden & set(dataset["train"].unique("lab"))):
        raise UserError(f"the split train holds images of {', '.join(found)}, which may be validated on only")


def _near_duplicates(
    splits: Splits, publishers: Mapping[str, Publisher], cache: Path | None
) -> tuple[list[Pair], dict]:
    """Find near-duplicates, keep each on one side of the splits, and count them; files of photographs are left out."""
    from hub.data.near_duplicates import find_near_duplicates, keep_together, near_duplicate_report  # loads OpenCV

    rows = {
        row["file_name"]: row
        for split, part in splits.items()
        for row in part
        if split not in publishers[row["lab"]].augmented_splits
    }
    pairs = find_near_duplicates({name: row["image"]["bytes"] for name, row in rows.items()}, cache)
    moved = keep_together(splits, pairs)
    return pairs, near_duplicate_report(rows, pairs, moved)
