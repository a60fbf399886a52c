"""Sampling of registered pairs: positions point by point, shares, averages, and what is absent."""

from __future__ import annotations

import numpy as np
import pytest

from longilesion.case import AIR_HU, PADDING_HU, Baseline, LesionMap, Scan
from longilesion.config import VoiSettings
from longilesion.geometry import Grid, triple
from longilesion.registered import registered_lesions, sample_registered
from longilesion.registration.reduction import ReducedScan
from longilesion.registration.result import Deformation, Registration
from longilesion.voi import lattice_around, sample_scan

_TURN = np.array([[np.cos(0.2), -np.sin(0.2), 0.0], [np.sin(0.2), np.cos(0.2), 0.0], [0.0, 0.0, 1.0]])


def _grid(spacing_zyx_mm: tuple[float, float, float], *, origin: tuple[float, float, float], tilt: float = 0.0) -> Grid:
    direction = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    shape = tuple(round(80 / step) for step in spacing_zyx_mm)
    return Grid.from_spacing(shape, spacing_zyx_mm, origin_xyz_mm=origin, direction=direction)


def _scan(grid: Grid, seed: int) -> Scan:
    """Random blocks of tissue, with some padding at one side."""
    blocks = np.random.default_rng(seed).integers(-1000, 400, [length // 3 + 1 for length in grid.shape_zyx])
    hu = np.kron(blocks, np.ones((3, 3, 3))).astype(np.int16)
    hu = hu[: grid.shape_zyx[0], : grid.shape_zyx[1], : grid.shape_zyx[2]].copy()
    hu[:, :, 0] = PADDING_HU
    return Scan(hu=hu, grid=grid)


def _reduced(grid: Grid) -> ReducedScan:
    """A reduced scan whose lattice covers a grid along its axes; of its voxels, only the number counts."""
    _, lps = grid.lps_view(np.empty(grid.shape_zyx, np.bool_))
    step = 5.0 / np.array(lps.spacing_zyx_mm)
    z, y, x = (np.array(lps.shape_zyx) / step).astype(int).tolist()
    lattice = lps.lattice(start_zyx=(0, 0, 0), step_zyx=step, shape_zyx=(z, y, x))
    shown = np.ones((z, y, x), np.bool_)
    return ReducedScan(hu=np.zeros((z, y, x), np.float32), shown=shown, body=shown, grid=lattice)


def registration_of(baseline: Grid, followup: Grid, *, deformed: bool = False) -> Registration:
    """A turn and a shift; with a smooth displacement in both directions, inverse to first order."""
    before, after = _reduced(baseline), _reduced(followup)
    motion = np.eye(4)
    motion[:3, :3] = _TURN
    motion[:3, 3] = [3.0, -6.0, 4.5]

    def displacement(scan: ReducedScan, sign: float) -> np.ndarray:
        local = np.moveaxis(np.indices(scan.hu.shape), 0, -1)[..., ::-1] * scan.spacing_mm
        local = local if sign > 0 else (local - motion[:3, 3]) @ _TURN
        return (sign * 3 * np.sin(local[..., ::-1] / 25)).astype(np.float32)

    forward = displacement(before, 1.0)
    backward = (displacement(after, -1.0) @ _TURN.T).astype(np.float32)
    return Registration(
        stage="deformable" if deformed else "rigid",
        baseline=before,
        followup=after,
        motion=motion,
        deformation=Deformation(forward=forward, backward=backward) if deformed else None,
        similarity=np.zeros(before.hu.shape, np.float32),
        overall_similarity=0.5,
        shift_correlation=0.5,
    )


def _at(volume: np.ndarray, index: np.ndarray, fill: float) -> float:
    """Linear interpolation written out, with `fill` beyond the volume."""
    low = np.floor(index).astype(int)
    value = 0.0
    for corner in np.ndindex(2, 2, 2):
        place = low + corner
        weight = np.prod(1 - np.abs(index - place))
        inside = all(place >= 0) and all(place < volume.shape)
        value += weight * (max(volume[tuple(place)], fill) if inside else fill)
    return value


def _by_points(volume: np.ndarray, grid: Grid, registration: Registration, lattice: Grid, fill: float) -> np.ndarray:
    points = np.array([lattice.world_xyz_mm(index) for index in np.ndindex(*lattice.shape_zyx)])
    places = [np.array(grid.index_zyx(point)) for point in registration.baseline_xyz_mm(points)]
    return np.array([_at(volume, place, fill) for place in places]).reshape(lattice.shape_zyx)


@pytest.mark.parametrize("deformed", [False, True])
@pytest.mark.parametrize("at_border", [False, True])
def test_a_registered_baseline_has_the_values_at_the_mapped_points(deformed: bool, at_border: bool) -> None:
    before = _grid((4.0, 3.0, 3.0), origin=(-20.0, 30.0, 100.0), tilt=0.1)
    after = _grid((4.0, 2.5, 2.5), origin=(0.0, 0.0, 0.0), tilt=-0.05)
    scan, followup = _scan(before, 1), _scan(after, 2)
    ids = (np.random.default_rng(3).random(before.shape_zyx) > 0.7).astype(np.uint16) * 300
    prior = Baseline(scan=scan, lesions=LesionMap(ids=ids, grid=before), regions={})
    registration = registration_of(before, after, deformed=deformed)
    _, lps = after.lps_view(followup.hu)
    centre = lps.world_xyz_mm((2.0, 8.0, 28.0) if at_border else (10.0, 16.0, 15.0))
    lattice = lattice_around(lps, centre, VoiSettings(shape_zyx=(8, 9, 10), spacing_zyx_mm=(3.0, 2.0, 2.0)), zoom=1.0)

    pair = sample_registered(followup, prior, registration, lattice)

    assert pair.baseline is not None
    assert pair.baseline_mask is not None
    np.testing.assert_array_equal(pair.followup.hu, sample_scan(followup, lattice))
    expected = _by_points(scan.hu, before, registration, lattice, AIR_HU)
    # Between the points at which it is computed, the displacement is interpolated.
    tolerance_hu, tolerance = (60.0, 0.06) if deformed else (0.2, 1e-4)
    assert np.abs(pair.baseline.hu - expected).max() < tolerance_hu
    shares = _by_points(ids > 0, before, registration, lattice, 0.0)
    assert np.abs(pair.baseline_mask - shares).max() < tolerance
    assert shares.max() > 0.5
    np.testing.assert_array_equal(registered_lesions(prior, registration, lattice), pair.baseline_mask)
    assert pair.baseline_others is not None
    assert not pair.baseline_others.any()
    assert not pair.followup.is_clicked
    assert not pair.baseline.is_clicked
    assert pair.baseline.grid is lattice


def test_a_finer_baseline_is_averaged() -> None:
    grid = _grid((1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0))
    # Alternating slices, which a lattice four times as coarse would otherwise see as all bright or all dark.
    hu = np.zeros(grid.shape_zyx, np.int16)
    hu[:, :, ::2] = 200
    scan = Scan(hu=hu, grid=grid)
    registration = registration_of(grid, grid)
    settings = VoiSettings(shape_zyx=(8, 8, 8), spacing_zyx_mm=(4.0, 4.0, 4.0))
    lattice = lattice_around(grid, triple([40.0, 40.0, 40.0]), settings, zoom=1.0)

    pair = sample_registered(scan, Baseline.of(scan, None), registration, lattice)

    assert pair.baseline is not None
    assert pair.baseline_mask is None
    assert np.abs(pair.baseline.hu - 100).max() < 5


def test_a_baseline_that_shows_nothing_of_the_lattice_is_absent() -> None:
    grid = _grid((4.0, 4.0, 4.0), origin=(0.0, 0.0, 0.0))
    scan = _scan(grid, 1)
    settings = VoiSettings(shape_zyx=(8, 8, 8), spacing_zyx_mm=(2.0, 2.0, 2.0))
    lattice = lattice_around(grid, triple([40.0, 40.0, 400.0]), settings, zoom=1.0)
    prior, registration = Baseline.of(scan, None), registration_of(grid, grid)
    assert sample_registered(scan, prior, registration, lattice).baseline is None
    assert sample_registered(scan, prior, None, lattice).baseline is None
    assert sample_registered(scan, None, registration, lattice).baseline is None


def test_organs_are_shares_and_the_baselines_are_its_own_where_it_has_some() -> None:
    grid = _grid((4.0, 4.0, 4.0), origin=(0.0, 0.0, 0.0))
    bare = _scan(grid, 1)
    organ = np.zeros(grid.shape_zyx, np.bool_)
    organ[5:15, 5:15, 5:15] = True
    followup = Scan(hu=bare.hu, grid=grid, organ=organ)
    settings = VoiSettings(shape_zyx=(8, 8, 10), spacing_zyx_mm=(4.0, 4.0, 3.0))
    lattice = lattice_around(grid, triple([24.0, 24.0, 24.0]), settings, zoom=1.0)
    registration = registration_of(grid, grid)
    without = sample_registered(followup, Baseline.of(bare, None), registration, lattice)
    assert without.followup.organ is not None
    assert without.baseline is not None
    assert 0 < without.followup.organ.mean() < 1
    np.testing.assert_array_equal(without.baseline.organ, without.followup.organ)
    own = sample_registered(followup, Baseline.of(followup, None), registration, lattice)
    assert own.baseline is not None
    expected = _by_points(organ, grid, registration, lattice, 0.0)
    assert own.baseline.organ is not None
    assert np.abs(own.baseline.organ - expected).max() < 1e-4


def test_mapping_to_the_baseline_and_back_returns_to_the_point_up_to_the_inverse_error() -> None:
    before, after = (_grid((4.0, 3.0, 3.0), origin=(x, 10.0, 5.0)) for x in (0.0, 50.0))
    points = np.random.default_rng(0).uniform((20, 30, 25), (60, 70, 65), (50, 3))
    rigid = registration_of(before, after)
    np.testing.assert_allclose(rigid.baseline_xyz_mm(rigid.followup_xyz_mm(points)), points, atol=1e-9)
    deformed = registration_of(before, after, deformed=True)
    returned = deformed.baseline_xyz_mm(deformed.followup_xyz_mm(points))
    errors = np.linalg.norm(returned - points, axis=1)
    np.testing.assert_allclose(errors, deformed.inverse_error_mm(points), atol=1e-6)
    assert 0.01 < errors.max() < 1.5
