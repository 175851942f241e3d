"""The results of building a data set as text."""

from __future__ import annotations

from datasets import DatasetDict

from hub.data.bccd import bccd_differences
from hub.data.columns import counts_rows
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
