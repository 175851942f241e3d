"""Which photograph each file of BCCD shows, and which photographs show parts of the same field.

BCCD's `TRAIN` and `TEST` were made from 348 photographs by rotation, shear, shifts and flips, and their file names do
not tell of which. Here each file is registered against the photographs of its class: SIFT features (Lowe 2004) of the
photographs and of their mirror images vote for the likeliest of them, RANSAC fits an affine map to each of these, and
the one whose pixels then differ least is taken. Photographs overlap where one is another, shifted: the microscope's
stage moved on by less than a field.
"""

import csv
import io
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

# Width and height in pixels that the publisher resized the photographs to before augmenting them.
SIZE = (320, 240)

# Mean difference in grey levels above which a file shows none of the photographs. Of BCCD's 12,515 files none is
# above 3 with its own photograph, and unrelated photographs differ by 15 or more.
MAX_MATCH_ERROR = 6.0
# Pearson correlation of the common part above which two photographs overlap. Of BCCD's 67,161 pairs, those that do
# are above 0.88, and no other is above 0.83.
MIN_CORRELATION = 0.86
# Share of the field below which an overlap is not looked for: too few pixels to be sure.
MIN_OVERLAP = 0.04

# To be raised with any change that could change a result: it makes earlier caches void.
_METHOD = 1
_FEATURES_OF_PHOTOGRAPH = 300
_FEATURES_OF_FILE = 200
_FEATURES_OF_OVERLAP = 400
_VOTERS = 96
_CANDIDATES = 3


@dataclass(frozen=True)
class Match:
    """The photograph that a file shows.

    Attributes:
        photograph: Its name, `BloodImage_00012`.
        error: Mean absolute difference in grey levels (0 to 255) between the file and the photograph drawn in its
            place on black, after a fit of gain and offset (the publisher stretched the grey levels of files).
        transform: float64 (2, 3), takes a pixel (x, y) of the photograph at `SIZE` to its place in the file.
    """

    photograph: str
    error: float
    transform: np.ndarray


@dataclass(frozen=True)
class Overlap:
    """Two photographs that show parts of the same field.

    Attributes:
        first, second: Their names, in order.
        shift: (dx, dy), pixels of 320 x 240, from a point in `first` to the same point in `second`.
        area: Share of the field that both show, in [0, 1].
        correlation: Pearson's, of the grey levels there.
    """

    first: str
    second: str
    shift: tuple[int, int]
    area: float
    correlation: float


def read_rows(path: Path, photographs: Iterable[str]) -> dict[str, list[str]]:
    """Read the publisher's `labels.csv`: class names in lower case by photograph, in the order of the file.

    A row names as many classes as there are cells to name, none too. Rows without a photograph in `photographs` are
    left out.

    Raises:
        ValueError: The file has no columns `Image` and `Category`, or an `Image` is no number.
    """
    photographs = set(photographs)
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"Image", "Category"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} has the columns {reader.fieldnames}; Image and Category were expected")
        rows = {}
        for row in reader:
            if not re.fullmatch(r"\d+", row["Image"] or ""):
                raise ValueError(f"{path}, line {reader.line_num}: Image is {row['Image']!r}; a number was expected")
            if (name := f"BloodImage_{int(row['Image']):05d}") in photographs:
                labels = (label.strip().lower() for label in (row["Category"] or "").split(","))
                rows[name] = [label for label in labels if label]
    return rows


def read_labels(path: Path, photographs: Iterable[str]) -> dict[str, str]:
    """The class of each photograph with exactly one in `read_rows`: 351 in the published data, 3 of them basophils.

    Raises:
        ValueError: As `read_rows`.
    """
    return {name: labels[0] for name, labels in read_rows(path, photographs).items() if len(labels) == 1}


