from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from longilesion.diagnosis_settings import LESION_TYPES, LesionType
from longilesion.errors import InputError
from longilesion.evaluation.bootstrap import Bootstrap, Estimate, roc_areas
from longilesion.evaluation.diagnosis_exam import DiagnosedExam
from longilesion.evaluation.diagnosis_figures import (
    SCORINGS,
    DiagnosisFigures,
    Figures,
    diagnosis_difference,
    diagnosis_figures,
)
from longilesion.evaluation.lesions import best_matches
from longilesion.evaluation.overlap import Overlap
from test.unit.diagnoses import PLACES, Lesions, diagnosis, drawn_exams, exam, sure_of

HCC: Lesions = {1: (PLACES[0], "hcc")}
NOTHING: Lesions = {}


def figures(exams: Sequence[DiagnosedExam], *, draws: int = 200, seed: int = 0) -> DiagnosisFigures:
    return diagnosis_figures(exams, Bootstrap(len(exams), draws=draws, seed=seed))


def patient(name: str, types: Sequence[LesionType], **probabilities: float) -> DiagnosedExam:
    """A patient with a lesion of each type, diagnosed by the patient's probabilities alone."""
    true = {number: (corner, kind) for number, (corner, kind) in enumerate(zip(PLACES, types, strict=False), start=1)}
    return exam(name, true, diagnosis(NOTHING, probabilities))


def estimates(found: Figures) -> list[Estimate]:
    return [*found.patient.values(), *found.by_volume.values(), *found.lesions.values()]


def counted_pairs(is_positive: Sequence[bool], certainty: Sequence[float], weights: Sequence[float]) -> float | None:
    """The share of pairs in the right order, pair by pair."""
    right, pairs = 0.0, 0.0
    for i, high in enumerate(certainty):
        for j, low in enumerate(certainty):
            if is_positive[i] and not is_positive[j]:
                pairs += weights[i] * weights[j]
                right += weights[i] * weights[j] * (1.0 if high > low else 0.5 if high == low else 0.0)
    return right / pairs if pairs else None


# ----------------------------------------------------------------------------------------------------------- ROC areas
SAMPLES = st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), max_size=12)


@given(SAMPLES)
def test_roc_areas_count_pairs(samples: list[tuple[bool, int, int]]) -> None:
    is_positive, certainty, weights = ([sample[place] for sample in samples] for place in range(3))
    expected = counted_pairs(is_positive, certainty, weights)
    with np.errstate(invalid="ignore"):
        twice = roc_areas(
            np.array(is_positive, np.bool_), np.array(certainty, np.float64), np.array([weights, weights], np.float64)
        )
    np.testing.assert_allclose(twice, [np.nan if expected is None else expected] * 2)


def test_roc_areas_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    is_positive, certainty = generator.random(50) < 0.3, generator.random(50).round(1)
    weights = generator.multinomial(50, np.full(50, 1 / 50), size=20).astype(np.float64)
    expected = [roc_auc_score(is_positive, certainty, sample_weight=drawn) for drawn in weights]
    np.testing.assert_allclose(roc_areas(is_positive, certainty, weights), expected)


# ------------------------------------------------------------------------------------------------------------ matching
def test_lesions_match_whatever_their_ids() -> None:
    true: Lesions = {1: (PLACES[0], "hcc"), 2: (PLACES[1], "cyst"), 3: (PLACES[2], "fnh")}
    found: Lesions = {2: (PLACES[0], "hcc"), 3: (PLACES[1], "hcc"), 7: (PLACES[3], "icc")}
    judged = exam("a", true, diagnosis(found)).lesions
    assert [(each.true_id, each.predicted_id) for each in judged] == [(1, 2), (2, 3), (3, None), (None, 7)]
    assert [each.is_match for each in judged] == [True, True, False, False]
    assert [(each.iou, each.dice) for each in judged] == [(1.0, 1.0), (1.0, 1.0), (None, None), (None, None)]
    assert [each.predicted_type for each in judged] == ["hcc", "hcc", None, "icc"]


@pytest.mark.parametrize(("corner", "is_found"), [((0, 2, 1), True), ((1, 2, 1), True), ((1, 2, 2), False)])
def test_lesion_is_found_from_an_overlap_of_a_tenth(corner: Sequence[int], is_found: bool) -> None:
    # Shifted by a voxel along one, two or three axes: 4 of 12, 2 of 14, 1 of 15 voxels.
    judged = exam("a", HCC, diagnosis({1: (corner, "hcc")})).lesions
    assert [each.is_match for each in judged] == ([True] if is_found else [False, False])


