"""Time and memory of training steps on a CPU, with what glibc does on its own and with `keep_freed_memory`.

```bash
python tests/benchmarks/benchmark_memory.py --image_size 224 --batch_size 128
```

Forward, backward and SGD step in bf16 and channels_last, without a data loader. Each row is a process of its own, as
what is kept cannot be given back; they take turns, so that a change of the machine's speed meets both.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hub.training.memory import keep_freed_memory
from modeling_wbc import WBCConfig, WBCForImageClassification
from tests.benchmarks.tables import print_rows


def measure_steps(keep: bool, image_size: int, batch_size: int, steps: int) -> tuple[float, float, float]:
    """The median step in seconds, thousands of page faults in a step, and the peak of memory in GiB."""
    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    model = WBCForImageClassification(WBCConfig(image_size=image_size)).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    pixel_values = torch.randn(batch_size, 3, image_size, image_size).to(memory_format=torch.channels_last)
    labels = torch.randint(model.config.num_labels, (batch_size,))
    seconds, faults = [], []
    for _ in range(steps + 2):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(pixel_values=pixel_values, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    # The first two steps reserve what the others use.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return statistics.median(seconds[2:]), statistics.median(faults[2:]) / 1000, peak


def measure(small: bool, image_size: int = 224, batch_size: int = 128, steps: int = 5) -> list[dict]:
    """The rows of the table."""
    if small:
        image_size, batch_size, steps = 64, 2, 1
    rows = []
    for keep in (False, True) * 2:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, faults, peak = pool.apply(measure_steps, (keep, image_size, batch_size, steps))
        figures = {"Step (s)": round(seconds, 2), "Images/s": round(batch_size / seconds)}
        figures |= {"Page faults (thousand)": round(faults, 1), "Peak (GiB)": round(peak, 1)}
        rows.append({"Freed memory": "kept" if keep else "given back", **figures})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    print_rows(measure(False, args.image_size, args.batch_size, args.steps))


if __name__ == "__main__":
    main()
