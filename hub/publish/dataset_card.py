"""The card of a data set as a data sheet, and the findings about BCCD's photographs that stand in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from datasets import Dataset, DatasetDict, Features
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from hub.data.bccd import BCCD, BCCD_CLASSES, doubtful_labels, publisher_split
from hub.data.columns import ATTRIBUTES, class_counts, counts_rows
from hub.data.publisher import Publisher
from hub.evaluation.format import markdown_table

if TYPE_CHECKING:
    from hub.data.photographs import Registration

_OF_FILES = ("lab", "file_name", "photograph", "match_error")
# The splits of BCCD whose files were made from photographs.
AUGMENTED_SPLITS = ("train", "validation", "test", "test_simple")

_TEMPLATE = Path(__file__).parent / "cards" / "dataset.md"
_UNION_TITLE = "{name}: eight types of blood cells, {labs} labs"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def write_card(
    folder: Path,
    *,
    dataset: DatasetDict,
    report: Mapping,
    publishers: Mapping[str, Publisher],
    command: str,
    repo_id: str | None = None,
    infos: DatasetInfosDict | None = None,
    files: Mapping[str, dict[str, str]] | None = None,
) -> None:
    """Write the card of a built data set, `folder/README.md`, as a data sheet.

    Every figure in it is counted in `dataset` or stands in `report`.

    Args:
        folder: An existing folder.
        dataset: The built data set.
        report: The content of its `build.json`, see `hub.publish.dataset.build`; that of an earlier version has
            neither `near_duplicates` nor `agreement`.
        publishers: The labs of its images by name.
        command: The command that built it.
        repo_id: The id of its repository on the Hub; None for a folder that is not published.
        infos: The features and sizes of the repository's configurations; the first one is the default.
        files: The pattern of the files of each split, for each configuration.
    """
    one = next(iter(publishers.values())) if len(publishers) == 1 else None
    title = one.title if one else _UNION_TITLE.format(name=report["name"], labs=len(publishers))
    data = DatasetCardData(
        license=list(dict.fromkeys(publisher.license for publisher in publishers.values())),
        task_categories=["image-classification"] + ["object-detection"] * ("chula" in publishers),
        pretty_name=title,
        size_categories=_size(sum(part.num_rows for part in dataset.values())),
        tags=["white-blood-cell", "hematology", "microscopy", "medical"],
    )
    if repo_id and infos and files:
        infos.to_dataset_card_data(data)
        data["configs"] = [
            {"config_name": config, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}
            | ({"default": True} if config == next(iter(infos)) else {})
            for config, splits in files.items()
        ]
    columns = next(iter(dataset.values())).features
    found = report.get("found")
    card = DatasetCard.from_template(
        data,
        template_path=_TEMPLATE,
        title=title,
        name=report["name"],
        publishers=publishers,
        validation_only=[lab for lab, publisher in publishers.items() if publisher.validation_only],
        columns=columns,
        counts=markdown_table(counts_rows(dataset)),
        lab_counts=markdown_table(_lab_counts(dataset)) if "lab" in columns and len(publishers) > 1 else None,
        stage_counts=markdown_table(counts_rows(dataset, "stage")) if _is_filled(dataset, "stage") else None,
        attribute_counts=_attribute_counts(dataset, report.get("agreement")),
        agreement=report.get("agreement"),
        near_duplicates=report.get("near_duplicates"),
        command=command,
        found=found is not None,
        repo_id=repo_id,
        first_splits=list(dataset),
        configs=[
            (config, len(_class_names(info.features)), sum(split.num_examples for split in info.splits.values()))
            for config, info in (infos or {}).items()
        ],
        **(found or {}),
    )
    card.save(folder / "README.md")


def _size(count: int) -> str:
    """The Hub's name of a number of images."""
    return next((name for limit, name in _SIZES if count < limit), "n>1M")


