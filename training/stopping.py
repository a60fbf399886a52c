"""Handling of signals that stop a run, so that it writes a checkpoint first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from training.parallel import DeadWorkerError

_Batch = TypeVar("_Batch")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects signals to stop; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before = {int(number): signal.signal(number, ask) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_stop_signals() -> None:
    """For a worker: a signal to stop reaches it, too, while the run still needs a batch from it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def until_asked(asked: list[int], stream: Iterator[_Batch]) -> Iterator[_Batch]:
    """The stream of batches; it ends early where a signal to stop has also ended a worker."""
    try:
        yield from stream
    except DeadWorkerError:
        if not asked:
            raise
