"""What a process does with the memory that it frees."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Has the process keep the memory that a training step frees for the next step, where glibc manages it (Linux).

    On its own, glibc returns large blocks to the kernel, which maps and clears each of their pages anew in the next
    step. That takes longer than some of the arithmetic on CPUs, see `tests/benchmarks/benchmark_memory.py`. The price
    is that memory stays at its peak between steps.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # mallopt(3): nothing of the heap's end is returned (M_TRIM_THRESHOLD), no block lies outside it (M_MMAP_MAX).
        libc.mallopt(-1, -1)
        libc.mallopt(-4, 0)
