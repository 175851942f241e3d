"""PBC, single peripheral blood cells of eight types (Acevedo et al. 2020, doi 10.1016/j.dib.2020.105474)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from datasets import DatasetDict
from sklearn.model_selection import train_test_split

from hub.data.publisher import Publisher, Splits
from hub.data.raw import find_root, list_files, read_files
from hub.files import UserError

# `ig` are the immature granulocytes: promyelocytes, myelocytes and metamyelocytes.
PBC_CLASSES = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")
_ARCHIVE = "PBC_dataset_normal_DIB"


def build_pbc(source: str | os.PathLike, seed: int = 0) -> DatasetDict:
    """Build PBC from its raw folder, split 80/10/10 and stratified by class.

    The publisher does not say which patient a cell is from, so cells of one patient may lie in several splits. Files
    that do not decode are logged by name and left out. All images are held in memory (about 140 to 300 MB).

    Args:
        source: The folder that holds the class folders, or one that holds it as `PBC_dataset_normal_DIB`.
        seed: Of the splits, which depend on it and on the names of the files that decode.

    Returns:
        The splits `train`, `validation` and `test`, with the columns `image`, `label` and `file_name`, rows sorted by
        file name.

    Raises:
        UserError: A class folder is missing, unknown or empty, or holds fewer than ten readable images.
    """
    dataset, _ = PBC.build(source, seed)
    return dataset


def pbc_rows(source: Path, seed: int) -> tuple[Splits, None]:
    """The rows of each split of PBC, see `build_pbc`; it has no photographs to register."""
    root = find_root(source, ("", _ARCHIVE, f"*/{_ARCHIVE}"), set(PBC_CLASSES))
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
    return {split: sorted(part, key=lambda row: row["file_name"]) for split, part in splits.items()}, None


PBC = Publisher("pbc", PBC_CLASSES, license="cc-by-4.0", rows=pbc_rows)
