"""`python -m hub adapt`: a folder of a lab's images in, an adapted copy of the classifier out."""

import json
import zipfile

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from hub.__main__ import main
from hub.data.synthetic import draw_field
from hub.inference.adapt import describe, read_labels
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of an untrained tiny model of crops."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = WBCForImageClassification(WBCConfig(embedding_size=8, hidden_sizes=[8], depths=[1], max_novelty=1.0))
    model.image_processor = WBCImageProcessor(size=32)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Drawn cells of a lab, one in a folder and one in an archive, a blank field and a damaged file."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "slide 1").mkdir()
    draw_field("monocyte", 1).save(folder / "slide 1" / "a.png")
    draw_field("neutrophil", 1).save(folder / "b.png")
    with zipfile.ZipFile(folder / "c.zip", "w") as archive, archive.open("d.png", "w") as file:
        draw_field("lymphocyte", 1).save(file, "png")
    Image.new("RGB", (80, 60), "white").save(folder / "blank.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    return folder


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return path


def test_saves_the_copy_that_adapt_makes_and_says_what_moved(model, lab, tmp_path, capsys, caplog):
    text = "file,label,by\nslide 1/a.png,Monocyte,me\nb.png,neutrophil,me\nblank.png,,me\nc.zip/d.png,lymphocyte,\n"
    labels = write(tmp_path / "labels.csv", text, "utf-8-sig")
    arguments = ["adapt", str(lab), "--model", str(model), "--labels", str(labels), "--norms", "move"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "3 cells of 4 images; 1 without a cell, 1 could not be read" in printed
    assert "norms moved: the shift of their statistics is" in printed
    assert "1 lymphocyte, 1 monocyte, 1 neutrophil" in printed
    assert "OOD threshold 1.00, now 1.00: known cells 100 %, now 100 %" in printed
    assert "broken.jpg" in caplog.text

    images = [lab / "slide 1" / "a.png", lab / "b.png", lab / "blank.png", draw_field("lymphocyte", 1)]
    original = WBCForImageClassification.from_pretrained(model)
    expected = original.adapt(images, ["monocyte", "neutrophil", None, "lymphocyte"], move_norms=True)
    record = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["adaptation"]
    assert record["labels"] == {"lymphocyte": 1, "monocyte": 1, "neutrophil": 1}
    assert record["shift"] == pytest.approx(expected.config.adaptation["shift"], rel=1e-4)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out", trust_remote_code=True)
    (cell,), (reference,) = loaded.analyze(images[0]).cells, expected.analyze(images[0]).cells
    assert cell.probabilities == pytest.approx(reference.probabilities, abs=1e-4)

    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    again = ["adapt", str(lab), "--model", str(tmp_path / "out"), "--output", str(tmp_path / "again")]
    assert main(again) == 1
    assert "adapt the original" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\nb.png,monocyte\n", "has no column file"),
        ("file,label\nb.png,blast\n", "line 2: blast is none of eosinophil, lymphocyte, monocyte, neutrophil"),
        ("file,label\nb.png,monocyte\nb.png,monocyte\n./b.png,neutrophil\n", "line 4: b.png has another label"),
        ("file,label\nb.png,\n", "has no label"),
        ("", "has no column file"),
        ("file,label\nb.png,monocyte\nz.png,monocyte\n", "has the file z.png, of which no image could be read"),
        (None, "could not read"),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_name(model, lab, text, message, tmp_path, capsys):
    path = tmp_path / "labels.csv"
    if text is not None:
        write(path, text)
    arguments = ["--model", str(model), "--labels", str(path), "--output", str(tmp_path / "out")]
    assert main(["adapt", str(lab), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert not (tmp_path / "out").exists()


def test_folders_without_a_cell_are_refused(model, tmp_path, capsys):
    arguments = ["--model", str(model), "--output", str(tmp_path / "out")]
    assert main(["adapt", str(tmp_path / "none"), *arguments]) == 1
    assert "no such file or folder" in capsys.readouterr().err
    (tmp_path / "blank").mkdir()
    Image.new("RGB", (80, 60), "white").save(tmp_path / "blank" / "a.png")
    assert main(["adapt", str(tmp_path / "blank"), *arguments]) == 1
    assert "no white cell was found in 1 images" in capsys.readouterr().err


def test_windows_paths_and_spaces_name_the_same_file(tmp_path):
    path = write(tmp_path / "labels.csv", "file,label\nslide 1\\a.png, Monocyte \n")
    assert read_labels(path, ["monocyte"]) == {"slide 1/a.png": "Monocyte"}


def test_says_what_stayed():
    found = {
        "crops": 2, "images": 2, "without_cell": 0, "unreadable": 0, "norms_moved": False, "shift": 0.01,
        "variety": 1.2, "labels": {"monocyte": 2}, "head_moved": False, "right_of_labelled": None,
        "max_novelty": {"before": None, "after": None}, "known": {"before": None, "after": None},
    }  # fmt: skip
    lines = describe(found).splitlines()
    assert lines[1] == "norms kept: the shift of their statistics is 0.010, and the cells look like 1.2 types"
    assert lines[2:] == [
        "class centres moved by labelled cells: 2 monocyte",
        "head kept: cells of one type do not tell it from others",
    ]
