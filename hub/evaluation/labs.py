"""The test of travel: the figures of a classifier in each lab.

Every figure is over the crops of the model's own detector, as a user of `analyze` gets them: the foremost cell of an
image is its prediction, and an image in which no cell is found counts as wrong and as refused.
"""

import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, Image, NamedSplit, concatenate_datasets
from tqdm.auto import tqdm

from hub.data.columns import origins
from hub.data.load import SPLIT_OF_FOLDER, load
from hub.data.raw import log_unreadable, subfolders
from hub.evaluation.corruptions import measure_corruptions
from hub.evaluation.format import corruptions_table, labs_table, text_table
from hub.evaluation.intervals import bootstrap_means
from hub.evaluation.metrics import expected_calibration_error
from hub.evaluation.mistakes import TILE_WIDTH, mistake_tiles
from hub.evaluation.plots import plot_labs
from hub.evaluation.sheets import contact_sheet
from hub.files import UserError, check_output, one_line, write_json, writing
from modeling_wbc import Field
from modeling_wbc.field_wbc import UNFAMILIAR_STAIN

# The splits to measure, in order of preference.
SPLITS = ("test", "validation")
# A prediction above this probability counts as sure.
SURE = 0.9
# Images that are analysed at once, which bounds the memory.
_CHUNK = 64


def load_labs(sources: Sequence[str | os.PathLike], splits: Sequence[str] = SPLITS) -> dict[str, Dataset]:
    """Load the images of each lab, for `measure`.

    A lab is a value of the column `lab`. A data set without this column is one lab, named after its folder or by the
    last part of its id on the Hub. A plain folder of class folders, without split folders, is measured as a whole.

    Args:
        sources: Data sets, as `hub.data.load.load` takes them.
        splits: The splits to measure, in order of preference: each lab is measured on the first that has images of
            it. `a+b` stands for the splits a and b together.

    Returns:
        The images of each lab, in the order of the sources. `Dataset.split` is the name of the split, "all" for a
        plain folder as a whole.

    Raises:
        UserError: A source cannot be loaded, a lab has no image in any of the splits, or two sources have one lab.
    """
    labs: dict[str, Dataset] = {}
    for source in (os.fspath(source) for source in sources):
        dataset, wanted = load(source), splits
        if _is_one_split(Path(source).expanduser()):
            dataset, wanted = DatasetDict(all=dataset["train"]), ["all"]
        found = _split_by_lab(dataset, source, wanted)
        if twice := sorted(labs.keys() & found.keys()):
            raise UserError(f"{source} has the lab {twice[0]}, which an earlier data set has, too; name each lab once")
        labs |= found
    return labs


def measure(
    model,
    labs: Mapping[str, Dataset],
    output: str | os.PathLike | None = None,
    about: Mapping[str, str] | None = None,
    corruptions: bool = False,
) -> dict:
    """Measure how a classifier travels: its figures in each lab.

    Args:
        model: A `WBCForImageClassification`, on the device to use.
        labs: The images of each lab: columns `image`, `label` (a `ClassLabel`, whose names are matched with the
            model's types, the case of letters aside) and, where known, `group`, the field, slide or patient that the
            image is of, and `file_name`. `load_labs` returns it.
        output: A folder to write; new or empty: the results as `results.json`, their plot `labs.png`, the costliest
            mistakes `mistakes.png` (see `mistake_tiles`), and `predictions.csv`, a row for each image with
            `file_name`, `lab`, `group`, `label`, the `prediction` among all types of the model, its `confidence` in
            [0, 1], the `prediction_of_lab` among the types that the lab has, `known`, the `remark` why it is not, and
            `found`; predictions and confidence are empty if no cell was found. Default: no files.
        about: Entries to put before the results, such as the model's name and the command.
        corruptions: Whether to measure each lab also under corruptions, see `measure_corruptions`.

    Returns:
        `about`; with `corruptions`, under this name what `measure_corruptions` returns for each lab; and `labs`, which
        holds for each lab, all shares in [0, 1]:

        - `split`; `types`, those of the model that the lab has; `left_out`, the number of images of each type that
          the model does not know;
        - `images`, the number of images of known type that could be read; `unreadable`, the names of those that could
          not; `groups`, the number of groups, where an image without a group is one, or None if no group is known;
        - `found`, the share of images with a cell; `known`, the share whose foremost cell is within the OOD
          threshold; `refused`, the number of the other images; `unfamiliar_stain`, the share of images that are
          refused for their stain alone;
        - `accuracy` of the likeliest among the lab's types; `balanced_accuracy`, the mean of its recalls; and
          `accuracy_of_all_types`, that of the likeliest among all types of the model;
        - `confidently_wrong`, the share whose cell is known, but whose likeliest type of all is wrong and more
          probable than `SURE`;
        - `expected_calibration_error` of the probabilities of all types, over the images with a cell; None if there
          are none;
        - `intervals`, [low, high] by the name of each of the shares, 95 %, see `bootstrap_means`;
        - `confusion_matrix`, counts: a row for each of `types`, a column for each of `types` as `prediction_of_lab`,
          and a last column for images without a cell.

    Raises:
        UserError: The model knows no type of a lab, no image of a lab can be read, or `output` is not empty.
    """
    if output is not None:
        check_output(output)
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    # Selected before the first is analysed, so that a lab without a known type ends the run at its beginning.
    selected = {lab: known_types(images, lab, names) for lab, images in labs.items()}
    measured: dict[str, dict] = {}
    corrupted: dict[str, dict] = {}
    tables, tiles = [], []
    for lab, (images, class_ids, left_out) in selected.items():
        table, probabilities, unreadable = _analyzed(model, images, lab)
        if table.empty:
            raise UserError(f"no image of the lab {lab} could be read; leave its data set out")
        references = class_ids[table.index]
        figures = _figures(table, probabilities, references, names)
        split = None if images.split is None else str(images.split)
        measured[lab] = {"split": split, "left_out": left_out, "unreadable": unreadable, **figures}
        tables.append(_predictions(table, probabilities, references, names))
        encoded = _encoded(images)
        if corruptions:
            groups = None if table["group"].isna().all() else table["group"].to_list()
            readable = encoded.select(table.index)["image"]
            corrupted[lab] = measure_corruptions(model, readable, references, groups, lab)
        if output is not None:
            tiles += mistake_tiles(encoded, tables[-1], table["crop_box"].to_list())
    results = {**(about or {}), "labs": measured, **({"corruptions": corrupted} if corruptions else {})}
    if output is not None:
        with writing(output) as folder:
            folder.mkdir()
            write_json(folder / "results.json", results)
            pd.concat(tables).to_csv(folder / "predictions.csv", index=False, lineterminator="\r\n", encoding="utf-8")
            plot_labs(measured, folder / "labs.png")
            contact_sheet(tiles, columns=8, width=TILE_WIDTH).save(folder / "mistakes.png")
    return results


