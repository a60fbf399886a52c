"""Propagates points of a baseline scan to a follow-up scan, each with a confidence.

Registration gives the first estimate. A local search, which correlates the point's neighbourhood in both scans,
corrects it. A wider search, and the same there and back at control points in the whole body, tell how far both can be
relied on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longilesion.case import Scan
from longilesion.config import AlignmentSettings, SearchStep
from longilesion.geometry import Grid, Triple, triple
from longilesion.local_search import best_match
from longilesion.registration.confidence import Evidence, confidence_in_place, trust_in_registration
from longilesion.registration.control_points import check_control_points, wide_match
from longilesion.registration.result import Registration

# Wide enough to correct residual errors of registration, too narrow to reach a similar structure elsewhere.
_SEARCH = AlignmentSettings(
    steps=(
        SearchStep(
            spacing_mm=2.0, template_radius_mm=20.0, falloff_mm=8.0, search_radius_mm=15.0, distance_penalty=0.4
        ),
    )
)
# A point placed less than this beyond the scan's border counts as shown: registration is no more accurate.
BORDER_MM = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagatedPoint:
    """The position of a baseline point in the follow-up's world, inside the scan or on its border.

    `is_shown` is whether the scan shows it, `clamped` whether the position was moved to the border. `confidence` is the
    probability that this result is correct, `trust` the probability that registration is about right there.
    """

    point_xyz_mm: Triple
    is_shown: bool
    confidence: float
    trust: float
    clamped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A point's position by registration and search, its distance outside the field of view, and the evidence."""

    point_xyz_mm: Triple
    beyond_mm: float
    evidence: Evidence


def trust_in(registration: Registration, baseline: Scan, followup: Scan) -> float:
    """The probability that a registration is about right, from searches at control points; low for two patients."""
    control_points = check_control_points(registration, baseline, followup)
    return trust_in_registration(
        Evidence(
            inverse_error_mm=0.0,
            search_shift_mm=0.0,
            margin=0.0,
            shift_deviation_mm=control_points.shift_deviation_mm,
            returned_share=control_points.returned_share,
            stage=registration.stage,
        )
    )


def propagate_points(
    registration: Registration,
    baseline: Scan,
    followup: Scan,
    points_xyz_mm: Sequence[Triple],
    *,
    extents_mm: Sequence[float],
) -> list[PropagatedPoint]:
    """Propagates the centres of lesions of known extent (0 where unknown)."""
    places = find_places(registration, baseline, followup, points_xyz_mm, extents_mm=extents_mm)
    return [_decided(place, followup.grid) for place in places]


def find_places(
    registration: Registration,
    baseline: Scan,
    followup: Scan,
    points_xyz_mm: Sequence[Triple],
    *,
    extents_mm: Sequence[float],
) -> list[Place]:
    """Positions of points by registration, corrected by the local search."""
    if not points_xyz_mm:
        return []
    points = np.array(points_xyz_mm, np.float64)
    registered = registration.followup_xyz_mm(points)
    inverse_error_mm = registration.inverse_error_mm(points)
    unshown_mm = registration.unshown_mm(registered)
    control_points = check_control_points(registration, baseline, followup)
    places = []
    for number, point in enumerate(points_xyz_mm):
        start = triple(registered[number])
        border = followup.grid.world_xyz_mm(followup.grid.clamped(followup.grid.index_zyx(start)))
        beyond_mm = float(np.linalg.norm(np.subtract(start, border))) + float(unshown_mm[number])
        match, wide = None, None
        if beyond_mm <= BORDER_MM:
            match = best_match(
                baseline,
                followup,
                centres_xyz_mm=(point, start),
                extent_mm=extents_mm[number],
                settings=_SEARCH,
            )
            wide = wide_match(baseline, followup, centres_xyz_mm=(point, start))
        shift = np.zeros(3) if match is None else match.shift_xyz_mm
        evidence = Evidence(
            inverse_error_mm=float(inverse_error_mm[number]),
            search_shift_mm=float(np.linalg.norm(shift)),
            margin=0.0 if wide is None else wide.margin,
            shift_deviation_mm=control_points.shift_deviation_mm,
            returned_share=control_points.returned_share,
            stage=registration.stage,
        )
        places.append(Place(point_xyz_mm=triple(np.add(start, shift)), beyond_mm=beyond_mm, evidence=evidence))
    return places


def _decided(place: Place, grid: Grid) -> PropagatedPoint:
    index = grid.index_zyx(place.point_xyz_mm)
    inside = grid.contains(index)
    is_shown = place.beyond_mm <= BORDER_MM
    trust = trust_in_registration(place.evidence)
    return PropagatedPoint(
        point_xyz_mm=place.point_xyz_mm if inside else grid.world_xyz_mm(grid.clamped(index)),
        is_shown=is_shown,
        # Beyond the scan there is nothing to compare, so only the trust in the registration counts.
        confidence=confidence_in_place(place.evidence) if is_shown else trust,
        trust=trust,
        clamped=not inside,
    )
