from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from longilesion.case import AIR_HU
from longilesion.errors import InputError
from longilesion.geometry import Grid
from test.unit.builders import ball, flipped
from test.unit.case_folders import write_image
from test.unit.synthetic import GRID, TUMOUR_RADIUS_MM, block, block_with_tumour, pair, tumour_pairs
from training.synthesis.acquisition import Acquisition, acquired, enhanced, random_acquisition
from training.synthesis.deformation import Growth, deformed
from training.synthesis.lesions import UNMARKED, Appearance, Lesion, click_error_mm, paint, random_lesion
from training.synthesis.pairs import TUMOUR_ID, SyntheticPair, synthetic_pair
from training.synthesis.shapes import REACH, Shape, blended, random_shape, shape_of_mask, signed_distance_mm
from training.synthesis.sources import load_sources, phantom_sources

SEEDS = range(8)


def baseline_ids(drawn: SyntheticPair) -> NDArray[np.uint16]:
    lesions = drawn.case.baselines["primary"].lesions
    assert lesions is not None
    return lesions.ids


# ------------------------------------------------------------------------------------------------------------ pairs


def test_pair_depends_on_its_generator_alone() -> None:
    source = block()
    first, again, other = (synthetic_pair(source, np.random.default_rng(seed), shapes=[source]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.truth.ids, again.truth.ids)
    np.testing.assert_array_equal(first.case.followups["primary"].hu, again.case.followups["primary"].hu)
    np.testing.assert_array_equal(first.case.baselines["primary"].scan.hu, again.case.baselines["primary"].scan.hu)
    np.testing.assert_array_equal(baseline_ids(first), baseline_ids(again))
    assert first.case.clicks == again.case.clicks
    assert first.case.clicks != other.case.clicks


@pytest.mark.parametrize("seed", SEEDS)
def test_facts_say_what_the_maps_show(seed: int) -> None:
    drawn = pair(seed)
    before, after = baseline_ids(drawn), drawn.truth.ids
    assert set(np.unique(before)) | set(np.unique(after)) == {0, *drawn.facts}
    assert {clicks.lesion_id for clicks in drawn.case.clicks} == set(drawn.facts)
    for lesion_id, fact in drawn.facts.items():
        voxels = int((before == lesion_id).sum()), int((after == lesion_id).sum())
        assert [count >= 10 for count in voxels] == [fact.fate != "new", fact.fate != "gone"]
        assert fact.fate == "persists" or min(voxels) == 0
        grid = drawn.truth.grid if fact.fate != "gone" else drawn.case.baselines["primary"].scan.grid
        volume_ml = np.pi / 6 * fact.diameter_mm**3 / 1000
        assert volume_ml == pytest.approx(voxels[fact.fate != "gone"] * grid.voxel_volume_ml)


def test_all_fates_are_drawn() -> None:
    fates = Counter(fact.fate for seed in SEEDS for fact in pair(seed).facts.values())
    assert set(fates) == {"persists", "new", "gone"}


@pytest.mark.parametrize("seed", SEEDS)
def test_maps_and_scans_share_their_grids_and_the_two_frames_are_unrelated(seed: int) -> None:
    drawn = pair(seed)
    prior, followup = drawn.case.baselines["primary"], drawn.case.followups["primary"]
    assert prior.lesions is not None
    assert prior.lesions.grid is prior.scan.grid
    assert drawn.truth.grid is followup.grid
    assert drawn.truth.ids.shape == followup.hu.shape == followup.grid.shape_zyx
    assert np.linalg.norm(np.subtract(prior.scan.grid.center_xyz_mm, followup.grid.center_xyz_mm)) > 1
    for scan in (prior.scan, followup):
        assert scan.hu.dtype == np.int16
        assert AIR_HU <= scan.hu.min() <= -200 < 0 < scan.hu.max() <= 3000


@pytest.mark.parametrize("seed", SEEDS)
def test_clicks_lie_in_their_scans_and_baseline_clicks_on_their_lesions(seed: int) -> None:
    drawn = pair(seed)
    before, after = drawn.case.baselines["primary"].scan.grid, drawn.case.followups["primary"].grid
    for clicks in drawn.case.clicks:
        assert clicks.baseline is not None
        assert clicks.followup is not None
        assert before.contains(before.index_zyx(clicks.baseline.point_xyz_mm))
        assert after.contains(after.index_zyx(clicks.followup.point_xyz_mm))
        fact = drawn.facts[clicks.lesion_id]
        if fact.fate != "new":
            voxels = np.argwhere(baseline_ids(drawn) == clicks.lesion_id)
            offsets = (voxels - before.index_zyx(clicks.baseline.point_xyz_mm)) * before.spacing_zyx_mm
            assert np.linalg.norm(offsets, axis=1).min() < max(6.0, fact.diameter_mm / 2)


def test_real_tumour_stays_outlined_in_both_scans() -> None:
    volume_ml = 4 / 3 * np.pi * TUMOUR_RADIUS_MM**3 / 1000
    for drawn in tumour_pairs():
        assert [lesion_id for lesion_id, fact in drawn.facts.items() if fact.real] == [TUMOUR_ID]
        assert drawn.facts[TUMOUR_ID].fate == "persists"
        prior, followup = drawn.case.baselines["primary"], drawn.case.followups["primary"]
        baseline_ml = (baseline_ids(drawn) == TUMOUR_ID).sum() * prior.scan.grid.voxel_volume_ml
        assert baseline_ml == pytest.approx(volume_ml, rel=0.1)
        followup_ml = (drawn.truth.ids == TUMOUR_ID).sum() * followup.grid.voxel_volume_ml
        assert 0.15 < followup_ml / volume_ml < 4
        for hu, ids in ((prior.scan.hu, baseline_ids(drawn)), (followup.hu, drawn.truth.ids)):
            mask = ids == TUMOUR_ID
            around = binary_dilation(mask, iterations=3) & ~binary_dilation(mask) & (ids == 0)
            assert np.median(hu[mask]) - np.median(hu[around]) > 30


# ----------------------------------------------------------------------------------------------------------- clicks


def test_click_errors_follow_the_published_quantiles() -> None:
    generator = np.random.default_rng(0)
    errors = np.array([click_error_mm(generator) for _ in range(4000)])
    voxels = np.linalg.norm(errors / (3.0, 0.775, 0.775), axis=1)
    median, p75, p90 = np.quantile(voxels, (0.5, 0.75, 0.9))
    assert median == pytest.approx(3.7, rel=0.1)
    assert p75 == pytest.approx(11.1, rel=0.12)
    assert p90 == pytest.approx(23.1, rel=0.12)
    assert voxels.max() < 45
    # No direction is preferred.
    np.testing.assert_allclose(np.mean(errors / (3.0, 0.775, 0.775), axis=0), 0, atol=0.6)


# ------------------------------------------------------------------------------------------------------ deformation


def points(step_mm: float = 4.0, half_mm: float = 72.0) -> torch.Tensor:
    axis = torch.arange(-half_mm, half_mm + 1, step_mm)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)