def test_too_small_an_overlap_takes_no_match_away() -> None:
    true, found = np.zeros((2, 1, 1, 80), np.uint16)
    true[..., :20], true[..., 20:40] = 1, 2
    # Label 5 covers 5 and 3 voxels of the two lesions, label 6 covers 3 of the first; each has 20.
    found[..., :5], found[..., 20:23], found[..., 40:52] = 5, 5, 5
    found[..., 5:8], found[..., 52:69] = 6, 6
    overlap = Overlap.of(true, found)
    # The sum of Dice is highest for two matches, neither of which counts.
    assert best_matches(overlap) == {1: 6, 2: 5}
    assert best_matches(overlap, least_iou=0.1) == {1: 5}


def test_dice_of_a_patient_is_that_of_all_voxels() -> None:
    true: Lesions = {1: (PLACES[0], "hcc"), 2: (PLACES[1], "cyst")}
    # One lesion half, one not at all, one false: 4 voxels of 16 and 16.
    found: Lesions = {1: ((0, 2, 1), "hcc"), 2: (PLACES[2], "cyst")}
    assert exam("a", true, diagnosis(found)).dice == pytest.approx(2 * 4 / 32)
    assert exam("a", NOTHING, diagnosis(found)).dice is None


# ---------------------------------------------------------------------------------------------------- types of patients
@given(st.lists(st.tuples(st.sets(st.sampled_from(LESION_TYPES[:3]), max_size=2), st.integers(0, 4)), min_size=1))
@settings(max_examples=30, deadline=None)
def test_area_of_a_type_counts_pairs_of_patients(drawn: list[tuple[set[LesionType], int]]) -> None:
    exams = [patient(f"{place:03}", sorted(types), icc=sure / 4) for place, (types, sure) in enumerate(drawn)]
    expected = counted_pairs(["icc" in types for types, _ in drawn], [sure for _, sure in drawn], [1.0] * len(drawn))
    found = figures(exams, draws=1)
    for scoring in SCORINGS:
        value = getattr(found, scoring)["icc"].value
        assert value == (None if expected is None else pytest.approx(expected))
    assert found.with_type["icc"] == sum("icc" in types for types, _ in drawn)


def test_types_that_all_or_none_have_are_left_out_of_the_mean() -> None:
    exams = [
        patient("a", ["cyst", "hcc"], cyst=0.5, hcc=0.9, fnh=0.1),
        patient("b", ["cyst", "fnh"], cyst=0.5, hcc=0.2, fnh=0.1),
        patient("c", ["cyst"], cyst=0.5, hcc=0.3, fnh=0.3),
    ]
    found = figures(exams).patient
    assert {kind: found[kind].value for kind in LESION_TYPES} == {
        **dict.fromkeys(LESION_TYPES),
        "hcc": 1.0,
        "fnh": 0.25,
    }
    assert (found["auc_8"].value, found["auc_8"].count) == (0.625, 2)


def test_type_that_a_method_does_not_know_is_told_by_chance() -> None:
    assert figures([patient("a", ["fnh"], hcc=0.1), patient("b", ["hcc"], hcc=0.9)]).patient["fnh"].value == 0.5


def test_malignant_against_benign() -> None:
    exams = [
        patient("malignant", ["metastasis"], hcc=0.1, metastasis=0.6),
        patient("malignant beside a cyst", ["icc", "cyst"], icc=0.4, cyst=1.0),
        patient("benign", ["cyst", "fnh"], hcc=0.5, cyst=1.0),
        patient("benign beside a rare one", ["haemangioma", "other"], icc=0.1, haemangioma=0.9),
        # Left out, though surest of all.
        patient("rare alone", ["other"], hcc=1.0),
        patient("healthy", [], hcc=1.0),
    ]
    found = figures(exams).patient["auc_2"]
    assert (found.value, found.count) == (0.75, 4)


# -------------------------------------------------------------------------------------------------------- all figures
def test_perfect_diagnosis_has_1_everywhere() -> None:
    true = [{1: (PLACES[0], kind), 2: (PLACES[1], LESION_TYPES[0])} for kind in LESION_TYPES] + [
        {1: (PLACES[2], kind)} for kind in LESION_TYPES[1:]
    ]
    exams = [exam(f"{place:02}", lesions, diagnosis(lesions)) for place, lesions in enumerate(true)]
    found = figures(exams)
    assert {estimate.value for estimate in estimates(found)} == {1.0}
    assert found.patient["auc_8"].count == 8
    assert found.confusion == tuple(
        tuple((9 if row == 0 else 2 if row < 8 else 0) if row == column else 0 for column in range(9))
        for row in range(9)
    )


def test_diagnosis_of_nothing() -> None:
    exams = [exam("a", HCC, diagnosis(NOTHING)), exam("b", {1: (PLACES[0], "cyst")}, diagnosis(NOTHING))]
    found = figures(exams)
    assert {key: estimate.value for key, estimate in found.lesions.items()} == {
        "precision": None,
        "sensitivity": 0.0,
        "accuracy": None,
        "dice": 0.0,
    }
    assert (found.patient["auc_8"].value, found.patient["auc_8"].count) == (0.5, 2)
    assert found.patient["auc_2"].value == 0.5
    missed = {row: found.confusion[found.categories.index(row)] for row in ("hcc", "cyst")}
    assert missed == {"hcc": (0,) * 8 + (1,), "cyst": (0,) * 8 + (1,)}


