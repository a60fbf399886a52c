import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from longilesion.case import AIR_HU, Click, LesionPrediction, LesionPrompt, Scan
from longilesion.config import VoiSettings
from longilesion.voi import lattice_around, paste_probability, resample, sample_scan
from test.property.geometries import directions, grids, numbers, triples, voxel_positions


def scan_of(function, grid):
    """A scan whose voxels hold the function of their world position."""
    return Scan(hu=np.round(function(voxel_positions(grid))).astype(np.int16), grid=grid)


def lattice_inside(scan, *, fractions, spacing_mm, count=5):
    """A lattice that the scan surrounds by at least the kernel's width, at some place; None where there is no room."""
    _, grid = scan.grid.lps_view(scan.hu)
    step = np.array(spacing_mm) / grid.spacing_zyx_mm
    margin = np.maximum(step, 1.0)
    room = np.array(grid.shape_zyx) - 1 - 2 * margin - step * (count - 1)
    if (room < 0).any():
        return None
    return grid.lattice(start_zyx=margin + room * fractions, step_zyx=step, shape_zyx=(count,) * 3)


@given(grids(sides=(12, 24)), st.integers(-1000, 3000), triples(0.0, 1.0), triples(0.3, 6.0))
def test_homogeneous_tissue_stays_homogeneous(grid, hu, fractions, spacing):
    scan = Scan(hu=np.full(grid.shape_zyx, hu, np.int16), grid=grid)
    lattice = lattice_inside(scan, fractions=fractions, spacing_mm=spacing)
    assume(lattice is not None)
    np.testing.assert_allclose(sample_scan(scan, lattice), hu, atol=0.02)


@given(grids(sides=(12, 24), spacing_mm=(1.0, 4.0)), triples(-1.0, 1.0), triples(0.0, 1.0), triples(0.1, 1.0))
def test_ramp_is_exact_in_world_millimetres_where_the_lattice_is_finer(grid, slope, fractions, share):
    middle = np.array(grid.centre_xyz_mm)
    exact = lambda points: 10 * (points - middle) @ slope  # noqa: E731
    scan = scan_of(exact, grid)
    spacing = np.array(grid.lps_view(scan.hu)[1].spacing_zyx_mm) * share
    lattice = lattice_inside(scan, fractions=fractions, spacing_mm=spacing)
    # The scan itself is rounded to whole numbers.
    np.testing.assert_allclose(sample_scan(scan, lattice), exact(voxel_positions(lattice)), atol=0.55)


@given(
    grids(sides=(20, 26), spacing_mm=(1.0, 4.0)),
    triples(-1.0, 1.0),
    triples(0.0, 1.0),
    triples(1.0, 2.5),
    st.booleans(),
)
def test_ramp_keeps_its_place_where_the_lattice_is_coarser(grid, slope, fractions, factor, whole):
    factor = np.round(factor) if whole else np.array(factor)
    middle = np.array(grid.centre_xyz_mm)
    exact = lambda points: 10 * (points - middle) @ slope  # noqa: E731
    scan = scan_of(exact, grid)
    _, lps = grid.lps_view(scan.hu)
    lattice = lattice_inside(scan, fractions=fractions, spacing_mm=np.array(lps.spacing_zyx_mm) * factor)
    np.testing.assert_allclose(sample_scan(scan, lattice), exact(voxel_positions(lattice)), atol=0.55)


@given(st.integers(0, 2**32 - 1), triples(1.0, 4.0), triples(0.0, 1.0))
def test_coarser_lattice_averages_and_skips_nothing(seed, step, offset):
    """Each voxel counts, wherever it lies: the sum over the lattice is the sum over the scan."""
    generator = np.random.default_rng(seed)
    voxels = np.zeros((30, 30, 30), np.float32)
    place = tuple(generator.integers(8, 22, 3))
    voxels[place] = 1.0
    step = np.array(step)
    shape = tuple(np.ceil(34 / step).astype(int).tolist())
    sampled = resample(voxels, start_zyx=np.array(offset) - 2, step_zyx=step, shape_zyx=shape)
    # Exactly so for whole steps, else the kernel's weights vary a little from place to place.
    assert sampled.sum() * np.prod(step) == pytest.approx(1.0, rel=0.25)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), triples(0.0, 1.0))
def test_average_over_whole_voxels_preserves_the_mean(seed, step, offset):
    voxels = np.zeros((40, 40, 40), np.float32)
    voxels[14:26, 14:26, 14:26] = np.random.default_rng(seed).normal(50, 20, (12, 12, 12))
    count = 40 // step
    sampled = resample(
        voxels, start_zyx=np.array(offset), step_zyx=np.full(3, float(step)), shape_zyx=(count, count, count)
    )
    assert sampled.sum() * step**3 == pytest.approx(voxels.sum(), rel=1e-3)


