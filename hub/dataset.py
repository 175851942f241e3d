"""Raw image folders to a `DatasetDict`, and the loading of every kind of data set that the project accepts.

What needs OpenCV, finding photographs, is imported where it is used: training does without.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import json
import logging
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import datasets
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageFile
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from hub.photographs import Registration

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

# `ig` are the immature granulocytes: promyelocytes, myelocytes and metamyelocytes.
PBC_CLASSES = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")

# Folder names that stand for a split; those of `datasets`, and BCCD's TEST_SIMPLE.
SPLIT_OF_FOLDER = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    "test_simple": "test_simple",
}

# Beside the splits of a built data set: its name, its seed, and the findings about its photographs.
BUILD_NAME = "build.json"

DOWNLOAD_ATTEMPTS = 5
DOWNLOAD_TIMEOUT_S = 60
DOWNLOAD_CHUNK_BYTES = 1 << 20


class DatasetError(ValueError):
    """A data set that cannot be read, built or written as asked; the message is one line for the user."""


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


# --- Raw folders ---


def build_bccd(
    source: str | os.PathLike, seed: int = 0, cache: str | os.PathLike | None = None
) -> tuple[DatasetDict, Registration | None]:
    """Build BCCD (augmented) from `source`, with the photograph that each file shows.

    `source` is the folder that holds `TRAIN`, `TEST` and `TEST_SIMPLE`, or one that holds it as `images`, as the
    GitHub archive's `_inputs/images` or as Kaggle's `dataset2-master/dataset2-master/images`. The photographs are
    looked for below `source`, as `Original_Images` or Kaggle's `JPEGImages`, with `labels.csv` beside them or above.

    Splits: `train` and `validation` are the publisher's TRAIN, cut by photograph (see `validation_photographs`, which
    `seed` goes to), `test` is TEST, `test_simple` is TEST_SIMPLE, and `train_photographs`, `validation_photographs`
    and `test_photographs` hold the 640 x 480 photographs that the files of these splits were made from. Without
    photographs, which is logged, there is no `validation`, as it could not be kept apart from `train`.

    Finding the photographs takes minutes the first time; the result is kept as `photographs.json` in the folder
    `cache` (default: `source`). Files that do not decode are logged by name and left out. Rows are sorted by class,
    then by file name. All images are held in memory (about 120 MB).

    Returns the data set and what was found out about its photographs, None without them. Raises `DatasetError` for a
    missing split folder, a missing, unknown or empty class folder, or a `labels.csv` that cannot be read.
    """
    splits, registration = _bccd_rows(Path(source), seed, Path(cache or source))
    dataset = DatasetDict(
        {split: _to_dataset(rows, features(BCCD_CLASSES, photographs=True)) for split, rows in splits.items()}
    )
    return dataset, registration


def build_pbc(source: str | os.PathLike, seed: int = 0) -> DatasetDict:
    """Build PBC (Acevedo et al. 2020, eight classes) from `source`, split 80/10/10 and stratified by class.

    `source` is the folder that holds the class folders, or one that holds it as `PBC_dataset_normal_DIB`. The splits
    `train`, `validation` and `test` depend on `seed` and the names of the files that decode. The publisher does not
    tell which patient a cell is from, so cells of one patient may lie in several splits. Files that do not decode are
    logged by name and left out. All images are held in memory (about 140 to 300 MB).

    Raises `DatasetError` for a missing, unknown or empty class folder, or fewer than ten images of a class.
    """
    splits = _pbc_rows(Path(source), seed)
    return DatasetDict({split: _to_dataset(rows, features(PBC_CLASSES)) for split, rows in splits.items()})


def build_blood8(
    bccd: str | os.PathLike, pbc: str | os.PathLike, seed: int = 0
) -> tuple[DatasetDict, Registration | None]:
    """Build the union of BCCD and PBC, from two labs, under PBC's eight class names.

    The splits are those of `build_bccd` and `build_pbc` put together, BCCD first; those that only one of them has are
    its own. The column `dataset` tells `bccd` from `pbc`, and `file_name` starts with it. Returns and raises what
    `build_bccd` and `build_pbc` do. All images are held in memory (about 300 to 500 MB).
    """
    bccd_splits, registration = _bccd_rows(Path(bccd), seed, Path(bccd))
    union: dict[str, list[dict]] = {}
    for name, splits in (("bccd", bccd_splits), ("pbc", _pbc_rows(Path(pbc), seed))):
        for split, rows in splits.items():
            rows = [row | {"dataset": name, "file_name": f"{name}/{row['file_name']}"} for row in rows]
            union.setdefault(split, []).extend(rows)
    columns = features(PBC_CLASSES, photographs=True, origin=True)
    return DatasetDict({split: _to_dataset(rows, columns) for split, rows in union.items()}), registration


def _bccd_rows(source: Path, seed: int, cache: Path) -> tuple[dict[str, list[dict]], Registration | None]:
    """The rows of each split of BCCD, and what was found out about its photographs."""
    root = _find_root(
        source, ("", "images", "*/images", "*/*/images"), {folder.lower() for folder in BCCD_SPLITS.values()}
    )
    files = {}
    for split, folder in BCCD_SPLITS.items():
        matches = [child for child in _folders(root) if child.name.lower() == folder.lower()]
        if len(matches) != 1:
            raise DatasetError(f"{root} holds {len(matches)} folders {folder}; exactly one was looked for")
        files[split] = _list_files(matches[0], BCCD_CLASSES)
    rows = _read([file for split in files.values() for file in split], root)
    splits = {split: [rows[path] for path, _ in files[split] if path in rows] for split in files}
    for split in splits:
        _check_classes(splits[split], BCCD_CLASSES, f"split {split} of {root}")
    photographs, labels = _find_photographs(source)
    if not photographs:
        logger.warning(
            "%s holds no folder Original_Images (or JPEGImages) with labels.csv: which photograph each file shows "
            "stays unknown, and there is no validation split",
            source,
        )
        return splits, None
    from hub.photographs import register

    registration = register(
        {row["file_name"]: (row["image"]["bytes"], row["label"]) for row in rows.values()},
        {name: row["image"]["bytes"] for name, row in photographs.items()},
        labels,
        cache / "photographs.json",
    )
    for row in rows.values():
        match = registration.matches[row["file_name"]]
        if match is None:
            logger.warning("%s shows no photograph of its class", row["file_name"])
        else:
            row |= {
                "photograph": match.photograph,
                "field": registration.fields[match.photograph],
                "match_error": match.error,
            }
    # The sides are what the files show, not what the publisher's split should have given.
    train, test, test_simple = ({row.get("photograph") for row in splits[split]} - {None} for split in BCCD_SPLITS)
    test |= test_simple
    held_out = validation_photographs(train, test, labels, registration.fields, seed)
    sides = {"train": train - held_out - test, "validation": held_out, "test": test}
    in_order = {
        "train": [row for row in splits["train"] if row.get("photograph") not in held_out],
        "validation": [row for row in splits["train"] if row.get("photograph") in held_out],
        "test": splits["test"],
        "test_simple": splits["test_simple"],
    }
    for split, side in sides.items():
        in_order[f"{split}_photographs"] = [
            photographs[name] | {"label": label, "photograph": name, "field": registration.fields[name]}
            for label in BCCD_CLASSES
            for name in sorted(side)
            if labels[name] == label
        ]
    return {split: rows for split, rows in in_order.items() if rows}, registration


def _find_photographs(source: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """The photographs below `source` as rows without a label, and the class of those with one label, both by name."""
    folders = sorted(
        path
        for pattern in ("*", "*/*", "*/*/*")
        for path in source.glob(pattern)
        if path.is_dir() and path.name.lower() in ("original_images", "jpegimages")
    )
    if len(folders) > 1:
        raise DatasetError(f"{source} holds several folders of photographs: {', '.join(map(str, folders))}; keep one")
    if not folders:
        return {}, {}
    paths = [path for path in sorted(folders[0].iterdir()) if re.fullmatch(r"BloodImage_\d{5}\.jpe?g", path.name)]
    rows = _read([(path, None) for path in paths], source)
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
    from hub.photographs import read_labels

    try:
        labels = read_labels(tables[0], photographs)
    except ValueError as error:
        raise DatasetError(str(error)) from error
    if len(labels) < 2:
        raise DatasetError(f"{tables[0]} gives one label to {len(labels)} of the {len(photographs)} photographs")
    return photographs, labels


def validation_photographs(
    train: Iterable[str],
    test: Iterable[str],
    labels: Mapping[str, str],
    fields: Mapping[str, str],
    seed: int = 0,
    share: float = 0.15,
) -> set[str]:
    """Choose `share` of the photographs of each class of `train`, to validate on.

    Whole fields are taken, so that photographs that overlap stay on one side. A field that a photograph of `test`
    shows a part of is never taken: what is validated on has nothing to do with the test.

    Args:
        train, test: Names of the photographs on either side.
        labels: The class of each.
        fields: The field of each, as `hub.photographs.fields` gives it.
        seed: Of the choice; the same seed gives the same photographs.
        share: In [0, 1].
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


