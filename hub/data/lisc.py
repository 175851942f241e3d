"""LISC, single white cells of five types (Rezatofighi & Soltanian-Zadeh 2011): validated on, never trained on."""

from __future__ import annotations

from pathlib import Path

from hub.data.publisher import Publisher, Reading
from hub.data.raw import check_classes, find_root, list_files, read_files

LISC_CLASSES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")


def lisc_rows(source: Path, seed: int) -> Reading:
    """Read LISC: one split, `test`, rows sorted by class, then by file name. `seed` is not used.

    Args:
        source: Holds a folder of images for each class.
        seed: Of no effect, as no split is cut.

    Raises:
        UserError: A class folder is missing, unknown or empty, or holds no readable image.
    """
    root = find_root(source, ("",), set(LISC_CLASSES))
    rows = list(read_files(list_files(root, LISC_CLASSES), root).values())
    check_classes(rows, LISC_CLASSES, str(root))
    return Reading({"test": rows})


LISC = Publisher(
    "lisc",
    LISC_CLASSES,
    license="unknown",
    rows=lisc_rows,
    title="LISC, white blood cells: for validation only",
    source=(
        'Rezatofighi & Soltanian-Zadeh, "Automatic recognition of five types of white blood cells in peripheral '
        'blood", *Computerized Medical Imaging and Graphics* 35(4), 2011 '
        "([doi](https://doi.org/10.1016/j.compmedimag.2011.01.003)). Imam Khomeini hospital, Tehran: eight donors, "
        "Wright-Giemsa stain, Axioskop 40 with a Sony camera. Published for research; its terms could not be read, so "
        "that the licence is unknown."
    ),
    labels_by="a haematologist of the publisher",
    splits_by="one split, `test`",
    caveats=(
        "**Validated on, never trained on, not published**, as its terms are unknown.",
        "A row is a cell with its surroundings, cut from a field. Which of the eight donors it is from is not known "
        "here.",
    ),
    validation_only=True,
    where="ask the publisher for LISC and name the folder of its cells, one folder a class",
)
