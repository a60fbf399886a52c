"""Registration of a drawn torso with itself, moved, bent, cut; and what is left where a step fails."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import longilesion.registration.register as steps
from longilesion.case import Case, Scan
from longilesion.geometry import Grid, triple
from longilesion.registration.coarse import _overlap, find_shift
from longilesion.registration.confidence import Evidence, confidence_in_place, trust_in_registration
from longilesion.registration.control_points import check_control_points, wide_match
from longilesion.registration.propagation import propagate_points
from longilesion.registration.reduction import reduce_further, reduce_scan, transformed
from longilesion.registration.register import register_scans
from longilesion.registration.result import Registration
from longilesion.voi import occupied_box
from test.phantoms import PlannedLesion, View, torso_case
from test.unit.builders import flipped

SPACING_ZYX_MM = (5.0, 4.0, 4.0)
LESIONS = tuple(
    PlannedLesion(lesion_id=number, fate="persists", organ=organ, radius_mm=7.0, height_mm=height)
    for number, (organ, height) in enumerate(
        [("liver", 5.0), ("right lung", 120.0), ("left lung", 100.0), ("spleen", 15.0), ("mesentery", -120.0)], start=1
    )
)
GOOD = Evidence(
    inverse_error_mm=1.0,
    search_shift_mm=1.0,
    margin=0.3,
    shift_deviation_mm=2.0,
    returned_share=0.9,
    stage="deformable",
)


@cache
def torso(*, motion_mm: float = 6.0) -> Case:
    """A bent follow-up in another world; all clicks are exact."""
    return torso_case(
        5,
        lesions=LESIONS,
        baselines=(View(spacing_zyx_mm=SPACING_ZYX_MM),),
        followups=(
            View(spacing_zyx_mm=SPACING_ZYX_MM, heights_mm=(-170.0, 190.0), middle_xyz_mm=(350.0, 80.0, -900.0)),
        ),
        motion_mm=motion_mm,
        click_error_mm=0.0,
    ).case


def scans(case: Case) -> tuple[Scan, Scan]:
    return case.baselines["primary"].scan, case.followups["primary"]


def points(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Where the lesions' middles lie in both scans."""
    pairs = [(each.baseline.point_xyz_mm, each.followup.point_xyz_mm) for each in case.clicks if each.baseline]
    before, after = zip(*pairs, strict=True)
    return np.array(before), np.array(after)


def errors_mm(registration: Registration, case: Case) -> np.ndarray:
    before, after = points(case)
    return np.linalg.norm(registration.followup_xyz_mm(before) - after, axis=1)


@cache
def registered() -> Registration:
    return register_scans(*scans(torso()))


def slices(of: Scan, start: int, stop: int) -> Scan:
    _, y, x = of.hu.shape
    return Scan(hu=of.hu[start:stop].copy(), grid=of.grid.window((start, 0, 0), (stop, y, x)))


def block(*, table: bool, shape: tuple[int, int, int] = (20, 48, 48)) -> Scan:
    """A body of 24 x 32 voxels (y, x) of 5 mm in air, with two lungs, and a thin table right under it."""
    hu = np.full(shape, -1024, np.int16)
    hu[:, 8:32, 8:40] = 30
    hu[3:15, 14:24, 13:20] = -850
    hu[3:15, 14:24, 28:35] = -850
    if table:
        hu[:, 32, :] = 200
    return Scan(hu=hu, grid=Grid.from_spacing(shape, (5.0, 5.0, 5.0)))


@pytest.mark.parametrize("seed", range(3))
def test_bodies_overlap_at_every_shift_as_counted_voxel_by_voxel(seed: int) -> None:
    random = np.random.default_rng(seed)
    before, after = (random.random(random.integers(1, 6, 3)) > 0.4 for _ in range(2))
    before.flat[0] = after.flat[0] = True
    counted = np.zeros(np.add(before.shape, after.shape) - 1)
    for voxel in np.argwhere(before):
        for other in np.argwhere(after):
            counted[tuple(other - voxel + np.array(before.shape) - 1)] += 1
    assert np.allclose(_overlap(before, after), counted / counted.max(), atol=1e-9)


def test_body_has_its_lungs_but_not_the_table_under_it() -> None:
    plain, on_table = reduce_scan(block(table=False), 5.0), reduce_scan(block(table=True), 5.0)
    volume_ml = plain.body.sum() * 5.0**3 / 1000
    assert volume_ml == pytest.approx(20 * 24 * 32 * 5.0**3 / 1000, rel=0.12)
    # The table reaches 40 mm further to both sides than the body.
    box = [occupied_box(scan.body)[2] for scan in (plain, on_table)]
    widths_mm = [(side.stop - side.start) * 5.0 for side in box]
    assert widths_mm[1] <= widths_mm[0] + 10.0


