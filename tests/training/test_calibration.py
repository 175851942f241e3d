"""Temperature, limit and novelty, against brute force and a simulated classifier."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from scipy.special import log_softmax, softmax

from hub.evaluation.metrics import expected_calibration_error
from hub.training.calibration import fit_novelty, fit_temperature, fit_threshold


def answers(temperature, n=4000, classes=5, seed=0):
    """Logits that are `temperature` times those by which the classes were drawn."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    cumulative = softmax(logits, axis=1).cumsum(1)
    references = (rng.random((n, 1)) > cumulative[:, :-1]).sum(1)
    return temperature * logits, references


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_finds_by_what_logits_were_multiplied(temperature):
    logits, references = answers(temperature)
    found = fit_temperature(logits, references)
    assert found == pytest.approx(temperature, rel=0.08)
    error = expected_calibration_error(softmax(logits / found, axis=1), references)
    assert error < 0.03
    # By brute force.
    losses = {
        each: -log_softmax(logits / each, axis=1)[np.arange(len(references)), references].mean()
        for each in np.linspace(0.7, 1.3, 601) * found
    }
    assert min(losses, key=losses.get) == pytest.approx(found, rel=2e-3)


def test_float32_and_huge_logits_do_no_harm():
    logits, references = answers(1.0)
    assert fit_temperature(np.float32(logits), references) == pytest.approx(
        fit_temperature(logits, references), rel=1e-3
    )
    assert fit_temperature(logits * 15 + 1e4, references) == pytest.approx(15, rel=0.08)
    right = np.eye(3) * 30
    assert fit_temperature(right, [0, 1, 2]) == pytest.approx(1 / 20, rel=0.01)


@pytest.mark.parametrize("shape, count", [((4, 3), 3), ((4,), 4), ((0, 3), 0)])
def test_names_shapes_that_do_not_fit(shape, count):
    with pytest.raises(ValueError, match=r"logits must be \(N, K\)"):
        fit_temperature(np.zeros(shape), np.zeros(count, dtype=int))


def test_each_data_set_keeps_its_share():
    rng = np.random.default_rng(0)
    near, far = rng.gamma(4, 1, 1000), rng.gamma(4, 3, 100)
    limit = fit_threshold(np.concatenate((near, far)), ["near"] * 1000 + ["far"] * 100, kept=0.95)
    assert (far <= limit).mean() >= 0.95 > (far < limit).mean()
    assert (near <= limit).mean() == 1
    assert fit_threshold(np.arange(1, 101), kept=0.98) == 98
    assert fit_threshold([3.0], kept=0.5) == 3
    for values, origins in (([], None), ([1.0], ["a", "b"])):
        with pytest.raises(ValueError, match="give N > 0 of each"):
            fit_threshold(values, origins)


def test_novelty_is_the_mahalanobis_distance_by_the_shrunk_covariance():
    rng = np.random.default_rng(0)
    mixing = rng.normal(0, 1, (6, 6)) * 10.0 ** np.arange(-2, 1, 0.5)  # of very different scales
    statistics = rng.normal(0, 1, (5000, 6)) @ mixing + 7
    mean, whitening = fit_novelty(statistics)
    novelty = np.linalg.norm((statistics[:50] - mean) @ whitening.T, axis=1)
    covariance = np.cov(statistics.T)
    expected = [
        mahalanobis(row, statistics.mean(0), np.linalg.inv(covariance)) / np.sqrt(6) for row in statistics[:50]
    ]
    assert novelty == pytest.approx(expected, rel=0.05)  # so many images leave little to shrink
    assert np.mean(np.linalg.norm((statistics - mean) @ whitening.T, axis=1) ** 2) == pytest.approx(1, rel=0.02)


def test_novelty_of_few_images_and_of_channels_that_never_vary_is_finite():
    rng = np.random.default_rng(0)
    statistics = rng.normal(0, 1, (20, 64))
    statistics[:, 5] = 0.25
    mean, whitening = fit_novelty(statistics)
    assert np.isfinite(whitening).all()
    assert (np.abs(np.diag(whitening)) > 0).all()
    assert np.linalg.norm(whitening @ (statistics[0] - mean)) < 3
    assert np.linalg.norm(whitening @ (statistics[0] + 20 - mean)) > 10
    for wrong in (np.zeros(5), np.zeros((1, 5))):
        with pytest.raises(ValueError, match=r"\(N, D\) with N > 1"):
            fit_novelty(wrong)
