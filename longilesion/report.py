"""The run report in JSON: every lesion's outcome with its confidence, and the run's time and memory."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict

import longilesion
from longilesion.assessment import CaseResponse, case_response
from longilesion.case import Absence, Case, LesionPrompt, ScanName
from longilesion.diagnosis_settings import STATEMENT, LesionType, likeliest
from longilesion.files import valid, written_together
from longilesion.geometry import Triple
from longilesion.lesion_facts import NO_FACTS, undecided
from longilesion.pipeline import LesionOutcome, Segmentation
from longilesion.response import Course, Lesion, Measured, NonTargetResponse, Response, TargetResponse
from longilesion.uncertainty import volume_interval_ml

if TYPE_CHECKING:
    from longilesion.new_lesions import NewLesion

_Types: TypeAlias = Mapping[int, Mapping[LesionType, float]] | None

_PACKAGES = ("torch", "numpy", "SimpleITK", "connected-components-3d", "picsl_greedy")


class LesionReport(BaseModel):
    """One lesion; the click is the follow-up click that was used, as x, y, z voxel index in the follow-up scan `scan`.

    `confidence` is 1 for a given click, lower for one that was `propagated` from the baseline; `refined` is true where
    a given one was corrected by registration, `baseline_corrected` where the given baseline click was outside the
    outline, whose centre was used. `similarity` is the correlation of the lesion's surroundings in both scans, None
    where there is nothing to compare; `unsure` is true where the position may be wrong.
    `presence` is the probability that the lesion is still there, `probability` the mean one inside its outline. `note`
    gives the reason for an empty outline, `absence` its kind: "not outlined" is a lesion that is there, but without a
    voxel; `merged_into` is the lesion whose outline includes this one. A lesion outside the follow-up's field of view
    has no scan, no click and no presence; its confidence is that it is outside. Diameters are the longest axial one and
    the one perpendicular to it, 0 where there is no outline, None in a binary map, which tells no lesions apart. 95 %
    intervals, None without an outline or where the model's errors are not known: of the follow-up's volume from
    `volume_low_ml` to `volume_high_ml`, of its diameters +- `diameter_error_mm`.
    `type` is the most probable type of a lesion in the liver, with the probabilities of all types; None for other
    lesions, and where no types were asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    scan: ScanName | None
    click: Triple | None
    click_xyz_mm: Triple | None
    click_clamped: bool
    propagated: bool
    refined: bool = False
    baseline_corrected: bool = False
    confidence: float
    similarity: float | None = None
    unsure: bool = False
    presence: float | None
    probability: float
    volume_baseline_ml: float | None
    volume_followup_ml: float
    diameter_baseline_mm: float = 0.0
    diameter_followup_mm: float | None = 0.0
    short_axis_baseline_mm: float = 0.0
    short_axis_followup_mm: float | None = 0.0
    volume_low_ml: float | None = None
    volume_high_ml: float | None = None
    diameter_error_mm: float | None = None
    note: str
    absence: Absence | None = None
    merged_into: int | None = None
    type: LesionType | None = None
    type_probabilities: dict[LesionType, float] | None = None


class CandidateReport(BaseModel):
    """A lesion that a search has found and nobody has confirmed; its centre of gravity as x, y, z voxel index.

    `score` is the detector's highest probability in it, `diameter_mm` the longest axial one. Types are as those of a
    lesion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    scan: ScanName
    score: float
    volume_ml: float
    diameter_mm: float
    centre: Triple
    centre_xyz_mm: Triple
    type: LesionType | None = None
    type_probabilities: dict[LesionType, float] | None = None


class ResponseReport(BaseModel):
    """The response to therapy from the baseline to the follow-up, by RECIST 1.1 (`longilesion.response`).

    Sums are those of the targets' longest axial diameters, `targets` the ids of these lesions. `could_be` are other
    responses of the targets within the 95 % interval of the sum, +- `sum_error_mm`. `by_volume` has the limits of a
    sphere whose diameter is at RECIST's. `undecided` is what the response could not take into account.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: list[int]
    non_targets: list[int]
    new: list[int]
    sum_baseline_mm: float
    sum_followup_mm: float
    sum_error_mm: float
    change: float | None
    response_of_targets: TargetResponse | None
    could_be: list[TargetResponse]
    response_of_non_targets: NonTargetResponse | None
    by_volume: TargetResponse | None
    response: Response
    undecided: list[str]