def test_body_is_the_same_in_a_scan_stored_the_other_way_round() -> None:
    upright = block(table=True)
    hu, grid = flipped(upright.hu, upright.grid)
    mirrored = reduce_scan(Scan(hu=hu, grid=grid), 5.0)
    straight = reduce_scan(upright, 5.0)
    np.testing.assert_array_equal(mirrored.body, straight.body)
    np.testing.assert_allclose(mirrored.local_from_world, straight.local_from_world, atol=1e-6)


def test_scan_of_nothing_but_air_is_body_everywhere() -> None:
    empty = Scan(hu=np.full((9, 20, 20), -1024, np.int16), grid=Grid.from_spacing((9, 20, 20), (5.0, 5.0, 5.0)))
    assert reduce_scan(empty, 5.0).body.all()


def test_reduced_copy_of_a_reduced_copy_shows_the_same_places() -> None:
    fine = reduce_scan(block(table=False), 5.0)
    coarse = reduce_further(fine, 12.0)
    middles = [scan.grid.world_xyz_mm(np.argwhere(scan.hu * scan.body < -500).mean(axis=0)) for scan in (fine, coarse)]
    np.testing.assert_allclose(middles[0], middles[1], atol=6.0)


@pytest.mark.parametrize(("first", "last"), [(0, 72), (30, 60), (0, 30)])
def test_first_guess_finds_the_body_of_a_scan_that_shows_a_part_of_it(first: int, last: int) -> None:
    case = torso()
    baseline, followup = scans(case)
    before, after = reduce_scan(baseline, 5.0), reduce_scan(slices(followup, first, last), 5.0)
    shift = find_shift(before, after)
    assert shift is not None
    places, truth = points(case)
    moved = transformed(before.local_from_world, places) + shift.xyz_mm
    wrong = np.linalg.norm(moved - transformed(after.local_from_world, truth), axis=1)
    assert np.median(wrong) < 14.0


def test_first_guess_is_none_where_a_scan_shows_nothing() -> None:
    empty = reduce_scan(Scan(hu=np.full((20, 48, 48), -1024, np.int16), grid=block(table=False).grid), 5.0)
    assert find_shift(empty, reduce_scan(block(table=True), 5.0)) is None
    assert find_shift(reduce_scan(block(table=True), 5.0), empty) is None


def test_deformable_step_follows_the_bent_body_better_than_the_rigid_one() -> None:
    found = registered()
    assert found.stage == "deformable"
    rigid = replace(found, deformation=None)
    assert np.median(errors_mm(found, torso())) < min(3.5, 0.8 * np.median(errors_mm(rigid, torso())))


def test_returning_by_the_way_back_ends_near_the_start() -> None:
    before, _ = points(torso())
    assert registered().inverse_error_mm(before).max() < 5.0
    assert replace(registered(), deformation=None).inverse_error_mm(before).max() == 0.0


def test_what_the_followup_does_not_show_is_not_drawn_into_it() -> None:
    """Lesions 2 and 3 are in the lungs, 35 mm and more above the last slice that is left."""
    baseline, followup = scans(torso())
    lower = slices(followup, 0, 47)
    found = register_scans(baseline, lower)
    before, after = points(torso())
    top_mm = lower.grid.world_xyz_mm((46, 0, 0))[2]
    propagated = found.followup_xyz_mm(before)
    for place, truth in zip(propagated[1:3], after[1:3], strict=True):
        assert truth[2] > top_mm + 20.0
        assert place[2] > top_mm + 10.0


def nothing(*_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("failing", "stage"),
    [
        (("find_deformation",), "rigid"),
        (("find_deformation", "find_rigid"), "shift"),
        (("find_deformation", "find_rigid", "find_shift"), "body centres"),
    ],
)
def test_where_a_step_fails_the_one_before_has_the_word(
    monkeypatch: pytest.MonkeyPatch, failing: tuple[str, ...], stage: str
) -> None:
    for name in failing:
        monkeypatch.setattr(steps, name, nothing)
    found = register_scans(*scans(torso()))
    assert found.stage == stage
    assert found.deformation is None
    # The whole torso is shown both times: even its middle is not far off.
    assert np.median(errors_mm(found, torso())) < 25.0


