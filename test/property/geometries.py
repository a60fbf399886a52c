"""Hypothesis strategies: grids with any direction matrix, and positions on them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from longilesion.geometry import Grid


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


def triples(low: float, high: float) -> st.SearchStrategy[tuple[float, float, float]]:
    return st.tuples(*(numbers(low, high),) * 3)


@st.composite
def directions(draw: st.DrawFn, *, tilt_deg: float = 25.0) -> NDArray[np.float64]:
    """Axes in any order, each flipped or not (left-handed ones too), then tilted about all three."""
    order = draw(st.sampled_from(list(permutations(range(3)))))
    signs = draw(st.tuples(*(st.sampled_from([-1.0, 1.0]),) * 3))
    angles = draw(triples(-tilt_deg, tilt_deg))
    return Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.eye(3)[:, order] * np.array(signs)


@st.composite
def grids(draw: st.DrawFn, *, sides: tuple[int, int] = (1, 14), spacing_mm: tuple[float, float] = (0.4, 6.0)) -> Grid:
    return Grid.from_spacing(
        draw(st.tuples(*(st.integers(*sides),) * 3)),
        draw(triples(*spacing_mm)),
        origin_xyz_mm=draw(triples(-1500.0, 1500.0)),
        direction=draw(directions()),
    )


def voxel_positions(grid: Grid) -> NDArray[np.float64]:
    """World positions of all voxels, as an array of z, y, x and 3."""
    indices = np.stack(np.indices(grid.shape_zyx)[::-1], axis=-1)
    return indices @ grid.world_from_voxel[:3, :3].T + grid.world_from_voxel[:3, 3]