def _pbc_rows(source: Path, seed: int) -> dict[str, list[dict]]:
    """The rows of each split of PBC."""
    archive = "PBC_dataset_normal_DIB"
    root = _find_root(source, ("", archive, f"*/{archive}"), set(PBC_CLASSES))
    rows = list(_read(_list_files(root, PBC_CLASSES), root).values())
    counts = Counter(row["label"] for row in rows)
    for name in PBC_CLASSES:
        if counts[name] < 10:
            raise DatasetError(
                f"{root} holds {counts[name]} readable images of {name}; 80/10/10 splits need ten or more"
            )
    train, rest = train_test_split(rows, test_size=0.2, random_state=seed, stratify=[row["label"] for row in rows])
    validation, test = train_test_split(
        rest, test_size=0.5, random_state=seed, stratify=[row["label"] for row in rest]
    )
    splits = {"train": train, "validation": validation, "test": test}
    return {split: sorted(part, key=lambda row: row["file_name"]) for split, part in splits.items()}


def _find_root(source: Path, patterns: tuple[str, ...], wanted: set[str]) -> Path:
    """The first folder, of `source` and those below it that match `patterns`, with a child folder in `wanted`."""
    if not source.is_dir():
        raise DatasetError(f"no such folder: {source}")
    for pattern in patterns:
        candidates = [source] if not pattern else [path for path in sorted(source.glob(pattern)) if path.is_dir()]
        roots = [path for path in candidates if wanted & {child.name.lower() for child in _folders(path)}]
        if len(roots) > 1:
            raise DatasetError(f"{source} holds several data sets: {', '.join(map(str, roots))}; name one of them")
        if roots:
            return roots[0]
    places = ", ".join(pattern or "the folder itself" for pattern in patterns)
    raise DatasetError(f"{source} holds none of the folders {', '.join(sorted(wanted))} (looked in: {places})")


