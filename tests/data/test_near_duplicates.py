"""Images of one cell: found across shifts, mirrors and brightness, and kept on one side of splits."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from hub.data import near_duplicates
from hub.data.near_duplicates import Pair, clusters, find_near_duplicates, keep_together, near_duplicate_report
from hub.data.synthetic import draw_field
from tests.raw_folders import encode


@pytest.fixture(scope="module")
def images():
    """Eight cells of one type, and other photographs of the first four: shifted, mirrored, brighter, and smaller."""
    fields = [draw_field("neutrophil", seed=number, size=(400, 400)) for number in range(8)]
    cells = {f"cell {number}": field.crop((50, 50, 350, 350)) for number, field in enumerate(fields)}
    cells["shifted"] = fields[0].crop((68, 29, 368, 329))
    cells["mirrored"] = ImageOps.mirror(cells["cell 1"])
    cells["brighter"] = cells["cell 2"].point(lambda value: min(255, int(1.2 * value)))
    cells["smaller"] = cells["cell 3"].resize((120, 120), Image.Resampling.BOX)
    return {name: encode(image) for name, image in cells.items()}


def test_photographs_of_one_cell_are_found_and_no_others(images, tmp_path):
    pairs = find_near_duplicates(images, tmp_path)
    assert [(pair.first, pair.second, pair.mirrored) for pair in pairs] == [
        ("cell 0", "shifted", False),
        ("cell 1", "mirrored", True),
        ("cell 2", "brighter", False),
        ("cell 3", "smaller", False),
    ]
    assert min(pair.correlation for pair in pairs) > 0.8


def test_what_was_found_is_kept_for_the_same_images_only(images, tmp_path, monkeypatch):
    pairs = find_near_duplicates(images, tmp_path)
    calls = []
    candidates = near_duplicates._candidates
    monkeypatch.setattr(near_duplicates, "_candidates", lambda *args: calls.append(1) or candidates(*args))
    assert find_near_duplicates(images, tmp_path) == pairs
    assert not calls
    fewer = {name: images[name] for name in ("cell 0", "shifted")}
    assert len(find_near_duplicates(fewer, tmp_path)) == 1
    assert calls
    for path in tmp_path.iterdir():
        path.write_text("{", encoding="utf-8")
    assert find_near_duplicates(images, tmp_path) == pairs


def test_one_image_or_none_has_no_duplicate(images, tmp_path):
    assert find_near_duplicates({}, tmp_path) == []
    assert find_near_duplicates({"cell 0": images["cell 0"]}, tmp_path) == []


def test_a_cell_goes_where_the_most_protected_of_its_images_is():
    names = {"train": "abcf", "validation": "dg", "test": "e", "test_photographs": "h"}
    splits = {split: [{"file_name": name} for name in part] for split, part in names.items()}
    pairs = [Pair(*pair, 0.9, False) for pair in ("ad", "de", "cg", "fh")]
    assert sorted(map(sorted, clusters(pairs))) == [["a", "d", "e"], ["c", "g"], ["f", "h"]]
    moved = keep_together(splits, pairs)
    kept = {split: "".join(row["file_name"] for row in rows) for split, rows in splits.items()}
    assert kept == {"train": "bf", "validation": "gc", "test": "ead", "test_photographs": "h"}
    assert moved == [
        {"file_name": "a", "before": "train", "after": "test"},
        {"file_name": "c", "before": "train", "after": "validation"},
        {"file_name": "d", "before": "validation", "after": "test"},
    ]
    assert keep_together(splits, pairs) == []


def test_the_report_counts_cells_and_names_conflicts():
    labs, labels = dict(zip("abcd", "xxxy", strict=True)), dict(zip("abcd", "mmnn", strict=True))
    rows = {name: {"lab": labs[name], "label": labels[name]} for name in "abcd"}
    pairs = [Pair("a", "b", 1.0, False), Pair("b", "c", 0.9, True), Pair("c", "d", 0.8, False)]
    assert near_duplicate_report(rows, pairs, []) == {
        "images": {"x": 3, "y": 1},
        "distinct": {"x": 1, "y": 0},
        "pairs": {"x": 2, "y": 0},
        "across": 1,
        "mirrored": 1,
        "moved": [],
        "conflicts": [{"names": ["b", "c"], "labels": ["m", "n"]}],
    }


def test_images_without_structure_are_no_duplicates(tmp_path):
    flat = {str(shade): encode(Image.fromarray(np.full((80, 80), shade, np.uint8))) for shade in (0, 128, 255)}
    assert find_near_duplicates(flat, tmp_path) == []
