"""Memory that is kept between training steps."""

import subprocess
import sys

import pytest
from runs import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc can be set")
def test_a_step_on_a_cpu_uses_the_memory_of_the_last_one_again():
    # In a process of its own, since kept memory is never returned.
    steps = """
import resource, sys, torch
from hub.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for step in range(10):  # the first of which lay out the heap
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**24) for _ in range(4)]  # 64 MiB each
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        way: int(subprocess.run([sys.executable, "-c", steps, way], cwd=ROOT, capture_output=True, text=True).stdout)
        for way in ("keep", "return")
    }
    assert faults["keep"] < 100 < 10_000 < faults["return"]
