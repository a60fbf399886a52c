from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from longilesion.case import LesionMap
from longilesion.errors import InputError
from longilesion.evaluation.exam import (
    BaselineLesion,
    Exam,
    Fate,
    FollowupClick,
    LesionFact,
    Prediction,
    ScoringSettings,
)
from longilesion.evaluation.lesions import LesionScore, best_matches
from longilesion.evaluation.overlap import Overlap
from longilesion.evaluation.scoring import ExamScore, score_exam
from longilesion.geometry import ZYX, Grid, Triple

# Voxels of 2 x 1 x 1 mm hold 0.002 ml.
GRID = Grid.from_spacing((8, 12, 64), (2.0, 1.0, 1.0), origin_xyz_mm=(-30.0, 10.0, 500.0))
VOXEL_ML = 0.002
Box = tuple[ZYX, ZYX]


def bar(start_x: int, stop_x: int) -> Box:
    """A box of 4 x 4 voxels in z and y, and as many as are given in x."""
    return (2, 4, start_x), (6, 8, stop_x)


def drawn(boxes: Mapping[int, Box | list[Box]], grid: Grid = GRID) -> LesionMap:
    """A map of boxes by label; later ones lie over earlier ones."""
    ids = np.zeros(grid.shape_zyx, np.uint16)
    for label, given in boxes.items():
        for start, stop in given if isinstance(given, list) else [given]:
            ids[tuple(slice(low, high) for low, high in zip(start, stop, strict=True))] = label
    return LesionMap(ids=ids, grid=grid)


def exam_of(
    truth: LesionMap | Mapping[str, LesionMap],
    facts: Mapping[int, LesionFact] | None = None,
    *,
    baseline: Mapping[int, BaselineLesion] | None = None,
    clicks: Mapping[int, FollowupClick] | None = None,
) -> Exam:
    """An exam; where no facts are given, all of its lesions persist."""
    maps = {"primary": truth} if isinstance(truth, LesionMap) else truth
    ids = {int(label) for lesions in maps.values() for label in np.unique(lesions.ids) if label}
    return Exam(
        name="exam",
        truth=maps,
        facts={label: there("persists", label) for label in sorted(ids)} if facts is None else facts,
        baseline=baseline,
        clicks=clicks or {},
    )


def there(fate: Fate | None, true_id: int) -> LesionFact:
    return LesionFact(fate=fate, true_id=true_id)


GONE = LesionFact(fate="gone", true_id=None)


def predicted(
    maps: LesionMap | Mapping[str, LesionMap],
    *,
    presence: Mapping[int, float] | None = None,
    merged_into: Mapping[int, int] | None = None,
) -> Prediction:
    return Prediction(
        maps={"primary": maps} if isinstance(maps, LesionMap) else maps,
        presence=presence or {},
        merged_into=merged_into or {},
    )


def scored(exam: Exam, prediction: Prediction | LesionMap, **settings: object) -> ExamScore:
    given = predicted(prediction) if isinstance(prediction, LesionMap) else prediction
    return score_exam(exam, given, ScoringSettings(**settings))


def rows_of(score: ExamScore) -> dict[int, LesionScore]:
    """The rows by lesion, of which each has one."""
    rows = {row.lesion_id: row for row in score.lesions}
    assert len(rows) == len(score.lesions)
    return rows


def clicked(voxel_zyx: Triple, scan: str = "primary", grid: Grid = GRID) -> FollowupClick:
    return FollowupClick(scan=scan, point_xyz_mm=grid.world_xyz_mm(voxel_zyx))


# ----------------------------------------------------------------------------------------------------------- one lesion


def test_lesion_outlined_two_voxels_off_has_every_measure() -> None:
    # Truth and prediction are 4 x 4 x 10 voxels = 160, of which 4 x 4 x 8 = 128 are shared: Dice 256 / 320, IoU
    # 128 / 192. Both are hypot(10, 3) mm long in a slice. Of a bar's 128 border voxels the 16 of one end are 2 mm from
    # the other bar; the distance at floor(127 * 0.95) = 120 is one of those, the last 16.
    score = scored(exam_of(drawn({5: bar(10, 20)})), drawn({5: bar(12, 22)}))
    row = rows_of(score)[5]
    assert (row.exam, row.scan, row.lesion_id, row.true_id, row.fate) == ("exam", "primary", 5, 5, "persists")
    assert row.dice == pytest.approx(0.8)
    assert row.true_volume_ml == row.predicted_volume_ml == pytest.approx(160 * VOXEL_ML)
    assert row.true_diameter_mm == row.predicted_diameter_mm == row.diameter_mm == pytest.approx(np.hypot(10, 3))
    assert row.surface_dice == 1.0  # everything lies within the tolerance of 2 mm
    assert row.hausdorff_95_mm == 2.0
    assert (row.match_id, row.match_dice) == (5, row.dice)
    assert row.match_iou == pytest.approx(2 / 3)
    assert (row.match_surface_dice, row.match_hausdorff_95_mm) == (row.surface_dice, row.hausdorff_95_mm)
    assert row.challenge_dice == row.dice
    assert row.is_detected is True
    assert row.is_present is True
    assert row.is_kept == 1.0
    assert row.is_recognised is None
    assert (row.volume_error_ml, row.diameter_error_mm) == (0.0, 0.0)
    assert (row.presence, row.click_error_mm, row.baseline_volume_ml, row.baseline_diameter_mm) == (None,) * 4


