"""Correction of the illumination: the background found, divided out, and what must not change it."""

import numpy as np
import pytest
import torch

from hub.data.synthetic import draw_field
from modeling_wbc import WBCImageProcessor
from modeling_wbc.illumination_wbc import BACKGROUND, correct_illumination, estimate_background


@pytest.fixture(scope="module")
def field():
    return np.array(draw_field("neutrophil", 5)).transpose(2, 0, 1)


def lit(image, light):
    """An image (3, H, W) under other light, which may differ from place to place and channel to channel."""
    return torch.from_numpy(np.clip(image * light, 0, 255).round().astype(np.uint8))


def places(image):
    return np.meshgrid(*(np.linspace(-1, 1, side) for side in image.shape[1:]), indexing="ij")


def lights(image):
    y, x = places(image)
    vignette = 1 - 0.25 * (x**2 + y**2)
    return {
        "dim": np.full((3, 1, 1), 0.5),
        "bright": np.full((3, 1, 1), 1.1),
        "yellow": np.array([1, 0.95, 0.7])[:, None, None],
        "green": np.array([0.75, 1, 0.8])[:, None, None],
        "gradient": (0.775 + 0.225 * x)[None],
        "vignette": vignette[None],
    }


@pytest.mark.parametrize("name", ["dim", "bright", "yellow", "green", "gradient", "vignette"])
def test_other_light_gives_the_same_image(field, name):
    plain = correct_illumination(torch.from_numpy(field)).float()
    other = correct_illumination(lit(field, lights(field)[name])).float()
    # A few units of 255, from rounding of dim light and from a surface that is not quite the light's.
    assert (plain - other).abs().mean() < 2
    assert (plain - other).abs().flatten().kthvalue(int(0.99 * plain.numel())).values < 8


def test_an_empty_glass_becomes_even_and_keeps_its_shape():
    y, x = np.meshgrid(np.linspace(-1, 1, 90), np.linspace(-1, 1, 140), indexing="ij")
    empty = np.stack([share * (180 - 40 * x + 20 * y - 25 * x**2) for share in (1, 0.9, 0.7)])
    corrected = correct_illumination(lit(empty, 1))
    assert corrected.shape == (3, 90, 140)
    assert corrected.dtype == torch.uint8
    # The light falls to three fifths from corner to corner.
    assert (corrected.float() - BACKGROUND).abs().max() < 12
    assert (corrected.float() - BACKGROUND).abs().mean() < 2


def test_cells_and_black_borders_are_no_background(field):
    background = estimate_background(field).mean((1, 2))
    crowded = field.copy()
    crowded[:, 60:150, 100:240] = np.array([120, 60, 150])[:, None, None]  # a huge nucleus
    crowded[:, :, :40] = 0  # outside of the field
    np.testing.assert_allclose(estimate_background(crowded).mean((1, 2)), background, rtol=0.03)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 300), (3, 7, 5), (3, 1000, 30)])
@pytest.mark.parametrize("value", [0, 3, 128, 255])
def test_images_of_any_size_and_one_colour_stay_finite(shape, value):
    image = torch.full(shape, value, dtype=torch.uint8)
    corrected = correct_illumination(image)
    assert corrected.shape == shape
    if value >= 24:  # light; what is darker is no background
        assert (corrected.float() - BACKGROUND).abs().max() <= 1
    else:
        assert corrected.max() <= 40


def test_the_processor_finds_and_shows_the_same_cell_in_other_light(field):
    processor = WBCImageProcessor(size=64, do_correct_illumination=True)
    without = WBCImageProcessor(size=64)
    light = lights(field)["gradient"] * np.array([1, 0.8, 0.75])[:, None, None]
    plain, other = torch.from_numpy(field), lit(field, light)
    boxes, others = (processor.find_cells(image)[0][0] for image in (plain, other))
    assert (boxes - others).abs().max() <= 6

    def difference(processor):
        views = [processor(image, return_tensors="pt")["pixel_values"] for image in (plain, other)]
        return (views[0] - views[1]).abs().mean()

    assert difference(processor) < 0.25 * difference(without)


def test_the_processor_corrects_once_and_in_every_way_alike(field):
    processor = WBCImageProcessor(size=64, do_correct_illumination=True)
    image = lit(field, lights(field)["yellow"])
    cells = processor.preprocess_cells(image)
    called = processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(cells["pixel_values"][:1], called)
    (crop,) = processor.crop(image, cells["crop_boxes"][:1])
    again = processor(
        crop,
        do_find_cell=False,
        do_correct_illumination=False,
        input_data_format="channels_first",
        return_tensors="pt",
    )
    assert torch.equal(again["pixel_values"], called)
    # Floats in [0, 1] give what the bytes give.
    floats = processor(image.float() / 255, do_rescale=False, return_tensors="pt")["pixel_values"]
    assert (floats - called).abs().max() < 0.03


def test_a_processor_saved_without_the_entry_has_it_off(tmp_path):
    WBCImageProcessor(size=32, do_correct_illumination=True).save_pretrained(tmp_path)
    assert WBCImageProcessor.from_pretrained(tmp_path).do_correct_illumination
    path = tmp_path / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"do_correct_illumination": true,', ""))
    assert not WBCImageProcessor.from_pretrained(tmp_path).do_correct_illumination
