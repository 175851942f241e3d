"""StainNormalizer: nothing changed by new weights, mixtures undone, and how it travels with a model."""

import pytest
import torch
from transformers import AutoModelForImageClassification

from hub.training.views import mix_stains, to_light, to_pixel_values
from modeling_wbc import WBCConfig, WBCForImageClassification
from modeling_wbc.illumination_wbc import BACKGROUND
from modeling_wbc.stain_wbc import StainNormalizer, optical_density

TINY = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "image_size": 64}


def pictures(count=4, size=64):
    generator = torch.Generator().manual_seed(0)
    return 0.2 + 0.7 * torch.rand(count, 3, size, size, generator=generator)


def test_new_weights_leave_images_as_they_are():
    pixel_values = to_pixel_values(pictures())
    torch.testing.assert_close(StainNormalizer(16)(pixel_values), pixel_values, atol=1e-5, rtol=0)


def test_it_mixes_densities_by_its_estimate():
    normalizer = StainNormalizer(16)
    change = torch.tensor([[0.2, -0.1, 0.05], [0.0, 0.1, -0.2], [0.1, 0.0, -0.1]])
    with torch.no_grad():
        normalizer.offset.copy_(change.flatten())
    light = pictures()
    got = to_light(normalizer(to_pixel_values(light))) * (255 / BACKGROUND)
    density = -(light * 255 / BACKGROUND).log()
    expected = torch.exp(-torch.einsum("ij,njhw->nihw", torch.eye(3) + change, density).clamp(min=-0.2))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_it_travels_with_the_model(tmp_path):
    model = WBCForImageClassification(WBCConfig(stain_size=16, **TINY)).eval()
    with torch.no_grad():
        model.resnet.stain.offset.normal_(std=0.1)
    model.save_pretrained(tmp_path)
    pixel_values = to_pixel_values(pictures())
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, trust_remote_code=True).eval()
    with torch.no_grad():
        expected, got = model(pixel_values).logits, loaded(pixel_values).logits
        plain = WBCForImageClassification.from_pretrained(tmp_path, stain_size=0).eval()(pixel_values).logits
    assert torch.equal(got, expected)
    assert not torch.allclose(plain, expected)
    # Half precision keeps the densities in float32.
    half = WBCForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    normalized = half.resnet.stain(pixel_values.bfloat16())
    assert normalized.dtype == torch.bfloat16
    assert (normalized.float() - model.resnet.stain(pixel_values)).abs().mean() < 0.05


def test_weights_without_one_start_with_one_that_changes_nothing(tmp_path):
    plain = WBCForImageClassification(WBCConfig(**TINY)).eval()
    plain.save_pretrained(tmp_path)
    started = WBCForImageClassification.from_pretrained(tmp_path, stain_size=16).eval()
    pixel_values = to_pixel_values(pictures())
    with torch.no_grad():
        torch.testing.assert_close(started(pixel_values).logits, plain(pixel_values).logits, atol=1e-4, rtol=1e-4)


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="stain_size must be at least 0, got -1"):
        WBCConfig(stain_size=-1)


def test_mixing_is_linear_in_density_and_keeps_the_background():
    light = pictures(6)
    light[:, :, :4] = 1
    mixed = mix_stains(light, 1.0, torch.Generator().manual_seed(3))
    assert (mixed[:, :, :4].log().abs() <= 0.0501).all()  # the cast alone
    for before, after in zip(light, mixed, strict=True):
        x = torch.cat((optical_density(before).flatten(1), torch.ones(1, 64 * 64)))
        y = optical_density(after.clamp(max=1.2)).flatten(1)
        inside = ((after > 1 / 250) & (after < 1.19)).all(0).flatten()
        solution = torch.linalg.lstsq(x[:, inside].T, y[:, inside].T).solution
        torch.testing.assert_close(solution.T @ x[:, inside], y[:, inside], atol=2e-3, rtol=2e-3)
    assert torch.equal(mix_stains(light, 1.0, torch.Generator().manual_seed(3)), mixed)
