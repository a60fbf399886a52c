"""Signals that ask a run to stop, so that it can write a checkpoint first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from training.batch import Batch
from training.parallel import DeadWorkerError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects what asks the run to stop; a second time stops at once."""
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
    """For a worker: what asks its run to stop reaches it too, while the run still needs a batch of it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def until_asked(asked: list[int], stream: Iterator[Batch]) -> Iterator[Batch]:
    """The stream, which may end early where what asks the run to stop has ended a worker too."""
    try:
        yield from stream
    except DeadWorkerError:
        if not asked:
            raise
