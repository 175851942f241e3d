"""The figures of the ablation study, from the predictions of its finished runs."""

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from hub.evaluation.compare import Predictions, compare_predictions, read_predictions
from hub.evaluation.intervals import bootstrap_intervals
from hub.evaluation.metrics import expected_calibration_error
from hub.files import UserError
from hub.study.ablation_rows import IDEAS, LABS, REFERENCES, ROWS, Row, finished_runs

# The images that a row is scored on: the split, and the data set within it.
_PARTS = {
    "validation": ("validation", None),
    "test": ("test", "bccd"),
    "test_simple": ("test_simple", None),
    "pbc": ("test", "pbc"),
}
# Where ideas are compared: the lab that was trained on, and one of `_PARTS`.
IDEA_PLACES = {"test": ("bccd", "test"), "pbc": ("bccd", "pbc"), "back": ("pbc", "test")}

# The predictions of every finished run, by row, lab and part.
_Runs = dict[tuple[str, str, str], list[Predictions]]


def collect(output: Path) -> dict:
    """Compute every figure of the finished rows in a folder of the study.

    Returns:
        - `plan`: the budget and the start of the baselines.
        - `costs`: the result of `measure_costs`, if costs were measured.
        - `rows`: by name and lab, `seeds`, `seconds`, `device` and `software` of the runs and, for each of
          `validation`, `test` (BCCD's), `test_simple` and `pbc` (PBC's test images): `accuracy` of each run, `mean`,
          its 95 % `interval`, `macro_f1`, `expected_calibration_error`, and the `difference` to its table's row in
          `REFERENCES` with its interval from `low` to `high`. All are shares in [0, 1].
        - `ideas`: by the title in `IDEAS`, the numbers of runs `with` and `without` it, and the difference on `test`
          (BCCD's) and on a lab that neither side has seen: `pbc`, and `back`, BCCD's test after training on PBC.
        - `seed_spread`: by lab and part, the standard deviation of the accuracy between seeds, pooled over the rows of
          several runs; None without such rows.

    Raises:
        UserError: `output` holds no `plan.json`.
        OSError: The file of a finished run cannot be read.
    """
    plan, costs = output / "plan.json", output / "costs.json"
    if not plan.is_file():
        raise UserError(f"{output} holds no plan.json: name the folder of a study, or train one without --report")
    results = {"plan": read_json(plan), "rows": {}, "ideas": {}}
    if costs.is_file():
        results["costs"] = read_json(costs)
    read = functools.cache(read_predictions)  # two parts are of the same file
    runs = {
        (row.name, lab, part): [_read_part(read, folder, part) for folder in finished_runs(output, row, lab).values()]
        for row in ROWS
        for lab in row.labs
        for part in _PARTS
    }
    spread = {lab: {part: _seed_spread(runs, lab, part) for part in _PARTS} for lab in LABS}
    results["seed_spread"] = spread
    for row in ROWS:
        for lab in row.labs:
            if folders := finished_runs(output, row, lab):
                figures = _describe_runs(folders) | _row_figures(row, lab, runs, spread[lab])
                results["rows"].setdefault(row.name, {})[lab] = figures
    results["ideas"] = _compare_ideas(runs, spread)
    return results


def read_json(path: Path) -> dict:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _describe_runs(folders: dict[int, Path]) -> dict:
    written = [read_json(folder / "run.json") for folder in folders.values()]
    return {
        "seeds": [*folders],
        "seconds": [run["seconds"] for run in written],
        "device": written[0]["device"],
        "software": written[0]["software"],
    }


def _row_figures(row: Row, lab: str, runs: _Runs, spread: dict[str, float | None]) -> dict:
    reference = REFERENCES.get(row.table)
    figures = {}
    for part in _PARTS:
        figures[part] = _figures(runs[row.name, lab, part])
        if reference is not None and row.name != reference:
            others = runs.get((reference, lab, part), ())
            figures[part] |= _difference(runs[row.name, lab, part], others, spread[part])
    return figures


def _compare_ideas(runs: _Runs, spread: dict[str, dict[str, float | None]]) -> dict:
    ideas: dict[str, dict] = {}
    for title, *sides in IDEAS:
        saw_both_labs = any(row.starts_from_row for row in ROWS if row.name in sides[0])
        for place, (lab, part) in IDEA_PLACES.items():
            if saw_both_labs and place != "test":
                continue
            ours, others = ([run for name in side for run in runs.get((name, lab, part), ())] for side in sides)
            if compared := _difference(ours, others, spread[lab][part]):
                ideas.setdefault(title, {"with": len(ours), "without": len(others)})[place] = compared
    return ideas


def _read_part(read: Callable[[Path], Predictions], folder: Path, part: str) -> Predictions:
    split, dataset = _PARTS[part]
    whole = read(folder / f"{split}_predictions.csv")
    if dataset is None:
        return whole
    rows = [row for row, name in enumerate(whole.labs) if name == dataset]
    return dataclasses.replace(
        whole,
        images=[whole.images[row] for row in rows],
        labs=[dataset] * len(rows),
        references=whole.references[rows],
        predictions=whole.predictions[rows],
        probabilities=whole.probabilities[rows],
    )


def _seed_spread(runs: _Runs, lab: str, part: str) -> float | None:
    several = [found for (_, *where), found in runs.items() if where == [lab, part] and len(found) > 1]
    variances = [statistics.variance(run.accuracy for run in found) for found in several]
    return statistics.mean(variances) ** 0.5 if variances else None


def _figures(runs: Sequence[Predictions]) -> dict:
    """The figures of some runs of a row: means over the runs, the interval over all their answers together."""
    intervals = bootstrap_intervals(
        np.concatenate([run.predictions for run in runs]),
        np.concatenate([run.references for run in runs]),
        runs[0].label_names,
        # An image without a photograph stands for itself.
        photographs=[photograph or file for run in runs for file, photograph in run.images],
    )
    accuracy = [run.accuracy for run in runs]
    return {
        "accuracy": accuracy,
        "mean": statistics.mean(accuracy),
        "interval": intervals["accuracy"],
        "macro_f1": statistics.mean(f1_score(run.references, run.predictions, average="macro") for run in runs),
        "expected_calibration_error": statistics.mean(
            expected_calibration_error(run.probabilities, run.references) for run in runs
        ),
    }


def _difference(
    runs: Sequence[Predictions], others: Sequence[Predictions], seed_spread: float | None
) -> dict[str, float]:
    """The mean accuracy of some runs less that of others, with its interval; empty if there are none of either.

    The bootstrap does not know how much a single run depends on its seed. Where a side is a single run, the interval
    is widened by `seed_spread`, the standard deviation between seeds of other rows.
    """
    if not runs or not others:
        return {}
    compared = compare_predictions(runs, others)["accuracy"]
    single_runs = [len(runs), len(others)].count(1)
    wider = statistics.NormalDist().inv_cdf(0.975) * (seed_spread or 0) * single_runs**0.5
    difference = compared["difference"]
    return {
        "difference": difference,
        "low": difference - math.hypot(difference - compared["low"], wider),
        "high": difference + math.hypot(compared["high"] - difference, wider),
    }
