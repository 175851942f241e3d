"""`python -m hub detection`: the detector's figures, on drawn photographs whose annotations are known."""

import json
import math

import pytest
import torch
from PIL import Image

from hub.__main__ import main
from hub.data.synthetic import draw_field
from hub.evaluation.intervals import wilson_interval
from hub.study.annotations import Finding
from hub.study.detection import distance_from_middle, named_right, recall_and_precision
from modeling_wbc import Cell, Field, WBCConfig, WBCForImageClassification, WBCImageProcessor
from tests.study.voc import annotation


def test_recall_and_precision_are_over_all_boxes():
    def finding(found, annotated, overlapping, centred):
        return Finding("x", torch.zeros(found, 4), torch.zeros(annotated, 4), overlapping, centred)

    findings = [finding(1, 1, 1, 1), finding(2, 1, 0, 1), finding(0, 2, 0, 0), finding(1, 0, 0, 0)]
    assert [each.complete for each in findings] == [True, False, False, False]
    figures = recall_and_precision(findings)
    assert figures["complete"] == 1
    assert (figures["photographs"], figures["annotated"], figures["found"]) == (4, 4, 4)
    assert figures["overlapping"]["recall"][0] == figures["overlapping"]["precision"][0] == 1 / 4
    assert figures["centred"]["recall"][0] == 2 / 4
    # Wilson's interval, by its formula.
    p, n, z = 0.9, 50, 1.959964
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    assert wilson_interval(45, 50) == pytest.approx([0.9, low, high], abs=1e-6)


def test_distance_from_the_middle_is_in_sides_of_the_image():
    boxes = torch.tensor([[90.0, 40, 110, 60], [0, 0, 10, 10]])
    assert distance_from_middle(boxes, (200, 100)) == 0
    assert distance_from_middle(boxes[1:], (200, 100)) == pytest.approx(math.hypot(0.475, 0.45))
    assert distance_from_middle(boxes[:0], (200, 100)) == math.inf


@pytest.mark.parametrize(
    "labels, read, right",
    [
        (["a", "b"], ["b", "a"], 2),
        (["a", "a"], ["a", "b"], 1),
        (["a", "a"], ["a"], 1),
        (["a", "b"], ["b", "b", "b"], 1),
        (["a", "b"], [], 0),
    ],
)
def test_named_right_counts_each_cell_once(labels, read, right):
    box = (0, 0, 1, 1)
    cells = [Cell(box, box, 0.5, label, {label: 1.0}, 0.0, 0.0, True, [[0.0]]) for label in read]
    field = Field(cells, ("a", "b"))
    assert named_right(field, labels) == right


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Ten drawn photographs of one cell and two of two, annotated as found, but for two of them; and PBC's folders."""
    root = tmp_path_factory.mktemp("raw")
    bccd, pbc = root / "bccd", root / "pbc"
    for folder in ("Original_Images", "Annotations"):
        (bccd / folder).mkdir(parents=True)
    rows = [",Image,Category"]
    for k in range(12):
        two = k >= 10
        image = Image.new("RGB", (640 if two else 320, 240))
        labels = ["LYMPHOCYTE", "MONOCYTE"] if two else [("NEUTROPHIL", "LYMPHOCYTE")[k % 2]]
        for number, label in enumerate(labels):
            image.paste(draw_field(label.lower(), k), (320 * number, 0))
        image.save(bccd / "Original_Images" / f"BloodImage_{k:05d}.jpg", quality=95)
        with Image.open(bccd / "Original_Images" / f"BloodImage_{k:05d}.jpg") as saved:
            boxes = WBCImageProcessor().find_cells(saved)[0].round().int().tolist()
        assert len(boxes) == len(labels)
        if k == 0:
            boxes.append([1, 1, 60, 60])  # a cell that is not there
        if k == 1:
            boxes = []  # a cell that was overlooked
        (bccd / "Annotations" / f"BloodImage_{k:05d}.xml").write_text(annotation(boxes))
        text = ", ".join(labels)
        rows.append(f'{k},{k},"{text}"' if two else f"{k},{k},{text}")
    (bccd / "labels.csv").write_text("\n".join(rows) + "\n")
    for name in ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet"):
        (pbc / name).mkdir(parents=True)
    image = draw_field("lymphocyte", 1)
    (left, top, right, bottom), *_ = WBCImageProcessor().find_cells(image)[0].tolist()
    x, y = int(left + right) // 2, int(top + bottom) // 2
    image.crop((x - 60, y - 60, x + 60, y + 60)).save(pbc / "lymphocyte" / "middle.png")
    image.crop((x - 30, y - 30, x + 90, y + 90)).save(pbc / "lymphocyte" / "corner.png")
    (pbc / "monocyte" / "broken.png").write_bytes(b"no image")
    return bccd, pbc


def test_reports_what_was_found(raw, tmp_path, capsys):
    bccd, pbc = raw
    torch.manual_seed(0)
    model = WBCForImageClassification(WBCConfig(embedding_size=8, hidden_sizes=[8], depths=[1], image_size=32))
    model.save_pretrained(tmp_path / "model")
    output = tmp_path / "out"
    arguments = ["--bccd", str(bccd), "--pbc", str(pbc), "--model", str(tmp_path / "model"), "--output", str(output)]
    assert main(["detection", *arguments]) == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    everything = results["all"]
    assert (everything["photographs"], everything["annotated"], everything["found"]) == (12, 14, 14)
    for kind in ("overlapping", "centred"):
        assert everything[kind]["matched"] == 13
        assert everything[kind]["recall"][0] == everything[kind]["precision"][0] == 13 / 14
    assert results["test"]["photographs"] == 2
    # Halves of the eight others of one cell that it does not reach into, without a platelet in this drawing or with.
    assert 0 < results["empty_halves"]["halves"] <= 8
    assert "92.9 (68.5 to 98.7)" in printed
    assert "the 2 photographs where something else is annotated" in printed
    assert (results["pbc"]["images"], results["pbc"]["unreadable"], results["pbc"]["near"][0]) == (2, 1, 0.5)
    assert results["pbc"]["classes"]["lymphocyte"] == {"images": 2, "near": 1}
    two = results["two_cells"]
    assert (two["photographs"], two["two_found"], two["cells"]) == (2, 2, 4)
    assert 0 <= two["named_right"] <= 4
    assert {path.name for path in (output / "two_cells").iterdir()} == {
        "BloodImage_00010.png",
        "BloodImage_00011.png",
    }
    # The sheets show the two photographs and the one image.
    assert Image.open(output / "misses.png").width > 640
    assert Image.open(output / "pbc_misses.png").width > 160
    assert main(["detection", *arguments]) == 1  # the folder is not overwritten
    assert "exists and is not empty" in capsys.readouterr().err


def test_says_what_is_missing(raw, tmp_path, capsys):
    bccd, _ = raw
    assert main(["detection", "--bccd", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert "no photograph in" in capsys.readouterr().err
    (tmp_path / "pbc").mkdir()
    arguments = ["--bccd", str(bccd), "--pbc", str(tmp_path / "pbc"), "--output", str(tmp_path / "out")]
    assert main(["detection", *arguments]) == 1
    assert "named as one of PBC's classes" in capsys.readouterr().err
