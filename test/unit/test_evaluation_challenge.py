from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from longilesion.case import LesionRegion
from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.challenge import (
    ChallengeScore,
    Entry,
    challenge_entries,
    challenge_score,
    lesion_entries,
    rank_scores,
)
from longilesion.evaluation.overlap import Overlap
from longilesion.geometry import ZYX, Grid

Ids = NDArray[np.uint16]

# Anisotropic voxels of 3 x 0.8 x 0.75 mm hold 1.8 mm3.
GRID = Grid.from_spacing((10, 10, 100), (3.0, 0.8, 0.75))
VOXEL_ML = 0.0018


def ten_lesions() -> Ids:
    """Ten lesions of 10 x 10 x 10 voxels side by side, each touching the next."""
    ids = np.zeros((10, 10, 100), np.uint16)
    for number in range(10):
        ids[:, :, 10 * number : 10 * number + 10] = number + 1
    return ids


def entries_of(truth: Ids, predicted: Ids, voxel_ml: float = VOXEL_ML) -> list[Entry]:
    return challenge_entries(Overlap.of(truth, predicted), voxel_ml=voxel_ml)


def score_of(truth: Ids, predicted: Ids, voxel_ml: float = VOXEL_ML) -> ChallengeScore:
    return challenge_score(entries_of(truth, predicted, voxel_ml))


def figures(score: ChallengeScore | Entry) -> tuple[float, float, float]:
    return score.dice, score.false_positive_ml, score.false_negative_ml


def row(*runs: tuple[int, int]) -> Ids:
    """A map of one line of voxels, given as (label, number of voxels)."""
    return np.repeat(np.array([label for label, _ in runs], np.uint16), [count for _, count in runs])[None, None]


# -------------------------------------------------------------------------------------------------------- the toy table


def test_voxel_volume_of_the_toy_case_is_that_of_its_grid() -> None:
    assert GRID.voxel_volume_ml == pytest.approx(VOXEL_ML)


def test_perfect_labels_score_1_without_false_volumes() -> None:
    score = score_of(ten_lesions(), ten_lesions())
    assert figures(score) == (1.0, 0.0, 0.0)
    assert score.entries == 10


def test_permuted_ids_score_1() -> None:
    # Lesion k is called 11 - k.
    permuted = np.where(ten_lesions() > 0, 11 - ten_lesions(), 0).astype(np.uint16)
    assert set(np.unique(permuted)) == set(range(1, 11))
    score = score_of(ten_lesions(), permuted)
    assert figures(score) == (1.0, 0.0, 0.0)
    assert score.entries == 10


@pytest.mark.parametrize("offset", [250, 300, 65525])
def test_ids_over_255_score_1_up_to_the_largest_that_16_bits_hold(offset: int) -> None:
    renamed = (ten_lesions() + offset).astype(np.uint16)
    for truth, predicted in ((ten_lesions(), renamed), (renamed, ten_lesions()), (renamed, renamed)):
        score = score_of(truth, predicted)
        assert figures(score) == (1.0, 0.0, 0.0)
        assert score.entries == 10


def test_ids_that_are_equal_in_their_low_8_bits_stay_two_lesions() -> None:
    # 44 and 300 = 256 + 44: the lesions are 30 and 10 voxels, each outlined by its own label.
    truth = row((44, 30), (0, 5), (300, 10))
    assert figures(score_of(truth, truth)) == (1.0, 0.0, 0.0)
    # As if an 8-bit map had folded both into 44: Dice 2 * 30 / (30 + 40) and 2 * 10 / (10 + 40), FP 10 and 30.
    folded = row((44, 30), (0, 5), (44, 10))
    score = score_of(truth, folded)
    assert score.dice == pytest.approx((60 / 70 + 20 / 50) / 2)
    assert score.false_positive_ml == pytest.approx((10 + 30) / 2 * VOXEL_ML)


