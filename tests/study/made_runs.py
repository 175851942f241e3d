"""Finished runs of the ablation study, made up."""

import json

import numpy as np

from hub.data.bccd import BCCD_CLASSES
from hub.evaluation.compare import write_predictions
from hub.study.ablation_rows import run_folder


def write_run(output, name, lab, seed, right, rng):
    """A finished run whose answers are right with the given chance, over 3 files of each of 16 photographs and PBC."""
    folder = run_folder(output, name, lab, seed)
    folder.mkdir(parents=True)
    for split, count, labs in (("validation", 8, 1), ("test_simple", 8, 1), ("test", 16, 2)):
        rows = [(f"bccd/{n}-{copy}", "bccd", f"photo {n}", n % 4) for n in range(count) for copy in range(3)]
        rows += [(f"pbc/{n}", "pbc", None, n % 4) for n in range(20)] * (labs - 1)
        files, origins, photographs, labels = zip(*rows, strict=True)
        answers = np.where(rng.random(len(rows)) < right, labels, rng.integers(0, 4, len(rows)))
        write_predictions(
            folder / f"{split}_predictions.csv",
            np.eye(4)[answers] * 3,
            np.array(labels),
            BCCD_CLASSES,
            {"file_name": files, "lab": origins, "photograph": photographs},
        )
    (folder / "run.json").write_text(json.dumps({"arguments": [], "seconds": 60, "device": "CPU", "software": "t"}))
    loss = 2 - right
    history = [
        {"epoch": epoch, "cross_entropy": loss / epoch, "eval_accuracy": right} for epoch in range(seed, seed + 3)
    ]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
