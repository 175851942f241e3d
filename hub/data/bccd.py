"""BCCD, white cells of four types in fields of stained smears, augmented by their publisher.

Its raw folders, the labels of its photographs, the splits by photograph, and the download of its archive.
"""

from __future__ import annotations

import csv
import logging
import os
import random
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import datasets
from datasets import DatasetDict
from sklearn.model_selection import train_test_split

from hub.data.columns import PHOTOGRAPH_COLUMNS, class_counts, to_datasets
from hub.data.download import download
from hub.data.publisher import Publisher, Reading, Splits
from hub.data.raw import check_classes, find_root, list_files, read_files, subfolders
from hub.files import UserError

if TYPE_CHECKING:
    from hub.data.photographs import Registration

logger = logging.getLogger(__name__)

BCCD_CLASSES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
BCCD_SPLITS = {"train": "TRAIN", "test": "TEST", "test_simple": "TEST_SIMPLE"}
BCCD_PUBLISHED = {
    "train": {"eosinophil": 2497, "lymphocyte": 2483, "monocyte": 2478, "neutrophil": 2499},
    "test": {"eosinophil": 623, "lymphocyte": 620, "monocyte": 620, "neutrophil": 624},
    "test_simple": {"eosinophil": 13, "lymphocyte": 6, "monocyte": 4, "neutrophil": 48},
}
BCCD_COMMIT = "fbb2e273a7d8100648b7b8cecdea769596f7b590"
BCCD_URL = f"https://github.com/dhruvp/wbc-classification/archive/{BCCD_COMMIT}.zip"


def build_bccd(
    source: str | os.PathLike, seed: int = 0, cache: str | os.PathLike | None = None
) -> tuple[DatasetDict, Registration | None]:
    """Build BCCD (augmented) from its raw folder, with the photograph that each file shows.

    Splits: `train` and `validation` are the publisher's TRAIN, cut by photograph (see `validation_photographs`),
    `test` is TEST, `test_simple` is TEST_SIMPLE, and `train_photographs`, `validation_photographs` and
    `test_photographs` hold the 640 x 480 photographs that the files of these splits were made from. Without
    photographs, which is logged, there is no `validation`, as it could not be kept apart from `train`.

    Files that do not decode are logged by name and left out. Rows are sorted by class, then by file name. All images
    are held in memory (about 120 MB).

    Args:
        source: The folder that holds `TRAIN`, `TEST` and `TEST_SIMPLE`, or one that holds it as `images`, as the
            GitHub archive's `_inputs/images` or as Kaggle's `dataset2-master/dataset2-master/images`. The photographs
            are looked for below it, as `Original_Images` or Kaggle's `JPEGImages`, with `labels.csv` beside them or
            above.
        seed: Of the choice of `validation`.
        cache: The folder that keeps the photographs of the files, as `photographs.json`, because to find them takes
            minutes. Default: `source`.

    Returns:
        The data set, and the registration of its files, None without photographs.

    Raises:
        UserError: A split folder is missing, a class folder is missing, unknown or empty, or `labels.csv` cannot be
            read.
    """
    reading = BCCD.named(bccd_rows(Path(source), seed, None if cache is None else Path(cache)))
    return to_datasets(reading.splits, BCCD.columns), reading.registration


def bccd_rows(source: Path, seed: int, cache: Path | None = None) -> Reading:
    """The rows of each split of BCCD, and the registration of its files, see `build_bccd`."""
    rows, splits = _read_splits(source)
    photographs, labels = find_photographs(source)
    if not photographs:
        logger.warning(
            "%s holds no folder Original_Images (or JPEGImages) with labels.csv: which photograph each file shows "
            "stays unknown, and there is no validation split",
            source,
        )
        return Reading(splits)
    from hub.data.photographs import register  # OpenCV is loaded here and nowhere else.

    registration = register(
        {row["file_name"]: (row["image"]["bytes"], row["label"]) for row in rows},
        {name: row["image"]["bytes"] for name, row in photographs.items()},
        labels,
        (cache or source) / "photographs.json",
    )
    for row in rows:
        match = registration.matches[row["file_name"]]
        if match is None:
            logger.warning("%s shows no photograph of its class", row["file_name"])
        else:
            row |= {
                "photograph": match.photograph,
                "group": registration.fields[match.photograph],
                "match_error": match.error,
            }
    return Reading(_split_by_photograph(splits, photographs, registration, seed), registration)


def _read_splits(source: Path) -> tuple[list[dict], Splits]:
    """All rows of the publisher's files that decode, and the same rows by split."""
    root = find_root(
        source, ("", "images", "*/images", "*/*/images"), {folder.lower() for folder in BCCD_SPLITS.values()}
    )
    files = {}
    for split, folder in BCCD_SPLITS.items():
        matches = [child for child in subfolders(root) if child.name.lower() == folder.lower()]
        if len(matches) != 1:
            raise UserError(f"{root} holds {len(matches)} folders {folder}; exactly one was looked for")
        files[split] = list_files(matches[0], BCCD_CLASSES)
    rows = read_files([file for split in files.values() for file in split], root)
    splits = {split: [rows[path] for path, _ in files[split] if path in rows] for split in files}
    for split in splits:
        check_classes(splits[split], BCCD_CLASSES, f"split {split} of {root}")
    return list(rows.values()), splits


