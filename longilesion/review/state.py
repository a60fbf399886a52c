"""The state of a review: a pure function of the lesions to begin with and of the journal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeAlias

from longilesion.case import HIGHEST_ID, Click
from longilesion.errors import InputError
from longilesion.review.decisions import (
    Confirm,
    Decision,
    Draw,
    Entry,
    Gone,
    Merge,
    Move,
    New,
    NotALesion,
    Redo,
    Undo,
)
from longilesion.review.runs import indices_of

Verdict: TypeAlias = Literal["untouched", "confirmed", "moved", "drawn", "gone", "new", "not_a_lesion", "merged"]

_EMPTY: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionState:
    """What was decided of a lesion, last by `reader` at `at`.

    `click` is where a person has put it in the follow-up, None where nobody has. `added` and `removed` are the voxels
    drawn by hand (indices by `RasVolume`); `merged_into` is the lesion that it has merged with.
    """

    verdict: Verdict = "untouched"
    click: Click | None = None
    added: frozenset[int] = _EMPTY
    removed: frozenset[int] = _EMPTY
    merged_into: int | None = None
    is_new: bool = False
    is_candidate: bool = False
    reader: str = ""
    at: datetime | None = None

    @property
    def has_outline(self) -> bool:
        """Whether the lesion may have voxels of its own."""
        return self.verdict not in ("gone", "not_a_lesion", "merged")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewState:
    """All lesions by id, candidates among them, the decisions that stand, and those undone, the last one first."""

    lesions: Mapping[int, LesionState]
    applied: tuple[Entry, ...] = ()
    undone: tuple[Entry, ...] = ()
    first: Mapping[int, LesionState] = field(repr=False)

    @classmethod
    def begin(cls, lesions: Collection[int], candidates: Collection[int] = ()) -> ReviewState:
        """Nothing is decided yet."""
        first = {lesion_id: LesionState() for lesion_id in sorted(lesions)}
        first |= {lesion_id: LesionState(is_candidate=True) for lesion_id in sorted(candidates)}
        return cls(lesions=first, first=first)

    @property
    def merged(self) -> dict[int, int]:
        """The lesion that each merged one has merged with, which may have merged with another in turn."""
        return {
            lesion_id: lesion.merged_into
            for lesion_id, lesion in self.lesions.items()
            if lesion.merged_into is not None
        }

    @property
    def undecided(self) -> list[int]:
        """The lesions that nobody has looked at, without candidates."""
        return [
            lesion_id
            for lesion_id, lesion in self.lesions.items()
            if lesion.verdict == "untouched" and not lesion.is_candidate
        ]

    def after(self, entry: Entry) -> ReviewState:
        """The state once an entry is made; raises InputError for one that is impossible in this state."""
        action = entry.action
        if isinstance(action, Undo):
            if not self.applied:
                raise InputError("nothing to undo; expected a decision before")
            *applied, last = self.applied
            return self._with(applied, (last, *self.undone))
        if isinstance(action, Redo):
            if not self.undone:
                raise InputError("nothing to redo; expected a decision that was undone")
            again, *undone = self.undone
            return self._with((*self.applied, again), undone)
        lesions = decided(self.lesions, action, entry)
        return replace(self, lesions=lesions, applied=(*self.applied, entry), undone=())

    def _with(self, applied: Iterable[Entry], undone: Iterable[Entry]) -> ReviewState:
        lesions = self.first
        for entry in (applied := tuple(applied)):
            assert not isinstance(entry.action, Undo | Redo)
            lesions = decided(lesions, entry.action, entry)
        return replace(self, lesions=lesions, applied=applied, undone=tuple(undone))


def replay(first: ReviewState, entries: Iterable[Entry]) -> ReviewState:
    """The state after all entries of a journal; raises InputError where they contradict each other."""
    state = first
    for entry in entries:
        try:
            state = state.after(entry)
        except InputError as error:
            raise InputError(f"journal, entry {entry.number}: {error}") from error
    return state


def root(lesion_id: int, merged: Mapping[int, int]) -> int:
    """The lesion that one has merged with, directly or through others; itself where it has not."""
    while lesion_id in merged:
        lesion_id = merged[lesion_id]
    return lesion_id


def decided(lesions: Mapping[int, LesionState], decision: Decision, entry: Entry) -> dict[int, LesionState]:
    """The lesions after one decision; raises InputError where it is none on these lesions."""
    if isinstance(decision, New):
        lesion_id = max(lesions, default=0) + 1
        if lesion_id > HIGHEST_ID:
            raise InputError(f"a lesion after {HIGHEST_ID}; expected ids up to {HIGHEST_ID}")
        click = Click(scan_name=decision.scan, point_xyz_mm=decision.point_xyz_mm)
        found = LesionState(verdict="new", click=click, is_new=True)
    else:
        lesion_id = decision.lesion
        if lesion_id not in lesions:
            raise InputError(f"lesion {lesion_id}: unknown; expected one of the review's")
        found = _decided(lesions, lesions[lesion_id], decision)
    return {**lesions, lesion_id: replace(found, reader=entry.reader, at=entry.at)}


def _decided(lesions: Mapping[int, LesionState], lesion: LesionState, decision: Decision) -> LesionState:
    match decision:
        case Confirm():
            return replace(lesion, verdict="confirmed", merged_into=None)
        case Move():
            if lesion.is_candidate:
                raise InputError(
                    f"lesion {decision.lesion}: a candidate, which has no click; expected another decision, or a new "
                    "lesion at that place"
                )
            click = Click(scan_name=decision.scan, point_xyz_mm=decision.point_xyz_mm)
            return replace(lesion, verdict="moved", click=click, added=_EMPTY, removed=_EMPTY, merged_into=None)
        case Gone() | NotALesion():
            check_alone(lesions, decision.lesion)
            verdict: Verdict = "gone" if isinstance(decision, Gone) else "not_a_lesion"
            return replace(lesion, verdict=verdict, merged_into=None)
        case Merge():
            _check_merge(lesions, decision)
            return replace(lesion, verdict="merged", merged_into=decision.into)
        case Draw():
            added, removed = (frozenset(indices_of(runs).tolist()) for runs in (decision.added, decision.removed))
            if added & removed:
                raise InputError(f"lesion {decision.lesion}: voxels both added and removed; expected either")
            return replace(
                lesion,
                verdict="drawn",
                merged_into=None,
                added=(lesion.added | added) - removed,
                removed=(lesion.removed | removed) - added,
            )
        case New():
            raise AssertionError("a new lesion has no state before")


def _check_merge(lesions: Mapping[int, LesionState], decision: Merge) -> None:
    into = lesions.get(decision.into)
    if into is None or decision.into == decision.lesion:
        raise InputError(f"lesion {decision.lesion}: merged with {decision.into}; expected another of the lesions")
    if into.is_candidate or not into.has_outline:
        raise InputError(
            f"lesion {decision.lesion}: merged with {decision.into}, which is none or has no outline of its own; "
            "expected a lesion that has"
        )


def check_alone(lesions: Mapping[int, LesionState], lesion_id: int) -> None:
    """Raises InputError where others have merged with a lesion that is to have no outline, or one in another scan."""
    others = [other for other, lesion in lesions.items() if lesion.merged_into == lesion_id]
    if others:
        raise InputError(
            f"lesion {lesion_id}: lesion {others[0]} is merged with it; expected that one to be decided first"
        )
