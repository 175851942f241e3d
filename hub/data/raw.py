"""Raw image folders as publishers lay them out."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageFile
from tqdm.auto import tqdm

from hub.files import UserError

logger = logging.getLogger(__name__)


def find_root(source: Path, patterns: tuple[str, ...], wanted: set[str]) -> Path:
    """The first folder, of `source` and those below it that match `patterns`, with a child folder in `wanted`."""
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
    """The folders in `folder`, sorted, without hidden ones and the `__MACOSX` of archives made on a Mac."""
    return sorted(
        child
        for child in folder.iterdir()
        if child.is_dir() and not child.name.startswith(".") and child.name != "__MACOSX"
    )


def list_files(folder: Path, wanted: Sequence[str]) -> list[tuple[Path, str]]:
    """The (file, class name) of every file that is not hidden in the class folders of `folder`, sorted.

    `wanted` are the names of the classes, which are those of their folders in lower case.
    """
    found = {}
    for child in subfolders(folder):
        key = child.name.lower()
        if key not in wanted:
            raise UserError(f"unknown class folder {child}; looked for {', '.join(wanted)}")
        if key in found:
            raise UserError(f"two folders of one class: {found[key]} and {child}")
        found[key] = child
    for key in wanted:
        if key not in found:
            raise UserError(f"{folder} holds no class folder {key}; looked for {', '.join(wanted)}")
    files = []
    for key in wanted:
        in_class = sorted(path for path in found[key].iterdir() if not path.name.startswith("."))
        if not in_class:
            raise UserError(f"class folder {found[key]} is empty; looked for images")
        files += [(path, key) for path in in_class]
    return files


def read_files(files: list[tuple[Path, str | None]], root: Path) -> dict[Path, dict]:
    """The rows of the files that decode, by path; the others are logged with the reason."""
    rows, unreadable = {}, []
    for path, name in tqdm(files, desc="Reading images", unit="file", disable=None):
        try:
            content = path.read_bytes()
        except OSError as error:
            unreadable.append((path, error.strerror))
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
    """The reason why an encoded image does not decode to its last pixel, or None if it does."""
    # Another library may have told Pillow to pad truncated files with grey.
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with PILImage.open(io.BytesIO(content)) as image:
            image.load()
    except PILImage.UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        return str(error) or type(error).__name__
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return None


def log_unreadable(unreadable: list[tuple[Path | str, str]]) -> None:
    for path, reason in unreadable:
        logger.warning("left out %s: %s", path, reason)
    if unreadable:
        logger.warning("%d file%s left out", len(unreadable), " was" if len(unreadable) == 1 else "s were")


def check_classes(rows: list[dict], class_names: Sequence[str], where: str) -> None:
    empty = set(class_names) - {row["label"] for row in rows}
    if empty:
        raise UserError(f"{where} holds no readable image of {', '.join(sorted(empty))}")
