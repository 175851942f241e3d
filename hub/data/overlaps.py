"""Photographs that show parts of the same field.

Two photographs overlap where one is the other, shifted: the stage of the microscope was moved by less than a field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from hub.data.sift import map_on_all_cores, sift_features

# Pearson correlation of the common part above which two photographs overlap. Of BCCD's 67,161 pairs, those that do
# are above 0.88, and no other is above 0.83.
MIN_CORRELATION = 0.86
# Smallest share of the field that an overlap is looked for in: less has too few pixels to be sure.
MIN_OVERLAP = 0.04

_FEATURES = 400


class Joined(Protocol):
    """Two images that show the same, by their names."""

    @property
    def first(self) -> str: ...  # noqa: D102

    @property
    def second(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Overlap:
    """Two photographs that show parts of the same field.

    Attributes:
        first, second: Their names, in order.
        shift: (dx, dy), pixels of 320 x 240, from a point in `first` to the same point in `second`.
        area: Share of the field that both show, in [0, 1].
        correlation: Pearson's, of the grey levels there, in [-1, 1].
    """

    first: str
    second: str
    shift: tuple[int, int]
    area: float
    correlation: float


def find_overlaps(photographs: Mapping[str, np.ndarray]) -> list[Overlap]:
    """Find every pair of photographs that overlap by a shift, in the order of `photographs`.

    Args:
        photographs: Grey images by name, uint8 (240, 320) (see `hub.data.sift.grey`).
    """
    names, images = list(photographs), list(photographs.values())
    features = map_on_all_cores(lambda image: sift_features(image, _FEATURES), images, "Describing photographs")

    def overlaps_of(first: int) -> list[Overlap]:
        """The overlaps of a photograph with later ones."""
        found = []
        for second in range(first + 1, len(names)):
            shift = _common_shift(features[first], features[second])
            if shift is None:
                continue
            # The shift is right to a pixel or two.
            shifts = [(shift[0] + dx, shift[1] + dy) for dx in range(-2, 3) for dy in range(-2, 3)]
            correlation, area, shift = max((*_correlation(images[first], images[second], s), s) for s in shifts)
            if correlation >= MIN_CORRELATION:
                found.append(Overlap(names[first], names[second], shift, round(area, 3), round(correlation, 3)))
        return found

    return list(chain.from_iterable(map_on_all_cores(overlaps_of, range(len(names)), "Finding overlaps")))


def fields(photographs: Iterable[str], overlaps: Iterable[Joined]) -> dict[str, str]:
    """Name the field of each photograph.

    Args:
        photographs: Their names.
        overlaps: Pairs of them.

    Returns:
        For each photograph the first name among those that it overlaps with, directly or through others.
    """
    field = {name: name for name in photographs}

    def root(name: str) -> str:
        while field[name] != name:
            name = field[name]
        return name

    for overlap in overlaps:
        a, b = sorted((root(overlap.first), root(overlap.second)))
        field[b] = a
    return {name: root(name) for name in field}


def _common_shift(first: tuple, second: tuple) -> tuple[int, int] | None:
    """The (dx, dy) that most matching features of two images agree on, if four do."""
    similarity = first[1] @ second[1].T
    if not similarity.size:
        return None
    good = similarity.max(axis=1) > 0.8
    if good.sum() < 4:
        return None
    shifts = second[0][similarity.argmax(axis=1)[good]] - first[0][good]
    agree = np.abs(shifts[:, None] - shifts).max(axis=2) < 3
    most = agree.sum(axis=1).argmax()
    if agree[most].sum() < 4:
        return None
    dx, dy = np.rint(shifts[agree[most]].mean(axis=0)).astype(int).tolist()
    return dx, dy


def _correlation(first: np.ndarray, second: np.ndarray, shift: tuple[int, int]) -> tuple[float, float]:
    """Correlation of the common part of two images (0 where it is too small), and its share of the field."""
    height, width = first.shape
    dx, dy = shift
    left, right, top, bottom = max(0, dx), min(width, width + dx), max(0, dy), min(height, height + dy)
    area = max(0, right - left) * max(0, bottom - top) / (width * height)
    if area < MIN_OVERLAP:
        return 0.0, area
    x = first[top - dy : bottom - dy, left - dx : right - dx].astype(np.float32)
    y = second[top:bottom, left:right].astype(np.float32)
    x -= x.mean()
    y -= y.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum() + 1e-9)), area
