import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from longilesion.case import LOW_CONFIDENCE, Baseline, Case, Click, ClickPair, LesionMap, Scan, ScanName
from longilesion.geometry import Grid
from longilesion.prompts import REFINE_DISTANCE_MM, complete_prompts
from longilesion.registration.register import register_scans
from longilesion.registration.result import Registration
from test.phantoms import PhantomCase, PlannedLesion, View, torso_case


def scan(
    *, origin_xyz_mm: tuple[float, float, float] = (0, 0, 0), body_shift_yx: tuple[int, int] = (0, 0), depth: int = 20
) -> Scan:
    """A body of 24 x 32 voxels (y, x) of 5 mm in air, with two lungs and a thin table apart from it."""
    hu = np.full((depth, 48, 48), -1024, np.int16)
    y, x = 8 + body_shift_yx[0], 8 + body_shift_yx[1]
    hu[:, y : y + 24, x : x + 32] = 30
    hu[3:15, y + 6 : y + 16, x + 5 : x + 12] = -850
    hu[3:15, y + 6 : y + 16, x + 20 : x + 27] = -850
    hu[:, 46, 4:44] = 200
    return Scan(hu=hu, grid=Grid.from_spacing((depth, 48, 48), (5.0, 5.0, 5.0), origin_xyz_mm=origin_xyz_mm))


def click(point_xyz_mm: tuple[float, float, float], scan_name: ScanName = "primary") -> Click:
    return Click(scan_name=scan_name, point_xyz_mm=point_xyz_mm)


def pair(lesion_id: int, baseline: Click | None, followup: Click | None) -> ClickPair:
    return ClickPair(lesion_id=lesion_id, baseline=baseline, followup=followup)


def outlined(of: Scan, lesion_id: int, *, voxels: int = 3) -> Baseline:
    ids = np.zeros(of.hu.shape, np.uint16)
    ids[4 : 4 + voxels, 10:13, 20:23] = lesion_id
    return Baseline.of(of, LesionMap(ids=ids, grid=of.grid))


def one_scan_each(clicks: tuple[ClickPair, ...], *, baseline: Scan | None = None, followup: Scan | None = None) -> Case:
    return Case(
        baselines={"primary": Baseline.of(baseline or scan(), None)},
        followups={"primary": followup or scan()},
        clicks=clicks,
    )


def test_given_clicks_are_kept_and_sorted_by_id() -> None:
    clicks = (
        pair(9, click((1, 2, 3)), click((4, 5, 6))),
        pair(2, click((7, 8, 9)), click((10, 11, 12))),
    )
    first, second = complete_prompts(one_scan_each(clicks)).lesions
    assert (first.lesion_id, second.lesion_id) == (2, 9)
    assert (first.baseline, first.followup) == (click((7, 8, 9)), click((10, 11, 12)))
    assert not first.propagated
    assert first.confidence == 1.0


def test_outlined_lesion_without_any_click_is_looked_for_from_its_centre() -> None:
    case = Case(baselines={"primary": outlined(scan(), 7)}, followups={"primary": scan()}, clicks=())
    (prompt,) = complete_prompts(case).lesions
    assert prompt.lesion_id == 7
    assert prompt.baseline == click((105.0, 55.0, 25.0))
    assert prompt.propagated


def test_lesion_with_only_a_followup_click_takes_its_baseline_from_the_outline() -> None:
    case = Case(
        baselines={"primary": Baseline.of(scan(), None), "secondary": outlined(scan(), 7)},
        followups={"primary": scan()},
        clicks=(pair(7, None, click((1, 2, 3))),),
    )
    (prompt,) = complete_prompts(case).lesions
    assert prompt.baseline == click((105.0, 55.0, 25.0), "secondary")
    assert not prompt.propagated


def test_lesion_outlined_in_both_baseline_scans_is_placed_by_the_larger_part() -> None:
    case = Case(
        baselines={"primary": outlined(scan(), 7, voxels=2), "secondary": outlined(scan(), 7, voxels=5)},
        followups={"primary": scan()},
        clicks=(),
    )
    (prompt,) = complete_prompts(case).lesions
    assert prompt.baseline is not None
    assert prompt.baseline.scan_name == "secondary"


