"""Errors that the user can mend, and files and folders that are written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub.errors import HfHubHTTPError

# Errors of the Hub's client: those of the HTTP library below huggingface_hub, named by way of `HfHubHTTPError` because
# that library has changed once, and the RuntimeError of an upload that failed.
HUB_ERRORS = (*HfHubHTTPError.__bases__, RuntimeError)


class UserError(ValueError):
    """An error that the user can mend: its message is one line that names the file or argument and the remedy."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line, or the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def dead_worker(error: BaseException) -> str | None:
    """Say that a worker process of PyTorch's `DataLoader` died, if that is what an error means.

    PyTorch says so by itself in an error of any place, as it learns it from a signal. Before it does, the connection
    to the process breaks, so that an error of connections out of the loader means the same.

    Returns:
        The beginning of a line for the user, without an end of sentence, or None for another error.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and (found := _DEAD_WORKER.search(str(cause))):
            pid, how = found.groups()
            return f"the worker process {pid} that reads images {_manner_of_death(how)}"
        if isinstance(cause, (ConnectionError, EOFError, FileNotFoundError)):
            files = [frame.filename for frame in traceback.extract_tb(cause.__traceback__)]
            if any(Path(file).parts[-3:] == ("utils", "data", "dataloader.py") for file in files):
                return "a worker process that reads images died, perhaps for want of memory"
        cause = cause.__cause__
    return None


# PyTorch's own words, in its C++ and its Python code.
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", re.DOTALL)


def _manner_of_death(how: str) -> str:
    """How a process died, by PyTorch's words for it."""
    if "Bus error" in how:
        return "died for want of shared memory: give the container more of it, or lower the number of workers"
    if name := re.search(r"by signal: ([^.]+)", how):
        return f"died ({name[1].strip()}), perhaps for want of memory"
    return "died, perhaps for want of memory"


def ignore_ended_processes() -> None:
    """Keep PyTorch from raising its error about a dead worker once more, wherever the program is by then."""
    while hasattr(signal, "SIGCHLD"):
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return
        except RuntimeError:  # it came right now
            continue


def check_output(output: str | os.PathLike) -> None:
    """Raise `UserError` if `output` exists and is anything but an empty folder."""
    output = Path(output)
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} exists and is not empty; remove it or name another output folder")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} exists and is not a folder; remove it or name another output folder")


@contextmanager
def writing(output: str | os.PathLike) -> Iterator[Path]:
    """Write a folder whole or not at all.

    The block gets the path of a folder to make, hidden beside `output`. It is renamed to `output` when the block ends,
    and removed when the block fails. A killed process leaves it behind; the next write to the same `output` removes
    it.

    Raises:
        UserError: `output` exists and is not an empty folder.
    """
    output = Path(output).absolute()
    check_output(output)
    with _partial_copy(output) as partial:
        yield partial
        if output.exists():
            output.rmdir()  # Windows does not rename onto an empty folder.
        os.replace(partial, output)


def write_json(path: str | os.PathLike, content: object, indent: int | None = 2) -> None:
    """Write `content` as a JSON file, whole or not at all; make its folder, replace an older file.

    Raises:
        OSError: The file cannot be written.
        TypeError, ValueError: `content` is no JSON.
    """
    path = Path(path).absolute()
    text = json.dumps(content, indent=indent) + "\n"
    with _partial_copy(path) as partial:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


@contextmanager
def _partial_copy(target: Path) -> Iterator[Path]:
    """The path of a hidden neighbour of `target`, removed if the block fails; those of dead processes are removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    for stale in target.parent.iterdir():
        pid = stale.name.removeprefix(prefix)
        if stale.name.startswith(prefix) and pid.isdecimal() and not _is_alive(int(pid)):
            _remove(stale)
    partial = target.with_name(f"{prefix}{os.getpid()}")
    try:
        yield partial
    except BaseException:  # KeyboardInterrupt and SystemExit too
        _remove(partial)
        raise


def _remove(path: Path) -> None:
    """Remove a file or a folder as far as possible, in silence: another error is on its way."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _is_alive(pid: int) -> bool:
    """Whether a process exists."""
    if os.name != "posix":
        return True  # os.kill(pid, 0) would end the process there.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
