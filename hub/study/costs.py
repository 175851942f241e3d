"""The cost of each network: parameters, multiplications and additions, speed of training, latency."""

import platform
from collections.abc import Callable, Iterable

import torch
import transformers
from torch import nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from hub.data.bccd import BCCD_CLASSES
from hub.study.baselines import BASELINES, load_baseline
from hub.training.memory import keep_freed_memory
from modeling_wbc import WBCConfig, WBCForImageClassification

BATCH_SIZE = 64
# How long each network is timed: some dozens of images, and at least a few training steps on a CPU.
SECONDS_OF_INFERENCE = 0.5
SECONDS_OF_TRAINING = 4.0


def measure_costs(networks: Iterable[str], image_size: int | None) -> dict:
    """Measure the cost of each network, one after the other in this process.

    Args:
        networks: Names of `BASELINES`, or norm layouts of the paper's network.
        image_size: Height and width of the images in pixels. Default: the size that each network was made for.

    Returns:
        `networks`, by name: `parameters`, their number; `image_size`; `gmacs`, 10^9 multiplications and additions for
        one image; `images_per_second` of training with bfloat16 autocast and batches of 64 that lie ready in memory;
        `latency_ms`, the median time for one image in float32. Beside it `device` and `software` of `machine`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    costs = {}
    for name in sorted(networks):
        if name in BASELINES:
            model = load_baseline(name, None, BCCD_CLASSES, image_size, do_train=True)
        else:
            model = WBCForImageClassification(WBCConfig(norm_layout=name, image_size=image_size or 224))
        costs[name] = _cost(model, device)
    return {"networks": costs, **machine()}


def machine() -> dict[str, str]:
    """The `device` (the GPU, or the number of CPU threads) and the versions of the `software` of this process."""
    threads = torch.get_num_threads()
    cpu = f"{threads} CPU thread{'s' * (threads != 1)}"
    versions = (
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    )
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "software": versions,
    }


def count_gmacs(model: PreTrainedModel, image: torch.Tensor) -> float:
    """The 10^9 multiplications and additions of a forward pass for `image`, float (1, 3, H, W)."""
    lstm_macs = 0

    def count(lstm: nn.LSTM, inputs, outputs):  # PyTorch's counter skips LSTMs
        nonlocal lstm_macs
        lstm_macs += inputs[0].shape[1] * 4 * lstm.hidden_size * (lstm.input_size + lstm.hidden_size)

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.LSTM)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixel_values=image)
    for hook in hooks:
        hook.remove()
    return (lstm_macs + counter.get_total_flops() / 2) / 1e9


def _cost(model: PreTrainedModel, device: torch.device) -> dict[str, float]:
    size = model.config.image_size
    model = model.to(device, memory_format=torch.channels_last).eval()
    image = torch.randn(1, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    images = image.repeat(BATCH_SIZE, 1, 1, 1).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH_SIZE, device=device) % model.config.num_labels
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def classify():
        with torch.no_grad():
            model(pixel_values=image)

    def step():
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(pixel_values=images, labels=labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    gmacs, latency = count_gmacs(model, image), _median_seconds(classify, SECONDS_OF_INFERENCE)
    model.train()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": size,
        "gmacs": gmacs,
        "latency_ms": 1000 * latency,
        "images_per_second": BATCH_SIZE / _median_seconds(step, SECONDS_OF_TRAINING),
    }


def _median_seconds(function: Callable[[], None], min_run_time: float) -> float:
    """The median time of a call after warm-up, with the threads that the caller has set; waits for the GPU."""
    timer = Timer("function()", globals={"function": function}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=min_run_time).median
