from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from numpy.typing import ArrayLike

from longilesion.case import lesion_regions
from longilesion.evaluation.bootstrap import Bootstrap, Estimate
from longilesion.evaluation.detection import (
    DIAMETERS_MM,
    FALSE_POSITIVES_PER_EXAM,
    PRECISION_IOUS,
    Detection,
    ExamLesions,
    average_precision,
    curve,
    detection_figures,
    exam_f1,
    ranked,
    sensitivity_at,
)
from longilesion.evaluation.exam import Exam, LesionFact, Prediction, ScoringSettings
from longilesion.evaluation.scoring import score_exam
from longilesion.geometry import Grid, Triple
from test.unit.builders import scan_with


def lesions(
    iou: ArrayLike,
    *,
    confidence: ArrayLike | None = None,
    true_mm: ArrayLike = 12.0,
    predicted_mm: ArrayLike = 12.0,
    true_ml: ArrayLike = 1.0,
    predicted_ml: ArrayLike = 1.0,
) -> ExamLesions:
    """An exam by the overlaps of its true lesions (rows) with its predicted ones, all large and sure if not given."""
    overlaps = np.asarray(iou, np.float64)
    true, predicted = overlaps.shape
    return ExamLesions(
        true_mm=np.full(true, true_mm, np.float64),
        true_ml=np.full(true, true_ml, np.float64),
        predicted_mm=np.full(predicted, predicted_mm, np.float64),
        predicted_ml=np.full(predicted, predicted_ml, np.float64),
        confidence=np.full(predicted, 1.0 if confidence is None else confidence, np.float64),
        iou=overlaps,
    )


NOTHING = lesions(np.empty((0, 0)))
ONE_MISSED = lesions(np.empty((1, 0)))
ONE_FOUND = lesions([[0.5]])
ONE_FALSE = lesions(np.empty((0, 1)))


def verdicts(exam: ExamLesions, *, iou: float = 0.1, over_mm: float = 6.0) -> list[tuple[float, bool]]:
    """Confidence of each prediction that counts, the surest first, and whether it is right."""
    found = ranked([exam], iou=iou, over_mm=over_mm)
    return list(zip(found.confidence.tolist(), found.is_right.tolist(), strict=True))


def figures(exams: Sequence[ExamLesions], *, over_mm: float = 6.0, draws: int = 100, seed: int = 0) -> Detection:
    return detection_figures(exams, Bootstrap(len(exams), draws=draws, seed=seed), over_mm=over_mm)


def estimates(found: Detection) -> list[Estimate]:
    return [
        found.f1,
        found.average_precision,
        found.mean_average_precision,
        found.exam_auc,
        *found.sensitivity.values(),
    ]


# ------------------------------------------------------------------------------------------------------- F1 of one exam


def test_f1_is_the_harmonic_mean_of_lesion_precision_and_recall() -> None:
    # Two lesions, one of them found; three predictions, one of them right, one too small an overlap, one on nothing:
    # recall 1/2, precision 1/3, and 2 * (1/6) / (5/6).
    assert exam_f1(lesions([[0.5, 0, 0], [0, 0.09, 0]]), over_mm=6.0) == pytest.approx(0.4)


def test_overlap_of_a_tenth_finds_a_lesion() -> None:
    assert exam_f1(lesions([[0.1]]), over_mm=6.0) == 1.0
    assert exam_f1(lesions([[0.0999]]), over_mm=6.0) == 0.0


def test_precision_and_recall_are_each_on_their_own() -> None:
    # One prediction over two lesions finds both; two predictions in one lesion are both right.
    assert exam_f1(lesions([[0.4], [0.3]]), over_mm=6.0) == 1.0
    assert exam_f1(lesions([[0.4, 0.3]]), over_mm=6.0) == 1.0
    # Two lesions, of which one is found twice: recall 1/2, precision 2/2.
    assert exam_f1(lesions([[0.4, 0.3], [0, 0]]), over_mm=6.0) == pytest.approx(2 / 3)