def test_lesion_outlined_too_short_has_negative_errors() -> None:
    # 6 of 10 columns: 96 of 160 voxels, and hypot(6, 3) of hypot(10, 3) mm.
    row = rows_of(scored(exam_of(drawn({5: bar(10, 20)})), drawn({5: bar(10, 16)})))[5]
    assert row.dice == pytest.approx(2 * 96 / (160 + 96))
    assert row.volume_error_ml == pytest.approx(-64 * VOXEL_ML)
    assert row.diameter_error_mm == pytest.approx(np.hypot(6, 3) - np.hypot(10, 3))


def test_tolerance_is_that_of_the_settings() -> None:
    exam, prediction = exam_of(drawn({5: bar(10, 20)})), drawn({5: bar(12, 22)})
    near, far = (rows_of(scored(exam, prediction, tolerance_mm=tolerance))[5] for tolerance in (2.0, 1.0))
    assert near.surface_dice == 1.0
    assert far.surface_dice is not None
    assert far.surface_dice < 1
    assert far.hausdorff_95_mm == near.hausdorff_95_mm


def test_missed_lesion_has_dice_0_and_no_distance() -> None:
    row = rows_of(scored(exam_of(drawn({5: bar(10, 20)})), drawn({})))[5]
    assert (row.dice, row.surface_dice, row.hausdorff_95_mm) == (0.0, 0.0, None)
    assert (row.match_id, row.match_dice, row.match_iou, row.challenge_dice) == (None, 0.0, 0.0, 0.0)
    assert (row.match_surface_dice, row.match_hausdorff_95_mm) == (0.0, None)
    assert (row.predicted_volume_ml, row.predicted_diameter_mm) == (0.0, 0.0)
    assert row.volume_error_ml == pytest.approx(-160 * VOXEL_ML)
    assert row.is_detected is False
    assert row.is_kept == 0.0


def test_outline_beside_the_lesion_has_a_distance_but_no_match() -> None:
    # Four columns from 10 to 13, and four from 40 to 43: no voxel is shared, every border voxel is 27 mm or more away.
    row = rows_of(scored(exam_of(drawn({5: bar(10, 14)})), drawn({5: bar(40, 44)})))[5]
    assert (row.dice, row.surface_dice, row.match_id, row.is_detected) == (0.0, 0.0, None, False)
    assert row.hausdorff_95_mm == 30.0  # the far column of either, three columns behind the near one
    assert row.match_hausdorff_95_mm is None
    assert row.predicted_volume_ml == pytest.approx(64 * VOXEL_ML)


@pytest.mark.parametrize(("columns", "is_detected"), [(2, True), (1, False)])
def test_lesion_is_detected_from_an_overlap_of_a_tenth(columns: int, is_detected: bool) -> None:
    # 2 of 20 columns are an IoU of exactly 0.1.
    row = rows_of(scored(exam_of(drawn({5: bar(10, 30)})), drawn({5: bar(10, 10 + columns)})))[5]
    assert row.match_iou == pytest.approx(columns / 20)
    assert row.is_detected is is_detected


def test_overlap_that_detects_is_that_of_the_settings() -> None:
    exam, prediction = exam_of(drawn({5: bar(10, 20)})), drawn({5: bar(12, 22)})
    for iou, is_detected in ((0.66, True), (0.67, False)):
        assert rows_of(scored(exam, prediction, detection_iou=iou))[5].is_detected is is_detected


# ------------------------------------------------------------------------------------------------------ ids and matches


def test_permuted_ids_score_0_by_id_and_1_by_match() -> None:
    truth, swapped = drawn({1: bar(2, 12), 2: bar(20, 30)}), drawn({2: bar(2, 12), 1: bar(20, 30)})
    score = scored(exam_of(truth), swapped)
    for row in rows_of(score).values():
        assert (row.dice, row.surface_dice) == (0.0, 0.0)
        assert row.hausdorff_95_mm == 18.0  # from one bar's far end to the other's
        assert (row.match_id, row.match_dice, row.match_iou) == (3 - row.lesion_id, 1.0, 1.0)
        assert (row.match_surface_dice, row.match_hausdorff_95_mm, row.challenge_dice) == (1.0, 0.0, 1.0)
        assert row.is_detected is True
    assert score.challenge.dice == 1.0


def test_matching_by_overlap_repairs_permuted_ids() -> None:
    truth, swapped = drawn({1: bar(2, 12), 2: bar(20, 30)}), drawn({2: bar(2, 12), 1: bar(20, 30)})
    prediction = predicted(swapped, presence={1: 0.7, 2: 0.9})
    score = scored(exam_of(truth), prediction, matching="overlap")
    rows = rows_of(score)
    assert [(row.dice, row.hausdorff_95_mm, row.match_id) for row in rows.values()] == [(1.0, 0.0, 1), (1.0, 0.0, 2)]
    # How sure the method is of its label 2 is how sure it is of lesion 1.
    assert [rows[1].presence, rows[2].presence] == [0.9, 0.7]
    assert score.detection.confidence.tolist() == [0.9, 0.7]
    assert (score.unknown_labels, score.extra_ml) == (0, 0)
    # The given maps are as they were.
    assert set(np.unique(swapped.ids[:, :, :15])) == {0, 2}


