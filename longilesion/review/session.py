"""A review of one patient: takes decisions, keeps them in the journal, and outlines what they change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from longilesion.case import Case, Click, ScanName
from longilesion.ensemble import Ensemble
from longilesion.errors import InputError, LongilesionError
from longilesion.image_file import ImageFile
from longilesion.lesion_facts import NO_FACTS
from longilesion.new_lesions import Search
from longilesion.pipeline import PredictedLesion
from longilesion.response import Lesion
from longilesion.review.journal import Decision, Draw, Entry, Journal, Merge, Move, New, Redo, Undo
from longilesion.review.output import write_results
from longilesion.review.predictions import FirstSegmentation, predict_at, preview_of, prompt_at, segment_first
from longilesion.review.record import make_record
from longilesion.review.result import Reviewed, review_result, scan_of
from longilesion.review.state import ReviewState, replay
from longilesion.review.volume import RasVolume

# What the page shows of a lesion: a preview, what segment would give, or neither, as it cannot be computed.
Stage: TypeAlias = Literal["preview", "full", "failed"]
_Key: TypeAlias = tuple[int, Click]
# So long after a lesion was moved nothing is computed in full, so that the next preview need not share the processor.
_QUIET_S = 1.0
# What may go wrong while one lesion is computed; RuntimeError is torch's.
_FAILURES = (LongilesionError, RuntimeError, MemoryError)

_log = logging.getLogger(__name__)


class ReadOnlyError(LongilesionError):
    """A change of a review that is only shown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patient:
    """What is reviewed: a case, its follow-up scans' files, and what is known of its lesions besides."""

    case: Case
    scans: Mapping[ScanName, ImageFile]
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[int, Lesion] = field(default_factory=lambda: NO_FACTS)


