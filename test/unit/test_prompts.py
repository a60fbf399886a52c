import logging
import time

import numpy as np
import pytest

from longilesion.case import Baseline, Case, Click, ClickPair, LesionMap, Scan, ScanName
from longilesion.geometry import Grid
from longilesion.prompts import PROPAGATED_CONFIDENCE, complete_prompts, measure_body


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
    first, second = complete_prompts(one_scan_each(clicks))
    assert (first.lesion_id, second.lesion_id) == (2, 9)
    assert (first.baseline, first.followup) == (click((7, 8, 9)), click((10, 11, 12)))
    assert not first.propagated
    assert first.confidence == 1.0


def test_missing_followup_click_moves_with_the_body_between_disjoint_frames() -> None:
    followup = scan(origin_xyz_mm=(500.0, -80.0, -1422.0), body_shift_yx=(4, 6))
    (prompt,) = complete_prompts(one_scan_each((pair(1, click((100, 90, 50)), None),), followup=followup))
    assert prompt.propagated
    assert prompt.followup.scan_name == "primary"
    expected = (100 + 500 + 6 * 5, 90 - 80 + 4 * 5, 50 - 1422)
    np.testing.assert_allclose(prompt.followup.point_xyz_mm, expected, atol=0.01)
    assert prompt.confidence == PROPAGATED_CONFIDENCE[1]


def test_body_is_found_in_a_scan_stored_the_other_way_round() -> None:
    upright = scan(body_shift_yx=(3, 5))
    z, y, x = upright.hu.shape
    flipped = Scan(
        hu=np.ascontiguousarray(upright.hu[::-1, ::-1, ::-1]),
        grid=Grid.from_spacing(
            upright.hu.shape,
            (5, 5, 5),
            origin_xyz_mm=upright.grid.world_xyz_mm((z - 1, y - 1, x - 1)),
            direction=-np.eye(3),
        ),
    )
    body, mirrored = measure_body(upright), measure_body(flipped)
    np.testing.assert_allclose(mirrored.center_xyz_mm, body.center_xyz_mm, atol=0.01)
    assert mirrored.length_mm == body.length_mm == 100.0


def test_table_and_lungs_do_not_move_the_body_centre_sideways() -> None:
    center = measure_body(scan()).center_xyz_mm
    np.testing.assert_allclose(center[0], (8 + 31 / 2) * 5, atol=0.01)


def test_scans_of_different_length_lower_the_confidence() -> None:
    low, high = PROPAGATED_CONFIDENCE
    clicks = (pair(1, click((100, 90, 45)), None),)
    (prompt,) = complete_prompts(one_scan_each(clicks, followup=scan(depth=28)))
    assert low < prompt.confidence < high


def test_propagated_click_beyond_the_followup_scan_lies_on_its_border() -> None:
    (prompt,) = complete_prompts(one_scan_each((pair(1, click((100, 90, 95)), None),), followup=scan(depth=6)))
    assert prompt.followup.clamped
    assert prompt.followup.point_xyz_mm[2] == pytest.approx(25.0)
    assert prompt.confidence == PROPAGATED_CONFIDENCE[0]


def test_scan_of_nothing_but_air_is_mapped_through_its_middle() -> None:
    empty = scan()
    empty.hu[:] = -1024
    np.testing.assert_allclose(measure_body(empty).center_xyz_mm, empty.grid.center_xyz_mm, atol=2.6)


def test_propagated_click_goes_to_the_followup_scan_of_the_same_name() -> None:
    case = Case(
        baselines={"primary": Baseline.of(scan(), None), "secondary": Baseline.of(scan(), None)},
        followups={"primary": scan(), "secondary": scan(origin_xyz_mm=(0, 0, 1000))},
        clicks=(pair(1, click((100, 90, 50), "secondary"), None),),
    )
    (prompt,) = complete_prompts(case)
    assert prompt.followup.scan_name == "secondary"
    np.testing.assert_allclose(prompt.followup.point_xyz_mm, (100, 90, 1050), atol=0.01)


def test_propagated_click_goes_to_the_only_followup_scan() -> None:
    case = Case(
        baselines={"primary": Baseline.of(scan(), None), "secondary": Baseline.of(scan(), None)},
        followups={"primary": scan()},
        clicks=(pair(1, click((100, 90, 50), "secondary"), None),),
    )
    (prompt,) = complete_prompts(case)
    assert prompt.followup.scan_name == "primary"
    assert prompt.confidence == PROPAGATED_CONFIDENCE[0]


def test_outlined_lesion_without_any_click_is_looked_for_from_its_centre() -> None:
    case = Case(baselines={"primary": outlined(scan(), 7)}, followups={"primary": scan()}, clicks=())
    (prompt,) = complete_prompts(case)
    assert prompt.lesion_id == 7
    assert prompt.baseline == click((105.0, 55.0, 25.0))
    assert prompt.propagated


def test_lesion_with_only_a_followup_click_takes_its_baseline_from_the_outline() -> None:
    case = Case(
        baselines={"primary": Baseline.of(scan(), None), "secondary": outlined(scan(), 7)},
        followups={"primary": scan()},
        clicks=(pair(7, None, click((1, 2, 3))),),
    )
    (prompt,) = complete_prompts(case)
    assert prompt.baseline == click((105.0, 55.0, 25.0), "secondary")
    assert not prompt.propagated


def test_lesion_outlined_in_both_baseline_scans_is_placed_by_the_larger_part() -> None:
    case = Case(
        baselines={"primary": outlined(scan(), 7, voxels=2), "secondary": outlined(scan(), 7, voxels=5)},
        followups={"primary": scan()},
        clicks=(),
    )
    (prompt,) = complete_prompts(case)
    assert prompt.baseline is not None
    assert prompt.baseline.scan_name == "secondary"


def test_new_lesion_has_no_baseline() -> None:
    (prompt,) = complete_prompts(one_scan_each((pair(3, None, click((1, 2, 3))),)))
    assert prompt.baseline is None
    assert prompt.confidence == 1.0


def test_baseline_click_without_its_scan_is_no_baseline() -> None:
    case = Case(baselines={}, followups={"primary": scan()}, clicks=(pair(3, click((9, 9, 9)), click((1, 2, 3))),))
    (prompt,) = complete_prompts(case)
    assert prompt.baseline is None


def test_lesion_that_nothing_places_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(
        baselines={}, followups={"primary": scan()}, clicks=(pair(3, None, None), pair(4, None, click((1, 2, 3))))
    )
    with caplog.at_level(logging.WARNING):
        prompts = complete_prompts(case)
    assert [prompt.lesion_id for prompt in prompts] == [4]
    assert "lesion 3" in caplog.text


def test_case_without_lesions_has_no_prompts() -> None:
    assert complete_prompts(one_scan_each(())) == ()


def test_bodies_are_measured_once_per_scan_and_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def counting(of: Scan) -> object:
        measured.append(of)
        return measure_body(of)

    monkeypatch.setattr("longilesion.prompts.measure_body", counting)
    given = (pair(1, click((100, 90, 50)), click((1, 2, 3))),)
    complete_prompts(one_scan_each(given))
    assert measured == []
    complete_prompts(one_scan_each(tuple(pair(k, click((100, 90, 50)), None) for k in range(1, 6))))
    assert len(measured) == 2


def test_measuring_a_long_scan_is_quick() -> None:
    long_scan = Scan(hu=np.zeros((600, 512, 512), np.int16), grid=Grid.from_spacing((600, 512, 512), (1.0, 0.8, 0.8)))
    start = time.perf_counter()
    measure_body(long_scan)
    assert time.perf_counter() - start < 0.5
