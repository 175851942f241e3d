"""Tables of the studies and the benchmarks for `python -m hub docs`, rendered from the saved results."""

import json
from collections.abc import Callable
from functools import partial

from hub.evaluation.format import markdown_table
from hub.publish.docs import Results, rows_table
from hub.study.ablation_report import report
from hub.study.detection import detector_rows

# What `python -m tests.benchmarks` measures, by the names of its tables.
BENCHMARKS = {
    "norm": "A training step by the norm",
    "network": "The network for a crop",
    "predict": "hub predict",
    "detector": "Detection in a field",
    "bootstrap": "Intervals by bootstrap",
    "memory": "Freed memory kept for the next training step",
    "app": "The page",
}


def tables() -> dict[str, Callable[[Results], str]]:
    """The tables by the name that a document gives them: functions of the results that return Markdown."""
    found: dict[str, Callable[[Results], str]] = {"detector": _detector}
    for study in ("ablations", "baselines"):
        found[study] = _reported(study)
    for name in BENCHMARKS:
        found[f"benchmark {name}"] = partial(_benchmark, name=name)
    return found


def _benchmark(results: Results, name: str) -> str:
    """The table of a benchmark, and the machine that it was measured on."""
    found = json.loads((results.root / "results" / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    return f"{rows_table(found['rows'])}\n\n`{found['command']}` on {found['machine']}; {versions}."


def _reported(study: str) -> Callable[[Results], str]:
    return lambda results: "\n\n".join(f"{caption}\n\n{rows}" for caption, rows in report(results.read(study)))


def _detector(results: Results) -> str:
    measured = results.read("detection")
    return markdown_table(detector_rows({part: measured[part] for part in ("all", "test")}))
