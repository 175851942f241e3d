"""Images as worse cameras and lamps give them: corruptions at four severities, and a classifier's figures on them.

The corruptions are those of Hendrycks & Dietterich (2019) that a microscope's camera has; WBCBench 2026 tests with
noise, blur and illumination. Scales of blur and resolution are in sides of the crop around the cell, so that a
severity means the same for a single cell and for a field.
"""

import io
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from hub.evaluation.intervals import bootstrap_means
from modeling_wbc import Field
from modeling_wbc.reading_wbc import read_image

SEVERITIES = (1, 2, 3, 4)
# Light that reaches the camera.
_LIGHT = (0.8, 0.65, 0.5, 0.35)
# Length of the vector by which the logarithm of red, green and blue light moves, in a direction of the image's own.
_CAST = (0.1, 0.2, 0.35, 0.5)
# Radius of the disc that a point becomes out of focus, in sides of the crop: at the last one, a cell is unreadable.
_BLUR = (1 / 120, 1 / 70, 1 / 45, 1 / 30)
# Standard deviation of white, of which one tenth of the variance is there in the dark, too.
_NOISE = (0.02, 0.04, 0.08, 0.14)
_JPEG = (50, 30, 15, 8)  # quality
_RESOLUTION = (64, 48, 36, 28)  # pixels in the side of the crop, at most
_VIGNETTE = (0.2, 0.35, 0.5, 0.65)  # loss of light in the corners
# As many images of a lab, drawn at random, are corrupted at most.
MOST_IMAGES = 300


