"""Clicks of synthetic pairs against the errors that the challenge publishes."""

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float
from scipy.ndimage import center_of_mass

from longilesion.case import Click, ClickPair
from longilesion.evaluation.exam import Fate, LesionFact
from longilesion.geometry import Grid, Triple, triple
from test.unit.synthetic import block, pair
from training.synthesis.clicks import (
    CHALLENGE_VOXEL_ZYX_MM,
    CLICK_ERROR_VOXELS,
    MEDIAN_ERROR_VOXELS,
    challenge_clicks,
    click_error_mm,
    click_error_voxels,
)
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.settings import FateShares, MotionSettings, SynthesisSettings

DRAWS = 2500
# A whole body, and the cut-out around a lesion of 12 mm.
BODY = Grid.from_spacing((200, 250, 250), (4.0, 1.6, 1.6), origin_xyz_mm=(-200.0, 35.0, -1000.0))
CUT_OUT = Grid.from_spacing((50, 80, 80), (3.0, 2.0, 2.0))


def clicks_at(followup: Triple, baseline: Triple = (0.0, 0.0, 0.0)) -> ClickPair:
    return ClickPair(
        lesion_id=7,
        baseline=Click(scan_name="primary", point_xyz_mm=baseline),
        followup=Click(scan_name="primary", point_xyz_mm=followup),
    )


def fact(fate: Fate, lesion_type: str | None = None) -> LesionFact:
    return LesionFact(fate=fate, true_id=None if fate == "gone" else 7, lesion_type=lesion_type)


def errors_zyx_mm(grid: Grid, start_zyx: Triple, *, is_whole: bool, draws: int = DRAWS) -> Float[np.ndarray, "n 3"]:
    """The errors of clicks that are propagated to a scan in which the lesion lies at an index."""
    generator = np.random.default_rng(0)
    exact = clicks_at(grid.world_xyz_mm(start_zyx))
    drawn = []
    for _ in range(draws):
        clicks = challenge_clicks(exact, fact("persists"), grids=(grid, grid), is_whole=is_whole, generator=generator)
        assert clicks.baseline == exact.baseline
        assert clicks.followup is not None
        drawn.append(clicks.followup.point_xyz_mm)
    return (np.array(drawn) - grid.world_xyz_mm(start_zyx))[:, ::-1]


def assert_quantiles(voxels: Float[np.ndarray, " n"], shares: list[float]) -> None:
    """The quantiles are the published ones, within four times the standard error of the share below each of them."""
    for share in shares:
        error = 4 * np.sqrt(share * (1 - share) / len(voxels))
        assert (voxels < CLICK_ERROR_VOXELS[share]).mean() == pytest.approx(share, abs=error)


# ----------------------------------------------------------------------------------------------------------- errors


def test_click_errors_follow_the_published_quantiles() -> None:
    generator = np.random.default_rng(0)
    assert_quantiles(np.array([click_error_voxels(generator) for _ in range(DRAWS)]), list(CLICK_ERROR_VOXELS))


@pytest.mark.parametrize("lesion_type", MEDIAN_ERROR_VOXELS)
def test_type_with_a_published_median_has_it_and_the_tail_of_all(lesion_type: str) -> None:
    generator = np.random.default_rng(1)
    voxels = np.array([click_error_voxels(generator, lesion_type) for _ in range(DRAWS)])
    assert (voxels < MEDIAN_ERROR_VOXELS[lesion_type]).mean() == pytest.approx(0.5, abs=2 / np.sqrt(DRAWS))
    assert_quantiles(voxels, [0.9, 0.95, 0.99])


@given(st.floats(0.01, 500), st.integers(0, 2**32))
def test_error_has_its_length_in_the_challenges_voxels(voxels: float, seed: int) -> None:
    error_mm = click_error_mm(np.random.default_rng(seed), voxels)
    assert np.linalg.norm(error_mm / CHALLENGE_VOXEL_ZYX_MM) == pytest.approx(voxels)


def test_no_direction_of_the_error_in_mm_is_preferred() -> None:
    generator = np.random.default_rng(2)
    errors = np.array([click_error_mm(generator, 10.0) for _ in range(DRAWS)])
    directions = errors / np.linalg.norm(errors, axis=1, keepdims=True)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=4 / np.sqrt(3 * DRAWS))
    np.testing.assert_allclose((directions**2).mean(axis=0), 1 / 3, atol=4 * 0.3 / np.sqrt(DRAWS))


# ------------------------------------------------------------------------------------------------------------ scans


def test_errors_in_a_whole_body_follow_the_published_quantiles_up_to_the_tail() -> None:
    errors = errors_zyx_mm(BODY, (100.0, 120.0, 120.0), is_whole=True)
    assert_quantiles(np.linalg.norm(errors / CHALLENGE_VOXEL_ZYX_MM, axis=1), list(CLICK_ERROR_VOXELS))


