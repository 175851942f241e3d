"""`python -m hub ablations`: its trainings, its figures, and that the committed results are complete."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score

from hub.__main__ import main
from hub.data.bccd import BCCD_CLASSES
from hub.data.columns import features
from hub.data.load import load, save
from hub.data.pbc import PBC_CLASSES
from hub.data.synthetic import draw_field
from hub.evaluation.compare import write_predictions
from hub.evaluation.intervals import paired_bootstrap
from hub.study import ablations
from hub.study.ablations import (
    IDEAS,
    REFERENCE,
    ROWS,
    _gmacs,
    collect,
    run_folder,
    runs_of,
    selected,
    shared_types,
    with_foremost_cells,
)
from hub.study.baselines import load_baseline
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A saved data set of two labs, with the columns and splits of blood8; of PBC's types all eight."""
    columns = features(PBC_CLASSES, photographs=True, origin=True)
    splits = {}
    counts = {"train": 12, "validation": 8, "test_photographs": 4, "test_simple": 4, "test": 8}
    for offset, (split, count) in enumerate(counts.items()):
        rows = []
        for number in range(count):
            label, name = BCCD_CLASSES[number % 4], f"{split} {number}"
            image = draw_field(label, seed=100 * offset + number, size=(96, 96))
            rows.append(
                {"label": label, "image": image, "dataset": "bccd", "file_name": f"bccd/{name}", "photograph": name}
            )
        for number in range(16 if split in ("train", "validation", "test") else 0):
            image = draw_field("monocyte", seed=1000 * offset + number, size=(96, 96))
            label = PBC_CLASSES[number % 8]
            rows.append({"label": label, "image": image, "dataset": "pbc", "file_name": f"pbc/{split} {number}"})
        splits[split] = datasets.Dataset.from_dict(
            {column: [row.get(column) for row in rows] for column in columns}, features=columns
        )
    folder = tmp_path_factory.mktemp("data") / "blood8"
    save(datasets.DatasetDict(splits), folder)
    return folder


def test_every_row_of_the_papers_comparison_and_of_its_ideas_is_there():
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    assert {row.cells[1] for row in ROWS if row.table == "rivals"} == {"84", "87", "89", "90", "92"}
    ablations = [row for row in ROWS if row.table == "ablations"]
    assert {row.cells[0] for row in ablations} == {"bn", "ibn", "ibn-a", "ibn-b", "ibn-in"}
    assert {row.name for row in ablations if row.seeds >= 3} >= {"bn-ce", "bn-hard", "ibn-ce", "ibn-hard"}
    for row in ablations:  # the way to the other lab, and back, wherever the other lab was not seen
        assert row.labs == (("bccd", "pbc") if row.start == "random" else ("bccd",))


def test_a_row_comes_after_what_it_starts_from():
    runs = [(row.name, lab, seed) for row, lab, seed in runs_of(selected(["ibn-hard-from-pbc"], imagenet=False))]
    assert runs == [("ibn-hard", "pbc", 1), *(("ibn-hard-from-pbc", "bccd", seed) for seed in (1, 2, 3))]
    assert not [row for row in selected(None, imagenet=False) if row.start == "imagenet"]
    assert [row.name for row in selected(["search-*", "resnet50"], imagenet=False)][-1] == "resnet50"


def test_a_row_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["tables", "--output", str(tmp_path / "out"), "--rows", "vgg"]) == 1
    assert "no row is called vgg; there are bn-ce, bn-hard" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_both_labs_are_cut_to_the_types_that_they_share(data):
    before = load(data)
    after = shared_types(before)
    assert after["train"].features["label"].names == [*BCCD_CLASSES]
    for split in after:
        names = before[split].features["label"].names
        kept = [
            (file, names[label])
            for file, label in zip(before[split]["file_name"], before[split]["label"], strict=True)
            if names[label] in BCCD_CLASSES
        ]
        labels = [BCCD_CLASSES[label] for label in after[split]["label"]]
        assert [*zip(after[split]["file_name"], labels, strict=True)] == kept
    assert set(after["test"]["dataset"]) == {"bccd", "pbc"}


def test_the_cells_are_looked_for_once_and_not_in_every_row(data):
    before = load(data)
    for split, images in with_foremost_cells(before).items():
        assert images.remove_columns("foremost_cell").features == before[split].features
        assert images["file_name"][:] == before[split]["file_name"][:]
        for row in images:
            boxes, _ = WBCImageProcessor().find_cells(row["image"])
            assert row["foremost_cell"] == (boxes[0].tolist() if len(boxes) else [0, 0, 0, 0])


