"""Uploaded files and ZIP archives, read with care: their names and sizes may be forged."""

import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from space.zip_names import member_names

MAX_FILE_BYTES = 256 * 2**20  # of one file, packed or not
MAX_UNPACKED_BYTES = 2**30  # of all files of an archive
# What the upload fields offer to choose. HEIC is left out, so that phones convert their photographs to JPEG.
IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".ppm", ".pgm")
_ARCHIVES = (".zip", ".gz", ".bz2", ".xz", ".7z", ".rar", ".tar")
# Beginnings of the names of files and folders that operating systems and storage devices hide.
_HIDDEN = ("__MACOSX", ".", "@eaDir", "$RECYCLE.BIN")
# Files that lie beside images and are plainly none.
_NO_IMAGE_NAMES = ("thumbs.db", "desktop.ini")
_NO_IMAGE_TYPES = (".txt", ".csv", ".tsv", ".xml", ".json", ".jsonl", ".yaml", ".yml", ".md", ".html", ".log")


def read_uploads(paths: Iterable[str]) -> Iterator[tuple[str, str | io.BytesIO | ValueError]]:
    """Yield every image among files and in ZIP archives, one at a time.

    Yields:
        The name of the image, with that of its archive in front; and a path, an open file, or the error that keeps
        the image from being read.
    """
    for path in paths:
        name = Path(path).name
        if not is_archive(name):
            yield name, path
            continue
        try:
            for member, content in read_archive(path):
                if content is not None:
                    yield f"{name}/{member}", content
        except ValueError as error:
            yield name, error


def count_images(paths: Iterable[str]) -> int:
    """Count what `read_uploads` yields, without reading more of an archive than its directory."""
    count = 0
    for path in paths:
        if not is_archive(path):
            count += 1
            continue
        try:
            with _open_archive(path) as archive:
                count += sum(not is_clutter(name) for name, _ in _members(archive))
        except ValueError:
            count += 1
    return count


def is_archive(name: str | os.PathLike) -> bool:
    """Return whether a file is a ZIP archive by its name."""
    return os.fspath(name).lower().endswith(".zip")


def is_clutter(name: str | os.PathLike) -> bool:
    """Return whether a file that lies beside images is plainly none by its name.

    Args:
        name: A path relative to the archive or folder of the images.
    """
    path = PurePosixPath(os.fspath(name).replace("\\", "/"))
    hidden = any(part.startswith(_HIDDEN) for part in path.parts)
    return hidden or path.name.lower() in _NO_IMAGE_NAMES or path.suffix.lower() in _NO_IMAGE_TYPES


def read_archive(path: str | os.PathLike) -> Iterator[tuple[str, io.BytesIO | ValueError | None]]:
    """Yield the files of a ZIP archive, one at a time.

    Args:
        path: The archive.

    Yields:
        The name of the file in the archive, and its content, or the error that keeps it from being read, or None if it
        is plainly no image.

    Raises:
        ValueError: if the archive is unsafe, encrypted or damaged, or holds no image.
    """
    with _open_archive(path) as archive:
        for name, member in _members(archive):
            yield name, None if is_clutter(name) else _unpack(archive, member)


def _open_archive(path: str | os.PathLike) -> zipfile.ZipFile:
    """Open a ZIP archive.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return zipfile.ZipFile(path)
    except UnicodeDecodeError as error:
        raise ValueError("it is damaged, as a name in it is not in UTF-8 as it states; pack it again") from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error  # without the path, which may be the server's
    except Exception as error:  # zipfile raises errors of every kind on damaged data
        raise ValueError(str(error) or "it is a damaged ZIP archive") from error


def _members(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """Return the name and the entry of each file of an archive.

    Raises:
        ValueError: if the archive is unsafe or encrypted, or holds no image.
    """
    entries = archive.infolist()
    members = [
        (name, member)
        for name, member in zip(member_names(entries), entries, strict=True)
        if not name.endswith(("/", "\\"))
    ]
    for name, member in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if not path.parts:
            raise ValueError("it is refused, as a file in it has no name")
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ValueError(f"it is refused, as the path {name!r} leads out of it")
        if path.suffix.lower() in _ARCHIVES:
            raise ValueError(f"it is refused, as it holds another archive, {name!r}")
        if member.flag_bits & 1:
            raise ValueError("it is encrypted")
    if (size := sum(member.file_size for _, member in members)) > MAX_UNPACKED_BYTES:
        raise ValueError(
            f"it is refused, as it unpacks to {size / 2**20:,.0f} MiB, more than {MAX_UNPACKED_BYTES >> 20:,}"
        )
    if all(is_clutter(name) for name, _ in members):
        raise ValueError("it holds no image")
    return members


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> io.BytesIO | ValueError:
    try:
        # Do not rely on the size that the archive states.
        with archive.open(member) as file:
            content = file.read(min(member.file_size, MAX_FILE_BYTES) + 1)
    except Exception as error:  # the decoders raise errors of every kind on damaged data
        return ValueError(f"it is damaged ({error})")
    if len(content) > member.file_size or member.file_size > MAX_FILE_BYTES:
        return ValueError(f"it is larger than it says, or than {MAX_FILE_BYTES >> 20} MiB")
    return io.BytesIO(content)
