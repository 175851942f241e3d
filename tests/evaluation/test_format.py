import numpy as np
import pytest
from evaluation_cases import PAPER_NAMES, clustered_case, random_case

from hub.evaluation.format import (
    PAPER_ACCURACY,
    PAPER_TABLE_1,
    format_difference,
    format_interval,
    format_percent,
    labs_table,
    markdown_table,
    markdown_table_1,
    ood_tables,
    table_1,
    text_table,
)
from hub.evaluation.metrics import WBCMetric


def test_table_1_beside_the_paper():
    predictions, references = random_case()
    results = WBCMetric().compute(predictions=predictions, references=references, label_names=PAPER_NAMES)
    plain = markdown_table_1(results, PAPER_NAMES, paper=False)
    assert "paper" not in plain
    assert plain.splitlines()[0].count("|") == 6
    text, markdown = table_1(results, PAPER_NAMES), markdown_table_1(results, PAPER_NAMES)
    rows = {line.split()[0].lower(): line.split() for line in text.splitlines() if line}
    for name in PAPER_NAMES:
        row = rows[name.lower()]
        paper = PAPER_TABLE_1[name.lower()]
        assert [int(cell) for cell in row[2:7:2]] == [paper["precision"], paper["recall"], paper["f1"]]
        ours = [f"{100 * results[f'{figure}_{name}']:.1f}" for figure in ("precision", "recall", "f1")]
        assert row[1:6:2] == ours
        assert row[7] == str(results[f"support_{name}"])
        assert "| " + " | ".join(row) + " |" in markdown
    average = rows["average"][3:]
    assert average[1:6:2] == ["92", "92", "92"]
    assert average[2] == f"{100 * results['accuracy']:.1f}"
    assert average[-1] == "400"
    assert f"paper {PAPER_ACCURACY}" in text
    # the rows stand in the paper's order, the average last
    assert [name for name in rows if name in PAPER_TABLE_1] == list(PAPER_TABLE_1)


def test_table_1_of_other_classes():
    names = ["basophil", "lymphocyte"]
    results = WBCMetric().compute(predictions=[0, 1], references=[0, 1], label_names=names)
    rows = [line.split() for line in table_1(results, names).splitlines()]
    assert ["basophil", "100.0", "-", "100.0", "-", "100.0", "-", "1"] in rows
    assert ["lymphocyte", "100.0", "100", "100.0", "99", "100.0", "100", "1"] in rows
    assert ["average", "/", "total", "100.0", "-", "100.0", "-", "100.0", "-", "2"] in rows
    with pytest.raises(ValueError, match="no class"):
        table_1(results, ["basophil", "monocyte"])


def test_table_1_is_the_papers():
    # 4 rows and the average of precision, recall, F1, as printed
    printed = "90 90 90 100 99 100 99 89 93 81 89 85 92 92 92"
    assert [value for row in PAPER_TABLE_1.values() for value in row.values()] == [int(v) for v in printed.split()]


def test_table_1_shows_intervals_and_photographs():
    predictions, references, photographs = clustered_case()
    results = WBCMetric().compute(
        predictions=predictions,
        references=references,
        label_names=list("abc"),
        photographs=photographs,
        probabilities=np.eye(3)[predictions],
        intervals=True,
    )
    low, high = results["intervals"]["recall_a"]
    assert f"{100 * results['recall_a']:.1f} ({100 * low:.1f} to {100 * high:.1f})" in table_1(results, list("abc"))
    assert "by majority in each of 40 photographs" in markdown_table_1(results, list("abc"))
    assert "expected calibration error (%): " in table_1(results, list("abc"))


def test_shares_are_percent_and_differences_are_signed():
    assert format_interval([0.923, 0.8514, 0.97251]) == "92.3 (85.1 to 97.3)"
    results = {"accuracy": 0.5, "kept": 1.0, "intervals": {"accuracy": [0.25, 0.75]}}
    assert format_percent(results, "accuracy") == "50.0 (25.0 to 75.0)"
    assert format_percent(results, "kept") == "100.0"
    assert format_difference({"difference": 0.013, "low": -0.04, "high": 0.0664}) == "+1.3 (-4.0 to +6.6)"


def test_tables_are_aligned():
    rows = [["Cell", "n"], ["a", "1,710"], ["basophil", "–"]]
    assert text_table(rows).splitlines() == ["Cell          n", "a         1,710", "basophil      –"]
    assert markdown_table(rows, names=1).splitlines()[:3] == ["| Cell | n |", "| --- | ---: |", "| a | 1,710 |"]


@pytest.mark.parametrize("key", ["ood", "foreign"])
def test_ood_tables_of_results_of_this_and_earlier_versions(key):
    part = {"images": 1200, "nothing_found": [0.5, 0.4, 0.6], "refused": [0.9, 0.8, 1.0]}
    part["refused_as_a_cell"] = [0.7, 0.6, 0.8]
    smears = {
        "bccd": {"kept": 0.982, "auroc": {"novelty": 0.99876, "energy": 0.75}},
        "pbc": {"kept": 1.0, "auroc": {"novelty": 0.5, "energy": 0.25}},
    }
    refused, separated = ood_tables({key: {"all": part, "noise": part}, "smears": smears})
    assert refused == [
        ["OOD images", "Number", "Nothing found (%)", "Refused (%)", "Refused as one cell (%)"],
        ["all", "1,200", "50.0 (40.0 to 60.0)", "90.0 (80.0 to 100.0)", "70.0 (60.0 to 80.0)"],
        ["noise", "1,200", "50.0 (40.0 to 60.0)", "90.0 (80.0 to 100.0)", "70.0 (60.0 to 80.0)"],
    ]
    assert separated == [
        ["Area under the ROC curve (%)", "bccd", "pbc"],
        ["novelty", "99.88", "50.00"],
        ["energy", "75.00", "25.00"],
        ["in-distribution acceptance", "98.2", "100.0"],
    ]


def test_the_table_of_labs_has_intervals_and_dashes_for_what_is_unknown():
    figures = {"images": 1200, "groups": 30, "found": 0.9, "accuracy": 0.5, "balanced_accuracy": 0.4, "known": 0.75}
    figures |= {"accuracy_of_all_types": 0.25, "refused": 300, "confidently_wrong": 0.125}
    figures |= {"intervals": {"accuracy": [0.4, 0.6], "balanced_accuracy": [0.3, 0.5]}}
    labs = {
        "bangkok": figures | {"expected_calibration_error": 0.33},
        "tehran": figures | {"expected_calibration_error": None, "groups": None},
    }
    head, *rows = labs_table({"labs": labs})
    assert head[:4] == ["Lab", "Images", "Groups", "Found (%)"]
    middle = ["90.0", "50.0 (40.0 to 60.0)", "40.0 (30.0 to 50.0)", "25.0", "75.0", "300", "12.5"]
    assert rows == [["bangkok", "1,200", "30", *middle, "33.0"], ["tehran", "1,200", "–", *middle, "–"]]