def test_new_lesion_has_no_baseline() -> None:
    (prompt,) = complete_prompts(one_scan_each((pair(3, None, click((1, 2, 3))),))).lesions
    assert prompt.baseline is None
    assert prompt.confidence == 1.0


def test_baseline_click_without_its_scan_is_no_baseline() -> None:
    case = Case(baselines={}, followups={"primary": scan()}, clicks=(pair(3, click((9, 9, 9)), click((1, 2, 3))),))
    (prompt,) = complete_prompts(case).lesions
    assert prompt.baseline is None


def test_lesion_that_nothing_places_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(
        baselines={}, followups={"primary": scan()}, clicks=(pair(3, None, None), pair(4, None, click((1, 2, 3))))
    )
    with caplog.at_level(logging.WARNING):
        prompts = complete_prompts(case)
    assert [prompt.lesion_id for prompt in prompts.lesions] == [4]
    assert "lesion 3" in caplog.text


def test_case_without_lesions_has_no_prompts() -> None:
    prompts = complete_prompts(one_scan_each(()))
    assert prompts.lesions == prompts.outside == ()


# Scans are registered once for all tests: they are compared by identity.
registered = cache(register_scans)

TORSO_LESIONS = (
    PlannedLesion(lesion_id=1, fate="persists", organ="liver", radius_mm=12.0, height_mm=0.0),
    PlannedLesion(lesion_id=2, fate="gone", organ="right lung", radius_mm=7.0, height_mm=130.0),
    PlannedLesion(lesion_id=3, fate="shrinks", organ="mesentery", radius_mm=14.0, height_mm=-110.0),
    PlannedLesion(lesion_id=4, fate="grows", organ="left kidney", radius_mm=8.0, height_mm=-60.0),
)
COARSE = View(spacing_zyx_mm=(5.0, 4.0, 4.0))


@cache
def torso(seed: int = 3) -> PhantomCase:
    """A baseline and a follow-up in another world, tilted and stored the other way round; clicks are exact."""
    flipped = np.diag([-1.0, 1.0, -1.0])
    followup = replace(COARSE, heights_mm=(-168.0, 190.0), middle_xyz_mm=(400.0, -90.0, -1422.0), direction=flipped)
    return torso_case(seed, lesions=TORSO_LESIONS, baselines=(COARSE,), followups=(followup,), click_error_mm=0.0)


def without_followup_clicks(case: Case) -> Case:
    return replace(case, clicks=tuple(replace(each, followup=None) for each in case.clicks))


def followup_points(case: Case) -> dict[int, np.ndarray]:
    return {each.lesion_id: np.array(each.followup.point_xyz_mm) for each in case.clicks if each.followup is not None}


def cut(of: Scan, start: int, stop: int) -> Scan:
    _, y, x = of.hu.shape
    return Scan(hu=of.hu[start:stop].copy(), grid=of.grid.window((start, 0, 0), (stop, y, x)))


def registration_of(shift_xyz_mm: tuple[float, float, float]) -> Callable[[Scan, Scan], Registration]:
    """A registration by the same shift everywhere."""

    def register(baseline: Scan, followup: Scan) -> Registration:
        found = registered(baseline, followup)
        wanted = np.eye(4)
        wanted[:3, 3] = shift_xyz_mm
        motion = found.followup.local_from_world @ wanted @ np.linalg.inv(found.baseline.local_from_world)
        return replace(found, stage="rigid", motion=motion, deformation=None)

    return register


def test_missing_followup_clicks_are_found_between_disjoint_frames_and_flipped_axes() -> None:
    case = torso().case
    truth = followup_points(case)
    prompts = complete_prompts(without_followup_clicks(case), register=registered)
    assert prompts.outside == ()
    assert [prompt.lesion_id for prompt in prompts.lesions] == [1, 2, 3, 4]
    for prompt in prompts.lesions:
        assert prompt.propagated
        assert prompt.confidence >= LOW_CONFIDENCE
        assert np.linalg.norm(prompt.followup.point_xyz_mm - truth[prompt.lesion_id]) < 8.0


