"""Build a data set from raw folders, and stage its repository: configurations as parquet files, and the card."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset, DatasetDict, DatasetInfo, Image, SplitDict, SplitInfo, load_from_disk
from datasets.info import DatasetInfosDict

from hub.data.folder import describe_lab, folder_publisher
from hub.data.load import load, save
from hub.data.union import PUBLISHERS, UNITED, Built, build_lab, build_union
from hub.files import UserError, check_output, write_json
from hub.publish.contact_sheet import write_contact_sheet
from hub.publish.dataset_card import findings, write_card

# A file beside the splits of a built data set: its name, labs and seed, and the findings about its images.
BUILD_NAME = "build.json"
# The folder beside the splits that holds whole fields with boxes, and the suffix of their configuration on the Hub.
FIELDS_NAME = "fields"
UNIONS = ("union", "blood8")

_SHARD_BYTES = 400 * 2**20


def build(
    name: str,
    output: Path,
    *,
    source: Path | None = None,
    bccd: Path | None = None,
    pbc: Path | None = None,
    chula: Path | None = None,
    wbcatt: Path | None = None,
    lab: str | None = None,
    group: str | None = None,
    download: bool = False,
    seed: int = 0,
    command: str | None = None,
) -> tuple[DatasetDict, dict]:
    """Build a data set from raw folders or the publisher's archive, with its card, and save it.

    Args:
        name: A lab of `hub.data.union.PUBLISHERS`; `folder`, anybody's images; `union`, several labs under eight
            types; or `blood8`, the former name of the union of BCCD and PBC.
        output: A folder to write, new or empty. After any failure it does not exist. Beside the splits it holds the
            card, `build.json` and, with Chula, the folder `fields`, a data set of its own.
        source: The raw images of one lab as published.
        bccd: The raw images of BCCD, for a union.
        pbc: The raw images of PBC, for a union.
        chula: The raw images of Chula, for a union.
        wbcatt: The tables of WBCAtt, for `pbc` or a union with it.
        lab: The name of the lab, for `folder`.
        group: A regular expression of the group in a file name, for `folder`, see `hub.data.folder.folder_publisher`.
        download: Whether to fetch the published archive in place of `source`.
        seed: Of the splits that are cut here.
        command: The command that the card names. Default: the command that does the same.

    Returns:
        The data set, and the content of `build.json`: `name`, `labs`, `seed`; `found`, the `findings` about BCCD's
        photographs, None where these are unknown; `near_duplicates` and `agreement`, see `hub.data.union.Built`, and
        `validation_only`, whether it may be neither trained on nor published.

    Raises:
        UserError: A folder is missing or not laid out as published, a lab has no archive to download, or `output` is
            not empty.
        OSError: The download fails repeatedly, or the disk is full.
    """
    check_output(output)
    given = {key: folder for key, folder in zip(UNITED, (bccd, pbc, chula), strict=True) if folder}
    if name in UNIONS:
        publishers = {key: PUBLISHERS[key] for key in given}
        built = build_union(given, seed, wbcatt=wbcatt)
    else:
        if source is None and not download:
            raise UserError(f"{name} needs a source: name the folder of its images")
        publisher = (
            PUBLISHERS[name] if source is None or name != "folder" else folder_publisher(source, lab or "", group)
        )
        publishers = {publisher.name: publisher}
        reading = publisher.fetch(seed) if source is None else publisher.read(source, seed, wbcatt=wbcatt)
        built = build_lab(publisher, reading)
    report = {
        "name": name,
        "labs": list(publishers),
        "seed": seed,
        "validation_only": any(publisher.validation_only for publisher in publishers.values()),
        "found": findings(built.dataset, built.registration) if built.registration else None,
        **built.found,
    }
    command = command or build_command(report)

    def add_reports(folder: Path) -> None:
        write_card(folder, dataset=built.dataset, report=report, publishers=publishers, command=command)
        write_json(folder / BUILD_NAME, report)
        _add_pictures(folder, built)

    save(built.dataset, output, add_reports)
    return built.dataset, report


def _add_pictures(folder: Path, built: Built) -> None:
    """Write the contact sheet of BCCD's matches, and the fields of Chula, beside a data set that has them."""
    if built.registration:
        write_contact_sheet(folder, built.dataset, built.registration)
    if built.fields:
        built.fields.save_to_disk(folder / FIELDS_NAME)


