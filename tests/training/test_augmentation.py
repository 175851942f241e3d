"""Augmentation: place and size of crops, and stain against another implementation."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from hub.data.synthetic import draw_field
from hub.training.augmentation import AUGMENTATIONS, CellCrop, StainJitter
from modeling_wbc import WBCImageProcessor


class Watched(WBCImageProcessor):
    """Records the crops that are asked of it."""

    cut: ClassVar[list] = []

    def crop(self, image, crop_boxes):
        self.cut.append(crop_boxes[0])
        return super().crop(image, crop_boxes)


def test_crops_vary_in_place_and_size_about_the_cell():
    image = draw_field("neutrophil", 4, (640, 480))
    processor = Watched(size=600)  # so large that nothing is scaled down
    boxes, _ = processor.find_cells(image)
    left, top, right, bottom = processor.crop_boxes(boxes[:1])[0].tolist()
    Watched.cut = []
    crop = CellCrop(processor, lambda piece: piece)
    torch.manual_seed(0)
    sides = [crop(image, boxes[0]).shape for _ in range(400)]
    cut = torch.stack(Watched.cut)
    # A rotation needs a piece as large as the diagonal of what is shown.
    side = (cut[:, 2] - cut[:, 0]) / math.sqrt(2)
    zoom = side / (right - left)
    assert [shape[1] for shape in sides] == pytest.approx(side.round().tolist(), abs=1)
    assert all(len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2] for shape in sides)
    assert 0.75 <= zoom.min() < 0.77
    assert 1.32 < zoom.max() <= 1.35
    assert float(zoom.log().mean()) == pytest.approx(math.log(0.75 * 1.35) / 2, abs=0.03)
    for low, high, middle in ((0, 2, (left + right) / 2), (1, 3, (top + bottom) / 2)):
        shift = ((cut[:, low] + cut[:, high]) / 2 - middle) / side
        assert -0.1 <= shift.min() < -0.095
        assert 0.095 < shift.max() <= 0.1
        assert abs(float(shift.mean())) < 0.01


def test_a_rotated_crop_shows_its_surroundings_and_no_black_corners():
    image = draw_field("monocyte", 1, (640, 480))
    assert np.asarray(image).min() > 20
    boxes, _ = WBCImageProcessor().find_cells(image)
    crop = CellCrop(WBCImageProcessor(), AUGMENTATIONS["paper"])
    torch.manual_seed(0)
    shown = [crop(image, boxes[0]) for _ in range(50)]
    assert min(int(each.min()) for each in shown) > 20
    assert any(not torch.equal(shown[0], each) for each in shown[1:])


def test_a_large_crop_is_scaled_down_and_shows_the_same():
    image = draw_field("eosinophil", 3, (1280, 960))
    boxes, _ = WBCImageProcessor().find_cells(image)
    shown = []
    for size in (1000, 40):
        torch.manual_seed(5)
        crop = CellCrop(WBCImageProcessor(size=size), lambda piece: piece)(image, boxes[0])
        shown.append(v2.functional.resize(crop, [40, 40], antialias=True).float())
    assert crop.shape == (3, 60, 60)
    assert (shown[0] - shown[1]).abs().mean() < 6 < (shown[0] - shown[1].flip(1)).abs().mean()


def test_stain_jitter_multiplies_the_amounts_of_stain():
    """Against scikit-image's colour deconvolution, an implementation of its own."""
    color = pytest.importorskip("skimage.color")
    image = np.asarray(draw_field("eosinophil", 3))
    jitter = StainJitter()
    torch.manual_seed(1)
    changed = jitter(Image.fromarray(image))
    assert changed.dtype == torch.uint8
    assert changed.shape == (3, 240, 320)
    torch.manual_seed(1)
    factors = 1 + jitter.stain * (2 * torch.rand(3) - 1)
    light = torch.exp(jitter.light * (2 * torch.rand(3) - 1))
    amounts = color.separate_stains((image + 1.0) / 256, color.hed_from_rgb)
    expected = color.combine_stains(amounts * factors.numpy(), color.rgb_from_hed) * 256 * light.numpy() - 1
    # scikit-image cuts negative amounts off.
    comparable = ((expected > 1) & (expected < 254) & (amounts > 0)).all(-1)
    difference = changed.permute(1, 2, 0).numpy() - expected
    assert comparable.mean() > 0.05
    assert np.abs(difference[comparable]).max() < 1.5


def test_stain_jitter_stays_within_its_bounds_and_reaches_them():
    image = torch.full((3, 4, 4), 120, dtype=torch.uint8)
    jitter = StainJitter()
    torch.manual_seed(0)
    shown = torch.stack([jitter(image)[:, 0, 0].float() for _ in range(500)])
    density, own = -torch.log((shown + 1) / 256), -math.log(121 / 256)
    low, high = density.amin(0) / own, density.amax(0) / own
    assert (low < 0.85).all()
    assert (high > 1.15).all()
    bound = jitter.stain + jitter.light / own + 0.02
    assert low.mean() > 1 - bound
    assert high.mean() < 1 + bound
    jitter.stain = jitter.light = 0.0
    assert torch.equal(jitter(image), image)