def _folders(folder: Path) -> list[Path]:
    """The folders in `folder`, sorted, without hidden ones and the `__MACOSX` of archives made on a Mac."""
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child.name != "__MACOSX"
    )


def _list_files(folder: Path, wanted: Sequence[str]) -> list[tuple[Path, str]]:
    """The (file, class name) of every file that is not hidden in the class folders of `folder`, sorted.

    `wanted` are the names of the classes, which are those of their folders in lower case.
    """
    found = {}
    for child in _folders(folder):
        key = child.name.lower()
        if key not in wanted:
            raise DatasetError(f"unknown class folder {child}; looked for {', '.join(wanted)}")
        if key in found:
            raise DatasetError(f"two folders of one class: {found[key]} and {child}")
        found[key] = child
    for key in wanted:
        if key not in found:
            raise DatasetError(f"{folder} holds no class folder {key}; looked for {', '.join(wanted)}")
    files = []
    for key in wanted:
        in_class = sorted(path for path in found[key].iterdir() if not path.name.startswith("."))
        if not in_class:
            raise DatasetError(f"class folder {found[key]} is empty; looked for images")
        files += [(path, key) for path in in_class]
    return files


def _read(files: list[tuple[Path, str | None]], root: Path) -> dict[Path, dict]:
    """The rows of the files that decode, by path; the others are logged with the reason."""
    rows, unreadable = {}, []
    for path, name in tqdm(files, desc="Reading images", unit="file", disable=None):
        try:
            content = path.read_bytes()
        except OSError as error:
            unreadable.append((path, error.strerror))
            continue
        reason = _why_unreadable(content)
        if reason:
            unreadable.append((path, reason))
            continue
        rows[path] = {
            "image": {"bytes": content, "path": path.name},
            "label": name,
            "file_name": path.relative_to(root).as_posix(),
        }
    _log_unreadable(unreadable)
    return rows