def test_binary_labels_score_018() -> None:
    # One label of 10,000 voxels is an entry for each of ten lesions: 2 * 1000 / (1000 + 10000), FP 9000, FN 0.
    score = score_of(ten_lesions(), (ten_lesions() > 0).astype(np.uint16))
    assert score.dice == pytest.approx(2 / 11)
    assert score.dice == pytest.approx(0.18, abs=0.005)
    assert score.false_positive_ml == pytest.approx(16.2)  # 9000 voxels of 0.0018 ml
    assert score.false_negative_ml == 0
    assert score.entries == 10


def test_lesion_split_into_two_labels_scores_094() -> None:
    split = ten_lesions()
    split[:5][split[:5] == 4] = 44
    # Each half: Dice 2 * 500 / (500 + 1000) = 2/3 and FN 500. Nine perfect entries and these two: eleven.
    score = score_of(ten_lesions(), split)
    assert score.entries == 11
    assert score.dice == pytest.approx((9 + 2 / 3 + 2 / 3) / 11)
    assert score.dice == pytest.approx(0.94, abs=0.005)
    assert score.false_positive_ml == 0
    assert score.false_negative_ml == pytest.approx(1000 / 11 * VOXEL_ML)


def test_one_voxel_of_a_label_in_a_neighbour_scores_091() -> None:
    bled = ten_lesions()
    bled[0, 0, 10] = 1
    # Label 1 now has 1001 voxels, label 2 has 999, and label 1 touches lesion 2, which gives an eleventh entry:
    #   lesion 1, label 1: Dice 2 * 1000 / 2001, FP 1, FN 0
    #   lesion 2, label 1: Dice 2 *    1 / 2001, FP 1000, FN 999
    #   lesion 2, label 2: Dice 2 *  999 / 1999, FP 0, FN 1
    score = score_of(ten_lesions(), bled)
    assert score.entries == 11
    assert score.dice == pytest.approx((8 + 2000 / 2001 + 2 / 2001 + 1998 / 1999) / 11)
    assert score.dice == pytest.approx(0.91, abs=0.005)
    assert score.false_positive_ml == pytest.approx(1001 / 11 * VOXEL_ML)
    assert score.false_negative_ml == pytest.approx(1000 / 11 * VOXEL_ML)


def test_gone_lesion_that_is_still_predicted_scores_090() -> None:
    truth = ten_lesions()
    truth[truth == 6] = 0
    # Nine perfect entries, and one for label 6, which touches nothing: Dice 0, FP 1000, FN 0.
    score = score_of(truth, ten_lesions())
    assert score.entries == 10
    assert score.dice == pytest.approx(0.90)
    assert score.false_positive_ml == pytest.approx(0.18)  # 1000 voxels of 0.0018 ml over 10 entries
    assert score.false_negative_ml == 0


def test_missed_lesion_is_an_entry_of_dice_0_and_its_volume() -> None:
    missed = ten_lesions()
    missed[missed == 7] = 0
    # Nine perfect entries, and one for lesion 7: Dice 0, FP 0, FN 1000.
    score = score_of(ten_lesions(), missed)
    assert score.entries == 10
    assert score.dice == pytest.approx(0.90)
    assert score.false_positive_ml == 0
    assert score.false_negative_ml == pytest.approx(0.18)


def test_one_label_over_two_lesions_is_an_entry_for_each() -> None:
    merged = ten_lesions()
    merged[merged == 4] = 3
    # Lesions 3 and 4 against a label of 2000: Dice 2 * 1000 / 3000 and FP 1000 each.
    score = score_of(ten_lesions(), merged)
    assert score.entries == 10
    assert score.dice == pytest.approx((8 + 2 / 3 + 2 / 3) / 10)
    assert score.false_positive_ml == pytest.approx(2000 / 10 * VOXEL_ML)
    assert score.false_negative_ml == 0