def build_command(report: dict) -> str:
    """The command that builds a data set, for its card, given the content of its `build.json`."""
    origin = "--source DIR"
    if report["name"] in UNIONS:
        origin = " ".join(f"--{lab} DIR" for lab in report["labs"])
    elif report["name"] == "folder":
        origin += f" --lab {report['labs'][0]}"
    origin += " --wbcatt DIR" * bool(report.get("agreement"))
    seed = f" --seed {report['seed']}" if report["seed"] else ""
    return f"python -m hub dataset build {report['name']} {origin} --output data/{report['name']}{seed}"


def stage(source: Path, folder: Path, repo_id: str) -> None:
    """Write the repository of a built data set: one or more parquet files for each split, and the card.

    A union has the configuration `union` (the default) and one for each lab, see `configurations`; a lab alone has
    one. Chula's fields are the last configuration, `fields`. The same data give the same bytes.

    Args:
        source: The folder that `python -m hub dataset build` wrote.
        folder: An empty folder.
        repo_id: The id of the repository on the Hub.

    Raises:
        UserError: `source` is no such folder, or holds a data set that may not be published.
    """
    try:
        report = json.loads((source / BUILD_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{source} holds no {BUILD_NAME}: build the data set with `python -m hub dataset build` (an earlier "
            "version of which did not write it)"
        ) from error
    dataset, name = load(source), report["name"]
    # A build of an earlier version does not list its labs.
    report.setdefault("labs", ["bccd", "pbc"] if name == "blood8" else [name])
    class_names = tuple(next(iter(dataset.values())).features["label"].names)
    publishers = {lab: PUBLISHERS.get(lab) or describe_lab(lab, class_names) for lab in report["labs"]}
    _check_publishable(source, dataset, report)
    parts = configurations(dataset, name) if name in UNIONS else {name: dataset}
    if (source / FIELDS_NAME).is_dir():
        parts[FIELDS_NAME] = load_from_disk(source / FIELDS_NAME)
    infos, files = DatasetInfosDict(), {}
    for config, splits in parts.items():
        infos[config], files[config] = _write_shards(splits, folder / config)
    write_card(
        folder,
        dataset=dataset,
        report=report,
        publishers=publishers,
        command=build_command(report),
        repo_id=repo_id,
        infos=infos,
        files=files,
    )


def _check_publishable(source: Path, dataset: DatasetDict, report: dict) -> None:
    """Raise `UserError` if a data set holds images of a lab that may not be published, by its report or its rows."""
    forbidden = {lab for lab, publisher in PUBLISHERS.items() if publisher.validation_only}
    labs = set(report["labs"])
    for rows in dataset.values():
        labs |= set(rows.unique("lab")) if "lab" in rows.column_names else set()
    if report.get("validation_only") or forbidden & labs:
        raise UserError(
            f"{source} holds images of {', '.join(sorted(forbidden & labs) or report['labs'])}, whose terms are not "
            "known: it is for validation here and may not be published"
        )


def configurations(union: DatasetDict, name: str = "union") -> dict[str, DatasetDict]:
    """Take a union apart: the union itself by its name, and the part of each of its labs, as built alone."""
    parts = {name: union}
    for lab, publisher in PUBLISHERS.items():
        columns = publisher.columns
        part = DatasetDict()
        for split, rows in union.items():
            if chosen := [row for row, origin in enumerate(rows["lab"][:]) if origin == lab]:
                selected = rows.select(chosen).cast_column("image", Image(decode=False))
                table = {
                    # A union of an earlier version has fewer columns.
                    column: selected[column][:] if column in selected.column_names else [None] * len(chosen)
                    for column in columns
                }
                table["label"] = selected.features["label"].int2str(table["label"])
                table["file_name"] = [str(path).removeprefix(f"{lab}/") for path in table["file_name"]]
                part[split] = Dataset.from_dict(table, features=columns)
        if part:
            parts[lab] = part
    return parts


def _write_shards(splits: DatasetDict, folder: Path) -> tuple[DatasetInfo, dict[str, str]]:
    """Write a configuration to its folder; return its metadata, and the pattern of the files of each split."""
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
