"""A CSV file that is whole whenever its writer ends."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hub.files import one_line
from hub.inference.inputs import readable_name


class Table:
    """A CSV file for spreadsheets, in UTF-8 with a byte order mark.

    It holds all rows of the inputs written so far, and no part of another, even if the disk is full.
    """

    def __init__(self, path: Path, columns: Sequence[str]):
        """Create the file and write its head.

        Raises:
            OSError: It cannot be written.
        """
        self._path = path
        self._columns = len(columns)
        self._file = open(path, "wb", buffering=0)
        self._end = 0  # of the last whole input, in bytes
        self._inputs = 0
        self._append([columns], "utf-8-sig")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, rows: Sequence[Sequence[str]]) -> None:
        """Append the rows of one input; the columns that a row lacks are empty.

        Raises:
            OSError: They cannot be written, for want of space, for example.
        """
        self._append([[*row, *[""] * (self._columns - len(row))] for row in rows], "utf-8")
        self._inputs += 1

    def _append(self, rows: Sequence[Sequence[str]], encoding: str) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        content = text.getvalue().encode(encoding)
        rest = memoryview(content)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            name, reason = readable_name(self._path), error.strerror or one_line(error)
            raise OSError(f"could not write {name}: {reason}; it holds the first {self._inputs:,} inputs") from error
        self._end += len(content)
