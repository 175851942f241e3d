"""Memory handling of training processes on CPUs."""

import ctypes
import sys


def keep_freed_memory() -> None:
    """Make the process keep the memory that a training step frees for the next step, where glibc manages it (Linux).

    By default, glibc returns large blocks to the kernel, which maps and clears each of their pages again in the next
    step. That takes longer than some of the arithmetic on CPUs, see `tests/benchmarks/benchmark_memory.py`. The price
    is that memory stays at its peak between steps.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # mallopt(3): the end of the heap is never returned (M_TRIM_THRESHOLD), no block lies outside it (M_MMAP_MAX).
        libc.mallopt(-1, -1)
        libc.mallopt(-4, 0)
