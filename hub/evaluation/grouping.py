"""Images grouped by photograph and by confidence."""

from collections.abc import Sequence

import numpy as np

from .inputs import check_length


def cluster_ids(photographs: Sequence[str | None] | None, references: np.ndarray) -> np.ndarray:
    """Number the photographs in the order of their first image.

    Args:
        photographs: The name of the photograph that each image shows; an image with None, or every image if there is
            no list, is a cluster of its own.
        references: N true class ids.

    Returns:
        int64 (N,), the same number from 0 to G - 1 for images of the same photograph.

    Raises:
        ValueError: The lengths differ.
    """
    if photographs is None:
        return np.arange(len(references))
    check_length("photographs", photographs, references)
    numbers: dict = {}
    # An image without a photograph has a key of its own, which no name equals.
    keys = [(index,) if name is None else name for index, name in enumerate(photographs)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def sum_by(clusters: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum the rows of `values`, (N, K), over each of the G clusters: float64 (G, K)."""
    sums = np.zeros((clusters.max() + 1, values.shape[1]))
    np.add.at(sums, clusters, values)
    return sums


def majority_right(predictions: np.ndarray, references: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Whether the true class of each cluster has more votes than any other class: float64 (G,), 0 or 1.

    Raises:
        ValueError: A cluster has images of several classes.
    """
    n = max(predictions.max(), references.max()) + 1
    classes = sum_by(clusters, np.eye(n)[references]) > 0
    if (mixed := classes.sum(axis=1) > 1).any():
        raise ValueError(f"{mixed.sum()} of the photographs have images of several classes; give each photograph one")
    votes = sum_by(clusters, np.eye(n)[predictions])
    right = votes[classes]
    votes[classes] = -1
    return (right > votes.max(axis=1)).astype(float)


def confidence_bins(confidence: np.ndarray, bins: int = 15) -> np.ndarray:
    """The bin of each of N confidences in [0, 1]: int (N,), k for those in (k / bins, (k + 1) / bins]."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def calibration_gaps(probabilities: np.ndarray, references: np.ndarray, bins: int = 15) -> np.ndarray:
    """Correctness (1 or 0) less confidence of each image, in the column of its confidence bin: float64 (N, bins).

    Raises:
        ValueError: The probabilities are not of shape (N, C), or one is outside [0, 1].
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or len(probabilities) != len(references):
        raise ValueError(
            f"probabilities must have a row for each of the {len(references)} references and a column for each "
            f"class; got an array of shape {probabilities.shape}"
        )
    # Softmax in a lower precision may be off 1 by a rounding error.
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-3)).all():
        raise ValueError("probabilities must lie in [0, 1]; apply softmax to logits")
    confidence = np.minimum(probabilities.max(axis=1), 1.0)
    right = probabilities.argmax(axis=1) == references
    gaps = np.zeros((len(references), bins))
    gaps[np.arange(len(references)), confidence_bins(confidence, bins)] = right - confidence
    return gaps
