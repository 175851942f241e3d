"""Figures as text: shares in percent with intervals, tables in plain text and Markdown."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from hub.evaluation.inputs import FIGURES, class_keys

# Ma et al. (2020), table 1: precision, recall and F1 of each class in percent.
PAPER_TABLE_1 = {
    "eosinophil": {"precision": 90, "recall": 90, "f1": 90},
    "lymphocyte": {"precision": 100, "recall": 99, "f1": 100},
    "monocyte": {"precision": 99, "recall": 89, "f1": 93},
    "neutrophil": {"precision": 81, "recall": 89, "f1": 85},
    "average": {"precision": 92, "recall": 92, "f1": 92},
}
# Ma et al. (2020), abstract and table 2: accuracy in percent.
PAPER_ACCURACY = 92


def format_interval(figure: Sequence[float]) -> str:
    """A share with its interval, [value, low, high] in [0, 1], in percent: "92.3 (85.1 to 97.2)"."""
    value, low, high = (100 * part for part in figure)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def format_percent(results: Mapping, name: str) -> str:
    """The share `name` among the results of `WBCMetric`, in percent, with its interval where there is one."""
    if name in results.get("intervals", {}):
        return format_interval([results[name], *results["intervals"][name]])
    return f"{100 * results[name]:.1f}"


def format_difference(compared: Mapping[str, float]) -> str:
    """One figure of `paired_bootstrap`, a difference of shares with its interval, in percentage points."""
    value, low, high = (100 * compared[name] for name in ("difference", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align the cells of rows of equal length: the first of each row to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def markdown_table(rows: Sequence[Sequence[str]], names: int = 1) -> str:
    """Lay out rows of equal length as a Markdown table, its head the first row, `names` columns aligned left."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * names + " ---: |" * (len(rows[0]) - names), *body])


def table_1(results: dict, label_names: Sequence[str]) -> str:
    """Lay the results out as table 1 of Ma et al. (2020), in plain text, beside the figures of the paper.

    Args:
        results: The results of `WBCMetric.compute`.
        label_names: The names it was given.

    Returns:
        Lines of text without a final newline: a head, a row for each class, a row of support-weighted means, all in
        percent and with their intervals where the results have these, and the accuracy. The paper's column has a
        figure where the paper has the class (the case of letters aside), and an average only beside its own four
        classes; elsewhere there is a dash.

    Raises:
        ValueError: label_names are not those of the results.
    """
    head, *body, average = text_table(_table_rows(results, label_names)).splitlines()
    rule = "-" * len(head)
    return "\n".join([head, rule, *body, rule, average, "", _accuracy_line(results, label_names)])


def markdown_table_1(results: dict, label_names: Sequence[str], paper: bool = True) -> str:
    """`table_1` as a Markdown table; `paper=False`, for other images than the paper's, omits the paper's figures."""
    rows = _table_rows(results, label_names)
    if not paper:
        rows = [[cell for cell, title in zip(row, rows[0], strict=True) if title != "paper"] for row in rows]
    return f"{markdown_table(rows)}\n\n{_accuracy_line(results, label_names, paper)}"


def ood_tables(results: dict) -> list[list[list[str]]]:
    """The results of `python -m hub ood` as the rows of two tables, the first row of each the head.

    Args:
        results: Holds, under `ood` (or `foreign`, as earlier versions wrote), for each kind of out-of-distribution
            image their number and the shares that were refused, and under `smears`, for each data set, the AUROC of
            each score and the share of images accepted as in-distribution, `kept`.

    Returns:
        How many out-of-distribution images are refused, and how well the scores separate them from the smears.
    """
    refused = [["OOD images", "Number", "Nothing found (%)", "Refused (%)", "Refused as one cell (%)"]]
    for kind, figures in (results["ood"] if "ood" in results else results["foreign"]).items():
        shares = [format_interval(figures[name]) for name in ("nothing_found", "refused", "refused_as_a_cell")]
        refused.append([kind, f"{figures['images']:,}", *shares])
    smears = results["smears"]
    separated = [["Area under the ROC curve (%)", *smears]]
    for score in next(iter(smears.values()))["auroc"]:
        separated.append([score, *(f"{100 * figures['auroc'][score]:.2f}" for figures in smears.values())])
    separated.append(["in-distribution acceptance", *(format_percent(figures, "kept") for figures in smears.values())])
    return [refused, separated]


def labs_table(results: dict) -> list[list[str]]:
    """The results of `python -m hub labs` as the rows of a table, the first one the head.

    Args:
        results: Holds, under `labs`, the figures of each lab by its name, as `hub.evaluation.labs.measure` gives them.
    """
    rows = [
        [
            "Lab",
            "Images",
            "Groups",
            "Found (%)",
            "Accuracy (%)",
            "Balanced accuracy (%)",
            "Of all types (%)",
            "Known (%)",
            "Refused",
            "Wrong, known and sure (%)",
            "Calibration error (%)",
        ]
    ]
    for lab, figures in results["labs"].items():
        groups, calibrated = figures["groups"], figures["expected_calibration_error"] is not None
        rows.append(
            [
                lab,
                f"{figures['images']:,}",
                "–" if groups is None else f"{groups:,}",
                f"{100 * figures['found']:.1f}",
                format_percent(figures, "accuracy"),
                format_percent(figures, "balanced_accuracy"),
                f"{100 * figures['accuracy_of_all_types']:.1f}",
                f"{100 * figures['known']:.1f}",
                f"{figures['refused']:,}",
                f"{100 * figures['confidently_wrong']:.1f}",
                format_percent(figures, "expected_calibration_error") if calibrated else "–",
            ]
        )
    return rows