def test_no_motion_leaves_every_point_in_place() -> None:
    still = deformed(points(), np.random.default_rng(0), rotation_deg=0.0, amplitude_mm=0.0, growth=None)
    torch.testing.assert_close(still, points())


@pytest.mark.parametrize("factor", [None, 0.6, 1.4])
def test_deformation_never_folds_the_anatomy(factor: float | None) -> None:
    growth = None if factor is None else Growth(center_zyx_mm=np.zeros(3, np.float32), factor=factor, reach_mm=24.0)
    for seed in range(6):
        generator = np.random.default_rng(seed)
        moved = deformed(points(), generator, rotation_deg=6.0, amplitude_mm=3.0, growth=growth).numpy()
        jacobian = np.stack(np.gradient(moved, 4.0, axis=(0, 1, 2)), axis=-1)
        assert np.linalg.det(jacobian).min() > 0.05


def test_deformation_moves_points_by_about_its_amplitude() -> None:
    moved = [
        deformed(points(), np.random.default_rng(seed), rotation_deg=0.0, amplitude_mm=2.0, growth=None) - points()
        for seed in range(6)
    ]
    z, y, x = torch.stack(moved).flatten(0, 3).std(0).tolist()
    assert x == pytest.approx(2.0, rel=0.3)
    assert y == pytest.approx(2.0, rel=0.3)
    assert z == pytest.approx(3.0, rel=0.3)