def test_each_pair_of_scans_is_registered_once_and_only_where_clicks_are_missing() -> None:
    asked = []

    def counting(baseline: Scan, followup: Scan) -> Registration:
        asked.append((baseline, followup))
        return registered(baseline, followup)

    case = torso().case
    complete_prompts(case, register=counting)
    assert asked == []
    complete_prompts(without_followup_clicks(case), register=counting)
    assert len(asked) == 1


def test_lesions_that_a_shorter_followup_does_not_show_are_outside_its_field_of_view() -> None:
    case = without_followup_clicks(torso().case)
    # Stored head first: these slices reach from the head down to 10 mm above the lesion in the liver.
    upper = replace(case, followups={"primary": cut(case.followups["primary"], 0, 32)})
    prompts = complete_prompts(upper)
    assert [prompt.lesion_id for prompt in prompts.lesions] == [2]
    assert [lesion.lesion_id for lesion in prompts.outside] == [1, 3, 4]
    assert all(lesion.confidence >= LOW_CONFIDENCE for lesion in prompts.outside)


def test_lesion_goes_to_the_followup_scan_that_shows_it() -> None:
    case = without_followup_clicks(torso().case)
    whole = case.followups["primary"]
    two = replace(case, followups={"primary": cut(whole, 0, 36), "secondary": cut(whole, 36, 72)})
    prompts = complete_prompts(two)
    truth = followup_points(torso().case)
    for prompt in prompts.lesions:
        assert np.linalg.norm(prompt.followup.point_xyz_mm - truth[prompt.lesion_id]) < 10.0
    assert {prompt.lesion_id: prompt.followup.scan_name for prompt in prompts.lesions} == {
        1: "secondary",
        2: "primary",
        3: "secondary",
        4: "secondary",
    }


def test_scans_of_different_parts_of_the_body_give_no_confident_click() -> None:
    case = without_followup_clicks(torso().case)
    chest = Case(
        baselines={"primary": Baseline.of(cut(case.baselines["primary"].scan, 46, 72), None)},
        followups={"primary": cut(torso(9).case.followups["primary"], 48, 71)},
        clicks=tuple(each for each in case.clicks if each.lesion_id == 2),
    )
    prompts = complete_prompts(chest)
    assert all(prompt.confidence < LOW_CONFIDENCE for prompt in prompts.lesions)
    assert len(prompts.lesions) + len(prompts.outside) == 1


def test_place_outside_by_a_registration_that_cannot_be_trusted_is_a_guess_on_the_border() -> None:
    case = without_followup_clicks(torso().case)
    (prompt, *_) = complete_prompts(case, register=registration_of((5000.0, 0.0, 0.0))).lesions
    assert prompt.followup.clamped
    assert prompt.confidence == 0.0


def test_identical_scans_propagate_clicks_to_themselves() -> None:
    case = torso().case
    same = replace(without_followup_clicks(case), followups={"primary": case.baselines["primary"].scan})
    for prompt in complete_prompts(same).lesions:
        assert prompt.baseline is not None
        np.testing.assert_allclose(prompt.followup.point_xyz_mm, prompt.baseline.point_xyz_mm, atol=2.0)
        assert prompt.confidence > 0.7


@pytest.mark.parametrize("empty", ["baseline", "followup", "both"])
def test_scan_of_nothing_but_air_gives_a_guess_of_low_confidence(empty: str) -> None:
    case = without_followup_clicks(torso().case)
    if empty != "followup":
        prior = case.baselines["primary"]
        case = replace(case, baselines={"primary": Baseline.of(air(prior.scan), prior.lesions)})
    if empty != "baseline":
        case = replace(case, followups={"primary": air(case.followups["primary"])})
    prompts = complete_prompts(case)
    assert len(prompts.lesions) == 4
    assert all(prompt.confidence < LOW_CONFIDENCE for prompt in prompts.lesions)


