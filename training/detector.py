"""A detector's candidates on a registered exam, matched with the exam's lesions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import cc3d
import numpy as np
from jaxtyping import Float32

from longilesion.case import LesionMap
from longilesion.encoding import encode
from longilesion.ensemble import Ensemble
from longilesion.evaluation.detection import ExamLesions
from longilesion.evaluation.overlap import Overlap
from longilesion.evaluation.scoring import scan_lesions
from longilesion.geometry import ZYX, Grid, box_slices
from training.exams import RegisteredExam, windowed

# Candidates are connected voxels over this probability. It is low, as the measures go through all thresholds.
_LEAST_PROBABILITY = 0.1


def exam_probability(exam: RegisteredExam, ensemble: Ensemble) -> Float32[np.ndarray, "z y x"]:
    """The mean probability of a lesion over overlapping windows of the exam's lattice."""
    settings = ensemble.settings
    shape = settings.voi.shape_zyx
    total, count = np.zeros(exam.ids.shape, np.float32), np.zeros(exam.ids.shape, np.float32)
    for start in window_starts(exam.ids.shape, shape):
        pair, _ = windowed(exam, start, shape)
        probability, _ = ensemble.predict(encode([pair], settings.encoding))
        window = box_slices(start, np.add(start, shape))
        total[window] += probability[0].numpy()
        count[window] += 1
    return total / count


def window_starts(extent_zyx: tuple[int, ...], shape_zyx: ZYX) -> Iterator[ZYX]:
    """The first voxels of windows that cover a lattice evenly, with at least half of a window in common."""
    along = []
    for extent, length in zip(extent_zyx, shape_zyx, strict=True):
        count = int(np.ceil((extent - length) / (length / 2))) + 1
        along.append(np.linspace(0, extent - length, count).round().astype(int).tolist())
    yield from product(*along)


def matched_lesions(exam: RegisteredExam, probability: Float32[np.ndarray, "z y x"]) -> ExamLesions:
    """The exam's lesions and the candidates in its organ, with their overlaps on the lattice.

    A candidate's confidence is its highest probability. Diameters and volumes of true lesions are those in the
    follow-up's own voxels.
    """
    organ, grid = exam.pair.followup.organ, exam.pair.followup.grid
    over = probability >= _LEAST_PROBABILITY
    if organ is not None:
        over &= organ > 0.5
    labels = cc3d.connected_components(over, connectivity=26, out_dtype=np.uint16)
    highest = np.zeros(int(labels.max()) + 1, np.float32)
    np.maximum.at(highest, labels[over], probability[over])
    found = _lesions(exam, labels, dict(enumerate(highest.tolist())), grid)
    return found


def _lesions(exam: RegisteredExam, labels: np.ndarray, confidence: dict[int, float], grid: Grid) -> ExamLesions:
    overlap = Overlap.of(exam.ids, labels)
    truth, predicted = LesionMap(ids=exam.ids, grid=grid), LesionMap(ids=labels, grid=grid)
    found = scan_lesions(truth, predicted, overlap, confidence)
    # Lesions without a voxel on the lattice cannot be found, but count.
    unseen = exam.true_mm.keys() - overlap.truth.keys()
    names = [*overlap.truth, *sorted(unseen)]
    return replace(
        found,
        true_mm=np.array([exam.true_mm[name] for name in names], np.float64),
        true_ml=np.array([exam.true_ml[name] for name in names], np.float64),
        iou=np.concatenate([found.iou, np.zeros((len(unseen), found.iou.shape[1]))]),
    )