def test_f1_of_a_healthy_exam_is_0_with_a_prediction_and_undefined_without() -> None:
    assert exam_f1(ONE_FALSE, over_mm=6.0) == 0.0
    assert np.isnan(exam_f1(NOTHING, over_mm=6.0))


def test_f1_of_missed_lesions_is_0() -> None:
    assert exam_f1(ONE_MISSED, over_mm=6.0) == 0.0
    assert exam_f1(lesions([[0.0]]), over_mm=6.0) == 0.0


# -------------------------------------------------------------------------------------------- lesions that do not count


def test_small_lesion_is_neither_missed_nor_found() -> None:
    # A lesion of 5 mm besides one of 12 mm that is found: whether it is found too makes no difference.
    for iou, confidence in (([[0.5], [0]], [0.9]), ([[0.5, 0], [0, 0.7]], [0.9, 0.95])):
        exam = lesions(iou, true_mm=[12.0, 5.0], confidence=confidence)
        assert exam_f1(exam, over_mm=6.0) == 1.0
        assert verdicts(exam) == [(0.9, True)]
        assert ranked([exam], iou=0.1, over_mm=6.0).true_counts.tolist() == [1.0]
        # Where all lesions count it does.
        assert ranked([exam], iou=0.1, over_mm=0.0).true_counts.tolist() == [2.0]
    missed = lesions([[0.5], [0]], true_mm=[12.0, 5.0])
    assert exam_f1(missed, over_mm=0.0) == pytest.approx(2 * 0.5 / 1.5)


def test_large_prediction_of_a_small_lesion_is_neither_right_nor_wrong() -> None:
    # Outlined too large, a lesion of 5 mm is predicted with 9 mm; there is nothing else.
    exam = lesions([[0.3]], true_mm=5.0, predicted_mm=9.0)
    assert np.isnan(exam_f1(exam, over_mm=6.0))
    assert verdicts(exam) == []


def test_small_prediction_where_nothing_is_is_not_wrong_and_a_large_one_is() -> None:
    exam = lesions(np.empty((0, 2)), predicted_mm=[5.0, 7.0], confidence=[0.9, 0.8])
    assert verdicts(exam) == [(0.8, False)]
    assert verdicts(exam, over_mm=10.0) == []
    assert verdicts(exam, over_mm=0.0) == [(0.9, False), (0.8, False)]
    assert np.isnan(exam_f1(exam, over_mm=10.0))


def test_small_prediction_of_a_large_lesion_is_right() -> None:
    exam = lesions([[0.2]], true_mm=7.0, predicted_mm=5.0)
    assert verdicts(exam) == [(1.0, True)]
    assert exam_f1(exam, over_mm=6.0) == 1.0


@pytest.mark.parametrize("over_mm", DIAMETERS_MM)
def test_lesion_of_exactly_the_diameter_counts(over_mm: float) -> None:
    # LiFE-Net leaves out what is smaller than 6 and 10 mm.
    assert verdicts(lesions([[0.5]], true_mm=over_mm), over_mm=over_mm) == [(1.0, True)]
    assert verdicts(lesions([[0.5]], true_mm=over_mm - 0.01), over_mm=over_mm) == []
    assert verdicts(lesions(np.empty((0, 1)), predicted_mm=over_mm), over_mm=over_mm) == [(1.0, False)]


def test_prediction_over_a_small_and_a_large_lesion_finds_the_large_one() -> None:
    # It overlaps the small one more.
    exam = lesions([[0.2], [0.6]], true_mm=[12.0, 5.0])
    assert verdicts(exam) == [(1.0, True)]
    assert exam_f1(exam, over_mm=6.0) == 1.0


def test_lesion_under_3_mm3_is_neither_missed_nor_false() -> None:
    # 2.9 mm3, true and missed, or predicted where nothing is; 3 mm3 count.
    tiny_truth = lesions(np.empty((1, 0)), true_ml=0.0029, true_mm=2.0)
    tiny_prediction = lesions(np.empty((0, 1)), predicted_ml=0.0029, predicted_mm=2.0)
    for exam in (tiny_truth, tiny_prediction):
        assert np.isnan(exam_f1(exam, over_mm=0.0))
        assert verdicts(exam, over_mm=0.0) == []
        assert ranked([exam], iou=0.1, over_mm=0.0).true_counts.tolist() == [0.0]
    assert exam_f1(lesions(np.empty((1, 0)), true_ml=0.003), over_mm=0.0) == 0.0
    assert exam_f1(lesions(np.empty((0, 1)), predicted_ml=0.003), over_mm=0.0) == 0.0