def _class_names(columns: Features) -> list[str]:
    """The classes of the cells or, of whole fields, of the boxes."""
    return (columns["label"] if "label" in columns else columns["objects"]["category"].feature).names


def _lab_counts(dataset: DatasetDict) -> list[list[str]]:
    """The number of images of each lab and split, and of groups where they are known, as the rows of a table."""
    tables = {split: part.select_columns(["lab", "group"]).to_pandas() for split, part in dataset.items()}
    labs = dict.fromkeys(lab for table in tables.values() for lab in table["lab"])
    rows = [["", *tables, "Groups"]]
    for lab in labs:
        own = [table[table["lab"] == lab] for table in tables.values()]
        groups = pd.concat(own)["group"].nunique()
        rows.append([lab, *(f"{len(table):,}" for table in own), f"{groups:,}" if groups else "unknown"])
    return rows


def _is_filled(dataset: DatasetDict, column: str) -> bool:
    """Whether a column is there and has a value."""
    return any(column in part.features and any(class_counts(part, column).values()) for part in dataset.values())


def _agreement_figures(row: dict) -> tuple[str, str]:
    """The agreement and kappa of an attribute as text."""
    return f"{100 * row['agreement']:.1f}", "–" if row["kappa"] is None else f"{row['kappa']:.2f}"


def _attribute_counts(dataset: DatasetDict, agreement: list[dict] | None) -> str | None:
    """A Markdown table of the values of each attribute, with their numbers and the agreement; None without any."""
    known = {row["attribute"]: row for row in agreement or ()}
    rows = [["Attribute", "Images with each value", "Agreement (%)", "Kappa"]]
    for name in ATTRIBUTES:
        if _is_filled(dataset, name):
            counts = [class_counts(part, name) for part in dataset.values()]
            values = ", ".join(f"{value} {sum(part[value] for part in counts):,}" for value in ATTRIBUTES[name])
            figures = _agreement_figures(known[name]) if known else ("–", "–")
            rows.append([f"`{name}`", values, *figures])
    return markdown_table(rows) if len(rows) > 1 else None


def findings(dataset: DatasetDict, registration: Registration) -> dict:
    """Collect the findings about the files and photographs of BCCD, by the names that the card's template uses.

    Args:
        dataset: A built BCCD, or a union with it.
        registration: That of its files.

    Returns:
        `shown`: for each split, the number of `files`, of those `matched`, of `photographs`, and the `worst` match
        error; `photograph_counts`: a Markdown table of the photographs of each class and split; `side_sentence`, and
        `exceptions`, a sentence for every file or photograph that is not on the side of the publisher's split;
        `photographs`, their number; `overlaps`; `leaks`, the overlaps between TRAIN and TEST; `leaked`, the
        photographs of TEST whose field TRAIN shows too, and `leaked_files`, the number of their files in `test`;
        `doubtful`, the rows of `doubtful_labels` with their splits.
    """
    tables = {split: files_of_photographs(dataset[split]) for split in AUGMENTED_SPLITS if split in dataset}
    # File names by photograph; a split may be missing, such as validation where there are too few photographs.
    files_of: dict[str, dict[str, list[str]]] = {split: {} for split in AUGMENTED_SPLITS}
    for split, table in tables.items():
        for photograph, files in table.groupby("photograph", sort=False)["file_name"]:
            files_of[split][str(photograph)] = files.tolist()
    shown = {
        split: {
            "files": len(table),
            "matched": int(table["photograph"].count()),
            "photographs": len(files_of[split]),
            "worst": float(table["match_error"].max()) if table["match_error"].count() else 0.0,
        }
        for split, table in tables.items()
    }
    exceptions, stray = _exceptions(tables, files_of, registration)
    # The split of each photograph's files; the 3 basophils and the photographs with two labels have none.
    split_of = {name: split for split in ("test", "validation", "train") for name in files_of[split]}
    overlaps = _overlaps(registration, split_of)
    fields_of_train = {registration.fields[name] for split in ("train", "validation") for name in files_of[split]}
    leaked = sorted(name for name in files_of["test"] if registration.fields[name] in fields_of_train)
    matched = sum(row["matched"] for row in shown.values())
    return {
        "shown": shown,
        "photograph_counts": _photograph_counts(registration, {split: files_of[split] for split in shown}),
        "side_sentence": (
            f"Of {matched:,} files that show a photograph, {matched - stray:,} show one that the publisher's seeded "
            "split (`train_test_split(test_size=0.2, random_state=10)`) puts on the side that their folder is named "
            "after." + (" The exceptions:" if exceptions else "")
        ),
        "exceptions": exceptions,
        "photographs": len(registration.fields),
        "overlaps": overlaps,
        "leaks": [row for row in overlaps if row["leak"]],
        "leaked": leaked,
        "leaked_files": sum(len(files_of["test"][name]) for name in leaked),
        "doubtful": [row | {"split": split_of.get(row["photograph"], "–")} for row in doubtful_labels()],
    }