def describe(results: dict) -> str:
    """The result of `measure` as text: a table, and the images that are not in it."""
    lines = [text_table(labs_table(results))]
    if "corruptions" in results:
        lines += ["", text_table(corruptions_table(results["corruptions"])), ""]
    for lab, found in results["labs"].items():
        if found["left_out"]:
            counts = ", ".join(f"{count:,} {name}" for name, count in found["left_out"].items())
            lines.append(f"{lab}: left out, as the model does not know the type: {counts}")
        if found["unreadable"]:
            lines.append(f"{lab}: could not be read: {', '.join(found['unreadable'])}")
    return "\n".join(lines)


def _is_one_split(path: Path) -> bool:
    """Whether a path is a plain folder that holds no folder of a split."""
    if not path.is_dir() or (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return False
    return not any(folder.name.lower() in SPLIT_OF_FOLDER for folder in subfolders(path))


def _split_by_lab(dataset: DatasetDict, source: str, splits: Sequence[str]) -> dict[str, Dataset]:
    """The images of each lab in the first of `splits` that has any; see `load_labs`."""
    name = Path(source).name or source
    labs = {split: [lab or name for lab in origins(part, "lab")] for split, part in dataset.items()}
    found = {}
    for lab in dict.fromkeys(lab for values in labs.values() for lab in values):
        having = [split for split, values in labs.items() if lab in values]
        chosen = next((split for split in splits if set(split.split("+")) & set(having)), None)
        if chosen is None:
            raise UserError(
                f"{source} has no image of the lab {lab} in the split {' or '.join(splits)}, only in "
                f"{', '.join(having)}; name the split to measure"
            )
        parts = [
            dataset[part].select([row for row, value in enumerate(labs[part]) if value == lab])
            for part in chosen.split("+")
            if part in having
        ]
        found[lab] = concatenate_datasets(parts, split=NamedSplit(chosen))
    return found


def known_types(images: Dataset, lab: str, names: Sequence[str]) -> tuple[Dataset, np.ndarray, dict[str, int]]:
    """The images of the model's types, their class ids in the model, and the number of images of each other type."""
    ids = {name.lower(): index for index, name in enumerate(names)}
    own = images.features["label"].names
    labels = images["label"][:]
    rows = [row for row, label in enumerate(labels) if own[label].lower() in ids]
    if not rows:
        raise UserError(
            f"the model knows no type of the lab {lab}, which has {', '.join(own)}; it knows {', '.join(names)}: "
            "rename the classes of the data set"
        )
    left_out = Counter(own[label] for label in labels if own[label].lower() not in ids)
    references = np.array([ids[own[labels[row]].lower()] for row in rows])
    return images if len(rows) == len(images) else images.select(rows), references, dict(left_out)


def _encoded(images: Dataset) -> Dataset:
    """The column `image` of images, not decoded."""
    return images.select_columns(["image"]).cast_column("image", Image(decode=False))


def _analyzed(model, images: Dataset, lab: str) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """Analyse the images of a lab.

    Returns:
        `file_name`, `lab`, `group`, and of the foremost cell `known`, `found`, `remark` and `crop_box` (None without
        one), of each image that could be read, by its row; the probabilities of its foremost cell, float64 (N, C),
        NaN without a cell; and the names of the unreadable images.
    """
    encoded = _encoded(images)
    file_names = images["file_name"][:] if "file_name" in images.column_names else [None] * len(images)
    columns = zip(file_names, origins(images, "group"), strict=True)
    rows, probabilities, unreadable = {}, [], []
    fields = tqdm(_fields(model, encoded), desc=lab, total=len(images), unit="image", disable=None)
    for row, ((file_name, group), (path, field)) in enumerate(zip(columns, fields, strict=True)):
        name = file_name or (path and "/".join(Path(path).parts[-2:])) or f"row {row}"
        if isinstance(field, str):  # Not `Field`: weights that bring their own code bring another class of this name.
            unreadable.append((name, field))
            continue
        cell = field.cells[0] if field.cells else None
        known = cell is not None and cell.known
        rows[row] = {"file_name": name, "lab": lab, "group": group, "known": known, "found": cell is not None}
        # A checkpoint published earlier gives no remark.
        rows[row] |= {"remark": getattr(cell, "remark", None), "crop_box": cell and cell.crop_box}
        nothing = [np.nan] * model.config.num_labels
        probabilities.append(list(cell.probabilities.values()) if cell else nothing)
    log_unreadable([(f"{name} of the lab {lab}", reason) for name, reason in unreadable])
    return pd.DataFrame.from_dict(rows, orient="index"), np.array(probabilities), [name for name, _ in unreadable]


def _fields(model, encoded: Dataset) -> Iterator[tuple[str | None, Field | str]]:
    """The path of each image and its field, or the reason why it cannot be read."""
    for start in range(0, len(encoded), _CHUNK):
        images = encoded[start : start + _CHUNK]["image"]
        try:
            fields = model.analyze([image_source(image) for image in images])
        except ValueError:  # One of them cannot be read.
            fields = [_field(model, image) for image in images]
        yield from zip((image["path"] for image in images), fields, strict=True)


def _field(model, image: dict) -> Field | str:
    """The field of one image, or the reason why it cannot be read."""
    try:
        return model.analyze(image_source(image))
    except ValueError as error:
        return one_line(error)


def image_source(image: dict) -> io.BytesIO | Path:
    """An image of `datasets.Image(decode=False)` as a source of `analyze`."""
    return Path(image["path"]) if image["bytes"] is None else io.BytesIO(image["bytes"])


def _figures(table: pd.DataFrame, probabilities: np.ndarray, references: np.ndarray, names: Sequence[str]) -> dict:
    """The figures of a lab; see `measure`."""
    found, known = table["found"].to_numpy(), table["known"].to_numpy()
    types = np.unique(references)
    truth = np.searchsorted(types, references)
    answers = np.full(len(table), len(types))  # The column of images without a cell.
    answers[found] = probabilities[np.ix_(found, types)].argmax(axis=1)
    right: np.ndarray = np.zeros(len(table), dtype=bool)
    right[found] = probabilities[found].argmax(axis=1) == references[found]
    sure = np.nan_to_num(probabilities).max(axis=1) > SURE
    shares = {
        "found": found,
        "accuracy": answers == truth,
        "accuracy_of_all_types": right,
        "known": known,
        "confidently_wrong": known & ~right & sure,
    }
    groups = None if table["group"].isna().all() else table["group"].to_list()
    intervals = bootstrap_means(shares, references, groups=groups)
    balanced = {"balanced_accuracy": shares["accuracy"]}
    intervals |= bootstrap_means(balanced, references, groups=groups, balanced=True)
    confusion: np.ndarray = np.zeros((len(types), len(types) + 1), dtype=int)
    np.add.at(confusion, (truth, answers), 1)
    recalls = np.diagonal(confusion) / confusion.sum(axis=1)
    error = expected_calibration_error(probabilities[found], references[found]) if found.any() else None
    return {
        "types": [names[index] for index in types],
        "images": len(table),
        "groups": None if groups is None else int(table["group"].nunique() + table["group"].isna().sum()),
        **{name: float(values.mean()) for name, values in shares.items()},
        "balanced_accuracy": float(recalls.mean()),
        "expected_calibration_error": error,
        "refused": int((~known).sum()),
        "unfamiliar_stain": float((table["remark"] == UNFAMILIAR_STAIN).mean()),
        "confusion_matrix": confusion.tolist(),
        "intervals": intervals,
    }


def _predictions(
    table: pd.DataFrame, probabilities: np.ndarray, references: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    """The rows of `predictions.csv`; see `measure`."""
    names, types = np.array(names, dtype=object), np.unique(references)
    found = table["found"].to_numpy()
    filled = np.nan_to_num(probabilities)
    return pd.DataFrame(
        {
            "file_name": table["file_name"],
            "lab": table["lab"],
            "group": table["group"],
            "label": names[references],
            "prediction": np.where(found, names[filled.argmax(axis=1)], ""),
            "confidence": np.where(found, [f"{value:.5f}" for value in filled.max(axis=1)], ""),
            "prediction_of_lab": np.where(found, names[types[filled[:, types].argmax(axis=1)]], ""),
            "known": np.where(table["known"], "yes", "no"),
            "remark": table["remark"].fillna(""),
            "found": np.where(found, "yes", "no"),
        }
    )
