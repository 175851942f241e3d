"""Raabin-WBC, single white cells of five types (Kouzehkanan et al. 2022, doi 10.1038/s41598-021-04426-x)."""

from __future__ import annotations

from pathlib import Path

from hub.data.publisher import Publisher, Reading
from hub.data.raw import check_classes, find_root, list_files, read_files, subfolders
from hub.data.splits import hold_out
from hub.files import UserError

RAABIN_CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
_FOLDERS = {"train": "Train", "test": "TestA", "test_b": "TestB"}


def raabin_rows(source: Path, seed: int) -> Reading:
    """Read Raabin-WBC as its publisher lays it out.

    Args:
        source: Holds `Train`, `TestA` and `TestB`, each with a folder for each class (`Basophil`, ...); TestB may lack
            classes. Or one that holds it one folder deeper.
        seed: Of the choice of `validation`, a fifth of Train, stratified by class.

    Returns:
        `train` and `validation` of Train, `test` of TestA and `test_b` of TestB.

    Raises:
        UserError: A folder is missing, unknown or empty, or a class of Train or TestA has no readable image.
    """
    root = find_root(source, ("", "*"), {folder.lower() for folder in _FOLDERS.values()})
    found = {folder.name.lower(): folder for folder in subfolders(root)}
    splits = {}
    for split, name in _FOLDERS.items():
        if name.lower() not in found:
            raise UserError(f"{root} holds no folder {name}; Train, TestA and TestB were looked for")
        files = list_files(found[name.lower()], RAABIN_CLASSES, all_needed=split != "test_b")
        splits[split] = list(read_files(files, root).values())
        if split != "test_b":
            check_classes(splits[split], RAABIN_CLASSES, str(found[name.lower()]))
    train, validation = hold_out(splits.pop("train"), seed)
    in_order = {"train": train, "validation": validation, **splits}
    return Reading({split: rows for split, rows in in_order.items() if rows})


RAABIN = Publisher(
    "raabin",
    RAABIN_CLASSES,
    license="unknown",
    rows=raabin_rows,
    title="Raabin-WBC, white blood cells of five types",
    source=(
        'Kouzehkanan et al., "A large dataset of white blood cells containing cell locations and types, along with '
        'segmented nuclei and cytoplasm", *Scientific Reports* 12, 1123, 2022 '
        "([doi](https://doi.org/10.1038/s41598-021-04426-x)), [raabindata.com](https://raabindata.com). Iran; "
        "Giemsa stain; two microscopes and two cameras. Published with free access; read the publisher's terms before "
        "you pass images on."
    ),
    labels_by="two experts each, as published",
    splits_by="`train` and `validation` are 80/20 of the publisher's Train, `test` is TestA, `test_b` TestB",
    caveats=(
        "TestB is of another microscope and camera than Train and TestA, and holds two types only.",
        "Which smear a cell is from is not read, so that cells of one smear may lie in `train` and `validation`.",
    ),
    where="download Train, TestA and TestB from https://raabindata.com by hand and name their folder",
)
