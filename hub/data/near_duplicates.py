"""Near-duplicates: images that show the same cell, such as one photographed twice or published under two names.

Candidates are pairs whose perceptual hashes differ in few bits: the signs of the lowest 63 coefficients of a discrete
cosine transform against their median (Zauner 2010), of the centre of one image against the parts of the other that a
shift of the stage could have moved there. A candidate counts if the fine structure of both correlates, as cells of one
type look alike in everything coarser: different cells on an empty ground reach 0.94 in plain grey levels. The fine
structure is divided by its local contrast, else the edge of a round nucleus outweighs everything else.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import datasets
import numpy as np
from scipy.fft import dctn

from hub.data.overlaps import fields
from hub.data.publisher import Splits
from hub.data.sift import map_on_all_cores
from hub.files import write_json

logger = logging.getLogger(__name__)

# Correlation of the fine structure above which two images show the same cell. Of the candidates among PBC's images,
# different cells are below 0.51 and the same ones above 0.84; the 40 pairs of Chula nearest to the threshold, 0.60 to
# 0.71, are retakes by eye.
MIN_CORRELATION = 0.6
# Raise it with every change that could alter a result: it makes earlier caches void.
_METHOD = 1
_SIDE = 64  # Images are compared as squares of so many pixels.
_MARGIN = 8  # Largest shift of one against the other, in these pixels.
_STEP = 3  # Between the shifts that are hashed.
_BITS = 10  # Bits of 63 by which the hashes of a candidate may differ.
_BLUR = 2.0  # Standard deviation of the Gaussian blur that is subtracted, in these pixels.
_CONTRAST = 4.0  # That of the neighbourhood whose contrast is divided by.
_NOISE = 3.0  # Added to that contrast, in grey levels, so that noise on an empty ground stays small.
# Which splits are kept apart from which: images of a later one are never moved to an earlier one.
_PROTECTED = ("train", "validation", "test")


@dataclass(frozen=True)
class Pair:
    """Two images of the same cell.

    Attributes:
        first, second: Their names, in the order of the images.
        correlation: Pearson's, of the fine structure where they lie on each other, in [-1, 1].
        mirrored: Whether one is the mirror image of the other.
    """

    first: str
    second: str
    correlation: float
    mirrored: bool


def find_near_duplicates(images: Mapping[str, bytes], cache: Path | None = None) -> list[Pair]:
    """Find the pairs of images that show the same cell, on all cores, with progress bars.

    Shifts up to an eighth of the image and mirror images are found; rotated copies are not, as none were met in the
    published data. Of the pairs of Chula's cells that correlate, 91 % have similar hashes; nearly all others follow
    through a third image. 18,000 images take less than a minute of two idle cores.

    Args:
        images: The encoded images by name.
        cache: The folder that keeps the result for these images. Default: a folder of the Hugging Face data set cache,
            which `HF_HOME` moves. Where it cannot be written, this is logged.

    Returns:
        The pairs, in the order of the images.
    """
    names = list(images)
    folder = Path(cache or datasets.config.HF_DATASETS_CACHE / "wbc")
    file = folder / f"near-duplicates-{_METHOD}-{_digest(images):08x}.json"
    if (known := _read_cache(file)) is not None:
        return [Pair(*values) for values in known]
    if len(images) < 2:
        return []
    thumbnails = np.stack(map_on_all_cores(lambda name: _thumbnail(images[name]), names, "Reading thumbnails"))
    fine = [_fine(thumbnail) for thumbnail in thumbnails]
    best: dict[tuple[int, int], tuple[float, bool]] = {}
    for mirrored in (False, True):
        candidates = _candidates(thumbnails, mirrored)
        others = [np.ascontiguousarray(image[:, ::-1]) for image in fine] if mirrored else fine
        scores = map_on_all_cores(
            lambda pair, others=others: _correlation(fine[pair[0]], others[pair[1]]), candidates, "Comparing images"
        )
        for pair, score in zip(candidates, scores, strict=True):
            if score >= MIN_CORRELATION:
                best[pair] = max(best.get(pair, (score, mirrored)), (score, mirrored))
    pairs = [
        Pair(names[first], names[second], round(score, 3), mirrored)
        for (first, second), (score, mirrored) in sorted(best.items())
    ]
    try:
        write_json(file, [astuple(pair) for pair in pairs], indent=None)
    except OSError as error:
        logger.warning("%s could not be written (%s): the next build will have to compare again", file, error)
    return pairs


def clusters(pairs: Iterable[Pair]) -> list[list[str]]:
    """The images that show the same cell, directly or through others: lists of names of two or more."""
    pairs = list(pairs)
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.first, pair.second)))
    members: dict[str, list[str]] = {}
    for name, root in fields(names, pairs).items():
        members.setdefault(root, []).append(name)
    return list(members.values())


def keep_together(splits: Splits, pairs: Sequence[Pair]) -> list[dict]:
    """Move rows so that no two of `train`, `validation` and `test` show the same cell.

    All images of a cell go where the first of `test`, `validation` and `train` has one of them.

    Args:
        splits: Rows, whose `file_name` are the names in `pairs`; changed in place. Other splits stay as they are.
        pairs: The near-duplicates.

    Returns:
        For each row that was moved: `file_name`, and the splits `before` and `after`.
    """
    split_of = {row["file_name"]: split for split in _PROTECTED for row in splits.get(split, ())}
    target: dict[str, str] = {}
    for members in clusters(pairs):
        present = [name for name in members if name in split_of]
        if present:
            last = max((split_of[name] for name in present), key=_PROTECTED.index)
            target |= {name: last for name in present if split_of[name] != last}
    moved = []
    for split in _PROTECTED:
        for row in [row for row in splits.get(split, ()) if target.get(row["file_name"], split) != split]:
            name = row["file_name"]
            splits[split].remove(row)
            splits[target[name]].append(row)
            moved.append({"file_name": name, "before": split, "after": target.pop(name)})
    return moved


def near_duplicate_report(rows: Mapping[str, dict], pairs: Sequence[Pair], moved: list[dict]) -> dict:
    """Count near-duplicates for the card.

    Args:
        rows: The rows that were compared by their name, with `lab` and `label`.
        pairs: Those found among them.
        moved: What `keep_together` returned.

    Returns:
        `images`, the number compared of each lab; `distinct`, the number of distinct cells of each lab; `pairs`, the
        number of pairs of each lab; `across`, the number between labs; `mirrored`, the number of mirror images;
        `moved`; and `conflicts`, the pairs with two labels: `names` and `labels`.
    """
    images = Counter(row["lab"] for row in rows.values())
    labs = [tuple(rows[name]["lab"] for name in (pair.first, pair.second)) for pair in pairs]
    within = Counter(first for first, second in labs if first == second)
    repeats = Counter(rows[name]["lab"] for members in clusters(pairs) for name in members[1:])
    return {
        "images": dict(images),
        "distinct": {lab: count - repeats[lab] for lab, count in images.items()},
        "pairs": {lab: within[lab] for lab in images},
        "across": sum(first != second for first, second in labs),
        "mirrored": sum(pair.mirrored for pair in pairs),
        "moved": moved,
        "conflicts": [
            {"names": [pair.first, pair.second], "labels": labels}
            for pair in pairs
            if len(set(labels := [rows[name]["label"] for name in (pair.first, pair.second)])) > 1
        ],
    }


def _thumbnail(content: bytes) -> np.ndarray:
    """Decode an image to grey levels: uint8 (64, 64)."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    if image is None:  # A format that OpenCV does not know; images that do not decode were left out before.
        from hub.data.sift import grey

        image = grey(content)
    return cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def _fine(image: np.ndarray) -> np.ndarray:
    """The fine structure of an image, by its local contrast: float32 (64, 64)."""
    image = image.astype(np.float32)
    fine = image - cv2.GaussianBlur(image, (0, 0), _BLUR)
    return fine / (np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), _CONTRAST)) + _NOISE)


