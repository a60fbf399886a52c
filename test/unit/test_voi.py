import numpy as np
import pytest

from longilesion.case import AIR_HU, PADDING_HU, Baseline, Case, Click, LesionMap, LesionPrediction, LesionPrompt, Scan
from longilesion.config import VoiSettings
from longilesion.geometry import Grid
from longilesion.voi import Placement, lattice_around, paste_probability, resample, sample_scan, sample_voi_pair

SETTINGS = VoiSettings(shape_zyx=(8, 16, 16), spacing_zyx_mm=(2.0, 1.0, 1.0))


def scan_of(hu, **geometry):
    return Scan(hu=hu, grid=Grid.from_spacing(hu.shape, (2.0, 1.0, 1.0), **geometry))


def prompt_at(followup, baseline=None, *, lesion_id=1, baseline_scan="primary"):
    return LesionPrompt(
        lesion_id=lesion_id,
        followup=Click(scan_name="primary", point_xyz_mm=followup),
        baseline=None if baseline is None else Click(scan_name=baseline_scan, point_xyz_mm=baseline),
        propagated=False,
        confidence=1.0,
    )


def test_lattice_along_the_scan_on_its_own_voxels_copies_them():
    hu = np.random.default_rng(0).integers(-1000, 1000, (12, 30, 30)).astype(np.int16)
    scan = scan_of(hu)
    lattice = scan.grid.lattice(start_zyx=(2, 5, 7), step_zyx=(1, 1, 1), shape_zyx=SETTINGS.shape_zyx)
    np.testing.assert_allclose(sample_scan(scan, lattice), hu[2:10, 5:21, 7:23], atol=1e-3)


def test_click_at_10_9_is_neither_10_nor_11():
    """Truncation to whole voxels would move the lattice by up to a slice."""
    grid = Grid.from_spacing((20, 40, 40), (5.0, 0.8, 0.8))
    lattice = lattice_around(grid, grid.world_xyz_mm((10.9, 20.4, 19.7)), SETTINGS, zoom=1.0)
    assert lattice.index_zyx(grid.world_xyz_mm((10.9, 20.4, 19.7))) == pytest.approx((3.5, 7.5, 7.5))


def test_zoom_widens_the_lattice_about_its_middle():
    grid = Grid.from_spacing((20, 40, 40), (5.0, 0.8, 0.8))
    once, twice = (lattice_around(grid, (3.0, 4.0, 5.0), SETTINGS, zoom=zoom) for zoom in (1.0, 2.0))
    assert once.centre_xyz_mm == pytest.approx(twice.centre_xyz_mm)
    assert twice.spacing_zyx_mm == pytest.approx(np.multiply(once.spacing_zyx_mm, 2))


def test_padding_beyond_the_scan_is_air_and_not_water():
    scan = scan_of(np.full((8, 20, 20), 50, np.int16))
    corner = lattice_around(scan.grid, scan.grid.world_xyz_mm((0, 0, 0)), SETTINGS, zoom=1.0)
    hu = sample_scan(scan, corner)
    assert hu[0, 0, 0] == AIR_HU
    assert hu[-1, -1, -1] == pytest.approx(50, abs=0.01)
    assert hu.min() == AIR_HU


def test_padding_within_the_scan_is_air():
    hu = np.random.default_rng(0).integers(AIR_HU, 300, (8, 20, 20)).astype(np.int16)
    padded = np.where(np.arange(20) < 7, np.int16(PADDING_HU), hu)
    lattice = lattice_around(scan_of(hu).grid, scan_of(hu).grid.centre_xyz_mm, SETTINGS, zoom=1.3)
    np.testing.assert_array_equal(
        sample_scan(scan_of(padded), lattice), sample_scan(scan_of(np.maximum(padded, AIR_HU)), lattice)
    )


def test_voi_wholly_outside_the_scan_is_air():
    scan = scan_of(np.full((8, 20, 20), 50, np.int16))
    np.testing.assert_array_equal(
        sample_scan(scan, lattice_around(scan.grid, (500.0, 0.0, 0.0), SETTINGS, zoom=1.0)), AIR_HU
    )


