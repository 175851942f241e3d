"""Drawn blood-smear fields of the four BCCD classes, for work without a network.

They look enough like BCCD to run and to show code on them. A result on them says nothing about blood.
"""

import functools
import io
import math

import numpy as np
from datasets import Dataset, DatasetDict
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from hub.data.bccd import BCCD_CLASSES
from hub.data.columns import features

# Radii are in pixels of a field 240 pixels high, as in BCCD, where a red cell measures about 7.5 um.
FIELD_HEIGHT = 240
RED_CELL_RADIUS = (23, 31)
WHITE_CELL_RADIUS = {"eosinophil": (42, 48), "lymphocyte": (27, 34), "monocyte": (49, 57), "neutrophil": (41, 48)}

BACKGROUND = (229, 226, 217)
# The light that the thickest part of a red cell lets through.
RED_CELL = (203, 146, 138)

# The white cell is drawn at this multiple of the field's resolution, then reduced: smooth edges.
SUPERSAMPLING = 2


def draw_field(label: str, seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw a smear field with one white cell, wholly inside. The same arguments give the same image.

    Args:
        label: The class of the cell, one of `BCCD_CLASSES`.
        seed: 0 or more.
        size: (width, height) in pixels; cells scale with the lesser of height and three quarters of the width.

    Returns:
        An RGB image.

    Raises:
        ValueError: The label is unknown, or the seed is negative.
    """
    if label not in BCCD_CLASSES:
        raise ValueError(f"no drawing of {label!r}; choose from {', '.join(BCCD_CLASSES)}")
    rng = np.random.default_rng([seed, BCCD_CLASSES.index(label)])
    width, height = size
    scale = min(height, width * 3 / 4) / FIELD_HEIGHT
    field = _background(rng, size)

    radius = scale * rng.uniform(*WHITE_CELL_RADIUS[label])
    margin = 1.2 * radius
    centre = rng.uniform((margin, margin), (width - margin, height - margin))
    for _ in range(rng.integers(14, 26)):
        _add_red_cell(rng, field, scale, centre, radius)
    for _ in range(rng.integers(0, 4)):
        _add_platelet(rng, field, scale, centre, radius)
    cell, mask = _white_cell(rng, label, radius)
    left, top = (int(c - cell.width / 2) for c in centre)
    field.paste(cell, (left, top), mask)

    # The camera: a slight blur, a stain and lamp of its own, noise.
    field = field.filter(ImageFilter.BoxBlur(0.7 * scale))
    gain = np.diag(rng.uniform(0.95, 1.02) * rng.uniform(0.98, 1.02, 3))
    field = field.convert("RGB", tuple(np.column_stack([gain, np.zeros(3)]).ravel().tolist()))
    noise = Image.fromarray(rng.integers(0, 9, (height, width, 3), dtype=np.uint8))
    return ImageChops.add(field, noise, offset=-4)


def drawn_cells(seed: int = 0, train: int = 256, test: int = 64) -> DatasetDict:
    """Draw a data set with BCCD's columns `image`, `label` and `file_name`, of 320 x 240 fields as JPEG files.

    The classes take turns, so their numbers differ by one at most. No field is in both splits, and a field does not
    depend on the sizes of the splits.

    Args:
        seed: Of all fields.
        train: How many fields the split `train` has.
        test: How many fields the split `test` has.
    """
    columns = features(BCCD_CLASSES)
    splits = {}
    for parity, (split, count) in enumerate({"train": train, "test": test}.items()):
        rows: dict[str, list] = {column: [] for column in columns}
        for index in range(count):
            label = BCCD_CLASSES[index % len(BCCD_CLASSES)]
            name = f"{split}/{label}/{index:05d}.jpeg"
            content = io.BytesIO()
            # Even seeds are for training, odd ones for the test.
            draw_field(label, (seed << 32) + 2 * index + parity).save(content, "JPEG", quality=92)
            rows["image"].append({"bytes": content.getvalue(), "path": name.rpartition("/")[2]})
            rows["label"].append(label)
            rows["file_name"].append(name)
        splits[split] = Dataset.from_dict(rows, features=columns)
    return DatasetDict(splits)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Uneven light over an empty smear."""
    light = np.array(BACKGROUND) + rng.normal(0, 5, (4, 5, 1)) + rng.normal(0, 2, (4, 5, 3))
    return Image.fromarray(light.clip(0, 250).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


@functools.cache
def _red_cell_templates() -> list[Image.Image]:
    """Eight red cells of radius 48 in squares of 128 pixels: images (L) of their density, 0 to 255."""
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:128, :128] - 63.5) / 48
    templates = []
    for pallor in np.linspace(0.15, 0.62, 8):
        angle = np.arctan2(y, x)
        outline = 1 + sum(
            rng.normal(0, 0.05 / order) * np.cos(order * angle + rng.uniform(0, 2 * math.pi)) for order in range(2, 6)
        )
        r = np.hypot(x - rng.normal(0, 0.03), y - rng.normal(0, 0.03)) / outline
        dip = rng.uniform(0.45, 0.95) / (1 + np.exp((r - pallor) / 0.06))
        rim = 1 + 0.12 * np.exp(-(((r - 0.9) / 0.07) ** 2))
        density = 0.88 * (1 - dip) * rim / (1 + np.exp((r - 1) / 0.02))
        templates.append(Image.fromarray((255 * density.clip(0, 1)).astype(np.uint8)))
    return templates