def test_grown_neighbourhood_shows_the_old_one_magnified() -> None:
    growth = Growth(center_zyx_mm=np.zeros(3, np.float32), factor=1.25, reach_mm=30.0)
    moved = deformed(points(), np.random.default_rng(0), rotation_deg=0.0, amplitude_mm=0.0, growth=growth)
    middle = points().shape[0] // 2
    assert float(moved[middle, middle, middle + 1, 2]) == pytest.approx(4.0 / 1.25, rel=0.05)
    torch.testing.assert_close(moved[0, 0, 0], points()[0, 0, 0], atol=0.01, rtol=0)


# ------------------------------------------------------------------------------------------------------ acquisition


PLAIN = Acquisition(
    spacing_zyx_mm=(2.0, 1.0, 1.0),
    enhancement_hu=0.0,
    regional_hu=0.0,
    noise_hu=0.0,
    noise_grain_voxels=0.5,
    sharpness=0.0,
    offset_hu=0.0,
)


def test_protocols_vary() -> None:
    generator = np.random.default_rng(0)
    drawn = [random_acquisition(generator, coarseness=1.0) for _ in range(200)]
    assert {protocol.spacing_zyx_mm[0] for protocol in drawn} >= {1.5, 2.0, 3.0, 5.0}
    assert 0.2 < np.mean([protocol.enhancement_hu == 0 for protocol in drawn]) < 0.6
    assert np.ptp([protocol.enhancement_hu for protocol in drawn]) > 100
    assert np.std([protocol.noise_hu for protocol in drawn]) > 4
    assert np.std([protocol.sharpness for protocol in drawn]) > 0.3
    assert np.std([protocol.spacing_zyx_mm[1] for protocol in drawn]) > 0.1


def test_plain_protocol_changes_nothing() -> None:
    hu = torch.from_numpy(block().hu.astype(np.float32))
    generator = np.random.default_rng(0)
    torch.testing.assert_close(enhanced(hu, PLAIN, generator), hu)
    np.testing.assert_array_equal(acquired(hu, PLAIN, generator), block().hu.clip(AIR_HU))


def test_contrast_brightens_blood_but_neither_air_nor_fat_nor_bone() -> None:
    hu = torch.tensor([-900.0, -100.0, 170.0, 900.0]).reshape(1, 1, 4)
    result = enhanced(hu, replace(PLAIN, enhancement_hu=60.0), np.random.default_rng(0))
    torch.testing.assert_close(result - hu, torch.tensor([0.0, 0.0, 60.0, 0.0]).reshape(1, 1, 4))


def test_noise_has_the_protocols_strength_and_offset() -> None:
    protocol = replace(PLAIN, noise_hu=20.0, offset_hu=7.0)
    image = acquired(torch.full((20, 40, 40), 50.0), protocol, np.random.default_rng(0))
    assert image.std() == pytest.approx(20.0, rel=0.05)
    assert image.mean() == pytest.approx(57.0, abs=1.5)


@pytest.mark.parametrize(("sharpness", "steeper"), [(0.6, True), (-0.6, False)])
def test_kernel_sharpens_or_blurs_edges(sharpness: float, steeper: bool) -> None:
    edge = torch.zeros(3, 8, 8)
    edge[:, :, 4:] = 100
    step = np.diff(acquired(edge, replace(PLAIN, sharpness=sharpness), np.random.default_rng(0))[1, 4])[3]
    assert step > 100 if steeper else step < 100


