"""The columns of the data sets that are built here, and the counts of their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

# The columns of a lab and of a group of images, by their names in the data sets that hold them.
_NAMES = {"lab": ("lab", "dataset"), "group": ("group", "field", "photograph")}


def features(class_names: Sequence[str], photographs: bool = False, origin: bool = False) -> Features:
    """The columns of a data set that is built here.

    `image` holds the encoded bytes of the file and decodes to a PIL image, `label` is an index into `class_names`,
    `file_name` is the POSIX path of the file relative to the root of its raw data set.

    Args:
        class_names: The names of the classes, in the order of the labels.
        photographs: Whether to add the columns of files that were made from a photograph: `photograph`, the name of
            that photograph; `field`, equal for all photographs that overlap; `match_error`, float32, in grey levels
            (see `hub.data.photographs.Match.error`). Each is None where it is unknown or does not apply.
        origin: Whether to add `dataset`, the name of the publisher that the file is from.
    """
    columns = {"image": Image(), "label": ClassLabel(names=list(class_names)), "file_name": Value("string")}
    if photographs:
        columns |= {"photograph": Value("string"), "field": Value("string"), "match_error": Value("float32")}
    if origin:
        columns["dataset"] = Value("string")
    return Features(columns)


def to_datasets(splits: Mapping[str, list[dict]], columns: Features) -> DatasetDict:
    """Turn the rows of each split into a data set of `columns`; a value that a row lacks is None."""
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {column: [row.get(column) for row in rows] for column in columns}, features=columns
            )
            for split, rows in splits.items()
        }
    )


def origins(dataset: Dataset, what: str) -> list[str | None]:
    """Where each image of `dataset` is from.

    Args:
        dataset: Any data set of images.
        what: "lab", or "group", the photograph's field, the slide or the patient.

    Returns:
        The name of the lab or the group of each image, None where it is not known.
    """
    for name in _NAMES[what]:
        if name in dataset.column_names:
            return dataset[name][:]
    return [None] * len(dataset)


def class_counts(dataset: Dataset) -> dict[str, int]:
    """Count the rows of each class of `dataset`, in the order of its labels."""
    counts = Counter(dataset["label"][:])
    return {name: counts[index] for index, name in enumerate(dataset.features["label"].names)}


def counts_rows(dataset: DatasetDict) -> list[list[str]]:
    """Count the images of each class and split, as the rows of a table.

    Returns:
        A head, a row for each class, and a row of totals; the name of the class, then a column for each split.
    """
    counts = {split: class_counts(part) for split, part in dataset.items()}
    names = list(next(iter(counts.values())))
    return [
        ["", *counts],
        *([name, *(f"{counts[split][name]:,}" for split in counts)] for name in names),
        ["total", *(f"{part.num_rows:,}" for part in dataset.values())],
    ]
