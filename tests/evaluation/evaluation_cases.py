"""Predictions that several test files of this folder need."""

import numpy as np

PAPER_NAMES = ["EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"]
NAMES = ["basophil", "eosinophil", "neutrophil"]


def random_case(names=PAPER_NAMES, n=400, absent=(), seed=0):
    rng = np.random.default_rng(seed)
    present = [k for k in range(len(names)) if k not in absent]
    references = rng.choice(present, n)
    predictions = np.where(rng.random(n) < 0.8, references, rng.integers(0, len(names), n))
    return predictions, references


def clustered_case(clusters=40, size=30, seed=0):
    """Images of photographs that are mostly right or mostly wrong together: predictions, references, photographs."""
    rng = np.random.default_rng(seed)
    photographs = np.repeat(np.arange(clusters), size)
    references = photographs % 3
    skill = rng.choice([0.95, 0.2], clusters)[photographs]
    predictions = np.where(rng.random(len(references)) < skill, references, (references + 1) % 3)
    return predictions, references, [f"photo {number}" for number in photographs]


def case():
    """Ten images: six of `bccd`, which has no basophil, of three photographs, and four of `pbc`."""
    references = np.array([1, 1, 1, 1, 2, 2, 0, 0, 1, 2])
    answers = np.array([1, 0, 1, 1, 2, 1, 0, 2, 1, 2])
    logits = np.eye(3)[answers] * 4.0
    logits[1] = [4, 3, 0]  # taken for a basophil, and for an eosinophil once that is out of the question
    columns = {
        "file_name": [f"{k}.png" for k in range(10)],
        "lab": ["bccd"] * 6 + ["pbc"] * 4,
        "photograph": ["p", "p", "q", "q", "r", "r", None, None, None, None],
        "group": ["p", "p", "q", "q", "q", "q", None, None, None, None],
    }
    return logits, references, columns
