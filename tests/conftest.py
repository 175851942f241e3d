"""Shared by all tests: no network, and models small enough for seconds."""

import os

# Before any import of huggingface_hub, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
