"""The response of a case: what is measured of a segmentation, and what the report says of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from longilesion.assessment import case_response
from longilesion.case import Case, LesionMap, OutsideLesion
from longilesion.geometry import Grid
from longilesion.pipeline import LesionOutcome, Segmentation
from longilesion.report import make_report
from test.unit.builders import case_of, click, prompt, scan_with

GRID = Grid.from_spacing((30, 60, 60), (2.0, 1.0, 1.0))
PLACES = {1: (15.0, 15.0, 30.0), 2: (42.0, 40.0, 30.0), 3: (15.0, 42.0, 14.0)}


def balls(radii_mm: dict[int, float], grid: Grid = GRID) -> LesionMap:
    return scan_with({each: (PLACES[each], radius) for each, radius in radii_mm.items()}, grid)[1]


def segmented(
    before: dict[int, float], after: dict[int, float], *, merged: dict[int, int] | None = None, outside: int = 0
) -> tuple[Case, Segmentation]:
    scan, _ = scan_with({}, GRID)
    lesions = balls(before)
    case = case_of(
        [(each, click(PLACES[each]), click(PLACES[each])) for each in PLACES],
        followups={"primary": scan},
        baselines={"primary": (scan, lesions)},
    )
    outcomes = [
        LesionOutcome(
            prompt=OutsideLesion(lesion_id=each, baseline=click(PLACES[each]), confidence=0.9)
            if each == outside
            else prompt(each, click(PLACES[each])),
            place_xyz_mm=PLACES[each],
            presence=0.9,
            probability=0.9,
            volume_baseline_ml=None,
            volume_followup_ml=1.0 if each in after else 0.0,
            note="",
            merged_into=(merged or {}).get(each),
        )
        for each in PLACES
        if each in before or each in after
    ]
    maps = {"primary": balls(after)}
    return case, Segmentation(maps=maps, lesions=tuple(outcomes), left_out=(), seconds={})


def test_growing_lesion_progresses_and_is_measured_from_contour_to_contour() -> None:
    found = case_response(*segmented({1: 6.0, 2: 6.0}, {1: 9.0, 2: 6.0}))
    assert found.course is not None
    assert found.course.targets == (1, 2)
    assert found.baseline[1].longest_mm == pytest.approx(12.0, abs=1.0)
    assert found.followup[1].longest_mm == pytest.approx(18.0, abs=1.0)
    assert found.followup[1].short_mm == pytest.approx(18.0, abs=1.0)
    # 24 and 30 mm: +25 % and 6 mm.
    assert found.assessment is not None
    assert (found.assessment.overall, found.assessment.new) == ("PD", ())


def test_binary_map_tells_no_lesions_apart_and_so_nothing_of_the_response() -> None:
    case, segmentation = segmented({1: 6.0, 2: 6.0}, {1: 9.0, 2: 6.0})
    ids = np.minimum(segmentation.maps["primary"].ids, 1)
    maps = {"primary": replace(segmentation.maps["primary"], ids=ids)}
    found = case_response(case, replace(segmentation, maps=maps, labels="binary"))
    assert found.followup is None
    assert found.course is None
    assert set(found.baseline) == {1, 2}


@pytest.mark.parametrize(
    ("before", "after", "changes", "expected"),
    [
        ({1: 6.0, 2: 6.0}, {}, {}, "CR"),
        ({1: 6.0, 2: 6.0}, {1: 5.9}, {}, "PR"),
        ({1: 6.0, 2: 6.0}, {1: 6.0, 2: 6.0}, {}, "SD"),
        ({1: 6.0}, {1: 6.0, 3: 4.0}, {}, "PD"),
        ({1: 6.0, 2: 6.0}, {1: 6.0}, {"outside": 2}, "NE"),
        ({1: 6.0, 2: 6.0}, {1: 10.0}, {"merged": {2: 1}}, "SD"),
        # Too small to be targets; gone, and left.
        ({1: 3.0}, {}, {}, "CR"),
        ({1: 3.0}, {1: 3.0}, {}, "non-CR/non-PD"),
    ],
)
def test_response_of_a_case(
    before: dict[int, float], after: dict[int, float], changes: dict[str, object], expected: str
) -> None:
    assessment = case_response(*segmented(before, after, **changes)).assessment  # type: ignore[arg-type]
    assert assessment is not None
    assert assessment.overall == expected


def test_without_outlines_in_the_baseline_there_is_no_response() -> None:
    case, segmentation = segmented({}, {1: 6.0})
    assert case_response(case, segmentation).course is None
    report = make_report(case, segmentation, seconds={})
    assert report.response is None
    assert report.lesions[0].diameter_followup_mm == pytest.approx(12.0, abs=1.0)


def test_report_has_the_diameters_and_the_response() -> None:
    case, segmentation = segmented({1: 6.0, 2: 6.0}, {1: 6.0, 3: 4.0})
    report = make_report(case, segmentation, seconds={})
    assert report.response is not None
    assert (report.response.targets, report.response.new, report.response.response) == ([1, 2], [3], "PD")
    assert report.response.response_of_targets == "PR"
    assert any("lymph nodes" in each for each in report.response.undecided)
    rows = {each.id: each for each in report.lesions}
    assert rows[2].diameter_followup_mm == 0.0 < rows[2].diameter_baseline_mm
    assert rows[3].diameter_baseline_mm == 0.0 < rows[3].short_axis_followup_mm


def test_labels_that_no_lesion_has_are_not_measured() -> None:
    case, segmentation = segmented({1: 6.0}, {1: 6.0})
    ids = segmentation.maps["primary"].ids.copy()
    ids[0, :12, :12] = 77
    maps = {"primary": LesionMap(ids=ids.astype(np.uint16), grid=GRID, candidates=(77,))}
    assert case_response(case, replace(segmentation, maps=maps)).followup.keys() == {1}
