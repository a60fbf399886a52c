import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import pytest

from longilesion.case import LesionMap
from longilesion.evaluation.bootstrap import Bootstrap, Estimate
from longilesion.evaluation.challenge import ChallengeScore
from longilesion.evaluation.comparison import compare, interaction, rank
from longilesion.evaluation.detection import ExamLesions
from longilesion.evaluation.exam import (
    BaselineLesion,
    Exam,
    Fate,
    FollowupClick,
    LesionFact,
    Prediction,
    ScoringSettings,
)
from longilesion.evaluation.lesion_table import completed_facts
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.longitudinal import (
    FATES,
    PatientResponse,
    agreement,
    confusion,
    longitudinal_figures,
    patient_change,
)
from longilesion.evaluation.run import EvaluationReport
from longilesion.evaluation.scoring import ExamScore, score_exam
from longilesion.evaluation.strata import score_strata, strata_of
from longilesion.evaluation.summary import Evaluation, summarise
from longilesion.geometry import Grid

DRAWS = 50


def lesion(
    lesion_id: int,
    *,
    exam: str = "a",
    scan: str | None = "primary",
    fate: Fate | None = "persists",
    predicted_fate: Fate | None = "persists",
    into: int | None = None,
    before_mm: float | None = None,
    true_mm: float = 0.0,
    predicted_mm: float = 0.0,
    before_ml: float | None = None,
    true_ml: float | None = None,
    predicted_ml: float | None = None,
    dice: float | None = None,
    **others: Any,
) -> LesionScore:
    """A row as score_lesions makes it; volumes that are not given are those of the diameters, in ml per mm.

    `into` is the lesion that this one has become part of, whose row has the measures of both.
    """
    true_id = None if fate == "gone" else into or lesion_id
    is_measured = true_id == lesion_id
    return LesionScore(
        **{
            "exam": exam,
            "scan": scan,
            "lesion_id": lesion_id,
            "true_id": true_id,
            "fate": fate,
            "predicted_fate": predicted_fate,
            "lesion_type": None,
            "is_target": None,
            "diameter_mm": true_mm if is_measured else before_mm,
            "click_error_mm": None,
            "presence": None,
            "baseline_volume_ml": before_mm if before_ml is None else before_ml,
            "baseline_diameter_mm": before_mm,
            "true_volume_ml": true_mm if true_ml is None else true_ml,
            "predicted_volume_ml": predicted_mm if predicted_ml is None else predicted_ml,
            "true_diameter_mm": true_mm,
            "predicted_diameter_mm": predicted_mm,
            "dice": (0.5 if dice is None else dice) if is_measured else None,
            **others,
        }
    )


def gone(lesion_id: int, *, predicted_fate: Fate = "gone", **others: Any) -> LesionScore:
    return lesion(lesion_id, scan=None, fate="gone", predicted_fate=predicted_fate, **others)


def response(*rows: LesionScore, unknown_labels: int = 0) -> PatientResponse:
    return patient_change(rows, unknown_labels=unknown_labels, extra_ml=0.0).response


def draws(patients: int, count: int = DRAWS) -> Bootstrap:
    return Bootstrap(patients, draws=count, seed=0)


# -------------------------------------------------------------------------------------------- response: the patients


def test_sums_are_of_the_targets_as_measured_before_now_and_as_predicted() -> None:
    found = response(
        lesion(1, before_mm=30.0, true_mm=20.0, predicted_mm=31.0),
        lesion(2, before_mm=20.0, true_mm=14.0, predicted_mm=19.0),
        gone(3, before_mm=10.0),
    )
    # 30 + 20 + 10 before; 34 now is -43 %; 50 as predicted is -17 %.
    assert found == PatientResponse(
        targets=(1, 2, 3),
        baseline_sum_mm=60.0,
        true_sum_mm=34.0,
        predicted_sum_mm=50.0,
        true_response="PR",
        predicted_response="SD",
    )


def test_everything_gone_is_a_complete_response_if_nothing_is_predicted_either() -> None:
    assert (response(gone(1, before_mm=20.0)).true_response) == "CR"
    assert (response(gone(1, before_mm=20.0)).predicted_response) == "CR"
    still_outlined = response(gone(1, before_mm=20.0, predicted_mm=12.0, predicted_fate="persists"))
    assert (still_outlined.true_response, still_outlined.predicted_response) == ("CR", "PR")


def test_lesion_of_exactly_10_mm_is_measured_and_a_smaller_one_is_not() -> None:
    found = response(
        lesion(1, before_mm=10.0, true_mm=10.0, predicted_mm=10.0),
        lesion(2, before_mm=9.9, true_mm=30.0, predicted_mm=30.0),
    )
    assert found.targets == (1,)
    assert (found.baseline_sum_mm, found.true_sum_mm, found.true_response) == (10.0, 10.0, "SD")


def test_no_measurable_lesion_has_no_response() -> None:
    found = response(lesion(1, before_mm=9.0, true_mm=30.0, predicted_mm=30.0))
    assert (found.targets, found.true_response, found.predicted_response) == ((), None, None)


def test_patient_without_any_lesion_has_no_response() -> None:
    change = patient_change([], unknown_labels=0, extra_ml=0.0)
    assert (change.response.true_response, change.response.predicted_response) == (None, None)
    assert (list(change.changes_ml), change.burden_change_ml) == ([], (0.0, 0.0))


