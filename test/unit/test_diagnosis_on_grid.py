"""Lesions of a lattice on a scan's voxels: none is lost, sizes are those of the voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.case import LesionMap
from longilesion.components import lesion_voxels
from longilesion.diagnosis.diagnose import on_grid
from longilesion.diagnosis.findings import Diagnosis, TypedLesion
from longilesion.diagnosis_settings import LESION_TYPES
from longilesion.geometry import Grid
from test.unit.builders import ball, flipped


def found_on(grid: Grid, ids: np.ndarray) -> Diagnosis:
    typed = tuple(
        TypedLesion(
            lesion_id=lesion_id,
            probabilities={name: float(name == LESION_TYPES[lesion_id % 8]) for name in LESION_TYPES},
            score=0.9,
            volume_ml=0.0,
            diameter_mm=0.0,
        )
        for lesion_id in lesion_voxels(ids)
    )
    none = dict.fromkeys(LESION_TYPES, 0.0)
    return Diagnosis(lesions=LesionMap(ids=ids, grid=grid), typed=typed, patient=none, by_volume=none)


def lattice_in(grid: Grid, spacing_mm: float) -> Grid:
    """A lattice along the axes of a grid in LPS order, inside it."""
    _, lps = grid.lps_view(np.empty(grid.shape_zyx, np.bool_))
    step = spacing_mm / np.array(lps.spacing_zyx_mm)
    z, y, x = np.floor((np.array(lps.shape_zyx) - 1) / step).astype(int).tolist()
    return lps.lattice(start_zyx=(0.3, 0.4, 0.2), step_zyx=step, shape_zyx=(z, y, x))


@pytest.mark.parametrize("is_flipped", [False, True])
def test_a_ball_stays_where_it_is(is_flipped: bool):
    grid = Grid.from_spacing((20, 40, 40), (3.0, 1.5, 1.5), origin_xyz_mm=(5.0, -7.0, 30.0))
    if is_flipped:
        _, grid = flipped(np.empty(grid.shape_zyx), grid)
    lattice = lattice_in(grid, 2.0)
    centre = np.add(lattice.centre_xyz_mm, (3.0, -4.0, 2.0))
    found = on_grid(found_on(lattice, ball(lattice, centre, 12.0).astype(np.uint16)), grid)
    (lesion,) = found.typed
    assert lesion.volume_ml == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.05)
    assert lesion.diameter_mm == pytest.approx(24, abs=2)
    assert lesion.volume_ml == pytest.approx(found.lesions.ids.astype(bool).sum() * grid.voxel_volume_ml)
    middle = grid.world_xyz_mm(np.argwhere(found.lesions.ids).mean(axis=0))
    assert np.linalg.norm(np.subtract(middle, centre)) < 0.7
    assert found.by_volume[lesion.type] == 1
    assert found.lesions.grid is grid


@given(seed=st.integers(0, 10_000), spacing=st.sampled_from((0.7, 2.0, 5.0)), count=st.integers(1, 12))
def test_no_lesion_is_lost(seed: int, spacing: float, count: int):
    generator = np.random.default_rng(seed)
    grid = Grid.from_spacing((6, 12, 12), (5.0, 3.0, 3.0))
    lattice = lattice_in(grid, spacing)
    ids = np.zeros(lattice.shape_zyx, np.uint16)
    # Neighbours that share a voxel of the grid, too.
    corner = generator.integers(0, np.maximum(np.array(ids.shape) - 3, 1))
    for lesion_id in range(1, count + 1):
        start = corner + generator.integers(0, 3, 3)
        size = generator.integers(1, 3, 3)
        z, y, x = (slice(low, low + length) for low, length in zip(start, size, strict=True))
        ids[z, y, x] = lesion_id
    found = found_on(lattice, ids)
    result = on_grid(found, grid)
    assert set(lesion_voxels(result.lesions.ids)) == set(lesion_voxels(ids))
    assert [lesion.lesion_id for lesion in result.typed] == [lesion.lesion_id for lesion in found.typed]
    assert all(lesion.volume_ml > 0 and lesion.diameter_mm > 0 for lesion in result.typed)
    if found.typed:
        assert sum(result.by_volume.values()) == pytest.approx(1)