def test_matching_by_overlap_repairs_ids_over_255_and_renames_those_left_over() -> None:
    # Lesions 1, 300 and 44 (300 in 8 bits) are predicted as 300, 44 and 60000. Label 1 lies where nothing is, and label
    # 301 where lesion 301, which is gone, was.
    truth = drawn({1: bar(2, 8), 300: bar(12, 20), 44: bar(24, 30)})
    prediction = drawn({300: bar(2, 8), 44: bar(12, 20), 60000: bar(24, 30), 1: bar(40, 45), 301: bar(50, 52)})
    facts = {label: there("persists", label) for label in (1, 44, 300)} | {301: GONE}
    exam = exam_of(truth, facts)
    by_id, by_overlap = scored(exam, prediction), scored(exam, prediction, matching="overlap")
    assert [rows_of(by_id)[label].dice for label in (1, 44, 300)] == [0.0, 0.0, 0.0]
    assert [rows_of(by_overlap)[label].dice for label in (1, 44, 300)] == [1.0, 1.0, 1.0]
    # By id label 60000 is unknown. By overlap label 1 is, which takes an id that no lesion has; label 301, where
    # nothing is either, is that of a lesion that is gone, and says that it is not.
    assert (by_id.unknown_labels, by_id.extra_ml) == (1, pytest.approx(6 * 16 * VOXEL_ML))
    assert (by_overlap.unknown_labels, by_overlap.extra_ml) == (1, pytest.approx(5 * 16 * VOXEL_ML))
    assert rows_of(by_id)[301].is_recognised == 0.0
    assert rows_of(by_overlap)[301].is_recognised == 0.0
    assert rows_of(by_overlap)[301].predicted_volume_ml == pytest.approx(2 * 16 * VOXEL_ML)
    # Neither the challenge's score nor detection depends on ids.
    assert by_id.challenge == by_overlap.challenge
    assert by_overlap.challenge.entries == 5
    assert sorted(by_id.detection.predicted_ml) == pytest.approx(sorted(by_overlap.detection.predicted_ml))


def test_matching_by_overlap_leaves_right_ids_alone() -> None:
    truth = drawn({1: bar(2, 12), 300: bar(20, 30)})
    prediction = predicted(drawn({1: bar(3, 13), 300: bar(20, 28)}), presence={1: 0.6, 300: 0.8})
    assert scored(exam_of(truth), prediction).lesions == scored(exam_of(truth), prediction, matching="overlap").lesions


def test_matching_by_overlap_works_with_the_largest_id_that_16_bits_hold() -> None:
    # Lesion 65535 is outlined by label 1, and label 2 is left over: 65533 ids are free for it.
    truth, prediction = drawn({65535: bar(2, 12)}), drawn({1: bar(2, 12), 2: bar(20, 30)})
    score = scored(exam_of(truth), prediction, matching="overlap")
    assert rows_of(score)[65535].dice == 1.0
    assert score.unknown_labels == 1


def test_every_label_matches_one_lesion_so_that_the_sum_of_dice_is_highest() -> None:
    # Label 8 overlaps lesion 1 in 6 of its 12 columns (lesion 1 has 10) and lesion 2 in 6 (it has 6); label 9 is 4
    # columns of lesion 1.
    #   Dice: (1, 8) 12 / 22, (2, 8) 12 / 18, (1, 9) 8 / 14; so 8 with 2 and 9 with 1.
    truth, prediction = drawn({1: bar(0, 10), 2: bar(10, 16)}), drawn({9: bar(0, 4), 8: bar(4, 16)})
    overlap = Overlap.of(truth.ids, prediction.ids)
    assert best_matches(overlap) == {1: 9, 2: 8}
    rows = rows_of(scored(exam_of(truth), prediction))
    assert rows[1].match_dice == pytest.approx(8 / 14)
    assert rows[2].match_dice == pytest.approx(12 / 18)


def test_best_match_gives_up_a_lesions_best_label_for_the_better_sum() -> None:
    # Label 9 is 2 columns of lesion 1's 10, label 8 the other 8 and all 10 of lesion 2.
    #   Dice: (1, 9) 4 / 12, (1, 8) 16 / 28, (2, 8) 20 / 28. Lesion 1 would rather have 8, but 9 and 8 sum to more.
    truth, prediction = drawn({1: bar(0, 10), 2: bar(10, 20)}), drawn({9: bar(0, 2), 8: bar(2, 20)})
    assert best_matches(Overlap.of(truth.ids, prediction.ids)) == {1: 9, 2: 8}


def test_binary_prediction_matches_one_lesion_only() -> None:
    # Lesions of 10 and 6 columns under one label of 16: by id lesion 1 has Dice 2 * 10 / 26, as has its match. Lesion 2
    # has nothing.
    truth, prediction = drawn({1: bar(0, 10), 2: bar(30, 36)}), drawn({1: [bar(0, 10), bar(30, 36)]})
    rows = rows_of(scored(exam_of(truth), prediction))
    assert rows[1].dice == rows[1].match_dice == pytest.approx(20 / 26)
    assert (rows[2].dice, rows[2].match_id, rows[2].is_detected) == (0.0, None, False)


def test_nothing_shared_matches_nothing() -> None:
    assert best_matches(Overlap.of(drawn({1: bar(0, 4)}).ids, drawn({1: bar(10, 14)}).ids)) == {}
    assert best_matches(Overlap.of(drawn({}).ids, drawn({}).ids)) == {}


# -------------------------------------------------------------------------------------------------- split, merged, gone


def test_lesion_split_into_two_labels_counts_the_part_under_its_id() -> None:
    # 4 of 10 columns under its own id, 6 under 9: Dice 2 * 4 / 14 by id, 2 * 6 / 16 by match, and to the challenge the
    # mean of both.
    score = scored(exam_of(drawn({4: bar(10, 20)})), drawn({4: bar(10, 14), 9: bar(14, 20)}))
    row = rows_of(score)[4]
    assert row.dice == pytest.approx(8 / 14)
    assert (row.match_id, row.match_dice, row.match_iou) == (9, pytest.approx(12 / 16), pytest.approx(0.6))
    assert row.challenge_dice == pytest.approx((8 / 14 + 12 / 16) / 2)
    assert row.predicted_volume_ml == pytest.approx(64 * VOXEL_ML)
    assert (score.unknown_labels, score.extra_ml) == (1, pytest.approx(96 * VOXEL_ML))
    np.testing.assert_allclose(score.detection.iou, [[0.4, 0.6]])
    assert score.challenge.entries == 2
    assert score.challenge.dice == pytest.approx(row.challenge_dice)


