"""Sampling of training images evenly over labs, types and photographs."""

import math
import random
from collections import defaultdict
from collections.abc import Iterator

import torch

from hub.training.images import CellImages


class BalancedSampler(torch.utils.data.Sampler):
    """Draws rows with replacement: a dataset, a class of it, a photograph of that and a file of that, each evenly.

    What a row lacks (`dataset`, `photograph`) is passed over. The rows drawn are a function of seed and epoch.
    """

    def __init__(self, images: CellImages):
        self.images = images
        rows = images.dataset
        columns = [rows[name][:] for name in ("dataset", "label", "photograph") if name in rows.column_names]
        # From the dataset down to the row; an unknown photograph is one of its own.
        paths = [
            (*(("row", row) if value is None else value for value in values), row)
            for row, values in enumerate(zip(*columns, strict=True))
        ]
        choices: dict[tuple, set] = defaultdict(set)
        for path in paths:
            for depth, choice in enumerate(path):
                choices[path[:depth]].add(choice)
        shares = [math.prod(1 / len(choices[path[:depth]]) for depth in range(len(path))) for path in paths]
        self.weights = torch.tensor(shares, dtype=torch.float64)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(random.Random(f"{self.images.seed} {self.images.epoch}").getrandbits(63))
        yield from torch.multinomial(self.weights, len(self), replacement=True, generator=generator).tolist()