def test_only_the_five_largest_before_are_measured() -> None:
    sizes = {1: 15.0, 2: 60.0, 3: 50.0, 4: 40.0, 5: 30.0, 6: 20.0}
    rows = [lesion(number, before_mm=size, true_mm=size, predicted_mm=size) for number, size in sizes.items()]
    # The sixth grows to 100 mm without being measured.
    rows[0] = lesion(1, before_mm=15.0, true_mm=100.0, predicted_mm=100.0)
    found = response(*rows)
    assert found.targets == (2, 3, 4, 5, 6)
    assert (found.baseline_sum_mm, found.true_sum_mm, found.true_response) == (200.0, 200.0, "SD")


def test_lesion_marked_as_no_target_is_left_out_of_the_largest() -> None:
    # Nobody says what the targets are; only that the largest is none.
    found = response(
        lesion(1, before_mm=40.0, true_mm=80.0, predicted_mm=80.0, is_target=False),
        lesion(2, before_mm=20.0, true_mm=10.0, predicted_mm=20.0),
        lesion(3, before_mm=12.0, true_mm=8.0, predicted_mm=12.0),
    )
    assert found.targets == (2, 3)
    assert (found.baseline_sum_mm, found.true_sum_mm, found.predicted_sum_mm) == (32.0, 18.0, 32.0)
    assert (found.true_response, found.predicted_response) == ("PR", "SD")


def test_lesions_marked_as_targets_are_measured_and_no_others() -> None:
    found = response(
        lesion(1, before_mm=40.0, true_mm=80.0, predicted_mm=80.0, is_target=False),
        lesion(2, before_mm=8.0, true_mm=4.0, predicted_mm=8.0, is_target=True),
        lesion(3, before_mm=12.0, true_mm=8.0, predicted_mm=12.0, is_target=True),
    )
    # 8 + 12 = 20 before, 5 (what is too small to be measured) + 8 = 13 now: -35 %.
    assert found.targets == (2, 3)
    assert (found.baseline_sum_mm, found.true_sum_mm, found.predicted_sum_mm) == (20.0, 13.0, 20.0)
    assert (found.true_response, found.predicted_response) == ("PR", "SD")


def test_new_lesion_marked_as_target_has_nothing_to_be_compared_with() -> None:
    found = response(
        lesion(1, before_mm=20.0, true_mm=10.0, predicted_mm=10.0),
        lesion(2, before_mm=0.0, true_mm=15.0, predicted_mm=15.0, fate="new", predicted_fate="new", is_target=True),
    )
    assert found.targets == (1,)
    assert (found.true_sum_mm, found.true_response, found.predicted_response) == (10.0, "PD", "PD")


def test_two_targets_that_merged_count_once_in_the_followup() -> None:
    found = response(
        lesion(1, fate="merged", predicted_fate="merged", before_mm=30.0, true_mm=40.0, predicted_mm=42.0),
        # The label that was predicted for the part is in the outline of 42 mm already.
        lesion(2, scan=None, fate="merged", predicted_fate="persists", into=1, before_mm=20.0, predicted_mm=15.0),
    )
    assert found.targets == (1, 2)
    # 50 before, 40 now: -20 %.
    assert (found.baseline_sum_mm, found.true_sum_mm, found.predicted_sum_mm) == (50.0, 40.0, 42.0)
    assert found.true_response == "SD"


def test_target_that_merged_into_a_small_lesion_is_measured_there() -> None:
    found = response(
        lesion(6, fate="merged", predicted_fate="merged", before_mm=8.0, true_mm=28.0, predicted_mm=28.0),
        lesion(2, scan=None, fate="merged", predicted_fate="merged", into=6, before_mm=20.0),
    )
    assert found.targets == (2,)
    # 20 before, 28 now: +40 % and 8 mm.
    assert (found.baseline_sum_mm, found.true_sum_mm, found.true_response) == (20.0, 28.0, "PD")


def test_targets_that_merged_into_an_id_unknown_before_are_no_new_lesion() -> None:
    found = response(
        lesion(1, scan=None, fate="merged", predicted_fate="merged", into=9, before_mm=15.0),
        lesion(2, scan=None, fate="merged", predicted_fate="merged", into=9, before_mm=15.0),
        lesion(9, fate="merged", predicted_fate="merged", before_mm=0.0, true_mm=28.0, predicted_mm=28.0),
    )
    assert found.targets == (1, 2)
    assert (found.true_sum_mm, found.predicted_sum_mm) == (28.0, 28.0)
    assert (found.true_response, found.predicted_response) == ("SD", "SD")


def test_label_of_no_known_lesion_is_predicted_as_new() -> None:
    row = lesion(1, before_mm=20.0, true_mm=20.0, predicted_mm=20.0)
    assert response(row).predicted_response == "SD"
    found = response(row, unknown_labels=1)
    assert (found.true_response, found.predicted_response) == ("SD", "PD")


def test_missed_new_lesion_is_no_progression_as_predicted() -> None:
    found = response(
        lesion(1, before_mm=20.0, true_mm=20.0, predicted_mm=20.0),
        lesion(2, before_mm=0.0, true_mm=12.0, fate="new", predicted_fate="gone"),
    )
    assert (found.true_response, found.predicted_response) == ("PD", "SD")


def test_lesion_in_both_scans_is_measured_where_it_is_larger() -> None:
    shared = {"before_mm": 20.0, "before_ml": 3.0}
    change = patient_change(
        [
            lesion(1, scan="primary", **shared, true_mm=24.0, predicted_mm=22.0, true_ml=5.0, predicted_ml=4.0),
            lesion(1, scan="secondary", **shared, true_mm=6.0, predicted_mm=7.0, true_ml=1.0, predicted_ml=2.0),
        ],
        unknown_labels=0,
        extra_ml=0.0,
    )
    assert [row.scan for row in change.lesions] == ["primary"]
    assert (change.response.baseline_sum_mm, change.response.true_sum_mm) == (20.0, 24.0)
    assert list(change.changes_ml) == [(2.0, 1.0)]


