"""A complete evaluation of diagnoses: every exam is read once, for all methods, and the figures are summed up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import longilesion
from longilesion.diagnosis_settings import STATEMENT
from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.diagnosis_exam import DiagnosedExam
from longilesion.evaluation.diagnosis_figures import (
    DiagnosisDifference,
    DiagnosisFigures,
    diagnosis_difference,
    diagnosis_figures,
)
from longilesion.evaluation.diagnosis_reading import read_diagnosed

_PACKAGES = ("numpy", "scikit-learn", "scipy")


class DiagnosisMethod(BaseModel):
    """The figures of one method, and the exams that they are computed from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    figures: DiagnosisFigures
    exams: tuple[DiagnosedExam, ...]


class DiagnosisEvaluation(BaseModel):
    """All results, as written to figures.json; the differences are those of every pair of methods."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    statement: str = STATEMENT
    versions: dict[str, str]
    draws: int
    seed: int
    methods: tuple[DiagnosisMethod, ...]
    differences: tuple[DiagnosisDifference, ...]


def evaluate_diagnoses(
    exams: Iterable[Path], predictions: Mapping[str, Path], *, draws: int = 1000, seed: int = 0
) -> DiagnosisEvaluation:
    """Evaluates the predictions in each method's folder, by name, for the folders of true exams."""
    by_exam = [read_diagnosed(exam, tuple(predictions.values())) for exam in exams]
    return sum_up(dict(zip(predictions, zip(*by_exam, strict=True), strict=True)), draws=draws, seed=seed)


def sum_up(exams: Mapping[str, Sequence[DiagnosedExam]], *, draws: int = 1000, seed: int = 0) -> DiagnosisEvaluation:
    """The figures of each method's diagnoses of the same exams, and their differences."""
    bootstrap = Bootstrap(len(next(iter(exams.values()))), draws=draws, seed=seed)
    return DiagnosisEvaluation(
        versions={"longilesion": longilesion.__version__, **{name: version(name) for name in _PACKAGES}},
        draws=draws,
        seed=seed,
        methods=tuple(
            DiagnosisMethod(name=name, figures=diagnosis_figures(own, bootstrap), exams=tuple(own))
            for name, own in exams.items()
        ),
        differences=tuple(
            diagnosis_difference(first, second, bootstrap) for first, second in combinations(exams.items(), 2)
        ),
    )