class RunReport(BaseModel):
    """One run. `peak_gpu_memory_bytes` is None where no GPU was used.

    `left_out` are lesions that could not be segmented: their only click is in a baseline scan that is missing.
    `candidates` are empty without a search for lesions that nobody clicked. `types_statement` says what types of
    lesions are worth, None where they were not asked for. `response` is None where the baseline outlines no lesion,
    or the map is binary.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: dict[str, str]
    seconds: dict[str, float]
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None
    lesions: list[LesionReport]
    left_out: list[int]
    candidates: list[CandidateReport] = []
    types_statement: str | None = None
    response: ResponseReport | None = None


def make_report(
    case: Case,
    segmentation: Segmentation,
    *,
    seconds: Mapping[str, float],
    facts: Mapping[int, Lesion] = NO_FACTS,
    response: CaseResponse | None = None,
) -> RunReport:
    """Describes a run; `seconds` are those of the stages around the segmentation (load, read, write).

    `facts` are what is known of the lesions besides; `response` is the case's where it is known already.
    """
    response = response or case_response(case, segmentation, facts)
    return RunReport(
        versions={
            "longilesion": longilesion.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        seconds={stage: round(spent, 4) for stage, spent in {**seconds, **segmentation.seconds}.items()},
        peak_memory_bytes=_peak_memory_bytes(),
        peak_gpu_memory_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None,
        lesions=[_lesion_report(case, outcome, segmentation.types, response) for outcome in segmentation.lesions],
        left_out=list(segmentation.left_out),
        candidates=[_candidate_report(case, lesion, segmentation.types) for lesion in segmentation.candidates],
        types_statement=None if segmentation.types is None else STATEMENT,
        response=None if response.course is None else _response_report(response.course, facts),
    )


def write_report(path: Path, report: RunReport) -> None:
    """Writes the report; raises InputError where writing fails."""
    with written_together({path: valid(RunReport)}) as (temporary,):
        temporary.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _response_report(course: Course, facts: Mapping[int, Lesion]) -> ResponseReport:
    (now,) = course.assessments
    counted = {*course.targets, *course.non_targets, *now.new}
    return ResponseReport(
        targets=list(course.targets),
        non_targets=list(course.non_targets),
        new=list(now.new),
        sum_baseline_mm=round(course.baseline.mm, 2),
        sum_followup_mm=round(now.sum.mm, 2),
        sum_error_mm=round(now.sum.error_mm, 2),
        change=None if now.change is None else round(now.change, 4),
        response_of_targets=now.targets,
        could_be=list(now.could_be),
        response_of_non_targets=now.non_targets,
        by_volume=now.by_volume,
        response=now.overall,
        undecided=list(undecided(counted, facts)),
    )


def _lesion_report(case: Case, outcome: LesionOutcome, types: _Types, response: CaseResponse) -> LesionReport:
    prompt = outcome.prompt
    before = response.baseline.get(prompt.lesion_id, Measured())
    after = None if response.followup is None else response.followup.get(prompt.lesion_id, Measured())
    click = prompt.followup if isinstance(prompt, LesionPrompt) else None
    return LesionReport(
        id=prompt.lesion_id,
        scan=None if click is None else click.scan_name,
        click=None if click is None else _index_xyz(case, click.scan_name, click.point_xyz_mm),
        click_xyz_mm=None if click is None else click.point_xyz_mm,
        click_clamped=click is not None and click.clamped,
        propagated=not isinstance(prompt, LesionPrompt) or prompt.propagated,
        refined=isinstance(prompt, LesionPrompt) and prompt.refined,
        baseline_corrected=isinstance(prompt, LesionPrompt) and prompt.baseline_corrected,
        confidence=prompt.confidence,
        similarity=outcome.similarity,
        unsure=outcome.is_unsure,
        presence=outcome.presence,
        probability=outcome.probability,
        volume_baseline_ml=outcome.volume_baseline_ml,
        volume_followup_ml=outcome.volume_followup_ml,
        diameter_baseline_mm=round(before.longest_mm, 2),
        diameter_followup_mm=None if after is None else round(after.longest_mm, 2),
        short_axis_baseline_mm=round(before.short_mm, 2),
        short_axis_followup_mm=None if after is None else round(after.short_mm, 2),
        **_intervals(outcome),
        note=outcome.note,
        absence=outcome.absence,
        merged_into=outcome.merged_into,
        **_typed(prompt.lesion_id, types),
    )


def _intervals(outcome: LesionOutcome) -> dict[str, Any]:
    known = outcome.uncertainty
    if known is None:
        return {}
    low, high = volume_interval_ml(outcome.volume_followup_ml, known.volume_factor)
    return {
        "volume_low_ml": round(low, 6),
        "volume_high_ml": round(high, 6),
        "diameter_error_mm": round(known.diameter_mm, 2),
    }


def _candidate_report(case: Case, lesion: NewLesion, types: _Types) -> CandidateReport:
    candidate = lesion.candidate
    return CandidateReport(
        id=lesion.lesion_id,
        scan=lesion.scan_name,
        score=candidate.score,
        volume_ml=candidate.volume_ml,
        diameter_mm=candidate.diameter_mm,
        centre=_index_xyz(case, lesion.scan_name, candidate.centre_xyz_mm),
        centre_xyz_mm=candidate.centre_xyz_mm,
        **_typed(lesion.lesion_id, types),
    )


def _typed(lesion_id: int, types: _Types) -> dict[str, Any]:
    if types is None or lesion_id not in types:
        return {}
    probabilities = dict(types[lesion_id])
    return {"type": likeliest(probabilities), "type_probabilities": probabilities}


def _index_xyz(case: Case, scan_name: ScanName, point_xyz_mm: Triple) -> Triple:
    z, y, x = case.followups[scan_name].grid.index_zyx(point_xyz_mm)
    return round(x, 4), round(y, 4), round(z, 4)


def _peak_memory_bytes() -> int:
    """The peak memory of this process, which Linux reports in kilobytes and macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
