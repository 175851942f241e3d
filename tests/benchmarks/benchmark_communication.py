"""Bytes that two processes exchange in a training step, counted at the loopback interface.

```bash
unshare --net bash -c "ip link set lo up && python tests/benchmarks/benchmark_communication.py"
```

The network of the paper under DistributedDataParallel, its loss mined over both processes. The network namespace keeps
other traffic out of the count. Images are small: what is exchanged does not depend on their size, and on their number
only by the embeddings that the loss gathers.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modeling_wbc import WBCConfig, WBCForImageClassification


def loopback_bytes() -> int:
    """The bytes that this machine has sent to itself."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def work(rank: int, batch_size: int, steps: int, port: int) -> None:
    """Train on a rank; the first one prints what was sent in each step."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DistributedDataParallel(WBCForImageClassification(WBCConfig(image_size=64)).train())
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    images, labels = torch.randn(batch_size, 3, 64, 64), torch.arange(batch_size) % 4
    for step in range(steps + 1):
        dist.barrier()
        before = loopback_bytes()
        model(images, labels).loss.backward()
        dist.barrier()
        if rank == 0 and step:  # the first step also exchanges which gradients there are
            sent = loopback_bytes() - before
            print(f"step {step}: {sent / 1e6:.1f} MB sent by both, {sent / 2 / size:.2f} of the gradients by each")
    if rank == 0:
        print(f"gradients: {size / 1e6:.1f} MB in float32")
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=2, help="of each process")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--port", type=int, default=29511)
    args = parser.parse_args()
    mp.spawn(work, (args.batch_size, args.steps, args.port), nprocs=2)
