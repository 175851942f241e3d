"""Contact sheets."""

import numpy as np
import pytest
import torch
from PIL import Image

from hub.evaluation.sheets import BoxedImage, boxes_sheet, captioned

GREEN, RED, BLUE = (0, 192, 0), (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize("from_file", [False, True])
def test_boxes_are_drawn_where_they_lie_in_the_scaled_image(tmp_path, from_file):
    image = Image.new("RGB", (320, 160), BLUE)
    if from_file:
        image.save(tmp_path / "image.png")
        image = tmp_path / "image.png"
    found, annotated = torch.tensor([[20.0, 40, 120, 140]]), torch.tensor([[200.0, 40, 300, 140]])
    images = [BoxedImage("first", image, found, annotated), BoxedImage("second", image, found[:0])]
    sheet = np.asarray(boxes_sheet(images, columns=2, width=160))
    assert sheet.shape[1] == 2 * 164
    for color, left, right in ((RED, 10, 60), (GREEN, 100, 150)):
        rows, columns = np.nonzero((sheet == color).all(-1))
        assert (columns.min(), columns.max()) == (left, right - 1)
        assert (rows.min(), rows.max()) == (16 + 20, 16 + 70 - 1)  # below the caption
    assert (sheet[16:96, 164:324] == BLUE).all()
    for left in (0, 164):
        assert (sheet[:16, left : left + 160] < 128).any()  # the captions


def test_images_of_several_heights_and_none_at_all_make_a_sheet():
    nothing = torch.zeros(0, 4)
    sizes = [(100, 50), (50, 100), (100, 100)]
    images = [BoxedImage(str(size), Image.new("RGB", size, BLUE), nothing) for size in sizes]
    sheet = np.asarray(boxes_sheet(images, columns=2, width=100))
    assert (sheet == BLUE).all(-1).sum() == 100 * 50 + 100 * 200 + 100 * 100
    blank = boxes_sheet([], columns=3, width=100)
    assert blank.width == 3 * 104
    assert blank.getextrema() == ((255, 255),) * 3


def test_a_caption_of_two_lines_has_room():
    image = Image.new("RGB", (200, 40), BLUE)
    one, two = (captioned(image, caption) for caption in ("line", "line\nline"))
    assert two.height > one.height > 40
    for tile in (one, two):
        assert (np.asarray(tile)[-40:] == BLUE).all()