def _hashes(images: np.ndarray) -> np.ndarray:
    """The perceptual hash of each image, uint64 (N,)."""
    low = dctn(images.astype(np.float32), axes=(1, 2))[:, :8, :8].reshape(len(images), 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False  # The mean brightness.
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _candidates(images: np.ndarray, mirrored: bool) -> list[tuple[int, int]]:
    """The pairs (first < second) of images whose hashes are near at some shift, of the second mirrored or not."""
    others = images[:, :, ::-1] if mirrored else images
    inner = _SIDE - 2 * _MARGIN
    centres = _hashes(images[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN])
    starts = range(_MARGIN - 2 * _STEP, _MARGIN + 2 * _STEP + 1, _STEP)
    parts = [_hashes(others[:, y : y + inner, x : x + inner]) for y in starts for x in starts]

    def near(start: int) -> np.ndarray:
        """The candidates among 16 centres, which fit the processor's cache, and the parts of all images."""
        rows = centres[start : start + 16, None]
        found = [np.flatnonzero(np.bitwise_count(rows ^ part).ravel() <= _BITS) for part in parts]
        first, second = np.divmod(np.concatenate(found), len(images))
        first += start
        return np.unique(np.minimum(first, second) * len(images) + np.maximum(first, second))

    found = map_on_all_cores(near, range(0, len(images), 16), "Comparing mirror images" if mirrored else "Hashing")
    first, second = np.divmod(np.unique(np.concatenate(found)), len(images))
    return [pair for pair in zip(first.tolist(), second.tolist(), strict=True) if pair[0] != pair[1]]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The largest correlation of the centre of one image with a part of the other; 0 where one has no structure."""
    centre = first[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    if min(centre.std(), second.std()) < 1e-3:  # OpenCV gives 1.
        return 0.0
    return float(cv2.matchTemplate(second, centre, cv2.TM_CCOEFF_NORMED).max())


def _digest(images: Mapping[str, bytes]) -> int:
    """Checksum of named images."""
    checksum = 0
    for name, content in images.items():
        checksum = zlib.crc32(content, zlib.crc32(name.encode(), checksum))
    return checksum


def _read_cache(path: Path) -> list | None:
    """The pairs in the cache; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        logger.warning("%s is not used, as it could not be read (%s)", path, error)
    return None
