"""Time of a training step of the layouts bn and ibn, next to other ways of computing instance-batch normalisation.

```bash
python tests/benchmarks/benchmark_norm.py --image_size 224 --batch_size 16 --bf16 --channels_last
```

Forward, backward and SGD step, without a data loader, on a GPU if there is one. The variants take turns, a step each,
so that a change of the machine's speed meets all of them; the table shows the median, and its ratio to torchvision's
ResNet-34.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modeling_wbc import InstanceBatchNorm2d, WBCConfig, WBCForImageClassification
from tests.benchmarks.tables import multiplies_bf16


class SplitNorm(nn.Module):
    """Two layers on the halves of the channels, split and joined, as IBN-Net has it."""

    def __init__(self, num_features):
        super().__init__()
        self.half = num_features // 2
        self.instance = nn.InstanceNorm2d(self.half, affine=True)
        self.batch = nn.BatchNorm2d(num_features - self.half)

    def forward(self, x):
        first, second = torch.split(x, [self.half, x.shape[1] - self.half], dim=1)
        return torch.cat([self.instance(first.contiguous()), self.batch(second.contiguous())], dim=1)


class AutogradNorm(nn.BatchNorm2d):
    """The one-pass formula, its gradient left to autograd."""

    def forward(self, x):
        half = self.num_features // 2
        mean = x.mean((2, 3), dtype=torch.float32)
        var = (x - mean[:, :, None, None]).square().mean((2, 3))
        batch_mean = mean.mean(0)
        batch_var = var.mean(0) + (mean - batch_mean).square().mean(0)
        with torch.no_grad():
            self.running_mean.lerp_(batch_mean, self.momentum)
            self.running_var.lerp_(batch_var, self.momentum)
        mean = torch.cat((mean[:, :half], batch_mean[half:].expand(len(x), -1)), dim=1)
        var = torch.cat((var[:, :half], batch_var[half:].expand(len(x), -1)), dim=1)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None]).to(x.dtype)


def wbc(layout, norm=None):
    model = WBCForImageClassification(WBCConfig(norm_layout=layout))
    if norm is not None:
        for stage in model.resnet.encoder.stages:
            for block in stage.layers:
                if not isinstance(block.layer[0].normalization, InstanceBatchNorm2d):
                    raise RuntimeError("the layout has no instance-batch norm to replace")
                block.layer[0].normalization = norm(block.layer[0].normalization.num_features)
    return model, lambda model, images, labels: model(images, labels).loss


def torchvision_resnet():
    model = torchvision.models.resnet34(num_classes=4)
    return model, lambda model, images, labels: F.cross_entropy(model(images).float(), labels)


VARIANTS = {
    "torchvision ResNet-34": torchvision_resnet,
    "layout bn": lambda: wbc("bn"),
    "layout ibn": lambda: wbc("ibn"),
    "ibn, split and joined": lambda: wbc("ibn", SplitNorm),
    "ibn, autograd of the formula": lambda: wbc("ibn", AutogradNorm),
}


def step_times(
    device: torch.device, image_size: int, batch_size: int, steps: int, bf16: bool, channels_last: bool
) -> dict[str, tuple[float, float | None]]:
    """The median step of each variant in seconds, and on a GPU the peak of its memory in bytes."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device).to(memory_format=memory_format)
    labels = torch.arange(batch_size, device=device) % 4
    runs = {}
    for name, build in VARIANTS.items():
        model, loss_of = build()
        model = model.train().to(device, memory_format=memory_format)
        runs[name] = (model, loss_of, torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9), [], [])

    on_gpu = device.type == "cuda"
    for _ in range(steps + 2):
        for model, loss_of, optimizer, times, peaks in runs.values():
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            start = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = loss_of(model, images, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if on_gpu:
                torch.cuda.synchronize()
                peaks.append(torch.cuda.max_memory_allocated() - before)
            times.append(time.perf_counter() - start)
    return {
        name: (statistics.median(times[2:]), max(peaks[2:], default=None)) for name, (*_, times, peaks) in runs.items()
    }


def measure(small: bool) -> list[dict]:
    """The rows of the table: bfloat16 and float32, in channels_last, for two sizes of images and of batches."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for size, batch in ((64, 2),) if small else ((128, 32), (128, 64), (224, 32), (224, 64)):
        for bf16 in (True, False) if multiplies_bf16(device) else (False,):
            measured = step_times(device, size, batch, 1 if small else 6, bf16, channels_last=True)
            plain, _ = measured["torchvision ResNet-34"]
            rows += [
                {
                    "Training step": name,
                    "Type": "bfloat16" if bf16 else "float32",
                    "Pixels": size,
                    "Batch": batch,
                    "Median (ms)": round(1000 * median),
                    "of torchvision ResNet-34": round(median / plain, 2),
                }
                for name, (median, _) in measured.items()
            ]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each variant, after two to warm up")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--channels_last", action="store_true")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    measured = step_times(device, **vars(arguments))

    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    dtype = "bfloat16" if arguments.bf16 else "float32"
    layout = "channels last" if arguments.channels_last else "contiguous"
    shape = f"{arguments.batch_size} images of {arguments.image_size} px"
    print(f"{name}; torch {torch.__version__}; {shape}; {dtype}; {layout}\n")
    print("| training step | median ms | ratio | peak MiB |")
    print("| --- | ---: | ---: | ---: |")
    baseline, _ = measured["torchvision ResNet-34"]
    for name, (median, peak) in measured.items():
        memory = "–" if peak is None else f"{peak / 2**20:,.0f}"
        print(f"| {name} | {1000 * median:.1f} | {median / baseline:.2f} | {memory} |")


if __name__ == "__main__":
    main()
