"""The images of a data set as inputs, read one at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import datasets

from hub.files import HUB_ERRORS, UserError, one_line
from hub.inference.inputs import UNREADABLE, Input


class Rows:
    """The images of a split of a data set, see [`Inputs`]; labels are not needed."""

    left_out = 0

    def __init__(self, name: str, split: str, streaming: bool = False):
        """Open the split.

        Args:
            name: A folder that `python -m hub dataset build` (or `save_to_disk`) wrote, or what
                `datasets.load_dataset` takes: a folder of images or of Parquet, or an id on the Hub.
            split: Its name.
            streaming: Whether the rows are fetched while they are read, in place of a download of all before.

        Raises:
            UserError: There is no such split, or it has no column of images.
        """
        self._name, self._split = name, split
        data = _open(name, split, streaming)
        features = data.features or {}
        column = next((key for key, feature in features.items() if isinstance(feature, datasets.Image)), None)
        if column is None:
            raise UserError(f"split {split} of {name} has no column of images, but {', '.join(features) or 'none'}")
        self._column = column
        self._data = data.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self.total: int | None = None if streaming else data.num_rows

    def __iter__(self) -> Iterator[Input]:
        """Yield each image, named by its data set, split and row."""
        for number, row in enumerate(self._data):
            name, image = f"{self._name}/{self._split}/{number}", row[self._column]
            if image is None:
                yield Input(name, None, UNREADABLE, "the row has no image")
            elif image["bytes"] is None:
                yield Input(name, Path(image["path"]))
            else:
                yield Input(name, io.BytesIO(image["bytes"]))

    def identity(self) -> Iterator[str]:
        """Yield what names the split."""
        yield from (self._name, self._split, str(self.total))


def _open(name: str, split: str, streaming: bool):
    """Open a split, as a `Dataset` or an `IterableDataset`."""
    try:
        if (Path(name) / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(name)
            if split not in saved:
                raise UserError(f"{name} has no split {split}, but {', '.join(saved)}")
            return saved[split].to_iterable_dataset() if streaming else saved[split]
        return datasets.load_dataset(name, split=split, streaming=streaming)
    except UserError:
        raise
    except (datasets.exceptions.DatasetsError, OSError, ValueError, *HUB_ERRORS) as error:
        raise UserError(f"cannot open the split {split} of {name}: {one_line(error)}") from error
