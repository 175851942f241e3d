"""Cut a validation split that shares no slide or patient with the images to train on."""

from __future__ import annotations

from itertools import chain

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, train_test_split

SHARE = 0.2  # Of each class, about.
# Random choices for each share of the groups: groups differ in size, so that a fifth of a class may take more of them.
_DRAWS = 1000
_SHARES_OF_GROUPS = (0.2, 0.25, 0.3)


def hold_out(rows: list[dict], seed: int) -> tuple[list[dict], list[dict]]:
    """Hold out about a fifth of the rows of each class, by whole groups where groups are known.

    Of 3,000 random choices of 20 to 30 % of the groups, the one is taken that leaves most classes on both sides, and
    among these the one whose share of each class is nearest to a fifth. A class of a single group is on one side only.

    Args:
        rows: With `label` and, where it is known, `group`; a row without a group is a group of its own.
        seed: Of the choice; the same rows and seed give the same split.

    Returns:
        The rows to train on and those held out, in their order. Nothing is held out where there are fewer than five
        groups, or, without groups, fewer than five rows of a class.
    """
    labels = np.unique([row["label"] for row in rows], return_inverse=True)[1]
    totals = np.bincount(labels)
    if all(row.get("group") is None for row in rows):
        if totals.min() < 1 / SHARE:
            return list(rows), []
        _, chosen = train_test_split(np.arange(len(rows)), test_size=SHARE, random_state=seed, stratify=labels)
    else:
        groups = np.array([row.get("group") or f"\0{index}" for index, row in enumerate(rows)])
        if len(set(groups)) < 1 / SHARE:
            return list(rows), []

        def rank(held_out: np.ndarray) -> tuple[int, float]:
            """Fewest classes on one side only come first, then the shares nearest to a fifth."""
            shares = np.bincount(labels[held_out], minlength=len(totals)) / totals
            return int(((shares == 0) | (shares == 1)).sum()), float(np.abs(shares - SHARE).sum())

        draws = chain.from_iterable(
            GroupShuffleSplit(_DRAWS, test_size=share, random_state=seed).split(labels, groups=groups)
            for share in _SHARES_OF_GROUPS
        )
        chosen = min((held_out for _, held_out in draws), key=rank)
    held_out = set(chosen.tolist())
    return (
        [row for index, row in enumerate(rows) if index not in held_out],
        [row for index, row in enumerate(rows) if index in held_out],
    )
