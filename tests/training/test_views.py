"""Views of stored crops: geometry, camera, and that a seed decides all of it."""

import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from hub.training.views import (
    MARGIN,
    CellViews,
    add_noise,
    blur,
    change_tones,
    compress,
    sharpen,
    stain_mixtures,
    swap_surroundings,
    to_light,
    to_pixel_values,
)
from modeling_wbc.illumination_wbc import BACKGROUND


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def discs(count=8, size=192, radius=30):
    """Dark discs in the middle of crops whose background is even."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc = np.where(x**2 + y**2 < radius**2, 80, BACKGROUND).astype(np.uint8)
    return torch.from_numpy(disc).expand(count, 3, size, size).contiguous()


def test_a_view_shows_the_cell_at_the_size_that_the_network_sees():
    views = CellViews(64, strength=0, camera=False, shift=0, zoom=(1, 1), surroundings=0)
    light = views(discs(), seeded())
    assert light.shape == (8, 3, 64, 64)
    area = (light[:, 0] < 0.6).float().sum((1, 2))
    # The crop is 192 / MARGIN pixels wide, of which the view has 64; stretching keeps the area.
    expected = math.pi * (30 * 64 * MARGIN / 192) ** 2
    assert ((area / expected - 1).abs() < 0.06).all()


def test_shift_and_zoom_stay_within_their_bounds():
    views = CellViews(64, strength=0, camera=False, surroundings=0)
    light = views(discs(64), seeded(1))
    dark = light[:, 0] < 0.6
    area = dark.float().sum((1, 2)) / (math.pi * (30 * 64 * MARGIN / 192) ** 2)
    assert area.min() > 0.94 / 1.35**2
    assert area.max() < 1.06 / 0.75**2
    assert area.max() / area.min() > 1.8
    place = torch.linspace(-0.5, 0.5, 64)
    middle = (dark * place).sum((1, 2)) / dark.sum((1, 2))
    assert 0.06 < middle.abs().max() < 0.16
    # Beyond the stored crop lies the background.
    assert (light[:, :, 0, 0] - BACKGROUND / 255).abs().max() < 0.02


def test_surroundings_come_from_another_crop_and_the_cell_stays():
    crops = torch.arange(10, 90, 10, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 192, 192)
    swapped = swap_surroundings(crops, 1.0, seeded(1))
    middle = slice(96 - 12, 96 + 12)
    assert (swapped[:, :, middle, middle] - crops[:, :, middle, middle]).abs().max() < 1
    corners = swapped[:, 0, 0, 0]
    assert sorted(corners.round().tolist()) == [10, 20, 30, 40, 50, 60, 70, 80]
    assert (corners.round() != crops[:, 0, 0, 0]).sum() >= 6
    assert (swapped[:, 0, 96, 0] - corners).abs().max() < 0.5  # beyond the network's crop, all of it


def test_only_a_share_of_the_surroundings_changes():
    crops = torch.randint(0, 256, (200, 3, 24, 24), dtype=torch.uint8, generator=seeded())
    changed = (swap_surroundings(crops, 0.3, seeded(1)) != crops).any(3).any(2).any(1)
    assert 0.2 < changed.float().mean() < 0.4
    assert torch.equal(swap_surroundings(crops, 0.0, seeded(1)), crops.float())


def test_a_seed_decides_a_view_and_another_one_another_view():
    views = CellViews(64)
    crops = torch.randint(0, 256, (8, 3, 192, 192), dtype=torch.uint8, generator=seeded())
    first = views(crops, seeded(5))
    assert torch.equal(first, views(crops, seeded(5)))
    assert not torch.equal(first, views(crops, seeded(6)))
    assert first.min() >= 0
    assert first.max() <= 1
    torch.testing.assert_close(to_light(to_pixel_values(first)), first)


def test_mixtures_lie_around_the_identity_and_grow_with_the_strength():
    mixtures = stain_mixtures(4000, 1.0, seeded())
    assert (mixtures.mean(0) - torch.eye(3)).abs().max() < 0.08
    spread = [(stain_mixtures(4000, s, seeded()) - torch.eye(3)).square().mean() for s in (0.5, 1.0)]
    assert spread[0] < spread[1]
    still = stain_mixtures(4000, 0.0, seeded())
    grey = (still - torch.eye(3)).abs().amax((1, 2)) > 1e-6
    assert 0.08 < grey.float().mean() < 0.12


@pytest.mark.parametrize("change", [blur, add_noise, compress])
def test_the_camera_changes_about_three_tenths_of_the_images_and_little_of_each(change):
    light = 0.3 + 0.6 * torch.rand(200, 3, 32, 32, generator=seeded(2))
    changed = change(light, seeded(3))
    differs = (changed - light).abs().amax((1, 2, 3)) > 1e-6
    assert 0.2 < differs.float().mean() < 0.4
    assert (changed.mean((2, 3)) - light.mean((2, 3))).abs().max() < 0.03


def test_tones_rise_everywhere_and_keep_white():
    light = torch.linspace(0, 1, 256).expand(400, 3, 4, 256)
    changed = change_tones(light, seeded(5))
    differs = (changed - light).abs().amax((1, 2, 3)) > 1e-6
    assert 0.2 < differs.float().mean() < 0.4
    assert changed.diff(dim=-1).min() > 0
    torch.testing.assert_close(changed[..., -1], torch.ones_like(changed[..., -1]))
    darkest = changed[differs][..., 0]
    assert 0 <= darkest.min() < darkest.max() < 0.15  # stray light
    assert (changed - light).abs().max() > 0.1


def test_sharpening_is_an_unsharp_mask():
    light = 0.4 + 0.2 * torch.rand(60, 3, 32, 32, generator=seeded(6))
    changed = sharpen(light, seeded(7))
    chosen, amount = torch.rand(2, 60, 1, 1, 1, generator=seeded(7))
    smooth = v2.functional.gaussian_blur(light, 5, 1.0)  # the binomial kernel's deviation is 1
    expected = torch.where(chosen < 0.3, light + 2 * amount * (light - smooth), light)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(changed[inner], expected[inner], atol=0.02, rtol=0)
    assert torch.equal(changed[chosen.flatten() >= 0.3], light[chosen.flatten() >= 0.3])


def test_compression_is_near_that_of_a_jpeg():
    y, x = np.mgrid[:64, :64]
    pixels = (128 + 60 * np.sin(x / 5) + 40 * np.cos(y / 3)).round().astype(np.uint8)
    light = torch.from_numpy(pixels / 255).float().expand(300, 3, 64, 64)
    generator = seeded(4)
    chosen, quality = torch.rand(2, 300, generator=seeded(4))
    compressed = compress(light, generator)
    for row in (chosen < 0.3).nonzero()[:5, 0].tolist():
        buffer = BytesIO()
        Image.fromarray(pixels, "L").save(buffer, "JPEG", quality=round(20 + 70 * quality[row].item()))
        by_pillow = np.asarray(Image.open(buffer)) / 255
        error = np.abs(compressed[row, 0].numpy() - by_pillow).mean()
        assert error < 0.02
