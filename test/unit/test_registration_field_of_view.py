"""Registration of scans whose field of view is no box: round, or cut by a crop."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longilesion.case import PADDING_HU, Scan
from longilesion.geometry import Grid, triple
from longilesion.registration.check import shown_voxels
from longilesion.registration.propagation import propagate_points
from longilesion.registration.reduction import ReducedScan, reduce_scan, transformed
from longilesion.registration.register import register_scans
from longilesion.registration.result import Registration
from test.unit.test_registration import points, scans, torso


def chest(*, lung_hu: int = -850, air_hu: int = -1000) -> Scan:
    """A body of 160 x 120 mm with two lungs behind chest walls of 10 mm, in 20 slices of 5 mm."""
    hu = np.full((20, 40, 48), air_hu, np.int16)
    hu[:, 8:32, 8:40] = 30
    hu[:, 10:26, 10:22] = lung_hu
    hu[:, 10:26, 26:38] = lung_hu
    return Scan(hu=hu, grid=Grid.from_spacing(hu.shape, (5.0, 5.0, 5.0)))


def is_within(grid: Grid, centre_yx_mm: tuple[float, float], radius_mm: float) -> np.ndarray:
    """The voxels in a round field of view, whose centre is relative to the grid's."""
    _, y, x = np.indices(grid.shape_zyx)
    _, height, width = grid.shape_zyx
    _, row_mm, column_mm = grid.spacing_zyx_mm
    down_mm = (y - (height - 1) / 2) * row_mm - centre_yx_mm[0]
    across_mm = (x - (width - 1) / 2) * column_mm - centre_yx_mm[1]
    return np.hypot(down_mm, across_mm) <= radius_mm


def in_round_field(scan: Scan, centre_yx_mm: tuple[float, float], radius_mm: float) -> Scan:
    shown = is_within(scan.grid, centre_yx_mm, radius_mm)
    return Scan(hu=np.where(shown, scan.hu, np.int16(PADDING_HU)), grid=scan.grid)


def at_the_scans_voxels(mask: np.ndarray, reduced: ReducedScan, scan: Scan) -> np.ndarray:
    """A mask of a reduced scan at the voxels of its scan, of equal spacing; False beyond it."""
    start, _ = scan.grid.axis_steps(reduced.grid)
    whole = np.zeros(scan.hu.shape, bool)
    z, y, x = (slice(first, first + side) for first, side in zip(np.rint(start).astype(int), mask.shape, strict=True))
    whole[z, y, x] = mask
    return whole


@settings(deadline=None, max_examples=12)
@given(
    st.tuples(st.floats(-40.0, 40.0), st.floats(-60.0, 60.0)),
    st.floats(50.0, 120.0),
    st.integers(-960, -700),
)
def test_body_is_all_of_the_chest_in_a_round_field_of_view(
    centre_yx_mm: tuple[float, float], radius_mm: float, lung_hu: int
) -> None:
    scan = chest(lung_hu=lung_hu)
    reduced = reduce_scan(in_round_field(scan, centre_yx_mm, radius_mm), 5.0)
    body = at_the_scans_voxels(reduced.body, reduced, scan)
    assert not (body & ~is_within(scan.grid, centre_yx_mm, radius_mm)).any()
    # Within a voxel of the lattice on which the body is found.
    inside = np.zeros_like(body)
    inside[:, 10:30, 10:38] = True
    assert body[inside & is_within(scan.grid, centre_yx_mm, radius_mm - 12.0)].all()
    outside = np.ones_like(body)
    outside[:, 6:34, 6:42] = False
    assert not (body & outside).any()


@settings(deadline=None, max_examples=12)
@given(st.integers(17, 30), st.integers(4, 18), st.integers(-950, -700), st.integers(-1024, -980))
def test_lung_that_a_crop_opens_is_part_of_the_body(right: int, top: int, lung_hu: int, air_hu: int) -> None:
    """The crop runs through the first lung or beyond it; the chest wall is as thin as what is removed as a table."""
    whole = chest(lung_hu=lung_hu, air_hu=air_hu)
    hu = np.ascontiguousarray(whole.hu[:top, :, :right])
    scan = Scan(hu=hu, grid=whole.grid.window((0, 0, 0), hu.shape))
    reduced = reduce_scan(scan, 5.0)
    body = at_the_scans_voxels(reduced.body, reduced, scan)
    assert body[:, 12:24, 12 : min(right, 22)].all()
    assert not body[:, :6].any()


def test_emphysema_is_lung_beside_clean_air() -> None:
    scan = chest(lung_hu=-963)
    scan = Scan(hu=np.ascontiguousarray(scan.hu[..., :18]), grid=scan.grid.window((0, 0, 0), (20, 40, 18)))
    reduced = reduce_scan(scan, 5.0)
    assert at_the_scans_voxels(reduced.body, reduced, scan)[:, 12:24, 12:].all()


