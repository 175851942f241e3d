"""Errors a user can mend, and files written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError


class UserError(ValueError):
    """Something that the user can mend; the message is one line that says what and how."""


def check_output(output: str | os.PathLike) -> None:
    """Raise `UserError` if `output` exists and is anything but an empty folder."""
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} exists and is not empty; remove it or name another output folder")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} exists and is not a folder; remove it or name another output folder")


@contextmanager
def writing(output: str | os.PathLike) -> Iterator[Path]:
    """The path of a folder to make, which becomes `output` when the block ends, or is removed when it fails.

    It lies, hidden, beside `output`. A killed process leaves it behind; the next `writing` to the same `output`
    removes it. Raises `UserError` if `output` is not empty.
    """
    output = Path(output).absolute()
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(output)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        yield partial
        if output.exists():
            output.rmdir()  # Windows does not rename onto an empty folder.
        os.replace(partial, output)
    except BaseException:  # KeyboardInterrupt and SystemExit too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _remove_stale(output: Path) -> None:
    """Remove the partial copies of `output` whose process is gone."""
    for partial in output.parent.glob(f".{output.name}.partial-*"):
        pid = partial.name.rpartition("-")[2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            shutil.rmtree(partial, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # os.kill(pid, 0) would end the process there.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# All that can go wrong on the way: of the HTTP library that huggingface_hub is built on, which has changed once, and
# what huggingface_hub makes of an upload that failed.
HTTP_ERRORS = (*HfHubHTTPError.__bases__, RuntimeError)


def one_line(error: BaseException) -> str:
    """What an error says, or else its kind."""
    return " ".join(str(error).split()) or type(error).__name__


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
