"""Answers to smears and to other images."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from hub.study.ood import sample_images
from space.bench import page_field
from space.pictures import data_url

BCCD, PBC = (Path(os.environ[name]) if name in os.environ else None for name in ("WBC_BCCD_DIR", "WBC_PBC_DIR"))


def test_refuses_images_that_are_no_smears(classifier):
    """A cat, a histology slide, a page of text and other photographs, with a blank and a written page."""
    names = {path.stem: path for path in sample_images()}
    page = Image.new("RGB", (800, 600), "white")
    pen = ImageDraw.Draw(page)
    for row in range(30):
        pen.text((20, 20 * row), "Leukocytes are cells of the immune system " * 3, "black")
    others = [(stem, str(path)) for stem, path in names.items()]
    others += [("blank", Image.new("RGB", (640, 480), "white")), ("written", page)]
    assert {"chelsea", "ihc", "page"} <= names.keys()
    answers = [answer for answer, _ in classifier.answers(others, 64)]
    passed = [answer["file"] for answer in answers if answer["status"] not in ("unknown", "empty")]
    assert len(answers) > 20
    assert len(passed) <= 0.01 * len(answers)


def test_an_image_of_several_pages_is_answered_by_the_first_and_says_so(classifier, known, tmp_path):
    path, single = known
    with Image.open(path) as image:
        image.save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("RGB", image.size)] * 3)
        blank = Image.new("RGB", image.size, "white")
        blank.save(tmp_path / "blank.tif", save_all=True, append_images=[image])
    names = ("pages.tif", "blank.tif")
    (pages, _), (empty, _) = classifier.answers([(name, str(tmp_path / name)) for name in names], 64)
    assert pages["cells"] == single["cells"]
    assert (single["pages"], pages["pages"], empty["pages"]) == (1, 4, 2)
    assert "page" not in single["remark"]
    assert page_field(pages, Image.open(path), tmp_path / "pages.tif", data_url)["pages"] == 4
    assert pages["remark"].endswith("page 1 of 4")
    assert empty["remark"] == "no white cell found; page 1 of 2"


@pytest.mark.skipif(BCCD is None or PBC is None, reason="WBC_BCCD_DIR and WBC_PBC_DIR name no folders of real images")
def test_knows_real_smears(classifier):
    paths = sorted((BCCD / "images" / "TEST_SIMPLE").rglob("*.jpeg"))
    for folder in sorted(PBC.iterdir()):
        paths += sorted(folder.iterdir())[:20]
    answers = [answer for answer, _ in classifier.answers([(path.name, str(path)) for path in paths], 64)]
    known = np.array([answer["status"] in ("sure", "doubtful") for answer in answers])
    assert len(known) == 71 + 8 * 20
    assert known.mean() >= 0.98


def test_adapting_gets_every_cell_with_what_somebody_called_it(classifier, folder, monkeypatch):
    seen = []

    def adapt(crops, labels):
        seen.append((crops, labels))
        return "adapted"

    monkeypatch.setattr(classifier.model, "adapt", adapt, raising=False)
    sources = [str(folder / "six.png"), ValueError("no image"), str(folder / "monocyte-0.png")]
    (six, _), (_, _), (one, _) = classifier.answers([("", source) for source in sources], 64)
    corrections = [None, "monocyte", *[None] * 4, "basophil"]
    assert len(six["cells"]) + len(one["cells"]) == len(corrections)
    adapted = classifier.adapted(iter(sources), corrections)
    assert (adapted.model, adapted.labels) == ("adapted", classifier.labels)
    assert classifier.model != "adapted"
    ((crops, labels),) = seen
    assert labels == corrections
    expected = classifier.image_processor.preprocess_cells(Image.open(sources[0]))["pixel_values"]
    assert torch.equal(crops[:6], expected)
    with pytest.raises(ValueError, match="8 cells were answered, but the images have 7"):
        classifier.adapted(iter(sources), [*corrections, None])
