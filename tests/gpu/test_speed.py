"""Time and memory of training steps, for the report; on a CPU, only that they can be measured."""

import pytest
import torch

from modeling_wbc import WBCForImageClassification
from tests.benchmarks import benchmark_norm
from tests.modeling.builders import tiny_config


def tiny(layout):
    model = WBCForImageClassification(tiny_config(image_size=32, norm_layout=layout))
    return model, lambda model, images, labels: model(images, labels).loss


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_a_step_costs_little_more_than_that_of_a_plain_resnet(
    device, on_gpu, bf16, channels_last, record, monkeypatch
):
    if not on_gpu:
        variants = {f"layout {layout}": lambda layout=layout: tiny(layout) for layout in ("bn", "ibn")}
        monkeypatch.setattr(benchmark_norm, "VARIANTS", variants)
    batch_size, image_size = (128, 128) if on_gpu else (2, 32)
    measured = benchmark_norm.step_times(device, image_size, batch_size, 20 if on_gpu else 1, bf16, channels_last)
    record(
        batch_size=batch_size,
        image_size=image_size,
        **{name: {"ms": 1000 * seconds, "bytes": peak} for name, (seconds, peak) in measured.items()},
    )
    assert all(seconds > 0 for seconds, _ in measured.values())
    if on_gpu:
        # The norm keeps one feature map for the backward pass, as batch norm does.
        assert measured["layout ibn"][1] < 1.1 * measured["layout bn"][1]
        record(free_and_total_bytes=torch.cuda.mem_get_info())
