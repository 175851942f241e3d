"""`python -m hub ablations`: its images, and its trainings."""

import json

import datasets
import pytest

from hub.__main__ import main
from hub.data.bccd import BCCD_CLASSES
from hub.data.columns import PHOTOGRAPH_COLUMNS, features
from hub.data.load import load, save
from hub.data.pbc import PBC_CLASSES
from hub.data.synthetic import draw_field
from hub.study import ablations, costs
from hub.study.ablation_rows import runs_of
from hub.study.ablations import shared_types, with_foremost_cells
from modeling_wbc import WBCImageProcessor


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A saved data set of two labs, with the columns and splits of blood8; of PBC's types all eight."""
    columns = features(PBC_CLASSES, "lab", "group", *PHOTOGRAPH_COLUMNS)
    splits = {}
    counts = {"train": 12, "validation": 8, "test_photographs": 4, "test_simple": 4, "test": 8}
    for offset, (split, count) in enumerate(counts.items()):
        rows = []
        for number in range(count):
            label, name = BCCD_CLASSES[number % 4], f"{split} {number}"
            image = draw_field(label, seed=100 * offset + number, size=(96, 96))
            rows.append(
                {"label": label, "image": image, "lab": "bccd", "file_name": f"bccd/{name}", "photograph": name}
            )
        for number in range(16 if split in ("train", "validation", "test") else 0):
            image = draw_field("monocyte", seed=1000 * offset + number, size=(96, 96))
            label = PBC_CLASSES[number % 8]
            rows.append({"label": label, "image": image, "lab": "pbc", "file_name": f"pbc/{split} {number}"})
        splits[split] = datasets.Dataset.from_dict(
            {column: [row.get(column) for row in rows] for column in columns}, features=columns
        )
    folder = tmp_path_factory.mktemp("data") / "blood8"
    save(datasets.DatasetDict(splits), folder)
    return folder


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
    assert set(after["test"]["lab"]) == {"bccd", "pbc"}


def test_the_cells_are_looked_for_once_and_not_in_every_row(data):
    before = load(data)
    for split, images in with_foremost_cells(before).items():
        assert images.remove_columns("foremost_cell").features == before[split].features
        assert images["file_name"][:] == before[split]["file_name"][:]
        for row in images:
            boxes, _ = WBCImageProcessor().find_cells(row["image"])
            assert row["foremost_cell"] == (boxes[0].tolist() if len(boxes) else [0, 0, 0, 0])


def test_runs_what_is_missing_and_nothing_twice(data, tmp_path, monkeypatch, capfd):
    output = tmp_path / "tables"

    def run(*, epochs="1"):
        budget, rows = ["--budget", epochs, "64"], ["--rows", "search-margin-0.1", "ibn-hard-from-pbc"]
        code = main(["ablations", "--output", str(output), "--dataset", str(data), *budget, *rows])
        return code, capfd.readouterr()

    def trained(told):
        return [line for line in told.out.splitlines() if line.startswith("[")]

    # One seed will do here.
    monkeypatch.setattr(ablations, "runs_of", lambda rows: [run for run in runs_of(rows) if run.seed == 1])
    monkeypatch.setattr(costs, "SECONDS_OF_TRAINING", 0.01)
    monkeypatch.setattr(costs, "BATCH_SIZE", 4)
    obstacle = output / "rows" / "search-margin-0.1-bccd-1"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    code, told = run()
    assert code == 1
    assert f"1 runs failed, see their logs: {obstacle}.log" in told.err
    assert trained(told) == [
        "[1/3] search-margin-0.1, BCCD, seed 1",
        "[2/3] ibn-hard, PBC, seed 1",
        "[3/3] ibn-hard-from-pbc, BCCD, seed 1",
    ]
    obstacle.unlink()
    weights = output / "rows" / "ibn-hard-from-pbc-bccd-1" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    arguments = json.loads((weights.parent / "run.json").read_text(encoding="utf-8"))["arguments"]
    assert arguments[arguments.index("--model_name_or_path") + 1].endswith("ibn-hard-pbc-1")
    assert not list(output.glob("rows/*/checkpoint-*"))
    measured = json.loads((output / "costs.json").read_text(encoding="utf-8"))["networks"]
    assert [*measured] == ["ibn"]
    assert measured["ibn"]["image_size"] == 64

    code, told = run()
    assert code == 0, told.err
    assert trained(told) == ["[1/3] search-margin-0.1, BCCD, seed 1"]
    assert weights.stat().st_mtime_ns == before
    assert "| 0.0001 | 0.1 |" in (output / "tables.md").read_text(encoding="utf-8")
    assert (output / "embeddings.png").is_file() == (output / "rows" / "ibn-hard-bccd-1").is_dir()

    code, told = run(epochs="2")
    assert code == 1
    assert "holds another budget" in told.err