def test_prediction_under_3_mm3_finds_nothing() -> None:
    # Difference Weighting omits what is smaller "from both the ground truth and predictions prior to metric
    # computation": the lesion of 4 mm3 that only such a prediction overlaps is missed.
    exam = lesions([[0.5]], true_ml=0.004, predicted_ml=0.0029)
    assert exam_f1(exam, over_mm=0.0) == 0.0
    assert verdicts(exam, over_mm=0.0) == []


def test_prediction_of_a_lesion_under_3_mm3_is_on_nothing() -> None:
    # By the same rule: the lesion of 2.9 mm3 is not there, and the prediction of 4 mm3 that overlaps it is wrong.
    exam = lesions([[0.5]], true_ml=0.0029, predicted_ml=0.004)
    assert exam_f1(exam, over_mm=0.0) == 0.0
    assert verdicts(exam, over_mm=0.0) == [(1.0, False)]


# ------------------------------------------------------------------------------------------------------------- matching


def test_second_prediction_of_a_lesion_is_a_false_positive_also_if_it_overlaps_more() -> None:
    exam = lesions([[0.3, 0.6]], confidence=[0.9, 0.8])
    assert verdicts(exam) == [(0.9, True), (0.8, False)]


def test_of_equally_sure_predictions_that_which_overlaps_more_is_right() -> None:
    found = ranked([lesions([[0.3, 0.6], [0, 0.2]], confidence=[0.8, 0.8])], iou=0.1, over_mm=6.0)
    # The second takes the first lesion, which the other one can then not find; the second lesion stays free.
    assert found.is_right.tolist() == [True, False]


def test_small_duplicate_of_a_large_lesion_is_a_false_positive() -> None:
    # It does overlap a lesion that counts, and so it is no small prediction on nothing.
    exam = lesions([[0.6, 0.2]], confidence=[0.9, 0.8], predicted_mm=[12.0, 4.0])
    assert verdicts(exam) == [(0.9, True), (0.8, False)]


def test_second_prediction_of_a_small_lesion_is_neither_right_nor_wrong() -> None:
    exam = lesions([[0.6, 0.2]], confidence=[0.9, 0.8], true_mm=5.0)
    assert verdicts(exam) == []


def test_prediction_takes_the_lesion_that_it_overlaps_most_and_leaves_the_other_free() -> None:
    exam = lesions([[0.2, 0.3], [0.5, 0]], confidence=[0.9, 0.8])
    assert verdicts(exam) == [(0.9, True), (0.8, True)]


def test_prediction_whose_best_lesion_is_taken_finds_its_next() -> None:
    exam = lesions([[0.6, 0.5], [0, 0.2]], confidence=[0.9, 0.8])
    assert verdicts(exam) == [(0.9, True), (0.8, True)]


def test_stricter_overlap_turns_a_right_prediction_into_a_wrong_one() -> None:
    exam = lesions([[0.4]])
    assert verdicts(exam, iou=0.4) == [(1.0, True)]
    assert verdicts(exam, iou=0.45) == [(1.0, False)]


def test_predictions_of_all_exams_are_ranked_together() -> None:
    found = ranked(
        [lesions([[0.5, 0]], confidence=[0.3, 0.7]), NOTHING, lesions([[0.5]], confidence=[0.5])], iou=0.1, over_mm=6.0
    )
    assert found.exam.tolist() == [0, 2, 0]
    assert found.confidence.tolist() == [0.7, 0.5, 0.3]
    assert found.is_right.tolist() == [False, True, True]
    assert found.true_counts.tolist() == [1.0, 0.0, 1.0]


# -------------------------------------------------------------------------------------------------- free-response curve

