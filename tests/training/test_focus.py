"""Fit of the focus threshold."""

import numpy as np
import pytest
import torch

from hub.data.synthetic import draw_field
from hub.training.focus import fit_focus_threshold, measure_blurred
from modeling_wbc import WBCImageProcessor
from modeling_wbc.focus_wbc import measure_focus


def test_the_threshold_refuses_blurred_and_keeps_sharp_crops_of_every_data_set():
    rng = np.random.default_rng(0)
    origins = np.repeat(["a", "b"], 1000)
    sharp = np.concatenate((rng.uniform(1.0, 2.0, 1000), rng.uniform(0.8, 1.2, 1000)))
    blurred = np.concatenate((rng.uniform(0.5, 0.6, 1000), rng.uniform(0.5, 0.7, 1000)))
    threshold = fit_focus_threshold(sharp, blurred, origins, refused=0.95)
    assert threshold == pytest.approx(0.69, abs=0.005)
    for name in "ab":
        assert (blurred[origins == name] < threshold).mean() >= 0.95
        assert (sharp[origins == name] >= threshold).all()
    assert (blurred[origins == "b"] < threshold).mean() == pytest.approx(0.95, abs=0.002)


def test_sharp_crops_go_before_blurred_ones():
    sharp, blurred = np.linspace(0, 1, 1000), np.linspace(0.5, 1.5, 1000)
    threshold = fit_focus_threshold(sharp, blurred, kept=0.9)
    assert (sharp >= threshold).mean() == pytest.approx(0.9, abs=0.002)
    assert (sharp >= threshold).mean() >= 0.9


def test_wrong_lengths_are_refused():
    for wrong in (([], []), ([1.0], [1.0, 2.0]), ([1.0], [1.0], ["a", "b"])):
        with pytest.raises(ValueError, match="values and"):
            fit_focus_threshold(*wrong)


def test_a_blur_takes_the_focus_of_crops():
    processor = WBCImageProcessor(size=128)
    fields = [draw_field(label, 1) for label in ("eosinophil", "lymphocyte", "monocyte")]
    batch = torch.cat([processor.preprocess_cells(field)["pixel_values"][:1] for field in fields])
    sharp, blurred = measure_focus(batch), measure_blurred(batch)
    assert sharp.shape == blurred.shape == (3,)
    assert (blurred < sharp).all()
    assert blurred.max() < sharp.min()