def test_voxel_of_a_neighbours_label_halves_what_the_challenge_gives_a_lesion() -> None:
    # Lesion 2 (160 voxels) is touched by a voxel of label 1 (161): Dice 2 * 159 / 319 and 2 * 1 / 321.
    truth = drawn({1: bar(0, 10), 2: bar(10, 20)})
    bled = drawn({1: bar(0, 10), 2: bar(10, 20)})
    bled.ids[2, 4, 10] = 1
    rows = rows_of(scored(exam_of(truth), bled))
    assert rows[1].challenge_dice == rows[1].dice == pytest.approx(320 / 321)
    assert rows[2].dice == pytest.approx(318 / 319)
    assert rows[2].challenge_dice == pytest.approx((318 / 319 + 2 / 321) / 2)


MERGED = {6: there("merged", 6), 7: there("merged", 6)}


def test_predictions_of_merged_lesions_are_taken_as_one() -> None:
    # Lesions 6 and 7 are one outline of 12 columns, 6. The prediction has 7 columns as 6 and 5 as 7.
    exam = exam_of(drawn({6: bar(10, 22)}), MERGED)
    score = scored(exam, predicted(drawn({6: bar(10, 17), 7: bar(17, 22)}), presence={6: 0.6, 7: 0.8}))
    host, part = rows_of(score)[6], rows_of(score)[7]
    assert (host.dice, host.surface_dice, host.hausdorff_95_mm) == (1.0, 1.0, 0.0)
    assert host.predicted_volume_ml == host.true_volume_ml == pytest.approx(192 * VOXEL_ML)
    assert host.predicted_diameter_mm == host.true_diameter_mm == pytest.approx(np.hypot(12, 3))
    # It is there if either is.
    assert (host.presence, part.presence) == (0.8, 0.8)
    # The best single label has 7 of 12 columns.
    assert (host.match_id, host.match_dice) == (6, pytest.approx(14 / 19))
    # To the challenge it is split: Dice 14 / 19 and 10 / 17.
    assert host.challenge_dice == pytest.approx((14 / 19 + 10 / 17) / 2)
    # What has merged into another has no measures of its own, and is neither there nor gone.
    assert (part.true_id, part.fate) == (6, "merged")
    assert (part.dice, part.challenge_dice, part.match_dice, part.is_detected) == (None, None, None, None)
    assert part.true_volume_ml == 0.0
    assert (part.is_present, part.is_kept, part.is_recognised) == (None, None, None)
    assert (part.volume_error_ml, part.diameter_error_mm) == (None, None)
    assert part.predicted_volume_ml == pytest.approx(80 * VOXEL_ML)
    assert (score.unknown_labels, score.extra_ml) == (0, 0)


@pytest.mark.parametrize("label", [6, 7])
def test_merged_lesions_may_be_outlined_under_the_id_of_any_of_them(label: int) -> None:
    exam = exam_of(drawn({6: bar(10, 22)}), MERGED)
    host = rows_of(scored(exam, drawn({label: bar(10, 22)})))[6]
    assert (host.dice, host.hausdorff_95_mm, host.is_kept) == (1.0, 0.0, 1.0)
    assert (host.match_id, host.match_dice) == (label, 1.0)


def test_what_is_predicted_elsewhere_for_a_part_counts_against_the_merged_lesion() -> None:
    # 6 covers the outline of 12 columns; 7 is 4 columns where nothing is: Dice 2 * 12 / (12 + 16).
    exam = exam_of(drawn({6: bar(10, 22)}), MERGED)
    host = rows_of(scored(exam, drawn({6: bar(10, 22), 7: bar(40, 44)})))[6]
    assert host.dice == pytest.approx(24 / 28)
    assert host.match_dice == 1.0
    assert host.predicted_volume_ml == pytest.approx(16 * 16 * VOXEL_ML)


def test_gone_lesion_left_empty_is_recognised() -> None:
    exam = exam_of(
        drawn({1: bar(0, 10)}),
        {1: there("persists", 1), 5: GONE},
        baseline={
            1: BaselineLesion(volume_ml=0.2, diameter_mm=8.0),
            5: BaselineLesion(volume_ml=1.5, diameter_mm=14.0),
        },
        clicks={5: clicked((4, 6, 40))},
    )
    row = rows_of(scored(exam, predicted(drawn({1: bar(0, 10)}), presence={1: 0.9, 5: 0.2})))[5]
    assert (row.is_present, row.is_recognised, row.is_kept) == (False, 1.0, None)
    assert (row.true_id, row.fate, row.scan) == (None, "gone", "primary")
    assert (row.dice, row.surface_dice, row.hausdorff_95_mm, row.match_dice, row.is_detected) == (None,) * 5
    assert row.challenge_dice is None
    assert (row.volume_error_ml, row.diameter_error_mm, row.click_error_mm) == (None, None, None)
    assert (row.true_volume_ml, row.predicted_volume_ml, row.predicted_diameter_mm) == (0.0, 0.0, 0.0)
    # As large as it was.
    assert (row.diameter_mm, row.baseline_diameter_mm, row.baseline_volume_ml) == (14.0, 14.0, 1.5)
    assert row.presence == 0.2