# ------------------------------------------------------------------------------------------------- change of volume


def test_changes_of_volume_are_of_lesions_that_were_there_and_the_burden_is_of_all() -> None:
    change = patient_change(
        [
            lesion(1, before_ml=2.0, true_ml=1.0, predicted_ml=2.5),
            lesion(2, fate="new", predicted_fate="new", before_ml=0.0, true_ml=3.0, predicted_ml=2.0),
            gone(3, before_ml=4.0, predicted_ml=0.5),
        ],
        unknown_labels=0,
        extra_ml=0.25,
    )
    assert list(change.changes_ml) == [(-1.0, 0.5), (-4.0, -3.5)]
    # 6 before, 4 now; 2.5 + 2 + 0.5 + 0.25 as predicted.
    assert change.burden_change_ml == (-2.0, -0.75)


def test_merged_lesions_change_as_one() -> None:
    change = patient_change(
        [
            lesion(1, fate="merged", predicted_fate="merged", before_ml=1.0, true_ml=4.0, predicted_ml=3.0),
            # One of the three predicted ml has the part's own id.
            lesion(2, scan=None, fate="merged", predicted_fate="persists", into=1, before_ml=2.0, predicted_ml=1.0),
        ],
        unknown_labels=0,
        extra_ml=0.0,
    )
    assert list(change.changes_ml) == [(1.0, 0.0)]
    assert change.burden_change_ml == (1.0, 0.0)


def test_agreement_of_three_lesions_by_hand() -> None:
    # True changes -1, 0, 3 and predicted ones 0, 1, 0 differ by 1, 1, -3: mean -1/3. The squares of 4/3, 4/3 and -8/3
    # are 96/9 in all, half of that is 16/3, whose root is 4 / sqrt(3).
    found = agreement([(0, -1.0, 0.0), (0, 0.0, 1.0), (1, 3.0, 0.0)], draws(2))
    spread = 4 / math.sqrt(3)
    assert found.bias.value == pytest.approx(-1 / 3)
    assert found.bias.count == 3
    assert found.lower_limit == pytest.approx(-1 / 3 - 1.96 * spread)
    assert found.upper_limit == pytest.approx(-1 / 3 + 1.96 * spread)
    # Means 2/3 and 1/3, variances 10/3 - 4/9 = 26/9 and 1/3 - 1/9 = 2/9, covariance 0 - 2/9:
    # 2 x (-2/9) / (26/9 + 2/9 + 1/9) = -4/29.
    assert found.concordance.value == pytest.approx(-4 / 29)


def test_constant_error_lowers_the_concordance_by_its_square() -> None:
    # 1, 2, 3 against 2, 3, 4: variances and covariance 2/3; 2 x 2/3 / (2/3 + 2/3 + 1) = 4/7. No spread at all.
    found = agreement([(0, 1.0, 2.0), (1, 2.0, 3.0), (2, 3.0, 4.0)], draws(3))
    assert found.concordance.value == pytest.approx(4 / 7)
    assert (found.lower_limit, found.upper_limit) == (pytest.approx(1.0), pytest.approx(1.0))


def test_perfect_changes_agree_fully() -> None:
    found = agreement([(0, 1.0, 1.0), (1, -2.0, -2.0)], draws(2))
    assert (found.bias.value, found.concordance.value) == (0.0, pytest.approx(1.0))
    assert (found.lower_limit, found.upper_limit) == (0.0, 0.0)


def test_one_lesion_has_a_bias_and_no_limits() -> None:
    found = agreement([(0, 1.0, 3.0)], draws(1))
    assert found.bias == Estimate(value=2.0, low=None, high=None, count=1)
    assert (found.lower_limit, found.upper_limit) == (None, None)


def test_no_lesion_has_no_agreement() -> None:
    found = agreement([], draws(2))
    nothing = Estimate(value=None, low=None, high=None, count=0)
    assert (found.bias, found.concordance) == (nothing, nothing)
    assert (found.lower_limit, found.upper_limit) == (None, None)


# ---------------------------------------------------------------------------------------------- confusion and kappa


