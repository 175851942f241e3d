"""The interface of a publisher's module: its name, classes, columns and licence, and the rows of its raw folder.

A new publisher is one module that reads raw images into rows and describes itself as a `Publisher`, and an entry in
`hub.data.union.PUBLISHERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from datasets import DatasetDict, Features

from hub.data.columns import features, to_datasets
from hub.files import UserError

if TYPE_CHECKING:  # OpenCV is loaded where files are registered, and nowhere else.
    from hub.data.photographs import Registration

# The rows of each split: `image` (a dict of `bytes` and `path`), `label` (the name of the class), `file_name`, and
# those of the other columns of `hub.data.columns.features` that the publisher has.
Splits: TypeAlias = dict[str, list[dict]]


@dataclass
class Reading:
    """The content of a publisher's raw folder.

    Attributes:
        splits: The rows of each split.
        registration: The photographs of its files, None where files are no views of photographs, or these are unknown.
        fields: Whole fields with the boxes of their cells, to be saved beside the cells; None where there are none.
        found: Figures about the labels for the card, by the names that its template uses.
    """

    splits: Splits
    registration: Registration | None = None
    fields: DatasetDict | None = None
    found: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Publisher:
    """A publisher of images, as it is read from a raw folder.

    Attributes:
        name: Its name in the column `lab`, on the command line and in front of file names of a union.
        class_names: The names of its classes, in the order of the labels.
        license: The licence of its images, by its identifier on the Hub.
        rows: Reads (raw folder, seed of the splits that are cut here), and by name the `extra_folders` that are given.
            Raises `UserError` for a folder that is not laid out as published.
        optional: The columns that it has beside `lab` and those of every data set, see `hub.data.columns.features`.
        title: The title of the card of its data set.
        source: Markdown: whose images these are, where they are published, how to cite them, and their licence.
        caveats: Markdown, a sentence or more for each: what to know before the images are used.
        labels_by: Who gave the labels.
        splits_by: How its splits were cut.
        extra_folders: Names of further folders that `rows` takes.
        augmented_splits: Splits of files that were made from photographs, which are no near-duplicates by accident.
        validation_only: Whether its images may be neither trained on nor published, as their terms are not known.
        download: Fetches the published archive and reads it, given `seed`; None where there is no public archive.
        where: Where to get the images by hand, for an error.
    """

    name: str
    class_names: tuple[str, ...]
    license: str
    rows: Callable[..., Reading]
    optional: tuple[str, ...] = ()
    title: str = ""
    source: str = ""
    caveats: tuple[str, ...] = ()
    labels_by: str = ""
    splits_by: str = ""
    extra_folders: tuple[str, ...] = ()
    augmented_splits: tuple[str, ...] = ()
    validation_only: bool = False
    download: Callable[..., Reading] | None = None
    where: str = ""

    @property
    def columns(self) -> Features:
        """The columns of its data set."""
        return features(self.class_names, "lab", *self.optional)

    def read(self, source: str | os.PathLike, seed: int = 0, **extra: Path | None) -> Reading:
        """Read a raw folder; every row gets the column `lab`. Raises what `rows` raises."""
        given = {name: Path(folder) for name, folder in extra.items() if folder is not None}
        if unknown := set(given) - set(self.extra_folders):
            raise UserError(f"{self.name} takes no {', '.join(sorted(unknown))}")
        return self.named(self.rows(Path(source), seed, **given))

    def fetch(self, seed: int = 0) -> Reading:
        """Download the published archive and read it.

        Raises:
            UserError: There is no archive to download; or what `download` raises.
        """
        if self.download is None:
            raise UserError(f"{self.name} has no archive to download: {self.where}")
        return self.named(self.download(seed=seed))

    def named(self, reading: Reading) -> Reading:
        """Give every row of a reading the column `lab`."""
        for rows in reading.splits.values():
            for row in rows:
                row["lab"] = self.name
        return reading

    def build(self, source: str | os.PathLike, seed: int = 0, **extra: Path | None) -> DatasetDict:
        """Build its data set from a raw folder, without a search for near-duplicates. Raises what `rows` raises."""
        return to_datasets(self.read(source, seed, **extra).splits, self.columns)
