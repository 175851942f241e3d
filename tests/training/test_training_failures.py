"""The death of a worker process that reads images is one line, whichever way the training learns of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, signal, sys, time
import torch
from torch.utils.data import DataLoader, Dataset
from hub.training.failures import failure_of

class Images(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            {dies}
        return torch.zeros(1000)

def refuse(*args, **kwargs):
    raise ConnectionRefusedError(111, "Connection refused")

def main():
    iterator = iter(DataLoader(Images(), batch_size=1, num_workers=1, prefetch_factor=8))
    {breaks}
    for images in iterator:
        {waits}

if __name__ == "__main__":
    sys.exit(failure_of(main))
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
# The connection to the worker breaks before the system says that it died.
REFUSES = "iterator._data_queue.get = refuse"


@pytest.mark.parametrize(
    ("dies", "waits", "breaks"),
    [(KILLED, "pass", ""), (KILLED, "time.sleep(1)", ""), ("pass", "pass", REFUSES)],
    ids=("at once", "later", "refused"),
)
def test_a_dead_worker_is_one_line(dies, waits, breaks):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(dies=dies, waits=waits, breaks=breaks)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "worker process" in line
    assert "--dataloader_num_workers" in line


def test_other_errors_stay_what_they_are():
    program = (
        "import sys\nfrom hub.training.failures import failure_of\ndef main():\n    {}\nsys.exit(failure_of(main))"
    )
    refused = "raise ConnectionRefusedError('the Hub')"
    user = "from hub.files import UserError\n    raise UserError('the file x')"
    for code, line, traceback in (
        (refused, "ConnectionRefusedError: the Hub", True),
        (user, "error: the file x", False),
    ):
        done = subprocess.run([sys.executable, "-c", program.format(code)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == line
        assert ("Traceback" in done.stderr) == traceback
