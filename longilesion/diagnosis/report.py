"""The report of a diagnosis as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from longilesion import __version__
from longilesion.diagnosis.exam import LiverExam, RegisteredPhases
from longilesion.diagnosis.findings import Diagnosis
from longilesion.diagnosis_settings import STATEMENT, LesionType, Phase


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PhaseEntry(_Entry):
    """A phase that was given: its file, whether it was used, and why not."""

    file: str
    used: bool
    note: str = ""


class LesionEntry(_Entry):
    """A lesion of the label map."""

    lesion_id: int
    type: LesionType
    probabilities: dict[LesionType, float]
    score: float
    volume_ml: float
    diameter_mm: float


class DiagnosisReport(_Entry):
    """What `longilesion diagnose --report` writes; `patient` and `by_volume` as in `findings.Diagnosis`."""

    statement: str = STATEMENT
    version: str
    weights: str
    seconds: float
    phases: dict[Phase, PhaseEntry]
    patient: dict[LesionType, float]
    by_volume: dict[LesionType, float]
    lesions: tuple[LesionEntry, ...]
    warnings: tuple[str, ...] = ()


def make_report(
    exam: LiverExam,
    phases: RegisteredPhases,
    found: Diagnosis,
    *,
    files: Mapping[Phase, Path],
    weights: str,
    seconds: float,
) -> DiagnosisReport:
    """Describes a diagnosis; `files` are those of the phases that were given, `weights` the bundle's folder."""
    return DiagnosisReport(
        version=__version__,
        weights=weights,
        seconds=round(seconds, 3),
        phases={
            phase: PhaseEntry(file=str(path), used=phase in phases.used, note=phases.notes.get(phase, ""))
            for phase, path in files.items()
        },
        patient=dict(found.patient),
        by_volume=dict(found.by_volume),
        lesions=tuple(
            LesionEntry(
                lesion_id=lesion.lesion_id,
                type=lesion.type,
                probabilities=dict(lesion.probabilities),
                score=lesion.score,
                volume_ml=lesion.volume_ml,
                diameter_mm=lesion.diameter_mm,
            )
            for lesion in found.typed
        ),
        warnings=(*exam.warnings, *phases.warnings),
    )