def test_confusion_of_fates_by_hand() -> None:
    pairs = [
        *[(0, "persists", "persists")] * 3,
        (0, "persists", "gone"),
        (1, "new", "new"),
        (1, "gone", "gone"),
        (1, "gone", "persists"),
        (1, "merged", "merged"),
    ]
    found = confusion(pairs, FATES, draws(2), is_ordered=False)
    assert found.categories == ("persists", "new", "gone", "merged")
    assert found.counts == [[3, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    # Agreed 6/8; by chance (4 x 4 + 1 x 1 + 2 x 2 + 1 x 1) / 64 = 22/64; (48 - 22) / (64 - 22).
    assert found.kappa.value == pytest.approx(26 / 42)
    assert found.kappa.count == 8
    assert found.weighted_kappa is None


def test_weighted_kappa_counts_the_steps_between_responses() -> None:
    # Only PD is wrong, taken for CR. Agreed 3/4, by chance (1 x 2 + 1 + 1 + 0) / 16: (3/4 - 1/4) / (3/4) = 2/3.
    # Three steps off in 4 patients: 3/4. By chance: CR predicted twice, each 0 + 1 + 2 + 3 steps from the four truths;
    # PR 1 + 0 + 1 + 2; SD 2 + 1 + 0 + 1; 20 / 16. 1 - (3/4) / (5/4) = 2/5.
    pairs = [(0, "CR", "CR"), (1, "PR", "PR"), (2, "SD", "SD"), (3, "PD", "CR")]
    found = confusion(pairs, ("CR", "PR", "SD", "PD"), draws(4), is_ordered=True)
    assert found.counts == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    assert found.kappa.value == pytest.approx(2 / 3)
    assert found.weighted_kappa is not None
    assert found.weighted_kappa.value == pytest.approx(2 / 5)


def test_kappa_is_not_defined_where_all_is_of_one_category() -> None:
    found = confusion([(0, "SD", "SD"), (1, "SD", "SD")], ("CR", "PR", "SD", "PD"), draws(2), is_ordered=True)
    assert found.kappa == Estimate(value=None, low=None, high=None, count=2)
    assert found.counts[2][2] == 2


def test_kappa_is_0_where_each_side_is_of_one_category_but_not_the_same() -> None:
    # Agreed 0; by chance 2/2 x 0 + 0 x 2/2 = 0.
    found = confusion([(0, "SD", "PD"), (1, "SD", "PD")], ("CR", "PR", "SD", "PD"), draws(2), is_ordered=True)
    assert found.kappa.value == pytest.approx(0.0)


def test_confusion_of_nothing() -> None:
    found = confusion([], FATES, draws(2), is_ordered=False)
    assert found.counts == [[0] * 4] * 4
    assert found.kappa == Estimate(value=None, low=None, high=None, count=0)


def test_patients_without_a_baseline_are_left_out_of_all_figures_of_change() -> None:
    patients = [
        patient_change([lesion(1, before_mm=20.0, true_mm=20.0, predicted_mm=20.0)], unknown_labels=0, extra_ml=0.0),
        patient_change(
            [lesion(1, fate=None, predicted_fate=None, true_mm=9.0, predicted_mm=0.0)], unknown_labels=0, extra_ml=0.0
        ),
        patient_change([lesion(1, before_mm=5.0, true_mm=5.0, predicted_mm=5.0)], unknown_labels=0, extra_ml=0.0),
    ]
    found = longitudinal_figures(patients, draws(3), has_baseline=[True, False, True])
    assert found.lesion_change_ml.bias.count == 2
    assert found.burden_change_ml.bias.count == 2
    assert found.fates.counts[0] == [2, 0, 0, 0]
    # The first is stable; the third has nothing measurable.
    assert (sum(map(sum, found.response.counts)), found.not_evaluable) == (1, 1)


def test_change_of_the_right_patients_is_drawn_where_the_first_has_no_baseline() -> None:
    patients = [
        patient_change([lesion(1, fate=None, predicted_fate=None, true_mm=9.0)], unknown_labels=0, extra_ml=0.0),
        *(
            patient_change([lesion(1, before_ml=1.0, true_ml=1.0, predicted_ml=3.0)], unknown_labels=0, extra_ml=0.0)
            for _ in range(2)
        ),
    ]
    # Where only the first patient is drawn there is nothing to average, so every draw that counts gives 2.
    found = longitudinal_figures(patients, draws(3), has_baseline=[False, True, True])
    assert found.lesion_change_ml.bias == Estimate(value=2.0, low=2.0, high=2.0, count=2)


# ------------------------------------------------------------------------------------- perfect predictions agree fully

GRID = Grid.from_spacing((4, 24, 60), (1.0, 1.0, 1.0))


def boxes(lesions: Mapping[int, tuple[int, int]]) -> LesionMap:
    """Lesions in one slice, 12 voxels wide (y), from one x to another."""
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    for lesion_id, (start, stop) in lesions.items():
        ids[1, 6:18, start:stop] = lesion_id
    return LesionMap(ids=ids, grid=GRID)


def evaluated(
    table: Mapping[int, LesionFact],
    *,
    before: Mapping[int, BaselineLesion],
    truth: Mapping[int, tuple[int, int]],
    predicted: Mapping[int, tuple[int, int]],
    merged_into: Mapping[int, int] | None = None,
    clicks: Mapping[int, FollowupClick] | None = None,
) -> Evaluation:
    facts, _ = completed_facts(
        table, source="table", true_ids=truth.keys(), baseline_ids=before.keys(), clicked_ids=(clicks or {}).keys()
    )
    exam = Exam(name="a", truth={"primary": boxes(truth)}, facts=facts, baseline=before, clicks=clicks or {})
    prediction = Prediction(maps={"primary": boxes(predicted)}, presence={}, merged_into=merged_into or {})
    return summarise("method", [score_exam(exam, prediction, ScoringSettings())], draws(1))


LARGE = BaselineLesion(volume_ml=0.2, diameter_mm=20.0)


@pytest.mark.parametrize("host_fate", ["merged", "persists", "new", None])
def test_perfect_prediction_of_a_merger_whatever_the_table_says_of_the_lesion_merged_into(
    host_fate: Fate | None,
) -> None:
    table = {2: LesionFact(fate="merged", true_id=1)}
    if host_fate is not None:
        table[1] = LesionFact(fate=host_fate, true_id=1)
    found = evaluated(
        table,
        before={1: LARGE, 2: LARGE},
        truth={1: (5, 35)},
        predicted={1: (5, 35)},
        merged_into={2: 1},
    )
    assert found.longitudinal is not None
    assert sum(found.longitudinal.fates.counts[place][place] for place in range(4)) == 2
    assert [row.fate for row in found.lesions] == [row.predicted_fate for row in found.lesions]
    (exam,) = found.exams
    assert exam.response is not None
    # 20 + 20 mm before; the outline of 12 x 30 voxels is 32 mm long: -20 %, and no lesion is new.
    assert (exam.response.true_response, exam.response.predicted_response) == ("SD", "SD")


@pytest.mark.parametrize("fate", ["persists", "new"])
@pytest.mark.parametrize("was_there", [True, False])
def test_perfect_prediction_where_table_and_baseline_contradict_each_other(fate: Fate, was_there: bool) -> None:
    found = evaluated(
        {1: LesionFact(fate=fate, true_id=1)},
        before={1: LARGE} if was_there else {2: LARGE},
        truth={1: (5, 25)},
        predicted={1: (5, 25)},
    )
    row = next(row for row in found.lesions if row.lesion_id == 1)
    assert row.fate == row.predicted_fate
    (exam,) = found.exams
    assert exam.response is not None
    assert exam.response.true_response == exam.response.predicted_response


def test_perfect_prediction_of_every_fate_agrees_in_everything() -> None:
    found = evaluated(
        {},
        before={1: LARGE, 2: LARGE},
        truth={1: (5, 25), 3: (40, 50)},
        predicted={1: (5, 25), 3: (40, 50)},
    )
    assert found.longitudinal is not None
    assert found.longitudinal.fates.counts == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found.longitudinal.fates.kappa.value == pytest.approx(1.0)
    assert found.longitudinal.lesion_change_ml.bias.value == pytest.approx(0.0)
    assert found.challenge.dice.value == 1.0


def test_missed_progression_without_anything_measurable_before_is_a_mistake() -> None:
    # Only a new lesion, which the method misses: truth PD, no response as predicted, which is no progression at least.
    found = evaluated({}, before={}, truth={3: (40, 50)}, predicted={})
    (exam,) = found.exams
    assert exam.response is not None
    assert (exam.response.true_response, exam.response.predicted_response) == ("PD", None)
    assert found.longitudinal is not None
    assert found.longitudinal.response.counts[3] == [0, 0, 1, 0]
    assert found.longitudinal.not_evaluable == 0


# ---------------------------------------------------------------------------------------------------------- strata


def strata(rows: Sequence[LesionScore]) -> dict[tuple[str, str], list[int]]:
    return {(by, name): [row.lesion_id for row in own] for by, name, own in strata_of(rows)}


def test_lesion_at_a_limit_belongs_to_the_larger_ones() -> None:
    diameters = {1: 0.0, 2: 5.99, 3: 6.0, 4: 9.99, 5: 10.0, 6: 20.0, 7: 39.9, 8: 40.0, 9: 300.0}
    rows = [lesion(number, true_mm=size) for number, size in diameters.items()]
    assert {key: ids for key, ids in strata(rows).items() if key[0] == "diameter"} == {
        ("diameter", "0-6 mm"): [1, 2],
        ("diameter", "6-10 mm"): [3, 4],
        ("diameter", "10-20 mm"): [5],
        ("diameter", "20-40 mm"): [6, 7],
        ("diameter", "over 40 mm"): [8, 9],
    }


def test_lesion_that_measures_exactly_10_mm_in_its_map() -> None:
    # One row of 10 voxels of 1 mm: from half a voxel before the first centre to half a voxel behind the last.
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    ids[1, 5, 5:15] = 7
    truth = LesionMap(ids=ids, grid=GRID)
    exam = Exam(
        name="a",
        truth={"primary": truth},
        facts={7: LesionFact(fate=None, true_id=7)},
        baseline=None,
        clicks={},
    )
    score = score_exam(exam, Prediction(maps={}, presence={}, merged_into={}), ScoringSettings())
    assert score.lesions[0].diameter_mm == pytest.approx(10.0)
    assert ("diameter", "10-20 mm") in strata(score.lesions)


def test_gone_lesions_are_as_large_as_they_were_and_unknown_sizes_are_in_no_stratum() -> None:
    rows = [gone(1, before_mm=12.0), gone(2)]
    assert strata(rows) == {("diameter", "10-20 mm"): [1], ("fate", "gone"): [1, 2]}


def test_strata_by_fate_type_and_click_error() -> None:
    rows = [
        lesion(1, true_mm=7.0, lesion_type="Lung", click_error_mm=0.0),
        lesion(2, true_mm=7.0, lesion_type="Liver", click_error_mm=1.99),
        lesion(3, true_mm=7.0, lesion_type="Lung", click_error_mm=2.0, fate="new"),
        lesion(4, true_mm=7.0, lesion_type=None, click_error_mm=5.0, fate=None),
        lesion(5, true_mm=7.0, click_error_mm=15.0),
        lesion(6, true_mm=7.0, click_error_mm=None),
    ]
    found = strata(rows)
    assert {key: ids for key, ids in found.items() if key[0] != "diameter"} == {
        ("fate", "new"): [3],
        ("fate", "persists"): [1, 2, 5, 6],
        ("type", "Liver"): [2],
        ("type", "Lung"): [1, 3],
        ("click error", "0-2 mm"): [1, 2],
        ("click error", "2-5 mm"): [3],
        ("click error", "5-15 mm"): [4],
        ("click error", "over 15 mm"): [5],
    }


def test_means_of_a_stratum_leave_out_what_is_not_defined() -> None:
    rows = [
        lesion(1, true_mm=7.0, dice=1.0, surface_dice=0.5, is_detected=True),
        lesion(2, exam="b", true_mm=8.0, dice=0.5, surface_dice=0.0, is_detected=False),
        gone(3, before_mm=9.0),
        gone(4, exam="b", before_mm=9.0, predicted_ml=1.0),
    ]
    (by_diameter,) = [stratum for stratum in score_strata(rows, ["a", "b"], draws(2)) if stratum.by == "diameter"]
    means = {name: getattr(by_diameter, name) for name in ("dice", "surface_dice", "detected", "recognised")}
    assert {name: (mean.value, mean.count) for name, mean in means.items()} == {
        "dice": (0.75, 2),
        "surface_dice": (0.25, 2),
        "detected": (0.5, 2),
        "recognised": (0.5, 2),
    }


def test_stratum_of_gone_lesions_has_no_dice() -> None:
    (_, by_fate) = score_strata([gone(1, before_mm=9.0)], ["a"], draws(1))
    assert (by_fate.by, by_fate.name) == ("fate", "gone")
    assert by_fate.dice == Estimate(value=None, low=None, high=None, count=0)
    assert by_fate.recognised.value == 1.0


def test_click_error_is_the_distance_to_the_centre_in_mm() -> None:
    # The box's centre of gravity is z 1, y 11.5, x 14.5; 3 mm and 4 mm off is 5 mm.
    click = FollowupClick(scan="primary", point_xyz_mm=(17.5, 15.5, 1.0))
    found = evaluated({}, before={1: LARGE}, truth={1: (5, 25)}, predicted={}, clicks={1: click})
    assert found.lesions[0].click_error_mm == pytest.approx(5.0)
    assert ("click error", "5-15 mm") in strata(found.lesions)


# ------------------------------------------------------------------------------------------------------- bootstrap


def test_interval_of_two_patients_reaches_from_one_to_the_other() -> None:
    # A quarter of the draws is twice the first, another twice the second.
    found = Bootstrap(2, draws=400, seed=1).mean(np.array([0.0, 1.0]))
    assert found == Estimate(value=0.5, low=0.0, high=1.0, count=2)


def test_whole_patients_are_drawn_with_all_their_lesions() -> None:
    values, patient_of = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1])
    found = Bootstrap(2, draws=400, seed=1).pooled_mean(values, patient_of)
    # Lesions drawn one by one would hardly ever all be 0.
    assert found == Estimate(value=0.75, low=0.0, high=1.0, count=4)


