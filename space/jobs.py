"""Images of several visitors at once: their turns at the network, and jobs that can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count, islice
from typing import TYPE_CHECKING

from PIL import Image
from torch import nn

from space.uploads import count_images, read_uploads

if TYPE_CHECKING:
    from space.classifier import Classifier

MAX_IMAGES = 1000  # in one go
_BATCH = 16  # images of a job that are analysed together
# Set when the job of the running thread is cancelled; None outside of a job.
_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)


class CancelledError(Exception):
    """The visitor cancelled the job."""


class Turns:
    """Turns at a network, which jobs take in the order in which they asked, a batch of cells at a time.

    Thus an image of a thousand cells lets every other job have its turn between two of its batches, and ends there if
    it was cancelled.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._tickets = count()
        self._turn = 0

    def share(self, model: nn.Module) -> None:
        """Have each call of a model, and of its copies, wait for a turn."""

        # Functions, not methods: a deep copy of the model keeps them, and so takes turns with the original.
        def take(*_) -> None:
            self._take()

        def pass_on(*_) -> None:
            self._pass_on()

        model.register_forward_pre_hook(take)
        model.register_forward_hook(pass_on, always_call=True)

    def _take(self) -> None:
        """Wait for a turn.

        Raises:
            CancelledError: if the job is cancelled; the turn is passed on as after any error in the call.
        """
        with self._changed:
            ticket = next(self._tickets)
            self._changed.wait_for(lambda: self._turn == ticket)
        check_cancelled()

    def _pass_on(self) -> None:
        with self._changed:
            self._turn += 1
            self._changed.notify_all()


def check_cancelled() -> None:
    """Raise `CancelledError` if the job of this thread is cancelled."""
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled.is_set():
        raise CancelledError


class Jobs:
    """The running jobs of all visitors."""

    def __init__(self):
        self._running: dict[str | None, list[threading.Event]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def running(self, visitor: str | None) -> Iterator[threading.Event]:
        """Run a job of a visitor in this thread, until its end or `CancelledError`.

        Yields:
            An event that is set when the job is cancelled.
        """
        cancelled = threading.Event()
        with self._lock:
            self._running.setdefault(visitor, []).append(cancelled)
        token = _cancelled.set(cancelled)
        try:
            yield cancelled
        except CancelledError:
            pass
        finally:
            _cancelled.reset(token)
            with self._lock:
                self._running[visitor].remove(cancelled)
                if not self._running[visitor]:
                    del self._running[visitor]

    def cancel(self, visitor: str | None) -> None:
        """Cancel the running jobs of a visitor: each ends before its next batch of cells."""
        with self._lock:
            for cancelled in self._running.get(visitor, ()):
                cancelled.set()


def answers_to_many(
    classifier: Classifier, files: list[str], preview_size: int, progress: Callable
) -> Iterator[tuple[dict, Image.Image | None, object]]:
    """Analyse many images, in one job or in none.

    Args:
        classifier: The model.
        files: Images and ZIP archives of them.
        preview_size: The most pixels of a preview's longer side.
        progress: Gradio's progress, which hears how many images are read, and of how many.

    Yields:
        Of each of the first `MAX_IMAGES` images its answer and preview, see `Classifier.answers`, and its source, see
        `read_uploads`.

    Raises:
        CancelledError: if the job is cancelled.
    """
    images, total = islice(read_uploads(files), MAX_IMAGES), min(MAX_IMAGES, count_images(files))
    read = count(1)

    def report() -> None:
        progress((min(next(read), total), total), unit="")

    while batch := list(islice(images, _BATCH)):
        answers = classifier.answers(batch, preview_size, report)
        for (answer, preview), (_, source) in zip(answers, batch, strict=True):
            yield answer, preview, source