# Two exams with three lesions. Surest first: right (exam 0), wrong (1), then right (0) and wrong (1) equally sure, and
# right (1).
TWO_EXAMS = (
    lesions([[0.5, 0], [0, 0.5]], confidence=[0.9, 0.7]),
    lesions([[0, 0, 0.5]], confidence=[0.8, 0.7, 0.5]),
)
ONCE = np.ones((1, 2))


def test_equally_sure_predictions_are_one_step_of_the_curve() -> None:
    steps = curve(ranked(TWO_EXAMS, iou=0.1, over_mm=6.0), ONCE)
    # Right 1, 1, 2, 3 of three lesions; wrong 0, 1, 2, 2 in two exams.
    np.testing.assert_allclose(steps.sensitivity, [[1 / 3, 1 / 3, 2 / 3, 1]])
    np.testing.assert_allclose(steps.false_positives, [[0, 0.5, 1, 1]])
    np.testing.assert_allclose(steps.precision, [[1, 1 / 2, 2 / 4, 3 / 5]])


def test_average_precision_weighs_precision_by_what_each_step_finds() -> None:
    # 1/3 * 1 + 0 * 1/2 + 1/3 * 2/4 + 1/3 * 3/5.
    found = average_precision(ranked(TWO_EXAMS, iou=0.1, over_mm=6.0), ONCE)
    assert found == pytest.approx([0.7])


def test_lesions_that_are_never_found_lower_the_average_precision() -> None:
    # A third exam with three missed lesions: all steps are half as high.
    found = average_precision(ranked([*TWO_EXAMS, lesions(np.empty((3, 0)))], iou=0.1, over_mm=6.0), np.ones((1, 3)))
    assert found == pytest.approx([0.35])


def test_sensitivity_is_the_highest_with_as_few_false_positives() -> None:
    ranking = ranked(TWO_EXAMS, iou=0.1, over_mm=6.0)
    for rate, expected in ((0.0, 1 / 3), (0.2, 1 / 3), (0.5, 1 / 3), (0.99, 1 / 3), (1.0, 1.0), (5.0, 1.0)):
        assert sensitivity_at(ranking, ONCE, rate=rate) == pytest.approx([expected]), rate


def test_one_false_positive_in_five_exams_is_allowed_at_02_and_a_second_is_not() -> None:
    # Five exams with a lesion each. Exam 0 has a false positive surer than any, exam 1 another between the lesions.
    exams = [
        lesions([[0, 0.5]], confidence=[0.99, 0.9]),
        lesions([[0, 0.5]], confidence=[0.7, 0.8]),
        *(lesions([[0.5]], confidence=[sure]) for sure in (0.6, 0.5, 0.4)),
    ]
    ranking = ranked(exams, iou=0.1, over_mm=6.0)
    # wrong .99, right .9, right .8, wrong .7, right .6, .5, .4
    assert sensitivity_at(ranking, np.ones((1, 5)), rate=0.2) == pytest.approx([2 / 5])
    assert sensitivity_at(ranking, np.ones((1, 5)), rate=0.5) == pytest.approx([1.0])
    found = figures(exams)
    assert found.sensitivity["0.2"].value == pytest.approx(2 / 5)
    assert found.sensitivity["0.5"].value == pytest.approx(1.0)


def test_sensitivity_is_0_where_the_surest_prediction_is_one_false_positive_too_many() -> None:
    ranking = ranked([lesions([[0, 0.5]], confidence=[0.9, 0.8])], iou=0.1, over_mm=6.0)
    assert sensitivity_at(ranking, np.ones((1, 1)), rate=0.5) == pytest.approx([0.0])


def test_equally_sure_predictions_are_taken_or_left_together() -> None:
    # Four exams; two false positives are as sure as two of four lesions, and one lesion is surer: with at most 0.2
    # false positives an exam only that one is found, with 0.5 three.
    exams = [
        lesions([[0.5]], confidence=[0.9]),
        lesions([[0.5, 0]], confidence=[0.6, 0.6]),
        lesions([[0.5, 0]], confidence=[0.6, 0.6]),
        ONE_MISSED,
    ]
    found = figures(exams)
    assert found.sensitivity["0.2"].value == pytest.approx(1 / 4)
    assert found.sensitivity["0.5"].value == pytest.approx(3 / 4)


