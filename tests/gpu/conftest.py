"""Every test runs on the CPU at a small size, and on a GPU, where there is one, at a size that means something.

With WBC_GPU_OUTPUT, a folder, `report.json` in it says after every test what passed, how long it took and what was
measured: a run that is stopped leaves what it had. `run.sh` sets it.
"""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import pytest
import torch

REPORT = {"tests": {}, "measured": {}}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """A device on which what chooses its device itself, such as the Space, is too."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    if request.param == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return torch.device(request.param)


@pytest.fixture
def on_gpu(device):
    return device.type == "cuda"


@pytest.fixture
def record(request):
    """Keep measured values, for the report."""

    def record(**values):
        REPORT["measured"].setdefault(request.node.name, {}).update(values)

    return record


def pytest_runtest_logreport(report):
    if "gpu/" not in report.nodeid or not (folder := os.environ.get("WBC_GPU_OUTPUT")):
        return
    row = REPORT["tests"].setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
    row["seconds"] = round(row["seconds"] + report.duration, 2)
    if report.outcome != "passed":
        row |= {"outcome": report.outcome, "why": str(report.longrepr)[-2000:]}
    REPORT["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    REPORT["software"] = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "accelerate")}
    REPORT["software"] |= {"python": platform.python_version(), "cuda": torch.version.cuda}
    path = Path(folder, "report.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(REPORT, indent=2) + "\n", encoding="utf-8")
