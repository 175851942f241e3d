"""Raw image folders to a `DatasetDict`, and the loading of every kind of data set that the project accepts."""

import argparse
import http.client
import io
import json
import logging
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from PIL import ImageFile
from sklearn.model_selection import train_test_split
from tqdm.auto import tqdm

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

# The publisher's folder `ig` holds promyelocytes, myelocytes and metamyelocytes: the immature granulocytes.
PBC_FOLDERS = {
    "basophil": "basophil",
    "eosinophil": "eosinophil",
    "erythroblast": "erythroblast",
    "ig": "immature granulocyte",
    "lymphocyte": "lymphocyte",
    "monocyte": "monocyte",
    "neutrophil": "neutrophil",
    "platelet": "platelet",
}
PBC_CLASSES = tuple(PBC_FOLDERS.values())

# Folder names that stand for a split; those of `datasets`, and BCCD's TEST_SIMPLE.
SPLIT_OF_FOLDER = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    "test_simple": "test_simple",
}

DOWNLOAD_ATTEMPTS = 5
DOWNLOAD_TIMEOUT_S = 60
DOWNLOAD_CHUNK_BYTES = 1 << 20


class DatasetError(ValueError):
    """A data set that cannot be read, built or written as asked; the message is one line for the user."""


def features(class_names: tuple[str, ...]) -> Features:
    """The columns of every data set built here.

    `image` holds the encoded bytes of the file and decodes to a PIL image, `label` is an index into
    `class_names`, `file_name` is the POSIX path of the file relative to the root of its raw data set.
    """
    return Features({"image": Image(), "label": ClassLabel(names=list(class_names)), "file_name": Value("string")})


# --- Raw folders ---


def build_bccd(source: str | os.PathLike) -> DatasetDict:
    """Build BCCD (augmented) from `source` with the publisher's splits `train`, `test` and `test_simple`.

    `source` is the folder that holds `TRAIN`, `TEST` and `TEST_SIMPLE`, or one that holds it as `images`, as the
    GitHub archive's `_inputs/images` or as Kaggle's `dataset2-master/dataset2-master/images`. Files that do not decode
    are logged by name and left out. Rows are sorted by class, then by file name. All images are held in memory
    (about 100 MB).

    Raises `DatasetError` for a missing split folder, a missing, unknown or empty class folder.
    """
    root = _find_root(
        Path(source), ("", "images", "*/images", "*/*/images"), {folder.lower() for folder in BCCD_SPLITS.values()}
    )
    wanted = {name: name for name in BCCD_CLASSES}
    files = {}
    for split, folder in BCCD_SPLITS.items():
        matches = [child for child in _folders(root) if child.name.lower() == folder.lower()]
        if len(matches) != 1:
            raise DatasetError(f"{root} holds {len(matches)} folders {folder}; exactly one was looked for")
        files[split] = _list_files(matches[0], wanted)
    rows = _read([file for split in files.values() for file in split], root)
    splits = {}
    for split in files:
        splits[split] = _to_dataset([rows[path] for path, _ in files[split] if path in rows], BCCD_CLASSES)
        _check_classes(splits[split], f"split {split} of {root}")
    return DatasetDict(splits)


def build_pbc(source: str | os.PathLike, seed: int = 0) -> DatasetDict:
    """Build PBC (Acevedo et al. 2020, eight classes) from `source`, split 80/10/10 and stratified by class.

    `source` is the folder that holds the class folders, or one that holds it as `PBC_dataset_normal_DIB`. The splits
    `train`, `validation` and `test` depend on `seed` and the names of the files that decode. The publisher does not
    tell which patient a cell is from, so cells of one patient may lie in several splits. Files that do not decode are
    logged by name and left out. All images are held in memory (about 140 to 300 MB).

    Raises `DatasetError` for a missing, unknown or empty class folder, or fewer than ten images of a class.
    """
    archive = "PBC_dataset_normal_DIB"
    root = _find_root(Path(source), ("", archive, f"*/{archive}"), set(PBC_FOLDERS))
    rows = list(_read(_list_files(root, PBC_FOLDERS), root).values())
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
    return DatasetDict(
        {
            split: _to_dataset(sorted(part, key=lambda row: row["file_name"]), PBC_CLASSES)
            for split, part in splits.items()
        }
    )


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


