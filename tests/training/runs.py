"""Runs of train.py, for several test files: through its arguments, on drawn cells, with a tiny network."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32}


def arguments(data, tiny, output, *more):
    return [
        *("--dataset_name", data, "--model_name_or_path", tiny, "--output_dir", str(output)),
        *("--per_device_train_batch_size", "8", "--learning_rate", "0.02", "--logging_steps", "1"),
        *("--disable_tqdm", "True", *more),
    ]


def launch(*args, **kwargs):
    return subprocess.Popen(
        [sys.executable, *args], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs
    )