def test_shifted_row_of_touching_lesions_pays_for_every_neighbour_that_it_touches() -> None:
    # Three lesions of 4 voxels that touch, all moved by one voxel:
    #   truth      1 1 1 1 2 2 2 2 3 3 3 3 .
    #   predicted  . 1 1 1 1 2 2 2 2 3 3 3 3
    # Lesion 1 shares 3 with label 1; lesion 2 shares 1 with label 1 and 3 with label 2; lesion 3 shares 1 with label 2
    # and 3 with label 3. Dice 2 * 3 / 8 and 2 * 1 / 8; FP and FN are both 4 less what is shared.
    truth = row((1, 4), (2, 4), (3, 4), (0, 1))
    predicted = row((0, 1), (1, 4), (2, 4), (3, 4))
    entries = entries_of(truth, predicted, 1.0)
    assert [figures(entry) for entry in entries] == [
        (0.75, 1.0, 1.0),
        (0.25, 3.0, 3.0),
        (0.75, 1.0, 1.0),
        (0.25, 3.0, 3.0),
        (0.75, 1.0, 1.0),
    ]
    assert figures(score_of(truth, predicted, 1.0)) == pytest.approx((2.75 / 5, 9 / 5, 9 / 5))


def test_label_that_touches_a_lesion_is_no_second_entry_for_what_lies_outside() -> None:
    # Label 5 overlaps lesion 1 by a voxel; its other 9 voxels are the FP of that entry, and there is no other.
    truth, predicted = row((1, 4), (0, 20)), row((0, 3), (5, 10), (0, 11))
    (entry,) = entries_of(truth, predicted, 1.0)
    assert figures(entry) == (pytest.approx(2 / 14), 9.0, 3.0)


def test_entries_of_one_lesion_are_those_of_the_labels_that_touch_it() -> None:
    # Lesion 1 has labels 7 (6 of its voxels) and 3 (4 of its voxels, and 2 outside); lesion 2 has none.
    truth, predicted = row((1, 10), (0, 5), (2, 3)), row((7, 6), (3, 6), (0, 6))
    overlap = Overlap.of(truth, predicted)
    found = sorted(figures(entry) for entry in lesion_entries(overlap, 1, voxel_ml=0.5))
    assert found == [(pytest.approx(2 * 4 / 16), 1.0, 3.0), (pytest.approx(2 * 6 / 16), 0.0, 2.0)]
    assert [figures(entry) for entry in lesion_entries(overlap, 2, voxel_ml=0.5)] == [(0.0, 0.0, 1.5)]


def test_everything_moved_off_the_lesions_is_missed_and_false() -> None:
    # Two missed lesions (Dice 0, FN 4 and 6) and two labels on nothing (Dice 0, FP 4 and 6): four entries.
    truth, predicted = row((1, 4), (2, 6), (0, 10)), row((0, 10), (1, 4), (2, 6))
    score = score_of(truth, predicted, 1.0)
    assert score.entries == 4
    assert figures(score) == (0.0, 2.5, 2.5)


# -------------------------------------------------------------------------------------------------------- nothing there


def test_prediction_where_nothing_is_has_a_false_volume_and_dice_0() -> None:
    # By the rule, a label that touches no lesion is an entry of Dice 0, also where no lesion is left.
    nothing, predicted = np.zeros((2, 3, 40), np.uint16), np.zeros((2, 3, 40), np.uint16)
    predicted[0, 0, :30], predicted[1, 0, :10] = 1, 2
    entries = entries_of(nothing, predicted, 0.5)
    assert [figures(entry) for entry in entries] == [(0.0, 15.0, 0.0), (0.0, 5.0, 0.0)]
    score = challenge_score(entries)
    assert figures(score) == (0.0, 10.0, 0.0)
    assert score.entries == 2


def test_nothing_there_and_nothing_predicted_is_undefined() -> None:
    nothing = np.zeros((2, 3, 4), np.uint16)
    assert entries_of(nothing, nothing) == []
    score = score_of(nothing, nothing)
    assert all(np.isnan(figure) for figure in figures(score))
    assert score.entries == 0


def test_nothing_predicted_where_a_lesion_is_misses_it() -> None:
    truth = row((9, 10), (0, 10))
    score = score_of(truth, np.zeros_like(truth))
    assert figures(score) == (0.0, 0.0, pytest.approx(10 * VOXEL_ML))
    assert score.entries == 1