def test_exam_drawn_twice_counts_twice() -> None:
    ranking = ranked(TWO_EXAMS, iou=0.1, over_mm=6.0)
    # Exam 0 twice: right .9 (2 of 4 lesions), right .7 (4 of 4); no false positives.
    twice_first = np.array([[2.0, 0.0]])
    assert average_precision(ranking, twice_first) == pytest.approx([1.0])
    assert sensitivity_at(ranking, twice_first, rate=0.2) == pytest.approx([1.0])
    # Exam 1 twice: wrong .8, wrong .7, right .5, so precision 1/3; two false positives an exam.
    twice_second = np.array([[0.0, 2.0]])
    assert average_precision(ranking, twice_second) == pytest.approx([1 / 3])
    assert sensitivity_at(ranking, twice_second, rate=0.5) == pytest.approx([0.0])
    assert sensitivity_at(ranking, twice_second, rate=2.0) == pytest.approx([1.0])
    # Drawn together they are a row each.
    both = np.concatenate([twice_first, twice_second])
    assert average_precision(ranking, both) == pytest.approx([1.0, 1 / 3])


# ---------------------------------------------------------------------------------------------------------- all figures


def test_mean_average_precision_is_over_overlaps_from_01_to_05() -> None:
    assert list(PRECISION_IOUS) == pytest.approx([0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5])
    # A lesion that is found with an IoU of 0.32 is found at five of nine.
    found = figures([lesions([[0.32]])])
    assert found.average_precision.value == 1.0
    assert found.mean_average_precision.value == pytest.approx(5 / 9)
    # One of two lesions with 0.32, the surer one with 0.8: 5/9 * 1 + 4/9 * 1/2.
    found = figures([lesions([[0.8, 0], [0, 0.32]], confidence=[0.9, 0.5])])
    assert found.mean_average_precision.value == pytest.approx(5 / 9 + 4 / 9 / 2)


def test_overlap_at_a_limit_is_found_there() -> None:
    for place, iou in enumerate(PRECISION_IOUS, start=1):
        assert figures([lesions([[iou]])]).mean_average_precision.value == pytest.approx(place / 9)


def test_f1_is_the_mean_over_patients_and_not_over_lesions() -> None:
    # One patient with one lesion, found (F1 1); one with ten, of which none is (0); a healthy one that is left alone.
    found = figures([ONE_FOUND, lesions(np.empty((10, 0))), NOTHING])
    assert found.f1.value == 0.5
    assert found.f1.count == 2
    assert found.true_lesions == found.average_precision.count == 11
    assert found.predicted_lesions == 1


def test_exam_auc_compares_the_surest_predictions() -> None:
    # Ill: 0.9 (besides 0.2), and nothing predicted. Healthy: 0.5, and nothing predicted. Of four pairs 0.9 is before
    # both, nothing is behind 0.5 and equal to nothing: (1 + 1 + 0 + 1/2) / 4.
    exams = [
        lesions([[0.5, 0]], confidence=[0.2, 0.9]),
        ONE_MISSED,
        lesions(np.empty((0, 1)), confidence=[0.5]),
        NOTHING,
    ]
    found = figures(exams)
    assert found.exam_auc.value == pytest.approx(2.5 / 4)
    assert found.exam_auc.count == 4


def test_exam_with_small_lesions_only_is_healthy_and_finding_them_no_alarm() -> None:
    # Over 10 mm the second exam is healthy, and its prediction, the surest of all, does not count: 0 is behind 0.4.
    exams = [lesions([[0.5]], confidence=[0.4]), lesions([[0.5]], confidence=[0.95], true_mm=8.0)]
    assert figures(exams, over_mm=10.0).exam_auc.value == 1.0
    assert figures(exams, over_mm=6.0).exam_auc.value is None


@pytest.mark.parametrize("exams", [(ONE_FOUND, ONE_MISSED), (NOTHING, ONE_FALSE)])
def test_exam_auc_is_undefined_where_all_are_ill_or_all_are_healthy(exams: tuple[ExamLesions, ...]) -> None:
    found = figures(exams).exam_auc
    assert (found.value, found.low, found.high) == (None, None, None)