def files_of_photographs(part: Dataset) -> pd.DataFrame:
    """The rows of a split that are BCCD's: `file_name`, `photograph` and `match_error`, by the number of the row."""
    table = part.select_columns([name for name in _OF_FILES if name in part.column_names]).to_pandas()
    if "lab" in table:
        table = table[table["lab"] == BCCD.name]
    return table[["file_name", "photograph", "match_error"]]


def _exceptions(
    tables: Mapping[str, pd.DataFrame], files_of: Mapping[str, dict[str, list[str]]], registration: Registration
) -> tuple[list[str], int]:
    """The sentences `exceptions` of `findings`, and the number of files that show the other side's photographs."""
    train, test = publisher_split(registration.labels)
    side = dict.fromkeys(train, "train") | dict.fromkeys(test, "test")
    exceptions, stray = [], 0
    for split, table in tables.items():
        unmatched = table["file_name"][table["photograph"].isna()]
        exceptions += [f"`{name}` shows no photograph of its class." for name in unmatched]
        expected = "test" if split.startswith("test") else "train"
        for photograph, paths in files_of[split].items():
            if side[photograph] != expected:
                stray += len(paths)
                exceptions += [f"`{path}` shows {photograph}, of {side[photograph].upper()}'s side." for path in paths]
    for photograph, paths in sorted(files_of["test_simple"].items()):
        if len(paths) > 1:
            exceptions.append(f"{' and '.join(f'`{path}`' for path in sorted(paths))} both show {photograph}.")
    of_a_class = {name for name in test if registration.labels[name] in BCCD_CLASSES}
    for split in ("test", "test_simple"):
        missing = sorted(of_a_class - set(files_of[split]))
        exceptions += [f"No file of `{split}` shows {name}, which is on TEST's side." for name in missing]
    return exceptions, stray


def _overlaps(registration: Registration, split_of: Mapping[str, str]) -> list[dict]:
    """Each overlap as a row of the card's table: with the labels and splits of both photographs."""
    rows = []
    for overlap in registration.overlaps:
        pair = (overlap.first, overlap.second)
        sides = [split_of.get(name, "–") for name in pair]
        rows.append(
            asdict(overlap)
            | {
                "labels": [registration.labels.get(name, "–") for name in pair],
                "sides": sides,
                "leak": "test" in sides and bool({"train", "validation"} & set(sides)),
            }
        )
    return rows


def _photograph_counts(registration: Registration, files_of: Mapping[str, dict[str, list[str]]]) -> str:
    """A Markdown table of the number of photographs of each class that each split shows."""
    labels = sorted({registration.labels[name] for files in files_of.values() for name in files})
    rows = [["Photographs of", *files_of]]
    for label in labels:
        shown = ([name for name in files if registration.labels[name] == label] for files in files_of.values())
        rows.append([label, *(str(len(names)) for names in shown)])
    return markdown_table(rows)