# ---------------------------------------------------------------------------------------------------------- lesions


def round_shape() -> Shape:
    grid = Grid.from_spacing((40, 40, 40), (1.0, 1.0, 1.0))
    return shape_of_mask(ball(grid, (20.0, 20.0, 20.0), 12.0), np.ones(3, np.float32))


def lesion(**changes: object) -> Lesion:
    appearance = Appearance(shape=round_shape(), radius_mm=10.0, density_hu=60.0, core_hu=0.0)
    plain = Lesion(
        lesion_id=5,
        tissue="soft",
        center_zyx_mm=np.zeros(3),
        rotation=np.eye(3),
        edge_mm=0.5,
        texture_hu=0.0,
        kept_structure=0.0,
        baseline=appearance,
        followup=appearance,
    )
    return replace(plain, **changes)


def painted(drawn: Lesion, hu: float = 40.0) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    where = points(step_mm=2.0, half_mm=24.0)
    image, ids = torch.full(where.shape[:3], hu), np.zeros(where.shape[:3], np.uint16)
    assert drawn.followup is not None
    paint(image, ids, points_zyx_mm=where, lesion=drawn, appearance=drawn.followup, generator=np.random.default_rng(0))
    return image.numpy(), ids


def test_painted_lesion_has_its_size_density_and_outline() -> None:
    image, ids = painted(lesion())
    assert (ids == 5).sum() * 8 == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.2)
    assert image[12, 12, 12] == pytest.approx(100, abs=1)
    assert image[12, 12, 0] == pytest.approx(40, abs=1)
    np.testing.assert_array_equal(ids > 0, image > 70)


def test_lung_lesion_has_a_density_of_its_own() -> None:
    image, ids = painted(lesion(tissue="lung"), hu=-850.0)
    assert image[12, 12, 12] == pytest.approx(60, abs=1)
    assert ids[12, 12, 12] == 5


def test_distractor_is_painted_but_not_outlined() -> None:
    image, ids = painted(lesion(lesion_id=UNMARKED))
    assert image[12, 12, 12] == pytest.approx(100, abs=1)
    assert not ids.any()


def test_lesion_grows_into_no_bone() -> None:
    image, ids = painted(lesion(), hu=900.0)
    assert (image == 900).all()
    assert not ids.any()


def test_lesion_elsewhere_leaves_the_image_alone() -> None:
    image, ids = painted(lesion(center_zyx_mm=np.array([200.0, 0.0, 0.0])))
    assert (image == 40).all()
    assert not ids.any()


def test_lesions_of_6_to_60_mm_stay_grow_and_shrink() -> None:
    generator = np.random.default_rng(0)
    drawn = [
        random_lesion(generator, lesion_id=2, fate="persists", tissue="soft", center_zyx_mm=np.zeros(3), real_shapes=())
        for _ in range(60)
    ]
    radii = np.array([[one.baseline.radius_mm, one.followup.radius_mm] for one in drawn])
    assert 3 <= radii[:, 0].min() < 5
    assert 20 < radii[:, 0].max() <= 30
    change = radii[:, 1] / radii[:, 0]
    assert (change < 0.9).sum() > 5
    assert (change > 1.1).sum() > 5
    assert (np.abs(change - 1) < 0.07).sum() > 5


@pytest.mark.parametrize(
    ("fate", "there"), [("persists", (True, True)), ("new", (False, True)), ("gone", (True, False))]
)
def test_fate_says_where_a_lesion_is(fate: str, there: tuple[bool, bool]) -> None:
    drawn = random_lesion(
        np.random.default_rng(0), lesion_id=2, fate=fate, tissue="lung", center_zyx_mm=np.zeros(3), real_shapes=()
    )
    assert (drawn.baseline is not None, drawn.followup is not None) == there