def corruptions_table(corruptions: Mapping[str, Mapping]) -> list[list[str]]:
    """The figures of `hub.evaluation.corruptions.measure_corruptions` as the rows of a table, the first one the head.

    Args:
        corruptions: The figures of each lab by its name. A cell holds accuracy, known share and, under corruption, the
            share of answers that changed, in percent.
    """

    def cell(figures: Mapping, *names: str) -> str:
        return " / ".join(f"{100 * figures[name]:.1f}" for name in names)

    rows = [["Lab", "Corruption", "Clean: accuracy / known (%)"]]
    for lab, found in corruptions.items():
        clean = cell(found["clean"], "accuracy", "known")
        for name, severities in found["corrupted"].items():
            of_severities = [cell(figures, "accuracy", "known", "changed") for figures in severities]
            rows.append([lab, name, clean, *of_severities])
    rows[0] += ["1: accuracy / known / changed (%)", *map(str, range(2, len(rows[-1]) - 2))]
    return rows


def robustness_table(corruptions: Mapping[str, Mapping]) -> list[list[str]]:
    """What corruptions cost, averaged over the labs, as the rows of a table, the first one the head.

    Args:
        corruptions: As for `corruptions_table`. A cell holds the change of accuracy in points, and the shares of known
            images and of answers that changed in percent.
    """
    labs = [*corruptions.values()]
    clean = fmean(lab["clean"]["accuracy"] for lab in labs)
    rows: list[list[str]] = []
    for name, severities in labs[0]["corrupted"].items():
        cells = []
        for level in range(len(severities)):
            found = [lab["corrupted"][name][level] for lab in labs]
            accuracy, known, changed = (fmean(each[key] for each in found) for key in ("accuracy", "known", "changed"))
            cells.append(f"{100 * (accuracy - clean):+.1f} / {100 * known:.1f} / {100 * changed:.1f}")
        rows.append([name, *cells])
    first = "1: accuracy / known / changed"
    return [["Corruption", first, *map(str, range(2, len(rows[0])))], *rows]


def adaptation_table(adapted: Mapping[str, Mapping]) -> list[list[str]]:
    """The figures of `hub.evaluation.adapting.measure_adaptation` as the rows of a table, the first one the head.

    Args:
        adapted: The figures of each lab by its name. Balanced accuracies are in percent, of labelled cells with the
            least and the greatest of the draws.
    """
    numbers = [*next(iter(adapted.values()))["labels"]]
    head = ["Lab", "Adapted to", "Shift", "Norms", "If kept", "If moved"]
    labels = [f"{number} label{'s' * (int(number) != 1)}" for number in numbers]
    rows = [[*head, *labels, "Known before", "Known after"]]
    for lab, found in adapted.items():
        shares = [found["norms"]["kept"], found["norms"]["moved"]]
        of_labels = [[found["labels"][number][name] for name in ("mean", "low", "high")] for number in numbers]
        rows.append(
            [
                lab,
                str(found["adapted_to"]),
                f"{found['shift']:.3f}",
                "moved" if found["norms_moved"] else "kept",
                *(f"{100 * share:.1f}" for share in shares),
                *map(format_interval, of_labels),
                *(f"{100 * found['known'][when]:.1f}" for when in ("before", "after")),
            ]
        )
    return rows


def _table_rows(results: dict, label_names: Sequence[str]) -> list[list[str]]:
    """The cells of table 1: the head, the classes, the average."""
    keys = class_keys(label_names)
    if missing := [name for name, key in zip(label_names, keys, strict=True) if f"support_{key}" not in results]:
        raise ValueError(f"the results know no class {missing}; give the label_names they were computed with")
    rows = [["Cell type", "Precision (%)", "paper", "Recall (%)", "paper", "F1 (%)", "paper", "Support"]]
    for name, key in zip(label_names, keys, strict=True):
        paper = PAPER_TABLE_1.get(name.lower(), {})
        names = {figure: f"{figure}_{key}" for figure in FIGURES}
        rows.append(_table_row(name, results, names, paper, results[f"support_{key}"]))
    paper = PAPER_TABLE_1["average"] if _has_papers_classes(label_names) else {}
    names = {figure: f"weighted_{figure}" for figure in FIGURES}
    total = sum(results[f"support_{key}"] for key in keys)
    rows.append(_table_row("average / total", results, names, paper, total))
    return rows


def _table_row(title: str, results: dict, names: dict[str, str], paper: dict[str, int], support: int) -> list[str]:
    cells = [title]
    for figure in FIGURES:
        cells += [format_percent(results, names[figure]), str(paper.get(figure, "-"))]
    return [*cells, str(support)]


def _accuracy_line(results: dict, label_names: Sequence[str], paper: bool = True) -> str:
    line = f"Accuracy (%): {format_percent(results, 'accuracy')}"
    if paper:
        line += f", paper {PAPER_ACCURACY if _has_papers_classes(label_names) else '-'}"
    if "photograph_accuracy" in results:
        line += f"; by majority in each of {results['num_photographs']:,} photographs: "
        line += format_percent(results, "photograph_accuracy")
    if "expected_calibration_error" in results:
        line += f"; expected calibration error (%): {format_percent(results, 'expected_calibration_error')}"
    if "kept" in results:
        line += f"; in-distribution acceptance (%): {format_percent(results, 'kept')}"
    return line


def _has_papers_classes(label_names: Sequence[str]) -> bool:
    return {name.lower() for name in label_names} == PAPER_TABLE_1.keys() - {"average"}
