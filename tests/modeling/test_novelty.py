"""SmearNovelty against the Mahalanobis distance, in NumPy."""

import numpy as np
import pytest
import torch

from modeling_wbc import SmearNovelty


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


def test_novelty_is_zero_before_it_is_fitted():
    assert SmearNovelty(3)(feature_map()).tolist() == [0] * 5
