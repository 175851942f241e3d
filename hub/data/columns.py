"""The columns of the data sets that are built here, and the counts of their classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from datasets import Sequence as Fixed

# The eight types of the union, in the order of the labels. `ig` are the immature granulocytes.
TYPES = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")

# Stages of maturation that publishers name: the first two are neutrophils, the others `ig`.
STAGES = ("band neutrophil", "segmented neutrophil", "promyelocyte", "myelocyte", "metamyelocyte")

# The attributes and their values as WBCAtt spells them (Tsutsui, Pang & Wen 2023), in the order of its columns.
ATTRIBUTES = {
    "cell_size": ("big", "small"),
    "cell_shape": ("irregular", "round"),
    "nucleus_shape": (
        "irregular",
        "segmented-bilobed",
        "segmented-multilobed",
        "unsegmented-band",
        "unsegmented-indented",
        "unsegmented-round",
    ),
    "nuclear_cytoplasmic_ratio": ("high", "low"),
    "chromatin_density": ("densely", "loosely"),
    "cytoplasm_vacuole": ("no", "yes"),
    "cytoplasm_texture": ("clear", "frosted"),
    "cytoplasm_colour": ("blue", "light blue", "purple blue"),
    "granule_type": ("coarse", "nil", "round", "small"),
    "granule_colour": ("nil", "pink", "purple", "red"),
    "granularity": ("no", "yes"),
}

# The columns that not every publisher has; see `features`.
PHOTOGRAPH_COLUMNS = ("photograph", "match_error")
OPTIONAL = ("lab", "group", *PHOTOGRAPH_COLUMNS, "stage", *ATTRIBUTES, "box")
# The names of columns in data sets and tables written before, with the present name.
RENAMED = {"dataset": "lab", "field": "group"}

# The columns of a lab and of a group of images, by their names in the data sets that hold them.
_NAMES = {"lab": ("lab", "dataset"), "group": ("group", "field", "photograph")}


def features(class_names: Sequence[str], *optional: str) -> Features:
    """The columns of a data set that is built here.

    `image` holds the encoded bytes of the file and decodes to a PIL image, `label` is an index into `class_names`,
    `file_name` is the POSIX path of the file relative to the root of its raw data set.

    Args:
        class_names: The names of the classes, in the order of the labels.
        *optional: Further columns of `OPTIONAL`, in which a value is None where it is unknown or does not apply:
            `lab`, the name of the publisher; `group`, equal for images that a split must keep together, such as those
            of one slide, patient or field of photographs that overlap; `photograph`, the name of the photograph that
            a file was made from; `match_error`, float32, in grey levels (see `hub.data.photographs.Match.error`);
            `stage`, an index into `STAGES`; each attribute of `ATTRIBUTES`, an index into its values; `box`, float32
            (4,), left, top, right and bottom of the annotated cell in pixels of the image, from the corner of its
            first pixel.
    """
    columns = {"image": Image(), "label": ClassLabel(names=list(class_names)), "file_name": Value("string")}
    for name in optional:
        if name in ATTRIBUTES:
            columns[name] = ClassLabel(names=list(ATTRIBUTES[name]))
        elif name == "stage":
            columns[name] = ClassLabel(names=list(STAGES))
        elif name == "box":
            columns[name] = Fixed(Value("float32"), length=4)
        else:
            columns[name] = Value("float32" if name == "match_error" else "string")
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


def class_counts(dataset: Dataset, column: str = "label") -> dict[str, int]:
    """Count the rows of each class of a ClassLabel column, in the order of its names; None is not counted."""
    counts = Counter(dataset[column][:])
    return {name: counts[index] for index, name in enumerate(dataset.features[column].names)}


def counts_rows(dataset: DatasetDict, column: str = "label") -> list[list[str]]:
    """Count the images of each class and split, as the rows of a table.

    Args:
        dataset: A built data set.
        column: The ClassLabel column to count.

    Returns:
        A head, a row for each class, and a row of totals; the name of the class, then a column for each split.
    """
    counts = {split: class_counts(part, column) for split, part in dataset.items()}
    names = list(next(iter(counts.values())))
    return [
        ["", *counts],
        *([name, *(f"{counts[split][name]:,}" for split in counts)] for name in names),
        ["total", *(f"{sum(counts[split].values()):,}" for split in counts)],
    ]
