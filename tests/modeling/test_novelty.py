"""SmearNovelty against the Mahalanobis distance and log-odds, in NumPy."""

import numpy as np
import pytest
import torch

from modeling_wbc import SmearNovelty, WBCConfig, WBCForImageClassification
from tests.modeling.builders import images, tiny_model


def feature_map(num_images=5, num_channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(num_images, num_channels, 6, 7, generator=generator)


def test_novelty_is_the_mahalanobis_distance_of_means_and_standard_deviations():
    features = feature_map()
    rng = np.random.default_rng(0)
    mean, root = rng.normal(size=6), rng.normal(size=(6, 6)) + 3 * np.eye(6)
    covariance = root @ root.T
    novelty = SmearNovelty(3)
    novelty.mean.copy_(torch.from_numpy(mean))
    novelty.whitening.copy_(torch.from_numpy(np.linalg.inv(root) / np.sqrt(6)))

    values = features.double().numpy()
    offset = np.concatenate((values.mean((2, 3)), values.std((2, 3))), axis=1) - mean
    expected = np.sqrt(np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance), offset) / 6)
    result = novelty(features)
    assert result.dtype == torch.float32
    assert result.numpy() == pytest.approx(expected, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(novelty(features), result)


def test_novelty_of_several_maps_adds_the_log_odds_above_0():
    maps = feature_map(9, 3), feature_map(9, 2, seed=1)
    rng = np.random.default_rng(0)
    mean, whitening, direction = rng.normal(size=10), rng.normal(size=(10, 10)), rng.normal(size=10)
    arrays = [each.double().numpy() for each in maps]
    statistics = [part for values in arrays for part in (values.mean((2, 3)), values.std((2, 3)))]
    whitened = (np.concatenate(statistics, axis=1) - mean) @ whitening.T
    log_odds = whitened @ direction
    offset = -np.median(log_odds)  # so that it is below 0 for half of the images
    expected = np.linalg.norm(whitened, axis=1) + np.where(log_odds + offset > 0, log_odds + offset, 0)

    novelty = SmearNovelty(5, has_direction=True)
    fitted = {"mean": mean, "whitening": whitening, "direction": direction, "offset": np.array(offset)}
    for name, values in fitted.items():
        novelty.get_buffer(name).copy_(torch.from_numpy(values))
    result = novelty(*maps)
    assert result.numpy() == pytest.approx(expected, rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(novelty(*maps), result)
    traced = torch.jit.trace(novelty, maps)
    assert torch.allclose(traced(*(each[:2] for each in maps)), result[:2], rtol=1e-5)


@pytest.mark.parametrize("has_direction", [False, True])
def test_novelty_is_zero_before_it_is_fitted(has_direction):
    assert SmearNovelty(3, has_direction)(feature_map()).tolist() == [0] * 5


def test_a_model_compares_the_maps_of_its_stages_and_keeps_them(tmp_path):
    model = tiny_model(novelty_stages=[2, 1])
    for buffer in model.novelty.buffers():
        buffer.normal_()
    with torch.no_grad():
        output = model(images(), output_hidden_states=True)
        expected = model.novelty(output.hidden_states[2], output.hidden_states[1])
    assert (output.novelty > 0).all()
    assert torch.equal(output.novelty, expected)
    model.save_pretrained(tmp_path)
    loaded = WBCForImageClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.novelty_stages == [2, 1]
    with torch.no_grad():
        assert torch.equal(loaded(images()).novelty, expected)


def test_a_configuration_without_stages_has_the_buffers_of_version_1():
    model = tiny_model()
    assert model.config.novelty_stages is None
    assert {name: tuple(buffer.shape) for name, buffer in model.novelty.named_buffers()} == {
        "mean": (16,),
        "whitening": (16, 16),
    }


@pytest.mark.parametrize("stages", [[], [0], [5], [1, 1], 3])
def test_stages_that_there_are_not_are_refused(stages):
    with pytest.raises(ValueError, match="novelty_stages must be None or a list of different stages from 1 to 4"):
        WBCConfig(novelty_stages=stages)
