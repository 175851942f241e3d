"""Logging, threads and memory handling of the training process."""

import logging
import os

import joblib
import torch
import transformers

from hub.training.arguments import WBCTrainingArguments
from hub.training.memory import keep_freed_memory


def set_up_process(args: WBCTrainingArguments) -> None:
    """Set the process's logging, threads and memory handling."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    for http in ("httpx", "httpx2"):  # which log each request to the Hub
        logging.getLogger(http).setLevel(logging.WARNING)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if args.use_cpu and launched and os.environ.get("OMP_NUM_THREADS") == "1":
        # The default of launchers, which suits a GPU's process and leaves the other cores of a CPU idle.
        torch.set_num_threads(max(1, joblib.cpu_count() // args.world_size))
    if args.use_cpu:
        keep_freed_memory()
