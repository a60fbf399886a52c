"""Tiny diagnoses with their truth, in memory and in folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from longilesion.case import LesionMap
from longilesion.diagnosis.findings import Diagnosis, TypedLesion
from longilesion.diagnosis.report import DiagnosisReport, LesionEntry
from longilesion.diagnosis_settings import LESION_TYPES, LesionType
from longilesion.evaluation.diagnosis_exam import DiagnosedExam
from longilesion.geometry import Grid
from test.unit.case_folders import SHAPE_ZYX, lesion_ids, soft_tissue, write_image

# Corners of lesions of 2 x 2 x 2 voxels, each with its type, by id.
Lesions = Mapping[int, tuple[Sequence[int], LesionType]]
Probabilities = Mapping[LesionType, float]

# Corners that are far from each other.
PLACES = ((0, 1, 1), (0, 1, 7), (3, 6, 1), (3, 6, 7))


def sure_of(*types: LesionType) -> dict[LesionType, float]:
    """Probability 0.9 of these types, 0.1 of the others."""
    return {each: 0.9 if each in types else 0.1 for each in LESION_TYPES}


def label_map(lesions: Lesions) -> LesionMap:
    ids = lesion_ids({lesion_id: corner for lesion_id, (corner, _) in lesions.items()})
    return LesionMap(ids=ids, grid=Grid.from_spacing(SHAPE_ZYX, (2.5, 1.0, 1.0)))


def diagnosis(lesions: Lesions, patient: Probabilities | None = None) -> Diagnosis:
    """A diagnosis of lesions, and of a patient, by default the one that they speak for."""
    probabilities = sure_of(*(kind for _, kind in lesions.values())) if patient is None else dict(patient)
    return Diagnosis(
        lesions=label_map(lesions),
        typed=tuple(
            TypedLesion(
                lesion_id=lesion_id,
                probabilities={each: 0.93 if each == kind else 0.01 for each in LESION_TYPES},
                score=0.8,
                volume_ml=0.02,
                diameter_mm=3.0,
            )
            for lesion_id, (_, kind) in lesions.items()
        ),
        patient=probabilities,
        by_volume=probabilities,
    )


def exam(name: str, true: Lesions, found: Diagnosis) -> DiagnosedExam:
    return DiagnosedExam.of(name, label_map(true), {lesion_id: kind for lesion_id, (_, kind) in true.items()}, found)


def drawn_exams(count: int, *, seed: int = 0) -> list[DiagnosedExam]:
    """Patients with up to four lesions, of which some are missed, some of the wrong type, and some false."""
    generator = np.random.default_rng(seed)
    exams = []
    for number in range(count):
        true, found = {}, {}
        for place, corner in enumerate(PLACES, start=1):
            kind, other = (LESION_TYPES[index] for index in generator.integers(len(LESION_TYPES), size=2))
            if generator.random() < 0.5:
                true[place] = (corner, kind)
            if generator.random() < 0.6:
                found[place + 10] = (corner, kind if generator.random() < 0.7 else other)
        exams.append(exam(f"exam_{number:02}", true, diagnosis(found)))
    return exams


def write_true_exam(folder: Path, lesions: Lesions) -> Path:
    spacing = {"spacing_xyz_mm": (1.0, 1.0, 2.5)}
    write_image(folder / "venous.nii.gz", soft_tissue(), **spacing)
    write_image(folder / "lesions.nii.gz", label_map(lesions).compact_ids, **spacing)
    types = {str(lesion_id): {"type": kind, "diameter_mm": 3.0} for lesion_id, (_, kind) in lesions.items()}
    (folder / "lesions.json").write_text(json.dumps(types))
    return folder


def write_diagnosis(folder: Path, found: Diagnosis) -> Path:
    write_image(folder / "lesions.nii.gz", found.lesions.compact_ids, spacing_xyz_mm=(1.0, 1.0, 2.5))
    report = DiagnosisReport(
        version="1",
        weights="none",
        seconds=1.0,
        phases={},
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
    )
    (folder / "report.json").write_text(report.model_dump_json())
    return folder