def test_gone_lesion_that_is_still_predicted_is_not_recognised() -> None:
    exam = exam_of(drawn({1: bar(0, 10)}), {1: there("persists", 1), 5: GONE})
    score = scored(exam, predicted(drawn({1: bar(0, 10), 5: bar(30, 36)}), presence={5: 0.6}))
    row = rows_of(score)[5]
    assert (row.is_present, row.is_recognised) == (False, 0.0)
    assert row.predicted_volume_ml == pytest.approx(96 * VOXEL_ML)
    assert row.predicted_diameter_mm == pytest.approx(np.hypot(6, 3))
    assert (row.dice, row.scan, row.diameter_mm) == (None, None, None)
    # To the challenge it is an entry of Dice 0: (1 + 0) / 2. It is a lesion that is known, not an unknown label.
    assert score.challenge.dice == 0.5
    assert score.challenge.false_positive_ml == pytest.approx(96 * VOXEL_ML / 2)
    assert score.unknown_labels == 0


def test_unknown_labels_are_counted_with_their_volume() -> None:
    score = scored(exam_of(drawn({1: bar(0, 10)})), drawn({1: bar(0, 10), 9: bar(20, 24), 400: bar(30, 31)}))
    assert (score.unknown_labels, score.extra_ml) == (2, pytest.approx(5 * 16 * VOXEL_ML))
    assert list(rows_of(score)) == [1]


# ----------------------------------------------------------------------------------------- nothing there, nothing given


def test_missing_map_counts_as_empty() -> None:
    exam = exam_of(drawn({1: bar(0, 10)}), {1: there("persists", 1), 5: GONE})
    missing, empty = scored(exam, predicted({})), scored(exam, drawn({}))
    assert missing.missing == ("primary",)
    assert empty.missing == ()
    assert missing.lesions == empty.lesions
    assert missing.challenge == empty.challenge
    assert missing.challenge.dice == 0
    assert missing.challenge.false_negative_ml == pytest.approx(160 * VOXEL_ML)
    assert rows_of(missing)[1].dice == 0
    assert rows_of(missing)[5].is_recognised == 1.0


def test_exam_without_lesions_or_predictions_has_no_rows_and_no_score() -> None:
    score = scored(exam_of(drawn({})), drawn({}))
    assert score.lesions == ()
    assert score.challenge.entries == 0
    assert np.isnan([score.challenge.dice, score.challenge.false_positive_ml, score.challenge.false_negative_ml]).all()
    assert score.detection.iou.shape == (0, 0)
    assert (score.unknown_labels, score.extra_ml, score.has_baseline) == (0, 0, False)


def test_prediction_in_an_exam_without_lesions_is_a_false_volume() -> None:
    for settings in ({}, {"matching": "overlap"}, {"instances": "components"}):
        score = scored(exam_of(drawn({})), drawn({3: bar(0, 10)}), **settings)
        assert score.lesions == ()
        assert score.challenge.dice == 0
        assert score.challenge.false_positive_ml == pytest.approx(160 * VOXEL_ML)
        assert score.detection.iou.shape == (0, 1)
        assert (score.unknown_labels, score.extra_ml) == (1, pytest.approx(160 * VOXEL_ML))


def test_exam_in_which_all_lesions_are_gone_has_rows_and_an_entry_for_what_was_predicted() -> None:
    score = scored(exam_of(drawn({}), {1: GONE, 2: GONE}), drawn({2: bar(0, 10)}))
    assert [row.is_recognised for row in score.lesions] == [1.0, 0.0]
    assert score.challenge.dice == 0
    assert score.challenge.entries == 1


# -------------------------------------------------------------------------------------------------- presence and clicks


def test_presence_is_none_where_the_method_does_not_say() -> None:
    exam = exam_of(drawn({1: bar(0, 10), 2: bar(20, 30)}))
    rows = rows_of(scored(exam, predicted(exam.truth["primary"], presence={2: 0.35})))
    assert (rows[1].presence, rows[2].presence) == (None, 0.35)


def test_lesion_judged_gone_has_its_presence_and_no_outline() -> None:
    rows = rows_of(scored(exam_of(drawn({1: bar(0, 10)})), predicted(drawn({}), presence={1: 0.0})))
    assert (rows[1].presence, rows[1].is_kept, rows[1].dice) == (0.0, 0.0, 0.0)


def test_predictions_without_a_presence_are_sure() -> None:
    exam = exam_of(drawn({1: bar(0, 10), 2: bar(20, 30)}))
    score = scored(exam, predicted(exam.truth["primary"], presence={2: 0.35}))
    assert score.detection.confidence.tolist() == [1.0, 0.35]


def test_click_error_is_in_millimetres_from_the_centre_of_gravity() -> None:
    # The bar's centre is voxel (3.5, 5.5, 14.5); the click is 2 slices (4 mm) and 3 voxels (3 mm) off.
    exam = exam_of(drawn({5: bar(10, 20)}), clicks={5: clicked((5.5, 5.5, 17.5))})
    assert rows_of(scored(exam, drawn({})))[5].click_error_mm == pytest.approx(5.0)


def test_click_in_another_scan_has_no_error() -> None:
    exam = exam_of(
        {"primary": drawn({5: bar(10, 20)}), "secondary": drawn({})}, clicks={5: clicked((4, 6, 15), "secondary")}
    )
    assert rows_of(scored(exam, predicted({})))[5].click_error_mm is None


def test_baseline_is_zero_for_a_new_lesion_and_none_where_there_is_no_baseline() -> None:
    truth = drawn({1: bar(0, 10), 2: bar(20, 30)})
    followed = rows_of(scored(exam_of(truth, baseline={1: BaselineLesion(volume_ml=0.5, diameter_mm=9.0)}), truth))
    assert (followed[1].baseline_volume_ml, followed[1].baseline_diameter_mm) == (0.5, 9.0)
    assert (followed[2].baseline_volume_ml, followed[2].baseline_diameter_mm) == (0.0, 0.0)
    alone = scored(exam_of(truth), truth)
    assert all(row.baseline_volume_ml is row.baseline_diameter_mm is None for row in alone.lesions)
    assert alone.has_baseline is False