def test_undefined_values_are_left_out_and_counted_out() -> None:
    found = draws(3).mean(np.array([0.5, np.nan, 0.5]))
    assert found == Estimate(value=0.5, low=0.5, high=0.5, count=2)
    pooled = draws(3).pooled_mean(np.array([0.5, np.nan, 0.5]), np.array([0, 1, 1]))
    assert pooled == Estimate(value=0.5, low=0.5, high=0.5, count=2)


def test_nothing_defined_has_neither_value_nor_interval() -> None:
    nothing = Estimate(value=None, low=None, high=None, count=0)
    assert draws(2).mean(np.array([np.nan, np.nan])) == nothing
    assert draws(2).pooled_mean(np.empty(0), np.empty(0, np.int64)) == nothing


def test_one_patient_has_no_interval() -> None:
    assert draws(1).mean(np.array([0.5])) == Estimate(value=0.5, low=None, high=None, count=1)


def test_no_draws_give_no_interval() -> None:
    assert draws(2, 0).mean(np.array([0.0, 1.0])) == Estimate(value=0.5, low=None, high=None, count=2)


def test_same_seed_same_interval() -> None:
    values = np.linspace(0, 1, 7)
    first, again, other = (Bootstrap(7, draws=100, seed=seed).mean(values) for seed in (3, 3, 4))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


