"""Checked class ids, and images grouped by photograph."""

from collections.abc import Sequence

import numpy as np


def confidence_bins(confidence: np.ndarray, bins: int = 15) -> np.ndarray:
    """The bin of each of N confidences in [0, 1]: int (N,), k for those in (k / bins, (k + 1) / bins]."""
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def cluster_ids(photographs: Sequence[str | None] | None, count: int) -> np.ndarray:
    """A number from 0 for each image, int64 (N,), equal for those that show the same photograph."""
    if photographs is None:
        return np.arange(count)
    if len(photographs) != count:
        raise ValueError(f"got {len(photographs)} photographs and {count} references; give one for each image")
    numbers: dict = {}
    # An image without a photograph has a key of its own, which no name equals.
    keys = [(index,) if name is None else name for index, name in enumerate(photographs)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def sum_by(clusters: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum the rows of `values`, (N, K), of each of the G clusters: (G, K)."""
    sums = np.zeros((clusters.max() + 1, values.shape[1]))
    np.add.at(sums, clusters, values)
    return sums


def majority_right(predictions: np.ndarray, references: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Whether each cluster's right class has more votes than any other: float64 (G,)."""
    n = max(predictions.max(), references.max()) + 1
    classes = sum_by(clusters, np.eye(n)[references]) > 0
    if (mixed := classes.sum(axis=1) > 1).any():
        raise ValueError(f"{mixed.sum()} of the photographs have images of several classes; give each photograph one")
    votes = sum_by(clusters, np.eye(n)[predictions])
    right = votes[classes]
    votes[classes] = -1
    return (right > votes.max(axis=1)).astype(float)


def calibration_gaps(probabilities: np.ndarray, references: np.ndarray, bins: int = 15) -> np.ndarray:
    """Correctness less confidence of each image, in the column of its bin: float64 (N, bins)."""
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
    column = confidence_bins(confidence, bins)
    gaps = np.zeros((len(references), bins))
    gaps[np.arange(len(references)), column] = right - confidence
    return gaps


def checked_ids(predictions, references, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Check that there is a prediction for each reference, ids of n classes (None: of any number); both as int64."""
    predictions, references = class_ids("predictions", predictions), class_ids("references", references)
    check_lengths(predictions, references)
    n = n or 1 + int(max(predictions.max(), references.max()))
    for what, ids in (("predictions", predictions), ("references", references)):
        outside = np.unique(ids[(ids < 0) | (ids >= n)])
        if len(outside):
            raise ValueError(
                f"{what} hold the class ids {outside.tolist()[:10]}, but ids from 0 to {n - 1} were expected; give "
                "every class its name, and drop ids such as -100 that mean 'ignore'"
            )
    return predictions, references


def check_lengths(predictions: np.ndarray, references: np.ndarray) -> None:
    if len(predictions) != len(references):
        raise ValueError(
            f"got {len(predictions)} predictions and {len(references)} references; "
            "give one prediction for each reference"
        )


def class_ids(what: str, values) -> np.ndarray:
    """Check that `values` are N > 0 integers and return them as int64, shape (N,)."""
    if values is None:
        raise ValueError(f"got no {what}; give both predictions and references")
    array = np.asarray(values)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{what} must be a list of at least one class id; got an array of shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{what} must be integer class ids; got {array.dtype} such as {array[0]!r}; "
            "take the argmax of logits, or map names to ids"
        )
    return array.astype(np.int64)


def class_keys(label_names: Sequence[str]) -> list[str]:
    """Return the names as they appear in result keys."""
    keys = [name.replace(" ", "_") for name in label_names]
    if not keys or len(set(keys)) != len(keys):
        raise ValueError(
            f"label_names must be one or more different names; got {list(label_names)}; rename the classes"
        )
    return keys
