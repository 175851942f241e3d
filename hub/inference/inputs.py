"""Files, folders and ZIP archives to the images in them, each of which is read by itself."""

import io
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image, UnidentifiedImageError

from hub.files import UserError, one_line
from modeling_wbc import WBCImageProcessor
from space.uploads import is_archive, is_clutter, read_archive

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_HEIC_SUFFIXES = (".heic", ".heif")
# Formats of whole slides and of series. Some are TIFF, whose first page may have a hundred thousand pixels a side.
_SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".bif", ".mrxs", ".vms", ".vmu", ".vsi", ".czi", ".lif", ".nd2", ".zvi")

UNREADABLE, NOT_AN_IMAGE, DUPLICATE, FAILED = "unreadable", "not an image", "duplicate", "failed"


@dataclass(slots=True)
class Input:
    """An image to read, or a file that cannot be one.

    Attributes:
        name: The path, with that of a member of an archive behind it.
        source: A path or an open file; None if it is not to be read.
        status: `UNREADABLE`, `NOT_AN_IMAGE` or `DUPLICATE` if it is not to be read, else empty.
        reason: Of that status.
    """

    name: str
    source: Path | io.BytesIO | None
    status: str = ""
    reason: str = ""


@runtime_checkable
class Inputs(Protocol):
    """Images that can be gone through more than once, always in the same order.

    Attributes:
        left_out: The number of files that are plainly no images.
        total: The number of inputs, as far as it is known without reading them.
    """

    left_out: int
    total: int | None

    def __iter__(self) -> Iterator[Input]:
        """Yield each input, to be read next."""
        ...

    def identity(self) -> Iterator[str]:
        """Yield texts that tell these inputs from others."""
        ...


class Files:
    """The images among files, ZIP archives and folders of both; see `find_inputs`, `open_archives` and [`Inputs`]."""

    def __init__(self, paths: Iterable[Path]):
        """List the files.

        Raises:
            UserError: None of the paths exists, or there is no file.
        """
        self._inputs, self.left_out = find_inputs(paths)
        self.total: int | None = sum(_count_images(item) for item in self._inputs)

    def __iter__(self) -> Iterator[Input]:
        """Yield each image in its order, those of archives one at a time."""
        # Copies: what is read gets a status.
        return open_archives(Input(item.name, item.source, item.status, item.reason) for item in self._inputs)

    def identity(self) -> Iterator[str]:
        """Yield the name of each file, and of an archive also what tells that it was changed."""
        for item in self._inputs:
            yield readable_name(item.name)
            if isinstance(item.source, Path) and is_archive(item.name):
                state = item.source.stat()
                yield f"{state.st_size} {state.st_mtime_ns}"


def _count_images(item: Input) -> int:
    """The number of inputs that a file stands for, by the table of contents of an archive."""
    if not isinstance(item.source, Path) or not is_archive(item.name):
        return 1
    try:
        with zipfile.ZipFile(item.source) as archive:
            return max(
                1, sum(not member.is_dir() and not is_clutter(member.filename) for member in archive.infolist())
            )
    except Exception:  # zipfile raises errors of every kind; `open_archives` tells the user
        return 1