def test_shape_scales_with_its_radius_and_has_about_the_volume_of_its_sphere() -> None:
    offsets = points(step_mm=1.0, half_mm=24.0)
    for shape, tolerance in ((round_shape(), 0.15), (random_shape(np.random.default_rng(3)), 0.35)):
        small, large = (
            float((signed_distance_mm(shape, offsets, radius_mm=radius, rotation=np.eye(3)) < 0).sum())
            for radius in (6.0, 9.0)
        )
        assert large == pytest.approx(4 / 3 * np.pi * 9.0**3, rel=tolerance)
        assert large / small == pytest.approx(1.5**3, rel=0.05)


def test_distance_to_a_ball_is_right_to_a_cell_of_its_cube() -> None:
    offsets = points(step_mm=2.0, half_mm=16.0)
    distance = signed_distance_mm(round_shape(), offsets, radius_mm=8.0, rotation=np.eye(3))
    expected = offsets.norm(dim=-1) - 8.0
    near = expected.abs() < 6.0
    cell_mm = 8.0 * 2 * REACH / 31
    torch.testing.assert_close(distance[near], expected[near], atol=1.1 * cell_mm, rtol=0)
    far = offsets.abs().amax(-1) > 8.0 * REACH / 2
    assert float(distance[far].min()) > 0


def test_blending_goes_from_one_shape_to_the_other() -> None:
    first, second = (random_shape(np.random.default_rng(seed)) for seed in (1, 2))
    assert torch.equal(blended(first, second, 0.0).distance, first.distance)
    assert torch.equal(blended(first, second, 1.0).distance, second.distance)


# ---------------------------------------------------------------------------------------------------------- sources


def test_sites_lie_in_the_tissue_they_are_named_after() -> None:
    source = block()
    assert set(source.sites) == {"soft", "lung", "fat"}
    for tissue, (low, high) in {"soft": (-40, 250), "lung": (-1000, -600), "fat": (-130, -60)}.items():
        voxels = np.round(source.sites[tissue] / source.spacing_zyx_mm).astype(int)
        densities = source.hu[tuple(voxels.T)]
        assert np.mean((densities > low) & (densities < high)) > 0.95


def test_folder_of_volumes_is_read_in_lps_order_with_its_tumours(tmp_path: Path) -> None:
    source = block_with_tumour()
    assert source.tumour is not None
    hu, grid = flipped(source.hu, GRID)
    mask, _ = flipped(source.tumour.mask, GRID)
    geometry = {
        "spacing_xyz_mm": grid.spacing_zyx_mm[::-1],
        "origin_xyz_mm": grid.world_from_voxel[:3, 3],
        "direction": -np.eye(3),
    }
    for name, voxels in (("ct", hu), ("lesions", mask)):
        write_image(tmp_path / "one" / f"{name}.nii.gz", voxels, **geometry)
    write_image(tmp_path / "two" / "ct.nii.gz", hu, **geometry)
    one, two = load_sources(tmp_path, ["one", "two"])
    assert (one.name, two.name) == ("one", "two")
    np.testing.assert_array_equal(one.hu, source.hu)
    np.testing.assert_allclose(one.spacing_zyx_mm, source.spacing_zyx_mm)
    assert two.tumour is None
    assert one.tumour is not None
    np.testing.assert_array_equal(one.tumour.mask, source.tumour.mask)
    np.testing.assert_allclose(one.tumour.center_zyx_mm, source.tumour.center_zyx_mm, atol=0.5)
    assert one.tumour.radius_mm == pytest.approx(TUMOUR_RADIUS_MM, rel=0.03)
    assert one.tumour.extent_mm == pytest.approx(2 * TUMOUR_RADIUS_MM, abs=3.1)


def test_missing_volume_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no missing_one/ct\.nii\.gz; expected one such file for each of missing_one"):
        load_sources(tmp_path, ["missing_one"])


def test_phantom_stands_in_for_a_real_volume() -> None:
    (phantom,) = phantom_sources([3])
    assert phantom.name == "phantom_3"
    assert set(phantom.sites) == {"soft", "lung", "fat"}
    assert phantom.tumour is None
