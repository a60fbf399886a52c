"""The largest axial diameter of an outline, as RECIST measures lesions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from longilesion.geometry import Grid


def axial_diameter_mm(mask: Bool[np.ndarray, "z y x"], grid: Grid) -> float:
    """The longest distance across an outline within a slice of near-axial orientation (RECIST); 0 if it is empty.

    Its ends lie on the contour, half a voxel outside the outermost voxels' centres.
    """
    view, lps = grid.lps_view(mask)
    _, *steps_yx_mm = lps.spacing_zyx_mm
    contours = [_contour_mm(plane, np.array(steps_yx_mm)) for plane in view if plane.any()]
    longest = 0.0
    # A diameter is at most the diagonal of its bounding rectangle, so only few slices have to be measured.
    for contour in sorted(contours, key=_diagonal_mm, reverse=True):
        if _diagonal_mm(contour) <= longest:
            break
        corners = contour[ConvexHull(contour).vertices]
        longest = max(longest, float(pdist(corners).max()))
    return longest


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