def test_undefined_patients_are_left_out_of_means() -> None:
    truth = row((1, 10), (0, 10))
    nothing = np.zeros_like(truth)
    patients = [score_of(truth, truth), score_of(nothing, nothing), score_of(truth, nothing), score_of(nothing, truth)]
    bootstrap = Bootstrap(4, draws=10, seed=0)
    # Dice 1, undefined, 0, 0; FP 0, undefined, 0, 10 voxels; FN 0, undefined, 10 voxels, 0.
    for side, expected in enumerate((1 / 3, 10 * VOXEL_ML / 3, 10 * VOXEL_ML / 3)):
        mean = bootstrap.mean(np.array([figures(patient)[side] for patient in patients]))
        assert (mean.value, mean.count) == (pytest.approx(expected), 3)


# ------------------------------------------------------------------------------------------- several scans, one patient


def test_entries_of_all_of_a_patients_scans_are_one_mean() -> None:
    # First scan (0.002 ml voxels): three perfect lesions. Second (0.01 ml): one lesion of 10 voxels, missed.
    first = row((1, 5), (2, 5), (3, 5))
    second = row((4, 10), (0, 5))
    entries = [*entries_of(first, first, 0.002), *entries_of(second, np.zeros_like(second), 0.01)]
    score = challenge_score(entries)
    # A mean of the scans' means would be 0.5.
    assert score.entries == 4
    assert score.dice == 0.75
    assert score.false_positive_ml == 0
    assert score.false_negative_ml == pytest.approx(0.1 / 4)


def test_volumes_count_with_each_scans_own_voxels() -> None:
    # 10 voxels missed at 0.002 ml, and 10 at 0.03 ml.
    truth = row((1, 10), (0, 10))
    entries = [*entries_of(truth, np.zeros_like(truth), 0.002), *entries_of(truth, np.zeros_like(truth), 0.03)]
    assert challenge_score(entries).false_negative_ml == pytest.approx((0.02 + 0.3) / 2)


def test_label_in_a_second_scan_without_lesions_is_an_entry_of_dice_0() -> None:
    truth, stray = row((1, 10), (0, 10)), row((0, 12), (7, 8))
    nothing = np.zeros_like(truth)
    score = challenge_score([*entries_of(truth, truth, 1.0), *entries_of(nothing, stray, 1.0)])
    # Means of the entries (1, 0, 0) and (0, 8, 0).
    assert figures(score) == (0.5, 4.0, 0.0)
    assert score.entries == 2


def test_second_scan_without_anything_changes_nothing() -> None:
    truth = row((1, 10), (0, 10))
    nothing = np.zeros_like(truth)
    alone = entries_of(truth, truth)
    assert challenge_score([*alone, *entries_of(nothing, nothing)]) == challenge_score(alone)


# ----------------------------------------------------------------------------------------------------------------- rank


def submission(dice: float, false_positive_ml: float, false_negative_ml: float) -> ChallengeScore:
    return ChallengeScore(
        dice=dice, false_positive_ml=false_positive_ml, false_negative_ml=false_negative_ml, entries=1
    )


def test_rank_is_half_the_dice_rank_and_a_quarter_of_each_volumes() -> None:
    # Ranks by Dice (highest first) 1, 2, 3; by FP (lowest first) 3, 1, 2; by FN 2, 1, 3.
    ranks = rank_scores({"a": submission(0.9, 3, 2), "b": submission(0.8, 1, 1), "c": submission(0.7, 2, 3)})
    assert ranks == {
        "a": 0.5 * 1 + 0.25 * 3 + 0.25 * 2,
        "b": 0.5 * 2 + 0.25 * 1 + 0.25 * 1,
        "c": 0.5 * 3 + 0.25 * 2 + 0.25 * 3,
    }
    # So the second-best Dice wins.
    assert min(ranks, key=lambda name: ranks[name]) == "b"