def test_scan_of_a_single_slice_fades_into_air_above_and_below():
    scan = scan_of(np.full((1, 30, 30), 40, np.int16))
    settings = VoiSettings(shape_zyx=(9, 8, 8), spacing_zyx_mm=(1.0, 1.0, 1.0))
    hu = sample_scan(scan, lattice_around(scan.grid, scan.grid.centre_xyz_mm, settings, zoom=1.0))
    np.testing.assert_allclose(hu[4], 40, atol=0.01)
    np.testing.assert_allclose(hu[[3, 5]], (40 + AIR_HU) / 2, atol=0.01)
    np.testing.assert_array_equal(hu[[0, 1, 2, 6, 7, 8]], AIR_HU)


def test_probability_of_a_single_slice_is_pasted_onto_it():
    grid = Grid.from_spacing((1, 30, 30), (5.0, 1.0, 1.0))
    lattice = lattice_around(grid, grid.centre_xyz_mm, SETTINGS, zoom=1.0)
    prediction = LesionPrediction(
        prompt=prompt_at((0.0, 0.0, 0.0)),
        probability=np.ones(SETTINGS.shape_zyx, np.float32),
        presence=1.0,
        grid=lattice,
    )
    values, window = paste_probability(prediction, grid)
    assert window[0] == slice(0, 1)
    assert values.max() == pytest.approx(1.0)


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, 1.0, -1.0]), np.eye(3)[:, [1, 2, 0]]])
def test_scans_of_any_orientation_give_lattices_in_lps_order(direction):
    """The same anatomy stored along other axes looks the same on the lattice."""
    anatomy = np.full((20, 22, 24), -100, np.int16)
    anatomy[13:, :, :] = 300
    anatomy[:, 15:, :] += 40
    anatomy[:, :, 17:] += 7
    plain = Scan(hu=anatomy, grid=Grid.from_spacing(anatomy.shape, (1.0, 1.0, 1.0)))
    stored = np.eye(4)
    stored[:3, :3] = direction
    shape_xyz = np.abs(direction).T.round() @ [24, 22, 20]
    # Its first voxel lies in the corner from which the stored axes start.
    stored[:3, 3] = np.where(direction.sum(axis=1) < 0, np.array([24, 22, 20]) - 1, 0)
    z, y, x = shape_xyz[::-1].astype(int).tolist()
    grid = Grid(shape_zyx=(z, y, x), world_from_voxel=stored)
    indices = np.stack(np.indices((z, y, x))[::-1], axis=-1) @ stored[:3, :3].T + stored[:3, 3]
    ix, iy, iz = np.moveaxis(indices.round().astype(int), -1, 0)
    turned = Scan(hu=anatomy[iz, iy, ix], grid=grid)
    click = (11.3, 12.1, 9.6)
    seen = [
        sample_scan(scan, lattice_around(scan.grid.lps_view(scan.hu)[1], click, SETTINGS, zoom=1.0))
        for scan in (plain, turned)
    ]
    np.testing.assert_allclose(seen[0], seen[1], atol=0.01)


def test_masks_hold_the_lesion_and_its_neighbours_apart():
    ids = np.zeros((10, 30, 30), np.uint16)
    ids[4:6, 10:14, 10:14] = 1
    ids[4:6, 18:20, 10:14] = 300
    scan = scan_of(np.zeros(ids.shape, np.int16))
    case = Case(
        baselines={"primary": Baseline.of(scan, LesionMap(ids=ids, grid=scan.grid))},
        followups={"primary": scan},
        clicks=(),
    )
    centre = scan.grid.world_xyz_mm((4.5, 14.0, 12.0))
    placement = Placement(followup_xyz_mm=centre, baseline_xyz_mm=centre, zoom=1.0)
    pair = sample_voi_pair(case, prompt_at(centre, centre), placement, SETTINGS)
    # Lattice voxels are as large as the scan's, so that volumes can be counted.
    assert pair.baseline_mask.sum() == pytest.approx(32, rel=1e-4)
    assert pair.baseline_others.sum() == pytest.approx(16, rel=1e-4)
    assert pair.baseline_mask.max() <= 1.0 + 1e-6