def test_lesion_at_the_edge_of_a_scan_has_clicks_as_far_as_any_other_but_inside() -> None:
    errors = errors_zyx_mm(BODY, (0.0, 3.0, 249.0), is_whole=True)
    assert_quantiles(np.linalg.norm(errors / CHALLENGE_VOXEL_ZYX_MM, axis=1), [0.5, 0.75, 0.9])
    assert np.all(errors[:, 0] >= -1e-6)
    assert np.all(errors[:, 2] <= 1e-6)


def test_no_click_of_a_cut_out_is_pushed_against_its_border() -> None:
    middle = triple((np.array(CUT_OUT.shape_zyx) - 1) / 2)
    index = middle + errors_zyx_mm(CUT_OUT, middle, is_whole=False) / CUT_OUT.spacing_zyx_mm
    last = np.array(CUT_OUT.shape_zyx) - 1.0
    is_on_border = np.any((index < 1e-6) | (index > last - 1e-6), axis=1)
    assert is_on_border.mean() < 0.005


@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.floats(0.5, 6.0)] * 3),
    st.tuples(*[st.floats(0, 1)] * 3),
    st.booleans(),
    st.sampled_from(["persists", "new", "gone", "merged"]),
    st.integers(0, 2**32),
)
def test_click_lies_in_its_scan_however_small_that_is(
    shape_zyx: tuple[int, int, int],
    spacing_zyx_mm: Triple,
    place: Triple,
    is_whole: bool,
    fate: Fate,
    seed: int,
) -> None:
    grid = Grid.from_spacing(shape_zyx, spacing_zyx_mm, origin_xyz_mm=(40.0, -300.0, 7.0))
    exact_xyz_mm = grid.world_xyz_mm(np.multiply(place, np.array(shape_zyx) - 1))
    exact = clicks_at(exact_xyz_mm, exact_xyz_mm)
    clicks = challenge_clicks(
        exact, fact(fate), grids=(grid, grid), is_whole=is_whole, generator=np.random.default_rng(seed)
    )
    for click in (clicks.baseline, clicks.followup):
        assert click is not None
        assert grid.contains(grid.index_zyx(click.point_xyz_mm))


# ------------------------------------------------------------------------------------------------------------ fates


@cache
def merged_pair() -> SyntheticPair:
    settings = SynthesisSettings(
        fates=FateShares(persists=1, new=0, gone=0),
        merging_share=1,
        motion=MotionSettings(rotation_deg=0, deformation_mm=(0, 0)),
    )
    return synthetic_pair(block(), np.random.default_rng(0), shapes=[block()], settings=settings)


DRAWN = (*(partial(pair, seed) for seed in range(4)), merged_pair)


@pytest.mark.parametrize("draw", DRAWN)
def test_click_is_exact_where_the_lesion_was_outlined_first_and_propagated_to_the_other_scan(
    draw: Callable[[], SyntheticPair],
) -> None:
    drawn = draw()
    for clicks, exact in zip(drawn.case.clicks, drawn.exact_clicks, strict=True):
        is_new = drawn.facts[clicks.lesion_id].fate == "new"
        assert clicks.lesion_id == exact.lesion_id
        assert (clicks.followup == exact.followup) == is_new
        assert (clicks.baseline == exact.baseline) != is_new


@pytest.mark.parametrize("draw", DRAWN)
def test_exact_clicks_are_the_centres_of_the_outlines(draw: Callable[[], SyntheticPair]) -> None:
    drawn = draw()
    prior = drawn.case.baselines["primary"]
    assert prior.lesions is not None
    for exact in drawn.exact_clicks:
        lesion_id, fate = exact.lesion_id, drawn.facts[exact.lesion_id].fate
        for click, lesions, is_outlined in (
            (exact.baseline, prior.lesions, fate != "new"),
            (exact.followup, drawn.truth, fate in ("persists", "new")),
        ):
            assert click is not None
            index = lesions.grid.index_zyx(click.point_xyz_mm)
            assert lesions.grid.contains(index)
            if is_outlined:
                np.testing.assert_allclose(index, center_of_mass(lesions.ids == lesion_id), atol=1e-6)


def test_merged_lesions_are_clicked_where_each_of_them_was() -> None:
    drawn = merged_pair()
    # Without motion, a position of the anatomy is at the same distance from the middle of both scans.
    before, after = drawn.case.baselines["primary"].scan.grid, drawn.case.followups["primary"].grid
    merged = [exact for exact in drawn.exact_clicks if drawn.facts[exact.lesion_id].fate == "merged"]
    assert len(merged) >= 2
    for exact in merged:
        assert exact.baseline is not None
        assert exact.followup is not None
        offset = np.subtract(exact.followup.point_xyz_mm, after.centre_xyz_mm)
        expected = np.subtract(exact.baseline.point_xyz_mm, before.centre_xyz_mm)
        # The scans' frames differ by up to half a voxel each, and outlines of few voxels have uncertain centres.
        assert np.linalg.norm(offset - expected) < np.linalg.norm(np.add(before.spacing_zyx_mm, after.spacing_zyx_mm))