def test_leaderboard_of_the_challenge_is_ranked_by_its_own_figures() -> None:
    # Dice / FP / FN. Ranks: Dice 1, 2, 3; FP 1, 3, 2; FN 1, 3, 2.
    board = {
        "LongiSeg": submission(0.3822, 0.632, 1.088),
        "LongiNet": submission(0.2967, 1.482, 2.547),
        "MAST": submission(0.2478, 0.974, 1.596),
    }
    assert rank_scores(board) == {"LongiSeg": 1.0, "LongiNet": 1.0 + 0.75 + 0.75, "MAST": 1.5 + 0.5 + 0.5}


def test_equal_figures_share_the_mean_of_their_ranks() -> None:
    # Dice: a and b share ranks 1 and 2. FP: all three share 1, 2, 3. FN: b 1, a and c share 2 and 3.
    ranks = rank_scores({"a": submission(0.9, 1, 2), "b": submission(0.9, 1, 1), "c": submission(0.5, 1, 2)})
    assert ranks == {
        "a": 0.5 * 1.5 + 0.25 * 2 + 0.25 * 2.5,
        "b": 0.5 * 1.5 + 0.25 * 2 + 0.25 * 1,
        "c": 0.5 * 3 + 0.25 * 2 + 0.25 * 2.5,
    }


def test_undefined_figure_ranks_last_also_behind_the_worst() -> None:
    ranks = rank_scores(
        {
            "undefined": submission(np.nan, np.nan, np.nan),
            "worst": submission(0.0, 1e6, 1e6),
            "best": submission(1, 0, 0),
        }
    )
    assert ranks == {"undefined": 3.0, "worst": 2.0, "best": 1.0}


def test_undefined_figures_share_the_last_ranks() -> None:
    ranks = rank_scores(
        {"a": submission(np.nan, 0, np.nan), "b": submission(np.nan, 1, np.nan), "c": submission(0.0, 2, 5)}
    )
    # Dice and FN: c 1, a and b share 2 and 3. FP: 1, 2, 3.
    assert ranks == {
        "a": 0.5 * 2.5 + 0.25 * 1 + 0.25 * 2.5,
        "b": 0.5 * 2.5 + 0.25 * 2 + 0.25 * 2.5,
        "c": 0.5 * 1 + 0.25 * 3 + 0.25 * 1,
    }


def test_single_submission_has_rank_1() -> None:
    assert rank_scores({"alone": submission(0.1, 5, 5)}) == {"alone": 1.0}


def test_no_submissions_have_no_ranks() -> None:
    assert rank_scores({}) == {}


# ------------------------------------------------------------------------------------------------------------- overlaps


def test_overlap_counts_what_each_pair_of_lesions_shares() -> None:
    truth, predicted = row((1, 4), (2, 4), (0, 4)), row((0, 2), (8, 4), (0, 1), (9, 5))
    overlap = Overlap.of(truth, predicted)
    # Voxels 2, 3 are 1 and 8; 4, 5 are 2 and 8; 7 is 2 and 9.
    assert overlap.shared == {(1, 8): 2, (2, 8): 2, (2, 9): 1}
    assert {label: region.voxels for label, region in overlap.truth.items()} == {1: 4, 2: 4}
    assert {label: region.voxels for label, region in overlap.predicted.items()} == {8: 4, 9: 5}
    assert overlap.dice(2, 9) == pytest.approx(2 * 1 / (4 + 5))
    assert overlap.iou(2, 9) == pytest.approx(1 / 8)
    assert overlap.dice(1, 9) == overlap.iou(1, 9) == 0


def test_regions_of_an_overlap_are_half_open_boxes() -> None:
    ids = np.zeros((5, 6, 7), np.uint16)
    ids[1:3, 2:5, 3:7] = 300
    region = Overlap.of(ids, np.zeros_like(ids)).truth[300]
    assert (region.start_zyx, region.stop_zyx, region.voxels) == ((1, 2, 3), (3, 5, 7), 2 * 3 * 4)