def air(like: Scan) -> Scan:
    return Scan(hu=np.full_like(like.hu, -1024), grid=like.grid)


@pytest.mark.parametrize(("first", "second"), [(40, 40), (None, 40), (40, None)])
def test_scans_of_one_slice_are_no_reason_to_stop(first: int | None, second: int | None) -> None:
    case = without_followup_clicks(torso().case)
    prior, later = case.baselines["primary"].scan, case.followups["primary"]
    thin = Case(
        baselines={"primary": Baseline.of(prior if first is None else cut(prior, first, first + 1), None)},
        followups={"primary": later if second is None else cut(later, second, second + 1)},
        clicks=case.clicks,
    )
    prompts = complete_prompts(thin)
    assert len(prompts.lesions) + len(prompts.outside) == 4


def test_baseline_click_on_the_border_for_want_of_a_place_inside_is_propagated_all_the_same() -> None:
    case = without_followup_clicks(torso().case)
    corner = case.baselines["primary"].scan.grid.world_xyz_mm((0, 0, 0))
    outside = Click(scan_name="primary", point_xyz_mm=corner, clamped=True)
    odd = replace(
        case, clicks=(pair(1, outside, None),), baselines={"primary": Baseline.of(case.baselines["primary"].scan, None)}
    )
    prompts = complete_prompts(odd, register=registered)
    assert len(prompts.lesions) + len(prompts.outside) == 1
    assert all(prompt.confidence < LOW_CONFIDENCE for prompt in prompts.lesions)


def test_given_click_far_from_the_lesion_is_corrected_only_when_asked() -> None:
    case = torso().case
    wrong = {each.lesion_id: each for each in case.clicks}
    off = np.array([0.0, 30.0, 0.0])
    moved = replace(
        case,
        clicks=tuple(
            replace(
                each, followup=replace(each.followup, point_xyz_mm=tuple(np.array(each.followup.point_xyz_mm) + off))
            )
            for each in wrong.values()
            if each.followup is not None
        ),
    )
    for prompt in complete_prompts(moved, register=registered).lesions:
        assert not prompt.refined
    truth = followup_points(case)
    refined = complete_prompts(moved, register=registered, refine_clicks=True).lesions
    assert all(prompt.refined for prompt in refined)
    for prompt in refined:
        assert not prompt.propagated
        assert np.linalg.norm(prompt.followup.point_xyz_mm - truth[prompt.lesion_id]) < 8.0


def test_click_of_a_new_lesion_is_not_corrected_by_the_baseline_click_that_was_propagated_from_it() -> None:
    case = torso().case
    prior = case.baselines["primary"]
    assert prior.lesions is not None
    new = min(prior.regions)
    ids = np.where(prior.lesions.ids == new, 0, prior.lesions.ids)
    without = Baseline.of(prior.scan, LesionMap(ids=ids, grid=prior.lesions.grid))
    off = (0.0, 30.0, 0.0)
    moved = tuple(
        replace(each, followup=replace(each.followup, point_xyz_mm=tuple(np.add(each.followup.point_xyz_mm, off))))
        for each in case.clicks
        if each.followup is not None
    )
    prompts = complete_prompts(
        replace(case, baselines={"primary": without}, clicks=moved), register=registered, refine_clicks=True
    ).lesions
    assert [prompt.lesion_id for prompt in prompts if not prompt.refined] == [new]


def test_given_click_near_the_lesion_stays_where_it_is_also_when_it_may_be_corrected() -> None:
    case = torso().case
    prompts = complete_prompts(case, register=registered, refine_clicks=True).lesions
    truth = followup_points(case)
    assert REFINE_DISTANCE_MM > 8.0
    for prompt in prompts:
        assert not prompt.refined
        np.testing.assert_array_equal(prompt.followup.point_xyz_mm, truth[prompt.lesion_id])