def test_figures_are_for_the_rates_and_the_diameter_that_they_name() -> None:
    found = figures([ONE_FOUND, NOTHING], over_mm=10.0)
    assert found.over_mm == 10.0
    assert FALSE_POSITIVES_PER_EXAM == (0.2, 0.5)
    assert list(found.sensitivity) == ["0.2", "0.5"]


def test_figures_of_outlines_of_6_and_of_10_mm() -> None:
    # Balls of radius 2.4, 4 and 7 mm in voxels of 1 mm: diameters of about 5, 8 and 14 mm. The middle one is missed;
    # the smallest is found, and a ball of radius 4.2 mm lies where nothing is.
    grid = Grid.from_spacing((24, 30, 100), (1.0, 1.0, 1.0))
    balls: dict[int, tuple[Triple, float]] = {
        1: ((12.0, 15.0, 12.0), 2.4),
        2: ((35.0, 15.0, 12.0), 4.0),
        3: ((60.0, 15.0, 12.0), 7.0),
    }
    _, truth = scan_with(balls, grid)
    _, predicted = scan_with({1: balls[1], 3: balls[3], 9: ((88.0, 15.0, 12.0), 4.2)}, grid)
    exam = Exam(
        name="exam",
        truth={"primary": truth},
        facts={label: LesionFact(fate=None, true_id=label) for label in lesion_regions(truth.ids)},
        baseline=None,
        clicks={},
    )
    prediction = Prediction(maps={"primary": predicted}, presence={1: 0.9, 3: 0.6, 9: 0.3}, merged_into={})
    found = score_exam(exam, prediction, ScoringSettings()).detection
    # All: 2 of 3 lesions, 2 of 3 predictions right. Over 6: 1 of 2 and 1 of 2. Over 10: 1 of 1 and 1 of 1.
    for over_mm, true, predictions, f1, precision in (
        (0.0, 3, 3, 2 / 3, 2 / 3),
        (6.0, 2, 2, 1 / 2, 1 / 2),
        (10.0, 1, 1, 1, 1),
    ):
        row = figures([found], over_mm=over_mm)
        assert (row.true_lesions, row.predicted_lesions) == (true, predictions)
        assert row.f1.value == pytest.approx(f1)
        assert row.average_precision.value == row.mean_average_precision.value == pytest.approx(precision)


# ------------------------------------------------------------------------------------------------------------ intervals


def cohort(seed: int, patients: int = 20) -> list[ExamLesions]:
    """Patients of whom half are healthy, with lesions that are found with some luck, and false positives."""
    generator = np.random.default_rng(seed)
    exams = []
    for _ in range(patients):
        true, false = generator.choice([0, 0, 1, 3]), generator.integers(0, 3)
        iou = np.zeros((true, true + false))
        iou[np.arange(true), np.arange(true)] = generator.uniform(0, 0.9, true)
        exams.append(lesions(iou, confidence=generator.random(true + false).round(1)))
    return exams


def test_intervals_contain_the_value_and_lie_between_0_and_1() -> None:
    for estimate in estimates(figures(cohort(0), draws=400)):
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.low < estimate.high


