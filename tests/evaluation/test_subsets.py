import csv
import json

import numpy as np
import pytest
from hub.evaluation.compare import compare, mistaken_photographs, write_predictions
from hub.evaluation.format import table_1
from hub.evaluation.intervals import paired_bootstrap
from hub.evaluation.metrics import WBCMetric
from hub.evaluation.subsets import evaluate_logits, parts_rows
from PIL import Image

from hub.__main__ import main
from hub.data.synthetic import draw_field
from hub.evaluation import subsets

NAMES = ["basophil", "eosinophil", "neutrophil"]


def case():
    """Ten images: six of `bccd`, which has no basophil, of three photographs, and four of `pbc`."""
    references = np.array([1, 1, 1, 1, 2, 2, 0, 0, 1, 2])
    answers = np.array([1, 0, 1, 1, 2, 1, 0, 2, 1, 2])
    logits = np.eye(3)[answers] * 4.0
    logits[1] = [4, 3, 0]  # taken for a basophil, and for an eosinophil once that is out of the question
    columns = {
        "file_name": [f"{k}.png" for k in range(10)],
        "dataset": ["bccd"] * 6 + ["pbc"] * 4,
        "photograph": ["p", "p", "q", "q", "r", "r", None, None, None, None],
        "field": ["p", "p", "q", "q", "q", "q", None, None, None, None],
    }
    return logits, references, columns


@pytest.fixture
def doubtful(monkeypatch):
    monkeypatch.setattr(subsets, "doubtful_labels", lambda: [{"photograph": "p"}, {"photograph": "elsewhere"}])


def test_a_split_of_two_data_sets_is_told_in_parts(doubtful):
    logits, references, columns = case()
    results = evaluate_logits(logits, references, NAMES, columns, {"q", "unseen"})
    assert results["num_images"] == 10
    assert results["accuracy"] == pytest.approx(7 / 10)
    assert results["num_photographs"] == 3 + 4  # a file of unknown photograph is one of its own
    assert results["label_names"] == NAMES
    parts = results["subsets"]
    assert list(parts) == [
        "bccd",
        "pbc",
        "bccd_2_classes",
        "bccd_without_doubtful_labels",
        "bccd_without_seen_fields",
        "pbc_2_shared_classes",
    ]
    assert [part["num_images"] for part in parts.values()] == [6, 4, 6, 4, 2, 2]
    assert parts["bccd"]["accuracy"] == pytest.approx(4 / 6)
    assert parts["pbc"]["accuracy"] == pytest.approx(3 / 4)
    assert parts["bccd_2_classes"]["accuracy"] == pytest.approx(5 / 6)
    assert parts["bccd_2_classes"]["label_names"] == ["eosinophil", "neutrophil"]
    assert parts["bccd_2_classes"]["confusion_matrix"] == [[4, 0], [1, 1]]
    assert parts["bccd_without_doubtful_labels"]["accuracy"] == pytest.approx(3 / 4)
    assert parts["bccd_without_seen_fields"]["accuracy"] == pytest.approx(1 / 2)
    # Of pbc the images and answers that are eosinophil or neutrophil: the last two, both right.
    assert parts["pbc_2_shared_classes"]["confusion_matrix"] == [[1, 0], [0, 1]]
    assert "photograph_accuracy" in parts["bccd"]
    assert "photograph_accuracy" not in parts["pbc"]
    for part in [results, *parts.values()]:
        assert {"accuracy", "macro_f1", "expected_calibration_error"} <= part["intervals"].keys()
        assert table_1(part, part["label_names"])
    assert json.loads(json.dumps(results)) == results
    head, *rows = parts_rows(results)
    assert [row[1:3] for row in rows] == [["6", "3"], ["4", "–"], ["6", "3"], ["4", "2"], ["2", "1"], ["2", "–"]]
    assert rows[0][3].startswith("66.7 (")
    assert rows[2][3].startswith("83.3 (")
    # A mean over classes needs images of all of them: bccd has no basophil.
    assert [row[head.index("Macro F1 (%)")] == "–" for row in rows] == [True, False, False, True, True, False]


def test_tells_how_many_images_the_model_knows(doubtful):
    logits, references, columns = case()
    known = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 0], dtype=bool)
    results = evaluate_logits(logits, references, NAMES, columns, known=known)
    assert results["kept"] == pytest.approx(7 / 10)
    assert results["subsets"]["bccd"]["kept"] == pytest.approx(4 / 6)
    assert results["subsets"]["pbc"]["kept"] == pytest.approx(3 / 4)
    # Photographs are drawn whole: of bccd's three, one is unknown with both files, so shares are thirds.
    low, high = results["subsets"]["bccd"]["intervals"]["kept"]
    assert (low, high) == pytest.approx((0, 1))
    head, *rows = parts_rows(results)
    assert head[-1] == "Kept (%)"
    assert rows[1][-1].startswith("75.0 (")
    assert "taken for one of the types (%): 70.0 (" in table_1(results, NAMES)
    assert "Kept (%)" not in parts_rows(evaluate_logits(logits, references, NAMES, columns))[0]


def test_a_split_of_one_data_set_has_no_part_of_its_name(doubtful):
    logits, references, columns = case()
    del columns["dataset"]
    results = evaluate_logits(logits, references, NAMES, columns)
    assert list(results["subsets"]) == ["without_doubtful_labels"]
    assert results["subsets"]["without_doubtful_labels"]["num_images"] == 8
    assert evaluate_logits(logits, references, NAMES, {})["subsets"] == {}


def test_probabilities_are_the_softmax_of_the_logits():
    logits, references, columns = case()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = WBCMetric().compute(
        predictions=logits.argmax(1),
        references=references,
        label_names=NAMES,
        photographs=columns["photograph"],
        probabilities=probabilities,
        intervals=True,
    )
    results = evaluate_logits(logits.astype(np.float32), references, NAMES, columns)
    assert results["expected_calibration_error"] == pytest.approx(expected["expected_calibration_error"], abs=1e-6)
    assert results["intervals"]["recall_eosinophil"] == expected["intervals"]["recall_eosinophil"]


def test_written_predictions_can_be_compared(tmp_path):
    logits, references, columns = case()
    write_predictions(tmp_path / "first.csv", logits, references, NAMES, columns)
    write_predictions(tmp_path / "second.csv", np.eye(3)[references], references, NAMES, columns)
    tables = []
    for name in ("first.csv", "second.csv"):
        with open(tmp_path / name, newline="") as file:
            tables.append(list(csv.DictReader(file)))
    first, _second = tables
    assert first[1]["photograph"] == "p"
    assert first[1]["label"] == "eosinophil"
    assert first[1]["prediction"] == "basophil"
    assert first[6]["photograph"] == ""
    assert first[6]["dataset"] == "pbc"
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
