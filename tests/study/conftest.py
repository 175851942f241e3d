"""Shared by the tests of the studies."""

import json

import numpy as np
import pytest

from hub.study.ablation_rows import REFERENCES
from tests.study.made_runs import write_run


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    (folder / "plan.json").write_text(json.dumps({"budget": {"epochs": 2, "image_size": 64}, "imagenet": False}))
    for seed in (1, 2, 3):
        for lab in ("bccd", "pbc"):
            write_run(folder, REFERENCES["ablations"], lab, seed, 0.5, rng)
            write_run(folder, "ibn-hard", lab, seed, 0.9, rng)
    write_run(folder, "ibn-ce", "bccd", 1, 0.8, rng)
    write_run(folder, "resnet50", "bccd", 1, 0.7, rng)
    write_run(folder, "ibn-resnet34", "bccd", 1, 0.8, rng)
    return folder
