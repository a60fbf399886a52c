"""The record of a review, review.json: who has decided what of each lesion, and when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from math import dist
from typing import Literal

from pydantic import BaseModel, ConfigDict

import longilesion
from longilesion.case import ScanName
from longilesion.course import OUTLINED
from longilesion.geometry import Triple
from longilesion.review.journal import Journal
from longilesion.review.outlines import Outline
from longilesion.review.predictions import FirstSegmentation
from longilesion.review.result import Reviewed
from longilesion.review.state import LesionState, ReviewState, Verdict
from longilesion.review.volume import RasVolume


class LesionReview(BaseModel):
    """What was decided of a lesion, last by `reader` at `at`; by the program alone where it is untouched.

    `moved_mm` is the distance from where the program has looked for it to the click of a person, None where nobody has
    moved it, it is new, or it was outside the scans. `click_xyz_mm` is the click that the result is made of, None
    outside the scans and for candidates. `voxels_added` and `voxels_removed` are those drawn by hand. A lesion that is
    gone, none, or merged with another one has no voxels of its own. `is_candidate`: it was found by a search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    decision: Verdict
    decided_by: Literal["person", "program"]
    reader: str
    at: datetime | None
    scan: ScanName | None
    click_xyz_mm: Triple | None
    moved_mm: float | None = None
    voxels_added: int = 0
    voxels_removed: int = 0
    voxels: int
    volume_ml: float
    merged_into: int | None = None
    is_new: bool = False
    is_candidate: bool = False


class ReviewRecord(BaseModel):
    """A review; `is_complete` where a person has decided of every lesion. `begun` is when its journal was.

    `decisions` counts those that stand, `undone` those that were undone. `candidates` are lesions that a search has
    found; those that nobody has confirmed are none in the map's sense.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    statement: str
    fingerprint: str
    begun: datetime
    written: datetime
    is_complete: bool
    decisions: int
    undone: int
    lesions: list[LesionReview]
    candidates: list[LesionReview]


def make_record(
    journal: Journal,
    state: ReviewState,
    first: FirstSegmentation,
    reviewed: Reviewed,
    volumes: Mapping[ScanName, RasVolume],
    *,
    written: datetime,
) -> ReviewRecord:
    """Describes a review."""
    rows = [
        _lesion(lesion_id, lesion, first, reviewed.outlines.get(lesion_id), volumes)
        for lesion_id, lesion in state.lesions.items()
    ]
    return ReviewRecord(
        version=longilesion.__version__,
        statement=f"{OUTLINED}.",
        fingerprint=journal.start.fingerprint,
        begun=journal.start.at,
        written=written,
        is_complete=not state.undecided,
        decisions=len(state.applied),
        undone=len(state.undone),
        lesions=[row for row in rows if not row.is_candidate],
        candidates=[row for row in rows if row.is_candidate],
    )


def moved_mm(lesion_id: int, lesion: LesionState, first: FirstSegmentation) -> float | None:
    """How far a person has moved a lesion from where the program has looked for it, if anybody has."""
    proposed = first.predicted.get(lesion_id)
    if lesion.click is None or proposed is None or lesion.click.scan_name != proposed.prompt.followup.scan_name:
        return None
    return round(dist(lesion.click.point_xyz_mm, proposed.prompt.followup.point_xyz_mm), 2)


def _lesion(
    lesion_id: int,
    lesion: LesionState,
    first: FirstSegmentation,
    outline: Outline | None,
    volumes: Mapping[ScanName, RasVolume],
) -> LesionReview:
    proposed = first.predicted.get(lesion_id)
    click = lesion.click or (None if proposed is None else proposed.prompt.followup)
    voxels = 0 if outline is None else len(outline.voxels)
    return LesionReview(
        id=lesion_id,
        decision=lesion.verdict,
        decided_by="program" if lesion.verdict == "untouched" else "person",
        reader=lesion.reader,
        at=lesion.at,
        scan=click.scan_name if click is not None else None if outline is None else outline.scan,
        click_xyz_mm=None if click is None else click.point_xyz_mm,
        moved_mm=moved_mm(lesion_id, lesion, first),
        voxels_added=0 if outline is None else outline.added,
        voxels_removed=0 if outline is None else outline.removed,
        voxels=voxels,
        volume_ml=0.0 if outline is None else round(voxels * volumes[outline.scan].grid.voxel_volume_ml, 6),
        merged_into=lesion.merged_into,
        is_new=lesion.is_new,
        is_candidate=lesion.is_candidate,
    )