class Session:
    """A review that goes on from where its journal ends.

    Its methods may be called by several threads. A lesion whose click moves is shown by a preview first; the full
    prediction replaces it once it is computed, in the background. Results are made of full predictions alone.
    """

    def __init__(
        self,
        patient: Patient,
        ensemble: Ensemble,
        journal: Journal,
        *,
        search: Search | None = None,
        reader: str = "",
        is_read_only: bool = False,
    ) -> None:
        self.patient, self.ensemble, self.journal = patient, ensemble, journal
        self.reader, self.is_read_only = reader, is_read_only
        self.lock = threading.RLock()
        self.first: FirstSegmentation = segment_first(patient.case, ensemble, search)
        self.volumes = {name: RasVolume(scan) for name, scan in patient.case.followups.items()}
        self.revision = 0
        self._moved_at = 0.0
        self.written: tuple[int, datetime] | None = None
        self._preview = preview_of(ensemble)
        self._full: dict[_Key, PredictedLesion] = {}
        self._quick: dict[_Key, PredictedLesion] = {}
        self._failed: dict[_Key, str] = {}
        self._pending: dict[_Key, Future[None]] = {}
        self._hurried = threading.Event()
        self._is_closing = False
        # A thread each, that keep their computing threads: a preview does not wait for what is computed in full.
        self._workers = ThreadPoolExecutor(1, "preview"), ThreadPoolExecutor(1, "full")
        outcomes = self.first.segmentation
        self.state: ReviewState = replay(
            ReviewState.begin(
                [*(outcome.prompt.lesion_id for outcome in outcomes.lesions), *outcomes.left_out],
                [candidate.lesion_id for candidate in outcomes.candidates],
            ),
            journal.entries,
        )
        for key in self._clicked():
            self._full[key] = self._predict(key, ensemble)
        self.reviewed: Reviewed = self._review()

    def decide(self, action: Decision | Undo | Redo) -> None:
        """Takes a decision; once this returns, it is in the journal, and `reviewed` shows what it changes.

        Raises InputError for one that is impossible, or cannot be written, and ReadOnlyError.
        """
        with self.lock:
            if self.is_read_only:
                raise ReadOnlyError("the review is read-only; expected no decision")
            self._check(action)
            now = datetime.now(UTC)
            # Once more than needed, so that nothing impossible gets into the journal.
            self.state.after(Entry(number=len(self.journal.entries) + 1, at=now, reader=self.reader, action=action))
            entry = self.journal.append(action, at=now, reader=self.reader)
            self.state = self.state.after(entry)
            self._catch_up()
            self._show()

    def stage(self, lesion_id: int) -> Stage:
        """What is shown of a lesion."""
        click = self.state.lesions[lesion_id].click
        if click is None or (lesion_id, click) in self._full:
            return "full"
        return "failed" if (lesion_id, click) in self._failed else "preview"

    def wait(self) -> None:
        """Waits until all that is shown is computed in full; raises InputError where that fails."""
        self._hurried.set()
        while True:
            with self.lock:
                keys = [key for key in self._clicked() if key not in self._full]
                for key in keys:
                    if key in self._failed:
                        raise InputError(f"lesion {key[0]}: {self._failed[key]}; expected an outline of it")
                futures = [self._pending[key] for key in keys]
            if not futures:
                self._hurried.clear()
                return
            for future in futures:
                future.result()

    def write(self, folder: Path) -> list[Path]:
        """Writes the result as it stands into a folder, completely or not at all, and returns the files."""
        self.wait()
        with self.lock:
            reviewed = self._review(is_shown_only=False)
            record = make_record(
                self.journal, self.state, self.first, reviewed, self.volumes, written=datetime.now(UTC)
            )
            return write_results(
                folder,
                reviewed,
                record,
                self.patient.scans,
                seconds=self.patient.seconds,
                facts=self.patient.facts,
            )

    def finish(self, folder: Path) -> list[Path]:
        """Writes the result, as `write`, and remembers when."""
        if self.is_read_only:
            raise ReadOnlyError("the review is read-only; expected no result to be written")
        with self.lock:
            count = len(self.journal.entries)
        files = self.write(folder)
        with self.lock:
            self.written = count, datetime.now(UTC)
            self.revision += 1
        return files

    def close(self) -> None:
        """Ends the background work, and lets other programs open the journal."""
        self._is_closing = True
        self._hurried.set()
        for workers in self._workers:
            workers.shutdown(cancel_futures=True)
        self.journal.close()

    def scan_of(self, lesion_id: int) -> ScanName | None:
        """The follow-up scan that a lesion lies in; None where that is outside all."""
        return scan_of(lesion_id, self.state.lesions[lesion_id], self.first)

    def predicted(self) -> dict[int, PredictedLesion]:
        """The prediction of each lesion at its present click, the best that there is."""
        found = {}
        for lesion_id, lesion in self.state.lesions.items():
            key = None if lesion.click is None else (lesion_id, lesion.click)
            each = self.first.predicted.get(lesion_id) if key is None else self._full.get(key, self._quick.get(key))
            if each is not None:
                found[lesion_id] = each
        return found

    def _clicked(self) -> list[_Key]:
        return [
            (lesion_id, lesion.click) for lesion_id, lesion in self.state.lesions.items() if lesion.click is not None
        ]

    def _predict(self, key: _Key, ensemble: Ensemble) -> PredictedLesion:
        return predict_at(self.patient.case, prompt_at(self.patient.case, self.first, *key), ensemble)

    def _catch_up(self) -> None:
        """Previews what is at a new click, and has it computed in full."""
        for key in self._clicked():
            if key in self._full or key in self._pending or key in self._failed:
                continue
            try:
                self._quick[key] = self._workers[0].submit(self._predict, key, self._preview).result()
            except _FAILURES as error:
                self._fail(key, error)
                continue
            self._moved_at = time.monotonic()
            self._pending[key] = self._workers[1].submit(self._complete, key)

    def _complete(self, key: _Key) -> None:
        while (left_s := self._moved_at + _QUIET_S - time.monotonic()) > 0 and not self._hurried.wait(left_s):
            pass
        with self.lock:
            if self._is_closing or key not in self._clicked():
                # Moved again meanwhile, or undone.
                del self._pending[key]
                return
        try:
            full = self._predict(key, self.ensemble)
        except _FAILURES as error:
            with self.lock:
                self._pending.pop(key)
                self._fail(key, error)
            return
        with self.lock:
            self._full[key] = full
            self._pending.pop(key)
            self._show()

    def _fail(self, key: _Key, error: BaseException) -> None:
        """The page says so, and no result is made without this lesion."""
        _log.warning("lesion %d: %s", key[0], error)
        self._failed[key] = str(error)
        self.revision += 1

    def _show(self) -> None:
        self.reviewed = self._review()
        self.revision += 1

    def _review(self, *, is_shown_only: bool = True) -> Reviewed:
        return review_result(
            self.patient.case,
            self.state,
            self.first,
            self.predicted(),
            self.ensemble,
            self.volumes,
            is_shown_only=is_shown_only,
        )

    def _check(self, action: Decision | Undo | Redo) -> None:
        """Raises InputError for what no state of the decisions alone can tell to be impossible."""
        if isinstance(action, Move | New):
            if action.scan not in self.volumes:
                raise InputError(f"{action.scan} scan: there is none; expected one of {', '.join(self.volumes)}")
            grid = self.volumes[action.scan].grid
            if not grid.contains(grid.index_zyx(np.array(action.point_xyz_mm))):
                raise InputError(f"a click outside the {action.scan} scan; expected one inside")
        elif isinstance(action, Draw | Merge) and action.lesion in self.state.lesions:
            scan = self.scan_of(action.lesion)
            if scan is None:
                raise InputError(f"lesion {action.lesion}: outside the scans; expected its place first")
            if isinstance(action, Draw):
                size = prod(self.volumes[scan].grid.shape_zyx)
                if any(first + count > size for runs in (action.added, action.removed) for first, count in runs):
                    raise InputError(f"lesion {action.lesion}: voxels outside its scan; expected indices below {size}")
            elif action.into in self.state.lesions and self.scan_of(action.into) != scan:
                raise InputError(f"lesions {action.lesion} and {action.into}: in two scans; expected both in one")
