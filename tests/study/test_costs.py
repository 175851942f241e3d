"""The costs of the networks."""

import functools

import pytest
import torch

from hub.data.bccd import BCCD_CLASSES
from hub.inference.threads import network_threads
from hub.study import costs
from hub.study.baselines import load_baseline
from hub.study.costs import count_gmacs, machine, measure_costs
from modeling_wbc import WBCConfig, WBCForImageClassification


def test_multiplications_and_additions_are_those_of_the_articles():
    resnet = WBCForImageClassification(WBCConfig(norm_layout="bn")).eval()
    # Table 1 of He et al. 2016 gives 3.6e9 without the shortcuts' convolutions and the classifier.
    assert count_gmacs(resnet, torch.zeros(1, 3, 224, 224)) == pytest.approx(3.66, abs=0.02)
    image = torch.zeros(1, 3, 224, 224)
    plain, lstm = (
        count_gmacs(load_baseline(name, None, BCCD_CLASSES, None, True).eval(), image)
        for name in ("resnet50", "resnet50-lstm")
    )
    # 49 steps of four gates, each of 512 rows over 2,048 features and 512 states; projection; other classifier.
    more = 49 * 4 * 512 * (2048 + 512) + 2048 * 512 + (512 - 2048) * 4
    assert lstm - plain == pytest.approx(more / 1e9, rel=1e-3)


def test_every_network_is_timed_with_the_threads_of_the_caller(monkeypatch):
    monkeypatch.setattr(costs, "SECONDS_OF_INFERENCE", 0.01)
    monkeypatch.setattr(costs, "SECONDS_OF_TRAINING", 0.01)
    tiny = functools.partial(WBCConfig, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    monkeypatch.setattr(costs, "WBCConfig", tiny)
    threads = []
    forward = WBCForImageClassification.forward

    def noted(self, *args, **kwargs):
        threads.append(torch.get_num_threads())
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(WBCForImageClassification, "forward", noted)
    with network_threads(2):
        measured = measure_costs(["ibn"], image_size=64)
        assert measured == {"networks": measured["networks"], **machine()}
    assert set(threads) == {2}
    assert [*measured["networks"]] == ["ibn"]
    cost = measured["networks"]["ibn"]
    assert cost["image_size"] == 64
    assert cost["parameters"] == sum(p.numel() for p in WBCForImageClassification(tiny()).parameters())
    assert cost["latency_ms"] > 0
    # A training step of 64 images takes longer than one image.
    assert 0 < cost["images_per_second"] < 64 * 1000 / cost["latency_ms"]
