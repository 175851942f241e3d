"""The rows of the ablation study: which there are, and in which order they are trained."""

import json
from pathlib import Path

import pytest

from hub.__main__ import main
from hub.study.ablation_rows import IDEAS, ROWS, runs_of, selected

ROOT = Path(__file__).parents[2]


def test_every_row_of_the_papers_comparison_and_of_its_ideas_is_there():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert {row.columns[1] for row in ROWS if row.table == "baselines"} == {"84", "87", "89", "90", "92"}
    ablations = [row for row in ROWS if row.table == "ablations"]
    assert {row.columns[0] for row in ablations} == {"bn", "ibn", "ibn-a", "ibn-b", "ibn-in"}
    assert {row.name for row in ablations if row.seeds >= 3} >= {"bn-ce", "bn-hard", "ibn-ce", "ibn-hard"}
    for row in ablations:  # the way to the other lab, and back, wherever the other lab was not seen
        assert row.labs == (("bccd", "pbc") if row.start == "random" else ("bccd",))


def test_a_row_comes_after_what_it_starts_from():
    runs = [(row.name, lab, seed) for row, lab, seed in runs_of(selected(["ibn-hard-from-pbc"], imagenet=False))]
    assert runs == [("ibn-hard", "pbc", 1), *(("ibn-hard-from-pbc", "bccd", seed) for seed in (1, 2, 3))]
    assert not [row for row in selected(None, imagenet=False) if row.start == "imagenet"]
    assert [row.name for row in selected(["search-*", "resnet50"], imagenet=False)][-1] == "resnet50"


def test_the_baselines_go_by_their_old_name_too():
    by_old_name = selected(["rivals"], imagenet=False)
    assert by_old_name == selected(["baselines"], imagenet=False)
    assert {row.table for row in by_old_name} == {"baselines"}


def test_rows_that_an_idea_compares_are_alike_in_everything_else():
    rows = {row.name: row for row in ROWS}
    for title, with_it, without in IDEAS:
        for one, other in zip(with_it, without, strict=True):
            texts = [*zip(rows[one].columns, rows[other].columns, strict=True)]
            assert sum(ours != others for ours, others in texts) == 1, title


def test_a_row_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["ablations", "--output", str(tmp_path / "out"), "--rows", "vgg"]) == 1
    assert "no row is called vgg; there are bn-ce, bn-hard" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["baselines", "ablations"])
def test_the_committed_results_hold_every_run_of_their_tables(name):
    results = json.loads((ROOT / "results" / name / "results.json").read_text(encoding="utf-8"))
    trained = {row.table for row in ROWS if row.name in results["rows"]}
    assert trained
    for row in selected([*trained], imagenet=False):
        for lab in row.labs:
            assert results["rows"][row.name][lab]["seeds"] == [*range(1, row.seeds + 1)]
