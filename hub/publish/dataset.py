"""Build a data set from raw folders, and stage its repository: configurations as parquet files, and the card."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset, DatasetDict, DatasetInfo, Image, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict

from hub.data.load import load, save
from hub.data.union import PUBLISHERS, build_blood8
from hub.files import UserError, check_output, write_json
from hub.publish.contact_sheet import write_contact_sheet
from hub.publish.dataset_card import findings, write_card

# A file beside the splits of a built data set: its name, its seed, and the findings about its photographs.
BUILD_NAME = "build.json"

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
        output: A folder to write, new or empty. After any failure it does not exist.
        source: The raw images of `bccd` or `pbc` as published.
        bccd: The raw images of BCCD, for `blood8`.
        pbc: The raw images of PBC, for `blood8`.
        download: Whether to fetch the published archive in place of `source`; for `bccd`.
        seed: Of the splits that are cut here.
        command: The command that the card names. Default: the command that does the same.

    Returns:
        The data set, and the `findings` about its photographs, None where these are unknown.

    Raises:
        UserError: A folder is missing or not laid out as published, or `output` is not empty.
        OSError: The download fails repeatedly, or the disk is full.
    """
    check_output(output)
    if name == "blood8":
        dataset, registration = build_blood8(bccd, pbc, seed)
    elif download:
        dataset, registration = PUBLISHERS[name].download(seed=seed)
    else:
        dataset, registration = PUBLISHERS[name].build(source, seed)
    found = findings(dataset, registration) if registration else None

    def add_reports(folder: Path) -> None:
        write_card(folder, name=name, dataset=dataset, found=found, command=command or _build_command(name, seed))
        write_json(folder / BUILD_NAME, {"name": name, "seed": seed, "found": found})
        if registration:
            write_contact_sheet(folder, dataset, registration)

    save(dataset, output, add_reports)
    return dataset, found


def _build_command(name: str, seed: int) -> str:
    """The command that builds a data set, for its card."""
    origin = "--bccd DIR --pbc DIR" if name == "blood8" else "--source DIR"
    return f"python -m hub dataset build {name} {origin} --output data/{name}" + (f" --seed {seed}" if seed else "")


def stage(source: Path, folder: Path, repo_id: str) -> None:
    """Write the repository of a built data set: one or more parquet files for each split, and the card.

    The union has the configurations `blood8` (the default), `bccd` and `pbc`, see `configurations`; BCCD or PBC alone
    have one. The same data give the same bytes.

    Args:
        source: The folder that `python -m hub dataset build` wrote.
        folder: An empty folder.
        repo_id: The id of the repository on the Hub.

    Raises:
        UserError: `source` is no such folder.
    """
    try:
        built = json.loads((source / BUILD_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{source} holds no {BUILD_NAME}: build the data set with `python -m hub dataset build` (an earlier "
            "version of which did not write it)"
        ) from error
    dataset, name = load(source), built["name"]
    infos, files = DatasetInfosDict(), {}
    parts = configurations(dataset) if name == "blood8" else {name: dataset}
    for config, splits in parts.items():
        infos[config], files[config] = _write_shards(splits, folder / config)
    write_card(
        folder,
        name=name,
        dataset=dataset,
        found=built["found"],
        command=_build_command(name, built["seed"]),
        repo_id=repo_id,
        infos=infos,
        files=files,
    )


def configurations(union: DatasetDict) -> dict[str, DatasetDict]:
    """Take the union apart: the union itself, and each publisher's part as it is when it is built alone, by name."""
    parts = {"blood8": union}
    for name, publisher in PUBLISHERS.items():
        parts[name] = DatasetDict()
        for split, rows in union.items():
            if chosen := [row for row, origin in enumerate(rows["dataset"][:]) if origin == name]:
                part = rows.select(chosen).cast_column("image", Image(decode=False))
                table = {column: part[column][:] for column in publisher.columns}
                table["label"] = part.features["label"].int2str(table["label"])
                table["file_name"] = [path.removeprefix(f"{name}/") for path in table["file_name"]]
                parts[name][split] = Dataset.from_dict(table, features=publisher.columns)
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
