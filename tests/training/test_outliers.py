"""Crops beside the cells of training images, and cells under other stains."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from hub.data.synthetic import draw_field
from hub.training.images import CellImages
from hub.training.outliers import (
    CropsBesideCells,
    DeadLeaves,
    OtherLabs,
    Restained,
    detect_beside,
    draw_dead_leaves,
    restain,
    square_beside,
)
from hub.training.views import mix_stains
from modeling_wbc import WBCImageProcessor
from modeling_wbc.illumination_wbc import BACKGROUND

MEAN, STD = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module")
def images():
    fields = [draw_field("neutrophil", seed) for seed in range(12)] + [Image.new("RGB", (80, 60), "white")]
    rows = datasets.Dataset.from_dict({"image": fields, "label": [0] * 13}).cast_column("image", datasets.Image())
    return CellImages(rows, WBCImageProcessor(size=32), label_ids=[0])


def stained(pixel_values):
    """The share of pixels as dark as a nucleus."""
    pixels = pixel_values * STD + MEAN
    return float((pixels[1] < 0.4).float().mean())


def test_what_lies_beside_cells_shows_none(images):
    beside = CropsBesideCells(images)
    assert len(beside) == len(images) == 13
    rows = [beside[index] for index in range(13)]
    assert sum(row["found"] for row in rows) >= 10
    assert not rows[12]["found"]  # nor a cell
    for index, row in enumerate(rows):
        assert row["pixel_values"].shape == (3, 32, 32)
        assert torch.equal(row["pixel_values"], beside[index]["pixel_values"])
        if row["found"]:
            assert stained(row["pixel_values"]) < 0.5 * stained(images[index]["pixel_values"])
    colours = {tuple(row["pixel_values"].mean((1, 2)).tolist()) for row in rows if row["found"]}
    assert len(colours) == sum(row["found"] for row in rows)


def test_drawings_are_many_and_shown_as_the_network_would_be_given_their_foremost_cell(images):
    processor = images.image_processor
    drawings = DeadLeaves(processor, 12, seed=5)
    rows = [drawings[index] for index in range(len(drawings))]
    assert len(rows) == 12
    assert sum(row["found"] for row in rows) >= 6
    for index, row in enumerate(rows):
        expected = processor(draw_dead_leaves(np.random.default_rng([5, index])), return_tensors="pt")["pixel_values"]
        if row["found"]:
            assert torch.equal(row["pixel_values"], expected[0])
    assert len({tuple(row["pixel_values"].mean((1, 2)).tolist()) for row in rows if row["found"]}) >= 6


def test_squares_are_within_the_image_and_clear_of_every_cell():
    cells = np.array([[100.0, 80, 180, 160], [250, 20, 330, 100]], dtype=np.float32)
    rng = np.random.default_rng(0)
    squares = np.stack([square_beside(cells, (320, 240), rng) for _ in range(200)])
    sides = squares[:, 2] - squares[:, 0]
    assert sides == pytest.approx(squares[:, 3] - squares[:, 1], abs=1e-3)
    assert (squares[:, :2] >= 0).all()
    assert (squares[:, 2:] <= (320.001, 240.001)).all()
    assert 28 <= sides.min() < 40
    assert 60 < sides.max() <= 80
    for left, top, right, bottom in ((110, 90, 170, 150), (260, 30, 320, 90)):  # three quarters of each side
        beside = (
            (squares[:, 2] <= left) | (squares[:, 0] >= right) | (squares[:, 3] <= top) | (squares[:, 1] >= bottom)
        )
        assert beside.all()
    assert square_beside(np.array([[0.0, 0, 60, 60]]), (60, 60), rng) is None


def test_other_stains_change_the_colours_of_the_same_crop(images):
    restained = Restained(images)
    assert len(restained) == 13
    for index in (0, 3):
        plain, row = images[index], restained[index]
        assert row["labels"] == plain["labels"]
        assert torch.equal(row["pixel_values"], restained[index]["pixel_values"])
        assert (row["pixel_values"] - plain["pixel_values"]).abs().max() > 0.1
        both = torch.stack([part["pixel_values"].mean(0).flatten() for part in (plain, row)])
        assert torch.corrcoef(both)[0, 1] > 0.9  # the same shapes
    state = torch.get_rng_state()
    first, second, again = (restain(images[0]["pixel_values"], images.image_processor, seed) for seed in (1, 2, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    # As the stains of the training's views are mixed.
    light = (images[0]["pixel_values"] * STD + MEAN) * (255 / BACKGROUND)
    expected = mix_stains(light[None], 1.0, torch.Generator().manual_seed(1))[0] * (BACKGROUND / 255)
    torch.testing.assert_close(first * STD + MEAN, expected.clamp(max=1), atol=1e-5, rtol=0)


def test_other_labs_show_the_same_cell_elsewhere_and_in_other_colours(images):
    views, again = OtherLabs(images), OtherLabs(images)
    assert len(views) == 13
    for index in range(12):
        view = views[index]["pixel_values"]
        assert view.shape == (3, 32, 32)
        assert torch.equal(view, again[index]["pixel_values"])
        assert not torch.allclose(view, images[index]["pixel_values"], atol=0.1)
        # The nucleus is in the middle, and darker than what is around it.
        light = (view * STD + MEAN).mean(0)
        assert light[12:20, 12:20].mean() < light[[0, 0, -1, -1], [0, -1, 0, -1]].mean() - 0.05


def spotted(platelets):
    """A white cell at the left of a smear, and small dark discs at the right."""
    image = Image.new("RGB", (320, 240), (240, 235, 235))
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 90, 100, 150), (90, 60, 150))
    for x, y in platelets:
        pen.ellipse((x - 12, y - 12, x + 12, y + 12), (150, 110, 190))
    return image


def test_what_the_detector_finds_without_the_cells_is_no_cell(images):
    """Platelets, which a threshold of the whole image leaves to the background of the far darker white cell."""
    processor = images.image_processor
    places = [(220, 60), (260, 180)]
    image = spotted(places)
    boxes, _ = processor.find_cells(image)
    cells = processor.crop_boxes(boxes[:1]).numpy()
    rng = np.random.default_rng(0)
    squares = np.stack([detect_beside(processor, image, cells, rng) for _ in range(20)])
    middles = (squares[:, :2] + squares[:, 2:]) / 2
    distances = np.linalg.norm(middles[:, None] - np.array(places), axis=2)
    assert distances.min(1).max() < 6
    assert set(distances.argmin(1)) == {0, 1}
    assert detect_beside(processor, spotted([]), cells, rng) is None


def test_detected_crops_are_beside_the_cells_too(images):
    detected = CropsBesideCells(images, detected=True)
    assert len(detected) == 13
    rows = [detected[index] for index in range(13)]
    assert not rows[12]["found"]
    for index, row in enumerate(rows):
        assert row["pixel_values"].shape == (3, 32, 32)
        if row["found"]:
            assert stained(row["pixel_values"]) < 0.5 * stained(images[index]["pixel_values"])