def test_area_under_the_roc_curve_by_hand() -> None:
    # 0.9 is over both negatives, 0.4 over 0.1 and under 0.5, 0.5 ties with 0.5: (2 + 1 + 1.5) / 6.
    found = draws(2).auc(
        np.array([True, True, True, False, False]), np.array([0.9, 0.4, 0.5, 0.5, 0.1]), np.array([0, 0, 1, 1, 1])
    )
    assert found.value == pytest.approx(4.5 / 6)
    assert found.count == 5


def test_area_under_the_roc_curve_of_one_class_is_not_defined() -> None:
    found = draws(2).auc(np.array([True, True]), np.array([0.9, 0.4]), np.array([0, 1]))
    assert found == Estimate(value=None, low=None, high=None, count=2)


# ------------------------------------------------------------------------------------------------------ comparison


NO_LESIONS = ExamLesions(
    true_mm=np.empty(0),
    true_ml=np.empty(0),
    predicted_mm=np.empty(0),
    predicted_ml=np.empty(0),
    confidence=np.empty(0),
    iou=np.zeros((0, 0)),
)


def exam_score(
    name: str,
    dice: float | None,
    *,
    false_positive_ml: float | None = 0.0,
    false_negative_ml: float | None = 0.0,
    lesions: Sequence[LesionScore] = (),
) -> ExamScore:
    numbers = (np.nan if value is None else value for value in (dice, false_positive_ml, false_negative_ml))
    score = dict(zip(("dice", "false_positive_ml", "false_negative_ml"), map(float, numbers), strict=True))
    return ExamScore(
        exam=name,
        challenge=ChallengeScore(**score, entries=1),
        lesions=tuple(lesions),
        detection=NO_LESIONS,
        missing=(),
        unknown_labels=0,
        extra_ml=0.0,
        has_baseline=False,
    )


def method(name: str, dices: Sequence[float | None]) -> Evaluation:
    scores = [exam_score(str(place), dice) for place, dice in enumerate(dices)]
    return summarise(name, scores, draws(len(scores)))


