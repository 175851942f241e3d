"""The card of a data set: findings about its photographs, and the contact sheet."""

import shutil

import datasets
import numpy as np
from PIL import Image

from hub.__main__ import main
from hub.data.bccd import BCCD, build_bccd
from hub.data.load import load
from hub.data.photographs import PhotographIndex
from hub.data.sift import grey
from hub.data.synthetic import draw_field
from hub.publish.contact_sheet import contact_sheet
from hub.publish.dataset_card import findings
from tests.raw_folders import augmented, encode


def test_exceptions_are_found(raw, built, tmp_path):
    """A file of TRAIN's photographs in TEST, a photograph shown twice in TEST_SIMPLE, and one of none."""
    copy = tmp_path / "raw"
    shutil.copytree(raw, copy)
    stray = sorted((copy / "images" / "TRAIN" / "MONOCYTE").iterdir())[0]
    stray.rename(copy / "images" / "TEST" / "MONOCYTE" / "stray.jpeg")
    simple = sorted((copy / "images" / "TEST_SIMPLE" / "NEUTROPHIL").iterdir())[0]
    (simple.parent / "twin.jpeg").write_bytes(simple.read_bytes())
    unknown = copy / "images" / "TEST" / "LYMPHOCYTE" / "unknown.jpeg"
    unknown.write_bytes(augmented(draw_field("lymphocyte", seed=555, size=(640, 480)), 0))
    found = findings(*build_bccd(copy))
    exceptions = "\n".join(found["exceptions"])
    assert "`TEST/LYMPHOCYTE/unknown.jpeg` shows no photograph of its class." in exceptions
    assert "`TEST/MONOCYTE/stray.jpeg` shows BloodImage_" in exceptions
    assert "of TRAIN's side" in exceptions
    assert "twin.jpeg` both show BloodImage_" in exceptions
    assert found["shown"]["test"]["matched"] == found["shown"]["test"]["files"] - 1


def test_the_command_prints_its_findings_and_writes_a_card(raw, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert main(["dataset", "build", "bccd", "--source", str(raw), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "test: 16 of 16 files show 8 photographs" in printed
    # Number 0 is on TRAIN's side, number 32 on TEST's.
    assert "1 pairs of photographs overlap, 1 of them between train and test: 2 test files" in printed
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "| BloodImage_00000, BloodImage_00032 | eosinophil, eosinophil |" in card
    assert "| test | 16 | 16 | 8 |" in card
    assert "{{" not in card
    assert "{%" not in card
    assert "None" not in card.replace("None where", "")
    assert min(Image.open(output / "worst_matches.jpg").size) > 300
    assert load(output)["test"].features == BCCD.columns


def test_a_sheet_draws_each_file_beside_its_photograph_as_the_file_shows_it(drawn):
    names = list(drawn)[1:6]
    index = PhotographIndex({name: grey(encode(drawn[name])) for name in names})
    files = [augmented(drawn[name], seed) for seed, name in enumerate(names)]
    matches = [index.find(grey(file)) for file in files]
    sheet = contact_sheet(
        [("x", file, encode(drawn[name]), match) for file, name, match in zip(files, names, matches, strict=True)]
    )
    for number in range(5):
        x, y = 466 * (number % 4), 194 * (number // 4)
        boxes = ((x + 6, y + 20, x + 230, y + 188), (x + 236, y + 20, x + 460, y + 188))
        left, right = (np.asarray(sheet.crop(box).convert("L"), float) for box in boxes)
        assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.97
        caption = np.asarray(sheet.crop((x + 6, y + 6, x + 460, y + 20)).convert("L"))
        assert caption.min() < 128
