"""The audit of BCCD's labels."""

import csv

import numpy as np
import pytest
from PIL import Image

from hub.__main__ import main
from hub.data import photographs as photographs_module
from hub.data.bccd import find_photographs
from hub.data.photographs import register
from hub.data.synthetic import draw_field


def voc_object(name, *box):
    sides = "".join(f"<{side}>{at}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox></object>"


def test_a_wrong_label_is_found(tmp_path, capsys, monkeypatch):
    """Of 40 drawn cells, the two whose labels were swapped are what cross-validation is surest to be wrong."""
    (tmp_path / "Original_Images").mkdir()
    (tmp_path / "Annotations").mkdir()
    rows = []
    for number in range(40):
        label = ("eosinophil", "lymphocyte")[number % 2]
        image = draw_field(label, seed=number, size=(640, 480))
        image.save(tmp_path / "Original_Images" / f"BloodImage_{number:05d}.jpg")
        # The white cell lets the least green through.
        dark = np.asarray(image.convert("RGB").resize((80, 60), Image.Resampling.BOX)).astype(int)[:, :, 1]
        row, column = np.unravel_index(dark.argmin(), dark.shape)
        (tmp_path / "Annotations" / f"BloodImage_{number:05d}.xml").write_text(
            f"<annotation>{voc_object('RBC', 0, 0, 639, 479)}"
            f"{voc_object('WBC', 8 * column - 80, 8 * row - 80, 8 * column + 80, 8 * row + 80)}</annotation>"
        )
        rows.append((number, label.upper()))
    rows[6:8] = (6, "LYMPHOCYTE"), (7, "EOSINOPHIL")
    draw_field("neutrophil", seed=40, size=(640, 480)).save(tmp_path / "Original_Images" / "BloodImage_00040.jpg")
    rows.append((40, "BASOPHIL"))  # no class folder has it, so it is not judged
    lines = [",Image,Category", *(f",{number},{label}" for number, label in rows)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert main(["dataset", "review", "--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "judgements.csv", newline="", encoding="utf-8") as file:
        judgements = list(csv.DictReader(file))
    assert len(judgements) == 40
    assert {row["photograph"] for row in judgements[:2]} == {"BloodImage_00006", "BloodImage_00007"}
    assert all(row["label"] != row["predicted"] and float(row["confidence"]) > 0.5 for row in judgements[:2])
    assert min(Image.open(tmp_path / "out" / "wrong.png").size) > 150
    # The table beside the source is the one that a build makes and needs.
    photographs, labels = find_photographs(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(photographs_module, "find_overlaps", lambda *arguments: pytest.fail("looked up again"))
        contents = {name: row["image"]["bytes"] for name, row in photographs.items()}
        register({}, contents, labels, tmp_path / "photographs.json")
    assert main(["dataset", "review", "--source", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    (tmp_path / "Annotations" / "BloodImage_00003.xml").write_text("<annotation>")
    assert main(["dataset", "review", "--source", str(tmp_path), "--output", str(tmp_path / "again")]) == 1
    assert "BloodImage_00003.xml is no Pascal VOC annotation" in capsys.readouterr().err
