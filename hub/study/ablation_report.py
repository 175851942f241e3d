"""The results of the ablation study as Markdown tables."""

from collections.abc import Callable, Sequence

from hub.evaluation.format import markdown_table
from hub.study.ablation_results import IDEA_PLACES
from hub.study.ablation_rows import CENTER_LOSS_MARGIN, CENTER_LOSS_WEIGHT, OLD_IDEAS, PAPER, ROWS, Row
from modeling_wbc.configuration_wbc import NORM_LAYOUTS

_NAMES = ("Norm", "Loss", "Start", "Augmentation")
_TO_REFERENCE = "Less the first row (points)"
_FURTHER = ("TEST_SIMPLE (%)", "Macro F1 (%)", "Calibration error (%)")
_COSTS = ("Parameters (M)", "GMACs", "Training images/s", "One image (ms)")
_INTERVALS = (
    "95 % intervals of accuracies are over photographs, each of PBC's cells being one, those of differences over "
    "photographs and runs"
)
_DASH = "–"


def report(results: dict) -> list[tuple[str, str]]:
    """Write the result of `collect` as Markdown: the caption and the table of each table that has a row."""
    parts = (_baselines, _ideas, _at_home, _other_lab, _search, _norm_costs)
    return [found for part in parts if (found := part(results)) is not None]


def _baselines(results: dict) -> tuple[str, str] | None:
    start = "ImageNet weights" if results["plan"]["imagenet"] else "random weights, drawn alike for all"
    return _rows_table(
        results,
        f"The paper's Table 2: {_budget(results)} on BCCD, from {start}, one run each. 95 % intervals are over "
        f"photographs{_widened(results) or ', to which another seed would add'}.",
        ["Network", "Paper (%)", "TEST (%)", "Less the last row (points)", *_FURTHER, *_COSTS],
        1,
        "baselines",
        lambda row, labs: [
            _mean(labs["bccd"]["test"]),
            _difference(labs["bccd"]["test"]),
            *_further(labs["bccd"]),
            *_cost_cells(results, row.network),
        ],
    )


def _ideas(results: dict) -> tuple[str, str] | None:
    if not results["ideas"]:
        return None
    rows = [["", "Runs with", "without", "BCCD (points)", "BCCD to PBC (points)", "PBC to BCCD (points)"]]
    for title, idea in results["ideas"].items():
        differences = [_difference(idea.get(place, {})) for place in IDEA_PLACES]
        rows.append([OLD_IDEAS.get(title, title), str(idea["with"]), str(idea["without"]), *differences])
    caption = (
        f"The gain in accuracy from each idea: {_budget(results)} on one lab's training images, scored on BCCD's TEST "
        f"and on the other lab's test images of the four types. {_INTERVALS}{_widened(results)}."
    )
    return caption, markdown_table(rows)


def _at_home(results: dict) -> tuple[str, str] | None:
    return _rows_table(
        results,
        f"The ablations at home: {_budget(results)} on BCCD, scored on BCCD's TEST. {_INTERVALS}.",
        [*_NAMES, "Each seed (%)", "TEST (%)", _TO_REFERENCE, *_FURTHER],
        len(_NAMES),
        "ablations",
        lambda row, labs: [*_accuracy_cells(labs["bccd"]["test"]), *_further(labs["bccd"])],
    )


def _other_lab(results: dict) -> tuple[str, str] | None:
    def cells(row: Row, labs: dict) -> list[str]:
        found = []
        for lab, part in (("bccd", "pbc"), ("pbc", "test")):
            unseen = lab in labs and not row.starts_from_row
            found += _accuracy_cells(labs[lab][part]) if unseen else [_DASH] * 3
        return found

    head = [
        *_NAMES,
        *("BCCD to PBC: each seed (%)", "mean (%)", _TO_REFERENCE),
        *("PBC to BCCD: each seed (%)", "mean (%)", _TO_REFERENCE),
    ]
    return _rows_table(
        results,
        f"The ablations in the other lab: {_budget(results)} on one, scored on the other's test images of the four "
        f"types. {_INTERVALS}.",
        head,
        len(_NAMES),
        "ablations",
        cells,
    )


