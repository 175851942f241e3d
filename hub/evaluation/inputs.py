"""Inputs of the figures: checked class ids and class names, and probabilities from logits.

The files that `metrics.py` needs import each other relatively: `evaluate.load` copies them beside it.
"""

from collections.abc import Sequence, Sized

import numpy as np
from numpy.typing import ArrayLike

FIGURES = ("precision", "recall", "f1")


def checked_ids(
    predictions: ArrayLike | None, references: ArrayLike | None, n: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Check that there is one prediction for each reference and that all are class ids.

    Args:
        predictions: N > 0 predicted class ids, integers.
        references: N true class ids, integers.
        n: The number of classes; None: any number.

    Returns:
        Predictions and references, int64 (N,) each.

    Raises:
        ValueError: Nothing was given, lengths differ, or an id is no integer or outside [0, n).
    """
    predictions, references = class_ids("predictions", predictions), class_ids("references", references)
    check_length("predictions", predictions, references)
    n = n or 1 + int(max(predictions.max(), references.max()))
    for what, ids in (("predictions", predictions), ("references", references)):
        outside = np.unique(ids[(ids < 0) | (ids >= n)])
        if len(outside):
            raise ValueError(
                f"{what} hold the class ids {outside.tolist()[:10]}, but ids from 0 to {n - 1} were expected; give "
                "every class its name, and drop ids such as -100 that mean 'ignore'"
            )
    return predictions, references


def class_ids(what: str, values: ArrayLike | None) -> np.ndarray:
    """Check that `values` are N > 0 integers and return them as int64, shape (N,); `what` names them in errors."""
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


def check_length(what: str, values: Sized, references: Sized) -> None:
    """Raise `ValueError` unless there is one value for each reference; `what` names the values in the message."""
    # sklearn.utils.check_consistent_length would name neither of the two.
    if len(values) != len(references):
        raise ValueError(f"got {len(values)} {what} and {len(references)} references; give one for each image")


def class_keys(label_names: Sequence[str]) -> list[str]:
    """The names as they appear in the keys of results, spaces as underscores.

    Raises:
        ValueError: There is no name, or two give the same key.
    """
    keys = [name.replace(" ", "_") for name in label_names]
    if not keys or len(set(keys)) != len(keys):
        raise ValueError(
            f"label_names must be one or more different names; got {list(label_names)}; rename the classes"
        )
    return keys


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, computed in float64: logits float (N, C) to probabilities float64 (N, C)."""
    import torch  # takes seconds, and most of what checks inputs does without

    return torch.from_numpy(logits).double().softmax(-1).numpy()
