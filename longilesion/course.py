"""The course of a patient: records of the time points, measures of their lesions, and the response by RECIST 1.1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

from pydantic import BaseModel, ConfigDict

import longilesion
from longilesion.assessment import measured_lesions, with_uncertainty
from longilesion.case import Absence, Click, LesionPrompt, OutsideLesion
from longilesion.geometry import Triple
from longilesion.lesion_facts import NO_FACTS, lesions_of, undecided
from longilesion.pipeline import LesionOutcome
from longilesion.response import Assessment, Course, Lesion, Measured, Visit, assess, doubling_time_days
from longilesion.timeline import TimePoint
from longilesion.uncertainty import volume_interval_ml

# Of results that a person may have reviewed, and of those that nobody has.
OUTLINED = "Research use only. Outlined by a program and measured from its outlines"
STATEMENT = f"{OUTLINED}; not confirmed by a reader."


class LesionRecord(BaseModel):
    """A lesion at a time point. All but id and measures are None or false at the first one, whose outlines were given.

    `error_mm` is half of the diameters' 95 % interval, `volume_low_ml` and `volume_high_ml` are the ends of the
    volume's; None where they are not known. `place_xyz_mm` is where it was looked for, None outside the scan.
    `absence` is why it has no outline. `is_candidate`: found by a search, by nobody confirmed. The other fields are as
    those of the run report (`longilesion.report.LesionReport`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    volume_ml: float
    longest_mm: float
    short_mm: float
    error_mm: float | None = None
    volume_low_ml: float | None = None
    volume_high_ml: float | None = None
    place_xyz_mm: Triple | None = None
    is_outside: bool = False
    absence: Absence | None = None
    is_candidate: bool = False
    presence: float | None = None
    probability: float | None = None
    confidence: float | None = None
    similarity: float | None = None
    unsure: bool = False
    note: str = ""
    merged_into: int | None = None

    @property
    def measured(self) -> Measured:
        """Its measures, without those of merged lesions, which have none."""
        return Measured(
            longest_mm=self.longest_mm,
            short_mm=self.short_mm,
            volume_ml=self.volume_ml,
            error_mm=self.error_mm or 0.0,
            volume_factor=1.0 if self.volume_high_ml is None else self.volume_high_ml / self.volume_ml,
        )


class TimePointRecord(BaseModel):
    """A time point: `number` counts in order of time, from 1. `error` is why it could not be gone through.

    `fingerprint` is that of all that the result depends on. `slice_mm` is the distance between slices.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    scan: str
    fingerprint: str
    on: date | None = None
    error: str | None = None
    slice_mm: float = 0.0
    seconds: dict[str, float] = {}
    lesions: list[LesionRecord] = []
    left_out: list[int] = []


class ResponseRecord(BaseModel):
    """The response at a time point by RECIST 1.1 (`longilesion.response.Assessment`); sums are of diameters, in mm.

    `error_mm` is half of the 95 % interval of the sum of diameters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    on: date | None
    sum_mm: float
    error_mm: float
    sum_ml: float
    change: float | None
    change_from_smallest: float | None
    targets: str | None
    non_targets: str | None
    by_volume: str | None
    new: list[int]
    overall: str
    could_be: list[str]
    is_confirmed: bool | None

    @classmethod
    def of(cls, assessment: Assessment, *, number: int, on: date | None) -> ResponseRecord:
        """The record of an assessment, with rounded numbers."""
        return cls(
            number=number,
            on=on,
            sum_mm=round(assessment.sum.mm, 2),
            error_mm=round(assessment.sum.error_mm, 2),
            sum_ml=round(assessment.sum.ml, 4),
            change=_rounded(assessment.change),
            change_from_smallest=_rounded(assessment.change_from_smallest),
            targets=assessment.targets,
            non_targets=assessment.non_targets,
            by_volume=assessment.by_volume,
            new=list(assessment.new),
            overall=assessment.overall,
            could_be=list(assessment.could_be),
            is_confirmed=assessment.is_confirmed,
        )


class CourseRecord(BaseModel):
    """All time points in order of time, and the response from the first one that was gone through on.

    `doubling_days` has for each lesion the time in which its volume doubled between its first and its last outline,
    negative where it halved in that time. `organs` and `nodes` (the lymph nodes' ids) are what was said of the lesions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    statement: str
    time_points: list[TimePointRecord]
    targets: list[int] = []
    non_targets: list[int] = []
    baseline_sum_mm: float = 0.0
    responses: list[ResponseRecord] = []
    best: str | None = None
    best_confirmed: str | None = None
    doubling_days: dict[int, float] = {}
    organs: dict[int, str] = {}
    nodes: list[int] = []
    undecided: list[str] = []

    @property
    def lesion_ids(self) -> list[int]:
        """The lesions of all time points, candidates among them."""
        return sorted({lesion.id for point in self.time_points for lesion in point.lesions})

    def of(self, lesion_id: int) -> list[LesionRecord | None]:
        """A lesion at each time point; None where it is not known yet, or the scan could not be gone through."""
        return [
            next((lesion for lesion in point.lesions if lesion.id == lesion_id), None) for point in self.time_points
        ]


def record_of(
    point: TimePoint, *, number: int, scan: str, made_of: str, on: date | None, candidates: Iterable[int] = ()
) -> TimePointRecord:
    """The record of a time point; `candidates` are lesions that were found by a search at an earlier one."""
    outcomes = {outcome.prompt.lesion_id: outcome for outcome in point.outcomes}
    measured = {
        lesion_id: with_uncertainty(measures, outcomes.get(lesion_id))
        for lesion_id, measures in measured_lesions([point.lesions]).items()
    }
    unconfirmed = {*candidates, *point.lesions.candidates}
    grid = point.lesions.grid
    return TimePointRecord(
        number=number,
        scan=scan,
        fingerprint=made_of,
        on=on,
        slice_mm=round(grid.lps_view(point.lesions.ids)[1].spacing_zyx_mm[0], 4),
        seconds={stage: round(spent, 3) for stage, spent in point.seconds.items()},
        lesions=[
            _lesion(
                lesion_id,
                measured.get(lesion_id, Measured()),
                outcomes.get(lesion_id),
                point.visit.clicks.get(lesion_id),
                is_candidate=lesion_id in unconfirmed,
            )
            for lesion_id in sorted({*measured, *outcomes, *point.visit.clicks})
        ],
        left_out=list(point.left_out),
    )


def course_of(
    records: Sequence[TimePointRecord], facts: Mapping[int, Lesion] = NO_FACTS
) -> tuple[CourseRecord, Course | None]:
    """The course over all time points in order of time; those that could not be gone through are passed over.

    Candidates count neither as lesions nor as new ones until somebody confirms them. There is no response with fewer
    than two time points, or without a lesion at the first one.
    """
    plain = CourseRecord(version=longilesion.__version__, statement=STATEMENT, time_points=list(records))
    done = [record for record in records if record.error is None]
    lesions = {each.id for record in done for each in record.lesions if not each.is_candidate}
    if len(done) < 2 or not any(each.measured.is_there for each in done[0].lesions):
        return plain, None
    visits = [_visit(record, lesions) for record in done]
    course = assess(lesions_of(lesions, facts), visits, slice_mm=done[0].slice_mm)
    responses = [
        ResponseRecord.of(each, number=record.number, on=record.on)
        for record, each in zip(done[1:], course.assessments, strict=True)
    ]
    found = plain.model_copy(
        update={
            "targets": list(course.targets),
            "non_targets": list(course.non_targets),
            "baseline_sum_mm": round(course.baseline.mm, 2),
            "responses": responses,
            "best": course.best,
            "best_confirmed": course.best_confirmed,
            "doubling_days": _doubling_days(done, sorted(lesions)),
            "organs": {each: fact.organ for each, fact in sorted(facts.items()) if fact.organ and each in lesions},
            "nodes": [each for each, fact in sorted(facts.items()) if fact.is_node and each in lesions],
            "undecided": list(undecided(lesions, facts)),
        }
    )
    return found, course


def _lesion(
    lesion_id: int, measured: Measured, outcome: LesionOutcome | None, click: Click | None, *, is_candidate: bool
) -> LesionRecord:
    measures = LesionRecord(
        id=lesion_id,
        volume_ml=round(measured.volume_ml, 6),
        longest_mm=round(measured.longest_mm, 3),
        short_mm=round(measured.short_mm, 3),
        **_intervals(measured),
        place_xyz_mm=None if click is None else click.point_xyz_mm,
        is_candidate=is_candidate,
    )
    if outcome is None:
        # Given: what has no outline was clicked.
        return measures if measured.is_there else measures.model_copy(update={"absence": "not outlined"})
    is_outside = isinstance(outcome.prompt, OutsideLesion)
    place = outcome.place_xyz_mm if isinstance(outcome.prompt, LesionPrompt) else None
    return measures.model_copy(
        update={
            "place_xyz_mm": place,
            "is_outside": is_outside,
            "absence": outcome.absence,
            "presence": outcome.presence,
            "probability": outcome.probability,
            "confidence": outcome.prompt.confidence,
            "similarity": outcome.similarity,
            "unsure": outcome.is_unsure,
            "note": outcome.note,
            "merged_into": outcome.merged_into,
        }
    )


def _intervals(measured: Measured) -> dict[str, Any]:
    if not measured.error_mm:
        return {}
    low, high = volume_interval_ml(measured.volume_ml, measured.volume_factor)
    return {
        "error_mm": round(measured.error_mm, 3),
        "volume_low_ml": round(low, 6),
        "volume_high_ml": round(high, 6),
    }


def _visit(record: TimePointRecord, lesions: Iterable[int]) -> Visit:
    there = {each.id: each for each in record.lesions if not each.is_candidate}
    unseen = {lesion_id for lesion_id, each in there.items() if each.is_outside}
    return Visit(
        on=record.on,
        measured={lesion_id: each.measured for lesion_id, each in there.items() if each.measured.is_there},
        part_of={lesion_id: each.merged_into for lesion_id, each in there.items() if each.merged_into is not None},
        not_assessed={*unseen, *(set(record.left_out) & set(lesions))},
    )


def _doubling_days(done: Sequence[TimePointRecord], lesions: Iterable[int]) -> dict[int, float]:
    found = {}
    for lesion_id in lesions:
        outlined: Mapping[date, Measured] = {
            record.on: each.measured
            for record in done
            for each in record.lesions
            if each.id == lesion_id and each.measured.is_there and record.on is not None
        }
        if len(outlined) > 1:
            first, last = min(outlined), max(outlined)
            days = doubling_time_days(outlined[first], outlined[last], (last - first).days)
            if days is not None:
                found[lesion_id] = round(days, 1)
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
