import csv

import numpy as np
import pytest
from evaluation_cases import NAMES, case
from PIL import Image

from hub.__main__ import main
from hub.data.synthetic import draw_field
from hub.evaluation.compare import compare, mistaken_photographs, read_predictions, write_predictions
from hub.evaluation.intervals import paired_bootstrap
from hub.files import UserError


def test_written_predictions_can_be_compared(tmp_path):
    logits, references, columns = case()
    write_predictions(tmp_path / "first.csv", logits, references, NAMES, columns)
    write_predictions(tmp_path / "second.csv", np.eye(3)[references], references, NAMES, columns)
    tables = []
    for name in ("first.csv", "second.csv"):
        with open(tmp_path / name, newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    first, _second = tables
    assert first[1]["photograph"] == "p"
    assert first[1]["label"] == "eosinophil"
    assert first[1]["prediction"] == "basophil"
    assert first[6]["photograph"] == ""
    assert first[6]["lab"] == "pbc"
    assert sum(float(first[1][name]) for name in NAMES) == pytest.approx(1, abs=1e-4)
    ids = [[NAMES.index(row["prediction"]) for row in table] for table in tables]
    compared = paired_bootstrap(*ids, references, NAMES, photographs=[row["photograph"] or None for row in first])
    assert compared["accuracy"]["difference"] == pytest.approx(-3 / 10)
    write_predictions(tmp_path / "bare.csv", logits, references, NAMES, {})
    assert (tmp_path / "bare.csv").read_text().splitlines()[0] == "label,prediction,basophil,eosinophil,neutrophil"


def test_compares_the_runs_of_two_recipes(tmp_path, capsys):
    """Three seeds each; the interval is that of the paired bootstrap over photographs and runs."""
    rng = np.random.default_rng(0)
    names = ["eosinophil", "lymphocyte"]
    photographs = [f"BloodImage_{k // 10:05d}" for k in range(200)]
    references = np.array([k // 10 % 2 for k in range(200)])
    columns = {"file_name": [f"{k}.jpeg" for k in range(200)], "photograph": photographs}
    answers = {}
    for recipe, share in (("a", 0.9), ("b", 0.6)):
        for seed in range(3):
            right = rng.random(200) < share
            answers[recipe, seed] = np.where(right, references, 1 - references)
            folder = tmp_path / f"{recipe}{seed}"
            folder.mkdir()
            logits = np.eye(2)[answers[recipe, seed]]
            write_predictions(folder / "validation_predictions.csv", logits, references, names, columns)
    first, second = ([tmp_path / f"{recipe}{seed}" for seed in range(3)] for recipe in "ab")
    compared = compare(first, second, "validation")
    accuracy = {key: float((answer == references).mean()) for key, answer in answers.items()}
    assert compared["first"] == [accuracy["a", seed] for seed in range(3)]
    assert compared["second"] == [accuracy["b", seed] for seed in range(3)]
    assert (compared["num_images"], compared["num_photographs"]) == (200, 20)
    # By hand: draw photographs within their class, the same for every run, and runs of each recipe by itself.
    right = {recipe: [(answers[recipe, s] == references).reshape(20, 10).mean(1) for s in range(3)] for recipe in "ab"}
    drawn = []
    for _ in range(4000):
        shown = np.concatenate([2 * rng.integers(10, size=10) + label for label in (0, 1)])
        one, other = (np.mean([right[recipe][s][shown] for s in rng.integers(3, size=3)]) for recipe in "ab")
        drawn.append(one - other)
    low, high = np.percentile(drawn, (2.5, 97.5))
    result = compared["accuracy"]
    assert result["difference"] == pytest.approx(np.mean(right["a"]) - np.mean(right["b"]))
    assert (result["low"], result["high"]) == pytest.approx((low, high), abs=0.01)

    arguments = ["--first", *map(str, first), "--second", *map(str, second)]
    assert main(["compare", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "200 images, 20 photographs" in printed
    assert f"{100 * result['difference']:+.1f} (" in printed
    assert compare(first, second[:1], "validation")["accuracy"]["difference"] == pytest.approx(
        np.mean(right["a"]) - np.mean(right["b"][0])
    )
    write_predictions(
        first[0] / "validation_predictions.csv", logits[:9], references[:9], names, {"file_name": range(9)}
    )
    assert main(["compare", *arguments]) == 1
    assert "not evaluated on the same images" in capsys.readouterr().err


def test_mistakes_are_counted_by_photograph_the_costliest_first(tmp_path, capsys):
    logits, references, columns = case()
    path = tmp_path / "test_predictions.csv"
    write_predictions(path, logits, references, NAMES, columns)
    # Of photograph p one of two files is taken for a basophil, of r one of two for an eosinophil; pbc's have none.
    expected = [("p", "eosinophil", "basophil", 1, 2), ("r", "neutrophil", "eosinophil", 1, 2)]
    assert mistaken_photographs(path) == expected
    logits[3] = [0, 0, 9]  # and of q one of two
    logits[4] = [9, 0, 0]  # and both of r, in two ways
    write_predictions(path, logits, references, NAMES, columns)
    assert [row[0] for row in mistaken_photographs(path)] == ["r", "p", "q"]

    folder = tmp_path / "bccd" / "Original_Images"
    folder.mkdir(parents=True)
    for seed, name in enumerate("pqr"):
        draw_field("neutrophil", seed).save(folder / f"{name}.jpg")
    arguments = [
        "mistakes",
        str(path),
        "--bccd",
        str(tmp_path / "bccd"),
        "--output",
        str(tmp_path / "out" / "sheet.png"),
    ]
    assert main(arguments) == 0
    assert [line.split()[:1] for line in capsys.readouterr().out.splitlines()[1:]] == [["r"], ["p"], ["q"]]
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        red = (np.asarray(sheet) == (255, 0, 0)).all(-1)
    assert red.any(axis=0).sum() > 150  # a box around the cell of each
    write_predictions(path, logits, references, NAMES, {"file_name": columns["file_name"]})
    assert main(arguments) == 1
    assert "which photograph it shows" in capsys.readouterr().err


def test_predictions_are_written_and_read_to_the_byte(tmp_path):
    """Files of two versions can be compared: no cell may change its spelling."""
    path = tmp_path / "test_predictions.csv"
    logits = np.log([[0.9, 0.1], [0.25, 0.75], [0.123456, 0.876544]]).astype(np.float32)
    columns = {
        "file_name": ["a,b.png", "NA", "007"],
        "lab": ["bccd", None, "pbc"],
        "photograph": [None, "1.50", "é"],
        "slide": [3, None, 4],
        "novelty": map("{:.4f}".format, [0.5, 1, 2]),
    }
    write_predictions(path, logits, np.array([0, 0, 1]), ["ig", "big cell"], columns)
    assert path.read_bytes().decode("utf-8").split("\r\n") == [
        "file_name,lab,photograph,slide,novelty,label,prediction,ig,big cell",
        '"a,b.png",bccd,,3,0.5000,ig,ig,0.90000,0.10000',
        "NA,,1.50,,1.0000,ig,big cell,0.25000,0.75000",
        "007,pbc,é,4,2.0000,big cell,big cell,0.12346,0.87654",
        "",
    ]
    for former in (False, True):  # A file of an earlier version calls the lab "dataset".
        if former:
            path.write_bytes(path.read_bytes().replace(b",lab,", b",dataset,", 1))
        assert read_predictions(path).labs == ["bccd", "", "pbc"]
    table = read_predictions(path)
    assert table.images == [("a,b.png", ""), ("NA", "1.50"), ("007", "é")]
    assert table.label_names == ["ig", "big cell"]
    assert (table.references.tolist(), table.predictions.tolist()) == ([0, 0, 1], [0, 1, 1])
    assert table.probabilities.tolist() == [[0.9, 0.1], [0.25, 0.75], [0.12346, 0.87654]]
    assert table.accuracy == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="length"):
        write_predictions(path, logits, np.array([0, 0, 1]), ["ig", "big cell"], {"file_name": ["a", "b"]})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no table of predictions"),
        (b"\xff\xfe\x00", "is no table of predictions"),
        (b"file_name,class\n1.png,ig\n", r"has the columns \['file_name', 'class'\]"),
        (b"label,prediction,ig\nig,platelet,1\n", "has no column of probabilities"),
        (b"label,prediction,ig\nig,ig,much\n", "a probability that is no number"),
        (b"label,prediction,ig\n", "holds no image"),
        (b"label,prediction,ig,platelet\nig,ig,1,0\nig,ig,1", "a probability that is no number"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "cells.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"cells.csv .*{message}.*--do_eval"):
        read_predictions(path)


def test_runs_on_other_labels_are_not_compared(tmp_path):
    logits, references, columns = case()
    for name, labels in (("a", references), ("b", references[::-1])):
        (tmp_path / name).mkdir()
        write_predictions(tmp_path / name / "test_predictions.csv", logits, labels, NAMES, columns)
    with pytest.raises(UserError, match="not evaluated on the same images"):
        compare([tmp_path / "a"], [tmp_path / "b"], "test")
    with pytest.raises(UserError, match="got 1 and 0 runs"):
        compare([tmp_path / "a"], [], "test")
