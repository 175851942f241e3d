"""The drawn cells: repeatable, balanced, disjoint, whole, and different between classes."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hub.data.bccd import BCCD_CLASSES
from hub.data.columns import features
from hub.data.synthetic import draw_field, drawn_cells


@pytest.fixture(scope="module")
def cells():
    return drawn_cells(seed=3, train=10, test=6)


def violet_mask(field):
    """Where a field is clearly bluer than green, (height, width) bool: nuclei, and little else."""
    red, green, blue = np.moveaxis(np.asarray(field, dtype=int), 2, 0)
    return (blue - green > 50) & (blue > red)


@pytest.mark.parametrize("label", BCCD_CLASSES)
def test_a_field_is_repeatable_and_depends_on_the_seed(label):
    first = np.asarray(draw_field(label, 5))
    assert first.shape == (240, 320, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw_field(label, 5))
    assert np.abs(first.astype(int) - np.asarray(draw_field(label, 6))).mean() > 5


@pytest.mark.parametrize("size", [(64, 64), (320, 240), (200, 360)])
def test_a_field_has_the_size_asked_for(size):
    assert draw_field("monocyte", 0, size).size == size


@pytest.mark.parametrize("label", BCCD_CLASSES)
def test_the_nucleus_lies_wholly_inside(label):
    for seed in range(8):
        parts, _ = ndimage.label(violet_mask(draw_field(label, seed)))
        # Less than 200 pixels may be a platelet.
        large = [where for index, where in enumerate(ndimage.find_objects(parts), 1) if (parts == index).sum() > 200]
        assert large
        for rows, columns in large:
            assert rows.start > 4
            assert rows.stop < 236
            assert columns.start > 4
            assert columns.stop < 316


def test_classes_differ_as_the_cells_do():
    def mean(measure, label):
        return np.mean([measure(np.asarray(draw_field(label, seed), dtype=int)) for seed in range(8)])

    def orange(field):  # eosinophilic granules
        return ((field[..., 0] - field[..., 1] > 90) & (field[..., 0] > 190)).sum()

    def nucleus(field):
        return violet_mask(field).sum()

    assert mean(orange, "eosinophil") > 10 * max(mean(orange, label) for label in BCCD_CLASSES[1:]) + 500
    assert mean(nucleus, "monocyte") > 1.2 * mean(nucleus, "lymphocyte")
    assert mean(nucleus, "neutrophil") < 0.9 * mean(nucleus, "lymphocyte")


def test_unknown_label_and_negative_seed_are_refused():
    with pytest.raises(ValueError, match=r"basophil.*eosinophil, lymphocyte, monocyte, neutrophil"):
        draw_field("basophil", 0)
    with pytest.raises(ValueError):
        draw_field("monocyte", -1)


def test_the_data_set_has_the_form_of_bccd(cells):
    assert {split: part.num_rows for split, part in cells.items()} == {"train": 10, "test": 6}
    for part in cells.values():
        assert part.features == features(BCCD_CLASSES)
        counts = np.bincount(part["label"], minlength=4)
        assert counts.max() - counts.min() <= 1
    row = cells["train"][2]
    assert row["image"].size == (320, 240)
    assert row["image"].format == "JPEG"
    assert row["file_name"] == f"train/{BCCD_CLASSES[row['label']]}/00002.jpeg"


def test_the_data_set_is_repeatable_disjoint_and_of_its_seed(cells):
    def encoded(dataset):
        columns = dataset.with_format("arrow")
        return [image["bytes"].as_py() for part in columns.values() for image in part["image"]]

    again = encoded(cells)
    assert encoded(drawn_cells(seed=3, train=10, test=6)) == again
    assert len(set(again)) == 16
    assert not set(encoded(drawn_cells(seed=4, train=10, test=6))) & set(again)


def test_a_field_does_not_depend_on_the_sizes(cells):
    larger = drawn_cells(seed=3, train=12, test=2)
    np.testing.assert_array_equal(larger["train"][9]["image"], cells["train"][9]["image"])
    np.testing.assert_array_equal(larger["test"][1]["image"], cells["test"][1]["image"])


def test_a_row_shows_the_drawing_of_its_label(cells):
    row = cells["test"][3]
    content = io.BytesIO()
    draw_field(BCCD_CLASSES[row["label"]], (3 << 32) + 7).save(content, "JPEG", quality=92)
    np.testing.assert_array_equal(row["image"], Image.open(content))
