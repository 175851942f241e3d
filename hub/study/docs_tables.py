"""Tables of the studies for `python -m hub docs`, rendered from the saved results."""

from collections.abc import Callable

from hub.evaluation.format import markdown_table
from hub.publish.docs import Results
from hub.study.ablation_report import report
from hub.study.detection import detector_rows


def tables() -> dict[str, Callable[[Results], str]]:
    """The tables by the name that a document gives them: functions of the results that return Markdown."""
    return {"ablations": _reported("ablations"), "baselines": _reported("baselines"), "detector": _detector}


def _reported(study: str) -> Callable[[Results], str]:
    return lambda results: "\n\n".join(f"{caption}\n\n{rows}" for caption, rows in report(results.read(study)))


def _detector(results: Results) -> str:
    measured = results.read("detection")
    return markdown_table(detector_rows({part: measured[part] for part in ("all", "test")}))
