"""Anybody's images: a folder for each class, with the name of the lab and, where file names tell it, the group."""

from __future__ import annotations

import functools
import logging
import re
from pathlib import Path

from hub.data.load import SPLIT_OF_FOLDER
from hub.data.publisher import Publisher, Reading
from hub.data.raw import list_files, read_files, subfolders
from hub.data.splits import hold_out
from hub.files import UserError

logger = logging.getLogger(__name__)


def folder_publisher(source: Path, lab: str, group: str | None = None) -> Publisher:
    r"""Describe a folder of images as a publisher.

    Args:
        source: Laid out `<class>/<file>` or `<split>/<class>/<file>`, such as `train`, `val` and `test`.
        lab: The name of the lab, for the column `lab`.
        group: A regular expression with one group, searched for in the name of each file, such as `^(\w+)_`: the slide
            or patient that the file is from. A file that it does not match has no group, which is logged.

    Raises:
        UserError: There is no such folder, it has fewer than two classes, or `group` is no such expression.
    """
    if not source.is_dir():
        raise UserError(f"no such folder: {source}")
    if not lab.strip():
        raise UserError("the name of the lab is empty; name it with --lab NAME")
    if group is not None:
        try:
            groups = re.compile(group).groups
        except re.error as error:
            raise UserError(f"--group {group!r} is no regular expression: {error}") from error
        if groups != 1:
            raise UserError(f"--group {group!r} has {groups} groups in parentheses; one is needed, such as '^(\\w+)_'")
    folders = _split_folders(source)
    classes = sorted({child.name.lower() for folder in folders.values() for child in subfolders(folder)})
    if len(classes) < 2:
        raise UserError(f"{source} holds {len(classes)} class folders; two or more are needed")
    return describe_lab(lab, tuple(classes), group)


def describe_lab(lab: str, classes: tuple[str, ...], group: str | None = None) -> Publisher:
    """Describe a lab that is not one of the published ones, given its name, its classes and its pattern of groups."""
    return Publisher(
        lab,
        classes,
        license="unknown",
        rows=functools.partial(_rows, group=group, classes=classes),
        optional=("group",),
        title=f"White blood cells of {lab}",
        source="A folder of images. Write here whose they are, their stain, microscope and camera, and the licence.",
        labels_by="the owner of the folder",
        splits_by=(
            "as the folder is laid out; without split folders, `validation` is about a fifth of each class, by whole "
            "groups where `group` is known"
        ),
    )


def _split_folders(source: Path) -> dict[str, Path]:
    """The folder of each split; the folder itself as `train` where it is not laid out by splits."""
    folders: dict[str, Path] = {}
    for folder in subfolders(source):
        if split := SPLIT_OF_FOLDER.get(folder.name.lower()):
            if split in folders:
                raise UserError(f"{source} holds two folders of the split {split}: {folders[split]} and {folder}")
            folders[split] = folder
    return folders or {"train": source}


def _rows(source: Path, seed: int, group: str | None, classes: tuple[str, ...]) -> Reading:
    """The rows of each split of a folder, see `folder_publisher`."""
    folders = _split_folders(source)
    splits = {
        split: list(read_files(list_files(folder, classes, all_needed=False), source).values())
        for split, folder in folders.items()
    }
    rows = [row for part in splits.values() for row in part]
    if empty := set(classes) - {row["label"] for row in rows}:
        raise UserError(f"{source} holds no readable image of {', '.join(sorted(empty))}")
    if group is not None:
        unmatched = []
        for row in rows:
            match = re.search(group, row["image"]["path"])
            row["group"] = match and match[1]
            unmatched += [] if row["group"] else [row["file_name"]]
        if len(unmatched) == len(rows):
            raise UserError(f"--group {group!r} matches no file name, such as {unmatched[0]}")
        if unmatched:
            logger.warning("%d files have no group, such as %s", len(unmatched), unmatched[0])
    if folders == {"train": source}:
        train, validation = hold_out(rows, seed)
        splits = {"train": train} | ({"validation": validation} if validation else {})
    return Reading(splits)