def test_lesion_type_and_target_are_those_of_the_facts() -> None:
    facts = {1: LesionFact(fate="persists", true_id=1, lesion_type="Liver", is_target=True), 2: GONE}
    rows = rows_of(scored(exam_of(drawn({1: bar(0, 10)}), facts), drawn({})))
    assert (rows[1].lesion_type, rows[1].is_target) == ("Liver", True)
    assert (rows[2].lesion_type, rows[2].is_target) == (None, None)


# ------------------------------------------------------------------------------------------------------------ two scans


OTHER = Grid.from_spacing((6, 10, 40), (3.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, -900.0))
OTHER_ML = 0.003


def small_bar(start_x: int, stop_x: int) -> Box:
    """A box of 2 x 2 voxels in z and y."""
    return (2, 4, start_x), (4, 6, stop_x)


def test_lesion_in_both_scans_has_a_row_in_each() -> None:
    # Perfect in the primary scan; in the secondary one 4 of 8 columns: Dice 2 * 4 / 12.
    truth = {"primary": drawn({1: bar(0, 10), 2: bar(20, 30)}), "secondary": drawn({2: small_bar(0, 8)}, OTHER)}
    prediction = {"primary": truth["primary"], "secondary": drawn({2: small_bar(0, 4)}, OTHER)}
    score = scored(exam_of(truth), predicted(prediction))
    assert [(row.lesion_id, row.scan, row.dice) for row in score.lesions] == [
        (1, "primary", 1.0),
        (2, "primary", 1.0),
        (2, "secondary", pytest.approx(2 / 3)),
    ]
    # Each scan's voxels count with their own volume.
    assert [row.true_volume_ml for row in score.lesions] == pytest.approx(
        [160 * VOXEL_ML, 160 * VOXEL_ML, 32 * OTHER_ML]
    )
    # The challenge's entries of both scans are one mean.
    assert score.challenge.entries == 3
    assert score.challenge.dice == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert score.challenge.false_negative_ml == pytest.approx(16 * OTHER_ML / 3)


def test_lesions_of_one_scan_do_not_overlap_those_of_the_other() -> None:
    truth = {"primary": drawn({1: bar(0, 10)}), "secondary": drawn({2: small_bar(0, 8)}, OTHER)}
    prediction = {"primary": drawn({1: bar(0, 10), 9: bar(30, 32)}), "secondary": drawn({2: small_bar(0, 4)}, OTHER)}
    score = scored(exam_of(truth), predicted(prediction, presence={1: 0.9, 2: 0.8, 9: 0.1}))
    found = score.detection
    np.testing.assert_array_equal(found.iou, [[1, 0, 0], [0, 0, 0.5]])
    assert found.confidence.tolist() == [0.9, 0.1, 0.8]
    assert found.true_ml.tolist() == pytest.approx([160 * VOXEL_ML, 32 * OTHER_ML])
    assert found.predicted_ml.tolist() == pytest.approx([160 * VOXEL_ML, 32 * VOXEL_ML, 16 * OTHER_ML])
    assert found.true_mm.tolist() == pytest.approx([np.hypot(10, 3), np.hypot(8, 1)])


def test_scan_without_a_predicted_map_is_missing_and_its_lesions_are_missed() -> None:
    truth = {"primary": drawn({1: bar(0, 10)}), "secondary": drawn({2: small_bar(0, 8)}, OTHER)}
    score = scored(exam_of(truth), predicted({"primary": truth["primary"]}))
    assert score.missing == ("secondary",)
    assert [row.dice for row in score.lesions] == [1.0, 0.0]
    assert score.challenge.dice == 0.5


def test_gone_lesion_is_predicted_if_it_is_in_either_scan() -> None:
    truth = {"primary": drawn({1: bar(0, 10)}), "secondary": drawn({}, OTHER)}
    facts = {1: there("persists", 1), 5: GONE}
    prediction = {"primary": drawn({1: bar(0, 10), 5: bar(30, 32)}), "secondary": drawn({5: small_bar(0, 7)}, OTHER)}
    row = rows_of(scored(exam_of(truth, facts), predicted(prediction)))[5]
    assert row.predicted_volume_ml == pytest.approx(32 * VOXEL_ML + 28 * OTHER_ML)
    assert row.predicted_diameter_mm == pytest.approx(np.hypot(7, 1))  # the longer of hypot(2, 3) and this
    assert row.is_recognised == 0.0


def test_unknown_labels_of_both_scans_are_counted() -> None:
    truth = {"primary": drawn({1: bar(0, 10)}), "secondary": drawn({}, OTHER)}
    prediction = {"primary": drawn({9: bar(30, 32)}), "secondary": drawn({9: small_bar(0, 7)}, OTHER)}
    score = scored(exam_of(truth), predicted(prediction))
    assert (score.unknown_labels, score.extra_ml) == (2, pytest.approx(32 * VOXEL_ML + 28 * OTHER_ML))


def test_matching_by_overlap_is_per_scan() -> None:
    # Lesion 2 is label 1 in the primary scan and label 4 in the secondary one, where label 1 is nothing.
    truth = {"primary": drawn({2: bar(0, 10)}), "secondary": drawn({2: small_bar(0, 8)}, OTHER)}
    prediction = {
        "primary": drawn({1: bar(0, 10), 7: bar(20, 25)}),
        "secondary": drawn({4: small_bar(0, 8), 1: small_bar(20, 25)}, OTHER),
    }
    score = scored(exam_of(truth), predicted(prediction), matching="overlap")
    assert [(row.lesion_id, row.scan, row.dice) for row in score.lesions] == [
        (2, "primary", 1.0),
        (2, "secondary", 1.0),
    ]
    assert (score.unknown_labels, score.extra_ml) == (2, pytest.approx(80 * VOXEL_ML + 20 * OTHER_ML))


