"""The GPU that a Space of the kind ZeroGPU is lent for the moment of a call; elsewhere there is none of this."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

try:
    import spaces  # installed by the Hub, where there is a GPU to lend
except ImportError:
    spaces = None

ON_ZERO_GPU = spaces is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


@cache
def _model(source: str):
    """The model, once in each process that is lent a GPU."""
    import torch
    from transformers import AutoModelForImageClassification

    # The process is a fork of one with threads, which it lacks.
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForImageClassification.from_pretrained(source, trust_remote_code=True).eval().to(device)


def _analyze(source: str, images: list) -> list:
    return _model(source).analyze(images)


# Arguments and result travel between processes. A Space on ZeroGPU does not start without such a function.
analyze_on_gpu: Callable[[str, list], list[Any]] = spaces.GPU(_analyze) if ON_ZERO_GPU else _analyze
