"""`python -m hub predict`: images in, a table of cells out, whatever is among the files."""

import csv

import pytest
import torch
from PIL import Image

from hub.__main__ import main
from hub.data.synthetic import draw_field
from modeling_wbc import WBCConfig, WBCForImageClassification, WBCImageProcessor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of an untrained tiny model of crops."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    WBCImageProcessor(size=32).save_pretrained(folder)
    WBCForImageClassification(WBCConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(folder)
    return folder


def test_reads_every_image_and_goes_on_after_one_that_is_none(model, tmp_path, capsys, caplog):
    folder = tmp_path / "smears"
    (folder / "deeper").mkdir(parents=True)
    two = Image.new("RGB", (640, 240))
    two.paste(draw_field("monocyte", 1), (0, 0))
    two.paste(draw_field("lymphocyte", 1), (320, 0))
    two.save(folder / "a.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    (folder / "notes.txt").write_text("not looked at")
    Image.new("RGB", (80, 60), "white").save(folder / "deeper" / "blank.TIF")
    draw_field("neutrophil", 2).save(tmp_path / "one.bmp")
    arguments = ["--model", str(model), "--output", str(tmp_path / "out"), "--draw"]
    assert main(["predict", str(folder), str(tmp_path / "one.bmp"), *arguments]) == 0
    captured = capsys.readouterr()
    assert "3 cells, and 0 that look like none, in 3 images; 1 could not be read" in captured.out
    assert "broken.jpg" in caplog.text

    with open(tmp_path / "out" / "cells.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(folder / "a.png")] * 2 + [str(tmp_path / "one.bmp")]
    expected = WBCForImageClassification.from_pretrained(model).analyze([folder / "a.png", tmp_path / "one.bmp"])
    for row, cell in zip(rows, [cell for field in expected for cell in field.cells], strict=True):
        assert [float(row[side]) for side in ("left", "top", "right", "bottom")] == pytest.approx(cell.box, abs=0.06)
        assert row["label"] == cell.label
        assert float(row["distance"]) == pytest.approx(cell.distance, abs=1e-3)
        for label, probability in cell.probabilities.items():
            assert float(row[label]) == pytest.approx(probability, abs=1e-5)
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"00000-a.png", "00002-blank.png", "00003-one.png"}
    assert main(["predict", str(folder), *arguments]) == 1
    assert "exists and is not empty" in capsys.readouterr().err


def test_counts_what_is_unknown_apart(model, tmp_path, capsys):
    for seed, label in enumerate(("neutrophil", "lymphocyte")):
        draw_field(label, seed).save(tmp_path / f"{seed}.png")
    images = [tmp_path / "0.png", tmp_path / "1.png"]
    known = WBCForImageClassification.from_pretrained(model)
    known.novelty.whitening.normal_()
    near, far = sorted(field.cells[0].novelty for field in known.analyze(images))
    known.config.max_novelty = (near + far) / 2
    WBCImageProcessor(size=32).save_pretrained(tmp_path / "limited")
    known.save_pretrained(tmp_path / "limited")
    arguments = ["--model", str(tmp_path / "limited"), "--output", str(tmp_path / "out")]
    assert main(["predict", *map(str, images), *arguments]) == 0
    assert "1 cells, and 1 that look like none, in 2 images" in capsys.readouterr().out
    with open(tmp_path / "out" / "cells.csv", newline="", encoding="utf-8") as file:
        rows = {row["known"]: float(row["novelty"]) for row in csv.DictReader(file)}
    assert rows == {"no": pytest.approx(far, abs=1e-3), "yes": pytest.approx(near, abs=1e-3)}


def test_names_what_is_not_there(model, tmp_path, capsys):
    arguments = ["--model", str(model), "--output", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "nowhere.png"), *arguments]) == 1
    assert "no such file or folder: " in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tmp_path / "empty"), *arguments]) == 1
    assert "hold no image" in capsys.readouterr().err
    draw_field("neutrophil", 2).save(tmp_path / "one.png")
    arguments = ["--model", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "one.png"), *arguments]) == 1
    assert str(tmp_path / "empty") in capsys.readouterr().err