def test_multiplications_and_additions_are_those_of_the_articles():
    resnet = WBCForImageClassification(WBCConfig(norm_layout="bn")).eval()
    # Table 1 of He et al. 2016 gives 3.6e9 without the shortcuts' convolutions and the classifier.
    assert _gmacs(resnet, torch.zeros(1, 3, 224, 224)) == pytest.approx(3.66, abs=0.02)
    image = torch.zeros(1, 3, 224, 224)
    plain, lstm = (
        _gmacs(load_baseline(name, None, BCCD_CLASSES, None, True).eval(), image)
        for name in ("resnet50", "resnet50-lstm")
    )
    # 49 steps of four gates, each of 512 rows over 2,048 features and 512 states; projection; other classifier.
    more = 49 * 4 * 512 * (2048 + 512) + 2048 * 512 + (512 - 2048) * 4
    assert lstm - plain == pytest.approx(more / 1e9, rel=1e-3)


# --- The report ---


def write_run(output, name, lab, seed, right, rng):
    """A finished run whose answers are right with the given chance, over 3 files of each of 16 photographs and PBC."""
    folder = run_folder(output, name, lab, seed)
    folder.mkdir(parents=True)
    for split, count, labs in (("validation", 8, 1), ("test_simple", 8, 1), ("test", 16, 2)):
        rows = [(f"bccd/{n}-{copy}", "bccd", f"photo {n}", n % 4) for n in range(count) for copy in range(3)]
        rows += [(f"pbc/{n}", "pbc", None, n % 4) for n in range(20)] * (labs - 1)
        files, origins, photographs, labels = zip(*rows, strict=True)
        answers = np.where(rng.random(len(rows)) < right, labels, rng.integers(0, 4, len(rows)))
        write_predictions(
            folder / f"{split}_predictions.csv",
            np.eye(4)[answers] * 3,
            np.array(labels),
            BCCD_CLASSES,
            {"file_name": files, "dataset": origins, "photograph": photographs},
        )
    (folder / "run.json").write_text(json.dumps({"arguments": [], "seconds": 60, "device": "CPU", "software": "t"}))
    loss = 2 - right
    history = [
        {"epoch": epoch, "cross_entropy": loss / epoch, "eval_accuracy": right} for epoch in range(seed, seed + 3)
    ]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    (folder / "plan.json").write_text(json.dumps({"budget": {"epochs": 2, "image_size": 64}, "imagenet": False}))
    for seed in (1, 2, 3):
        for lab in ("bccd", "pbc"):
            write_run(folder, REFERENCE, lab, seed, 0.5, rng)
            write_run(folder, "ibn-hard", lab, seed, 0.9, rng)
    write_run(folder, "ibn-ce", "bccd", 1, 0.8, rng)
    write_run(folder, "resnet50", "bccd", 1, 0.7, rng)
    write_run(folder, "ibn-resnet34", "bccd", 1, 0.8, rng)
    return folder