# ----------------------------------------------------------------------------------------------------------- components


def test_components_are_detected_one_by_one_where_the_settings_say_so() -> None:
    # Lesion 1 is in two parts, of 5 and 8 columns; the prediction has the first, and a second label beside nothing.
    truth = drawn({1: [bar(0, 5), bar(10, 18)]})
    prediction = predicted(drawn({1: bar(0, 5), 3: [bar(30, 33), bar(40, 42)]}), presence={1: 0.9, 3: 0.4})
    labels = scored(exam_of(truth), prediction).detection
    # As labels: 5 of 13 columns.
    np.testing.assert_allclose(labels.iou, [[5 / 13, 0]])
    assert labels.confidence.tolist() == [0.9, 0.4]
    parts = scored(exam_of(truth), prediction, instances="components").detection
    assert sorted(parts.true_ml) == pytest.approx([80 * VOXEL_ML, 128 * VOXEL_ML])
    assert sorted(parts.predicted_ml) == pytest.approx([32 * VOXEL_ML, 48 * VOXEL_ML, 80 * VOXEL_ML])
    assert parts.iou.sum() == parts.iou.max() == 1.0
    # A part is as sure as its label.
    assert sorted(zip(parts.predicted_ml.round(3).tolist(), parts.confidence.tolist(), strict=True)) == [
        (0.064, 0.4),
        (0.096, 0.4),
        (0.16, 0.9),
    ]


def test_components_change_detection_only() -> None:
    truth = drawn({1: [bar(0, 5), bar(10, 18)]})
    labels, parts = (scored(exam_of(truth), drawn({1: bar(0, 5)}), instances=kind) for kind in ("labels", "components"))
    assert labels.lesions == parts.lesions
    assert labels.challenge == parts.challenge


def test_touching_lesions_of_two_labels_are_two_components() -> None:
    truth = drawn({1: bar(0, 5), 2: bar(5, 10)})
    parts = scored(exam_of(truth), truth, instances="components").detection
    np.testing.assert_array_equal(np.sort(parts.iou, axis=None), [0, 0, 1, 1])


@pytest.mark.parametrize(("second", "components"), [(((4, 6, 4), (6, 8, 6)), 1), (((4, 6, 6), (6, 8, 8)), 2)])
def test_voxels_that_share_an_edge_are_one_component_and_those_that_share_a_corner_are_not(
    second: Box, components: int
) -> None:
    truth = drawn({1: [((2, 4, 4), (4, 6, 6)), second]})
    found = scored(exam_of(truth), truth, instances="components").detection
    assert found.iou.shape == (components, components)


# ---------------------------------------------------------------------------------------------------------------- fates


BEFORE = BaselineLesion(volume_ml=0.5, diameter_mm=9.0)


def fates_of(score: ExamScore) -> dict[int, Fate | None]:
    return {row.lesion_id: row.predicted_fate for row in score.lesions}


def test_outlined_lesion_persists_or_is_new_and_an_empty_one_is_gone() -> None:
    # Lesions 1 and 3 were there before; 2 and 4 were not.
    facts = {1: there("persists", 1), 2: there("new", 2), 3: GONE, 4: GONE}
    exam = exam_of(drawn({1: bar(0, 5), 2: bar(10, 15)}), facts, baseline={1: BEFORE, 3: BEFORE})
    perfect = drawn({1: bar(0, 5), 2: bar(10, 15)})
    assert fates_of(scored(exam, perfect)) == {1: "persists", 2: "new", 3: "gone", 4: "gone"}
    # Whatever is outlined is there, also where there is nothing.
    everything = drawn({1: bar(0, 5), 2: bar(10, 15), 3: bar(20, 25), 4: bar(30, 35)})
    assert fates_of(scored(exam, everything)) == {1: "persists", 2: "new", 3: "persists", 4: "new"}
    assert fates_of(scored(exam, drawn({}))) == dict.fromkeys((1, 2, 3, 4), "gone")


def merging_exam(clicks: Mapping[int, FollowupClick] | None = None) -> Exam:
    """Lesions 6 and 7 are one outline, 6; lesion 1 is elsewhere, and lesion 5 gone."""
    facts = {1: there("persists", 1), 5: GONE, **MERGED}
    return exam_of(
        drawn({1: bar(0, 5), 6: bar(10, 22)}), facts, baseline=dict.fromkeys((1, 5, 6, 7), BEFORE), clicks=clicks
    )


def test_lesion_that_the_report_merges_into_another_has_merged_as_has_that_one() -> None:
    prediction = predicted(
        drawn({1: bar(0, 5), 6: bar(10, 22)}), presence=dict.fromkeys((1, 5, 6, 7), 0.9), merged_into={7: 6}
    )
    assert fates_of(scored(merging_exam(), prediction)) == {1: "persists", 5: "gone", 6: "merged", 7: "merged"}


def test_lesion_whose_click_lies_in_anothers_outline_has_merged_where_nothing_is_reported() -> None:
    clicks = {1: clicked((4, 6, 2)), 5: clicked((4, 6, 50)), 6: clicked((4, 6, 12)), 7: clicked((4, 6, 20))}
    score = scored(merging_exam(clicks), drawn({1: bar(0, 5), 6: bar(10, 22)}))
    assert fates_of(score) == {1: "persists", 5: "gone", 6: "merged", 7: "merged"}


