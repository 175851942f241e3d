"""PBC, single peripheral blood cells of eight types (Acevedo et al. 2020, doi 10.1016/j.dib.2020.105474)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from datasets import DatasetDict
from sklearn.model_selection import train_test_split

from hub.data.columns import ATTRIBUTES, TYPES
from hub.data.publisher import Publisher, Reading
from hub.data.raw import find_root, list_files, read_files
from hub.data.wbcatt import annotator_agreement, read_wbcatt
from hub.files import UserError

# `ig` are the immature granulocytes: promyelocytes, myelocytes and metamyelocytes.
PBC_CLASSES = TYPES
# The stage by the first part of a file's name; NEUTROPHIL_ and IG_ leave it open.
_STAGES = {
    "BNE": "band neutrophil",
    "SNE": "segmented neutrophil",
    "PMY": "promyelocyte",
    "MY": "myelocyte",
    "MMY": "metamyelocyte",
}
_ARCHIVE = "PBC_dataset_normal_DIB"


def build_pbc(source: str | os.PathLike, seed: int = 0, wbcatt: str | os.PathLike | None = None) -> DatasetDict:
    """Build PBC from its raw folder, split 80/10/10 and stratified by class, or as WBCAtt splits it.

    The publisher does not say which patient a cell is from, so cells of one patient may lie in several splits. Files
    that do not decode are logged by name and left out. All images are held in memory (about 140 to 300 MB).

    Args:
        source: The folder that holds the class folders, or one that holds it as `PBC_dataset_normal_DIB`.
        seed: Of the splits, which depend on it and on the names of the files that decode.
        wbcatt: The folder of WBCAtt's tables, see `hub.data.wbcatt.read_wbcatt`: the images that they list get their
            attributes and lie in WBCAtt's splits. The others keep those that they have without WBCAtt.

    Returns:
        The splits `train`, `validation` and `test`, rows sorted by file name.

    Raises:
        UserError: A class folder is missing, unknown or empty, or holds fewer than ten readable images; or WBCAtt's
            tables are damaged or list none of the images.
    """
    return PBC.build(source, seed, wbcatt=None if wbcatt is None else Path(wbcatt))


def pbc_rows(source: Path, seed: int, wbcatt: Path | None = None) -> Reading:
    """The rows of each split of PBC, see `build_pbc`, and the agreement of WBCAtt's annotators."""
    root = find_root(source, ("", _ARCHIVE, f"*/{_ARCHIVE}"), set(PBC_CLASSES))
    rows = list(read_files(list_files(root, PBC_CLASSES), root).values())
    counts = Counter(row["label"] for row in rows)
    for name in PBC_CLASSES:
        if counts[name] < 10:
            raise UserError(f"{root} holds {counts[name]} readable images of {name}; 80/10/10 splits need ten or more")
    for row in rows:
        row["stage"] = _STAGES.get(row["image"]["path"].partition("_")[0])
    train, rest = train_test_split(rows, test_size=0.2, random_state=seed, stratify=[row["label"] for row in rows])
    validation, test = train_test_split(
        rest, test_size=0.5, random_state=seed, stratify=[row["label"] for row in rest]
    )
    splits = {"train": train, "validation": validation, "test": test}
    found = {}
    if wbcatt:
        splits = _as_wbcatt(splits, wbcatt, root)
        found["agreement"] = annotator_agreement(wbcatt)
    in_order = {split: sorted(part, key=lambda row: row["file_name"]) for split, part in splits.items()}
    return Reading(in_order, found=found)


def _as_wbcatt(splits: dict[str, list[dict]], wbcatt: Path, root: Path) -> dict[str, list[dict]]:
    """Give rows their attributes, and put them into WBCAtt's splits, as far as its tables list them."""
    table = read_wbcatt(wbcatt).to_dict("index")
    moved: dict[str, list[dict]] = {split: [] for split in splits}
    listed = 0
    for split, rows in splits.items():
        for row in rows:
            known = table.get(row["image"]["path"])
            if known:
                listed += 1
                row.update((name, known[name]) for name in ATTRIBUTES)
            moved[known["split"] if known else split].append(row)
    if not listed:
        raise UserError(f"{wbcatt} lists none of the images in {root}; WBCAtt names those of PBC")
    return moved


PBC = Publisher(
    "pbc",
    PBC_CLASSES,
    license="cc-by-4.0",
    rows=pbc_rows,
    optional=("stage", *ATTRIBUTES),
    title="PBC, peripheral blood cells",
    source=(
        'Acevedo, Merino, Alférez, Molina, Boldú & Rodellar, "A dataset of microscopic peripheral blood cell images '
        'for development of automatic recognition systems", *Data in Brief* 30, 105474, 2020 '
        "([doi](https://doi.org/10.1016/j.dib.2020.105474)). Hospital Clinic of Barcelona, CellaVision DM96, "
        "May-Grünwald-Giemsa stain, individuals without infection, haematologic or oncologic disease. CC BY 4.0."
    ),
    labels_by="clinical pathologists of the Hospital Clinic of Barcelona; stages are prefixes of file names",
    splits_by=(
        "80/10/10 at random, stratified by type; with WBCAtt's tables, the images that these list lie in WBCAtt's "
        "splits"
    ),
    caveats=(
        "Which patient a cell is from is not published: cells of one patient may lie in several splits, so that "
        "figures on PBC are too high and their intervals too narrow.",
        "`ig` are immature granulocytes: promyelocytes, myelocytes and metamyelocytes.",
    ),
    extra_folders=("wbcatt",),
    where=(
        "download the archive of doi 10.17632/snkd93bnjr.1 (described in doi 10.1016/j.dib.2020.105474) by hand, "
        "unpack it and name its folder"
    ),
)