def _add_red_cell(rng, field: Image.Image, scale: float, centre: np.ndarray, radius: float) -> None:
    """Draw a red cell that keeps clear of the white one, if a few tries find room for it."""
    own = scale * rng.uniform(*RED_CELL_RADIUS)
    for _ in range(4):
        x, y = rng.uniform((0, 0), field.size)
        if math.hypot(x - centre[0], y - centre[1]) > radius + 0.85 * own:
            break
    else:
        return
    half = math.ceil(1.4 * own)
    angle, squeeze = rng.uniform(0, math.pi), rng.uniform(0.7, 1)
    cos, sin, unit = math.cos(angle), math.sin(angle), 48 / own
    # From the cell's pixels to the template's: rotate, then stretch the second axis.
    a, b, d, e = unit * cos, unit * sin, -unit * sin / squeeze, unit * cos / squeeze
    density = _red_cell_templates()[rng.integers(8)].transform(
        (2 * half, 2 * half),
        Image.Transform.AFFINE,
        (a, b, 64 - (a + b) * half, d, e, 64 - (d + e) * half),
        Image.Resampling.BILINEAR,
    )
    through = Image.new("RGB", density.size, _vary(rng, RED_CELL, 3))
    box = (int(x) - half, int(y) - half, int(x) + half, int(y) + half)
    below = field.crop(box)
    # Light passes overlapping cells one after the other, hence the product; but a cell is thinner where another lies
    # upon it, so less than the full product.
    both = Image.blend(ImageChops.multiply(below, through), ImageChops.darker(below, through), 0.6)
    field.paste(both, box, density)


def _add_platelet(rng, field: Image.Image, scale: float, centre: np.ndarray, radius: float) -> None:
    """Draw a platelet, if its place keeps clear of the white cell."""
    own = scale * rng.uniform(4, 7)
    x, y = rng.uniform((0, 0), field.size)
    if math.hypot(x - centre[0], y - centre[1]) < radius + 2 * own:
        return
    draw = ImageDraw.Draw(field)
    draw.polygon(_outline(rng, (x, y), own, 0.12), fill=_vary(rng, (168, 160, 218), 8))
    _dots(rng, draw, (x, y), 0.6 * own, 6, (0.15 * own, 0.25 * own), (125, 100, 195))


def _white_cell(rng, label: str, radius: float) -> tuple[Image.Image, Image.Image]:
    """Draw a white cell of `radius` field pixels: an RGB image and its mask (L)."""
    big = SUPERSAMPLING * radius
    side = SUPERSAMPLING * math.ceil(2.4 * radius)
    middle = (side / 2, side / 2)
    mask = Image.new("L", (side, side))
    wobble = {"lymphocyte": 0.015, "monocyte": 0.045}.get(label, 0.025)
    ImageDraw.Draw(mask).polygon(_outline(rng, middle, big, wobble), fill=255)

    cytoplasm, nucleus_colour, clumps = {
        "eosinophil": ((222, 158, 150), (120, 78, 182), 10),
        "lymphocyte": ((138, 160, 226), (78, 46, 172), 11),
        "monocyte": ((166, 166, 206), (146, 112, 206), 24),
        "neutrophil": ((222, 188, 210), (98, 56, 172), 13),
    }[label]
    cell = _textured(rng, side, _vary(rng, cytoplasm, 6), 6, max(1, big / 8))
    nucleus_image = _textured(rng, side, _vary(rng, nucleus_colour, 8), clumps, max(1, big / 10))
    nucleus = _nucleus(rng, label, side, big)

    draw = ImageDraw.Draw(cell)
    if label == "eosinophil":
        _dots(rng, draw, middle, 0.95 * big, 330, (0.035 * big, 0.055 * big), (218, 98, 82))
        _dots(rng, draw, middle, 0.95 * big, 120, (0.03 * big, 0.045 * big), (232, 138, 112))
    elif label == "neutrophil":
        _dots(rng, draw, middle, 0.95 * big, 380, (0.008 * big, 0.018 * big), (196, 142, 190))
    elif label == "monocyte":
        _dots(rng, draw, middle, 0.9 * big, 90, (0.008 * big, 0.014 * big), (150, 126, 190))
        _dots(rng, draw, middle, 0.88 * big, 12, (0.03 * big, 0.075 * big), (214, 216, 228))
    # A darker rim within the cell and within the nucleus.
    for image, shape, width, shade in ((cell, mask, 0.06, 0.14), (nucleus_image, nucleus, 0.05, 0.2)):
        outside = shape.filter(ImageFilter.BoxBlur(width * big)).point([min(255, 2 * (255 - v)) for v in range(256)])
        image.paste(Image.blend(image, Image.new("RGB", image.size), shade), mask=outside)
    cell.paste(nucleus_image, mask=nucleus)
    if label == "eosinophil":
        # Granules lie above the nucleus too.
        _dots(rng, ImageDraw.Draw(cell), middle, 0.8 * big, 30, (0.03 * big, 0.05 * big), (222, 104, 92))
    return cell.reduce(SUPERSAMPLING), mask.reduce(SUPERSAMPLING)