def _split_by_photograph(
    splits: Splits, photographs: Mapping[str, dict], registration: Registration, seed: int
) -> Splits:
    """The publisher's splits with `validation` cut from `train`, and the photographs of each side."""
    labels, fields = registration.labels, registration.fields
    # A photograph is on the side of the files that show it, not where the publisher's split should have put it.
    shown: dict[str, set[str]] = {
        split: {row["photograph"] for row in splits[split] if row.get("photograph")} for split in BCCD_SPLITS
    }
    train, test = shown["train"], shown["test"] | shown["test_simple"]
    held_out = validation_photographs(train, test, labels, fields, seed)
    sides = {"train": train - held_out - test, "validation": held_out, "test": test}
    in_order = {
        "train": [row for row in splits["train"] if row.get("photograph") not in held_out],
        "validation": [row for row in splits["train"] if row.get("photograph") in held_out],
        "test": splits["test"],
        "test_simple": splits["test_simple"],
    }
    for split, side in sides.items():
        in_order[f"{split}_photographs"] = [
            photographs[name] | {"label": label, "photograph": name, "group": fields[name]}
            for label in BCCD_CLASSES
            for name in sorted(side)
            if labels[name] == label
        ]
    return {split: rows for split, rows in in_order.items() if rows}


def find_photographs(source: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """Read the photographs below `source` and their labels.

    Returns:
        The photographs as rows without a label, and the class of those with exactly one, both by name; both empty
        where there are no photographs or no labels.

    Raises:
        UserError: There are several folders of photographs, or `labels.csv` cannot be read or names too few of them.
    """
    folders = sorted(
        path
        for pattern in ("*", "*/*", "*/*/*")
        for path in source.glob(pattern)
        if path.is_dir() and path.name.lower() in ("original_images", "jpegimages")
    )
    if len(folders) > 1:
        raise UserError(f"{source} holds several folders of photographs: {', '.join(map(str, folders))}; keep one")
    if not folders:
        return {}, {}
    paths = [path for path in sorted(folders[0].iterdir()) if re.fullmatch(r"BloodImage_\d{5}\.jpe?g", path.name)]
    rows = read_files([(path, None) for path in paths], source)
    photographs = {path.stem: row for path, row in rows.items()}
    tables = [
        path
        for folder in (folders[0], *folders[0].parents)
        if folder == source or source in folder.parents
        for path in (folder / "labels.csv", folder / "_inputs" / "labels.csv")
        if path.is_file()
    ]
    if not photographs or not tables:
        return {}, {}
    labels = read_labels(tables[0], photographs)
    if len(labels) < 2:
        raise UserError(f"{tables[0]} gives one label to {len(labels)} of the {len(photographs)} photographs")
    return photographs, labels


def read_cell_labels(path: Path, photographs: Iterable[str]) -> dict[str, list[str]]:
    """Read the publisher's `labels.csv`: class names in lower case by photograph, in the order of the file.

    A row names as many classes as there are cells to name, or none. Rows without a photograph in `photographs` are
    left out.

    Raises:
        UserError: The file has no columns `Image` and `Category`, an `Image` is no number, or it is no CSV in UTF-8.
    """
    photographs = set(photographs)
    labels = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"Image", "Category"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path} has the columns {reader.fieldnames}; Image and Category were expected")
            for row in reader:
                if not re.fullmatch(r"\d+", row["Image"] or ""):
                    raise UserError(
                        f"{path}, line {reader.line_num}: Image is {row['Image']!r}; a number was expected"
                    )
                if (name := f"BloodImage_{int(row['Image']):05d}") in photographs:
                    names = (label.strip().lower() for label in (row["Category"] or "").split(","))
                    labels[name] = [label for label in names if label]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8 ({error}); take the publisher's") from error
    return labels


def read_labels(path: Path, photographs: Iterable[str]) -> dict[str, str]:
    """The class of each photograph with exactly one label: 351 in the published data, 3 of them basophils.

    Raises:
        UserError: As `read_cell_labels`.
    """
    return {name: labels[0] for name, labels in read_cell_labels(path, photographs).items() if len(labels) == 1}


