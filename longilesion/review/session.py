"""A review of one patient: takes decisions, keeps them in the journal, and outlines what they change."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import prod
from pathlib import Path

import numpy as np

from longilesion.case import Case, ScanName
from longilesion.ensemble import Ensemble
from longilesion.errors import InputError, LongilesionError
from longilesion.image_file import ImageFile
from longilesion.lesion_facts import NO_FACTS
from longilesion.new_lesions import Search
from longilesion.pipeline import PredictedLesion
from longilesion.response import Lesion
from longilesion.review.decisions import Decision, Draw, Entry, Merge, Move, New, Redo, Undo
from longilesion.review.journal import Journal
from longilesion.review.outliner import Key, Outliner, Stage
from longilesion.review.output import DicomOutput, write_results
from longilesion.review.predictions import FirstSegmentation, segment_first
from longilesion.review.prompts_file import Beginning, read_beginning, write_beginning
from longilesion.review.record import make_record
from longilesion.review.result import Reviewed, review_result, scan_of
from longilesion.review.state import ReviewState, check_alone, replay
from longilesion.review.volume import RasVolume


class ReadOnlyError(LongilesionError):
    """A change of a review that is only shown."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Patient:
    """What is reviewed: a case, its follow-up scans' files, what is known of its lesions, and what writes DICOM."""

    case: Case
    scans: Mapping[ScanName, ImageFile]
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[int, Lesion] = field(default_factory=lambda: NO_FACTS)
    dicom: DicomOutput | None = None


class Session:
    """A review that goes on from where its journal ends.

    Its methods may be called by several threads. Results are made of full predictions alone.
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
        self.first: FirstSegmentation = self._begin(search)
        self.volumes = {name: RasVolume(scan) for name, scan in patient.case.followups.items()}
        self.revision = 0
        self.written: tuple[int, datetime] | None = None
        outcomes = self.first.segmentation
        self.state: ReviewState = replay(
            ReviewState.begin(
                [*(outcome.prompt.lesion_id for outcome in outcomes.lesions), *outcomes.left_out],
                [candidate.lesion_id for candidate in outcomes.candidates],
            ),
            journal.entries,
        )
        self.outliner = Outliner(
            patient.case, ensemble, self.first, lock=self.lock, wanted=self._clicked, changed=self._show
        )
        self.outliner.complete()
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
            # Before it is written, so that nothing impossible gets into the journal.
            entry = Entry(number=len(self.journal.entries) + 1, at=now, reader=self.reader, action=action)
            after = self.state.after(entry)
            self.journal.append(action, at=now, reader=self.reader)
            self.state = after
            self.outliner.catch_up()
            self._show()

    def stage(self, lesion_id: int) -> Stage:
        """What is shown of a lesion."""
        click = self.state.lesions[lesion_id].click
        return "full" if click is None else self.outliner.stage((lesion_id, click))

    def wait(self) -> None:
        """Waits until all that is shown is computed in full; raises InputError where that fails."""
        self.outliner.wait()

    def write(self, folder: Path) -> list[Path]:
        """Writes the result as it stands into a folder, completely or not at all, and returns the files."""
        while True:
            self.wait()
            with self.lock:
                # A lesion may have been moved meanwhile.
                if all(self.stage(lesion_id) == "full" for lesion_id in self.state.lesions):
                    return self._write(folder)

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
        self.outliner.close()
        self.journal.close()

    def scan_of(self, lesion_id: int) -> ScanName | None:
        """The follow-up scan that a lesion lies in; None where that is outside all."""
        return scan_of(lesion_id, self.state.lesions[lesion_id], self.first)

    def predicted(self) -> dict[int, PredictedLesion]:
        """The prediction of each lesion at its present click, the best that there is."""
        found = {}
        for lesion_id, lesion in self.state.lesions.items():
            if lesion.click is None:
                each = self.first.predicted.get(lesion_id)
            else:
                each = self.outliner.best((lesion_id, lesion.click))
            if each is not None:
                found[lesion_id] = each
        return found

    def _write(self, folder: Path) -> list[Path]:
        reviewed = self._review(is_shown_only=False)
        record = make_record(self.journal, self.state, self.first, reviewed, self.volumes, written=datetime.now(UTC))
        return write_results(
            folder,
            reviewed,
            record,
            self.patient.scans,
            seconds=self.patient.seconds,
            facts=self.patient.facts,
            dicom=self.patient.dicom,
        )

    def _begin(self, search: Search | None) -> FirstSegmentation:
        """The first segmentation, from the same places as when the review began, and with the same candidates."""
        folder, fingerprint = self.journal.path.parent, self.journal.start.fingerprint
        kept = read_beginning(folder, fingerprint)
        first = segment_first(self.patient.case, self.ensemble, search, prompts=None if kept is None else kept.prompts)
        now = Beginning.of(fingerprint, first.prompts, first.segmentation.candidates)
        if kept is not None and self.journal.entries:
            kept.check(now)
        elif not self.is_read_only:
            write_beginning(folder, now)
        return first

    def _clicked(self) -> list[Key]:
        return [
            (lesion_id, lesion.click) for lesion_id, lesion in self.state.lesions.items() if lesion.click is not None
        ]

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
            self._check_place(action)
        elif isinstance(action, Draw | Merge) and action.lesion in self.state.lesions:
            self._check_voxels(action)

    def _check_place(self, action: Move | New) -> None:
        if action.scan not in self.volumes:
            raise InputError(f"{action.scan} scan: there is none; expected one of {', '.join(self.volumes)}")
        grid = self.volumes[action.scan].grid
        if not grid.contains(grid.index_zyx(np.array(action.point_xyz_mm))):
            raise InputError(f"a click outside the {action.scan} scan; expected one inside")
        if isinstance(action, New) or action.lesion not in self.state.lesions:
            return
        if action.scan != self.scan_of(action.lesion):
            check_alone(self.state.lesions, action.lesion)

    def _check_voxels(self, action: Draw | Merge) -> None:
        scan = self.scan_of(action.lesion)
        if scan is None:
            raise InputError(f"lesion {action.lesion}: outside the scans; expected its place first")
        if isinstance(action, Draw):
            size = prod(self.volumes[scan].grid.shape_zyx)
            if any(first + count > size for runs in (action.added, action.removed) for first, count in runs):
                raise InputError(f"lesion {action.lesion}: voxels outside its scan; expected indices below {size}")
        elif action.into in self.state.lesions and self.scan_of(action.into) != scan:
            raise InputError(f"lesions {action.lesion} and {action.into}: in two scans; expected both in one")