def _nucleus(rng, label: str, side: int, big: float) -> Image.Image:
    """The mask (L) of a nucleus in a square of `side` pixels, for a cell of radius `big`."""
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    turn = rng.uniform(0, 2 * math.pi)

    def at(r: float, angle: float) -> tuple[float, float]:
        return side / 2 + r * big * math.cos(turn + angle), side / 2 + r * big * math.sin(turn + angle)

    def lobe(place: tuple[float, float], r: float) -> None:
        draw.polygon(_outline(rng, place, r * big, 0.06), fill=255)

    if label == "lymphocyte":
        draw.polygon(_outline(rng, at(0.07, 0), 0.86 * big, 0.015), fill=255)
    elif label == "monocyte":
        # A kidney: overlapping lobes round a notch on one side.
        bend = rng.uniform(1.5, 2.1)
        for angle in np.linspace(-bend, bend, 9):
            lobe(at(0.33, angle), rng.uniform(0.33, 0.37))
    elif label == "eosinophil":
        bend = rng.uniform(1.2, 1.5)
        for angle in (-bend, bend):
            lobe(at(0.44, angle), rng.uniform(0.35, 0.4))
        draw.line([at(0.44, -bend), at(0.3, 0), at(0.44, bend)], fill=255, width=round(0.12 * big))
    else:
        count = int(rng.integers(3, 6))
        span = {3: 1.9, 4: 2.3, 5: 2.5}[count]
        places = [
            at(rng.uniform(0.42, 0.56), angle + rng.uniform(-0.08, 0.08)) for angle in np.linspace(-span, span, count)
        ]
        for place in places:
            lobe(place, rng.uniform(0.27, 0.32) if count < 5 else rng.uniform(0.22, 0.26))
        draw.line(places, fill=255, width=round(0.09 * big))
    # Blur and threshold melt the parts into one rounded shape.
    return mask.filter(ImageFilter.BoxBlur(0.05 * big)).point([min(255, max(0, 8 * (v - 112))) for v in range(256)])


def _outline(rng, centre: tuple[float, float], radius: float, wobble: float) -> list[tuple[float, float]]:
    """The points of an irregular circle; `wobble` is the relative size of its irregularity."""
    angle = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    orders = np.arange(2, 6)[:, None]
    waves = rng.normal(0, wobble, (4, 1)) * np.cos(orders * angle + rng.uniform(0, 2 * math.pi, (4, 1)))
    r = radius * (1 + waves.sum(axis=0).clip(-0.15, 0.15))
    return list(zip((centre[0] + r * np.cos(angle)).tolist(), (centre[1] + r * np.sin(angle)).tolist(), strict=True))


def _dots(rng, draw, centre, radius: float, count: int, sizes: tuple[float, float], colour) -> None:
    """Draw `count` discs of radii in `sizes`, spread evenly over a disc."""
    r, angle = radius * np.sqrt(rng.uniform(0, 1, count)), rng.uniform(0, 2 * math.pi, count)
    xs, ys = centre[0] + r * np.cos(angle), centre[1] + r * np.sin(angle)
    own = rng.uniform(*sizes, count)
    shades = (np.array(colour) + rng.normal(0, 12, (count, 1))).clip(0, 255).astype(int).tolist()
    boxes = np.stack([xs - own, ys - own, xs + own, ys + own], axis=1).tolist()
    for box, shade in zip(boxes, shades, strict=True):
        draw.ellipse(box, fill=tuple(shade))


def _vary(rng, colour: tuple[int, int, int], deviation: float) -> tuple[int, ...]:
    """A colour near `colour`, normally distributed."""
    return tuple((np.array(colour) + rng.normal(0, deviation, 3)).clip(0, 255).astype(int).tolist())


def _textured(rng, side: int, colour: tuple[int, ...], contrast: float, grain: float) -> Image.Image:
    """A square of `colour` with soft light and dark spots, `grain` pixels wide."""
    cells = max(2, math.ceil(side / grain))
    spots = (128 + contrast * rng.normal(0, 1, (cells, cells))).clip(0, 255).astype(np.uint8)
    texture = Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC)
    plain = Image.new("RGB", (side, side), colour)
    return ImageChops.add(plain, Image.merge("RGB", [texture] * 3), offset=-128)
