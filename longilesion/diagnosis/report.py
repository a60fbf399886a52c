"""The report of a diagnosis as JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

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
