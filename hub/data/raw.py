"""Read raw image folders as publishers lay them out."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageFile
from tqdm.auto import tqdm

from hub.files import UserError
from modeling_wbc.reading_wbc import ImageReadError, read_image

logger = logging.getLogger(__name__)


def find_root(source: Path, patterns: tuple[str, ...], wanted: set[str]) -> Path:
    """Find the folder that holds a data set.

    Args:
        source: Where to look.
        patterns: Of folders below `source`, tried in order; an empty one stands for `source` itself.
        wanted: Names in lower case, of which a child folder of the data set has one.

    Raises:
        UserError: There is no such folder, or a pattern matches several.
    """
    if not source.is_dir():
        raise UserError(f"no such folder: {source}")
    for pattern in patterns:
        candidates = [source] if not pattern else [path for path in sorted(source.glob(pattern)) if path.is_dir()]
        roots = [path for path in candidates if wanted & {child.name.lower() for child in subfolders(path)}]
        if len(roots) > 1:
            raise UserError(f"{source} holds several data sets: {', '.join(map(str, roots))}; name one of them")
        if roots:
            return roots[0]
    places = ", ".join(pattern or "the folder itself" for pattern in patterns)
    raise UserError(f"{source} holds none of the folders {', '.join(sorted(wanted))} (looked in: {places})")


def subfolders(folder: Path) -> list[Path]:
    """List the folders in `folder`, sorted, without hidden ones and the `__MACOSX` of archives made on a Mac."""
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child.name != "__MACOSX"
    )


def list_files(folder: Path, wanted: Sequence[str], all_needed: bool = True) -> list[tuple[Path, str]]:
    """List every file that is not hidden in the class folders of `folder`.

    Args:
        folder: The folder that holds the class folders.
        wanted: The names of the classes, which are the names of their folders in lower case.
        all_needed: Whether a class without a folder is an error.

    Returns:
        (file, class name) of each, sorted by class in the order of `wanted`, then by file name.

    Raises:
        UserError: A class folder is missing, unknown, empty or there twice.
    """
    found: dict[str, Path] = {}
    for child in subfolders(folder):
        key = child.name.lower()
        if key not in wanted:
            raise UserError(f"unknown class folder {child}; looked for {', '.join(wanted)}")
        if key in found:
            raise UserError(f"two folders of one class: {found[key]} and {child}")
        found[key] = child
    for key in wanted:
        if key not in found and all_needed:
            raise UserError(f"{folder} holds no class folder {key}; looked for {', '.join(wanted)}")
    files = []
    for key in (key for key in wanted if key in found):
        in_class = sorted(path for path in found[key].iterdir() if not path.name.startswith("."))
        if not in_class:
            raise UserError(f"class folder {found[key]} is empty; looked for images")
        files += [(path, key) for path in in_class]
    return files


def read_files(files: Sequence[tuple[Path, str | None]], root: Path) -> dict[Path, dict]:
    """Read image files as rows of a data set; log those that do not decode, with the reason, and leave them out.

    Args:
        files: (path, class name) of each.
        root: The folder that `file_name` is relative to.

    Returns:
        The rows by path, in the order of `files`: `image` (a dict of `bytes` and `path`), `label`, `file_name`.
    """
    rows: dict[Path, dict] = {}
    unreadable: list[tuple[Path | str, str]] = []
    for path, name in tqdm(files, desc="Reading images", unit="file", disable=None):
        try:
            content = path.read_bytes()
        except OSError as error:
            unreadable.append((path, str(error.strerror)))
            continue
        reason = why_unreadable(content)
        if reason:
            unreadable.append((path, reason))
            continue
        rows[path] = {
            "image": {"bytes": content, "path": path.name},
            "label": name,
            "file_name": path.relative_to(root).as_posix(),
        }
    log_unreadable(unreadable)
    return rows


def why_unreadable(content: bytes) -> str | None:
    """Say why an encoded image cannot be read to its last pixel, as training reads it; None if it can."""
    # Another library may have set Pillow to pad truncated files with grey.
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        read_image(content)
    except ImageReadError as error:
        return str(error).removeprefix("cannot read the image in memory: ")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return None


def image_size(content: bytes) -> tuple[int, int]:
    """The width and height in pixels of an encoded image."""
    with Image.open(io.BytesIO(content)) as image:
        return image.size


def log_unreadable(unreadable: list[tuple[Path | str, str]]) -> None:
    """Log (file, reason) of each file that was left out, and their number."""
    for path, reason in unreadable:
        logger.warning("left out %s: %s", path, reason)
    if unreadable:
        logger.warning("%d file%s left out", len(unreadable), " was" if len(unreadable) == 1 else "s were")


def check_classes(rows: list[dict], class_names: Sequence[str], where: str) -> None:
    """Raise `UserError` if a class has no row."""
    empty = set(class_names) - {row["label"] for row in rows}
    if empty:
        raise UserError(f"{where} holds no readable image of {', '.join(sorted(empty))}")
