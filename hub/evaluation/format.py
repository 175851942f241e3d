"""Figures as text: tables in plain text and Markdown, shares in percent."""

from collections.abc import Sequence

from hub.evaluation.checks import class_keys
from hub.evaluation.metrics import FIGURES

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
    """What `wilson_interval` returns, in percent."""
    value, low, high = (100 * part for part in figure)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def table_1(results: dict, label_names: Sequence[str]) -> str:
    """Lay the results out as table 1 of Ma et al. (2020), in plain text, beside the paper's own figures.

    Args:
        results: What `WBCMetric.compute` returns.
        label_names: The names it was given.

    Returns:
        Lines of text without a final newline: a header, a row for each class, a row of support-weighted means, all in
        percent and with their intervals where the results hold these, and the accuracy. The paper has a figure where
        it knows the class (the case of letters aside), and an average only beside its own four classes; elsewhere
        there is a dash.

    Raises:
        ValueError: label_names are not those of the results.
    """
    head, *body, average = text_table(_table_rows(results, label_names)).splitlines()
    rule = "-" * len(head)
    return "\n".join([head, rule, *body, rule, average, "", _accuracy_line(results, label_names)])


def markdown_table_1(results: dict, label_names: Sequence[str], paper: bool = True) -> str:
    """Like `table_1`, as a Markdown table; without `paper`, for other images than the paper's, without its figures."""
    rows = _table_rows(results, label_names)
    if not paper:
        rows = [[cell for cell, title in zip(row, rows[0], strict=True) if title != "paper"] for row in rows]
    return f"{markdown_table(rows)}\n\n{_accuracy_line(results, label_names, paper)}"


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
    """Like `text_table`, as a Markdown table whose head is the first row, and `names` columns to the left."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * names + " ---: |" * (len(rows[0]) - names), *body])


def _table_rows(results: dict, label_names: Sequence[str]) -> list[list[str]]:
    """Return the cells of table 1: a header, the classes, the average."""
    keys = class_keys(label_names)
    if missing := [name for name, key in zip(label_names, keys, strict=True) if f"support_{key}" not in results]:
        raise ValueError(f"the results know no class {missing}; give the label_names they were computed with")
    rows = [["Cell type", "Precision (%)", "paper", "Recall (%)", "paper", "F1 (%)", "paper", "Support"]]
    for name, key in zip(label_names, keys, strict=True):
        paper = PAPER_TABLE_1.get(name.lower(), {})
        names = {figure: f"{figure}_{key}" for figure in FIGURES}
        rows.append(_table_row(name, results, names, paper, results[f"support_{key}"]))
    paper = PAPER_TABLE_1["average"] if _papers_classes(label_names) else {}
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
        line += f", paper {PAPER_ACCURACY if _papers_classes(label_names) else '-'}"
    if "photograph_accuracy" in results:
        line += f"; by majority in each of {results['num_photographs']:,} photographs: "
        line += format_percent(results, "photograph_accuracy")
    if "expected_calibration_error" in results:
        line += f"; expected calibration error (%): {format_percent(results, 'expected_calibration_error')}"
    if "kept" in results:
        line += f"; taken for one of the types (%): {format_percent(results, 'kept')}"
    return line


def _papers_classes(label_names: Sequence[str]) -> bool:
    return {name.lower() for name in label_names} == PAPER_TABLE_1.keys() - {"average"}


def format_percent(results: dict, name: str) -> str:
    """The figure `name` of what `WBCMetric` returns, in percent and with its interval where there is one."""
    text = f"{100 * results[name]:.1f}"
    if name in results.get("intervals", {}):
        low, high = results["intervals"][name]
        text += f" ({100 * low:.1f} to {100 * high:.1f})"
    return text


def ood_tables(results: dict) -> list[list[list[str]]]:
    """What `python -m hub foreign` measures as two tables, the first row of each the head."""
    refused = [["Foreign images", "Number", "Nothing found (%)", "Refused (%)", "Refused as one cell (%)"]]
    for kind, figures in (results.get("ood") or results["foreign"]).items():
        shares = [format_interval(figures[name]) for name in ("nothing_found", "refused", "refused_as_a_cell")]
        refused.append([kind, f"{figures['images']:,}", *shares])
    smears = results["smears"]
    told = [["Area under the ROC curve (%)", *smears]]
    for score in next(iter(smears.values()))["auroc"]:
        told.append([score, *(f"{100 * figures['auroc'][score]:.2f}" for figures in smears.values())])
    told.append(["kept within the limit", *(f"{100 * figures['kept']:.1f}" for figures in smears.values())])
    return [refused, told]
