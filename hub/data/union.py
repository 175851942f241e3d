"""Several labs as one data set."""

from __future__ import annotations

import os
from pathlib import Path

from datasets import DatasetDict

from hub.data.bccd import bccd_rows
from hub.data.columns import features, to_dataset
from hub.data.pbc import PBC_CLASSES, pbc_rows
from hub.data.photographs import Registration


def build_blood8(
    bccd: str | os.PathLike, pbc: str | os.PathLike, seed: int = 0
) -> tuple[DatasetDict, Registration | None]:
    """Build the union of BCCD and PBC, from two labs, under PBC's eight class names.

    The splits are those of `build_bccd` and `build_pbc` put together, BCCD first; those that only one of them has are
    its own. The column `dataset` tells `bccd` from `pbc`, and `file_name` starts with it. Returns and raises what
    `build_bccd` and `build_pbc` do. All images are held in memory (about 300 to 500 MB).
    """
    bccd_splits, registration = bccd_rows(Path(bccd), seed, Path(bccd))
    union: dict[str, list[dict]] = {}
    for name, splits in (("bccd", bccd_splits), ("pbc", pbc_rows(Path(pbc), seed))):
        for split, rows in splits.items():
            rows = [row | {"dataset": name, "file_name": f"{name}/{row['file_name']}"} for row in rows]
            union.setdefault(split, []).extend(rows)
    columns = features(PBC_CLASSES, photographs=True, origin=True)
    return DatasetDict({split: to_dataset(rows, columns) for split, rows in union.items()}), registration
