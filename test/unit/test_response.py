"""RECIST 1.1, rule by rule, on patients worked out by hand."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longilesion.response import (
    PARTIAL_RESPONSE_VOLUME,
    PROGRESSION_VOLUME,
    Assessment,
    Course,
    Lesion,
    Measured,
    Sum,
    Visit,
    assess,
    diameter_mm,
    doubling_time_days,
    is_measurable,
    overall_response,
    select_targets,
    target_response,
)

START = date(2026, 1, 1)


def sum_of(mm: float, *, error_mm: float = 0.0, is_complete: bool = True) -> Sum:
    return Sum(mm=mm, error_mm=error_mm, ml=mm, is_complete=is_complete)


def visit(longest_mm: dict[int, float], *, week: int | None = None, **others: object) -> Visit:
    """A visit of round lesions, of as many ml as mm."""
    return Visit(
        measured={each: Measured(longest_mm=mm, short_mm=mm, volume_ml=mm) for each, mm in longest_mm.items()},
        on=None if week is None else START + timedelta(weeks=week),
        **others,  # type: ignore[arg-type]
    )


def course(*visits: Visit, lesions: tuple[Lesion, ...] = (), slice_mm: float = 0.0) -> Course:
    known = {each.lesion_id for each in lesions}
    seen = {lesion_id for each in visits for lesion_id in (*each.measured, *each.not_assessed)}
    return assess((*lesions, *(Lesion(lesion_id=each) for each in sorted(seen - known))), visits, slice_mm=slice_mm)


def last(found: Course) -> Assessment:
    return found.assessments[-1]


# ------------------------------------------------------------------------------------------------ 4.3.1: target lesions


@pytest.mark.parametrize(
    ("before_mm", "after_mm", "expected"),
    [
        (50.0, 35.0, "PR"),  # exactly -30 %
        (50.0, 35.1, "SD"),  # -29.8 %
        (50.0, 50.0, "SD"),
        (50.0, 59.9, "SD"),  # +19.8 %, though 9.9 mm
        (50.0, 60.0, "PD"),  # exactly +20 %, 10 mm
        (20.0, 24.0, "SD"),  # exactly +20 %, but 4 mm
        (20.0, 24.9, "SD"),  # +24.5 %, but 4.9 mm
        (25.0, 30.0, "PD"),  # exactly +20 % and exactly 5 mm
        (20.0, 25.0, "PD"),  # +25 % and exactly 5 mm
        (10.0, 14.0, "SD"),  # +40 %, but 4 mm
        # Limits that binary numbers round: 0.7 x 14, 0.7 x 19, 1.2 x 31.5, 5.0 mm, 48 voxels of 0.7 mm after 40.
        (14.0, 9.8, "PR"),
        (19.0, 13.3, "PR"),
        (31.5, 37.8, "PD"),
        (11.4, 16.4, "PD"),
        (40 * 0.7, 48 * 0.7, "PD"),
        (0.7 + 0.7 + 12.6, 9.8, "PR"),
    ],
)
def test_limits_of_the_sum_are_inclusive(before_mm: float, after_mm: float, expected: str) -> None:
    baseline = sum_of(before_mm)
    assert target_response(sum_of(after_mm), baseline, baseline, all_gone=False) == expected


def test_progression_counts_from_the_smallest_sum_and_response_from_the_baseline() -> None:
    # 100, 60 (-40 %: PR), 71 (+18 % of 60, -29 %: SD), 72 (exactly +20 % of 60 and 12 mm: PD).
    found = course(*(visit({1: mm / 2, 2: mm / 2}) for mm in (100.0, 60.0, 71.0, 72.0)))
    assert [each.targets for each in found.assessments] == ["PR", "SD", "PD"]
    assert last(found).change == pytest.approx(-0.28)
    assert last(found).change_from_smallest == pytest.approx(0.2)
    assert found.best == "PR"


def test_everything_gone_is_complete_and_a_node_counts_as_gone_below_10_mm() -> None:
    node = Lesion(lesion_id=2, is_node=True)
    assert last(course(visit({1: 30.0, 2: 16.0}), visit({2: 9.9}), lesions=(node,))).overall == "CR"
    # Its 9.9 mm stay in the sum (4.3.2).
    assert last(course(visit({1: 30.0, 2: 16.0}), visit({2: 9.9}), lesions=(node,))).sum.mm == pytest.approx(9.9)
    assert last(course(visit({1: 30.0, 2: 16.0}), visit({2: 10.0}), lesions=(node,))).overall == "PR"


def test_nodes_are_measured_by_their_short_axis_and_others_by_the_longest_diameter() -> None:
    measured = Measured(longest_mm=30.0, short_mm=12.0)
    assert diameter_mm(Lesion(lesion_id=1), measured) == 30.0
    assert diameter_mm(Lesion(lesion_id=1, is_node=True), measured) == 12.0


def test_a_target_too_small_to_measure_counts_5_mm_and_one_that_is_gone_0() -> None:
    lesion = Lesion(lesion_id=1)
    assert [diameter_mm(lesion, Measured(longest_mm=mm)) for mm in (0.0, 2.0, 5.0, 6.0)] == [0.0, 5.0, 5.0, 6.0]
    assert diameter_mm(Lesion(lesion_id=1, is_node=True), Measured(longest_mm=4.0, short_mm=3.0)) == 3.0


def test_merged_targets_are_measured_once_and_split_ones_as_outlined() -> None:
    # 4.3.2: 20 + 20 before; one lesion of 35 mm afterwards is -12.5 %.
    found = last(course(visit({1: 20.0, 2: 20.0}), visit({1: 35.0}, part_of={2: 1})))
    assert (found.sum.mm, found.targets) == (35.0, "SD")
    # What they have merged into is not new, whatever its id.
    named = last(course(visit({1: 20.0, 2: 20.0}), visit({9: 35.0}, part_of={1: 9, 2: 9})))
    assert (named.sum.mm, named.overall, named.new) == (35.0, "SD", ())


# ------------------------------------------------------------------------------------- 3.1.1, 4.2: what can be a target


@pytest.mark.parametrize(
    ("is_node", "longest_mm", "short_mm", "slice_mm", "expected"),
    [
        (False, 10.0, 2.0, 0.0, True),
        (False, 9.9, 9.0, 0.0, False),
        (False, 10.0, 9.0, 5.0, True),  # slices of 5 mm: 10 mm
        (False, 15.9, 9.0, 8.0, False),  # slices of 8 mm: twice as much
        (False, 16.0, 9.0, 8.0, True),
        (True, 40.0, 14.9, 0.0, False),
        (True, 15.0, 15.0, 0.0, True),
    ],
)
def test_measurable_lesions(is_node: bool, longest_mm: float, short_mm: float, slice_mm: float, expected: bool) -> None:
    measured = Measured(longest_mm=longest_mm, short_mm=short_mm)
    assert is_measurable(Lesion(lesion_id=1, is_node=is_node), measured, slice_mm=slice_mm) == expected


def test_at_most_five_targets_and_two_of_an_organ_the_largest_ones() -> None:
    organs = {1: "liver", 2: "liver", 3: "liver", 4: "lung", 5: "lung", 6: "adrenal", 7: "bone"}
    lesions = [Lesion(lesion_id=each, organ=organ) for each, organ in organs.items()]
    sizes = visit({1: 20.0, 2: 50.0, 3: 30.0, 4: 12.0, 5: 40.0, 6: 11.0, 7: 45.0})
    # 2, 7, 5, 3 by size; 1 is the liver's third; 4 is the lung's second and the fifth of all.
    assert select_targets(lesions, sizes) == (2, 3, 4, 5, 7)


def test_lymph_nodes_are_one_organ_and_lesions_of_unknown_organs_are_not() -> None:
    sizes = visit(dict.fromkeys(range(1, 8), 20.0))
    nodes = [Lesion(lesion_id=each, organ=f"station {each}", is_node=True) for each in range(1, 8)]
    assert select_targets(nodes, sizes) == (1, 2)
    assert select_targets([Lesion(lesion_id=each) for each in range(1, 8)], sizes) == (1, 2, 3, 4, 5)


def test_targets_that_a_person_marked_are_taken_and_non_targets_left_out() -> None:
    sizes = visit({1: 20.0, 2: 30.0, 3: 8.0})
    marked = [Lesion(lesion_id=1), Lesion(lesion_id=2), Lesion(lesion_id=3, is_target=True)]
    assert select_targets(marked, sizes) == (3,)
    ruled_out = [Lesion(lesion_id=1), Lesion(lesion_id=2, is_target=False), Lesion(lesion_id=3)]
    assert select_targets(ruled_out, sizes) == (1,)


@given(st.dictionaries(st.integers(1, 30), st.floats(0, 100), max_size=20), st.integers(0, 9))
def test_targets_are_measurable_and_no_larger_lesion_of_a_free_organ_is_left_out(
    sizes: dict[int, float], organs: int
) -> None:
    lesions = [Lesion(lesion_id=each, organ=str(each % (organs + 1))) for each in sizes]
    chosen = select_targets(lesions, visit(sizes))
    organ_of = {each.lesion_id: each.organ for each in lesions}
    by_organ = [organ_of[each] for each in chosen]
    assert len(chosen) <= 5
    assert all(sizes[each] >= 9.999 for each in chosen)
    assert all(by_organ.count(organ) <= 2 for organ in by_organ)
    for each, mm in sizes.items():
        if mm >= 10 and each not in chosen:
            assert by_organ.count(organ_of[each]) == 2 or len(chosen) == 5
            # What is chosen in place of it, of its organ or of all, is at least as large.
            rivals = [other for other in chosen if organ_of[other] == organ_of[each]]
            if len(rivals) == 2:
                assert min(sizes[other] for other in rivals) >= mm
            else:
                assert min(sizes[other] for other in chosen) >= mm


# ------------------------------------------------------------- 4.3.3 to 4.3.5, 4.4.1: non-targets, new lesions, overall


@pytest.mark.parametrize(
    ("targets", "non_targets", "is_new", "expected"),
    [
        # Table 1
        ("CR", "CR", False, "CR"),
        ("CR", None, False, "CR"),
        ("CR", "non-CR/non-PD", False, "PR"),
        ("CR", "NE", False, "PR"),
        ("PR", "non-CR/non-PD", False, "PR"),
        ("PR", "NE", False, "PR"),
        ("SD", "non-CR/non-PD", False, "SD"),
        ("SD", "NE", False, "SD"),
        ("NE", "non-CR/non-PD", False, "NE"),
        ("PD", "CR", False, "PD"),
        ("CR", "PD", False, "PD"),
        ("CR", "CR", True, "PD"),
        # Table 2
        (None, "CR", False, "CR"),
        (None, "non-CR/non-PD", False, "non-CR/non-PD"),
        (None, "NE", False, "NE"),
        (None, "PD", False, "PD"),
        (None, "CR", True, "PD"),
        (None, None, False, "NE"),
    ],
)
def test_overall_response_is_that_of_tables_1_and_2(
    targets: str | None, non_targets: str | None, is_new: bool, expected: str
) -> None:
    assert overall_response(targets, non_targets, is_new=is_new) == expected  # type: ignore[arg-type]


def test_non_targets_are_judged_by_what_is_left_of_them_and_by_a_person() -> None:
    # 1 is the target; 2 is too small to be one; 3 is a pathological node that is not measurable, 4 a normal one.
    nodes = (Lesion(lesion_id=3, is_node=True), Lesion(lesion_id=4, is_node=True))
    before = visit({1: 30.0, 2: 8.0, 3: 12.0, 4: 9.0})
    found = course(before, visit({3: 9.0, 4: 9.0}), lesions=nodes)
    assert (found.targets, found.non_targets, last(found).non_targets, last(found).overall) == (
        (1,),
        (2, 3),
        "CR",
        "CR",
    )
    assert last(course(before, visit({2: 3.0}), lesions=nodes)).overall == "PR"
    assert last(course(before, visit({}, not_assessed=(2,)), lesions=nodes)).non_targets == "NE"
    grown = visit({1: 15.0, 2: 40.0})
    assert last(course(before, grown, lesions=nodes)).overall == "PR"
    judged = Visit(measured=grown.measured, progressing=(2,))
    assert last(course(before, judged, lesions=nodes)).overall == "PD"


def test_a_new_lesion_is_progression_from_then_on_and_a_normal_node_is_none() -> None:
    found = course(visit({1: 30.0}), visit({1: 10.0, 2: 6.0}), visit({1: 10.0}))
    assert [each.new for each in found.assessments] == [(2,), (2,)]
    assert [each.overall for each in found.assessments] == ["PD", "PD"]
    node = Lesion(lesion_id=2, is_node=True)
    assert last(course(visit({1: 30.0}), visit({1: 10.0, 2: 9.0}), lesions=(node,))).overall == "PR"
    assert last(course(visit({1: 30.0}), visit({1: 10.0, 2: 10.0}), lesions=(node,))).overall == "PD"


def test_what_comes_back_after_a_complete_response_is_progression() -> None:
    found = course(visit({1: 30.0, 2: 8.0}), visit({}), visit({2: 4.0}))
    assert [each.overall for each in found.assessments] == ["CR", "PD"]
    # Without one, it is measured again: 30 + 20, 30 (-40 %), 30 + 12 (-16 %, and +40 % and 12 mm from the smallest).
    back = course(visit({1: 30.0, 2: 20.0}), visit({1: 30.0}), visit({1: 30.0, 2: 4.0}))
    assert [each.overall for each in back.assessments] == ["PR", "PR"]


def test_a_target_that_was_not_assessed_leaves_only_progression_to_be_said() -> None:
    # 4.4.2: 50 mm in three targets; two of them alone have 80 mm.
    before = visit({1: 20.0, 2: 15.0, 3: 15.0})
    assert last(course(before, visit({1: 50.0, 2: 30.0}, not_assessed=(3,)))).overall == "PD"
    partly = course(before, visit({1: 10.0, 2: 5.0}, not_assessed=(3,)), visit({1: 20.0, 2: 15.0, 3: 15.0}))
    assert [each.overall for each in partly.assessments] == ["NE", "SD"]
    assert partly.best == "SD"


# ----------------------------------------------------------------------------- 4.4.3, 4.6: confirmation, best response


@pytest.mark.parametrize(
    ("weeks", "sums", "confirmed", "best", "best_confirmed"),
    [
        ((0, 8, 12), (100, 60, 60), [True, False], "PR", "PR"),
        ((0, 8, 11), (100, 60, 60), [False, False], "PR", "SD"),  # three weeks later is too early
        ((0, 8, 12), (100, 60, 75), [False, None], "PR", "PD"),  # +25 % of 60 is progression
        ((0, 8, 12), (100, 60, 71), [False, None], "PR", "SD"),  # -29 %
        ((0, 8, 12, 16), (100, 60, 90, 60), [False, None, False], "PR", "PD"),  # nothing counts after progression
        ((0, 8, 12), (100, 0, 0), [True, False], "CR", "CR"),
        ((0, 8, 12), (100, 60, 0), [True, False], "CR", "PR"),
    ],
)
def test_a_response_is_confirmed_four_weeks_later(
    weeks: tuple[int, ...], sums: tuple[float, ...], confirmed: list[bool | None], best: str, best_confirmed: str
) -> None:
    found = course(*(visit({1: mm} if mm else {}, week=week) for week, mm in zip(weeks, sums, strict=True)))
    assert [each.is_confirmed for each in found.assessments] == confirmed
    if best_confirmed == "PD":
        # Table 3: PR then PD is stable disease only if that lasted long enough, which the program does not decide.
        best_confirmed = "SD"
    assert (found.best, found.best_confirmed) == (best, best_confirmed)


def test_without_dates_nothing_is_confirmed_or_denied() -> None:
    found = course(visit({1: 100.0}), visit({1: 60.0}), visit({1: 60.0}))
    assert [each.is_confirmed for each in found.assessments] == [None, None]
    assert (found.best, found.best_confirmed) == ("PR", None)


def test_dates_that_run_backwards_and_no_visit_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="run backwards"):
        course(visit({1: 20.0}, week=3), visit({1: 20.0}, week=2))
    with pytest.raises(ValueError, match="no visit"):
        course()


# ---------------------------------------------------------------------------- errors of measurement, volumes, doubling


@pytest.mark.parametrize(
    ("before_mm", "after_mm", "error_mm", "response", "could_be"),
    [
        (100.0, 100.0, 5.0, "SD", ()),
        (100.0, 72.0, 2.0, "SD", ("PR",)),  # 2 mm from the limit; the error of after - 0.7 before is 2.4 mm
        (100.0, 73.0, 2.0, "SD", ()),
        (100.0, 69.0, 2.0, "PR", ("SD",)),
        (100.0, 121.0, 2.0, "PD", ("SD",)),
        (100.0, 118.0, 2.0, "SD", ("PD",)),  # the error of after - 1.2 before is 3.1 mm
        (100.0, 116.0, 2.0, "SD", ()),
        (15.0, 19.0, 1.0, "SD", ("PD",)),  # 4 of 5 mm, with an error of 1.4 mm
        (100.0, 60.0, 0.0, "PR", ()),
    ],
)
def test_a_response_within_the_error_of_a_limit_says_what_else_it_could_be(
    before_mm: float, after_mm: float, error_mm: float, response: str, could_be: tuple[str, ...]
) -> None:
    visits = (
        Visit(measured={1: Measured(longest_mm=mm, short_mm=mm, volume_ml=1.0, error_mm=error_mm)})
        for mm in (before_mm, after_mm)
    )
    found = last(course(*visits))
    assert (found.targets, found.could_be) == (response, could_be)


def test_errors_of_several_targets_add_as_squares() -> None:
    both = {each: Measured(longest_mm=20.0, short_mm=20.0, error_mm=error) for each, error in ((1, 3.0), (2, 4.0))}
    assert last(course(Visit(measured=both), Visit(measured=both))).sum.error_mm == pytest.approx(5.0)


def test_the_limits_of_volumes_are_those_of_a_sphere() -> None:
    assert pytest.approx(0.343) == 1 + PARTIAL_RESPONSE_VOLUME
    assert pytest.approx(1.728) == 1 + PROGRESSION_VOLUME
    for ml, expected in ((0.0, "CR"), (34.3, "PR"), (34.4, "SD"), (172.7, "SD"), (172.9, "PD")):
        before, after = (
            Visit(measured={1: Measured(longest_mm=20.0 if volume else 0.0, short_mm=20.0, volume_ml=volume)})
            for volume in (100.0, ml)
        )
        assert last(course(before, after)).by_volume == expected


@pytest.mark.parametrize(
    ("before_ml", "after_ml", "days", "expected"),
    [(1.0, 2.0, 30.0, 30.0), (1.0, 8.0, 90.0, 30.0), (8.0, 4.0, 20.0, -20.0), (2.0, 2.0, 30.0, None)],
)
def test_doubling_time(before_ml: float, after_ml: float, days: float, expected: float | None) -> None:
    before, after = (Measured(longest_mm=1.0, volume_ml=volume) for volume in (before_ml, after_ml))
    found = doubling_time_days(before, after, days)
    assert found == (None if expected is None else pytest.approx(expected))


def test_no_doubling_time_of_what_is_gone_or_new_or_without_time_between() -> None:
    there, gone = Measured(longest_mm=10.0, volume_ml=1.0), Measured()
    grown = Measured(longest_mm=12.0, volume_ml=2.0)
    assert doubling_time_days(there, gone, 30.0) is None
    assert doubling_time_days(gone, there, 30.0) is None
    assert doubling_time_days(there, grown, 0.0) is None
