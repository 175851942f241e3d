"""Seconds for the intervals of 2,000 resamples, on splits as large as the test splits of BCCD and PBC.

python tests/benchmarks/benchmark_bootstrap.py
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from hub.evaluation.intervals import paired_bootstrap
from hub.evaluation.metrics import WBCMetric
from tests.benchmarks.tables import print_rows


def seconds_for(images: int, classes: int, photographs: int | None) -> tuple[float, float]:
    """Seconds for all figures of `WBCMetric` with intervals, and for a paired bootstrap of two models."""
    rng = np.random.default_rng(0)
    shown = rng.integers(0, photographs or images, images)
    references = shown % classes
    first, second = (np.where(rng.random(images) < 0.8, references, rng.integers(0, classes, images)) for _ in "ab")
    names = [f"class {number}" for number in range(classes)]
    known = None if photographs is None else [f"photograph {number}" for number in shown]
    start = time.perf_counter()
    WBCMetric().compute(
        predictions=first,
        references=references,
        label_names=names,
        photographs=known,
        probabilities=rng.dirichlet(np.ones(classes), images),
        intervals=True,
    )
    middle = time.perf_counter()
    paired_bootstrap(first, second, references, names, photographs=known)
    return middle - start, time.perf_counter() - middle


def measure(small: bool) -> list[dict]:
    """The rows of the table."""
    seconds_for(100, 4, None)  # The first call includes imports.
    rows = []
    for title, given in {
        "2,487 images of 71 photographs, 4 classes": (2487, 4, 71),
        "2,487 images, photographs unknown, 4 classes": (2487, 4, None),
        "1,710 images, photographs unknown, 8 classes": (1710, 8, None),
    }.items():
        figures, paired = seconds_for(*((100, *given[1:]) if small else given))
        rows.append({"Split": title, "All figures (s)": round(figures, 2), "Paired (s)": round(paired, 2)})
    return rows


if __name__ == "__main__":
    print_rows(measure(False))