def test_each_time_point_is_sampled_around_its_own_place_in_disjoint_frames():
    hu = np.full((20, 30, 30), 10, np.int16)
    earlier = scan_of(hu, origin_xyz_mm=(0.0, 0.0, 114.0))
    later = scan_of(hu + np.int16(50), origin_xyz_mm=(0.0, 0.0, -1422.0))
    case = Case(baselines={"secondary": Baseline.of(earlier, None)}, followups={"primary": later}, clicks=())
    clicks = later.grid.centre_xyz_mm, earlier.grid.centre_xyz_mm
    placement = Placement(followup_xyz_mm=clicks[0], baseline_xyz_mm=clicks[1], zoom=1.0)
    pair = sample_voi_pair(case, prompt_at(*clicks, baseline_scan="secondary"), placement, SETTINGS)
    np.testing.assert_allclose(pair.followup.hu, 60, atol=0.01)
    np.testing.assert_allclose(pair.baseline.hu, 10, atol=0.01)
    assert pair.baseline_mask is None
    assert pair.baseline_others is None
    assert pair.followup.click_zyx == pytest.approx((3.5, 7.5, 7.5))


def test_no_prior_has_no_baseline():
    scan = scan_of(np.zeros((10, 30, 30), np.int16))
    case = Case(baselines={}, followups={"primary": scan}, clicks=())
    click = scan.grid.centre_xyz_mm
    placement = Placement(followup_xyz_mm=click, baseline_xyz_mm=None, zoom=1.0)
    pair = sample_voi_pair(case, prompt_at(click), placement, SETTINGS)
    assert (pair.baseline, pair.baseline_mask, pair.baseline_others) == (None, None, None)


def test_click_far_from_the_aligned_middle_lies_outside_the_lattice():
    scan = scan_of(np.zeros((10, 60, 60), np.int16))
    case = Case(baselines={}, followups={"primary": scan}, clicks=())
    click, middle = scan.grid.world_xyz_mm((5, 50, 30)), scan.grid.world_xyz_mm((5, 30, 30))
    placement = Placement(followup_xyz_mm=middle, baseline_xyz_mm=None, zoom=1.0)
    pair = sample_voi_pair(case, prompt_at(click), placement, SETTINGS)
    assert pair.followup.click_zyx == pytest.approx((3.5, 27.5, 7.5))


def test_probability_is_pasted_only_into_the_voxels_that_the_lattice_covers():
    grid = Grid.from_spacing((40, 60, 60), (2.0, 1.0, 1.0))
    lattice = grid.lattice(start_zyx=(10, 20, 30), step_zyx=(1, 1, 1), shape_zyx=(8, 16, 16))
    prediction = LesionPrediction(
        prompt=prompt_at((0.0, 0.0, 0.0)), probability=np.full((8, 16, 16), 0.8, np.float32), presence=1.0, grid=lattice
    )
    values, window = paste_probability(prediction, grid)
    assert window == (slice(10, 18), slice(20, 36), slice(30, 46))
    np.testing.assert_allclose(values, 0.8, atol=1e-6)


def test_coarse_probability_is_interpolated_between_its_voxels():
    grid = Grid.from_spacing((9, 9, 9), (1.0, 1.0, 1.0))
    lattice = grid.lattice(start_zyx=(0, 0, 0), step_zyx=(1, 1, 4), shape_zyx=(8, 8, 3))
    probability = np.zeros((8, 8, 3), np.float32)
    probability[:, :, 1] = 1.0
    prediction = LesionPrediction(
        prompt=prompt_at((0.0, 0.0, 0.0)), probability=probability, presence=1.0, grid=lattice
    )
    values, _ = paste_probability(prediction, grid)
    np.testing.assert_allclose(values[4, 4], [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0], atol=1e-6)


def test_empty_array_is_all_fill():
    empty = np.zeros((0, 5, 5), np.int16)
    sampled = resample(empty, start_zyx=np.zeros(3), step_zyx=np.ones(3), shape_zyx=(2, 3, 4), fill=-1024.0)
    np.testing.assert_array_equal(sampled, np.full((2, 3, 4), -1024.0, np.float32))
