"""Runs of `python -m hub` in processes of their own, which a test may kill."""

import os
import resource
import signal
import sys
import time

import torch

import hub.inference.predict  # noqa: F401  # imported once, for all processes
import hub.inference.rows  # noqa: F401
from hub.__main__ import main


def run(argv, stderr, file_size=None):
    """Run the command line as `python -m hub` does, in a group of its own; `file_size` limits files as a disk does."""
    os.setsid()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    sys.stderr = open(stderr, "w", encoding="utf-8", buffering=1)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")
    sys.exit(main(argv))


def start(context, argv, stderr, file_size=None):
    """Start a run."""
    process = context.Process(target=run, args=(list(map(str, argv)), stderr, file_size))
    process.start()
    return process


def finish(process, seconds=60):
    """Wait for a run and return its exit code."""
    process.join(seconds)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def answered(output):
    """How many inputs an unfinished run has answered."""
    return sum(path.read_bytes().count(b"\n") for path in output.glob(".unfinished/*.jsonl"))


def wait_until(condition, process):
    """Wait until a condition holds or a run has ended, and say which."""
    while process.exitcode is None:
        if condition():
            return True
        time.sleep(0.002)
    return False