def _search(results: dict) -> tuple[str, str] | None:
    measured = results["rows"]
    columns = {row.name: row.columns for row in ROWS if row.table == "search"}
    if not columns.keys() & measured.keys():
        return None
    columns[PAPER] = (str(CENTER_LOSS_WEIGHT), str(CENTER_LOSS_MARGIN))
    there = sorted((texts, name) for name, texts in columns.items() if "bccd" in measured.get(name, {}))
    rows = [["lambda", "margin", "Each seed (%)", "Validation (%)"]]
    for texts, name in there:
        validation = measured[name]["bccd"]["validation"]
        rows.append([*texts, _each(validation), _mean(validation)])
    caption = (
        f"Weight and margin of the hard-mined loss: {_budget(results)} on BCCD, scored on its validation photographs."
    )
    return caption, markdown_table(rows, names=0)


def _norm_costs(results: dict) -> tuple[str, str] | None:
    ablated = {row.network for row in ROWS if row.table == "ablations" and row.name in results["rows"]}
    costs = results.get("costs", {"networks": {}})
    norms = [name for name in NORM_LAYOUTS if name in ablated & costs["networks"].keys()]
    if not norms:
        return None
    rows = [[norm, *_cost_cells(results, norm)] for norm in norms]
    return f"The costs of the norms on {costs['device']}.", markdown_table([["Norm", *_COSTS], *rows])


def _rows_table(
    results: dict, caption: str, head: list[str], names: int, table: str, cells: Callable[[Row, dict], list[str]]
) -> tuple[str, str] | None:
    """The caption and the lines of a table's rows that were trained on BCCD; None without such rows."""
    measured = [(row, results["rows"].get(row.name, {})) for row in ROWS if row.table == table]
    rows = [[*row.columns, *cells(row, labs)] for row, labs in measured if "bccd" in labs]
    return (caption, markdown_table([head, *rows], names)) if rows else None


def _budget(results: dict) -> str:
    budget = results["plan"]["budget"]
    size = f"{budget['image_size']} pixels" if "image_size" in budget else "the images that each network was made for"
    return f"{budget['epochs']:g} epoch{'s' * (budget['epochs'] != 1)} at {size}"


def _widened(results: dict) -> str:
    spread = results["seed_spread"]["bccd"]["test"]
    if spread is None:
        return ""
    return (
        "; where one side is a single run, they are widened by what another seed does to the rows of several, on TEST "
        f"a standard deviation of {100 * spread:.1f} points"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _each(found: dict) -> str:
    return ", ".join(map(_percent, found["accuracy"]))


def _mean(found: dict) -> str:
    return "{} ({} to {})".format(*map(_percent, (found["mean"], *found["interval"])))


def _difference(found: dict) -> str:
    if "difference" not in found:
        return _DASH
    return "{} ({} to {})".format(*(f"{100 * found[name]:+.1f}" for name in ("difference", "low", "high")))


def _accuracy_cells(found: dict) -> list[str]:
    return [_each(found), _mean(found), _difference(found)]


def _further(found: dict) -> list[str]:
    """The cells of `_FURTHER`."""
    test = found["test"]
    return [*map(_percent, (found["test_simple"]["mean"], test["macro_f1"], test["expected_calibration_error"]))]


def _cost_cells(results: dict, network: str) -> Sequence[str]:
    """The cells of `_COSTS`."""
    cost = results.get("costs", {"networks": {}})["networks"].get(network)
    if cost is None:
        return [_DASH] * len(_COSTS)
    return [
        f"{cost['parameters'] / 1e6:.1f}",
        f"{cost['gmacs']:.2f}",
        f"{cost['images_per_second']:.0f}",
        f"{cost['latency_ms']:.1f}",
    ]
