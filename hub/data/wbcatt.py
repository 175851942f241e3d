"""WBCAtt: eleven morphological attributes of 10,298 of PBC's images (Tsutsui, Pang & Wen, NeurIPS 2023)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from sklearn.metrics import cohen_kappa_score

from hub.data.columns import ATTRIBUTES
from hub.files import UserError, one_line

_SPLITS = {"train": "pbc_attr_v1_train.csv", "validation": "pbc_attr_v1_val.csv", "test": "pbc_attr_v1_test.csv"}
_SECOND = "pbc_attr_reannotations.csv"
_WHERE = "get it from submission/ of https://github.com/apple2373/wbcatt"


def read_wbcatt(folder: Path) -> pd.DataFrame:
    """Read the attributes and splits.

    Args:
        folder: Holds `pbc_attr_v1_train.csv`, `pbc_attr_v1_val.csv` and `pbc_attr_v1_test.csv`, or holds them as
            `submission`, as the publisher's repository does.

    Returns:
        A row for each image, by the name of its file: the columns of `ATTRIBUTES`, as text, and `split`.

    Raises:
        UserError: A file is missing or no such table, an image is listed twice, or a value is unknown.
    """
    parts = [_read(_find(folder, name)).assign(split=split) for split, name in _SPLITS.items()]
    table = pd.concat(parts)
    if table.index.has_duplicates:
        raise UserError(f"{folder} lists the image {table.index[table.index.duplicated()][0]} twice; {_WHERE}")
    return table


def annotator_agreement(folder: Path) -> list[dict]:
    """Compare the first annotation of each image with the second one, where there are two.

    Args:
        folder: As for `read_wbcatt`; the second annotations are `pbc_attr_reannotations.csv` in it, or below it in
            `submission/re-annotation`.

    Returns:
        For each attribute its name, as `attribute`; the number of `images` that were annotated twice; `agreement`, the
        share of them with the same value, in [0, 1]; and `kappa` (Cohen 1960), in [-1, 1], None where only one value
        occurs.

    Raises:
        UserError: As `read_wbcatt`, or the second annotations are of other images.
    """
    first, second = read_wbcatt(folder), _read(_find(folder, _SECOND))
    unknown = second.index.difference(first.index)
    if len(unknown):
        raise UserError(f"{_SECOND} in {folder} lists {unknown[0]}, which no split does; {_WHERE}")
    first = first.loc[second.index]
    return [
        {
            "attribute": name,
            "images": len(second),
            "agreement": float((first[name] == second[name]).mean()),
            "kappa": float(cohen_kappa_score(first[name], second[name]))
            if len({*first[name], *second[name]}) > 1
            else None,
        }
        for name in ATTRIBUTES
    ]


def _find(folder: Path, name: str) -> Path:
    """The file of a name, in the folder or where the publisher's repository has it."""
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    for place in (folder, folder / "submission", folder / "submission" / "re-annotation"):
        if (place / name).is_file():
            return place / name
    raise UserError(f"{folder} holds no {name}; {_WHERE}")


def _read(path: Path) -> pd.DataFrame:
    """A table of WBCAtt by the names of the images."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no table of attributes ({one_line(error)}); {_WHERE}") from error
    if missing := [name for name in ("img_name", *ATTRIBUTES) if name not in table]:
        raise UserError(f"{path} has no column {missing[0]}; {_WHERE}")
    for name, values in ATTRIBUTES.items():
        if unknown := sorted(set(table[name]) - set(values)):
            raise UserError(f"{path} gives {name} as {unknown[0]!r}; one of {', '.join(values)} was expected")
    return table.set_index("img_name")[list(ATTRIBUTES)]