def test_scan_of_nothing_but_padding_is_body_everywhere() -> None:
    empty = Scan(hu=np.full((9, 20, 20), PADDING_HU, np.int16), grid=Grid.from_spacing((9, 20, 20), (5.0, 5.0, 5.0)))
    assert reduce_scan(empty, 5.0).body.all()


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(-3, 3)] * 3), st.integers(0, 2))
def test_compared_are_voxels_whose_surroundings_both_scans_show(
    seed: int, shift_zyx: tuple[int, int, int], reach: int
) -> None:
    random = np.random.default_rng(seed)
    shape = 7, 8, 9
    grid = Grid.from_spacing(shape, (5.0, 5.0, 5.0))
    before, after = (
        ReducedScan(hu=np.zeros(shape, np.float32), shown=mask, body=mask & (random.random(shape) < 0.8), grid=grid)
        for mask in (random.random((2, *shape)) < 0.97)
    )
    motion = np.eye(4)
    motion[:3, 3] = np.array(shift_zyx[::-1]) * 5.0
    found = shown_voxels(before, after, motion, margin_mm=reach * 5.0)
    # A step more than the longest shift, so that each shifted voxel has a place.
    own = surroundings_are_shown(before.shown, reach, 4, beyond=True)
    other = surroundings_are_shown(after.shown, reach, 4, beyond=False)
    middle, shifted = (
        tuple(slice(4 + step, 4 + step + length) for step, length in zip(steps, shape, strict=True))
        for steps in ((0, 0, 0), shift_zyx)
    )
    np.testing.assert_array_equal(found, before.body & own[middle] & other[shifted])


def surroundings_are_shown(shown: np.ndarray, reach: int, more: int, *, beyond: bool) -> np.ndarray:
    """Whether all voxels around each voxel are shown, for the array extended by some voxels to all sides."""
    extended = np.pad(shown, reach + more, constant_values=beyond)
    return np.lib.stride_tricks.sliding_window_view(extended, (2 * reach + 1,) * 3).all(axis=(3, 4, 5))


@cache
def in_round_fields() -> tuple[Scan, Scan, Registration]:
    """The torso in fields of view of 260 mm that lie differently; the follow-up's cuts the right lung and the liver."""
    baseline, followup = scans(torso())
    baseline = in_round_field(baseline, (0.0, -10.0), 130.0)
    followup = in_round_field(followup, (5.0, 105.0), 130.0)
    return baseline, followup, register_scans(baseline, followup)


def test_round_fields_of_view_do_not_attract_each_other() -> None:
    baseline, followup, found = in_round_fields()
    before, after = points(torso())
    from_centre_mm = (after - followup.grid.centre_xyz_mm)[:, :2] - (105.0, 5.0)
    beyond_mm = np.linalg.norm(from_centre_mm, axis=1) - 130.0
    assert (beyond_mm > 10.0).any()
    assert found.stage == "deformable"
    assert np.linalg.norm(found.followup_xyz_mm(before) - after, axis=1)[beyond_mm < 0].max() < 6.0
    propagated = propagate_points(
        found, baseline, followup, [triple(point) for point in before], extents_mm=[14.0] * len(before)
    )
    assert all(point.is_shown for point, beyond in zip(propagated, beyond_mm, strict=True) if beyond < 0)
    assert not any(point.is_shown for point, beyond in zip(propagated, beyond_mm, strict=True) if beyond > 10)


def test_point_in_padding_is_as_far_outside_as_the_field_of_view_is_away() -> None:
    _, followup, found = in_round_fields()
    z, y, x = (np.array(followup.grid.shape_zyx) - 1) / 2
    # From the centre of the field of view to the patient's right, 4 mm per voxel.
    reach_mm = np.arange(-60.0, 60.0, 7.0)
    index = [(z, y + 5.0 / 4, x + (105.0 - 130.0 - reach) / 4) for reach in reach_mm]
    world = np.array([followup.grid.world_xyz_mm(each) for each in index])
    np.testing.assert_allclose(found.unshown_mm(world), np.maximum(reach_mm, 0.0), atol=5.0)
    whole = replace(found.followup, shown=np.ones_like(found.followup.shown))
    assert not replace(found, followup=whole).unshown_mm(world).any()


@pytest.mark.parametrize("radius_mm", [90.0, 140.0])
def test_reduced_scan_has_air_where_nothing_is_shown(radius_mm: float) -> None:
    scan = in_round_field(chest(), (0.0, 30.0), radius_mm)
    reduced = reduce_scan(scan, 5.0)
    assert reduced.hu.min() >= -1024.5
    assert not reduced.intensities[~reduced.shown].any()
    centres = transformed(np.linalg.inv(reduced.local_from_world), np.argwhere(~reduced.shown)[:, ::-1] * 5.0)
    assert all(scan.hu[tuple(np.round(scan.grid.index_zyx(each)).astype(int))] == PADDING_HU for each in centres)