def test_intervals_repeat_for_a_seed_and_differ_between_seeds() -> None:
    first, again, other = (figures(cohort(0), seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert [estimate.value for estimate in estimates(first)] == [estimate.value for estimate in estimates(other)]
    assert first.f1 != other.f1
    assert first.average_precision != other.average_precision


def test_interval_is_narrower_with_more_patients() -> None:
    few, many = figures(cohort(1, 10), draws=300), figures(cohort(1, 160), draws=300)
    for key in ("f1", "average_precision", "exam_auc"):
        one, other = getattr(few, key), getattr(many, key)
        assert other.high - other.low < one.high - one.low


def test_patients_who_are_all_alike_have_an_interval_of_no_width() -> None:
    found = figures([TWO_EXAMS[0]] * 5)
    assert (found.f1.low, found.f1.value, found.f1.high) == (1.0, 1.0, 1.0)


def test_single_patient_has_values_and_no_interval() -> None:
    found = figures([lesions([[0.5, 0]], confidence=[0.9, 0.8])])
    assert found.f1.value == pytest.approx(2 / 3)
    assert found.average_precision.value == 1.0
    assert all(estimate.low is estimate.high is None for estimate in estimates(found))


def test_single_patient_with_lesions_among_healthy_ones_leaves_nothing_to_draw_from() -> None:
    # F1 and precision are those of one patient, whichever are drawn: that is no interval.
    found = figures([lesions([[0.5], [0]]), NOTHING, NOTHING, NOTHING])
    assert found.f1.value == pytest.approx(2 / 3)
    assert found.f1.count == 1
    assert (found.f1.low, found.f1.high) == (None, None)
    assert (found.average_precision.low, found.average_precision.high) == (None, None)


def test_draws_without_any_lesion_are_left_out() -> None:
    # Both predictions are equally sure, so that precision is 1/2. Of the draws of two patients half are these two; a
    # quarter has the first one twice, with a precision of 1, and a quarter has no lesion, and no precision.
    found = figures([ONE_FOUND, ONE_FALSE], draws=50).average_precision
    assert (found.low, found.value, found.high) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize("at_once", [1, 50, 333, 10**6])
def test_intervals_are_those_of_all_draws_together_however_few_are_in_memory_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr("longilesion.evaluation.bootstrap._NUMBERS_AT_ONCE", at_once)
    exams = cohort(2)
    first = ranked(exams, iou=0.1, over_mm=0.0)
    weights = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), size=70).astype(np.float64)
    found = figures(exams, over_mm=0.0, draws=70, seed=5)
    for estimate, drawn in (
        (found.average_precision, average_precision(first, weights)),
        (found.sensitivity["0.5"], sensitivity_at(first, weights, rate=0.5)),
    ):
        assert (estimate.low, estimate.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), rel=1e-12)


def test_many_draws_of_many_predictions_do_not_lie_in_memory_together() -> None:
    generator = np.random.default_rng(0)
    exams = [lesions(generator.random((2, 50)) < 0.1, confidence=generator.random(50)) for _ in range(10)]
    ranking = ranked(exams, iou=0.1, over_mm=0.0)
    draws, predictions = 40_000, len(ranking.exam)
    tracemalloc.start()
    try:
        bootstrap = Bootstrap(len(exams), draws=draws, seed=0)
        bootstrap.estimate(partial(average_precision, ranking), count=20, contributors=10, width=predictions)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Much less than one number for each draw of each prediction.
    assert peak < 0.6 * 8 * draws * predictions
    assert draws * predictions > 10**7


# -------------------------------------------------------------------------------------------------- no lesions anywhere


@pytest.mark.parametrize("over_mm", [0.0, 6.0, 10.0])
def test_nothing_true_and_nothing_predicted_has_no_figures(over_mm: float) -> None:
    found = figures([NOTHING] * 3, over_mm=over_mm)
    assert (found.true_lesions, found.predicted_lesions) == (0, 0)
    assert all(estimate.value is estimate.low is estimate.high is None for estimate in estimates(found))


def test_false_positives_alone_have_an_f1_of_0_and_no_sensitivity() -> None:
    found = figures([ONE_FALSE, NOTHING, ONE_FALSE])
    assert (found.true_lesions, found.predicted_lesions) == (0, 2)
    assert (found.f1.value, found.f1.count) == (0.0, 2)
    assert found.average_precision.value is found.mean_average_precision.value is None
    assert all(estimate.value is None for estimate in found.sensitivity.values())


def test_missed_lesions_alone_have_a_sensitivity_of_0() -> None:
    found = figures([ONE_MISSED, ONE_MISSED])
    assert (found.true_lesions, found.predicted_lesions) == (2, 0)
    assert found.average_precision.value == found.mean_average_precision.value == 0.0
    assert all(estimate.value == 0.0 for estimate in found.sensitivity.values())
    assert found.f1.value == 0.0