def test_healthy_patients_alone() -> None:
    found = figures([exam(name, NOTHING, diagnosis(NOTHING)) for name in "ab"])
    assert {estimate.value for estimate in estimates(found)} == {None}
    assert {number for row in found.confusion for number in row} == {0}


def test_figures_of_the_lesions() -> None:
    true: Lesions = {1: (PLACES[0], "hcc"), 2: (PLACES[1], "cyst"), 3: (PLACES[2], "fnh")}
    found: Lesions = {1: (PLACES[0], "hcc"), 2: (PLACES[1], "hcc"), 9: (PLACES[3], "icc")}
    # A healthy patient with a false finding lowers the precision, and has no Dice.
    exams = [exam("a", true, diagnosis(found)), exam("b", NOTHING, diagnosis({1: (PLACES[0], "other")}))]
    values = {key: (estimate.value, estimate.count) for key, estimate in figures(exams).lesions.items()}
    assert values["precision"] == (0.5, 4)
    assert values["sensitivity"] == (pytest.approx(2 / 3), 3)
    assert values["accuracy"] == (0.5, 2)
    assert values["dice"] == (pytest.approx(2 / 3), 1)
    confusion = figures(exams).confusion
    named = {
        (row, column): confusion[i][j]
        for i, row in enumerate(figures(exams).categories)
        for j, column in enumerate(figures(exams).categories)
        if confusion[i][j]
    }
    assert named == {
        ("hcc", "hcc"): 1,
        ("cyst", "hcc"): 1,
        ("fnh", "none"): 1,
        ("none", "icc"): 1,
        ("none", "other"): 1,
    }


@pytest.mark.parametrize("seed", range(3))
def test_intervals_contain_the_value(seed: int) -> None:
    for estimate in estimates(figures(drawn_exams(40, seed=seed), draws=300, seed=seed)):
        assert None not in (estimate.value, estimate.low, estimate.high)
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.low < estimate.high


@given(st.permutations(range(12)))
@settings(max_examples=10, deadline=None)
def test_order_of_the_exams_changes_nothing(order: Sequence[int]) -> None:
    exams = drawn_exams(12)
    assert figures([exams[place] for place in order], draws=20) == figures(exams, draws=20)


@given(st.permutations(range(1, 5)), st.permutations(range(1, 5)))
@settings(max_examples=10, deadline=None)
def test_ids_change_nothing(true_ids: Sequence[int], found_ids: Sequence[int]) -> None:
    kinds: Sequence[LesionType] = ("hcc", "cyst", "fnh", "icc")
    others: Sequence[LesionType] = ("hcc", "cyst", "hcc", "icc")

    def exams(first: Sequence[int], second: Sequence[int]) -> list[DiagnosedExam]:
        true = {lesion_id: (corner, kind) for lesion_id, corner, kind in zip(first, PLACES, kinds, strict=True)}
        found = {lesion_id: (corner, kind) for lesion_id, corner, kind in zip(second, PLACES[:3], others, strict=False)}
        return [exam("a", true, diagnosis(found)), exam("b", HCC, diagnosis(HCC))]

    assert figures(exams(true_ids, found_ids[:3])) == figures(exams((1, 2, 3, 4), (1, 2, 3)))


# --------------------------------------------------------------------------------------------------------- differences
def test_difference_is_that_of_the_values_on_the_same_draws() -> None:
    exams = drawn_exams(30)
    worse = [each.model_copy(update={"patient": sure_of("hcc"), "lesions": each.lesions[:2]}) for each in exams]
    bootstrap = Bootstrap(30, draws=200, seed=0)
    first, second = diagnosis_figures(exams, bootstrap), diagnosis_figures(worse, bootstrap)
    # In another order, which changes nothing.
    found = diagnosis_difference(("first", exams), ("second", worse[::-1]), bootstrap)
    for group in ("patient", "lesions"):
        for key, difference in getattr(found, group).items():
            values = [getattr(each, group)[key].value for each in (first, second)]
            assert difference.value == pytest.approx(values[0] - values[1])
    # A constant probability has an area of 0.5 in every draw, so that the difference varies as the area.
    area, difference = first.patient["hcc"], found.patient["hcc"]
    assert (difference.low, difference.high) == pytest.approx((area.low - 0.5, area.high - 0.5))
    # Equal in both, so equal in each draw.
    same = found.by_volume["auc_8"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_methods_on_different_exams_are_not_compared() -> None:
    exams = drawn_exams(3)
    with pytest.raises(InputError, match=r"one and two: .* different exams; expected"):
        diagnosis_difference(("one", exams[:2]), ("two", exams[1:]), Bootstrap(2, draws=1, seed=0))
