"""Load every kind of data set that the project accepts, and save one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Image
from tqdm.auto import tqdm

from hub.data.columns import RENAMED
from hub.data.raw import log_unreadable, subfolders, why_unreadable
from hub.data.synthetic import drawn_cells
from hub.files import HUB_ERRORS, UserError, one_line, writing

logger = logging.getLogger(__name__)

# The split that a folder name stands for: the names that `datasets` knows, and BCCD's TEST_SIMPLE.
SPLIT_OF_FOLDER = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    "test_simple": "test_simple",
}


def save(
    dataset: DatasetDict, output: str | os.PathLike, finish: Callable[[Path], None] = lambda folder: None
) -> None:
    """Write a data set to a folder, whole or not at all.

    Args:
        dataset: What to write.
        output: A folder, new or empty. After any failure it does not exist.
        finish: Called with the path of the folder before it is complete, to put further files beside the data.

    Raises:
        UserError: `output` is not empty.
    """
    with writing(output) as folder:
        dataset.save_to_disk(folder)
        finish(folder)


def load(name_or_path: str | os.PathLike | None = None, config_name: str | None = None, seed: int = 0) -> DatasetDict:
    """Load a data set of labelled images.

    Images of a plain folder or of the Hub that do not decode are logged by name and left out.

    Args:
        name_or_path: A folder that `save` (or `save_to_disk`) wrote, a plain folder of images laid out
            `<class>/<file>` or `<split>/<class>/<file>`, or the id of a data set on the Hub, or a folder of parquet
            files like the repository of one. None gives the drawn cells of `hub.data.synthetic`.
        config_name: The configuration of a data set on the Hub, or of a folder like it.
        seed: Of the drawn cells.

    Returns:
        Splits of at least one row, with a column `image` of `datasets.Image` and a column `label` of
        `datasets.ClassLabel`, whose classes are the same in every split; further columns are kept. Columns of data
        sets built by an earlier version get their present names: `dataset` is `lab`, `field` is `group`.

    Raises:
        UserError: There is no such data set, or it is not of that form.
    """
    if name_or_path is None:
        return drawn_cells(seed=seed)
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    is_local = path.exists() or path.is_absolute() or name.startswith((".", "~"))
    if not is_local:
        return _checked(_load_hub(name, config_name), f"the Hub data set {name}")
    if not path.is_dir():
        raise UserError(f"{'not a folder' if path.exists() else 'no such folder'}: {path}")
    is_saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    if not is_saved and _holds_parquet(path):
        return _checked(_load_repository(path, config_name), str(path))
    if config_name is not None:
        raise UserError(f"{path} is a folder, which has no configuration {config_name!r}; leave it out")
    if is_saved:
        return _check_form(_load_saved(path), str(path))
    return _checked(_load_plain(path), str(path))


def _checked(dataset: DatasetDict, what: str) -> DatasetDict:
    """Check the form that `load` promises, and leave out the images that do not decode."""
    return _check_form(_without_unreadable(_check_form(dataset, what)), what)


def _load_hub(name: str, config_name: str | None) -> DatasetDict:
    try:
        return datasets.load_dataset(name, config_name)
    except (datasets.exceptions.DatasetsError, ValueError, *HUB_ERRORS) as error:
        asked = name if config_name is None else f"{name} (configuration {config_name})"
        raise UserError(
            f"cannot load {asked}: it is neither a folder here nor a data set that could be reached on the Hub; "
            "name a saved data set, a folder of images (<split>/<class>/<file>), or the id of a Hub data set "
            f"({one_line(error)})"
        ) from error


def _holds_parquet(path: Path) -> bool:
    """Whether a folder is like a repository of parquet files, and not one of images beside which a table lies."""
    return any(path.glob("*/*.parquet")) or (any(path.glob("*.parquet")) and not subfolders(path))


def _load_repository(path: Path, config_name: str | None) -> DatasetDict:
    try:
        return datasets.load_dataset(str(path.resolve()), config_name)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        asked = "" if config_name is None else f" in the configuration {config_name}"
        raise UserError(f"cannot load the parquet files of {path}{asked} ({one_line(error)})") from error


def _load_saved(path: Path) -> DatasetDict:
    try:
        if not (path / "dataset_dict.json").exists():
            return DatasetDict(train=_load_saved_split(path))
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return DatasetDict({split: _load_saved_split(path / split) for split in splits})
    except UserError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is a damaged saved data set; build it again ({one_line(error)})") from error


def _load_saved_split(path: Path) -> Dataset:
    # `datasets` writes a split without rows as no file at all, and cannot read it back.
    if not json.loads((path / "state.json").read_text(encoding="utf-8"))["_data_files"]:
        raise UserError(f"the saved split {path} has no rows")
    return datasets.load_from_disk(path)


def _load_plain(path: Path) -> DatasetDict:
    # The splits are named here, because `datasets` looks for them in every part of a path: a file
    # `neutrophil/test_1.jpg` would be test data, and a folder `TEST` training data.
    splits: dict[str, list[str]] = {}
    others = []
    for folder in subfolders(path):
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
            raise UserError(f"{path} holds the split folder {nested} too deep; name the folder {nested.parent}")
        splits = {"train": ["**"]}
    _check_names(path)
    in_order = {split: splits[split] for split in dict.fromkeys(SPLIT_OF_FOLDER.values()) if split in splits}
    try:
        return datasets.load_dataset("imagefolder", data_dir=str(path), data_files=in_order)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is neither a saved data set nor a folder of images laid out <class>/<file> or "
            f"<split>/<class>/<file> ({one_line(error)})"
        ) from error


def _check_names(path: Path) -> None:
    """Raise `UserError` for a name below a folder that is no UTF-8, which `datasets` cannot keep in its tables."""
    for file in path.rglob("*"):
        try:
            file.name.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(file).decode(errors="backslashreplace")
            raise UserError(f"the name of {shown} is no valid UTF-8; rename the file") from error


def _walk(folder: Path) -> Iterator[Path]:
    """All folders below a folder."""
    for child in subfolders(folder):
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
                reason = why_unreadable(Path(image["path"]).read_bytes() if content is None else content)
            except OSError as error:
                reason = error.strerror
            if reason:
                unreadable.append((image["path"], reason))
            else:
                good.append(index)
        kept[split] = part if len(good) == part.num_rows else part.select(good)
    log_unreadable(unreadable)
    return DatasetDict(kept)


def _check_form(dataset: DatasetDict, what: str) -> DatasetDict:
    """Return `dataset` with present column names; raise `UserError` if it is not of the form that `load` promises."""
    class_names = None
    for split, part in dataset.items():
        if not isinstance(part.features.get("image"), Image) or not isinstance(part.features.get("label"), ClassLabel):
            found = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in part.features.items())
            raise UserError(
                f"split {split} of {what} has the columns {found or 'none'}; image (Image) and label (ClassLabel) "
                "were expected: rename columns with rename_column, make labels with class_encode_column, lay out a "
                "plain folder <split>/<class>/<file> with two classes or more"
            )
        if not part.num_rows:
            raise UserError(f"split {split} of {what} has no rows")
        if unlabelled := sum(label is None or label < 0 for label in part["label"][:]):
            raise UserError(f"split {split} of {what} has {unlabelled} rows without a label; filter them out")
        names = part.features["label"].names
        if class_names not in (None, names):
            raise UserError(f"the splits of {what} differ in their classes: {class_names} and, in {split}, {names}")
        class_names = names
    return DatasetDict({split: _present_names(part) for split, part in dataset.items()})


def _present_names(part: Dataset) -> Dataset:
    """Rename the columns of an earlier version, where the present names are free."""
    former = {old: new for old, new in RENAMED.items() if old in part.column_names and new not in part.column_names}
    return part.rename_columns(former) if former else part
