"""Processes and threads of a run: which inputs are this process's, and how the cores of its machine are shared."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import joblib
import torch
from accelerate import PartialState

_MAX_WORKERS = 16
# A process that has finished its inputs waits for the others: no limit of an ordinary collective.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Share:
    """The part of a run that is this process's.

    Attributes:
        index: The number of this process, from 0.
        count: The number of all processes.
        local_index: The number of this process on its machine, from 0.
        local_count: The number of processes on its machine.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    @classmethod
    def of_launched(cls) -> "Share":
        """Join the processes that `accelerate launch` or `torchrun` started; alone without them."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        state = PartialState(cpu=True, timeout=_PATIENCE)  # the processes exchange nothing but that they are done
        local_count = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
        return cls(state.process_index, state.num_processes, state.local_process_index, local_count)

    def wait(self) -> None:
        """Wait until all processes have come here."""
        if self.count > 1:
            PartialState().wait_for_everyone()

    def device(self) -> torch.device:
        """The device of this process's network: a GPU if there is any."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local_index % torch.cuda.device_count())


def share_cores(share: Share, images: int | None, workers: int | None, on_cpu: bool) -> tuple[int, int]:
    """Share the cores of this process between worker processes and the threads of the network.

    Reading an image and finding its cells costs about as much as classifying one cell on one core, so the network gets
    half of the cores; a GPU leaves all but one to the workers.

    Args:
        share: Of this process.
        images: The number of images, None if it is unknown.
        workers: The number of worker processes that the user wants, None for a sensible one.
        on_cpu: Whether the network runs on these cores.

    Returns:
        The number of worker processes, and the number of threads of the network.
    """
    cores = max(1, joblib.cpu_count() // share.local_count)
    if workers is None:
        useful = cores // 2 if on_cpu else cores - 1
        few = images is not None and images < 2 * share.count  # not worth the start of a process
        workers = 0 if few else min(useful, _MAX_WORKERS)
    given = os.environ.get("OMP_NUM_THREADS")
    # Launchers set 1, which suits a GPU's process, unless the user sets another number.
    if given is not None and not (given == "1" and share.count > 1):
        return workers, torch.get_num_threads()
    return workers, max(1, cores - workers)


@contextmanager
def network_threads(count: int) -> Iterator[None]:
    """Have torch compute with `count` threads, and with those of the caller afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
