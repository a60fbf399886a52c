"""Makes what the page is told of a review: the lesions in order of doubt, with places, measures and decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from longilesion.case import Baseline, LesionPrompt, OutsideLesion, ScanName
from longilesion.components import lesion_voxels
from longilesion.diameter import axial_diameters
from longilesion.geometry import Box
from longilesion.pipeline import LesionOutcome, remarks
from longilesion.review.decisions import Entry
from longilesion.review.doubt import Doubt, doubt
from longilesion.review.outlines import NO_VOXELS
from longilesion.review.record import moved_mm
from longilesion.review.result import Reviewed
from longilesion.review.runs import Runs, runs_of
from longilesion.review.session import Session
from longilesion.review.view import LesionView, OutlineView, ReviewView, SideView
from longilesion.review.volume import RasVolume, ras_view
from longilesion.uncertainty import volume_interval_ml


class Viewer:
    """Makes the views of a session; what does not change is kept."""

    def __init__(self, session: Session) -> None:
        self.session = session
        case = session.patient.case
        self.baselines = {name: RasVolume(prior.scan) for name, prior in case.baselines.items()}
        self._before = {name: _voxels_of(prior, self.baselines[name]) for name, prior in case.baselines.items()}
        self._measures: dict[str, SideView] = {}
        threshold = session.ensemble.thresholds.presence_threshold
        self._outcomes = {each.prompt.lesion_id: each for each in session.first.segmentation.lesions}
        self._doubts = {lesion_id: doubt(each, threshold) for lesion_id, each in self._outcomes.items()}
        # Scores run from 0 to 1: of the candidates, the best one first.
        self._scores = {each.lesion_id: each.candidate.score for each in session.first.segmentation.candidates}
        # The outcomes of what is shown now.
        self._reviewed: Reviewed | None = None
        self._present: Mapping[int, LesionOutcome] = {}
        self._shown: ReviewView | None = None

    def review(self) -> ReviewView:
        """The whole review, without the voxels; made again only where it has changed, as the page asks often."""
        with self.session.lock:
            if self._shown is None or self._shown.revision != self.session.revision:
                self._shown = self._made()
            return self._shown

    def outline(self, lesion_id: int) -> OutlineView | None:
        """A lesion's voxels in its follow-up scan; None for a lesion that is unknown."""
        with self.session.lock:
            if lesion_id not in self.session.state.lesions:
                return None
            scan, voxels = self._voxels(lesion_id)
            if scan is None:
                return OutlineView(outline=_key(None, voxels), shown=(), voxels=())
            volume = self.session.volumes[scan]
            return OutlineView(outline=_key(scan, voxels), shown=volume.shown_runs(voxels), voxels=runs_of(voxels))

    def baseline_outlines(self, name: ScanName) -> dict[int, Runs]:
        """The lesions of a baseline scan, as shown."""
        volume = self.baselines[name]
        return {lesion_id: volume.shown_runs(voxels) for lesion_id, voxels in self._before[name].items()}

    def neighbourhood(self, lesion_id: int) -> tuple[RasVolume, Box] | None:
        """The follow-up scan and the part of it to draw a lesion in; None where it has no place."""
        with self.session.lock:
            if lesion_id not in self.session.state.lesions:
                return None
            scan, voxels = self._voxels(lesion_id)
            place = self._followup(lesion_id).place_xyz_mm
            if scan is None or place is None:
                return None
            volume = self.session.volumes[scan]
            return volume, volume.box_around(place, voxels)

    def _made(self) -> ReviewView:
        session, state = self.session, self.session.state
        lesions = [self._lesion(lesion_id) for lesion_id in state.lesions]
        lesions.sort(key=lambda lesion: (lesion.is_candidate, lesion.is_new, -lesion.doubt, lesion.id))
        written = session.written
        last, following = (_named(entries) for entries in (state.applied[-1:], state.undone[:1]))
        return ReviewView(
            revision=session.revision,
            is_read_only=session.is_read_only,
            reader=session.reader,
            statement="Research use only.",
            lesions=tuple(lesions),
            undecided=len(state.undecided),
            pending=sum(lesion.stage == "preview" for lesion in lesions),
            last=last[0],
            last_lesion=last[1],
            next=following[0],
            next_lesion=following[1],
            baselines=tuple(self.baselines),
            followups=tuple(session.volumes),
            written=None if written is None else written[1],
            is_written=written is not None and written[0] == len(session.journal.entries),
        )

    def _voxels(self, lesion_id: int) -> tuple[ScanName | None, Int64[np.ndarray, " n"]]:
        outline = self.session.reviewed.outlines.get(lesion_id)
        return (self.session.scan_of(lesion_id), NO_VOXELS) if outline is None else (outline.scan, outline.voxels)

    def _lesion(self, lesion_id: int) -> LesionView:
        session = self.session
        lesion = session.state.lesions[lesion_id]
        outcome = self._outcome(lesion_id)
        outline = session.reviewed.outlines.get(lesion_id)
        known = None if outcome is None else outcome.uncertainty
        followup = self._followup(lesion_id)
        doubted = self._doubts.get(lesion_id, Doubt(score=self._scores.get(lesion_id, 0.0), reasons=()))
        scan, voxels = self._voxels(lesion_id)
        return LesionView(
            id=lesion_id,
            verdict=lesion.verdict,
            reader=lesion.reader,
            at=lesion.at,
            doubt=round(doubted.score, 3),
            reasons=doubted.reasons,
            stage=session.stage(lesion_id),
            is_new=lesion.is_new,
            is_candidate=lesion.is_candidate,
            is_outside=outcome is not None and isinstance(outcome.prompt, OutsideLesion),
            baseline=self._baseline(lesion_id),
            followup=followup,
            interval_ml=None
            if known is None or followup.volume_ml is None
            else volume_interval_ml(followup.volume_ml, known.volume_factor),
            presence=None if outcome is None else outcome.presence,
            confidence=None if outcome is None else outcome.prompt.confidence,
            similarity=None if outcome is None else outcome.similarity,
            moved_mm=moved_mm(lesion_id, lesion, session.first),
            added=0 if outline is None else outline.added,
            removed=0 if outline is None else outline.removed,
            merged_into=lesion.merged_into if outcome is None else outcome.merged_into,
            notes=self._notes(lesion_id, outcome),
            outline=_key(scan, voxels),
        )

    def _notes(self, lesion_id: int, outcome: LesionOutcome | None) -> tuple[str, ...]:
        if lesion_id in self.session.reviewed.segmentation.left_out:
            return ("no place is known in the follow-up: move it to one",)
        return () if outcome is None else tuple(remarks(outcome.note))

    def _outcome(self, lesion_id: int) -> LesionOutcome | None:
        """The lesion's outcome now, with the interval of the first one where nothing has changed since."""
        reviewed = self.session.reviewed
        if self._reviewed is not reviewed:
            self._reviewed = reviewed
            self._present = {each.prompt.lesion_id: each for each in reviewed.segmentation.lesions}
        found, first = self._present.get(lesion_id), self._outcomes.get(lesion_id)
        if found is None or first is None:
            return found or first
        is_same = found.prompt == first.prompt and found.volume_followup_ml == first.volume_followup_ml
        return first if is_same and found.note == first.note else found

    def _baseline(self, lesion_id: int) -> SideView:
        """The lesion in the baseline: outlined, or clicked, or unknown."""
        for name, lesions in self._before.items():
            if lesion_id in lesions:
                return self._measured(name, self.baselines[name], lesions[lesion_id], "baseline")
        outcome = self._outcome(lesion_id)
        volume_ml = None if outcome is None else outcome.volume_baseline_ml
        click = None if outcome is None else outcome.prompt.baseline
        if click is None or click.scan_name not in self.baselines:
            return SideView(volume_ml=volume_ml)
        return SideView(scan=click.scan_name, place_xyz_mm=click.point_xyz_mm, volume_ml=volume_ml)

    def _followup(self, lesion_id: int) -> SideView:
        scan, voxels = self._voxels(lesion_id)
        if scan is None:
            return SideView()
        if len(voxels):
            return self._measured(scan, self.session.volumes[scan], voxels, "followup")
        outcome, click = self._outcome(lesion_id), self.session.state.lesions[lesion_id].click
        place = None if click is None else click.point_xyz_mm
        if place is None and outcome is not None:
            # Where it was looked for.
            own = outcome.prompt.followup.point_xyz_mm if isinstance(outcome.prompt, LesionPrompt) else None
            place = outcome.place_xyz_mm or own
        if place is None:
            places = (each for each in self.session.first.segmentation.candidates if each.lesion_id == lesion_id)
            place = next((each.candidate.centre_xyz_mm for each in places), None)
        return SideView(scan=scan, place_xyz_mm=place, volume_ml=0.0, longest_mm=0.0, short_mm=0.0)

    def _measured(self, scan: ScanName, volume: RasVolume, voxels: Int64[np.ndarray, " n"], side: str) -> SideView:
        key = f"{side} {_key(scan, voxels)}"
        if key not in self._measures:
            mask, grid = volume.mask(voxels)
            found = axial_diameters(mask, grid)
            self._measures[key] = SideView(
                scan=scan,
                place_xyz_mm=volume.place_xyz_mm(voxels),
                volume_ml=len(voxels) * grid.voxel_volume_ml,
                longest_mm=found.longest_mm,
                short_mm=found.perpendicular_mm,
            )
        return self._measures[key]


def _voxels_of(prior: Baseline, volume: RasVolume) -> Mapping[int, Int64[np.ndarray, " n"]]:
    if prior.lesions is None:
        return {}
    view, _ = ras_view(prior.lesions.ids, prior.lesions.grid)
    return {
        lesion_id: np.ravel_multi_index(tuple(voxels), view.shape).astype(np.int64)
        for lesion_id, voxels in lesion_voxels(view).items()
    }


def _key(scan: ScanName | None, voxels: Int64[np.ndarray, " n"]) -> str:
    """Differs where two outlines do."""
    return hashlib.blake2b(str(scan).encode() + voxels.tobytes(), digest_size=8).hexdigest()


def _named(entries: Sequence[Entry]) -> tuple[str | None, int | None]:
    """The decision of the first entry in a few words, and its lesion."""
    if not entries:
        return None, None
    action = entries[0].action
    words = action.kind.replace("_", " ")
    lesion: int | None = getattr(action, "lesion", None)
    return (words if lesion is None else f"{words}, lesion {lesion}"), lesion
