"""The two axial diameters against lines laid through polygons by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from longilesion.diameter import axial_diameter_mm, axial_diameters
from longilesion.geometry import Grid

GRID = Grid.from_spacing((3, 40, 40), (2.0, 0.8, 0.8))


def ellipse(long_mm: float, short_mm: float, angle: float) -> NDArray[np.bool_]:
    y, x = (np.mgrid[:40, :40] - 19.5) * 0.8
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    mask = np.zeros(GRID.shape_zyx, bool)
    mask[1] = (2 * along / long_mm) ** 2 + (2 * across / short_mm) ** 2 <= 1
    return mask


@settings(deadline=None, max_examples=60)
@given(st.floats(15, 28), st.floats(0.3, 0.95), st.floats(0, np.pi))
def test_diameters_of_an_ellipse_are_its_axes(long_mm: float, ratio: float, angle: float) -> None:
    found = axial_diameters(ellipse(long_mm, ratio * long_mm, angle), GRID)
    # Within a voxel's diagonal at either end; the longest chord of a nearly round mask may lie anywhere.
    assert found.longest_mm == pytest.approx(long_mm, abs=1.7)
    assert found.perpendicular_mm == pytest.approx(ratio * long_mm, abs=2.3)
    assert axial_diameter_mm(ellipse(long_mm, ratio * long_mm, angle), GRID) == found.longest_mm


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_the_perpendicular_is_the_longest_chord_in_its_direction(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = np.zeros((1, 14, 14), bool)
    mask[0] = generator.random((14, 14)) < 0.15
    mask[0, 6, 6] = True
    grid = Grid.from_spacing(mask.shape, (1.0, *generator.uniform(0.5, 2.0, 2)))
    found = axial_diameters(mask, grid)
    steps = np.array(grid.spacing_zyx_mm[1:])
    ends = np.argwhere(mask[0])[:, None] + np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    corners = ends.reshape(-1, 2) * steps
    corners = corners[ConvexHull(corners).vertices]
    assert found.longest_mm == pytest.approx(pdist(corners).max())
    # Of all longest distances (several may be equally long), one has the perpendicular that was found.
    widths = [_width(corners, first, second) for first, second in _farthest(corners)]
    assert any(found.perpendicular_mm == pytest.approx(width, rel=0.01) for width in widths)
    assert found.perpendicular_mm <= found.longest_mm + 1e-9


def test_an_empty_outline_has_no_diameters_and_the_slice_is_that_of_the_longest() -> None:
    mask = np.zeros(GRID.shape_zyx, bool)
    assert (axial_diameters(mask, GRID).longest_mm, axial_diameters(mask, GRID).perpendicular_mm) == (0.0, 0.0)
    mask[0, 10:20, 10:20] = True  # 8 x 8 mm, 10.7 mm from contour to contour across
    mask[2, 5, 10:30] = True  # 16 mm long, 0.8 mm wide
    found = axial_diameters(mask, GRID)
    assert (found.longest_mm, found.perpendicular_mm) == (pytest.approx(16.0), pytest.approx(0.8))


def _farthest(corners: NDArray[np.floating]) -> list[tuple[int, int]]:
    distances = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    return [(i, j) for i, j in np.argwhere(distances > distances.max() - 1e-6).tolist() if i < j]


def _width(corners: NDArray[np.floating], first: int, second: int) -> float:
    """The longest chord perpendicular to that of two corners, by many lines cut off at every edge."""
    direction = (corners[second] - corners[first]) / np.linalg.norm(corners[second] - corners[first])
    across = np.array([-direction[1], direction[0]])
    length = float((corners[second] - corners[first]) @ direction)
    starts = corners[first] + np.linspace(0, length, 4001)[:, None] * direction
    low, high = np.full(len(starts), -np.inf), np.full(len(starts), np.inf)
    for corner, following in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inward = np.array([corner[1] - following[1], following[0] - corner[0]])
        slope, gap = float(across @ inward), (corner - starts) @ inward
        if slope > 1e-12:
            low = np.maximum(low, gap / slope)
        elif slope < -1e-12:
            high = np.minimum(high, gap / slope)
    return float((high - low).max())


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_ends_are_those_of_the_diameters_and_at_a_right_angle(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = np.zeros(GRID.shape_zyx, bool)
    low = generator.integers(0, 30, 2)
    high = low + generator.integers(1, 10, 2)
    place = int(generator.integers(0, 3))
    mask[place, low[0] : high[0], low[1] : high[1]] = generator.random(high - low) < 0.7
    found = axial_diameters(mask, GRID)
    if not mask.any():
        assert found.slice is None
        return
    assert found.slice == place
    assert found.longest_ends is not None
    assert found.perpendicular_ends is not None
    (one, other), (left, right) = (0.8 * np.array(ends) for ends in (found.longest_ends, found.perpendicular_ends))
    assert np.linalg.norm(one - other) == pytest.approx(found.longest_mm)
    assert np.linalg.norm(left - right) == pytest.approx(found.perpendicular_mm)
    assert np.dot(one - other, left - right) == pytest.approx(0, abs=1e-6)