def measure_corruptions(
    model, sources: Sequence, references: np.ndarray, groups: Sequence[str | None] | None = None, lab: str = ""
) -> dict:
    """Measure a classifier on the images of a lab as they are and under each corruption at each severity.

    Every figure is over the crops of the model's own detector, see `hub.evaluation.labs`.

    Args:
        model: A `WBCForImageClassification`.
        sources: N > 0 images, as `read_image` takes them; beyond `MOST_IMAGES`, as many of them drawn at random.
        references: (N,) class ids of the model.
        groups: The group of each, see `bootstrap_means`.
        lab: Names the progress.

    Returns:
        `images`, their number; `clean`, the figures of the images as they are; and `corrupted`, by the name of the
        corruption a list of the figures at each of `SEVERITIES`. Figures are `accuracy` of the likeliest among the
        types in `references`, where an image without a cell counts as wrong; `known`, the share whose foremost cell is
        known; under corruption also `changed`, the share whose answer is another one than on the clean image, no cell
        being an answer, too; and `intervals`, [low, high] of each, 95 %.

    Raises:
        ValueError: An image cannot be read.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(sources))[:MOST_IMAGES])
    types = np.unique(references)
    answers = np.empty((len(rows), 1 + len(CORRUPTIONS) * len(SEVERITIES)), dtype=int)
    known = np.empty(answers.shape, dtype=bool)
    for place, row in enumerate(tqdm(rows, desc=f"{lab}, corrupted", unit="image", disable=None)):
        image = read_image(sources[int(row)])
        clean = model.analyze(image)
        side = _crop_side(clean, image)
        ways = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]
        fields = [clean, *model.analyze([corrupt(image, *way, side, seed=int(row)) for way in ways])]
        answers[place] = [_answer(field, types) for field in fields]
        known[place] = [bool(field.cells) and field.cells[0].known for field in fields]
    right = types[answers] == references[rows, None]
    right &= answers >= 0
    groups = None if groups is None else [groups[row] for row in rows]

    def figures(way: int) -> dict:
        shares = {"accuracy": right[:, way], "known": known[:, way]}
        if way:
            shares["changed"] = answers[:, way] != answers[:, 0]
        means = {name: float(values.mean()) for name, values in shares.items()}
        return {**means, "intervals": bootstrap_means(shares, references[rows], groups=groups)}

    corrupted = {
        name: [figures(1 + number * len(SEVERITIES) + level) for level in range(len(SEVERITIES))]
        for number, name in enumerate(CORRUPTIONS)
    }
    return {"images": len(rows), "clean": figures(0), "corrupted": corrupted}


def _crop_side(field: Field, image: Image.Image) -> float:
    """The side in pixels of the crop around the foremost cell, or that of the image where none was found."""
    if not field.cells:
        return float(min(image.size))
    left, _, right, _ = field.cells[0].crop_box
    return right - left


def _answer(field: Field, types: np.ndarray) -> int:
    """The place in `types` of the likeliest of them for the foremost cell; -1 without a cell."""
    if not field.cells:
        return -1
    return int(np.array([*field.cells[0].probabilities.values()])[types].argmax())


def corrupt(image: Image.Image, name: str, severity: int, crop_side: float, seed: int = 0) -> Image.Image:
    """Corrupt an image.

    Args:
        image: RGB.
        name: One of `CORRUPTIONS`.
        severity: One of `SEVERITIES`.
        crop_side: The side of the crop around a cell in pixels of the image, above 0.
        seed: Of what is drawn at random, which is the same at all severities.

    Returns:
        An RGB image, of another size only if its resolution is reduced.
    """
    return CORRUPTIONS[name](image, severity - 1, crop_side, np.random.default_rng(seed))


def _light(image: Image.Image, level: int, crop_side: float, rng: np.random.Generator) -> Image.Image:
    return _image(_LIGHT[level] * _pixels(image))


def _colour_cast(image: Image.Image, level: int, crop_side: float, rng: np.random.Generator) -> Image.Image:
    direction = rng.normal(size=3)
    direction -= direction.mean()
    gains = np.exp(_CAST[level] * direction / np.linalg.norm(direction))
    return _image(gains / gains.max() * _pixels(image))  # a camera exposes so that nothing is cut off


def _blur(image: Image.Image, level: int, crop_side: float, rng: np.random.Generator) -> Image.Image:
    radius = _BLUR[level] * crop_side
    reach = int(np.ceil(radius))
    offset = np.arange(-reach, reach + 1)
    # The edge of the disc covers its pixels in part.
    disc = np.clip(radius + 0.5 - np.hypot(offset[:, None], offset), 0, 1)
    return _image(cv2.filter2D(_pixels(image), -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE))


def _noise(image: Image.Image, level: int, crop_side: float, rng: np.random.Generator) -> Image.Image:
    pixels = _pixels(image)
    deviation = _NOISE[level] * 255 * np.sqrt(0.1 + 0.9 * pixels / 255)  # of photons and of the sensor
    return _image(pixels + deviation * rng.standard_normal(pixels.shape, dtype=np.float32))


def _jpeg(image: Image.Image, level: int, crop_side: float, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=_JPEG[level])
    return read_image(file)


def _resolution(image: Image.Image, level: int, crop_side: float, rng: np.random.Generator) -> Image.Image:
    scale = min(1, _RESOLUTION[level] / crop_side)
    size = [max(1, round(scale * side)) for side in image.size]
    return image.resize(size, Image.Resampling.BOX)  # the mean of the light on each larger pixel


def _vignette(image: Image.Image, level: int, crop_side: float, rng: np.random.Generator) -> Image.Image:
    pixels = _pixels(image)
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in pixels.shape[:2])
    return _image(pixels * (1 - _VIGNETTE[level] * (y[:, None] ** 2 + x**2) / 2)[..., None])


CORRUPTIONS: dict[str, Callable[[Image.Image, int, float, np.random.Generator], Image.Image]] = {
    "light": _light,
    "colour cast": _colour_cast,
    "blur": _blur,
    "noise": _noise,
    "JPEG": _jpeg,
    "resolution": _resolution,
    "vignette": _vignette,
}


def _pixels(image: Image.Image) -> np.ndarray:
    """Float32 (H, W, 3), in [0, 255]."""
    return np.asarray(image, dtype=np.float32)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