def _list_files(folder: Path, wanted: dict[str, str]) -> list[tuple[Path, str]]:
    """The (file, class name) of every file that is not hidden in the class folders of `folder`, sorted.

    `wanted` maps the name of each class folder, in lower case, to the name of the class.
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
    for key, name in wanted.items():
        in_class = sorted(path for path in found[key].iterdir() if not path.name.startswith("."))
        if not in_class:
            raise DatasetError(f"class folder {found[key]} is empty; looked for images")
        files += [(path, name) for path in in_class]
    return files


def _read(files: list[tuple[Path, str]], root: Path) -> dict[Path, dict]:
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


def _to_dataset(rows: list[dict], class_names: tuple[str, ...]) -> Dataset:
    columns = features(class_names)
    return Dataset.from_dict({column: [row[column] for row in rows] for column in columns}, features=columns)


def _check_classes(dataset: Dataset, where: str) -> None:
    counts = class_counts(dataset)
    empty = [name for name, count in counts.items() if not count]
    if empty:
        raise DatasetError(f"{where} holds no readable image of {', '.join(empty)}")


# --- Counts ---


def class_counts(dataset: Dataset) -> dict[str, int]:
    """The number of rows of each class of `dataset`, in the order of its labels."""
    counts = Counter(dataset["label"][:])
    return {name: counts[index] for index, name in enumerate(dataset.features["label"].names)}


def counts_table(dataset: DatasetDict) -> str:
    """An aligned text table of the number of images: a row a class and their total, a column a split."""
    counts = {split: class_counts(part) for split, part in dataset.items()}
    names = list(next(iter(counts.values())))
    rows = [["", *counts]]
    rows += [[name, *(f"{counts[split][name]:,}" for split in counts)] for name in names]
    rows += [["total", *(f"{part.num_rows:,}" for part in dataset.values())]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def bccd_differences(dataset: DatasetDict) -> list[str]:
    """Every count of a built BCCD that is not the published one, as a line of text; empty if all agree."""
    return [
        f"{split} {name}: {count:,} images, published {published:,} ({count - published:+,})"
        for split, counts in BCCD_PUBLISHED.items()
        for name, published in counts.items()
        if (count := class_counts(dataset[split])[name]) != published
    ]


# --- Saving ---


def check_output(output: str | os.PathLike) -> None:
    """Raise `DatasetError` if `output` exists and is anything but an empty folder."""
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        raise DatasetError(f"{output} exists and is not empty; remove it or name another output folder")
    if output.exists() and not output.is_dir():
        raise DatasetError(f"{output} exists and is not a folder; remove it or name another output folder")


def save(dataset: DatasetDict, output: str | os.PathLike) -> None:
    """Write `dataset` to the folder `output`, which holds all of it afterwards or, after any failure, does not exist.

    The files are written to a hidden folder beside `output` that is then renamed. A killed process leaves that
    folder behind; the next `save` to the same `output` removes it. Raises `DatasetError` if `output` is not empty.
    """
    output = Path(output).absolute()
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(output)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        dataset.save_to_disk(partial)
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


def download_bccd(url: str = BCCD_URL, cache: str | os.PathLike | None = None) -> DatasetDict:
    """Download the archive of BCCD, check it, and build the data set from it.

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
            dataset = build_bccd(folder)
            differences = bccd_differences(dataset)
            if differences:
                raise DatasetError(f"not the published counts: {'; '.join(differences)}")
        except (DatasetError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            archive.unlink()
            raise DatasetError(f"the archive from {url} is damaged and was deleted, run again: {error}") from error
    return dataset


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
    """Check the CRC of every member of `archive` and extract the image files to `folder`."""
    with zipfile.ZipFile(archive) as file:
        damaged = file.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"bad CRC of {damaged}")
        for member in file.infolist():
            parts = PurePosixPath(member.filename).parts
            # <repository>-<commit>/_inputs/images/<split>/<class>/<file>; no name that points outside is of that form.
            if not member.is_dir() and len(parts) == 6 and parts[1:3] == ("_inputs", "images") and ".." not in parts:
                file.extract(member, folder)


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


def add_commands(commands) -> None:
    """Add `dataset build` to `commands`, the subparsers of `python -m hub`."""
    group = commands.add_parser("dataset", help="build a data set from raw images")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    build = actions.add_parser("build", help="raw folders or the publisher's archive -> a saved DatasetDict")
    build.add_argument("name", choices=("bccd", "pbc"), help="BCCD (four classes) or PBC (eight classes)")
    origin = build.add_mutually_exclusive_group(required=True)
    origin.add_argument("--source", type=Path, metavar="DIR", help="the raw images as published")
    origin.add_argument("--download", action="store_true", help="fetch the published archive (bccd only)")
    build.add_argument("--output", type=Path, metavar="DIR", required=True, help="folder to write; new or empty")
    build.add_argument("--seed", type=int, default=0, help="seed of the splits of pbc (default: %(default)s)")
    build.set_defaults(run=lambda args: _run_build(build, args))


def _run_build(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.name == "pbc" and args.download:
        parser.error(
            "pbc needs --source: download the archive of doi 10.17632/snkd93bnjr.1 (described in doi "
            "10.1016/j.dib.2020.105474) by hand, unpack it and name its folder"
        )
    check_output(args.output)
    if args.name == "pbc":
        dataset = build_pbc(args.source, args.seed)
    else:
        dataset = download_bccd() if args.download else build_bccd(args.source)
        for difference in bccd_differences(dataset):
            print(f"not as published: {difference}")
    save(dataset, args.output)
    print(counts_table(dataset))
    print(f"saved to {args.output}")
