"""Sampling of training images evenly over labs, types and photographs."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from datasets import Dataset

from hub.training.images import CellImages

MIN_LAB_IMAGES = 300  # of a lab that decides a threshold


class BalancedSampler(torch.utils.data.WeightedRandomSampler):
    """Draw as many rows as there are, with replacement, evenly over labs, then types, then photographs.

    The rows drawn depend on the seed and the epoch of `images` alone: every process of a distributed run draws the
    same ones, of which accelerate gives each process its own batches, and a resumed run draws them again. (torch's
    own sampler would go on from the state of its generator, which a resumed run does not have.)

    Args:
        images: The training images.
        balance: See `balanced_weights`.
    """

    def __init__(self, images: CellImages, balance: float = 1.0):
        super().__init__(balanced_weights(images.dataset, balance), len(images), generator=torch.Generator())
        self.images = images

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(random.Random(f"{self.images.seed} {self.images.epoch}").getrandbits(63))
        yield from super().__iter__()


def balanced_weights(dataset: Dataset, balance: float = 1.0) -> np.ndarray:
    """Return the probability (N,) float64 of each row when each level is drawn uniformly within the one above.

    The levels are the columns `lab`, `label` and `photograph`, as far as they exist, and the row. A row without a
    value counts as a value of its own.

    Args:
        dataset: N rows.
        balance: Exponent in [0, 1] of that probability: 1 draws labs evenly, 0 draws rows evenly, and with 0.5, the
            share of a lab lies between both, as its geometric mean.
    """
    levels = [name for name in ("lab", "label", "photograph") if name in dataset.column_names]
    rows = np.arange(len(dataset))
    table = pd.DataFrame({"row": rows})
    for level in levels:
        codes, _ = pd.factorize(pd.Series(dataset[level][:]))
        table[level] = np.where(codes < 0, len(rows) + rows, codes)
    weights = np.full(len(rows), 1 / table[levels[0]].nunique())
    for depth, level in enumerate([*levels[1:], "row"], 1):
        weights *= 1 / table.groupby(levels[:depth])[level].transform("nunique").to_numpy()
    weights = weights**balance
    return weights / weights.sum()


def deciding_labs(origins: Sequence[str] | np.ndarray) -> list[str]:
    """Return the labs that decide a threshold: those of at least `MIN_LAB_IMAGES` images, or all if none has as many.

    Of 85 images, 99.5 % are all: a single crop that shows no cell would let other images pass in every lab.

    Args:
        origins: The lab of each image, at least one.
    """
    counts: Counter = Counter(origins)
    return [lab for lab, count in counts.items() if count >= MIN_LAB_IMAGES] or [*counts]
