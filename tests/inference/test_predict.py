"""`python -m hub predict`: images in, a table of cells out, whatever is among the files."""

import errno
import os
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from hub.__main__ import main
from hub.data.synthetic import draw_field
from hub.files import UserError
from hub.inference import predict as module
from hub.inference.predict import describe, predict
from modeling_wbc import WBCForImageClassification, WBCImageProcessor
from tests.inference.tables import table


def statuses(output):
    return {os.path.basename(row["file"]): row["status"] for row in table(output)}


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
    assert "3 cells, 0 more unknown, in 3 images; 1 could not be read" in captured.out
    assert "broken.jpg" in caplog.text

    rows = table(tmp_path / "out")
    files = [folder / "a.png", folder / "a.png", folder / "broken.jpg", folder / "deeper" / "blank.TIF"]
    assert [row["file"] for row in rows] == [*map(str, files), str(tmp_path / "one.bmp")]
    assert [row["status"] for row in rows] == ["ok", "ok", "unreadable", "no cell", "ok"]
    rows = [row for row in rows if row["status"] == "ok"]
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
    known.config.max_novelty, known.config.max_smear_novelty = (near + far) / 2, 2 * far
    WBCImageProcessor(size=32).save_pretrained(tmp_path / "limited")
    known.save_pretrained(tmp_path / "limited")
    arguments = ["--model", str(tmp_path / "limited"), "--output", str(tmp_path / "out")]
    assert main(["predict", *map(str, images), *arguments]) == 0
    assert "1 cells, 1 more unknown, in 2 images" in capsys.readouterr().out
    rows = {row["known"]: row for row in table(tmp_path / "out")}
    novelties = {key: float(row["novelty"]) for key, row in rows.items()}
    assert novelties == {"no": pytest.approx(far, abs=1e-3), "yes": pytest.approx(near, abs=1e-3)}
    assert {key: row["remark"] for key, row in rows.items()} == {"no": "unfamiliar stain", "yes": ""}
    assert rows["no"]["label"]  # a guess


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


def test_names_that_are_no_utf_8_survive(model, tmp_path, capsys):
    folder = os.fsencode(tmp_path / "smears")
    os.mkdir(folder)
    try:
        for name in (b"pr\xe9parat.png", b"\xd6\xd0.png", b"z.png"):
            draw_field("monocyte", 1).save(os.path.join(folder, name))
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    output = tmp_path / os.fsdecode(b"\xe9")
    assert main(["predict", os.fsdecode(folder), "--model", str(model), "--output", str(output), "--draw"]) == 0
    capsys.readouterr()
    assert statuses(output) == {"pr\\xe9parat.png": "ok", "\\xd6\\xd0.png": "ok", "z.png": "ok"}
    assert len(list(output.glob("*.png"))) == 3


def test_the_table_opens_in_spreadsheets_and_in_pandas(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["=1+2.png", "-a, b.png", "\u4e2d.png", "blank.png"]
    for name in names[:3]:
        draw_field("monocyte", 1).save(name)
    Image.new("RGB", (50, 50), "white").save("blank.png")
    found = predict([Path(name) for name in names], model, tmp_path / "out")
    assert found["images"] == 4
    content = (tmp_path / "out" / "cells.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbffile,")
    assert not [row["file"] for row in table(tmp_path / "out") if row["file"].startswith(("=", "-"))]
    frame = pd.read_csv(tmp_path / "out" / "cells.csv")
    assert all(os.path.exists(name) for name in frame["file"])
    assert frame["status"].tolist() == ["ok", "ok", "ok", "no cell"]


def test_reads_archives_as_the_page_does(model, tmp_path):
    draw_field("monocyte", 1).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "day 1/a.png")
        archive.writestr("day 1/b.jpg", b"no image")
        archive.writestr("day 1/c.svg", b"<svg/>")
        archive.writestr("Thumbs.db", b"left out")
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as archive:
        archive.write(tmp_path / "good.zip", "good.zip")
    (tmp_path / "bad.zip").write_bytes(b"PK")
    found = predict(
        [tmp_path / f"{name}.zip" for name in ("bad", "good", "nested")], model, tmp_path / "out", draw=True
    )
    rows = [(row["file"].removeprefix(f"{tmp_path}/"), row["status"]) for row in table(tmp_path / "out")]
    assert rows == [
        ("bad.zip", "unreadable"),
        ("good.zip/day 1/a.png", "ok"),
        ("good.zip/day 1/b.jpg", "unreadable"),
        ("good.zip/day 1/c.svg", "not an image"),
        ("nested.zip", "unreadable"),
    ]
    assert (found["images"], found["unreadable"], found["not_images"]) == (1, 3, 1)
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["00001-a.png"]


