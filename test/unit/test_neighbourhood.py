from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from longilesion.config import LikelihoodSettings
from longilesion.geometry import Grid, Triple
from longilesion.likelihood import lesion_likelihood
from longilesion.neighbourhood import changed_share
from longilesion.voi import Voi, VoiPair

SIDE = 32
MIDDLE = (SIDE / 2,) * 3
SETTINGS = LikelihoodSettings(without_outline="neighbourhood")
GRID = Grid.from_spacing((SIDE,) * 3, (2.0, 2.0, 2.0))
AIR_HU, NODULE_HU = -850.0, 30.0


def ball(radius: float, centre: Triple = MIDDLE) -> NDArray[np.bool_]:
    z, y, x = np.ogrid[:SIDE, :SIDE, :SIDE]
    return np.asarray((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2)


def voi(tissue: float, lesion: float, where: NDArray[np.bool_], click_zyx: Triple = MIDDLE, seed: int = 0) -> Voi:
    noise = np.random.default_rng(seed).normal(0, 10, where.shape)
    return Voi(hu=(np.where(where, lesion, tissue) + noise).astype(np.float32), grid=GRID, click_zyx=click_zyx)


def likelihood(followup: Voi, baseline: Voi | None = None, settings: LikelihoodSettings = SETTINGS) -> NDArray:
    pair = VoiPair(followup=followup, baseline=baseline, baseline_mask=None, baseline_others=None)
    return lesion_likelihood(pair, settings)[0]


@pytest.mark.parametrize("has_baseline", [False, True], ids=["no prior", "prior without an outline"])
@pytest.mark.parametrize("distance", [5.0, 6.0])
def test_click_in_air_beside_a_nodule_finds_the_nodule(has_baseline: bool, distance: float) -> None:
    nodule, click = ball(4), (MIDDLE[0] + distance, MIDDLE[1], MIDDLE[2])
    followup = voi(AIR_HU, NODULE_HU, nodule, click)
    baseline = voi(AIR_HU, 0, np.zeros_like(nodule), seed=1) if has_baseline else None
    found = likelihood(followup, baseline)
    assert found[ball(2)].min() > 0.4
    assert found[~ball(7)].max() < 0.6 * found[ball(2)].min()
    # With the tissue at the click, it is air that is looked for.
    at_click = likelihood(followup, baseline, LikelihoodSettings())
    assert at_click[ball(2)].max() < 0.1


@settings(max_examples=25, deadline=None)
@given(
    lesion_hu=st.sampled_from([-40.0, 20.0, 130.0]),
    radius=st.floats(3.0, 8.0),
    moves=st.tuples(*[st.floats(-1.0, 1.0)] * 3),
    has_baseline=st.booleans(),
)
def test_click_moved_by_a_few_millimetres_changes_the_likelihood_little(
    lesion_hu: float, radius: float, moves: Triple, has_baseline: bool
) -> None:
    lesion = ball(radius)
    z, y, x = np.add(MIDDLE, moves).tolist()
    baseline = voi(60, 0, np.zeros_like(lesion), seed=1) if has_baseline else None
    there = likelihood(voi(60, lesion_hu, lesion), baseline)
    moved = likelihood(voi(60, lesion_hu, lesion, (z, y, x)), baseline)
    assert np.abs(there - moved).max() < 0.25
    assert np.abs(there - moved).mean() < 0.05


@settings(max_examples=25, deadline=None)
@given(
    click=st.tuples(*[st.floats(-200.0, 200.0)] * 3),
    hu=st.floats(-3000.0, 5000.0, width=32),
    spread=st.floats(0.0, 2000.0),
    has_baseline=st.booleans(),
    name=st.sampled_from(["click", "neighbourhood"]),
)
def test_likelihood_is_a_share_whatever_the_voi_holds(
    click: Triple, hu: float, spread: float, has_baseline: bool, name: str
) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (8, 9, 10)).astype(np.float32)
    grid = Grid.from_spacing(noise.shape, (2.5, 1.25, 1.25))
    followup = Voi(hu=hu + spread * noise, grid=grid, click_zyx=click)
    baseline = Voi(hu=hu - spread * noise, grid=grid, click_zyx=click) if has_baseline else None
    pair = VoiPair(followup=followup, baseline=baseline, baseline_mask=None, baseline_others=None)
    for found in lesion_likelihood(pair, LikelihoodSettings(without_outline=name)):
        if found is not None:
            assert found.dtype == np.float32
            assert found.min() >= 0
            assert found.max() <= 1


@pytest.mark.parametrize("confidence", [0.3, 1.0])
def test_propagated_click_can_have_a_likelihood_of_its_own(confidence: float) -> None:
    followup = replace(voi(60, 90, ball(5)), click_confidence=confidence)
    both = LikelihoodSettings(without_outline="click", propagated_without_outline="neighbourhood")
    expected = LikelihoodSettings(without_outline="click" if confidence == 1.0 else "neighbourhood")
    np.testing.assert_array_equal(likelihood(followup, settings=both), likelihood(followup, settings=expected))


def test_new_lesion_has_changed_and_moved_anatomy_has_not() -> None:
    organ = ball(9, (MIDDLE[0], MIDDLE[1], MIDDLE[2] - 6))
    lesion = ball(3, (MIDDLE[0], MIDDLE[1], MIDDLE[2] + 9))
    before = np.where(organ, 100, 0).astype(np.float32)
    after = np.roll(before, 1, axis=2)
    after[lesion] = 60
    changed = changed_share(after, before, SETTINGS)
    assert changed[lesion].min() > 0.5
    assert changed[~lesion].max() < 0.05


def test_contrast_agent_is_no_change() -> None:
    organ = ball(9)
    before = np.where(organ, 60, 20).astype(np.float32)
    assert changed_share(before + 40, before, SETTINGS).max() < 0.05
