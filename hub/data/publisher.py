"""The interface of a publisher's module: its name, classes and licence, and the rows of its raw folder.

A new publisher is one module that reads raw images into rows and describes itself as a `Publisher`, and an entry in
`hub.data.union.PUBLISHERS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from datasets import DatasetDict, Features

from hub.data.columns import features, to_datasets

if TYPE_CHECKING:  # OpenCV is loaded where files are registered, and nowhere else.
    from hub.data.photographs import Registration

# The rows of each split: `image` (a dict of `bytes` and `path`), `label` (the name of the class), `file_name`, and
# those of the other columns of `hub.data.columns.features` that the publisher has.
Splits: TypeAlias = dict[str, list[dict]]


@dataclass(frozen=True)
class Publisher:
    """A publisher of images, as it is read from a raw folder.

    Attributes:
        name: What the column `dataset` of a union and the command line call it.
        class_names: The names of its classes, in the order of the labels.
        license: The licence of its images, by its identifier on the Hub.
        rows: Reads (raw folder, seed of the splits that are cut here); returns the rows of each split, and the
            registration of its files, None where files are no views of photographs, or these are unknown. Raises
            `UserError` for a folder that is not laid out as published.
        has_photographs: Whether files are views of photographs, which adds columns (see `features`).
        download: Fetches the published archive and builds the data set from it, given `seed`; None where there is no
            public archive.
    """

    name: str
    class_names: tuple[str, ...]
    license: str
    rows: Callable[[Path, int], tuple[Splits, Registration | None]]
    has_photographs: bool = False
    download: Callable[..., tuple[DatasetDict, Registration | None]] | None = None

    @property
    def columns(self) -> Features:
        """The columns of its data set."""
        return features(self.class_names, photographs=self.has_photographs)

    def build(self, source: str | os.PathLike, seed: int = 0) -> tuple[DatasetDict, Registration | None]:
        """Build its data set from a raw folder; return it with the registration. Raises what `rows` raises."""
        splits, registration = self.rows(Path(source), seed)
        return to_datasets(splits, self.columns), registration
