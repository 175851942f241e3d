"""Building a data set: what is wrong with the arguments, and the results, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import DatasetDict

from hub.data.bccd import bccd_differences
from hub.data.columns import counts_rows
from hub.data.union import UNITED
from hub.evaluation.format import text_table


def describe_build(dataset: DatasetDict, report: dict) -> str:
    """The results of `hub.publish.dataset.build`: deviations from the published counts, the counts, the findings."""
    lines = []
    if report["name"] == "bccd":
        lines += [f"not as published: {difference}" for difference in bccd_differences(dataset)]
    lines.append(text_table(counts_rows(dataset)))
    if found := report["found"]:
        lines += [
            f"{split}: {row['matched']:,} of {row['files']:,} files show {row['photographs']:,} photographs, "
            f"match error up to {row['worst']:.2f} grey levels"
            for split, row in found["shown"].items()
        ]
        lines += [line.replace("`", "") for line in found["exceptions"]]
        lines.append(
            f"{len(found['overlaps'])} pairs of photographs overlap, {len(found['leaks'])} of them between train and "
            f"test: {found['leaked_files']:,} test files show a field that train shows as well"
        )
    near = report["near_duplicates"]
    lines += [
        f"{lab}: {images:,} images show {near['distinct'][lab]:,} distinct cells or fields, "
        f"{near['pairs'][lab]:,} pairs of near-duplicates"
        for lab, images in near["images"].items()
    ]
    if near["across"]:
        lines.append(f"{near['across']:,} pairs of near-duplicates between labs")
    lines += [f"{row['file_name']} moved from {row['before']} to {row['after']}" for row in near["moved"]]
    lines += [
        f"{' and '.join(row['names'])} show the same place, labelled {' and '.join(row['labels'])}"
        for row in near["conflicts"]
    ]
    lines += [
        f"{row['attribute']}: two annotators agree on {100 * row['agreement']:.1f} % of {row['images']:,} images"
        + ("" if row["kappa"] is None else f", kappa {row['kappa']:.2f}")
        for row in report.get("agreement", ())
    ]
    return "\n".join(lines)


def origin_error(name: str, given: Mapping[str, Any]) -> str | None:
    """What is wrong with the origin of a data set to build, or None.

    Args:
        name: What is built, see `hub.publish.dataset.build`.
        given: The arguments of that function by their names, false where they are not given.
    """
    flags = ", ".join(f"--{lab} DIR" for lab in UNITED)
    united = [lab for lab in UNITED if given[lab]]
    is_union, is_folder = name in ("union", "blood8"), name == "folder"
    errors = (
        (
            is_union and (given["source"] or given["download"] or not united),
            f"{name} needs one or more of {flags}, and neither --source nor --download",
        ),
        (
            name == "blood8" and united != ["bccd", "pbc"],
            "blood8 needs --bccd DIR and --pbc DIR and no other; `union` takes any labs",
        ),
        (not is_union and united, f"{name} takes --source DIR; --{', --'.join(united)} is for a union"),
        (
            not is_union and not (given["source"] or given["download"]),
            "one of the arguments --source --download is required",
        ),
        (
            given["wbcatt"] and not (name == "pbc" or given["pbc"]),
            "--wbcatt has attributes of PBC's images: it is for pbc, or for a union with --pbc",
        ),
        (is_folder and not (given["source"] and given["lab"]), "folder needs --source DIR and --lab NAME"),
        (not is_folder and (given["lab"] or given["group"]), "--lab and --group are for folder"),
    )
    return next((message for is_wrong, message in errors if is_wrong), None)