@given(grids(sides=(6, 12), spacing_mm=(0.5, 4.0)), directions(tilt_deg=180.0), numbers(0.0, 100.0))
def test_beyond_the_scan_lies_air(grid, direction, gap):
    scan = Scan(hu=np.full(grid.shape_zyx, 60, np.int16), grid=grid)
    settings = VoiSettings(shape_zyx=(8, 9, 10), spacing_zyx_mm=(2.0, 1.0, 1.5))
    reach = np.linalg.norm(np.multiply(grid.shape_zyx, grid.spacing_zyx_mm)) + 40.0 + gap
    far = np.array(grid.centre_xyz_mm) + reach * direction[:, 0]
    lattice = lattice_around(grid.lps_view(scan.hu)[1], tuple(far.tolist()), settings, zoom=1.0)
    np.testing.assert_array_equal(sample_scan(scan, lattice), AIR_HU)


@given(grids(sides=(20, 26), spacing_mm=(0.8, 2.0)), triples(9.0, 11.0), triples(-3.0, 3.0), numbers(0.8, 2.0))
def test_clicked_spot_lies_where_the_lattice_says(grid, click, offset, zoom):
    """A bright spot at a click such as 10.9 has its centre of mass at the click's place on the lattice."""
    world = np.array(grid.world_xyz_mm(click))
    scan = scan_of(
        lambda points: (
            AIR_HU + 3000 * np.exp(-0.5 * ((points - world) ** 2).sum(-1) / (1.4 * max(grid.spacing_zyx_mm)) ** 2)
        ),
        grid,
    )
    spacing = 0.8 * max(grid.spacing_zyx_mm)
    settings = VoiSettings(shape_zyx=(40, 40, 40), spacing_zyx_mm=(spacing,) * 3)
    lattice = lattice_around(grid.lps_view(scan.hu)[1], tuple((world + offset).tolist()), settings, zoom=zoom)
    assert center_of_mass(sample_scan(scan, lattice) - AIR_HU) == pytest.approx(lattice.index_zyx(world), abs=0.1)


@given(grids(sides=(28, 34), spacing_mm=(0.8, 2.5)), triples(-2.0, 2.0), directions())
def test_probability_is_pasted_back_where_it_was_predicted(grid, offset, direction):
    """The centre of mass of a round probability moves by less than a twentieth of a voxel, on any grid."""
    array = np.zeros(grid.shape_zyx, np.uint8)
    _, lps = grid.lps_view(array)
    settings = VoiSettings(shape_zyx=(24, 24, 24), spacing_zyx_mm=(1.0, 1.0, 1.0))
    lattice = lattice_around(lps, lps.centre_xyz_mm, settings, zoom=1.0)
    world = np.add(lps.centre_xyz_mm, offset)
    blob = np.exp(-0.5 * ((voxel_positions(lattice) - world) ** 2).sum(-1) / 2.5**2).astype(np.float32)
    values, window = paste_probability(prediction_of(blob, lattice), lps)
    pasted = np.zeros(lps.shape_zyx)
    pasted[window] = values
    assert center_of_mass(pasted) == pytest.approx(lps.index_zyx(world), abs=0.05)


@given(grids(sides=(1, 9)), numbers(0.0, 50.0))
def test_probability_beyond_the_scan_fills_nothing(grid, gap):
    _, lps = grid.lps_view(np.zeros(grid.shape_zyx, np.uint8))
    far = lps.world_xyz_mm(np.array(lps.shape_zyx) + (20.0 + gap) / np.array(lps.spacing_zyx_mm))
    lattice = lattice_around(lps, far, VoiSettings(shape_zyx=(8, 8, 8), spacing_zyx_mm=(1.0, 1.0, 1.0)), zoom=1.0)
    values, window = paste_probability(prediction_of(np.ones((8, 8, 8), np.float32), lattice), lps)
    assert values.size == 0
    assert np.zeros(lps.shape_zyx)[window].size == 0


def prediction_of(probability, lattice):
    click = Click(scan_name="primary", point_xyz_mm=(0.0, 0.0, 0.0))
    prompt = LesionPrompt(lesion_id=1, followup=click, baseline=None, propagated=False, confidence=1.0)
    return LesionPrediction(prompt=prompt, probability=probability, presence=1.0, grid=lattice)


def center_of_mass(weights):
    return tuple(float((np.indices(weights.shape)[axis] * weights).sum() / weights.sum()) for axis in range(3))
