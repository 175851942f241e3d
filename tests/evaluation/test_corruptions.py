"""Images as worse cameras and lamps give them, and a classifier's figures on them."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from hub.data.synthetic import draw_field
from hub.evaluation import corruptions as module
from hub.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt, measure_corruptions
from hub.evaluation.format import corruptions_table, robustness_table
from modeling_wbc import Cell, Field


@pytest.fixture(scope="module")
def image():
    return draw_field("neutrophil", 3)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_is_always_the_same(name, image):
    pixels = np.asarray(image, dtype=float)
    distances = []
    for severity in SEVERITIES:
        corrupted = corrupt(image, name, severity, crop_side=90, seed=5)
        assert corrupted.mode == "RGB"
        assert corrupted.tobytes() == corrupt(image, name, severity, crop_side=90, seed=5).tobytes()
        shown = np.asarray(corrupted.resize(image.size, Image.Resampling.BILINEAR), dtype=float)
        distances.append(np.sqrt(((shown - pixels) ** 2).mean()))
    assert distances == sorted(distances)
    assert len(set(distances)) == len(SEVERITIES)
    assert distances[0] > 1


@pytest.mark.parametrize("name", ["colour cast", "noise"])
def test_what_is_drawn_depends_on_the_seed(name, image):
    first, second = (corrupt(image, name, 2, crop_side=90, seed=seed).tobytes() for seed in (1, 2))
    assert first != second


def test_blur_and_resolution_are_the_same_for_a_cell_at_any_scale(image):
    large = image.resize([2 * side for side in image.size], Image.Resampling.BICUBIC)
    for name in ("blur", "resolution"):
        small, other = corrupt(image, name, 3, 90), corrupt(large, name, 3, 180)
        other = other.resize(small.size, Image.Resampling.BOX)
        difference = np.abs(np.asarray(small, dtype=float) - np.asarray(other, dtype=float)).mean()
        assert difference < 2, name
    assert max(corrupt(large, "resolution", 1, crop_side=20).size) == max(large.size)  # no pixel is made up


def test_a_colour_cast_and_dim_light_cut_nothing_off(image):
    """What dividing by the background undoes, up to rounding."""
    pixels = np.asarray(image, dtype=float)
    for name in ("light", "colour cast"):
        corrupted = np.asarray(corrupt(image, name, 4, 90), dtype=float)
        gains = (corrupted * pixels).sum((0, 1)) / (pixels**2).sum((0, 1))
        assert np.abs(corrupted - gains * pixels).max() < 0.6
        assert (gains <= 1.001).all()


class Reader:
    """Answers by the grey level of an image: above 150 type 0, above 60 type 2, known above 100; else no cell.

    Type 1, which no lab has, is always the likeliest of all.
    """

    config = SimpleNamespace(num_labels=3)

    def analyze(self, images):
        return [self.field(image) for image in images] if isinstance(images, list) else self.field(images)

    def field(self, image):
        level = np.asarray(image).mean()
        names = ("a", "b", "c")
        if level <= 60:
            return Field([], names)
        probabilities = (0.3, 0.6, 0.1) if level > 150 else (0.1, 0.6, 0.3)
        named = dict(zip(names, probabilities, strict=True))
        return Field([Cell((0, 0, 9, 9), (0, 0, 30, 30), 1.0, "b", named, 1.0, 1.0, level > 100, [[0.0]])], names)


def test_the_figures_of_a_lab_by_hand(monkeypatch):
    sources = [Image.new("RGB", (60, 60), (level,) * 3) for level in (200, 160, 120)]
    found = measure_corruptions(Reader(), sources, np.array([0, 2, 2]), groups=["x", "y", None])
    assert found["images"] == 3
    clean = found["clean"]
    assert (clean["accuracy"], clean["known"]) == (2 / 3, 1)
    assert "changed" not in clean
    # Light of 0.8, 0.65, 0.5 and 0.35: levels 160, 128, 96; 130, 104, 78; 100, 80, 60; 70, 56, 42.
    light = found["corrupted"]["light"]
    assert [figures["accuracy"] for figures in light] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert [figures["known"] for figures in light] == pytest.approx([2 / 3, 2 / 3, 0, 0])
    assert [figures["changed"] for figures in light] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert found["corrupted"].keys() == CORRUPTIONS.keys()
    for figures in found["corrupted"]["blur"]:  # of one colour
        assert (figures["accuracy"], figures["changed"]) == (2 / 3, 0)
        for name, (low, high) in figures["intervals"].items():
            assert low <= figures[name] <= high
    monkeypatch.setattr(module, "MOST_IMAGES", 2)
    assert measure_corruptions(Reader(), sources, np.array([0, 2, 2]))["images"] == 2


def test_the_table_has_a_row_for_each_corruption():
    figures = {"accuracy": 0.75, "known": 0.5, "changed": 0.125}
    rows = corruptions_table(
        {"here": {"clean": figures, "corrupted": {"light": [figures] * 4, "blur": [figures] * 4}}}
    )
    assert {len(row) for row in rows} == {7}
    assert rows[1] == ["here", "light", "75.0 / 50.0", *["75.0 / 50.0 / 12.5"] * 4]
    assert [row[1] for row in rows[1:]] == ["light", "blur"]


def test_the_summary_averages_over_labs_of_any_size():
    clean, dark = {"accuracy": 0.9, "known": 1.0}, {"accuracy": 0.7, "known": 0.5, "changed": 0.25}
    labs = {
        "large": {"images": 300, "clean": clean, "corrupted": {"light": [dark] * 4}},
        "small": {"images": 3, "clean": dark, "corrupted": {"light": [dark | {"known": 1.0}] * 4}},
    }
    head, row = robustness_table(labs)
    assert len(head) == len(row) == 5
    assert row == ["light", *["-10.0 / 75.0 / 25.0"] * 4]
