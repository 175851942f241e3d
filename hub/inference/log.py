"""An append-only log of answers: a run that is killed goes on where it was, without a row lost or doubled."""

import hashlib
import heapq
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from hub.files import UserError, check_output, one_line, write_json
from hub.inference.inputs import readable_name

_FOLDER = ".unfinished"  # in the output; it is there as long as the run is not finished
# Worker processes of a killed run hold its lock until they notice, every five seconds.
_LOCK_PATIENCE = 20  # seconds


class Answer(NamedTuple):
    """The answer to one input.

    Attributes:
        number: Of the input, by which answers are in order.
        name: The input.
        status: See `predict`.
        reason: Of the status.
        rows: The values of each cell.
    """

    number: int
    name: str
    status: str
    reason: str
    rows: list[list[str]]


class AnswerLog:
    """The answers of a run so far, in a folder within its output.

    Each process of a run appends to a file of its own, one line for an input, each written by itself: what was
    answered outlives the process. A line that was not finished counts for nothing.
    """

    def __init__(self, output: Path, run: dict, identity: Iterable[str], is_first: bool = True):
        """Begin a run, or go on with the one that was interrupted.

        Args:
            output: The folder of the results; new, empty, or of an interrupted run.
            run: What the run was asked, for the user.
            identity: Texts that tell its inputs and its model from others.
            is_first: Whether this is the first process of the run, which prepares the folder for the others.

        Raises:
            UserError: `output` holds something else, another run, or one that is still running.
        """
        self.folder = output / _FOLDER
        self._output = output
        self._digest = _digest(identity)
        self._run = {"run": run, "inputs": self._digest}
        self._lock = FileLock(self.folder / "lock", timeout=_LOCK_PATIENCE)
        self._file: int | None = None
        self._path = self.folder / f"{uuid.uuid4().hex}.jsonl"
        self.written = 0
        if is_first:
            self._prepare()

    def _prepare(self) -> None:
        if not self.folder.is_dir():
            check_output(self._output)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(f"another process writes to {readable_name(self._output)}; wait until it ends") from None
        path = self.folder / "run.json"
        if not path.exists():
            write_json(path, self._run)
        if (found := json.loads(path.read_text(encoding="utf-8"))) != self._run:
            raise UserError(
                f"{readable_name(self._output)} holds an unfinished run of {_difference(found, self._run)}; finish it "
                "with the same command, remove the folder, or name another output folder"
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._lock.release()

    def done(self) -> set[int]:
        """The numbers of the inputs that have an answer."""
        return {answer.number for path in self._paths() for answer in _read(path)}

    def append(self, answer: Answer) -> None:
        """Write an answer.

        Raises:
            OSError: It cannot be written, for want of space, for example.
        """
        rest = memoryview((json.dumps(answer, ensure_ascii=True) + "\n").encode())
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise OSError(
                f"could not write to {readable_name(self.folder)}: {reason}; what was answered before is kept: mend "
                "this and give the same command again"
            ) from error
        self.written += 1

    def answers(self) -> Iterator[Answer]:
        """The answers of all processes so far, once each, in the order of their numbers, one in memory at a time."""
        last = -1
        # Each process answers in ascending order.
        for answer in heapq.merge(*map(_read, self._paths()), key=lambda answer: answer.number):
            if answer.number != last:
                yield answer
            last = answer.number

    def remove(self) -> None:
        """End the run: its results are elsewhere."""
        self.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))


def _read(path: Path) -> Iterator[Answer]:
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield Answer(*json.loads(line))


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _difference(found: dict, wanted: dict) -> str:
    """What an unfinished run has that differs from the wanted one."""
    asked = found.get("run", {})
    differing = [f"{key} {asked.get(key)}" for key, value in wanted["run"].items() if asked.get(key) != value]
    return ", ".join(differing) or "other images or weights"
