"""Temperature and limit of distance, against brute force and a simulated classifier."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from hub.calibration import choose_max_distance, fit_temperature
from hub.metrics import expected_calibration_error


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
    limit = choose_max_distance(np.concatenate((near, far)), ["near"] * 1000 + ["far"] * 100, kept=0.95)
    assert (far <= limit).mean() >= 0.95 > (far < limit).mean()
    assert (near <= limit).mean() == 1
    assert choose_max_distance(np.arange(1, 101), kept=0.98) == 98
    assert choose_max_distance([3.0], kept=0.5) == 3
    for distances, origins in (([], None), ([1.0], ["a", "b"])):
        with pytest.raises(ValueError, match="give N > 0 of each"):
            choose_max_distance(distances, origins)
