"""Registers a baseline scan with a follow-up scan, coarse to fine; where a step fails, the previous result is kept."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from longilesion.case import Scan
from longilesion.registration.check import displaced, jacobian_determinant, local_similarity, shown_voxels
from longilesion.registration.coarse import Shift, body_centres_shift, find_shift
from longilesion.registration.deformable import find_deformation, warped
from longilesion.registration.reduction import ReducedScan, reduce_scan
from longilesion.registration.result import Deformation, Registration, Stage
from longilesion.registration.rigid import find_rigid

# The lattice of the rigid and the deformable step.
SPACING_MM = 5.0
# An initial translation of lower correlation is discarded.
_LEAST_SHIFT_CORRELATION = 0.2
# Within this distance of a scan's end, a voxel's neighbourhood is only partly shown.
END_MM = 20.0
# A deformation that folds or collapses more than this share of the body is anatomically implausible.
_GREATEST_FOLDED_SHARE = 0.01
_SMALLEST_JACOBIAN = 0.1
# Interpolation alone lowers the similarity by up to this much.
_TOLERANCE = 0.02

_log = logging.getLogger(__name__)


def register_scans(baseline: Scan, followup: Scan) -> Registration:
    """Registers two scans; always returns a result, whose `stage` names the last step that succeeded."""
    before, after = reduce_scan(baseline, SPACING_MM), reduce_scan(followup, SPACING_MM)
    shift = find_shift(before, after)
    if shift is None or shift.correlation < _LEAST_SHIFT_CORRELATION:
        return _moved(before, after, "body centres", body_centres_shift(before, after))
    shifted = _moved(before, after, "shift", shift)
    motion = find_rigid(before, after, shift)
    if motion is None:
        return shifted
    rigid = _moved(before, after, "rigid", shift, motion)
    if rigid.overall_similarity < shifted.overall_similarity:
        # The patient has not moved, or the optimiser has diverged: in both cases the shift is the better start.
        _log.info("rigid motion given up: similarity %.2f", rigid.overall_similarity)
        rigid = shifted
    return _deformed(rigid) or rigid


def _moved(
    before: ReducedScan,
    after: ReducedScan,
    stage: Stage,
    shift: Shift,
    motion: Float64[np.ndarray, "4 4"] | None = None,
) -> Registration:
    """The registration by a motion, or by a shift alone."""
    if motion is None:
        motion = np.eye(4)
        motion[:3, 3] = shift.xyz_mm
    similarity, overall = local_similarity(before, warped(after, before, motion), shown_voxels(before, after, motion))
    return Registration(
        stage=stage,
        baseline=before,
        followup=after,
        motion=motion,
        deformation=None,
        similarity=similarity,
        overall_similarity=overall,
        shift_correlation=shift.correlation,
    )


def _deformed(rigid: Registration) -> Registration | None:
    """The registration with a deformation; None where there is none, or it is worse or anatomically implausible."""
    before, after = rigid.baseline, rigid.followup
    moved = warped(after, before, rigid.motion)
    forward = find_deformation(before, moved, shown_voxels(before, after, rigid.motion, margin_mm=END_MM))
    if forward is None:
        return None
    back = np.linalg.inv(rigid.motion)
    backward = find_deformation(after, warped(before, after, back), shown_voxels(after, before, back, margin_mm=END_MM))
    if backward is None:
        return None
    folded = float((jacobian_determinant(forward, before.spacing_mm)[before.body] < _SMALLEST_JACOBIAN).mean())
    shown = shown_voxels(before, after, rigid.motion)
    similarity, overall = local_similarity(before, displaced(moved, forward, before.spacing_mm), shown)
    if folded > _GREATEST_FOLDED_SHARE or overall < rigid.overall_similarity - _TOLERANCE:
        _log.info("deformation given up: %.0f %% folded, similarity %.2f", 100 * folded, overall)
        return None
    return replace(
        rigid,
        stage="deformable",
        deformation=Deformation(forward=forward, backward=backward),
        similarity=similarity,
        overall_similarity=overall,
    )
