"""Uploaded files and ZIP archives, read with care: their names and sizes may be forged."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

MAX_FILE_BYTES = 256 * 2**20  # of one file, packed or not
MAX_UNPACKED_BYTES = 2**30  # of all files of an archive
# What the upload fields offer to choose. HEIC is left out, so that phones convert their photographs to JPEG.
IMAGE_TYPES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".avif", ".jp2", ".ppm", ".pgm")
_ARCHIVES = (".zip", ".gz", ".bz2", ".xz", ".7z", ".rar", ".tar")
_HIDDEN = ("__MACOSX", ".")


def read_uploads(paths: Iterable[str]) -> Iterator[tuple[str, str | io.BytesIO | ValueError]]:
    """Yield every image among files and in ZIP archives, one at a time.

    Yields:
        The name of the image, with that of its archive in front; and a path, an open file, or the error that keeps
        the image from being read.
    """
    for path in paths:
        name = Path(path).name
        if not name.lower().endswith(".zip"):
            yield name, path
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                for member in _members(archive):
                    yield f"{name}/{member.filename}", _unpack(archive, member)
        except (ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            yield name, ValueError(str(error))


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the files of an archive, without those that operating systems hide in it.

    Raises:
        ValueError: if the archive is unsafe or encrypted.
    """
    members = [member for member in archive.infolist() if not member.is_dir()]
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ValueError(f"it is refused, as the path {member.filename!r} leads out of it")
        if path.suffix.lower() in _ARCHIVES:
            raise ValueError(f"it is refused, as it holds another archive, {member.filename!r}")
        if member.flag_bits & 1:
            raise ValueError("it is encrypted")
    if (size := sum(member.file_size for member in members)) > MAX_UNPACKED_BYTES:
        raise ValueError(
            f"it is refused, as it unpacks to {size / 2**20:,.0f} MiB, more than {MAX_UNPACKED_BYTES >> 20:,}"
        )
    return [
        member
        for member in members
        if not any(part.startswith(_HIDDEN) for part in PurePosixPath(member.filename).parts)
    ]


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
