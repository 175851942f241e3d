"""Chula: its cells, boxes, slides and fields.

WBC_CHULA_DIR, the folder of the published images, switches on the tests at the end.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hub.data.chula import CHULA, CHULA_CLASSES, FIELD_SIZE, box_in_window, read_boxes, slide_number
from hub.files import UserError
from tests.raw_folders import CHULA_SLIDES, make_chula


@pytest.fixture
def chula(tmp_path):
    make_chula(tmp_path / "chula")
    return tmp_path / "chula"


def test_chula_is_split_by_slide_with_every_class_on_both_sides(chula):
    for seed in (0, 1):
        dataset = CHULA.build(chula, seed)
        sides = [set(dataset[split]["group"][:]) for split in ("train", "validation")]
        assert not sides[0] & sides[1]
        for part in dataset.values():
            assert set(part["label"][:]) == set(range(5))
            assert set(part["lab"][:]) == {"chula"}
        assert sum(part.num_rows for part in dataset.values()) == sum(count for *_, count in CHULA_SLIDES)
    again = CHULA.build(chula, 0)["train"]["file_name"][:]
    assert CHULA.build(chula, 0)["train"]["file_name"][:] == again


def test_slides_of_one_number_are_one_group():
    assert {slide_number(name) for name in ("M-8", "HF-M-8", "L-8", "E-8")} == {"8"}
    assert slide_number("M-5Bb") == "5Bb" != slide_number("M-5B")


def test_boxes_lie_on_the_cells_of_windows(tmp_path):
    full_boxes = make_chula(tmp_path)
    for part in CHULA.build(tmp_path).values():
        for row in part:
            left, top, right, bottom = full_boxes[row["file_name"]]
            # The place of a window in its field, found by the pixels that it shares with the field.
            field = tmp_path / "fields" / f"{Path(row['file_name']).stem.rpartition('_')[0]}.jpg"
            enlarged = np.asarray(Image.open(field).convert("L").resize(FIELD_SIZE), float)
            x, y = left - row["box"][0], top - row["box"][1]
            there = enlarged[round(y) : round(y) + 300, round(x) : round(x) + 300]
            window = np.asarray(row["image"].convert("L"), float)
            assert np.corrcoef(there.ravel(), window.ravel())[0, 1] > 0.9
            assert row["box"] == pytest.approx([left - x, top - y, right - x, bottom - y], abs=0.3)


def test_a_box_at_the_edge_of_a_field_stays_in_its_window():
    assert box_in_window([0, 0, 90, 60], 300) == [0, 0, 90, 60]
    assert box_in_window([1400, 850, 1440, 900], 300) == [260, 250, 300, 300]
    assert box_in_window([1400, 850, 1450, 910], 300) == [260, 250, 300, 300]


def test_fields_have_all_boxes_and_unlabelled_ones_are_apart(chula):
    fields = CHULA.read(chula).fields
    dataset = CHULA.build(chula)
    assert fields["unlabelled"]["file_name"][:] == ["fields/M-8_0099.jpg"]
    assert fields["unlabelled"][0]["objects"] == {"bbox": [], "category": []}
    for split, part in dataset.items():
        assert set(fields[split]["group"][:]) == set(part["group"][:])
        assert sum(len(row["objects"]["category"]) for row in fields[split]) == part.num_rows
    (row,) = (row for split in dataset for row in fields[split] if row["file_name"] == "fields/B-1_0000.jpg")
    assert row["objects"]["bbox"][0] == pytest.approx([200.4, 120, 60, 50.4], abs=1e-3)
    assert row["objects"]["category"] == [CHULA_CLASSES.index("basophil")] * 2
    assert row["image"].size == (640, 400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "boxes.csv").unlink(), "holds no boxes.csv"),
        (lambda folder: (folder / "boxes.csv").write_text("field\n1\n"), "has no column slide"),
        (lambda folder: replace(folder, "basophil,", "banana,"), "names the class banana"),
        (lambda folder: replace(folder, "B-1_0000.jpg,", "B-1_0001.jpg,"), "holds no readable B-1_0001.jpg"),
        (lambda folder: replace(folder, "120.0", "high"), "holds an edge of a box that is no number"),
        (lambda folder: (folder / "unlabelled_fields.txt").write_text(""), "in neither boxes.csv nor unlabelled"),
        (lambda folder: (folder / "cells" / "basophil" / "extra.jpg").write_bytes(b""), None),
        (lambda folder: (folder / "cells" / "platelet").mkdir(), "unknown class folder .*platelet"),
        (lambda folder: [path.unlink() for path in (folder / "cells" / "monocyte").iterdir()], "monocyte is empty"),
    ],
)
def test_chula_errors_name_the_file(chula, change, message, caplog):
    change(chula)
    if message is None:  # An image that does not decode is left out.
        CHULA.build(chula)
        assert "extra.jpg" in caplog.text
    else:
        with pytest.raises(UserError, match=message):
            CHULA.build(chula)


def replace(folder, old, new):
    path = folder / "boxes.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def test_a_missing_folder_of_chula_is_named(tmp_path):
    with pytest.raises(UserError, match=f"no such folder: {tmp_path / 'nowhere'}"):
        CHULA.build(tmp_path / "nowhere")


# --- Published images ---


@pytest.mark.skipif("WBC_CHULA_DIR" not in os.environ, reason="WBC_CHULA_DIR is not set")
def test_published_chula_has_the_published_boxes_around_its_cells():
    source = Path(os.environ["WBC_CHULA_DIR"])
    boxes = read_boxes(source)
    assert boxes["label"].value_counts()[list(CHULA_CLASSES)].tolist() == [100, 100, 110, 88, 112]
    assert boxes["field"].nunique() == 488
    for row in boxes.sample(5, random_state=0).itertuples():
        window = Image.open(source / row.cell).convert("L")
        box = [edge * 2.25 for edge in (row.left, row.top, row.right, row.bottom)]
        placed = box_in_window(box, window.width)
        field = Image.open(source / "fields" / row.field).convert("L").resize(FIELD_SIZE)
        x, y = round(box[0] - placed[0]), round(box[1] - placed[1])
        there = np.asarray(field.crop((x, y, x + window.width, y + window.height)), float)
        assert np.corrcoef(there.ravel(), np.asarray(window, float).ravel())[0, 1] > 0.9
