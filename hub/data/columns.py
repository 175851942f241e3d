"""The columns of the data sets that are built here, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value


def features(class_names: Sequence[str], photographs: bool = False, origin: bool = False) -> Features:
    """The columns of the data sets built here.

    `image` holds the encoded bytes of the file and decodes to a PIL image, `label` is an index into
    `class_names`, `file_name` is the POSIX path of the file relative to the root of its raw data set.

    With `photographs`, for each file that was made from a photograph: `photograph`, the name of that photograph;
    `field`, the same for all photographs that overlap; `match_error`, float32, how sure that is (see
    `hub.photographs.Match.error`). Each is None where it is unknown or, as with PBC, there is no such thing.

    With `origin`: `dataset`, the data set that the file is from, `bccd` or `pbc`.
    """
    columns = {"image": Image(), "label": ClassLabel(names=list(class_names)), "file_name": Value("string")}
    if photographs:
        columns |= {"photograph": Value("string"), "field": Value("string"), "match_error": Value("float32")}
    if origin:
        columns["dataset"] = Value("string")
    return Features(columns)


def to_dataset(rows: list[dict], columns: Features) -> Dataset:
    return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns}, features=columns)


def class_counts(dataset: Dataset) -> dict[str, int]:
    """The number of rows of each class of `dataset`, in the order of its labels."""
    counts = Counter(dataset["label"][:])
    return {name: counts[index] for index, name in enumerate(dataset.features["label"].names)}


def counts_rows(dataset: DatasetDict) -> list[list[str]]:
    """The number of images as the rows of a table: a head, a row a class and their total; a column a split."""
    counts = {split: class_counts(part) for split, part in dataset.items()}
    names = list(next(iter(counts.values())))
    return [
        ["", *counts],
        *([name, *(f"{counts[split][name]:,}" for split in counts)] for name in names),
        ["total", *(f"{part.num_rows:,}" for part in dataset.values())],
    ]
