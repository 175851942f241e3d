"""Tables of benchmarks: printed, and written with the machine that they were measured on."""

import importlib
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from hub.evaluation.format import text_table
from hub.files import write_json

RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"


def machine() -> str:
    """The processor, the cores that may be used, the memory, and the GPU if there is one."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        model = ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [model or platform.processor() or platform.machine(), f"{cores} cores", f"{memory:.0f} GiB"]
    parts += [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join(parts)


def measure(name: str, small: bool) -> list[dict]:
    """The rows of the table of a benchmark, measured in this process."""
    return importlib.import_module(f"tests.benchmarks.benchmark_{name}").measure(small)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; CPUs without them imitate it at a fraction of the speed."""
    return device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def print_rows(rows: Sequence[dict]) -> None:
    """Print rows with the same keys."""
    print(text_table([[*rows[0]], *([str(value) for value in row.values()] for row in rows)]), flush=True)


def write(name: str, title: str, command: str, rows: Sequence[dict], folder: Path = RESULTS) -> None:
    """Write a table as `<name>.json`."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["transformers"] = transformers.__version__
    about = {"title": title, "command": command, "machine": machine(), "versions": versions}
    write_json(folder / f"{name}.json", about | {"rows": list(rows)})
