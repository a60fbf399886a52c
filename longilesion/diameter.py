"""The axial diameters of an outline, as RECIST measures lesions and lymph nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from longilesion.geometry import Grid

# Both ends of a diameter, y, x in voxels of a slice.
Ends: TypeAlias = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxialDiameters:
    """The longest distance across an outline within an axial slice, and the longest one perpendicular to it there.

    `slice` is the slice's place along the z axis of the grid in LPS order, None where there is no outline; the ends lie
    in that slice.
    """

    longest_mm: float = 0.0
    perpendicular_mm: float = 0.0
    slice: int | None = None
    longest_ends: Ends | None = None
    perpendicular_ends: Ends | None = None


def axial_diameter_mm(mask: Bool[np.ndarray, "z y x"], grid: Grid) -> float:
    """The longest of `axial_diameters`."""
    return axial_diameters(mask, grid).longest_mm


def axial_diameters(mask: Bool[np.ndarray, "z y x"], grid: Grid) -> AxialDiameters:
    """The diameters within the slice of near-axial orientation where the longest one is longest; 0 if it is empty.

    Its ends lie on the contour, half a voxel outside the outermost voxels' centres (RECIST 1.1; the second one is the
    short axis of a lymph node). Both are those of the slice's convex hull.
    """
    view, lps = grid.lps_view(mask)
    _, *steps_yx_mm = lps.spacing_zyx_mm
    steps = np.array(steps_yx_mm)
    contours = [(_contour_mm(plane, steps), place) for place, plane in enumerate(view) if plane.any()]
    longest = AxialDiameters()
    # A diameter is at most the diagonal of its bounding rectangle, so only few slices have to be measured.
    for contour, place in sorted(contours, key=lambda each: -_diagonal_mm(each[0])):
        if _diagonal_mm(contour) <= longest.longest_mm:
            break
        corners = contour[ConvexHull(contour).vertices]
        if float(pdist(corners).max()) > longest.longest_mm:
            longest = _diameters(corners, steps, place)
    return longest


def _diameters(corners: Float[np.ndarray, "n 2"], steps_yx_mm: Float[np.ndarray, "2"], place: int) -> AxialDiameters:
    """Those of a convex polygon, given by its corners in order; of several longest distances the first counts."""
    distances = squareform(pdist(corners))
    one, other = np.unravel_index(int(distances.argmax()), distances.shape)
    direction = (corners[other] - corners[one]) / distances[one, other]
    along = (corners - corners[one]) @ direction
    across = (corners - corners[one]) @ np.array([-direction[1], direction[0]])
    # Both sides of the polygon run from one end of the longest distance to the other, and the distance between them
    # has its maximum at a corner.
    sides = [_side(along, across, int(one), int(other)), _side(along, across, int(other), int(one))]
    levels = [np.interp(along, *side) for side in sides]
    widths = np.abs(levels[0] - levels[1])
    widest = int(widths.argmax())
    foot = corners[one] + along[widest] * direction
    normal = np.array([-direction[1], direction[0]])
    return AxialDiameters(
        longest_mm=float(distances[one, other]),
        perpendicular_mm=float(widths[widest]),
        slice=place,
        longest_ends=_ends(corners[one], corners[other], steps_yx_mm),
        perpendicular_ends=_ends(foot + levels[0][widest] * normal, foot + levels[1][widest] * normal, steps_yx_mm),
    )


def _ends(
    first_mm: Float[np.ndarray, "2"], second_mm: Float[np.ndarray, "2"], steps_yx_mm: Float[np.ndarray, "2"]
) -> Ends:
    (y0, x0), (y1, x1) = (first_mm / steps_yx_mm).tolist(), (second_mm / steps_yx_mm).tolist()
    return (y0, x0), (y1, x1)


def _side(
    along: NDArray[np.floating], across: NDArray[np.floating], first: int, last: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The corners from one to another in their order, sorted along the axis."""
    places = np.arange(first, last + 1 if last >= first else last + 1 + len(along)) % len(along)
    order = np.argsort(along[places], kind="stable")
    return along[places][order], across[places][order]


def _contour_mm(plane: Bool[np.ndarray, "y x"], steps_yx_mm: Float[np.ndarray, "2"]) -> Float[np.ndarray, "n 2"]:
    """Points half a voxel beyond the first and last voxel of each row and column of a slice."""
    ends = []
    for axis in (0, 1):
        lines = np.flatnonzero(plane.any(axis=axis))
        first = plane.argmax(axis=axis)[lines]
        last = plane.shape[axis] - 1 - np.flip(plane, axis).argmax(axis=axis)[lines]
        along, across = np.concatenate([first - 0.5, last + 0.5]), np.tile(lines, 2)
        ends.append(np.stack([along, across][:: 1 if axis == 0 else -1], axis=1))
    return np.asarray(np.concatenate(ends) * steps_yx_mm)


def _diagonal_mm(contour: Float[np.ndarray, "n 2"]) -> float:
    return float(np.hypot(*np.ptp(contour, axis=0)))
