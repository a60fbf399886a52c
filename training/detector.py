"""A detector's candidates on a registered exam, and their matches with its lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import UInt16

from longilesion.case import LesionMap, Scan
from longilesion.config import ModelSettings
from longilesion.detection import Candidate, candidates_in
from longilesion.ensemble import Ensemble
from longilesion.evaluation.detection import ExamLesions
from longilesion.geometry import Grid
from longilesion.sliding import slide_over
from longilesion.voi import VoiPair
from training.exams import RegisteredExam

# Candidates are outlined at this probability: low, as the measures go through all thresholds of the score.
LEAST_SCORE = 0.1


def exam_probability(exam: RegisteredExam, detector: Ensemble) -> UInt16[np.ndarray, "z y x"]:
    """The probability of lesions (times 65535) in the exam's organ."""
    return slide_over(exam.region, exam.window, detector)


def exam_candidates(
    probability: UInt16[np.ndarray, "z y x"], lattice: Grid, scan: Scan, settings: ModelSettings
) -> list[Candidate]:
    """All candidates down to a low score, outlined on the scan's voxels; those of any size."""
    all_of_them = settings.detection.model_copy(update={"threshold": LEAST_SCORE, "least_diameter_mm": 0.0})
    return candidates_in(probability, lattice, scan, all_of_them)


def lattice_scan(exam: RegisteredExam) -> Scan:
    """An exam's lattice as the scan on whose voxels candidates are outlined."""
    region = exam.region
    return Scan(hu=np.zeros(region.grid.shape_zyx, np.int16), grid=region.grid, organ=region.mask)


def matched_lesions(candidates: Sequence[Candidate], truth: LesionMap, exam: RegisteredExam) -> ExamLesions:
    """The overlaps of candidates with an exam's lesions, on the voxels of the scan or lattice that shows both.

    Diameters and volumes of the lesions are those in the follow-up's own voxels.
    """
    view, _ = truth.grid.lps_view(truth.ids)
    names = list(exam.true_mm)
    voxels = np.bincount(view.ravel(), minlength=max(names, default=0) + 1)
    iou = np.zeros((len(names), len(candidates)))
    for column, candidate in enumerate(candidates):
        inside = np.bincount(view[candidate.box][candidate.mask], minlength=len(voxels))
        size = int(candidate.mask.sum())
        for row, name in enumerate(names):
            iou[row, column] = inside[name] / (voxels[name] + size - inside[name])
    return ExamLesions(
        true_mm=_listed(exam.true_mm, names),
        true_ml=_listed(exam.true_ml, names),
        predicted_mm=np.array([candidate.diameter_mm for candidate in candidates], np.float64),
        predicted_ml=np.array([candidate.volume_ml for candidate in candidates], np.float64),
        confidence=np.array([candidate.score for candidate in candidates], np.float64),
        iou=iou,
    )


def masked(detector: Ensemble) -> Ensemble:
    """The detector without its prior: LiFE-Net masked, of its network."""
    members = tuple(
        replace(
            member,
            settings=member.settings.model_copy(
                update={"inference": member.settings.inference.model_copy(update={"uses_baseline": False})}
            ),
        )
        for member in detector.members
    )
    return replace(detector, members=members)


def with_detected_prior(exam: RegisteredExam, detector: Ensemble) -> RegisteredExam:
    """The exam with the lesions that a detector, without a prior, finds in the baseline, in place of its outlines."""
    baseline = exam.pair.baseline
    if baseline is None:
        return exam
    alone = VoiPair(followup=baseline, baseline=None, baseline_mask=None, baseline_others=None)
    probability = exam_probability(replace(exam, pair=alone), masked(detector))
    threshold = detector.groups[0][0].settings.detection.threshold
    mask = (probability >= threshold * np.iinfo(np.uint16).max).astype(np.float32)
    return with_prior_mask(exam, mask)


def with_prior_mask(exam: RegisteredExam, mask: np.ndarray) -> RegisteredExam:
    """The exam with another mask of the baseline's lesions."""
    return replace(exam, pair=replace(exam.pair, baseline_mask=mask, baseline_others=np.zeros_like(mask)))


def _listed(values: Mapping[int, float], names: Sequence[int]) -> np.ndarray:
    return np.array([values[name] for name in names], np.float64)
