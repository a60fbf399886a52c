"""Control points: local searches that check a registration, independently of what it maximised.

A point's surroundings are searched for around the place that registration gives, and from the place that is found back
in the first scan. In two scans of a patient the search back returns to the point, and neighbouring points shift alike;
in scans of different patients or of different parts of the body they do not. Neither depends on how much of the body
the scans show, nor on how much their noise or kernel lowers every correlation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64
from scipy.ndimage import gaussian_filter

from longilesion.case import Scan
from longilesion.config import AlignmentSettings, SearchStep
from longilesion.geometry import Triple, triple
from longilesion.local_search import Match, best_match
from longilesion.registration.check import shown_voxels
from longilesion.registration.reduction import ReducedScan, transformed
from longilesion.registration.result import Registration

# Wide, and with a low penalty on the distance: it is to find other places where there are similar ones.
_SEARCH_MM = 25.0
_SEARCH = AlignmentSettings(
    steps=(SearchStep(spacing_mm=3.0, template_radius_mm=20.0, search_radius_mm=_SEARCH_MM, distance_penalty=0.1),),
    lesion_weight=1.0,
)
# Most control points.
_COUNT = 30
# Distance to the ends of the field of view.
_MARGIN_MM = 10.0
# Deviation of the neighbourhood whose contrast is measured.
_CONTRAST_SIGMA_MM = 10.0
# Deviation of the weight of neighbours.
_NEIGHBOURS_MM = 40.0
# A search whose best correlation is lower has found nothing.
_LEAST_SIMILARITY = 0.1
# A search that returns within this distance confirms the place.
_RETURNED_MM = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPointEvidence:
    """How far the searches at all control points agree.

    `returned_share` is the share of points that the search back returns to, `shift_deviation_mm` the median distance of
    a point's shift from the mean of its neighbours'.
    """

    returned_share: float
    shift_deviation_mm: float


# Where there is nothing to search for.
_NO_EVIDENCE = ControlPointEvidence(returned_share=0.0, shift_deviation_mm=_SEARCH_MM)


def wide_match(baseline: Scan, followup: Scan, *, centres_xyz_mm: tuple[Triple, Triple]) -> Match | None:
    """Searches for a baseline point's surroundings around a follow-up point; None where there is nothing to compare."""
    return best_match(baseline, followup, centres_xyz_mm=centres_xyz_mm, extent_mm=0.0, settings=_SEARCH)


def check_control_points(registration: Registration, baseline: Scan, followup: Scan) -> ControlPointEvidence:
    """Matches the control points of two registered scans."""
    points = _control_points(registration)
    if len(points) < 2:
        return _NO_EVIDENCE
    registered = registration.followup_xyz_mm(points)
    matches = [
        _there_and_back(baseline, followup, (triple(before), triple(after)))
        for before, after in zip(points, registered, strict=True)
    ]
    shifts = np.array([np.zeros(3) if shift is None else shift for shift, _ in matches])
    found = np.array([shift is not None for shift, _ in matches])
    distances_mm = np.linalg.norm(points[:, None] - points, axis=2)
    weights = np.exp(-0.5 * (distances_mm / _NEIGHBOURS_MM) ** 2) * found * ~np.eye(len(points), dtype=bool)
    means = weights @ shifts / np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
    return ControlPointEvidence(
        returned_share=float(np.mean([error_mm <= _RETURNED_MM for _, error_mm in matches])),
        shift_deviation_mm=float(np.median(np.where(found, np.linalg.norm(shifts - means, axis=1), _SEARCH_MM))),
    )


def _there_and_back(
    baseline: Scan, followup: Scan, centres_xyz_mm: tuple[Triple, Triple]
) -> tuple[Float[np.ndarray, "3"] | None, float]:
    """The shift by the search in the follow-up, if any, and how far from the baseline's point the search back ends."""
    before, after = centres_xyz_mm
    there = wide_match(baseline, followup, centres_xyz_mm=centres_xyz_mm)
    if there is None or there.similarity < _LEAST_SIMILARITY:
        return None, _SEARCH_MM
    place = triple(np.add(after, there.shift_xyz_mm))
    back = wide_match(followup, baseline, centres_xyz_mm=(place, before))
    return there.shift_xyz_mm, _SEARCH_MM if back is None else float(np.linalg.norm(back.shift_xyz_mm))


def _control_points(registration: Registration) -> Float64[np.ndarray, "n 3"]:
    """Points of the baseline's body that the follow-up shows, each where its cell of a lattice has most contrast."""
    scan = registration.baseline
    shown = shown_voxels(scan, registration.followup, registration.motion, margin_mm=_MARGIN_MM)
    voxels = np.argwhere(shown)
    if not len(voxels):
        return np.zeros((0, 3))
    side = max(1, round((len(voxels) / _COUNT) ** (1 / 3)))
    cells = np.ravel_multi_index(tuple((voxels // side).T), np.array(shown.shape) // side + 1)
    order = np.lexsort((-_contrast(scan, shown)[shown], cells))
    _, firsts, counts = np.unique(cells[order], return_index=True, return_counts=True)
    fullest = np.argsort(-counts, kind="stable")[:_COUNT]
    local = voxels[order[firsts[fullest]], ::-1] * scan.spacing_mm
    return transformed(np.linalg.inv(scan.local_from_world), local)


def _contrast(scan: ReducedScan, shown: Bool[np.ndarray, "z y x"]) -> Float32[np.ndarray, "z y x"]:
    """The variance of the intensities around each voxel, of what is shown: the skin is no contrast."""
    sigma = _CONTRAST_SIGMA_MM / scan.spacing_mm

    def smoothed(values: Float32[np.ndarray, "z y x"]) -> Float32[np.ndarray, "z y x"]:
        return np.asarray(gaussian_filter(values * shown, sigma, mode="constant", truncate=2.5))

    weight = np.maximum(smoothed(np.ones(scan.hu.shape, np.float32)), 1e-3)
    mean = smoothed(scan.intensities) / weight
    return np.asarray(smoothed(scan.intensities**2) / weight - mean**2)