def test_differences_leave_out_patients_without_a_score_in_either() -> None:
    first, second = method("first", [0.9, None, 0.5, 0.7]), method("second", [0.8, 0.4, None, 0.7])
    found = {difference.value: difference for difference in compare([first, second], draws(4))}
    assert (found["dice"].first, found["dice"].second) == ("first", "second")
    # 0.9 - 0.8 and 0.7 - 0.7.
    assert found["dice"].difference.value == pytest.approx(0.05)
    assert found["dice"].difference.count == 2
    assert (found["dice"].difference.low, found["dice"].difference.high) == (pytest.approx(0.0), pytest.approx(0.1))
    # No lesion has a Dice.
    assert found["lesion_dice"].difference == Estimate(value=None, low=None, high=None, count=0)
    assert found["lesion_dice"].p_value is None


def test_wilcoxon_of_six_patients_who_all_gain() -> None:
    # All six signs alike: twice 1 of 2^6 arrangements.
    first, second = (
        method("first", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
        method("second", [0.89, 0.78, 0.67, 0.56, 0.45, 0.34]),
    )
    dice = compare([first, second], draws(6))[0]
    assert dice.value == "dice"
    assert dice.p_value == pytest.approx(2 / 64)
    # 0.01 to 0.06.
    assert dice.difference.value == pytest.approx(0.035)


def test_constant_difference_has_an_interval_without_width() -> None:
    dice = compare([method("a", [0.75, 0.5, 0.25]), method("b", [0.5, 0.25, 0.0])], draws(3))[0]
    assert dice.difference == Estimate(value=0.25, low=0.25, high=0.25, count=3)


def test_identical_methods_differ_by_nothing_and_have_no_p_value() -> None:
    same = [0.9, None, 0.5]
    dice = compare([method("a", same), method("b", same)], draws(3))[0]
    assert dice.difference == Estimate(value=0.0, low=0.0, high=0.0, count=2)
    assert dice.p_value is None


@pytest.mark.parametrize("dices", [[0.5], [0.5, 0.5], [0.5, 0.4, 0.4], [0.6, 0.6, 0.4, 0.5, 0.5, 0.5, 0.5]])
def test_few_patients_ties_and_zeros_give_a_p_value_without_a_warning(dices: list[float]) -> None:
    dice = compare([method("a", dices), method("b", [0.4] * len(dices))], draws(len(dices)))[0]
    assert dice.p_value is not None
    assert 0 < dice.p_value <= 1


def test_every_pair_of_three_methods_is_compared() -> None:
    found = compare([method(name, [0.5, 0.6]) for name in "abc"], draws(2))
    assert [(each.first, each.second) for each in found if each.value == "dice"] == [("a", "b"), ("a", "c"), ("b", "c")]
    challenge = {"dice", "false_positive_ml", "false_negative_ml"}
    lesions = {"dice", "surface_dice", "hausdorff_95_mm", "absolute_volume_error_ml"}
    assert {each.value for each in found} == challenge | {f"lesion_{value}" for value in lesions}


def test_one_method_is_compared_with_nothing() -> None:
    assert compare([method("a", [0.5])], draws(1)) == []


def ranked(scores: Mapping[str, tuple[float | None, float | None, float | None]]) -> list[tuple[str, float]]:
    evaluations = [
        summarise(
            name,
            [exam_score("a", dice, false_positive_ml=false_positive, false_negative_ml=false_negative)],
            draws(1),
        )
        for name, (dice, false_positive, false_negative) in scores.items()
    ]
    return [(each.name, each.score) for each in rank(evaluations)]


def test_methods_are_ranked_by_half_their_dice_and_a_quarter_each_of_their_volumes() -> None:
    # Ranks by Dice: A 2, B 3, C 1; by false positives: A 1, B 2, C 3; by false negatives: A 3, B 1, C 2.
    # A 1 + 0.25 + 0.75, B 1.5 + 0.5 + 0.25, C 0.5 + 0.75 + 0.5.
    found = ranked({"A": (0.8, 1.0, 3.0), "B": (0.7, 2.0, 1.0), "C": (0.9, 3.0, 2.0)})
    assert found == [("C", 1.75), ("A", 2.0), ("B", 2.25)]


def test_equal_methods_share_the_mean_of_their_ranks() -> None:
    found = ranked({"A": (0.8, 1.0, 1.0), "B": (0.8, 1.0, 1.0), "C": (0.1, 9.0, 9.0)})
    assert found == [("A", 1.5), ("B", 1.5), ("C", 3.0)]


def test_method_without_a_figure_is_last() -> None:
    found = ranked({"A": (None, None, None), "B": (0.0, 9.0, 9.0)})
    assert found == [("B", 1.0), ("A", 2.0)]


# ------------------------------------------------------------------------------------------------ interactive steps


def test_area_of_two_steps_is_their_mean_over_patients_defined_in_both() -> None:
    without, with_clicks = method("without", [0.2, None, 0.4, 0.9]), method("with", [0.6, 0.8, 0.5, None])
    dice = interaction(without, with_clicks, draws(4))[0]
    assert dice.value == "dice"
    # Patients 1 and 3: 0.2 and 0.4, then 0.6 and 0.5; areas 0.4 and 0.45.
    assert (dice.without_clicks.value, dice.without_clicks.count) == (pytest.approx(0.3), 2)
    assert (dice.with_clicks.value, dice.with_clicks.count) == (pytest.approx(0.55), 2)
    assert (dice.area.value, dice.area.count) == (pytest.approx(0.425), 2)


def test_steps_without_a_patient_defined_in_both() -> None:
    dice = interaction(method("without", [0.2, None]), method("with", [None, 0.8]), draws(2))[0]
    nothing = Estimate(value=None, low=None, high=None, count=0)
    assert (dice.without_clicks, dice.with_clicks, dice.area) == (nothing, nothing, nothing)


# ---------------------------------------------------------------------------------------------------------- summary


def test_means_over_lesions_and_over_patients() -> None:
    one = [lesion(number, true_mm=7.0, dice=1.0) for number in (1, 2, 3)]
    other = [lesion(1, exam="b", true_mm=7.0, dice=0.0)]
    found = summarise("m", [exam_score("a", 1.0, lesions=one), exam_score("b", 0.0, lesions=other)], draws(2))
    # 3 of 4 lesions, 1 of 2 patients.
    assert (found.lesion_means["dice"].value, found.lesion_means["dice"].count) == (0.75, 4)
    assert (found.patient_means["dice"].value, found.patient_means["dice"].count) == (0.5, 2)
    assert [row.lesion_dice for row in found.exams] == [1.0, 0.0]


def test_patients_without_a_lesion_to_measure_are_in_no_mean() -> None:
    one = [lesion(1, true_mm=7.0, dice=0.5)]
    other = [gone(1, exam="b", before_mm=7.0)]
    found = summarise("m", [exam_score("a", 0.5, lesions=one), exam_score("b", None, lesions=other)], draws(2))
    assert (found.patient_means["dice"].value, found.patient_means["dice"].count) == (0.5, 1)
    assert (found.challenge.dice.value, found.challenge.dice.count) == (0.5, 1)
    assert [row.lesion_dice for row in found.exams] == [0.5, None]
    assert [row.dice for row in found.exams] == [0.5, None]
    assert len(found.exams) == 2


def test_errors_cancel_and_absolute_errors_do_not() -> None:
    rows = [
        lesion(1, true_mm=10.0, predicted_mm=12.0, true_ml=2.0, predicted_ml=3.0),
        lesion(2, true_mm=10.0, predicted_mm=8.0, true_ml=2.0, predicted_ml=1.0),
    ]
    means = summarise("m", [exam_score("a", 1.0, lesions=rows)], draws(1)).lesion_means
    assert (means["volume_error_ml"].value, means["absolute_volume_error_ml"].value) == (0.0, 1.0)
    assert (means["diameter_error_mm"].value, means["absolute_diameter_error_mm"].value) == (0.0, 2.0)


def test_presence_decisions_of_lesions_that_are_there_gone_and_merged() -> None:
    rows = [
        lesion(1, true_mm=9.0, predicted_mm=9.0, presence=0.9),
        lesion(2, true_mm=9.0, predicted_mm=0.0, presence=0.4),
        gone(3, presence=0.5, predicted_ml=0.2),
        gone(4, presence=0.1),
        # Neither there nor gone.
        lesion(5, scan=None, fate="merged", into=1, presence=0.95),
    ]
    found = summarise("m", [exam_score("a", 0.5, lesions=rows)], draws(1))
    assert (found.lesion_means["present_kept"].value, found.lesion_means["present_kept"].count) == (0.5, 2)
    assert (found.lesion_means["gone_recognised"].value, found.lesion_means["gone_recognised"].count) == (0.5, 2)
    # 0.9 is over both, 0.4 over one of two: 3/4.
    assert (found.presence_auc.value, found.presence_auc.count) == (0.75, 4)
    assert found.has_presence


def test_method_that_says_nothing_of_presence_has_no_area() -> None:
    found = summarise("m", [exam_score("a", 0.5, lesions=[lesion(1, true_mm=9.0)])], draws(1))
    assert not found.has_presence
    assert found.presence_auc == Estimate(value=None, low=None, high=None, count=0)


# -------------------------------------------------------------------------------------------------- NaN and the JSON


def refuse_constant(name: str) -> NoReturn:
    raise AssertionError(f"{name} in the JSON")


def bare_exam(name: str, truth: LesionMap, *, baseline: Mapping[int, BaselineLesion] | None) -> Exam:
    facts, _ = completed_facts(
        {},
        source="",
        true_ids={int(number) for number in np.unique(truth.ids) if number},
        baseline_ids=None if baseline is None else baseline.keys(),
        clicked_ids=(),
    )
    return Exam(name=name, truth={"primary": truth}, facts=facts, baseline=baseline, clicks={})


@pytest.mark.parametrize("baseline", [None, {}, {1: LARGE, 2: LARGE}])
@pytest.mark.parametrize("truth", [{}, {1: (5, 25)}])
@pytest.mark.parametrize("predicted", [{}, {1: (5, 25)}, {7: (40, 41)}])
@pytest.mark.parametrize("patients", [1, 2])
def test_nothing_undefined_reaches_the_json_as_anything_but_null(
    baseline: dict[int, BaselineLesion] | None,
    truth: dict[int, tuple[int, int]],
    predicted: dict[int, tuple[int, int]],
    patients: int,
) -> None:
    scores = [
        score_exam(
            bare_exam(str(place), boxes(truth), baseline=baseline),
            Prediction(maps={"primary": boxes(predicted)}, presence={}, merged_into={}),
            ScoringSettings(),
        )
        for place in range(patients)
    ]
    bootstrap = draws(patients, 10)
    first, second = (summarise(name, scores, bootstrap) for name in ("first", "second"))
    report = EvaluationReport(
        versions={},
        settings=ScoringSettings(),
        draws=10,
        seed=0,
        evaluations=(first, second),
        ranks=tuple(rank([first, second])),
        differences=tuple(compare([first, second], bootstrap)),
        interaction=tuple(interaction(first, second, bootstrap)),
    )
    text = report.model_dump_json()
    json.loads(text, parse_constant=refuse_constant)
    # A NaN in a field that is always a number would have become a null that cannot be read back.
    assert EvaluationReport.model_validate_json(text) == report
