"""The tables and plots of the ablation study."""

import json

import numpy as np
from PIL import Image

from hub.__main__ import main
from hub.study import ablations
from hub.study.ablation_report import report
from hub.study.ablation_results import collect
from hub.study.ablation_rows import REFERENCES
from tests.study.made_runs import write_run

REFERENCE = REFERENCES["ablations"]


def test_the_report_shows_what_is_there_and_no_more(output, capsys):
    assert main(["ablations", "--output", str(output), "--report"]) == 0
    text = (output / "tables.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert "2 epochs at 64 pixels on BCCD, from random weights" in text
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    (line,) = [line for line in text.splitlines() if line.startswith("| ResNet50 | 87 |")]
    found = results["rows"]["resnet50"]["bccd"]["test"]
    assert f"| {100 * found['mean']:.1f} (" in line
    assert f"| {100 * found['difference']:+.1f} (" in line
    home, away = (table for caption, table in report(results) if caption.startswith("The ablations"))
    ((caption, ideas),) = (pair for pair in report(results) if pair[0].startswith("The gain in accuracy"))
    variances = [np.var(results["rows"][name]["bccd"]["test"]["accuracy"], ddof=1) for name in (REFERENCE, "ibn-hard")]
    assert f"a standard deviation of {100 * np.mean(variances) ** 0.5:.1f} points" in caption
    idea = results["ideas"]["IBN in place of BN"]["pbc"]
    assert f"| {100 * idea['difference']:+.1f} ({100 * idea['low']:+.1f} to" in ideas
    assert [line.split("|")[1].strip() for line in home.splitlines()[2:]] == ["bn", "ibn", "ibn"]
    found = results["rows"]["ibn-hard"]["pbc"]["test"]
    assert f"{100 * found['difference']:+.1f} ({100 * found['low']:+.1f} to" in away
    assert "LSTM" not in text
    with Image.open(output / "learning_curves.png") as image:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):  # a recipe each
        assert (np.abs(colours.astype(int) - colour).max(1) < 80).any()


def test_the_curves_are_those_of_every_run_of_the_four_recipes(output, monkeypatch):
    """Rows that differ from these in start or augmentation alone are none of them."""
    write_run(output, "ibn-hard-strong", "bccd", 1, 0.5, np.random.default_rng(1))
    drawn = {}
    monkeypatch.setattr(ablations, "plot_runs", lambda histories, path: drawn.update(histories))
    ablations.write_report(output)
    assert {name: len(runs) for name, runs in drawn.items()} == {
        "bn, cross entropy": 3,
        "ibn, cross entropy": 1,
        "ibn, + hard-mined centre": 3,
    }


def test_results_with_an_old_title_are_shown_under_the_new_one(output):
    results = collect(output)
    results["ideas"]["windows in place of whole fields"] = results["ideas"].pop("IBN in place of BN")
    ((_, table),) = (pair for pair in report(results) if pair[0].startswith("The gain in accuracy"))
    assert "| crops in place of whole fields | 4 | 3 |" in table
    assert "windows" not in table
