"""Reading diagnoses and their truth: a folder per exam on both sides, of the same name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from longilesion.case import LesionMap
from longilesion.components import lesion_voxels
from longilesion.diagnosis.exam_folder import LESIONS_FILE, exam_folders, read_truth
from longilesion.diagnosis.findings import Diagnosis, TypedLesion
from longilesion.diagnosis.report import DiagnosisReport, LesionEntry
from longilesion.errors import InputError
from longilesion.evaluation.diagnosis_exam import DiagnosedExam
from longilesion.images import read_lesion_map
from longilesion.json_file import read_json

REPORT_FILE = "report.json"

_log = logging.getLogger(__name__)


def find_diagnosed(truth: Path, predictions: Sequence[Path]) -> list[Path]:
    """The folders of the true exams, by name; raises InputError where one of them lacks a prediction.

    Predictions for other exams are logged as warnings.
    """
    exams = exam_folders(truth)
    names = {exam.name for exam in exams}
    for folder in predictions:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected one with a diagnosis of each exam of {truth}")
        found = {path.parent.name for path in folder.glob(f"*/{REPORT_FILE}")}
        missing = sorted(names - found)
        if missing:
            raise InputError(
                f"{folder}: no diagnosis of {', '.join(missing)}; expected {LESIONS_FILE} and {REPORT_FILE} in a "
                f"folder for each of the {len(names)} exams of {truth}"
            )
        for name in sorted(found - names):
            _log.warning("%s: belongs to no exam; left out", folder / name)
    return exams


def read_diagnosed(exam: Path, predictions: Sequence[Path]) -> list[DiagnosedExam]:
    """An exam beside each prediction of it.

    Raises InputError where a file cannot be used, has other voxels than the truth, or contradicts another.
    """
    lesions, types = read_truth(exam)
    return [
        DiagnosedExam.of(exam.name, lesions, types, read_diagnosis(folder / exam.name, lesions, of=exam / LESIONS_FILE))
        for folder in predictions
    ]


def read_diagnosis(folder: Path, truth: LesionMap, *, of: Path) -> Diagnosis:
    """A predicted map with its report, on the voxels of the true map, whose file is `of`."""
    lesions = read_lesion_map(folder / LESIONS_FILE, like=truth.grid, of=str(of))
    path = folder / REPORT_FILE
    report = read_json(path, DiagnosisReport, expected="a report as longilesion diagnose --report writes it")
    outlined = sorted(lesion_voxels(lesions.ids))
    reported = sorted(entry.lesion_id for entry in report.lesions)
    if reported != outlined:
        raise InputError(f"{path}: lesions {reported}; expected those of {folder / LESIONS_FILE}, {outlined}")
    for place in ("patient", "by_volume"):
        _check_probabilities(path, place, getattr(report, place).items())
    return Diagnosis(
        lesions=lesions,
        typed=tuple(_typed(path, entry) for entry in report.lesions),
        patient=report.patient,
        by_volume=report.by_volume,
    )


def _typed(path: Path, entry: LesionEntry) -> TypedLesion:
    place = f"lesion {entry.lesion_id}"
    _check_probabilities(path, place, [*entry.probabilities.items(), ("score", entry.score)])
    highest = max(entry.probabilities.values(), default=0.0)
    if entry.probabilities.get(entry.type) != highest:
        raise InputError(f"{path}: {place} is of type {entry.type}; expected the one of the highest probability")
    values = entry.model_dump(exclude={"type"})
    # Of equal probabilities, the first one's type is the lesion's.
    return TypedLesion(**{**values, "probabilities": {entry.type: highest, **entry.probabilities}})


def _check_probabilities(path: Path, place: str, probabilities: Iterable[tuple[str, float]]) -> None:
    for name, value in probabilities:
        # Not a number fails the comparison, too.
        if not 0 <= value <= 1:
            raise InputError(f"{path}: {place}: {name} {value}; expected a probability from 0 to 1")
