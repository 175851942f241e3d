"""The card of a data set, and the findings about BCCD's photographs that stand in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from datasets import Dataset, DatasetDict
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from hub.data.bccd import BCCD, BCCD_CLASSES, doubtful_labels, publisher_split
from hub.data.columns import counts_rows
from hub.data.union import PUBLISHERS
from hub.evaluation.format import markdown_table

if TYPE_CHECKING:
    from hub.data.photographs import Registration

# The splits of BCCD whose files were made from photographs.
AUGMENTED_SPLITS = ("train", "validation", "test", "test_simple")

_TEMPLATE = Path(__file__).parent / "cards" / "dataset.md"
_TITLES = {
    "bccd": "BCCD with the photograph of every file",
    "pbc": "PBC, peripheral blood cells",
    "blood8": "blood8: eight types of blood cells, two labs",
}


def write_card(
    folder: Path,
    *,
    name: str,
    dataset: DatasetDict,
    found: dict | None,
    command: str,
    repo_id: str | None = None,
    infos: DatasetInfosDict | None = None,
    files: Mapping[str, dict[str, str]] | None = None,
) -> None:
    """Write the card of a built data set, `folder/README.md`.

    Every figure in it is counted in `dataset` or stands in `found`.

    Args:
        folder: An existing folder.
        name: `bccd`, `pbc` or `blood8`.
        dataset: The built data set.
        found: The `findings` about its photographs; None where these are unknown.
        command: The command that built it.
        repo_id: The id of its repository on the Hub; None for a folder that is not published.
        infos: The features and sizes of the repository's configurations; the first one is the default.
        files: The pattern of the files of each split, for each configuration.
    """
    publishers = PUBLISHERS if name == "blood8" else {name: PUBLISHERS[name]}
    data = DatasetCardData(
        license=[publisher.license for publisher in publishers.values()],
        task_categories=["image-classification"],
        pretty_name=_TITLES[name],
        size_categories="10K<n<100K",
        tags=["white-blood-cell", "hematology", "microscopy", "medical"],
    )
    if repo_id:
        infos.to_dataset_card_data(data)
        data["configs"] = [
            {"config_name": config, "data_files": [{"split": split, "path": path} for split, path in splits.items()]}
            | ({"default": True} if config == next(iter(infos)) else {})
            for config, splits in files.items()
        ]
    card = DatasetCard.from_template(
        data,
        template_path=_TEMPLATE,
        title=_TITLES[name],
        bccd="bccd" in publishers,
        pbc="pbc" in publishers,
        counts=markdown_table(counts_rows(dataset)),
        command=command,
        found=found is not None,
        repo_id=repo_id,
        configs=[
            (config, len(info.features["label"].names), sum(split.num_examples for split in info.splits.values()))
            for config, info in (infos or {}).items()
        ],
        **(found or {}),
    )
    card.save(folder / "README.md")


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
    files_of = {
        split: tables[split].groupby("photograph", sort=False)["file_name"].agg(list).to_dict()
        if split in tables
        else {}
        for split in AUGMENTED_SPLITS
    }
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
    table = part.remove_columns("image").to_pandas()
    if "dataset" in table:
        table = table[table["dataset"] == BCCD.name]
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
