"""Registration: which photograph each file of BCCD shows.

BCCD's `TRAIN` and `TEST` were made from 348 photographs by rotation, shear, shifts and flips, and the names of the
files do not tell their photographs. Here each file is registered against the photographs of its class: SIFT features
(Lowe 2004) of the photographs and of their mirror images vote for the likeliest of them, RANSAC fits an affine map to
each of these, and the one whose pixels then differ least is taken.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np

from hub.data.overlaps import Overlap, fields, find_overlaps
from hub.data.sift import SIZE, grey, map_on_all_cores, sift_features
from hub.files import write_json

logger = logging.getLogger(__name__)

# Mean difference in grey levels above which a file shows none of the photographs. Of BCCD's 12,515 files none is
# above 3 with its own photograph, and unrelated photographs differ by 15 or more.
MAX_MATCH_ERROR = 6.0
# Raise it with every change that could alter a result: it makes earlier caches void.
_METHOD = 1
_FEATURES_OF_PHOTOGRAPH = 300
_FEATURES_OF_FILE = 200
_VOTERS = 96
_CANDIDATES = 3


@dataclass(frozen=True)
class Match:
    """The photograph that a file shows.

    Attributes:
        photograph: Its name, such as `BloodImage_00012`.
        error: Mean absolute difference in grey levels (0 to 255) between the file and the photograph drawn in its
            place on black, after a fit of gain and offset (the publisher stretched the grey levels of files).
        transform: The affine map from a pixel (x, y) of the photograph at `SIZE` to its place in the file,
            float64 (2, 3).
    """

    photograph: str
    error: float
    transform: np.ndarray


class PhotographIndex:
    """An index of photographs, to look up the one that an augmented file shows.

    Args:
        photographs: Grey images by name, uint8 (240, 320) (see `grey`). With 159 of them, looking one file up takes
            about 0.06 s on one core.
    """

    def __init__(self, photographs: Mapping[str, np.ndarray]):
        self.names = list(photographs)
        self.images = list(photographs.values())
        points, descriptors = [np.zeros((0, 2), np.float32)], [np.zeros((0, 128), np.float32)]
        for image in self.images:
            for mirrored in (False, True):
                # SIFT is blind to rotation but not to reflection.
                at, what = sift_features(cv2.flip(image, 1) if mirrored else image, _FEATURES_OF_PHOTOGRAPH)
                if mirrored:
                    at[:, 0] = SIZE[0] - 1 - at[:, 0]
                points.append(at)
                descriptors.append(what)
        self._points = np.concatenate(points)
        self._descriptors = np.concatenate(descriptors)
        # Features of view v (photograph v // 2, mirrored if v is odd) are starts[v] to starts[v + 1].
        counts = [len(at) for at in points[1:]]
        self._starts = np.cumsum([0, *counts])
        self._views = np.repeat(np.arange(len(counts)), counts)

    def find(self, image: np.ndarray) -> Match | None:
        """Find the photograph that `image`, uint8 (240, 320), shows; None if it shows none of them."""
        points, descriptors = sift_features(image, _FEATURES_OF_FILE)
        if len(points) < 3 or not len(self._views):
            return None
        similarity = descriptors[:_VOTERS] @ self._descriptors.T
        nearest = similarity.argmax(axis=1)
        votes = np.bincount(self._views[nearest], weights=similarity.max(axis=1) > 0.9, minlength=2 * len(self.names))
        best = None
        for view in np.argsort(-votes, kind="stable")[:_CANDIDATES]:
            match = self._register(image, points, descriptors, view)
            if match and (best is None or match.error < best.error):
                best = match
        return best if best and best.error <= MAX_MATCH_ERROR else None

    def _register(self, image, points, descriptors, view: int) -> Match | None:
        """Fit view `view` to the image."""
        part = slice(self._starts[view], self._starts[view + 1])
        similarity = descriptors @ self._descriptors[part].T
        if not similarity.size:
            return None
        partner = similarity.argmax(axis=1)
        mutual = similarity.argmax(axis=0)[partner] == np.arange(len(partner))
        good = mutual & (similarity.max(axis=1) > 0.85)
        if good.sum() < 3:
            return None
        transform, _ = cv2.estimateAffine2D(
            self._points[part][partner[good]], points[good], ransacReprojThreshold=2.0, maxIters=2000, confidence=0.999
        )
        # The publisher sheared by up to 0.2 radians, which shrinks by up to 2 %, and did not zoom.
        if transform is None or not 0.9 < abs(np.linalg.det(transform[:, :2])) < 1.1:
            return None
        error = _match_error(image, self.images[view // 2], transform)
        return Match(self.names[view // 2], error, transform)


def _match_error(image: np.ndarray, photograph: np.ndarray, transform: np.ndarray) -> float:
    """`Match.error`, or infinity where less than a third of the file is covered."""
    drawn = cv2.warpAffine(photograph, transform, SIZE, flags=cv2.INTER_LINEAR)
    covered = cv2.warpAffine(np.full_like(photograph, 255), transform, SIZE, flags=cv2.INTER_NEAREST)
    # The seam between photograph and black is blurred in both, so it is left out.
    seam = np.ones((5, 5), np.uint8)
    inside, outside = cv2.erode(covered, seam) > 0, cv2.dilate(covered, seam) == 0
    if inside.mean() < 1 / 3:
        return float("inf")
    x, y = drawn[inside].astype(np.float64), image[inside].astype(np.float64)
    x -= x.mean()
    y -= y.mean()
    gain = x @ y / max(x @ x, 1e-9)
    # Where the photograph does not reach, the publisher left black: what is not black there is not explained by it.
    unexplained = np.abs(gain * x - y).sum() + image[outside].sum()
    return float(unexplained / (inside.sum() + outside.sum()))


@dataclass(frozen=True)
class Registration:
    """The photographs of the files of one copy of BCCD, and the fields of the photographs.

    Attributes:
        matches: The match of each file by its name; None for a file that shows no photograph of its class.
        overlaps: The pairs of photographs that overlap.
        labels: The class of each photograph with exactly one label, as `hub.data.bccd.read_labels` gives it.
        fields: The field of every photograph, as `hub.data.overlaps.fields` gives it.
    """

    matches: dict[str, Match | None]
    overlaps: list[Overlap]
    labels: dict[str, str]
    fields: dict[str, str]


def register(
    files: Mapping[str, tuple[bytes, str]], photographs: Mapping[str, bytes], labels: Mapping[str, str], cache: Path
) -> Registration:
    """Find the photograph of every file and the overlaps of all photographs, on all cores, with progress bars.

    Args:
        files: (encoded image, class name) of each file by name.
        photographs: The encoded photographs by name.
        labels: The class of each photograph with exactly one label.
        cache: A JSON file of earlier results; read if it is there, and written after every step and when the work is
            interrupted. Results for other photographs, or for a file with other content, are not used. Where it
            cannot be written, this is logged.
    """
    known = _read_cache(cache, _digest({**photographs, "labels": json.dumps(dict(labels)).encode()}))
    grey_photographs = {name: grey(content) for name, content in photographs.items()}
    if known["overlaps"] is None:
        known["overlaps"] = [astuple(overlap) for overlap in find_overlaps(grey_photographs)]
        _write_cache(cache, known)
    overlaps = [Overlap(first, second, tuple(shift), *rest) for first, second, shift, *rest in known["overlaps"]]

    checksums = {name: _digest({label: content}) for name, (content, label) in files.items()}
    new = [name for name in files if known["files"].get(name, [None])[0] != checksums[name]]
    if new:
        index = {
            label: PhotographIndex({name: grey_photographs[name] for name in labels if labels[name] == label})
            for label in sorted({files[name][1] for name in new})
        }

        def find(name: str) -> None:
            content, label = files[name]
            match = index[label].find(grey(content))
            known["files"][name] = [checksums[name], match and _to_json(match)]

        try:
            map_on_all_cores(find, new, "Finding photographs")
        finally:
            _write_cache(cache, known)
    matches = {name: known["files"][name][1] for name in files}
    return Registration(
        matches={name: match and _from_json(match) for name, match in matches.items()},
        overlaps=overlaps,
        labels=dict(labels),
        fields=fields(photographs, overlaps),
    )


def _to_json(match: Match) -> list:
    return [match.photograph, round(match.error, 3), match.transform.round(4).ravel().tolist()]


def _from_json(match: list) -> Match:
    name, error, transform = match
    return Match(name, error, np.reshape(transform, (2, 3)))


def _read_cache(path: Path, checksum: str) -> dict:
    """The cache, or an empty one where it holds other photographs or another method's results."""
    key = f"{_METHOD} {checksum}"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["key"] == key:
            return known
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.warning("%s is not used, as it could not be read (%s)", path, error)
    return {"key": key, "overlaps": None, "files": {}}


def _write_cache(path: Path, known: dict) -> None:
    try:
        write_json(path, known, indent=None)
    except OSError as error:
        logger.warning("%s could not be written (%s): the next build will have to find all of it again", path, error)


def _digest(contents: Mapping[str, bytes]) -> str:
    """Checksum of named files, 8 hexadecimal digits: results are kept as long as it stays the same."""
    checksum = 0
    for name, content in sorted(contents.items()):
        checksum = zlib.crc32(content, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"
