"""Validation of a model of lesion types: its diagnoses of held-out exams, on their lattice."""

from __future__ import annotations

from collections.abc import Sequence

from longilesion.diagnosis.bundle import DiagnosisModel
from longilesion.diagnosis.prediction import predict_phases
from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.diagnosis_exam import DiagnosedExam
from longilesion.evaluation.diagnosis_figures import diagnosis_figures
from training.diagnosis.exams import TypedExam
from training.validation import Figure

# Of LiverMax, and of lesions.
_PATIENTS, _LESIONS = ("auc_8", "auc_2"), ("precision", "sensitivity", "accuracy", "dice")
FIGURES = (*_PATIENTS, *_LESIONS)
BEST = "auc_8"


def diagnosed(exam: TypedExam, model: DiagnosisModel) -> DiagnosedExam:
    """A model's diagnosis of an exam, beside its truth."""
    truth, types = exam.truth
    return DiagnosedExam.of(exam.name, truth, types, predict_phases(exam.registered, model))


def validation_figures(exams: Sequence[TypedExam], model: DiagnosisModel) -> dict[str, Figure]:
    """The figures over all exams; without an exam, or one that defines a figure, nothing is counted."""
    if not exams:
        return dict.fromkeys(FIGURES, Figure())
    scored = [diagnosed(exam, model) for exam in exams]
    # Without intervals, which need no draws.
    found = diagnosis_figures(scored, Bootstrap(len(scored), draws=1, seed=0))
    estimates = {name: found.patient[name] for name in _PATIENTS} | {name: found.lesions[name] for name in _LESIONS}
    return {
        name: Figure() if estimate.value is None else Figure(total=estimate.value, count=1.0)
        for name, estimate in estimates.items()
    }
