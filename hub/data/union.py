"""Several labs as one data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import DatasetDict

from hub.data.bccd import BCCD
from hub.data.columns import features, to_datasets
from hub.data.pbc import PBC, PBC_CLASSES
from hub.data.publisher import Splits

if TYPE_CHECKING:
    from hub.data.photographs import Registration

PUBLISHERS = {publisher.name: publisher for publisher in (BCCD, PBC)}


def build_union(
    sources: Mapping[str, str | os.PathLike], class_names: Sequence[str], seed: int = 0
) -> tuple[DatasetDict, Registration | None]:
    """Build the union of several publishers.

    Splits of the same name are put together in the order of `sources`. The column `dataset` names the publisher of a
    row, and `file_name` starts with that name. All images are held in memory.

    Args:
        sources: The raw folder of each publisher, by its name in `PUBLISHERS`.
        class_names: The names of the classes of the union; those of each publisher are among them.
        seed: Of the splits that are cut here.

    Returns:
        The data set, and the registration of the files of the publisher that has one.

    Raises:
        UserError: A folder is not laid out as published.
    """
    union: Splits = {}
    registration = None
    for name, source in sources.items():
        splits, own_registration = PUBLISHERS[name].rows(Path(source), seed)
        registration = registration or own_registration
        for split, rows in splits.items():
            union.setdefault(split, []).extend(
                row | {"dataset": name, "file_name": f"{name}/{row['file_name']}"} for row in rows
            )
    photographs = any(PUBLISHERS[name].has_photographs for name in sources)
    return to_datasets(union, features(class_names, photographs=photographs, origin=True)), registration


def build_blood8(
    bccd: str | os.PathLike, pbc: str | os.PathLike, seed: int = 0
) -> tuple[DatasetDict, Registration | None]:
    """Build the union of BCCD and PBC under the names of PBC's eight classes.

    The splits are those of `build_bccd` and `build_pbc`, see `build_union`. All images are held in memory (about 300
    to 500 MB).
    """
    return build_union({BCCD.name: bccd, PBC.name: pbc}, PBC_CLASSES, seed)