def answers(output, name, lab, seed, origin):
    with open(run_folder(output, name, lab, seed) / "test_predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == origin]
    return [row["label"] for row in rows], [row["prediction"] for row in rows]


def test_figures_are_those_of_the_predictions(output):
    rows = collect(output)["rows"]
    for lab, part, origin in (("bccd", "test", "bccd"), ("bccd", "pbc", "pbc"), ("pbc", "test", "bccd")):
        ours, others = (
            [answers(output, name, lab, seed, origin) for seed in (1, 2, 3)] for name in ("ibn-hard", REFERENCE)
        )
        found = rows["ibn-hard"][lab][part]
        accuracies = [accuracy_score(*run) for run in ours]
        assert found["accuracy"] == pytest.approx(accuracies)
        assert found["mean"] == pytest.approx(np.mean(accuracies))
        assert found["macro_f1"] == pytest.approx(np.mean([f1_score(*run, average="macro") for run in ours]))
        difference = np.mean(accuracies) - np.mean([accuracy_score(*run) for run in others])
        assert found["difference"] == pytest.approx(difference)
        ids = [[[BCCD_CLASSES.index(name) for name in run[1]] for run in runs] for runs in (ours, others)]
        compared = paired_bootstrap(*ids, [BCCD_CLASSES.index(name) for name in ours[0][0]], [*BCCD_CLASSES])
        if origin == "pbc":  # whose images have no photographs
            bounds = [compared["accuracy"]["low"], compared["accuracy"]["high"]]
            assert [found["low"], found["high"]] == pytest.approx(bounds)
        assert found["low"] < difference < found["high"]
        assert found["low"] > 0
        assert found["interval"][0] < found["mean"] < found["interval"][1]
    # A row of one seed is compared with all of the reference, whose first may be its worst.
    found = rows["ibn-ce"]["bccd"]["test"]
    one = accuracy_score(*answers(output, "ibn-ce", "bccd", 1, "bccd"))
    others = [accuracy_score(*answers(output, REFERENCE, "bccd", seed, "bccd")) for seed in (1, 2, 3)]
    assert found["difference"] == pytest.approx(one - np.mean(others))
    # Its interval is at least as wide as what another seed would have given, by the spread of those of several.
    runs = [rows[name]["bccd"]["test"]["accuracy"] for name in ("ibn-hard", REFERENCE)]
    spread = np.mean([np.var(accuracy, ddof=1) for accuracy in runs]) ** 0.5
    assert min(found["difference"] - found["low"], found["high"] - found["difference"]) > 1.95 * spread
    assert "difference" not in rows[REFERENCE]["bccd"]["test"]
    assert "pbc" not in rows["ibn-ce"]
    # The paper's rivals are compared with its own network.
    rival, paper = (accuracy_score(*answers(output, name, "bccd", 1, "bccd")) for name in ("resnet50", "ibn-resnet34"))
    assert rows["resnet50"]["bccd"]["test"]["difference"] == pytest.approx(rival - paper)
    assert "difference" not in rows["ibn-resnet34"]["bccd"]["test"]


def test_an_idea_is_compared_with_rows_that_are_alike_in_everything_else(output):
    rows = {row.name: row for row in ROWS}
    for title, with_it, without in IDEAS:
        for one, other in zip(with_it, without, strict=True):
            cells = [*zip(rows[one].cells, rows[other].cells, strict=True)]
            assert sum(ours != others for ours, others in cells) == 1, title
    ideas = collect(output)["ideas"]
    ibn = ideas["IBN in place of BN"]
    assert (ibn["with"], ibn["without"]) == (4, 3)  # three runs of ibn-hard and one of ibn-ce, three of bn-ce
    ours = [("ibn-hard", 1), ("ibn-hard", 2), ("ibn-hard", 3), ("ibn-ce", 1)]
    for where, runs, lab, origin in (("test", ours, "bccd", "bccd"), ("back", ours[:3], "pbc", "bccd")):
        accuracy = [accuracy_score(*answers(output, name, lab, seed, origin)) for name, seed in runs]
        others = [accuracy_score(*answers(output, REFERENCE, lab, seed, origin)) for seed in (1, 2, 3)]
        assert ibn[where]["difference"] == pytest.approx(np.mean(accuracy) - np.mean(others))
    assert "a start from PBC's cells" not in ideas


def test_the_report_shows_what_is_there_and_no_more(output, capsys):
    assert main(["tables", "--output", str(output), "--report"]) == 0
    text = (output / "ablations.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "2 epochs at 64 pixels on BCCD, from random weights" in text
    results = json.loads((output / "results.json").read_text())
    (line,) = [line for line in text.splitlines() if line.startswith("| ResNet50 | 87 |")]
    found = results["rows"]["resnet50"]["bccd"]["test"]
    assert f"| {100 * found['mean']:.1f} (" in line
    assert f"| {100 * found['difference']:+.1f} (" in line
    home, away = (table for caption, table in ablations.report(results) if caption.startswith("The ablations"))
    ((caption, ideas),) = (pair for pair in ablations.report(results) if pair[0].startswith("What each idea adds"))
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


# --- The committed results ---


@pytest.mark.parametrize("name", ["baselines", "ablations"])
def test_the_committed_results_hold_every_run_of_their_tables(name):
    results = json.loads((ROOT / "results" / name / "results.json").read_text(encoding="utf-8"))
    trained = {row.table for row in ROWS if row.name in results["rows"]}
    for row in selected([*trained], imagenet=False):
        for lab in row.labs:
            assert results["rows"][row.name][lab]["seeds"] == [*range(1, row.seeds + 1)]


# --- Real runs ---


def test_runs_what_is_missing_and_nothing_twice(data, tmp_path):
    output = tmp_path / "tables"
    command = [sys.executable, "-m", "hub", "tables", "--output", output, "--dataset", data, "--budget", "1", "64"]
    rows = ["--rows", "search-margin-0.1", "ibn-hard-from-pbc"]

    def run(*more, **environment):
        return subprocess.run(
            [*map(str, command), *more], cwd=ROOT, capture_output=True, text=True, env=os.environ | environment
        )

    obstacle = output / "rows" / "search-margin-0.1-bccd-1"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    told = run(*rows)
    assert told.returncode == 1
    assert f"1 runs failed, see their logs: {obstacle}.log" in told.stderr
    assert told.stdout.count("[") == 5
    obstacle.unlink()
    weights = output / "rows" / "ibn-hard-from-pbc-bccd-1" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    arguments = json.loads((weights.parent / "run.json").read_text())["arguments"]
    assert arguments[arguments.index("--model_name_or_path") + 1].endswith("ibn-hard-pbc-1")
    assert not list(output.glob("rows/*/checkpoint-*"))
    costs = json.loads((output / "costs.json").read_text())["networks"]
    assert [*costs] == ["ibn"]
    assert costs["ibn"]["image_size"] == 64
    assert costs["ibn"]["images_per_second"] > 0
    assert costs["ibn"]["parameters"] == sum(
        weight.numel() for weight in WBCForImageClassification(WBCConfig()).parameters()
    )

    told = run(*rows)
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("[") == 1
    assert weights.stat().st_mtime_ns == before
    assert "| 0.0001 | 0.1 |" in (output / "ablations.md").read_text()
    assert (output / "embeddings.png").is_file() == (output / "rows" / "ibn-hard-bccd-1").is_dir()

    command[-2] = "2"
    told = run(*rows)
    assert told.returncode == 1
    assert "tells of another budget" in told.stderr
