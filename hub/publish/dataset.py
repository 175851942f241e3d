"""The data set repository: its configurations as parquet, and the card, which says what was found out."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, DatasetInfo, Image, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from hub.data.bccd import BCCD_CLASSES, build_bccd, doubtful_labels, download_bccd
from hub.data.columns import counts_rows, features
from hub.data.load import BUILD_NAME, load, save
from hub.data.pbc import PBC_CLASSES, build_pbc
from hub.data.photographs import Registration, contact_sheet
from hub.data.union import build_blood8
from hub.evaluation.format import markdown_table
from hub.files import UserError, check_output, write_json

_TEMPLATE = Path(__file__).parent / "cards" / "dataset.md"
_TITLES = {
    "bccd": "BCCD with the photograph of every file",
    "pbc": "PBC, peripheral blood cells",
    "blood8": "blood8: eight types of blood cells, two labs",
}
_AUGMENTED = ("train", "validation", "test", "test_simple")
_WORST = 40
_SHARD_BYTES = 400 * 2**20


def build(
    name: str,
    output: Path,
    *,
    source: Path | None = None,
    bccd: Path | None = None,
    pbc: Path | None = None,
    download: bool = False,
    seed: int = 0,
    command: str | None = None,
) -> tuple[DatasetDict, dict | None]:
    """Build a data set from raw folders or the publisher's archive, with its card, and save it.

    Args:
        name: `bccd` (four classes), `pbc` (eight) or `blood8`, the union of both.
        output: A folder to write; new or empty. It holds all of the data set afterwards or, after any failure, does
            not exist.
        source: The raw images of `bccd` or `pbc` as published.
        bccd, pbc: Those of each, for `blood8`.
        download: Whether to fetch the published archive in place of `source`, of `bccd`.
        seed: Of the splits that are cut here.
        command: The command that the card names. Default: the one that does the same.

    Returns:
        The data set, and the `findings` about its photographs, None where these are unknown.

    Raises:
        UserError: A folder is missing or not laid out as published, or `output` is not empty.
        OSError: The download fails repeatedly, or the disk is full.
    """
    check_output(output)
    registration = None
    if name == "blood8":
        dataset, registration = build_blood8(bccd, pbc, seed)
    elif name == "pbc":
        dataset = build_pbc(source, seed)
    else:
        dataset, registration = download_bccd(seed=seed) if download else build_bccd(source, seed)
    found = findings(dataset, registration) if registration else None
    command = command or _build_command(name, seed)

    def finish(folder: Path) -> None:
        write_card(folder, name=name, dataset=dataset, found=found, command=command)
        # What the card of the published data set is made of.
        write_json(folder / BUILD_NAME, {"name": name, "seed": seed, "found": found})
        if registration:
            write_contact_sheet(folder, dataset, registration)

    save(dataset, output, finish)
    return dataset, found


def _build_command(name: str, seed: int) -> str:
    """The command that builds a data set, for its card."""
    origin = "--bccd DIR --pbc DIR" if name == "blood8" else "--source DIR"
    return f"python -m hub dataset build {name} {origin} --output data/{name}" + (f" --seed {seed}" if seed else "")


def stage(source: Path, folder: Path, repo_id: str) -> None:
    """Write the repository of a built data set: a parquet file or more for each split, and the card.

    The union has the configurations `blood8` (the default), `bccd` and `pbc`, see `configurations`; BCCD or PBC alone
    are one. The same data give the same bytes.

    Args:
        source: The folder that `python -m hub dataset build` wrote.
        folder: An empty folder.
        repo_id: The id it is to have on the Hub.

    Raises:
        UserError: `source` is no such folder.
    """
    try:
        build = json.loads((source / BUILD_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{source} holds no {BUILD_NAME}: build the data set with `python -m hub dataset build` (an earlier "
            "version of which did not write it)"
        ) from error
    dataset, name = load(source), build["name"]
    infos, files = DatasetInfosDict(), {}
    parts = configurations(dataset) if name == "blood8" else {name: dataset}
    for config, splits in parts.items():
        infos[config], files[config] = _write_shards(splits, folder / config)
    write_card(
        folder,
        name=name,
        dataset=dataset,
        found=build["found"],
        command=_build_command(name, build["seed"]),
        repo_id=repo_id,
        infos=infos,
        files=files,
    )


def configurations(union: DatasetDict) -> dict[str, DatasetDict]:
    """The union of BCCD and PBC, and each of them as it is when it is built alone, by name."""
    parts = {"blood8": union}
    for name, columns in (("bccd", features(BCCD_CLASSES, photographs=True)), ("pbc", features(PBC_CLASSES))):
        parts[name] = DatasetDict()
        for split, rows in union.items():
            if chosen := [row for row, origin in enumerate(rows["dataset"][:]) if origin == name]:
                part = rows.select(chosen).cast_column("image", Image(decode=False))
                table = {column: part[column][:] for column in columns}
                table["label"] = part.features["label"].int2str(table["label"])
                table["file_name"] = [path.removeprefix(f"{name}/") for path in table["file_name"]]
                parts[name][split] = Dataset.from_dict(table, features=columns)
    return parts


def _write_shards(splits: DatasetDict, folder: Path) -> tuple[DatasetInfo, dict[str, str]]:
    """Write a configuration to its folder; return what the metadata tell of it, and the pattern of each split."""
    folder.mkdir()
    infos, patterns, columns = SplitDict(), {}, None
    for split, rows in splits.items():
        columns = rows.features
        shards = max(1, -(-rows.data.nbytes // _SHARD_BYTES))
        names = [folder / f"{split}-{index:05d}-of-{shards:05d}.parquet" for index in range(shards)]
        written = [rows.shard(shards, index, contiguous=True).to_parquet(name) for index, name in enumerate(names)]
        infos.add(SplitInfo(split, num_bytes=sum(written), num_examples=rows.num_rows))
        patterns[split] = f"{folder.name}/{split}-*"
    size = sum(path.stat().st_size for path in folder.iterdir())
    total = sum(info.num_bytes for info in infos.values())
    return DatasetInfo(features=columns, splits=infos, download_size=size, dataset_size=total), patterns


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
        dataset: What was built.
        found: The `findings` about its photographs; None where these are unknown.
        command: The command that built it.
        repo_id: The id that it is to have on the Hub; None for a folder that stays here.
        infos: Of the repository's configurations, features and sizes; the first one is loaded unless told otherwise.
        files: Of the configurations, the pattern of the files of each split.
    """
    bccd, pbc = name != "pbc", name != "bccd"
    data = DatasetCardData(
        license=["mit"] * bccd + ["cc-by-4.0"] * pbc,
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
        bccd=bccd,
        pbc=pbc,
        columns_of_photographs=bccd,
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
    """What the files and photographs of BCCD say about its splits, by the names that the card's template uses.

    `shown`: of each split, `files`, `matched`, `photographs`, `worst` (match error); `exceptions`: every file or
    photograph that is not where the publisher's split puts it, a sentence each; `overlaps`; `leaks`, those between
    TRAIN and TEST; `leaked`, the photographs of TEST whose field TRAIN shows too, and `leaked_files`, their files in
    `test`; `doubtful`, the rows of `doubtful_labels.csv` with their splits.
    """
    side = dict.fromkeys(registration.train, "train") | dict.fromkeys(registration.test, "test")
    shown, files_of, exceptions, stray = {}, {}, [], 0
    for split in _AUGMENTED:
        if split not in dataset:  # As validation is, where there are too few photographs to hold any out.
            files_of[split] = {}
            continue
        names, photographs, errors = _matched(dataset[split])
        files = defaultdict(list)
        for name, photograph in zip(names, photographs, strict=True):
            files[photograph].append(name)
        unmatched = files.pop(None, [])
        files_of[split] = files
        shown[split] = {
            "files": len(names),
            "matched": len(names) - len(unmatched),
            "photographs": len(files),
            "worst": max((error for error in errors if error is not None), default=0.0),
        }
        exceptions += [f"`{name}` shows no photograph of its class." for name in unmatched]
        expected = "test" if split.startswith("test") else "train"
        for photograph, paths in files.items():
            if side[photograph] != expected:
                stray += len(paths)
                exceptions += [f"`{path}` shows {photograph}, of {side[photograph].upper()}'s side." for path in paths]
    for photograph, paths in sorted(files_of["test_simple"].items()):
        if len(paths) > 1:
            exceptions.append(f"{' and '.join(f'`{path}`' for path in sorted(paths))} both show {photograph}.")
    of_a_class = {name for name in registration.test if registration.labels[name] in BCCD_CLASSES}
    for split in ("test", "test_simple"):
        missing = sorted(of_a_class - set(files_of[split]))
        exceptions += [f"No file of `{split}` shows {name}, which is on TEST's side." for name in missing]

    # Where the files of a photograph are; the 3 basophils and those with two labels have none.
    split_of = {name: split for split in ("test", "validation", "train") for name in files_of[split]}
    overlaps = []
    for overlap in registration.overlaps:
        pair = (overlap.first, overlap.second)
        sides = [split_of.get(name, "–") for name in pair]
        overlaps.append(
            asdict(overlap)
            | {
                "labels": [registration.labels.get(name, "–") for name in pair],
                "sides": sides,
                "leak": "test" in sides and bool({"train", "validation"} & set(sides)),
            }
        )
    fields_of_train = {registration.fields[name] for split in ("train", "validation") for name in files_of[split]}
    leaked = sorted(name for name in files_of["test"] if registration.fields[name] in fields_of_train)
    matched = sum(row["matched"] for row in shown.values())
    return {
        "shown": shown,
        "photograph_counts": _photograph_counts(registration, {split: files_of[split] for split in shown}),
        "side_sentence": (
            f"Of {matched:,} files that show a photograph, {matched - stray:,} show one that the publisher's seeded "
            "split (`train_test_split(test_size=0.2, random_state=10)`) puts on the side that their folder is named "
            "after." + (" What is not as one would expect:" if exceptions else "")
        ),
        "exceptions": exceptions,
        "photographs": len(registration.fields),
        "overlaps": overlaps,
        "leaks": [row for row in overlaps if row["leak"]],
        "leaked": leaked,
        "leaked_files": sum(len(files_of["test"][name]) for name in leaked),
        "doubtful": [row | {"split": split_of.get(row["photograph"], "–")} for row in doubtful_labels()],
    }


def write_contact_sheet(folder: Path, dataset: DatasetDict, registration: Registration) -> None:
    """Draw the 40 files with the largest match errors, `folder/worst_matches.jpg`, each beside its photograph."""
    encoded = dataset.cast_column("image", Image(decode=False))
    rows = []
    for split in _AUGMENTED:
        if split in dataset:
            _, _, errors = _matched(dataset[split])
            rows += [(error, split, index) for index, error in enumerate(errors) if error is not None]
    photographs = {}
    for split in ("train_photographs", "validation_photographs", "test_photographs"):
        if split in dataset:
            photographs |= {row["photograph"]: row["image"]["bytes"] for row in encoded[split]}
    pairs = []
    for _, split, index in sorted(rows, reverse=True)[:_WORST]:
        row = encoded[split][index]
        name = row["file_name"].removeprefix("bccd/")
        match = registration.matches[name]
        pairs.append((name, row["image"]["bytes"], photographs[match.photograph], match))
    if pairs:
        contact_sheet(pairs).save(folder / "worst_matches.jpg", quality=90)


def _matched(part) -> tuple[list[str], list[str | None], list[float | None]]:
    """File name, photograph and match error of each row that BCCD has."""
    origin = part["dataset"][:] if "dataset" in part.column_names else ["bccd"] * part.num_rows
    rows = np.flatnonzero(np.array(origin) == "bccd")
    columns = (part[column][:] for column in ("file_name", "photograph", "match_error"))
    return tuple([column[k] for k in rows] for column in columns)


def _photograph_counts(registration: Registration, files_of: dict) -> str:
    """A table of the number of photographs of each class that each split shows."""
    labels = sorted({registration.labels[name] for files in files_of.values() for name in files})
    rows = [["Photographs of", *files_of]]
    for label in labels:
        shown = ([name for name in files if registration.labels[name] == label] for files in files_of.values())
        rows.append([label, *(str(len(names)) for names in shown)])
    return markdown_table(rows)
