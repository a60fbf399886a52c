"""Errors change the baseline's outlines alone, each by as much as its setting says."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from longilesion.geometry import Grid
from longilesion.voi import Voi, VoiPair
from test.unit.builders import ball
from training.mask_errors import with_mask_errors
from training.recipe import MaskErrorSettings

GRID = Grid.from_spacing((24, 48, 48), (2.0, 1.0, 1.0))
CENTRE, OTHER = (23.0, 23.0, 23.0), (8.0, 40.0, 10.0)


def pair_of(*, radius_mm: float = 8.0, marked: bool = True) -> VoiPair:
    """A lesion in the middle of the lattice and another one in a corner."""
    voi = Voi(hu=np.zeros(GRID.shape_zyx, np.float32), grid=GRID, click_zyx=(12.0, 24.0, 24.0))
    mask, others = (
        ball(GRID, centre, radius).astype(np.float32) for centre, radius in ((CENTRE, radius_mm), (OTHER, 5.0))
    )
    return VoiPair(
        followup=voi,
        baseline=voi,
        baseline_mask=mask if marked else None,
        baseline_others=others if marked else None,
    )


def masks(pair: VoiPair) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    assert pair.baseline_mask is not None
    assert pair.baseline_others is not None
    return pair.baseline_mask, pair.baseline_others


def drawn(
    settings: MaskErrorSettings, seed: int = 0, **lesion: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return masks(with_mask_errors(pair_of(**lesion), settings, np.random.default_rng(seed)))


def middle_mm(mask: NDArray[np.float32]) -> NDArray[np.float64]:
    """The centre of mass: x, y, z."""
    weights = mask / mask.sum()
    return np.array(GRID.world_xyz_mm([float((weights * index).sum()) for index in np.indices(mask.shape)]))


MASK, OTHERS = masks(pair_of())


def test_faults_switched_off_give_back_the_very_same_pair() -> None:
    pair = pair_of()
    assert with_mask_errors(pair, MaskErrorSettings(resized_voxels=3), np.random.default_rng(0)) is pair


@pytest.mark.parametrize("pair", [pair_of(marked=False), replace(pair_of(marked=False), baseline=None)])
def test_what_has_no_outlines_has_no_errors(pair: VoiPair) -> None:
    every = MaskErrorSettings(missing_share=1.0, resized_share=1.0, shifted_voxels=2.0, spurious_share=1.0)
    drawn = with_mask_errors(pair, every, np.random.default_rng(0))
    assert drawn.baseline is pair.baseline
    assert drawn.baseline_mask is pair.baseline_mask
    assert drawn.baseline_others is pair.baseline_others


def test_scans_clicks_and_given_masks_stay_as_they_are() -> None:
    pair = pair_of()
    every = MaskErrorSettings(missing_share=1.0, resized_share=1.0, shifted_voxels=2.0, spurious_share=1.0)
    changed = with_mask_errors(pair, every, np.random.default_rng(0))
    assert changed.followup is pair.followup
    assert changed.baseline is pair.baseline
    for values, same in zip(masks(pair), (MASK, OTHERS), strict=True):
        np.testing.assert_array_equal(values, same)


def test_missing_outline_leaves_the_other_lesions() -> None:
    mask, others = drawn(MaskErrorSettings(missing_share=1.0))
    assert not mask.any()
    np.testing.assert_array_equal(others, OTHERS)


def test_share_is_how_often_an_outline_is_missing() -> None:
    missing = [not drawn(MaskErrorSettings(missing_share=0.3), seed)[0].any() for seed in range(100)]
    # 30 are expected, with a standard deviation of 4.6.
    assert 16 < sum(missing) < 44


def test_resized_ball_has_a_radius_of_one_voxel_more_or_less() -> None:
    # Cubes, so that a voxel is a length.
    cube = Grid.from_spacing((32, 32, 32), (1.0, 1.0, 1.0))
    centre, lesion = (15.0, 15.0, 15.0), 8.0
    voi = Voi(hu=np.zeros(cube.shape_zyx, np.float32), grid=cube, click_zyx=(15.0, 15.0, 15.0))
    mask = ball(cube, centre, lesion).astype(np.float32)
    pair = VoiPair(followup=voi, baseline=voi, baseline_mask=mask, baseline_others=np.zeros_like(mask))
    radii = set()
    for seed in range(12):
        changed, _ = masks(with_mask_errors(pair, MaskErrorSettings(resized_share=1.0), np.random.default_rng(seed)))
        radii.add(round(float(3 * changed.sum() / (4 * np.pi)) ** (1 / 3), 1))
        assert changed[15, 15, 15] == 1
    low, high = sorted(radii)
    assert low == pytest.approx(lesion - 1, abs=0.2)
    assert high == pytest.approx(lesion + 1, abs=0.2)


def test_small_lesion_is_never_eroded_away() -> None:
    for radius in (1.1, 1.5, 2.5):
        given = drawn(MaskErrorSettings(), radius_mm=radius)[0]
        sums = [
            drawn(MaskErrorSettings(resized_share=1.0, resized_voxels=4), seed, radius_mm=radius)[0].sum()
            for seed in range(12)
        ]
        assert min(sums) >= 1
        assert max(sums) > given.sum()


def test_wider_outline_takes_voxels_from_its_neighbour() -> None:
    pair = pair_of()
    neighbour = replace(pair, baseline_others=ball(GRID, (23.0, 37.0, 23.0), 6.0).astype(np.float32))
    for seed in range(8):
        settings = MaskErrorSettings(resized_share=1.0, resized_voxels=4)
        mask, others = masks(with_mask_errors(neighbour, settings, np.random.default_rng(seed)))
        assert float((mask + others).max()) <= 1
        assert others.any()


def test_outlines_shift_together_by_up_to_the_setting() -> None:
    shifts = []
    for seed in range(40):
        mask, others = drawn(MaskErrorSettings(shifted_voxels=2.0), seed)
        assert mask.sum() == pytest.approx(MASK.sum(), rel=1e-4)
        assert 0 <= mask.min() <= mask.max() <= 1 + 1e-5
        shift = middle_mm(mask) - middle_mm(MASK)
        np.testing.assert_allclose(middle_mm(others) - middle_mm(OTHERS), shift, atol=1e-3)
        shifts.append(shift / (1.0, 1.0, 2.0))
    for along in np.abs(shifts).T:
        assert 1.7 < along.max() < 2.001


def test_spurious_lesion_lies_where_none_is_marked_and_has_a_lesions_size() -> None:
    found = 0
    for seed in range(20):
        mask, others = drawn(MaskErrorSettings(spurious_share=1.0), seed)
        np.testing.assert_array_equal(mask, MASK)
        spurious = others - OTHERS
        assert 0 <= float(spurious.min()) <= float(spurious.max()) <= 1
        assert not spurious[(MASK > 0) | (OTHERS > 0)].any()
        # Ellipsoids of semi-axes from 3 to 15 mm by 1.22; those at the border are cut by it.
        assert 0 < float(spurious.sum()) * GRID.voxel_volume_ml < 4 / 3 * np.pi * (15 * 1.5**0.5) ** 3 / 1000
        found += 1
    assert found == 20


def test_no_room_no_spurious_lesion() -> None:
    pair = replace(pair_of(), baseline_others=1 - MASK)
    _, others = masks(with_mask_errors(pair, MaskErrorSettings(spurious_share=1.0), np.random.default_rng(0)))
    np.testing.assert_array_equal(others, 1 - MASK)


def test_faults_depend_on_their_generator_alone() -> None:
    every = MaskErrorSettings(resized_share=0.5, resized_voxels=2, shifted_voxels=2.0, spurious_share=0.5)
    first, again, other = (drawn(every, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_one_faults_share_leaves_the_other_faults_draws() -> None:
    shifted = MaskErrorSettings(shifted_voxels=2.0)
    both = shifted.model_copy(update={"spurious_share": 1.0, "resized_share": 0.0})
    np.testing.assert_array_equal(drawn(shifted, 5)[0], drawn(both, 5)[0])