def _why_unreadable(content: bytes) -> str | None:
    """The reason why an encoded image does not decode to its last pixel, or None if it does."""
    # Another library may have told Pillow to pad truncated files with grey.
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with PILImage.open(io.BytesIO(content)) as image:
            image.load()
    except PILImage.UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        return str(error) or type(error).__name__
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return None


def _log_unreadable(unreadable: list[tuple[Path | str, str]]) -> None:
    for path, reason in unreadable:
        logger.warning("left out %s: %s", path, reason)
    if unreadable:
        logger.warning("%d file%s left out", len(unreadable), " was" if len(unreadable) == 1 else "s were")


def _to_dataset(rows: list[dict], columns: Features) -> Dataset:
    return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns}, features=columns)


def _check_classes(rows: list[dict], class_names: Sequence[str], where: str) -> None:
    empty = set(class_names) - {row["label"] for row in rows}
    if empty:
        raise DatasetError(f"{where} holds no readable image of {', '.join(sorted(empty))}")


def label_review() -> list[dict[str, str]]:
    """The photographs of BCCD whose label is doubtful, the rows of `label_review.csv` beside this file.

    Each has `photograph`, `label` (the publisher's), `looks_like` (a class, or `unclear`) and `reason`.
    """
    with open(Path(__file__).with_name("label_review.csv"), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- Counts ---


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


def bccd_differences(dataset: DatasetDict) -> list[str]:
    """Every count of a built BCCD that is not the published one, as a line of text; empty if all agree."""
    counts = {split: Counter(class_counts(part)) for split, part in dataset.items()}
    counts["train"] += counts.get("validation", Counter())  # Both are the publisher's TRAIN.
    return [
        f"{split} {name}: {count:,} images, published {published:,} ({count - published:+,})"
        for split, published_counts in BCCD_PUBLISHED.items()
        for name, published in published_counts.items()
        if (count := counts[split][name]) != published
    ]


# --- Saving ---


def check_output(output: str | os.PathLike) -> None:
    """Raise `DatasetError` if `output` exists and is anything but an empty folder."""
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        raise DatasetError(f"{output} exists and is not empty; remove it or name another output folder")
    if output.exists() and not output.is_dir():
        raise DatasetError(f"{output} exists and is not a folder; remove it or name another output folder")


def save(
    dataset: DatasetDict, output: str | os.PathLike, finish: Callable[[Path], None] = lambda folder: None
) -> None:
    """Write `dataset` to the folder `output`, which holds all of it afterwards or, after any failure, does not exist.

    `finish` is called with the folder that holds the data, to put further files beside them. Raises `DatasetError` if
    `output` is not empty.
    """
    with writing(output) as folder:
        dataset.save_to_disk(folder)
        finish(folder)


@contextmanager
def writing(output: str | os.PathLike) -> Iterator[Path]:
    """The path of a folder to make, which becomes `output` when the block ends, or is removed when it fails.

    It lies, hidden, beside `output`. A killed process leaves it behind; the next `writing` to the same `output`
    removes it. Raises `DatasetError` if `output` is not empty.
    """
    output = Path(output).absolute()
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(output)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        yield partial
        if output.exists():
            output.rmdir()  # Windows does not rename onto an empty folder.
        os.replace(partial, output)
    except BaseException:  # KeyboardInterrupt and SystemExit too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _remove_stale(output: Path) -> None:
    """Remove the partial copies of `output` whose process is gone."""
    for partial in output.parent.glob(f".{output.name}.partial-*"):
        pid = partial.name.rpartition("-")[2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # os.kill(pid, 0) would end the process there.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# --- Download ---


def download_bccd(
    url: str = BCCD_URL, cache: str | os.PathLike | None = None, seed: int = 0
) -> tuple[DatasetDict, Registration | None]:
    """Download the archive of BCCD, check it, and build the data set from it as `build_bccd` does.

    The archive stays in `cache` (default: a folder of the Hugging Face data set cache, which `HF_HOME` moves), so that
    a later call needs no network; a broken download is resumed. Every member's CRC is checked, then the number of
    images of each class and split; an archive that fails either is deleted.

    Raises `DatasetError` if the server refuses the archive or the archive fails a check, `OSError` if the connection
    fails repeatedly or the disk is full.
    """
    cache = Path(cache or datasets.config.HF_DATASETS_CACHE / "wbc")
    archive = cache / f"bccd-{BCCD_COMMIT}.zip"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        download(url, archive)
    with tempfile.TemporaryDirectory(prefix="bccd-") as folder:
        try:
            _extract_images(archive, Path(folder))
            dataset, registration = build_bccd(folder, seed, cache)
            differences = bccd_differences(dataset)
            if differences:
                raise DatasetError(f"not the published counts: {'; '.join(differences)}")
        except (DatasetError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            archive.unlink()
            raise DatasetError(f"the archive from {url} is damaged and was deleted, run again: {error}") from error
    return dataset, registration


def download(url: str, path: str | os.PathLike) -> None:
    """Download `url` to the file `path`, by way of `path`.incomplete, from where a later call resumes.

    A lost connection, a server error (5xx) or "too many requests" (429) is tried again after 1, 2, 4 and 8 s. Raises
    `DatasetError` for any other answer than the file, `OSError` once the attempts are used up.
    """
    path = Path(path)
    incomplete = path.with_name(path.name + ".incomplete")
    for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            _fetch(url, incomplete)
            break
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code != 429:
                raise DatasetError(f"{url}: the server answered {error.code} {error.reason}") from error
            failure = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            failure = error
        if attempt == DOWNLOAD_ATTEMPTS:
            raise ConnectionError(f"{url}: {failure} ({attempt} attempts); run again to resume") from failure
        logger.warning("%s: %s; trying again", url, failure)
        time.sleep(2 ** (attempt - 1))
    os.replace(incomplete, path)


def _fetch(url: str, incomplete: Path) -> None:
    """One attempt to complete the file `incomplete`, from its end if it holds a beginning."""
    start = incomplete.stat().st_size if incomplete.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "wbc-dataset", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=DOWNLOAD_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if not start or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return  # All of it had arrived already.
        incomplete.unlink()
        raise ConnectionError("the server does not know the part that had arrived") from error
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            incomplete.unlink()
            raise ConnectionError("the server resumed at the wrong place")
        if not resumed:
            start = 0  # The server ignored the range and sends all of it.
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            open(incomplete, "ab" if resumed else "wb") as file,
            tqdm(desc="Downloading", total=total, initial=start, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while chunk := response.read(DOWNLOAD_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    size = incomplete.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"the connection was lost after {size:,} of {total:,} bytes")


def _extract_images(archive: Path, folder: Path) -> None:
    """Check the CRC of every member of `archive`; extract the images, photographs and their labels to `folder`."""
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


def foremost_cell(image_processor, image: PILImage.Image) -> torch.Tensor:
    """The box (4,) float32 of an image's first cell, as `WBCImageProcessor.find_cells` gives it; zeros without one."""
    boxes, _ = image_processor.find_cells(image)
    return boxes[0] if len(boxes) else torch.zeros(4)


# --- Loading ---


def load(name_or_path: str | os.PathLike | None = None, config_name: str | None = None, seed: int = 0) -> DatasetDict:
    """Load a data set of labelled images.

    `name_or_path` is a folder that `save` (or `save_to_disk`) wrote, a plain folder of images laid out
    `<class>/<file>` or `<split>/<class>/<file>`, or the id of a data set on the Hub, of which `config_name` picks a
    configuration. None gives the drawn cells of `hub.synthetic`, which alone depend on `seed`.

    Every split of the result has at least one row, a column `image` of `datasets.Image` and a column `label` of
    `datasets.ClassLabel`, with the same classes in every split; further columns are kept. Images of a plain folder or
    of the Hub that do not decode are logged by name and left out.

    Raises `DatasetError` if there is no such data set or it is not of that form.
    """
    if name_or_path is None:
        from hub import synthetic  # which imports this module

        return synthetic.drawn_cells(seed=seed)
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    is_local = path.exists() or path.is_absolute() or name.startswith((".", "~"))
    if not is_local:
        return _checked(_load_hub(name, config_name), f"the Hub data set {name}")
    if not path.is_dir():
        raise DatasetError(f"{'not a folder' if path.exists() else 'no such folder'}: {path}")
    if config_name is not None:
        raise DatasetError(f"{path} is a folder, which has no configuration {config_name!r}; leave it out")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _check_form(_load_saved(path), str(path))
    return _checked(_load_plain(path), str(path))


def _checked(dataset: DatasetDict, what: str) -> DatasetDict:
    """`dataset` without the images that do not decode, if it is of the form that `load` promises."""
    return _check_form(_without_unreadable(_check_form(dataset, what)), what)


def _load_hub(name: str, config_name: str | None) -> DatasetDict:
    try:
        return datasets.load_dataset(name, config_name)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        asked = name if config_name is None else f"{name} (configuration {config_name})"
        raise DatasetError(
            f"cannot load {asked}: it is neither a folder here nor a data set that could be reached on the Hub; "
            "name a saved data set, a folder of images (<split>/<class>/<file>), or the id of a Hub data set "
            f"({_first_line(error)})"
        ) from error


def _load_saved(path: Path) -> DatasetDict:
    try:
        if not (path / "dataset_dict.json").exists():
            return DatasetDict(train=_load_saved_split(path))
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return DatasetDict({split: _load_saved_split(path / split) for split in splits})
    except DatasetError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{path} is a damaged saved data set; build it again ({_first_line(error)})") from error


def _load_saved_split(path: Path) -> Dataset:
    # `datasets` writes a split without rows as no file at all, and cannot read it back.
    if not json.loads((path / "state.json").read_text(encoding="utf-8"))["_data_files"]:
        raise DatasetError(f"the saved split {path} has no rows")
    return datasets.load_from_disk(path)


def _load_plain(path: Path) -> DatasetDict:
    # The splits are named here, because `datasets` would find them in any part of a path: a file
    # `neutrophil/test_1.jpg` would be test data, and a folder `TEST` training data.
    splits: dict[str, list[str]] = {}
    others = []
    for folder in _folders(path):
        split = SPLIT_OF_FOLDER.get(folder.name.lower())
        if split:
            splits.setdefault(split, []).append(f"{folder.name}/**")
        else:
            others.append(folder)
    if splits:
        for folder in others:
            logger.warning("%s is ignored, as it is no split like its neighbours", folder)
    else:
        nested = next((folder for folder in _walk(path) if folder.name.lower() in SPLIT_OF_FOLDER), None)
        if nested:
            raise DatasetError(f"{path} holds the split folder {nested} too deep; name the folder {nested.parent}")
        splits = {"train": ["**"]}
    in_order = {split: splits[split] for split in dict.fromkeys(SPLIT_OF_FOLDER.values()) if split in splits}
    try:
        return datasets.load_dataset("imagefolder", data_dir=str(path), data_files=in_order)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise DatasetError(
            f"{path} is neither a saved data set nor a folder of images laid out <class>/<file> or "
            f"<split>/<class>/<file> ({_first_line(error)})"
        ) from error


def _walk(folder: Path) -> Iterator[Path]:
    for child in _folders(folder):
        yield child
        yield from _walk(child)


def _without_unreadable(dataset: DatasetDict) -> DatasetDict:
    unreadable, kept = [], {}
    for split, part in dataset.items():
        encoded = part.cast_column("image", Image(decode=False))
        good = []
        for index, image in enumerate(tqdm(encoded["image"], desc=f"Checking {split}", unit="file", disable=None)):
            content = image["bytes"]
            try:
                reason = _why_unreadable(Path(image["path"]).read_bytes() if content is None else content)
            except OSError as error:
                reason = error.strerror
            if reason:
                unreadable.append((image["path"], reason))
            else:
                good.append(index)
        kept[split] = part if len(good) == part.num_rows else part.select(good)
    _log_unreadable(unreadable)
    return DatasetDict(kept)


def _check_form(dataset: DatasetDict, what: str) -> DatasetDict:
    """Return `dataset`, or raise `DatasetError` if it is not of the form that `load` promises."""
    class_names = None
    for split, part in dataset.items():
        if not isinstance(part.features.get("image"), Image) or not isinstance(part.features.get("label"), ClassLabel):
            found = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in part.features.items())
            raise DatasetError(
                f"split {split} of {what} has the columns {found or 'none'}; image (Image) and label (ClassLabel) "
                "were expected: rename columns with rename_column, make labels with class_encode_column, lay out a "
                "plain folder <split>/<class>/<file> with two classes or more"
            )
        if not part.num_rows:
            raise DatasetError(f"split {split} of {what} has no rows")
        if unlabelled := sum(label is None or label < 0 for label in part["label"][:]):
            raise DatasetError(f"split {split} of {what} has {unlabelled} rows without a label; filter them out")
        names = part.features["label"].names
        if class_names not in (None, names):
            raise DatasetError(f"the splits of {what} differ in their classes: {class_names} and, in {split}, {names}")
        class_names = names
    return dataset


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- Command line ---


def add_commands(commands):
    """Add `dataset build` and `dataset review` to `commands`, the subparsers of `python -m hub`.

    Returns the subparsers of `dataset`, for further ones.
    """
    group = commands.add_parser("dataset", help="build a data set from raw images, review its labels, publish it")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    build = actions.add_parser("build", help="raw folders or the publisher's archive -> a saved DatasetDict")
    build.add_argument(
        "name",
        choices=("bccd", "pbc", "blood8"),
        help="BCCD (four classes), PBC (eight classes), or the union of both (eight classes)",
    )
    origin = build.add_mutually_exclusive_group()
    origin.add_argument("--source", type=Path, metavar="DIR", help="the raw images of bccd or pbc as published")
    origin.add_argument("--download", action="store_true", help="fetch the published archive (bccd only)")
    build.add_argument("--bccd", type=Path, metavar="DIR", help="the raw images of BCCD (blood8 only)")
    build.add_argument("--pbc", type=Path, metavar="DIR", help="the raw images of PBC (blood8 only)")
    build.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to write; new or empty")
    build.add_argument("--seed", type=int, default=0, help="seed of the splits that are cut here (default: 0)")
    build.set_defaults(run=lambda args: _run_build(build, args))
    look = actions.add_parser("review", help="BCCD's photographs whose label cross-validation disagrees with")
    look.add_argument(
        "--source",
        type=Path,
        metavar="DIR",
        required=True,
        help="holds Original_Images, labels.csv, Annotations",
    )
    look.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to write; new or empty")
    look.set_defaults(run=_run_review)
    return actions


def _run_build(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.name == "blood8":
        if not (args.bccd and args.pbc) or args.source or args.download:
            parser.error("blood8 needs --bccd DIR and --pbc DIR, and neither --source nor --download")
    elif args.bccd or args.pbc:
        parser.error(f"{args.name} takes --source DIR; --bccd and --pbc are for blood8")
    elif args.name == "pbc" and args.download:
        parser.error(
            "pbc needs --source: download the archive of doi 10.17632/snkd93bnjr.1 (described in doi "
            "10.1016/j.dib.2020.105474) by hand, unpack it and name its folder"
        )
    elif not (args.source or args.download):
        parser.error("one of the arguments --source --download is required")
    check_output(args.output)
    from hub.dataset_card import findings, write_card, write_contact_sheet
    from hub.metrics import text_table

    registration = None
    if args.name == "blood8":
        dataset, registration = build_blood8(args.bccd, args.pbc, args.seed)
    elif args.name == "pbc":
        dataset = build_pbc(args.source, args.seed)
    else:
        dataset, registration = download_bccd(seed=args.seed) if args.download else build_bccd(args.source, args.seed)
        for difference in bccd_differences(dataset):
            print(f"not as published: {difference}")

    found = findings(dataset, registration) if registration else None

    def finish(folder: Path) -> None:
        command = f"python -m hub {shlex.join(sys.argv[1:])}"
        write_card(folder, name=args.name, dataset=dataset, found=found, command=command)
        # What the card of the published data set is made of.
        told = {"name": args.name, "seed": args.seed, "found": found}
        (folder / BUILD_NAME).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        if registration:
            write_contact_sheet(folder, dataset, registration)

    save(dataset, args.output, finish)
    print(text_table(counts_rows(dataset)))
    if found:
        for split, row in found["shown"].items():
            print(
                f"{split}: {row['matched']:,} of {row['files']:,} files show {row['photographs']:,} photographs, "
                f"match error up to {row['worst']:.2f} grey levels"
            )
        for line in found["exceptions"]:
            print(line.replace("`", ""))
        print(
            f"{len(found['overlaps'])} pairs of photographs overlap, {len(found['leaks'])} of them between train and "
            f"test: {found['leaked_files']:,} test files show a field that train shows as well"
        )
    print(f"saved to {args.output}; README.md there tells what was found")


def _run_review(args: argparse.Namespace) -> None:
    from hub.photographs import register
    from hub.review import review, review_sheet

    check_output(args.output)
    rows, labels = _find_photographs(args.source)
    if not rows:
        raise DatasetError(f"{args.source} holds no folder Original_Images (or JPEGImages) with labels.csv")
    photographs = {name: row["image"]["bytes"] for name, row in rows.items()}
    registration = register({}, photographs, labels, args.source / "photographs.json")
    labels = {name: label for name, label in labels.items() if label in BCCD_CLASSES}
    try:
        judgements = review(photographs, labels, registration.fields, args.source / "Annotations")
    except ValueError as error:
        raise DatasetError(str(error)) from error
    judgements.sort(key=lambda judgement: (judgement.predicted == judgement.label, -judgement.confidence))
    wrong = [judgement for judgement in judgements if judgement.predicted != judgement.label]
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / "judgements.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("photograph", "label", "predicted", "confidence"))
        writer.writerows((j.photograph, j.label, j.predicted, f"{j.confidence:.3f}") for j in judgements)
    review_sheet(wrong, photographs, args.source / "Annotations").save(args.output / "wrong.png")
    sure = sum(judgement.confidence >= 0.5 for judgement in wrong)
    print(
        f"{len(judgements) - len(wrong)} of {len(judgements)} photographs judged as labelled, {len(wrong)} otherwise, "
        f"{sure} of these with a confidence of 0.5 or more"
    )
    print(f"look at {args.output / 'wrong.png'}; all judgements are in {args.output / 'judgements.csv'}")
