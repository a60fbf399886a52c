"""Outlines lesions at the clicks that a person sets: a preview at once, the full prediction in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, TypeAlias

from longilesion.case import Case, Click
from longilesion.ensemble import Ensemble
from longilesion.errors import InputError, LongilesionError
from longilesion.pipeline import PredictedLesion
from longilesion.review.predictions import FirstSegmentation, predict_at, preview_of, prompt_at

# What is shown of a lesion: a preview, what segment would give, or neither, as it cannot be computed.
Stage: TypeAlias = Literal["preview", "full", "failed"]
# A lesion and its click.
Key: TypeAlias = tuple[int, Click]

# So long after a lesion was moved nothing is computed in full, so that the next preview need not share the processor.
_QUIET_S = 1.0
# What may go wrong while one lesion is computed; RuntimeError is torch's.
_FAILURES = (LongilesionError, RuntimeError, MemoryError)

_log = logging.getLogger(__name__)


class Outliner:
    """The predictions of lesions by their clicks; all that was computed is kept, so that a click may come back.

    `lock` is held by whoever calls, and by the background work while it changes anything. `wanted` says which clicks
    are the present ones, `changed` is called once a prediction is complete or has failed.
    """

    def __init__(
        self,
        case: Case,
        ensemble: Ensemble,
        first: FirstSegmentation,
        *,
        lock: threading.RLock,
        wanted: Callable[[], Collection[Key]],
        changed: Callable[[], None],
    ) -> None:
        self._case, self._ensemble, self._first = case, ensemble, first
        self._lock, self._wanted, self._changed = lock, wanted, changed
        self._preview = preview_of(ensemble)
        self._full: dict[Key, PredictedLesion] = {}
        self._quick: dict[Key, PredictedLesion] = {}
        self._failed: dict[Key, str] = {}
        self._pending: dict[Key, Future[None]] = {}
        self._moved_at = 0.0
        self._hurried = threading.Event()
        self._is_closing = False
        # A thread each, that keep their computing threads: a preview does not wait for what is computed in full.
        self._workers = ThreadPoolExecutor(1, "preview"), ThreadPoolExecutor(1, "full")

    def complete(self) -> None:
        """Computes all wanted clicks in full, now, but for those that fail."""
        for key in self._wanted():
            try:
                self._full[key] = self._predict(key, self._ensemble)
            except _FAILURES as error:
                self._fail(key, error)

    def catch_up(self) -> None:
        """Previews the wanted clicks that are new, and has them computed in full."""
        for key in self._wanted():
            if key in self._full or key in self._pending or key in self._failed:
                continue
            try:
                # A click that was given up before it was computed in full may come back.
                if key not in self._quick:
                    self._quick[key] = self._workers[0].submit(self._predict, key, self._preview).result()
            except _FAILURES as error:
                self._fail(key, error)
                continue
            self._moved_at = time.monotonic()
            self._pending[key] = self._workers[1].submit(self._complete, key)

    def best(self, key: Key) -> PredictedLesion | None:
        """The full prediction, or else the preview."""
        return self._full.get(key, self._quick.get(key))

    def stage(self, key: Key) -> Stage:
        """What `best` is."""
        return "full" if key in self._full else "failed" if key in self._failed else "preview"

    def wait(self) -> None:
        """Waits, without the lock, until all wanted clicks are computed in full; raises InputError where one fails."""
        self._hurried.set()
        try:
            while futures := self._left():
                for future in futures:
                    future.result()
        finally:
            self._hurried.clear()

    def close(self) -> None:
        """Ends the background work."""
        self._is_closing = True
        self._hurried.set()
        for workers in self._workers:
            workers.shutdown(cancel_futures=True)

    def _left(self) -> list[Future[None]]:
        with self._lock:
            left = [key for key in self._wanted() if key not in self._full]
            for key in left:
                if key in self._failed:
                    raise InputError(f"lesion {key[0]}: {self._failed[key]}; expected an outline of it")
            return [self._pending[key] for key in left]

    def _predict(self, key: Key, ensemble: Ensemble) -> PredictedLesion:
        return predict_at(self._case, prompt_at(self._case, self._first, *key), ensemble)

    def _complete(self, key: Key) -> None:
        while (left_s := self._moved_at + _QUIET_S - time.monotonic()) > 0 and not self._hurried.wait(left_s):
            pass
        with self._lock:
            if self._is_closing or key not in self._wanted():
                # Moved again meanwhile, or undone.
                del self._pending[key]
                return
        try:
            full = self._predict(key, self._ensemble)
        except _FAILURES as error:
            with self._lock:
                self._pending.pop(key)
                self._fail(key, error)
                self._changed()
            return
        with self._lock:
            self._full[key] = full
            self._pending.pop(key)
            self._changed()

    def _fail(self, key: Key, error: BaseException) -> None:
        """The page says so, and no result is made without this lesion."""
        _log.warning("lesion %d: %s", key[0], error)
        self._failed[key] = str(error)
