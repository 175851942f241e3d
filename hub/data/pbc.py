"""PBC, eight types of single cells (Acevedo et al. 2020)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from datasets import DatasetDict
from sklearn.model_selection import train_test_split

from hub.data.columns import features, to_dataset
from hub.data.raw import find_root, list_files, read_files
from hub.files import UserError

# `ig` are the immature granulocytes: promyelocytes, myelocytes and metamyelocytes.
PBC_CLASSES = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")


def build_pbc(source: str | os.PathLike, seed: int = 0) -> DatasetDict:
    """Build PBC (Acevedo et al. 2020, eight classes) from `source`, split 80/10/10 and stratified by class.

    `source` is the folder that holds the class folders, or one that holds it as `PBC_dataset_normal_DIB`. The splits
    `train`, `validation` and `test` depend on `seed` and the names of the files that decode. The publisher does not
    tell which patient a cell is from, so cells of one patient may lie in several splits. Files that do not decode are
    logged by name and left out. All images are held in memory (about 140 to 300 MB).

    Raises `UserError` for a missing, unknown or empty class folder, or fewer than ten images of a class.
    """
    splits = pbc_rows(Path(source), seed)
    return DatasetDict({split: to_dataset(rows, features(PBC_CLASSES)) for split, rows in splits.items()})


def pbc_rows(source: Path, seed: int) -> dict[str, list[dict]]:
    """The rows of each split of PBC."""
    archive = "PBC_dataset_normal_DIB"
    root = find_root(source, ("", archive, f"*/{archive}"), set(PBC_CLASSES))
    rows = list(read_files(list_files(root, PBC_CLASSES), root).values())
    counts = Counter(row["label"] for row in rows)
    for name in PBC_CLASSES:
        if counts[name] < 10:
            raise UserError(f"{root} holds {counts[name]} readable images of {name}; 80/10/10 splits need ten or more")
    train, rest = train_test_split(rows, test_size=0.2, random_state=seed, stratify=[row["label"] for row in rows])
    validation, test = train_test_split(
        rest, test_size=0.5, random_state=seed, stratify=[row["label"] for row in rest]
    )
    splits = {"train": train, "validation": validation, "test": test}
    return {split: sorted(part, key=lambda row: row["file_name"]) for split, part in splits.items()}