def test_deformation_that_folds_the_body_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def folding(fixed: object, intensities: np.ndarray, shown: np.ndarray) -> np.ndarray:
        field = np.zeros((*intensities.shape, 3), np.float32)
        field[..., 0] = 30.0 * (np.arange(intensities.shape[2]) % 6 < 3)
        return field

    monkeypatch.setattr(steps, "find_deformation", folding)
    assert register_scans(*scans(torso())).stage == "rigid"


def test_deformation_that_makes_the_scans_less_alike_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def astray(fixed: object, intensities: np.ndarray, shown: np.ndarray) -> np.ndarray:
        return np.full((*intensities.shape, 3), 25.0, np.float32)

    monkeypatch.setattr(steps, "find_deformation", astray)
    assert register_scans(*scans(torso())).stage == "rigid"


def test_search_around_the_place_corrects_what_registration_leaves() -> None:
    before, after = points(torso())
    baseline, followup = scans(torso())
    off = registered().motion.copy()
    off[:3, 3] += (6.0, -5.0, 4.0)
    wrong = replace(registered(), motion=off)
    propagated = propagate_points(wrong, baseline, followup, [triple(point) for point in before], extents_mm=[14.0] * 5)
    left = np.linalg.norm(np.array([point.point_xyz_mm for point in propagated]) - after, axis=1)
    assert np.median(errors_mm(wrong, torso())) > 6.0
    assert np.median(left) < 3.0
    assert all(point.is_shown and not point.clamped for point in propagated)


def test_control_points_confirm_a_right_registration_and_contradict_a_wrong_one() -> None:
    right = check_control_points(registered(), *scans(torso()))
    off = registered().motion.copy()
    off[:3, 3] += (45.0, 30.0, -40.0)
    wrong = check_control_points(replace(registered(), motion=off), *scans(torso()))
    assert right.returned_share > 0.9
    assert right.shift_deviation_mm < 3.0
    assert wrong.returned_share < right.returned_share - 0.1
    assert wrong.shift_deviation_mm > right.shift_deviation_mm + 3.0


def test_noise_and_another_contrast_leave_what_the_control_points_say() -> None:
    baseline, followup = scans(torso())
    noise = np.random.default_rng(1).normal(0, 40, followup.hu.shape)
    other = Scan(hu=np.clip(0.8 * followup.hu + noise, -1024, 3000).astype(np.int16), grid=followup.grid)
    found = check_control_points(registered(), baseline, other)
    assert found.returned_share > 0.8
    assert found.shift_deviation_mm < 5.0


def test_wide_search_of_a_scan_in_itself_stays_at_the_point() -> None:
    baseline, _ = scans(torso())
    point = triple(points(torso())[0][0])
    found = wide_match(baseline, baseline, centres_xyz_mm=(point, point))
    assert found is not None
    # Half the spacing of the search.
    assert np.linalg.norm(found.shift_xyz_mm) < 1.5
    assert found.margin > 0


def test_where_nothing_is_shown_there_is_no_evidence() -> None:
    flat = replace(block(table=False), hu=np.full((20, 48, 48), 30, np.int16))
    assert wide_match(flat, flat, centres_xyz_mm=((120.0, 120.0, 50.0),) * 2) is None
    away = registered().motion.copy()
    away[:3, 3] += 5000.0
    found = check_control_points(replace(registered(), motion=away), *scans(torso()))
    assert found.returned_share == 0.0
    assert found.shift_deviation_mm > 20.0


def test_no_points_to_carry_are_none_propagated() -> None:
    assert propagate_points(registered(), *scans(torso()), [], extents_mm=[]) == []


@pytest.mark.parametrize(
    "worse",
    [
        lambda evidence: replace(evidence, inverse_error_mm=15.0),
        lambda evidence: replace(evidence, search_shift_mm=14.0),
        lambda evidence: replace(evidence, margin=0.0),
        lambda evidence: replace(evidence, shift_deviation_mm=12.0),
        lambda evidence: replace(evidence, stage="rigid"),
        lambda evidence: replace(evidence, stage="shift"),
        lambda evidence: replace(evidence, stage="body centres"),
    ],
)
def test_whatever_speaks_against_a_place_lowers_the_confidence(worse: Callable[[Evidence], Evidence]) -> None:
    assert 0.0 <= confidence_in_place(worse(GOOD)) < confidence_in_place(GOOD) <= 1.0


def test_registration_that_the_control_points_contradict_is_not_trusted() -> None:
    assert trust_in_registration(GOOD) > 0.9
    assert trust_in_registration(replace(GOOD, returned_share=0.2, shift_deviation_mm=14.0)) < 0.1