def readable_name(name: str | os.PathLike) -> str:
    r"""Return a file name as text that UTF-8 can encode; bytes that are no UTF-8 appear as `\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find_inputs(paths: Iterable[Path]) -> tuple[list[Input], int]:
    """List the files among `paths`, and those in the folders among them, at any depth.

    Links are followed. A file or a folder that was listed before is a `DUPLICATE`, so that no cell is counted twice
    and links in a circle end.

    Args:
        paths: Files and folders.

    Returns:
        The files, archives among them as one each, and the number of files in the folders that are plainly no images.

    Raises:
        UserError: None of the paths exists, or there is no file.
    """
    paths = list(paths)
    if paths and not any(os.path.lexists(path) for path in paths):
        raise UserError(f"no such file or folder: {readable_name(paths[0])}")
    search = _Search()
    for path in paths:
        search.add(path)
    if not search.inputs:
        raise UserError("the folders hold no image; name image files, folders of them or ZIP archives of them")
    return search.inputs, search.left_out


class _Search:
    """The files found so far."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.left_out = 0
        self._listed: dict[str, Path] = {}  # by the path without links

    def add(self, root: Path) -> None:
        """Add a file, or all files in a folder in the order of their names."""
        waiting = [root]
        while waiting:
            path = waiting.pop()
            if path != root and is_clutter(path.relative_to(root)):
                self.left_out += 1
                continue
            try:
                mode = os.stat(path).st_mode
                if self._is_listed(path):
                    continue
                if stat.S_ISDIR(mode):
                    waiting += sorted(path.iterdir(), reverse=True)
                else:
                    self.inputs.append(_input(path, mode))
            except OSError as error:
                reason = "it is a link to nothing" if _is_dangling(path) else error.strerror or one_line(error)
                self.inputs.append(Input(str(path), None, UNREADABLE, reason))

    def _is_listed(self, path: Path) -> bool:
        """Whether a path was listed before, perhaps by another name, which is then a duplicate."""
        first = self._listed.get(target := os.path.realpath(path))
        if first is None:
            self._listed[target] = path
            return False
        self.inputs.append(Input(str(path), None, DUPLICATE, f"it is the same as {readable_name(first)}"))
        return True


def _is_dangling(path: Path) -> bool:
    return os.path.islink(path) and not os.path.lexists(os.path.realpath(path))


def _input(path: Path, mode: int) -> Input:
    """Judge a file by its kind and its suffix."""
    reason = ""
    if not stat.S_ISREG(mode):
        reason = "it is no regular file"
    elif path.suffix.lower() in _SLIDE_SUFFIXES:
        reason = f"{path.suffix} is a format of whole slides or of series; export fields as TIFF, PNG or JPEG"
    if reason:
        return Input(str(path), None, NOT_AN_IMAGE, reason)
    return Input(str(path), path)


def open_archives(inputs: Iterable[Input]) -> Iterator[Input]:
    """Replace each ZIP archive by the images in it, read one at a time; other inputs are passed on."""
    for item in inputs:
        if not isinstance(item.source, Path) or not is_archive(item.name):
            yield item
            continue
        try:
            for member, content in read_archive(item.source):
                name = f"{item.name}/{member}"
                if isinstance(content, io.BytesIO):
                    yield Input(name, content)
                elif content is not None:
                    yield Input(name, None, UNREADABLE, one_line(content))
        except ValueError as error:
            yield Input(item.name, None, UNREADABLE, one_line(error))


class Reader:
    """Reads images as `analyze` does."""

    def __init__(self):
        self._fetch = WBCImageProcessor().fetch_images
        registered = Image.registered_extensions().items()
        self._suffixes = {suffix for suffix, form in registered if form in _FORMATS} | {*_HEIC_SUFFIXES}

    def read(self, item: Input) -> Image.Image | None:
        """Read an input; if that fails, set its status and reason and return None."""
        if item.source is None:
            return None
        try:
            if _size(item.source) == 0:
                item.status, item.reason = UNREADABLE, "the file is empty"
                return None
            return self._fetch(item.source)
        except (OSError, ValueError, MemoryError) as error:
            name = "in memory" if isinstance(item.source, io.BytesIO) else item.name
            message = (isinstance(error, OSError) and error.strerror) or str(error) or "it is too large"
            message = message.removeprefix(f"cannot read the image {name}: ")
            is_image = Path(item.name).suffix.lower() in self._suffixes or not _is_unidentified(error)
            item.status, item.reason = UNREADABLE if is_image else NOT_AN_IMAGE, " ".join(message.split())
            return None


def _size(source: Path | io.BytesIO) -> int:
    """The size of a file in bytes."""
    return len(source.getbuffer()) if isinstance(source, io.BytesIO) else source.stat().st_size


def _is_unidentified(error: BaseException | None) -> bool:
    """Whether an image could not be read because its format is unknown."""
    while error is not None:
        if isinstance(error, UnidentifiedImageError):
            return True
        error = error.__cause__
    return False
