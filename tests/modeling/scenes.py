"""Drawn fields with cells at known places."""

import math

import numpy as np
import torch
from PIL import Image

# Transmitted shares of the background's red, green and blue.
RED_CELL, CYTOPLASM, NUCLEUS, PLATELET = (0.88, 0.66, 0.64), (0.86, 0.8, 0.88), (0.42, 0.28, 0.64), (0.62, 0.44, 0.78)
ROUND = [(0.0, 0.0, 1.0)]


TWO = [(90, 80, 26, ROUND), (230, 150, 20, [(-0.55, -0.2, 0.5), (0.5, -0.3, 0.5), (0.1, 0.5, 0.5)])]


def disc(field, x, y, radius, color):
    """Multiplies a disc, with a soft edge of about a pixel, into a field (H, W, 3) of transmitted light."""
    left, top = (max(0, int(middle - radius) - 2) for middle in (x, y))
    part = field[top : int(y + radius) + 3, left : int(x + radius) + 3]
    rows, columns = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]] + 0.5
    inside = np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1)[..., None]
    part *= 1 - inside + inside * np.array(color)


def scene(cells, size=(320, 240), background=(228, 224, 216), platelets=(), red=40, red_cell=RED_CELL, seed=0):
    """A field with white cells (x, y, radius of the nucleus, its lobes), and the boxes of their nuclei.

    Lobes are discs (x, y, radius) in units of the nucleus's radius. Red cells keep away from white ones, so that the
    detector's result does not depend on chance.
    """
    width, height = size
    rng = np.random.default_rng(seed)
    field = np.ones((height, width, 3))
    unit = max((radius for *_, radius, _ in cells), default=height / 10)
    for _ in range(red):
        x, y = rng.uniform((0, 0), size)
        if all(math.hypot(x - cell[0], y - cell[1]) > 2.6 * cell[2] + unit for cell in cells):
            disc(field, x, y, 0.9 * unit, red_cell)
            disc(field, x, y, 0.35 * unit, (1.06, 1.2, 1.2))
    for x, y, radius in platelets:
        disc(field, x, y, radius, PLATELET)
    boxes = []
    for x, y, radius, lobes in cells:
        disc(field, x, y, 1.35 * radius, CYTOPLASM)
        parts = [(x + radius * a, y + radius * b, radius * c) for a, b, c in lobes]
        left, top = max(0, int(x - 2 * radius)), max(0, int(y - 2 * radius))
        around = field[top : int(y + 2 * radius), left : int(x + 2 * radius)]
        nucleus = np.ones_like(around)
        for a, b, c in parts:
            disc(nucleus, a - left, b - top, c, (0, 0, 0))
        around *= nucleus + (1 - nucleus) * np.array(NUCLEUS) / CYTOPLASM
        low = np.min([(a - c, b - c) for a, b, c in parts], axis=0)
        high = np.max([(a + c, b + c) for a, b, c in parts], axis=0)
        boxes.append(np.concatenate((np.maximum(low, 0), np.minimum(high, size))))
    field = field * np.array(background) + rng.normal(0, 2, field.shape)
    return Image.fromarray(field.clip(0, 255).astype(np.uint8)), torch.tensor(np.array(boxes), dtype=torch.float32)


def grown(nuclei):
    """The boxes of cells, a margin of 15 % around the boxes of their nuclei."""
    margin = 0.15 * (nuclei[:, 2:] - nuclei[:, :2]).prod(1, keepdim=True).sqrt()
    return torch.cat((nuclei[:, :2] - margin, nuclei[:, 2:] + margin), 1)