def publisher_split(labels: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The photographs that the publisher's notebook made TRAIN and TEST from, given what `read_labels` returns."""
    return tuple(train_test_split(list(labels), test_size=0.2, random_state=10))


class PhotographIndex:
    """Finds which of some photographs an augmented file shows.

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
                at, what = _features(cv2.flip(image, 1) if mirrored else image, _FEATURES_OF_PHOTOGRAPH)
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
        """The photograph that `image`, uint8 (240, 320), shows; None if it shows none of them."""
        points, descriptors = _features(image, _FEATURES_OF_FILE)
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
    """What is known of the files and photographs of one copy of BCCD.

    Attributes:
        matches: The match of each file by its name; None for a file that shows no photograph of its class.
        overlaps: The pairs of photographs that overlap.
        labels: Class of each photograph with exactly one label, as `read_labels` gives it.
        fields: The field of every photograph, as `fields` gives it.
        train, test: The photographs of the publisher's split, those of `labels`.
    """

    matches: dict[str, Match | None]
    overlaps: list[Overlap]
    labels: dict[str, str]
    fields: dict[str, str]
    train: list[str]
    test: list[str]


def register(
    files: Mapping[str, tuple[bytes, str]], photographs: Mapping[str, bytes], labels: Mapping[str, str], cache: Path
) -> Registration:
    """Find the photograph of every file and the overlaps of all photographs, on all cores, with progress bars.

    Args:
        files: (encoded image, class name) of each file by name.
        photographs: The encoded photographs by name.
        labels: What `read_labels` returns for them.
        cache: A JSON file of what was found before; read if it is there, and written after every step and when the
            work is interrupted. What it holds of other photographs, or of a file with other content, is not used.
    """
    known = _read_cache(cache, digest({**photographs, "labels": json.dumps(dict(labels)).encode()}))
    grey_photographs = {name: grey(content) for name, content in photographs.items()}
    if known["overlaps"] is None:
        known["overlaps"] = [astuple(overlap) for overlap in find_overlaps(grey_photographs)]
        _write_cache(cache, known)
    overlaps = [Overlap(first, second, tuple(shift), *rest) for first, second, shift, *rest in known["overlaps"]]

    checksums = {name: digest({label: content}) for name, (content, label) in files.items()}
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
            _on_all_cores(find, new, "Finding photographs")
        finally:
            _write_cache(cache, known)
    matches = {name: known["files"][name][1] for name in files}
    train, test = publisher_split(labels)
    return Registration(
        matches={name: match and _from_json(match) for name, match in matches.items()},
        overlaps=overlaps,
        labels=dict(labels),
        fields=fields(photographs, overlaps),
        train=train,
        test=test,
    )


def _to_json(match: Match) -> list:
    return [match.photograph, round(match.error, 3), match.transform.round(4).ravel().tolist()]


def _from_json(match: list) -> Match:
    name, error, transform = match
    return Match(name, error, np.reshape(transform, (2, 3)))


def _read_cache(path: Path, checksum: str) -> dict:
    """The cache, or an empty one where there is none of these photographs and of this way to match them."""
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
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps(known), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        logger.warning("%s could not be written (%s): the next build will have to find all of it again", path, error)


def find_overlaps(photographs: Mapping[str, np.ndarray]) -> list[Overlap]:
    """Find every pair of photographs that overlap by a shift, sorted by name.

    Args:
        photographs: Grey images by name, uint8 (240, 320) (see `grey`).
    """
    names, images = list(photographs), list(photographs.values())
    features = _on_all_cores(lambda image: _features(image, _FEATURES_OF_OVERLAP), images, "Describing photographs")

    def overlaps_of(first: int) -> list[Overlap]:
        """Those with a later photograph."""
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

    return sum(_on_all_cores(overlaps_of, range(len(names)), "Finding overlaps"), [])


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
    """Correlation of the common part of two images, and its share of the field; 0 where it is too small."""
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


def fields(photographs: Iterable[str], overlaps: Iterable[Overlap]) -> dict[str, str]:
    """The field of each photograph: the first name among those that it overlaps with, directly or through others."""
    field = {name: name for name in photographs}

    def root(name: str) -> str:
        while field[name] != name:
            name = field[name]
        return name

    for overlap in overlaps:
        a, b = sorted((root(overlap.first), root(overlap.second)))
        field[b] = a
    return {name: root(name) for name in field}


def grey(content: bytes) -> np.ndarray:
    """Decode an image to grey levels at `SIZE`, uint8 (240, 320)."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L").resize(SIZE, Image.Resampling.BOX))


def digest(contents: Mapping[str, bytes]) -> str:
    """A checksum of named files, which tells whether tables made from them still hold."""
    checksum = 0
    for name, content in sorted(contents.items()):
        checksum = zlib.crc32(content, zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"


def contact_sheet(rows: Sequence[tuple[str, bytes, bytes, Match]]) -> Image.Image:
    """Files beside their photographs, drawn as the file shows them, to be judged by eye; four pairs a line.

    Args:
        rows: (caption, encoded file, encoded photograph, match) of each pair.
    """
    width, height, margin, caption_height = 224, 168, 6, 14
    columns = 4
    cell = (2 * width + margin, height + caption_height)
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * (cell[0] + 2 * margin), lines * (cell[1] + 2 * margin)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (caption, file, photograph, match) in enumerate(rows):
        x = number % columns * (cell[0] + 2 * margin) + margin
        y = number // columns * (cell[1] + 2 * margin) + margin
        with Image.open(io.BytesIO(photograph)) as image:
            pixels = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BOX))
        drawn = Image.fromarray(cv2.warpAffine(pixels, match.transform, SIZE))
        draw.text((x, y), f"{caption}: {match.photograph}, error {match.error:.2f}", fill="black")
        with Image.open(io.BytesIO(file)) as image:
            sheet.paste(image.convert("RGB").resize((width, height)), (x, y + caption_height))
        sheet.paste(drawn.resize((width, height)), (x + width + margin, y + caption_height))
    return sheet


def _features(image: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The strongest SIFT features, strongest first: float32 (n, 2) places and (n, 128) unit descriptors, n <= count.

    The descriptors' square roots are compared, by their cosine (RootSIFT, Arandjelovic & Zisserman 2012).
    """
    points, descriptors = cv2.SIFT_create(nfeatures=count, contrastThreshold=0.02).detectAndCompute(image, None)
    if not points:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    order = sorted(range(len(points)), key=lambda k: -points[k].response)[:count]
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    return np.float32([point.pt for point in points])[order], roots[order].astype(np.float32)


def _on_all_cores(work: Callable, items: Sequence, title: str) -> list:
    """`[work(item) for item in items]`, in threads: OpenCV and NumPy let go of Python's lock."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # A core for each item, and no threads within threads.
    try:
        with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(tqdm(pool.map(work, items), desc=title, total=len(items), unit="file", disable=None))
    finally:
        cv2.setNumThreads(threads)