def test_overlap_does_not_depend_on_how_the_arrays_lie_in_memory() -> None:
    generator = np.random.default_rng(3)
    truth, predicted = (generator.integers(0, 4, (4, 5, 6)).astype(np.uint16) for _ in range(2))
    expected = Overlap.of(truth, predicted)
    for stored in (np.asfortranarray(predicted), predicted[::-1, :, ::-1].copy()[::-1, :, ::-1]):
        found = Overlap.of(truth, stored)
        assert found.shared == expected.shared
        assert boxes(found.predicted) == boxes(expected.predicted)


def boxes(regions: Mapping[int, LesionRegion]) -> dict[int, tuple[ZYX, ZYX, int]]:
    return {label: (region.start_zyx, region.stop_zyx, region.voxels) for label, region in regions.items()}


# ----------------------------------------------------------------------------------------------------------- properties


def small_maps(shape: ZYX = (2, 3, 4), highest: int = 4) -> st.SearchStrategy[Ids]:
    return arrays(np.uint16, shape, elements=st.integers(0, highest), fill=st.just(0))


def voxelwise_entries(truth: Ids, predicted: Ids) -> Iterator[tuple[float, float, float]]:
    """The rule as it is stated, voxel by voxel, with sets of voxels: Dice, FP and FN in voxels."""
    true_sets, predicted_sets = (
        {
            label: {index for index, value in np.ndenumerate(ids) if value == label}
            for label in sorted(set(ids.ravel().tolist()) - {0})
        }
        for ids in (truth, predicted)
    )
    touching = set()
    for lesion in true_sets.values():
        labels = [label for label, voxels in predicted_sets.items() if voxels & lesion]
        touching |= set(labels)
        if not labels:
            yield 0.0, 0.0, float(len(lesion))
        for label in labels:
            voxels = predicted_sets[label]
            yield (
                2 * len(voxels & lesion) / (len(voxels) + len(lesion)),
                float(len(voxels - lesion)),
                float(len(lesion - voxels)),
            )
    for label, voxels in predicted_sets.items():
        if label not in touching:
            yield 0.0, float(len(voxels)), 0.0


@given(small_maps(), small_maps())
def test_entries_are_those_of_the_rule_voxel_by_voxel(truth: Ids, predicted: Ids) -> None:
    expected = list(voxelwise_entries(truth, predicted))
    found = [figures(entry) for entry in entries_of(truth, predicted, 1.0)]
    assert len(found) == len(expected)
    np.testing.assert_allclose(sorted(found, key=repr), sorted(expected, key=repr))
    with_means = figures(score_of(truth, predicted, 1.0))
    for side, mean in enumerate(with_means):
        values = [entry[side] for entry in expected]
        assert mean == pytest.approx(sum(values) / len(values) if values else float("nan"), nan_ok=True)


@given(small_maps(), small_maps(), st.lists(st.integers(1, 65535), min_size=4, max_size=4, unique=True))
def test_permuted_ids_do_not_change_the_score(truth: Ids, predicted: Ids, names: list[int]) -> None:
    renamed = np.array([0, *names], np.uint16)[predicted]
    score, other = score_of(truth, predicted), score_of(truth, renamed)
    assert figures(other) == pytest.approx(figures(score), nan_ok=True)
    assert other.entries == score.entries
    # Nor do the true ones, which is a permutation of the other side.
    assert figures(score_of(np.array([0, *names], np.uint16)[truth], predicted)) == pytest.approx(
        figures(score), nan_ok=True
    )


@given(small_maps(), small_maps())
def test_score_lies_between_nothing_and_perfect(truth: Ids, predicted: Ids) -> None:
    for entry in entries_of(truth, predicted, 1.0):
        assert 0 <= entry.dice <= 1
        assert entry.false_positive_ml >= 0
        assert entry.false_negative_ml >= 0
    # Only a map of the same lesions is perfect: one label for each, and none for what is no lesion.
    pairs = set(zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True))
    is_one_to_one = len(pairs) == len({true for true, _ in pairs}) == len({found for _, found in pairs})
    is_same = is_one_to_one and all((true == 0) == (found == 0) for true, found in pairs)
    assert (score_of(truth, predicted, 1.0).dice == 1) == (is_same and bool(truth.any()))
