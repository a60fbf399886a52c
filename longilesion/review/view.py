"""What the page is told of a review."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from longilesion.case import ScanName
from longilesion.geometry import Triple
from longilesion.review.outliner import Stage
from longilesion.review.runs import Runs
from longilesion.review.state import Verdict


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SideView(_View):
    """A lesion at a time point: its scan, where it is in LPS mm, and its measures; None where they are not known."""

    scan: ScanName | None = None
    place_xyz_mm: Triple | None = None
    volume_ml: float | None = None
    longest_mm: float | None = None
    short_mm: float | None = None


class LesionView(_View):
    """A lesion in the list; `outline` changes with the voxels of its outline in the follow-up scan."""

    id: int
    verdict: Verdict
    reader: str
    at: datetime | None
    doubt: float
    reasons: tuple[str, ...]
    stage: Stage
    is_new: bool
    is_candidate: bool
    is_outside: bool
    baseline: SideView
    followup: SideView
    interval_ml: tuple[float, float] | None
    presence: float | None
    confidence: float | None
    similarity: float | None
    moved_mm: float | None
    added: int
    removed: int
    merged_into: int | None
    notes: tuple[str, ...]
    outline: str


class ReviewView(_View):
    """A review, and the names of its scans.

    `last` and `next` say what undo and redo would do, None where there is nothing; the lesion of a new one is None.
    """

    revision: int
    is_read_only: bool
    reader: str
    statement: str
    lesions: tuple[LesionView, ...]
    undecided: int
    pending: int
    last: str | None
    last_lesion: int | None
    next: str | None
    next_lesion: int | None
    baselines: tuple[ScanName, ...]
    followups: tuple[ScanName, ...]
    written: datetime | None
    is_written: bool


class OutlineView(_View):
    """The voxels of a lesion: as shown in the whole scan, and as they are, both as runs."""

    outline: str
    shown: Runs
    voxels: Runs