def publisher_split(labels: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The photographs that the publisher's notebook made TRAIN and TEST from, given what `read_labels` returns."""
    train, test = train_test_split(list(labels), test_size=0.2, random_state=10)
    return train, test


def validation_photographs(
    train: Iterable[str],
    test: Iterable[str],
    labels: Mapping[str, str],
    fields: Mapping[str, str],
    seed: int = 0,
    share: float = 0.15,
) -> set[str]:
    """Choose a share of the photographs of each class of `train` to validate on.

    Whole fields are taken, so that photographs that overlap stay on one side. A field that a photograph of `test`
    shows is never taken: validation and test share no field.

    Args:
        train: Names of the photographs on TRAIN's side.
        test: Names of those on TEST's side.
        labels: The class of each.
        fields: The field of each, as `hub.data.overlaps.fields` gives it.
        seed: Of the choice; the same seed gives the same photographs.
        share: Of the photographs of each class, in [0, 1].

    Returns:
        The names of the photographs to validate on; of no class more than its share, rounded.
    """
    members: dict[str, list[str]] = {}
    for name in train:
        members.setdefault(fields[name], []).append(name)
    counts = Counter(labels[name] for names in members.values() for name in names)
    room = Counter({label: round(share * count) for label, count in counts.items()})
    order = sorted(set(members) - {fields[name] for name in test})
    random.Random(seed).shuffle(order)
    chosen: set[str] = set()
    for field in order:
        needed = Counter(labels[name] for name in members[field])
        if needed <= room:
            room -= needed
            chosen.update(members[field])
    return chosen


def doubtful_labels() -> list[dict[str, str]]:
    """The photographs of BCCD whose label is in doubt after the label audit: the rows of `label_audit.csv`.

    Each has `photograph`, `label` (the publisher's), `looks_like` (a class, or `unclear`) and `reason`.
    """
    with open(Path(__file__).with_name("label_audit.csv"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def bccd_differences(dataset: DatasetDict) -> list[str]:
    """Describe every count of a built BCCD that is not the published one, a line of text for each."""
    counts = {split: Counter(class_counts(part)) for split, part in dataset.items()}
    counts["train"] += counts.get("validation", Counter())  # Both are the publisher's TRAIN.
    return [
        f"{split} {name}: {count:,} images, published {published:,} ({count - published:+,})"
        for split, published_counts in BCCD_PUBLISHED.items()
        for name, published in published_counts.items()
        if (count := counts[split][name]) != published
    ]


def download_bccd(url: str = BCCD_URL, cache: str | os.PathLike | None = None, seed: int = 0) -> Reading:
    """Download the archive of BCCD, check it, and read it as `bccd_rows` does.

    A broken download is resumed. The CRC of every member is checked, then the number of images of each class and
    split; an archive that fails either check is deleted.

    Args:
        url: The address of the archive.
        cache: The folder that keeps the archive, so that a later call needs no network. Default: a folder of the
            Hugging Face data set cache, which `HF_HOME` moves.
        seed: As for `build_bccd`.

    Raises:
        UserError: The server refuses the archive, or the archive fails a check.
        OSError: The connection fails repeatedly, or the disk is full.
    """
    cache = Path(cache or datasets.config.HF_DATASETS_CACHE / "wbc")
    archive = cache / f"bccd-{BCCD_COMMIT}.zip"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        download(url, archive)
    with tempfile.TemporaryDirectory(prefix="bccd-") as folder:
        try:
            extract_images(archive, Path(folder))
            reading = bccd_rows(Path(folder), seed, cache)
            differences = bccd_differences(to_datasets(reading.splits, BCCD.columns))
            if differences:
                raise UserError(f"not the published counts: {'; '.join(differences)}")
        except (UserError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            archive.unlink()
            raise UserError(f"the archive from {url} is damaged and was deleted, run again: {error}") from error
    return reading


def extract_images(archive: Path, folder: Path) -> None:
    """Check the CRC of every member of `archive`; extract the images, photographs and their labels to `folder`.

    Raises:
        zipfile.BadZipFile: A CRC is wrong, or `archive` is no ZIP file.
    """
    with zipfile.ZipFile(archive) as file:
        damaged = file.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"bad CRC of {damaged}")
        for member in file.infolist():
            parts = PurePosixPath(member.filename).parts
            if member.is_dir() or ".." in parts:
                continue
            # <repository>-<commit>/_inputs/images/<split>/<class>/<file>; no name that points outside is of that form.
            if (
                (len(parts) == 6 and parts[1:3] == ("_inputs", "images"))
                or (len(parts) in (3, 4) and parts[-2] == "Original_Images")
                or (len(parts) in (2, 3) and parts[-1] == "labels.csv")
            ):
                file.extract(member, folder)


BCCD = Publisher(
    "bccd",
    BCCD_CLASSES,
    license="mit",
    rows=bccd_rows,
    optional=("group", *PHOTOGRAPH_COLUMNS),
    title="BCCD with the photograph of every file",
    source=(
        "[dhruvp/wbc-classification](https://github.com/dhruvp/wbc-classification), the same files as Kaggle's [Blood "
        "Cell Images](https://www.kaggle.com/datasets/paultimothymooney/blood-cells); photographs and annotations by "
        "Shenggan, [BCCD_Dataset](https://github.com/Shenggan/BCCD_Dataset). MIT licence; cite the repositories."
    ),
    labels_by="the publishers; 32 photographs have a label that their look does not bear out",
    splits_by="the publisher's TRAIN and TEST; `validation` is cut from TRAIN by field of the photograph",
    caveats=(
        "The files of TRAIN and TEST are rotated, sheared, shifted and mirrored copies of few photographs: compute "
        "intervals over photographs.",
    ),
    augmented_splits=(*BCCD_SPLITS, "validation"),
    download=download_bccd,
)