def test_the_exit_code_says_when_nothing_was_read(model, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes(b"")
    arguments = ["--model", str(model), "--output", str(tmp_path / "out")]
    assert main(["predict", str(tmp_path / "a.jpg"), str(tmp_path / "b.png"), *arguments]) == 1
    assert "error: none of 2 inputs could be read" in capsys.readouterr().err
    assert statuses(tmp_path / "out") == {"a.jpg": "unreadable", "b.png": "unreadable"}
    assert table(tmp_path / "out")[1]["reason"] == "the file is empty"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match="hold no image"):
        predict([tmp_path / "folder"], model, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_goes_on_after_a_crash_and_after_a_file_that_vanishes(model, tmp_path, monkeypatch):
    for name in ("a", "b", "c", "d"):
        draw_field("monocyte", 1).save(tmp_path / f"{name}.png")

    def load(*args, load=module.load_classifier):
        classifier = load(*args)
        forward, calls = classifier.forward, []

        def crash(*args, **kwargs):
            calls.append(args)
            assert len(calls) != 2, "the second image is too much"
            (tmp_path / "c.png").unlink(missing_ok=True)
            return forward(*args, **kwargs)

        monkeypatch.setattr(classifier, "forward", crash)
        return classifier

    monkeypatch.setattr(module, "load_classifier", load)
    found = predict([tmp_path / f"{name}.png" for name in "abcd"], model, tmp_path / "out", workers=0, batch_size=1)
    assert statuses(tmp_path / "out") == {"a.png": "ok", "b.png": "failed", "c.png": "unreadable", "d.png": "ok"}
    reasons = [row["reason"] for row in table(tmp_path / "out")]
    assert "AssertionError: the second image is too much" in reasons[1]
    assert reasons[2] == os.strerror(errno.ENOENT)
    assert (found["images"], found["unreadable"]) == (2, 2)


def test_goes_on_after_a_picture_that_cannot_be_written(model, tmp_path, monkeypatch):
    names = ["a.png", f"{'b' * 250}.png", "c.png"]  # the second is as long as file systems allow
    for name in names:
        draw_field("monocyte", 1).save(tmp_path / name)

    def save(self, path, save=Image.Image.save):
        if "00000" in path.name:
            path.write_bytes(b"a part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, path)

    monkeypatch.setattr(Image.Image, "save", save)
    predict([tmp_path / name for name in names], model, tmp_path / "out", draw=True)
    assert [row["status"] for row in table(tmp_path / "out")] == ["ok"] * 3
    assert [row["reason"] for row in table(tmp_path / "out")] == [
        f"it was not drawn: {os.strerror(errno.ENOSPC)}",
        "",
        "",
    ]
    assert sorted(path.name[:7] for path in (tmp_path / "out").glob("*.png")) == ["00001-b", "00002-c"]


def test_an_upright_image_is_analysed_as_by_the_model(model, tmp_path):
    """The image is read once, by the reader of `analyze`, and not turned twice."""
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_field("monocyte", 1).save(tmp_path / "turned.png", exif=exif)
    predict([tmp_path / "turned.png"], model, tmp_path / "out")
    field = WBCForImageClassification.from_pretrained(model).analyze(tmp_path / "turned.png")
    (row,) = table(tmp_path / "out")
    assert [float(row[side]) for side in ("left", "top", "right", "bottom")] == pytest.approx(
        field.cells[0].box, abs=0.06
    )
    assert float(row["distance"]) == pytest.approx(field.cells[0].distance, abs=1e-3)


def test_shares_are_of_white_cells(monkeypatch):
    counts = {"erythroblast": 5, "lymphocyte": 1, "neutrophil": 3, "platelet": 91}
    found = {"counts": counts, "shares": module._shares(module.Counter(counts), list(counts)), "unknown": 0}
    found |= {"images": 1, "unreadable": 0, "not_images": 0, "duplicates": 2, "left_out": 0}
    assert found["shares"] == {"lymphocyte": 0.25, "neutrophil": 0.75}
    lines = describe(found).splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["erythroblast", "5"],
        ["lymphocyte", "1", "25.0"],
        ["neutrophil", "3", "75.0"],
        ["platelet", "91"],
    ]
    assert lines[-1] == "Other files: 2 given twice"


def test_says_of_how_many_pages_the_first_was_read(model, tmp_path):
    pages = [draw_field("monocyte", seed) for seed in range(4)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    Image.new("RGB", (50, 50), "white").save(tmp_path / "one.tif")
    predict([tmp_path / "stack.tif", tmp_path / "one.tif"], model, tmp_path / "out")
    assert [row["reason"] for row in table(tmp_path / "out")] == ["page 1 of 4", ""]
