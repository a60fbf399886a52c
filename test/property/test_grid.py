import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.geometry import Grid
from test.property.geometries import directions, grids, numbers, triples, voxel_positions

MICRON = 1e-3


@given(grids(), triples(-50.0, 50.0))
def test_voxel_to_world_and_back(grid, index):
    assert grid.index_zyx(grid.world_xyz_mm(index)) == pytest.approx(index, abs=1e-6)


@given(grids(), triples(-2000.0, 2000.0))
def test_world_to_voxel_and_back(grid, point):
    assert grid.world_xyz_mm(grid.index_zyx(point)) == pytest.approx(point, abs=1e-6)


@given(triples(0.2, 8.0), directions())
def test_spacing_is_what_it_was_built_from(spacing, direction):
    grid = Grid.from_spacing((3, 4, 5), spacing, direction=direction)
    assert grid.spacing_zyx_mm == pytest.approx(spacing)
    assert grid.voxel_volume_ml == pytest.approx(np.prod(spacing) / 1000)


@given(grids())
def test_one_voxel_along_x_is_the_x_spacing_in_the_world(grid):
    moved = np.subtract(grid.world_xyz_mm((0, 0, 1)), grid.world_xyz_mm((0, 0, 0)))
    assert np.linalg.norm(moved) == pytest.approx(grid.spacing_zyx_mm[2])


@given(grids(), triples(-20.0, 20.0), triples(0.1, 5.0), triples(0.0, 9.0))
def test_lattice_voxels_lie_where_start_and_step_say(grid, start, step, index):
    lattice = grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=(10, 10, 10))
    expected = grid.world_xyz_mm(np.array(start) + np.array(index) * step)
    assert lattice.world_xyz_mm(index) == pytest.approx(expected, abs=MICRON)


@given(grids(), triples(-20.0, 20.0), triples(0.1, 5.0))
def test_start_and_step_are_found_again_from_the_lattice(grid, start, step):
    found_start, found_step = grid.axis_steps(grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=(4, 4, 4)))
    assert found_start == pytest.approx(start, abs=1e-6)
    assert found_step == pytest.approx(step, abs=1e-6)


@given(grids(), st.floats(1.0, 40.0))
def test_tilted_grid_has_no_start_and_step(grid, degrees):
    angle = np.radians(degrees)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    tilted = Grid(shape_zyx=grid.shape_zyx, world_from_voxel=grid.world_from_voxel @ tilt)
    with pytest.raises(ValueError, match="different axes"):
        grid.axis_steps(tilted)


@given(grids(sides=(4, 14)), st.data())
def test_window_is_the_slice_of_the_array(grid, data):
    start = tuple(data.draw(st.integers(0, length - 1)) for length in grid.shape_zyx)
    stop = tuple(data.draw(st.integers(low + 1, length)) for low, length in zip(start, grid.shape_zyx, strict=True))
    part = voxel_positions(grid)[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))]
    np.testing.assert_allclose(voxel_positions(grid.window(start, stop)), part, atol=MICRON)


@given(grids())
def test_lps_view_shows_the_same_voxels_at_the_same_places(grid):
    numbered = np.arange(np.prod(grid.shape_zyx)).reshape(grid.shape_zyx)
    view, lps = grid.lps_view(numbered)
    assert np.shares_memory(view, numbered)
    assert view.shape == lps.shape_zyx
    np.testing.assert_allclose(voxel_positions(lps), voxel_positions(grid).reshape(-1, 3)[view], atol=MICRON)


@given(grids())
def test_lps_axes_run_left_posterior_superior(grid):
    _, lps = grid.lps_view(np.zeros(grid.shape_zyx, np.int16))
    columns = lps.world_from_voxel[:3, :3]
    assert np.all(np.diag(columns) > 0)
    assert np.all(np.abs(columns).argmax(axis=0) == [0, 1, 2])


@given(grids())
def test_writing_to_the_lps_view_writes_to_the_array(grid):
    array = np.zeros(grid.shape_zyx, np.uint16)
    view, lps = grid.lps_view(array)
    view[0, 0, 0] = 7
    corner = np.round(grid.index_zyx(lps.world_xyz_mm((0, 0, 0)))).astype(int)
    assert array[tuple(corner)] == 7
    assert (array != 0).sum() == 1


@given(grids())
def test_lps_view_of_an_lps_grid_changes_nothing(grid):
    view, lps = grid.lps_view(np.zeros(grid.shape_zyx, np.int16))
    again, twice = lps.lps_view(view)
    assert again.strides == view.strides
    np.testing.assert_array_equal(twice.world_from_voxel, lps.world_from_voxel)


@given(grids(), triples(-30.0, 30.0))
def test_clamped_click_lies_in_the_scan_and_inside_ones_stay(grid, index):
    clamped = grid.clamped(index)
    assert grid.contains(clamped)
    assert grid.clamped(clamped) == clamped
    if all(0 <= position <= length - 1 for position, length in zip(index, grid.shape_zyx, strict=True)):
        assert clamped == index


@given(grids(), triples(-0.5, 1.0))
def test_voxels_reach_half_a_voxel_beyond_their_centres(grid, beyond):
    last = np.array(grid.shape_zyx) - 1.0
    assert grid.contains(last + beyond) == (max(beyond) <= 0.5)


@given(grids(), numbers(0.05, 3.0), st.integers(0, 2))
def test_grids_match_only_where_all_corners_do(grid, distance, axis):
    matrix = grid.world_from_voxel.copy()
    matrix[axis, 3] += distance
    moved = Grid(shape_zyx=grid.shape_zyx, world_from_voxel=matrix)
    assert grid.matches(grid)
    assert not grid.matches(moved)
    assert grid.matches(moved, tolerance_mm=1.01 * distance)


@given(grids())
def test_centre_is_as_far_from_opposite_corners(grid):
    last = np.array(grid.shape_zyx) - 1
    middle = np.add(grid.world_xyz_mm((0, 0, 0)), grid.world_xyz_mm(last)) / 2
    assert grid.centre_xyz_mm == pytest.approx(middle, abs=MICRON)