def test_click_between_voxels_lies_in_the_nearest_one() -> None:
    # The outline's last column is 21; its voxel reaches to 21.5.
    for column, fate in ((21.4, "merged"), (21.6, "gone")):
        score = scored(merging_exam({7: clicked((4, 6, column))}), drawn({1: bar(0, 5), 6: bar(10, 22)}))
        assert fates_of(score)[7] == fate


def test_report_that_a_lesion_is_gone_counts_more_than_its_click() -> None:
    clicks = {7: clicked((4, 6, 20))}
    prediction = predicted(drawn({1: bar(0, 5), 6: bar(10, 22)}), presence={1: 0.9, 6: 0.9, 7: 0.1})
    assert fates_of(scored(merging_exam(clicks), prediction)) == {1: "persists", 5: "gone", 6: "persists", 7: "gone"}


def test_lesion_reported_as_merged_into_one_that_is_not_outlined_is_gone() -> None:
    prediction = predicted(drawn({1: bar(0, 5)}), presence={6: 0.9, 7: 0.9}, merged_into={7: 6})
    assert fates_of(scored(merging_exam(), prediction)) == {1: "persists", 5: "gone", 6: "gone", 7: "gone"}


def test_merged_lesions_outlined_apart_have_persisted() -> None:
    score = scored(merging_exam({7: clicked((4, 6, 20))}), drawn({6: bar(10, 17), 7: bar(17, 22)}))
    assert [fates_of(score)[lesion_id] for lesion_id in (6, 7)] == ["persists", "persists"]


def test_lesion_without_click_or_report_is_gone_where_it_has_no_voxels() -> None:
    assert fates_of(scored(merging_exam(), drawn({6: bar(10, 22)})))[7] == "gone"


@pytest.mark.parametrize("click", [clicked((-3, 6, 20)), clicked((4, 6, 20), "secondary")])
def test_click_outside_the_scan_or_in_one_that_is_not_there_merges_with_nothing(click: FollowupClick) -> None:
    assert fates_of(scored(merging_exam({7: click}), drawn({6: bar(10, 22)})))[7] == "gone"


def test_click_in_an_outline_of_no_lesion_merges_with_nothing() -> None:
    # Lesion 1 is outlined, but under label 9, which no lesion has: by id it is gone, and there is no other lesion that
    # it could have merged with.
    exam = exam_of(drawn({1: bar(0, 10)}), baseline={1: BEFORE}, clicks={1: clicked((4, 6, 5))})
    assert fates_of(scored(exam, drawn({9: bar(0, 10)}))) == {1: "gone"}


def test_click_in_the_other_scan_merges_there() -> None:
    truth = {"primary": drawn({1: bar(0, 5)}), "secondary": drawn({6: small_bar(0, 8)}, OTHER)}
    exam = exam_of(
        truth,
        {1: there("persists", 1), **MERGED},
        baseline=dict.fromkeys((1, 6, 7), BEFORE),
        clicks={7: clicked((2, 4, 3), "secondary", OTHER)},
    )
    assert fates_of(scored(exam, predicted(truth))) == {1: "persists", 6: "merged", 7: "merged"}


def test_lesion_outlined_in_either_scan_persists() -> None:
    truth = {"primary": drawn({1: bar(0, 5)}), "secondary": drawn({}, OTHER)}
    prediction = {"primary": drawn({}), "secondary": drawn({1: small_bar(0, 8)}, OTHER)}
    score = scored(exam_of(truth, baseline={1: BEFORE}), predicted(prediction))
    assert fates_of(score) == {1: "persists"}


def test_fate_is_unknown_without_a_baseline_and_is_the_tables_where_there_is_a_table() -> None:
    # Nothing is known of lesion 1 before; the table says that 2 is new, 3 was there, and 4 was there and is gone.
    facts = {1: there(None, 1), 2: there("new", 2), 3: there("persists", 3), 4: GONE}
    exam = exam_of(drawn({1: bar(0, 5), 2: bar(10, 15), 3: bar(20, 25)}), facts)
    assert fates_of(scored(exam, exam.truth["primary"])) == {1: None, 2: "new", 3: "persists", 4: "gone"}
    still_there = drawn({1: bar(0, 5), 4: bar(30, 35)})
    assert fates_of(scored(exam, still_there)) == {1: None, 2: "gone", 3: "gone", 4: "persists"}


def test_matching_by_overlap_keeps_how_sure_the_method_is_of_lesions_that_it_left_empty() -> None:
    exam = exam_of(drawn({1: bar(2, 8)}), {1: there("persists", 1), 2: GONE, 3: GONE})
    prediction = predicted(drawn({7: bar(2, 8), 3: bar(20, 22)}), presence={7: 0.9, 2: 0.1, 3: 0.6})
    rows = rows_of(scored(exam, prediction, matching="overlap"))
    assert [rows[lesion_id].presence for lesion_id in (1, 2, 3)] == [0.9, 0.1, 0.6]
    assert [rows[lesion_id].is_recognised for lesion_id in (2, 3)] == [1.0, 0.0]


def test_too_many_components_are_refused_with_the_exam_and_the_scan() -> None:
    grid = Grid.from_spacing((52, 102, 102), (1.0, 1.0, 1.0))
    # Every other voxel in each axis: 26 * 51 * 51 specks, of which none touches another.
    specks = np.zeros(grid.shape_zyx, np.uint16)
    specks[::2, ::2, ::2] = 1
    nothing = LesionMap(ids=np.zeros(grid.shape_zyx, np.uint16), grid=grid)
    with pytest.raises(InputError, match="primary scan, prediction: 67626 connected components"):
        scored(exam_of(nothing), LesionMap(ids=specks, grid=grid), instances="components")
