"""The results of building a data set as text."""

from __future__ import annotations

from datasets import DatasetDict

from hub.data.bccd import bccd_differences
from hub.data.columns import counts_rows
from hub.evaluation.format import text_table


def describe_build(name: str, dataset: DatasetDict, found: dict | None) -> str:
    """The results of `hub.publish.dataset.build`: deviations from the published counts, the counts, the findings."""
    lines = [f"not as published: {difference}" for difference in bccd_differences(dataset)] if name == "bccd" else []
    lines.append(text_table(counts_rows(dataset)))
    if found:
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
    return "\n".join(lines)
