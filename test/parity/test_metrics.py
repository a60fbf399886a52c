"""The evaluation's figures against evalutils, MONAI, scikit-learn, SciPy, and formulas as textbooks have them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
from evalutils.roc import get_bootstrapped_roc_ci_curves
from evalutils.scorers import score_detection
from evalutils.stats import (
    calculate_confusion_matrix,
    dice_from_confusion_matrix,
    hausdorff_distance_measures,
    jaccard_from_confusion_matrix,
)
from monai.metrics import compute_hausdorff_distance
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import norm, wilcoxon
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    roc_auc_score,
)

from longilesion.case import LesionMap, lesion_regions
from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.comparison import PATIENT_VALUES, compare
from longilesion.evaluation.detection import ExamLesions, average_precision, ranked
from longilesion.evaluation.exam import Exam, LesionFact, Prediction, ScoringSettings
from longilesion.evaluation.lesions import best_matches
from longilesion.evaluation.longitudinal import FATES, RESPONSES, agreement, concordance, confusion
from longilesion.evaluation.measures import Outline, centre_xyz_mm, hausdorff_95_mm
from longilesion.evaluation.overlap import Overlap
from longilesion.evaluation.scoring import score_exam
from longilesion.evaluation.summary import Evaluation, ExamRow
from longilesion.geometry import Grid, Triple
from test.unit.builders import ball, scan_with

DRAWS = 4000
FEW_DRAWS = 1000  # where each takes a ROC curve
SPACINGS = ((1.0, 1.0, 1.0), (3.0, 0.7, 0.8))


def quantile_tolerance(low: float, high: float, draws: int) -> float:
    """Four standard errors of the difference of two intervals' ends, each from as many draws of about normal figures.

    A quantile p of B draws has the standard error sqrt(p (1 - p) / B) / f, f being the density there; f is that of a
    normal distribution whose 95 % lie between low and high.
    """
    spread = (high - low) / (2 * norm.ppf(0.975))
    density = norm.pdf(norm.ppf(0.025)) / spread
    return float(4 * np.sqrt(2) * np.sqrt(0.025 * 0.975 / draws) / density)


# ------------------------------------------------------------------------------------------------------------- outlines


def bumpy_pair(seed: int, grid: Grid) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two lesions of two balls each, differently placed, with a few voxels missing or too many."""
    generator = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        mask = np.zeros(grid.shape_zyx, np.bool_)
        for _ in range(2):
            centre = np.array(grid.centre_xyz_mm) + generator.uniform(-4, 4, 3)
            mask |= ball(grid, centre, generator.uniform(3, 7))
        mask ^= generator.random(grid.shape_zyx) < 0.002
        masks.append(mask)
    return masks[0], masks[1]


def outline(mask: NDArray[np.bool_], grid: Grid) -> Outline:
    lesions = LesionMap(ids=mask.astype(np.uint16), grid=grid)
    return Outline.of(lesions, [1], list(lesion_regions(lesions.ids).values()))


def sorted_distances(here: NDArray[np.bool_], there: NDArray[np.bool_], spacing: Triple) -> NDArray[np.float64]:
    """From every border voxel of one mask to the other's border, in the whole scan."""
    here, there = (mask & ~binary_erosion(mask) for mask in (here, there))
    return np.sort(distance_transform_edt(~there, sampling=spacing)[here])


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(5))
def test_hausdorff_95_is_that_of_evalutils(seed: int, spacing: Triple) -> None:
    grid = Grid.from_spacing((16, 32, 32), spacing)
    truth, predicted = bumpy_pair(seed, grid)
    expected = hausdorff_distance_measures(truth, predicted, voxelspacing=spacing, percentile=0.95)
    found = hausdorff_95_mm(outline(truth, grid), outline(predicted, grid))
    assert found == pytest.approx(expected.percentile_distance)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(5))
def test_hausdorff_95_is_that_of_monai_to_within_the_next_distance(seed: int, spacing: Triple) -> None:
    # Of n sorted distances evalutils takes the one at floor(0.95 (n - 1)); MONAI interpolates between it and the next.
    grid = Grid.from_spacing((16, 32, 32), spacing)
    truth, predicted = bumpy_pair(seed, grid)
    found = hausdorff_95_mm(outline(truth, grid), outline(predicted, grid))
    theirs = compute_hausdorff_distance(
        torch.from_numpy(predicted)[None, None],
        torch.from_numpy(truth)[None, None],
        include_background=True,
        percentile=95,
        spacing=list(spacing),
    ).item()
    both = [sorted_distances(*pair, spacing) for pair in ((truth, predicted), (predicted, truth))]
    lowest, highest = (max(each[int(0.95 * (len(each) - 1)) + step] for each in both) for step in (0, 1))
    assert found == pytest.approx(lowest)
    assert lowest - 1e-5 <= theirs <= highest + 1e-5


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("moved_zyx", [(2, 0, 0), (0, 3, 0), (1, 2, 4)])
def test_hausdorff_95_of_single_voxels_is_that_of_monai(moved_zyx: tuple[int, int, int]) -> None:
    # There is one distance, and nothing to interpolate.
    grid = Grid.from_spacing((8, 12, 12), (3.0, 0.7, 0.8))
    truth, predicted = np.zeros((2, *grid.shape_zyx), np.bool_)
    truth[2, 3, 4] = True
    predicted[tuple(np.add((2, 3, 4), moved_zyx))] = True
    theirs = compute_hausdorff_distance(
        torch.from_numpy(predicted)[None, None],
        torch.from_numpy(truth)[None, None],
        include_background=True,
        percentile=95,
        spacing=[3.0, 0.7, 0.8],
    ).item()
    assert hausdorff_95_mm(outline(truth, grid), outline(predicted, grid)) == pytest.approx(theirs, rel=1e-6)


# -------------------------------------------------------------------------------------------------------------- overlap


def random_maps(seed: int, *, labels: int = 5) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """A map of labels 1..n, and one that is the same but for a fifth of its voxels."""
    generator = np.random.default_rng(seed)
    truth, other = generator.integers(0, labels + 1, (2, 6, 7, 8)).astype(np.uint16)
    return truth, np.where(generator.random(truth.shape) < 0.2, other, truth)


@pytest.mark.parametrize("seed", range(5))
def test_dice_and_iou_of_equal_labels_are_those_of_evalutils(seed: int) -> None:
    truth, predicted = random_maps(seed)
    overlap = Overlap.of(truth, predicted)
    counts = calculate_confusion_matrix(truth, predicted, list(range(6)))
    dice, iou = dice_from_confusion_matrix(counts), jaccard_from_confusion_matrix(counts)
    for label in range(1, 6):
        # evalutils returns single precision.
        assert overlap.dice(label, label) == pytest.approx(dice[label], rel=1e-6)
        assert overlap.iou(label, label) == pytest.approx(iou[label], rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_dice_and_iou_of_any_two_labels_are_those_of_scikit_learn(seed: int) -> None:
    truth, predicted = random_maps(seed)
    overlap = Overlap.of(truth, predicted)
    for true_id in range(1, 6):
        for label in range(1, 6):
            masks = (truth == true_id).ravel(), (predicted == label).ravel()
            assert overlap.dice(true_id, label) == pytest.approx(f1_score(*masks))
            assert overlap.iou(true_id, label) == pytest.approx(jaccard_score(*masks))


@pytest.mark.parametrize("seed", range(3))
def test_shared_voxels_are_the_confusion_matrix_of_scikit_learn(seed: int) -> None:
    truth, predicted = random_maps(seed)
    counts = confusion_matrix(truth.ravel(), predicted.ravel(), labels=range(6))
    shared = Overlap.of(truth, predicted).shared
    for true_id in range(1, 6):
        assert [shared.get((true_id, label), 0) for label in range(1, 6)] == counts[true_id, 1:].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_best_matches_are_those_of_all_permutations(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = int(generator.integers(1, 6))
    truth, predicted = generator.integers(0, labels + 1, (2, 2, 4, 5)).astype(np.uint16)
    # Ids that differ between the maps, and are not in the order of the lesions.
    names = np.concatenate([[0], generator.choice(np.arange(1, 60000), labels, replace=False)]).astype(np.uint16)
    overlap = Overlap.of(truth, names[predicted])
    # Those left over are matched with nothing: the longer list is permuted against the shorter one.
    true_ids, predicted_ids = list(overlap.truth), list(overlap.predicted)
    shorter, longer = sorted((true_ids, predicted_ids), key=len)
    best = max(
        sum(
            overlap.dice(one, other) if shorter is true_ids else overlap.dice(other, one)
            for one, other in zip(shorter, chosen, strict=True)
        )
        for chosen in permutations(longer, len(shorter))
    )
    matches = best_matches(overlap)
    assert len(set(matches.values())) == len(matches)
    assert all(overlap.shared.get(pair, 0) > 0 for pair in matches.items())
    assert sum(overlap.dice(*pair) for pair in matches.items()) == pytest.approx(best)


# ------------------------------------------------------------------------------------------------------------ detection


def found_lesions(is_right: Sequence[bool], confidence: Sequence[float]) -> ExamLesions:
    """An exam in which each right prediction finds a lesion of its own, and nothing is missed."""
    right = np.flatnonzero(is_right)
    iou = np.zeros((len(right), len(is_right)))
    iou[np.arange(len(right)), right] = 0.6
    return ExamLesions(
        true_mm=np.full(len(right), 12.0),
        true_ml=np.full(len(right), 1.0),
        predicted_mm=np.full(len(is_right), 12.0),
        predicted_ml=np.full(len(is_right), 1.0),
        confidence=np.array(confidence, np.float64),
        iou=iou,
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_is_that_of_scikit_learn_where_all_lesions_are_found(seed: int, levels: int) -> None:
    # Three levels of certainty are mostly ties, a thousand hardly ever.
    generator = np.random.default_rng(seed)
    exams = [
        found_lesions(generator.random(size) < 0.6, generator.integers(1, levels + 1, size) / levels)
        for size in (7, 0, 12, 3)
    ]
    ranking = ranked(exams, iou=0.1, over_mm=6.0)
    weights = np.ones((1, 4))
    expected = average_precision_score(ranking.is_right, ranking.confidence)
    assert average_precision(ranking, weights) == pytest.approx([expected])


def test_average_precision_of_drawn_exams_is_that_of_their_copies() -> None:
    generator = np.random.default_rng(1)
    exams = [found_lesions(generator.random(8) < 0.6, generator.integers(1, 5, 8) / 4) for _ in range(4)]
    ranking = ranked(exams, iou=0.1, over_mm=6.0)
    weights = np.array([[2.0, 0.0, 1.0, 1.0], [0.0, 3.0, 0.0, 1.0]])
    expected = [
        average_precision_score(ranking.is_right, ranking.confidence, sample_weight=drawn[ranking.exam])
        for drawn in weights
    ]
    assert average_precision(ranking, weights) == pytest.approx(expected)


def test_detected_balls_are_those_whose_centres_evalutils_finds_near() -> None:
    # Two balls of radius r whose centres are t r apart share (4 + t) (2 - t)^2 / 16 of a ball, from which t = 1.256 for
    # an IoU of 0.1. Predictions are 0, 0.5 r and 1.1 r off (found), 1.4 r (not found), and one lies where there is
    # nothing. The lesion that is 1.4 r off and two others are missed.
    radius = 8.0
    near = 1.256 * radius
    shared = (4 + 1.256) * (2 - 1.256) ** 2 / 16
    assert shared / (2 - shared) == pytest.approx(0.1, abs=1e-4)
    grid = Grid.from_spacing((40, 60, 240), (1.5, 1.0, 1.0))
    centres = {number: (20.0 + 40 * number, 20.0, 28.0) for number in range(6)}
    moved = {0: (0, 0, 0), 1: (0, 0.5 * radius, 0), 2: (1.1 * radius, 0, 0), 3: (0, 1.4 * radius, 0)}
    truth = {number + 1: (centre, radius) for number, centre in centres.items()}
    predicted = {
        number + 1: (tuple(np.add(centres[number], offset).tolist()), radius) for number, offset in moved.items()
    }
    predicted[9] = ((120.0, 48.0, 28.0), radius)
    counts = count_detections(truth, predicted, grid)
    assert counts == evalutils_counts(truth, predicted, grid, near)
    assert counts == (3, 2, 3)


def test_second_half_of_a_lesion_is_a_false_positive_as_it_is_to_evalutils() -> None:
    # Two halves of a ball, their centres 3/8 r off its own; the IoU of each with the ball is 0.5.
    grid = Grid.from_spacing((32, 32, 32), (1.0, 1.0, 1.0))
    _, truth = scan_with({1: ((16.0, 16.0, 16.0), 9.0)}, grid)
    halves = truth.ids.copy()
    halves[:, :, 16:][truth.ids[:, :, 16:] == 1] = 2
    predicted = LesionMap(ids=halves, grid=grid)
    counts = map_counts(truth, predicted)
    score = score_detection(ground_truth=centres_of(truth), predictions=centres_of(predicted), radius=1.256 * 9)
    assert counts == (score.true_positives, score.false_positives, score.false_negatives) == (1, 1, 0)


@pytest.mark.parametrize("side", ["nothing true", "nothing predicted"])
def test_counts_on_an_empty_side_are_those_of_evalutils(side: str) -> None:
    grid = Grid.from_spacing((24, 24, 60), (1.0, 1.0, 1.0))
    balls = {1: ((12.0, 12.0, 12.0), 7.0), 2: ((40.0, 12.0, 12.0), 7.0)}
    truth, predicted = ({}, balls) if side == "nothing true" else (balls, {})
    counts = count_detections(truth, predicted, grid)
    assert counts == evalutils_counts(truth, predicted, grid, 8.0)
    assert counts == ((0, 2, 0) if side == "nothing true" else (0, 0, 2))


def count_detections(
    truth: dict[int, tuple[Triple, float]], predicted: dict[int, tuple[Triple, float]], grid: Grid
) -> tuple[int, int, int]:
    return map_counts(scan_with(truth, grid)[1], scan_with(predicted, grid)[1])


def map_counts(truth: LesionMap, predicted: LesionMap) -> tuple[int, int, int]:
    """True positives, false positives and false negatives."""
    exam = Exam(
        name="exam",
        truth={"primary": truth},
        facts={label: LesionFact(fate=None, true_id=label) for label in lesion_regions(truth.ids)},
        baseline=None,
        clicks={},
    )
    prediction = Prediction(maps={"primary": predicted}, presence={}, merged_into={})
    ranking = ranked([score_exam(exam, prediction, ScoringSettings()).detection], iou=0.1, over_mm=0.0)
    right = int(ranking.is_right.sum())
    return right, len(ranking.is_right) - right, int(ranking.true_counts.sum()) - right


def evalutils_counts(
    truth: dict[int, tuple[Triple, float]], predicted: dict[int, tuple[Triple, float]], grid: Grid, near_mm: float
) -> tuple[int, int, int]:
    points = [centres_of(scan_with(lesions, grid)[1]) for lesions in (truth, predicted)]
    score = score_detection(ground_truth=points[0], predictions=points[1], radius=near_mm)
    return score.true_positives, score.false_positives, score.false_negatives


def centres_of(lesions: LesionMap) -> list[Triple]:
    regions = lesion_regions(lesions.ids)
    return [centre_xyz_mm(Outline.of(lesions, [label], [region])) for label, region in regions.items()]


# ------------------------------------------------------------------------------------------------------------ intervals


def certainties(seed: int, size: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Lesions that are there or not, and a certainty that tells them apart in most cases, with ties."""
    generator = np.random.default_rng(seed)
    is_present = generator.random(size) < 0.6
    return is_present, np.clip(generator.normal(0.4 + 0.25 * is_present, 0.2), 0, 1).round(2)


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_that_of_scikit_learn_and_its_interval_that_of_evalutils(seed: int) -> None:
    size = 80
    is_present, certainty = certainties(seed, size)
    ours = Bootstrap(size, draws=FEW_DRAWS, seed=seed).auc(is_present, certainty, np.arange(size))
    assert ours.value == pytest.approx(roc_auc_score(is_present, certainty))
    assert ours.count == size
    # evalutils never draws the last sample, and draws as many as there are: with a copy appended it draws 81 of the 80,
    # which makes its interval narrower by 1 - sqrt(80 / 81), less than a hundredth.
    theirs = get_bootstrapped_roc_ci_curves(
        np.append(certainty, certainty[-1]), np.append(is_present, is_present[-1]), num_bootstraps=FEW_DRAWS
    )
    assert ours.low is not None
    assert ours.high is not None
    tolerance = quantile_tolerance(ours.low, ours.high, FEW_DRAWS) + 0.01 * (ours.high - ours.low)
    assert ours.low == pytest.approx(theirs.low_az_val, abs=tolerance)
    assert ours.high == pytest.approx(theirs.high_az_val, abs=tolerance)


def test_auc_of_drawn_patients_draws_all_of_their_lesions() -> None:
    # Four lesions a patient that are one lesion four times: the interval is that of a lesion each, with the same draws.
    is_present, certainty = certainties(7, 40)
    patients = np.arange(40)
    once = Bootstrap(40, draws=300, seed=1).auc(is_present, certainty, patients)
    fourfold = Bootstrap(40, draws=300, seed=1).auc(*(np.repeat(each, 4) for each in (is_present, certainty, patients)))
    assert (fourfold.value, fourfold.low, fourfold.high) == pytest.approx((once.value, once.low, once.high))
    # As if they were 160 patients, it would be half as wide.
    single = Bootstrap(160, draws=300, seed=1).auc(
        *(np.repeat(each, 4) for each in (is_present, certainty)), np.arange(160)
    )
    assert single.high - single.low < 0.7 * (fourfold.high - fourfold.low)


@pytest.mark.parametrize("seed", range(3))
def test_interval_of_a_mean_is_that_of_scipy(seed: int) -> None:
    values = np.random.default_rng(seed).beta(3, 1.5, 60)
    ours = Bootstrap(60, draws=DRAWS, seed=seed).mean(values)
    theirs = scipy_bootstrap(
        (values,), np.mean, n_resamples=DRAWS, method="percentile", confidence_level=0.95, rng=seed
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    tolerance = quantile_tolerance(theirs.low, theirs.high, DRAWS)
    assert ours.low == pytest.approx(theirs.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.high, abs=tolerance)


def test_interval_of_a_mean_over_lesions_is_that_of_scipys_ratio_of_sums() -> None:
    # Patients with 1 to 9 lesions: their sums and counts are drawn together.
    generator = np.random.default_rng(5)
    patient_of = np.repeat(np.arange(50), generator.integers(1, 10, 50))
    values = generator.beta(3, 1.5, len(patient_of)) * np.linspace(0.5, 1, 50)[patient_of]
    ours = Bootstrap(50, draws=DRAWS, seed=0).pooled_mean(values, patient_of)
    sums, counts = np.bincount(patient_of, values), np.bincount(patient_of)
    theirs = scipy_bootstrap(
        (sums, counts),
        lambda drawn, number, axis: drawn.sum(axis) / number.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=DRAWS,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    tolerance = quantile_tolerance(theirs.low, theirs.high, DRAWS)
    assert ours.low == pytest.approx(theirs.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.high, abs=tolerance)


# --------------------------------------------------------------------------------------------------------- longitudinal


def responses(seed: int, size: int, categories: Sequence[str]) -> tuple[list[str], list[str]]:
    """True categories, and the same but for two in five."""
    generator = np.random.default_rng(seed)
    true, other = generator.choice(categories, (2, size))
    return true.tolist(), np.where(generator.random(size) < 0.4, other, true).tolist()


@pytest.mark.parametrize(("categories", "is_ordered"), [(RESPONSES, True), (FATES, False)])
def test_confusion_and_kappa_are_those_of_scikit_learn(categories: tuple[str, ...], is_ordered: bool) -> None:
    true, predicted = responses(3, 60, categories)
    pairs = [(patient % 20, *pair) for patient, pair in enumerate(zip(true, predicted, strict=True))]
    found = confusion(pairs, categories, Bootstrap(20, draws=50, seed=0), is_ordered=is_ordered)
    assert found.categories == categories
    assert found.counts == confusion_matrix(true, predicted, labels=categories).tolist()
    assert found.kappa.value == pytest.approx(cohen_kappa_score(true, predicted, labels=list(categories)))
    assert found.kappa.count == 60
    if is_ordered:
        expected = cohen_kappa_score(true, predicted, labels=list(categories), weights="linear")
        assert found.weighted_kappa is not None
        assert found.weighted_kappa.value == pytest.approx(expected)
    else:
        assert found.weighted_kappa is None


def test_kappas_are_those_of_the_textbook() -> None:
    # Cohen: 1 - observed / expected disagreement, which the weighted kappa counts by the steps between categories.
    true, predicted = responses(4, 50, RESPONSES)
    pairs = list(zip(true, predicted, strict=True))
    counts = np.array([[pairs.count((row, column)) for column in RESPONSES] for row in RESPONSES])
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / 50
    steps = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    found = confusion(
        [(patient, *pair) for patient, pair in enumerate(pairs)],
        RESPONSES,
        Bootstrap(50, draws=10, seed=0),
        is_ordered=True,
    )
    assert found.weighted_kappa is not None
    for estimate, cost in ((found.kappa, np.minimum(steps, 1)), (found.weighted_kappa, steps)):
        assert estimate.value == pytest.approx(1 - (cost * counts).sum() / (cost * expected).sum())


def test_kappas_interval_comes_from_drawing_patients_with_all_their_lesions() -> None:
    true, predicted = responses(5, 40, FATES)
    pairs = [(patient // 4, *pair) for patient, pair in enumerate(zip(true, predicted, strict=True))]
    found = confusion(pairs, FATES, Bootstrap(10, draws=200, seed=9), is_ordered=False)
    # The same draws, written out as lists.
    drawn = np.random.default_rng(9).multinomial(10, np.full(10, 0.1), size=200)
    kappas = []
    for times in drawn:
        copies = [pair[1:] for pair in pairs for _ in range(times[pair[0]])]
        kappas.append(cohen_kappa_score(*zip(*copies, strict=True), labels=list(FATES)))
    assert (found.kappa.low, found.kappa.high) == pytest.approx(tuple(np.quantile(kappas, (0.025, 0.975))))


def lin(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Lin (1989): 2 r s_x s_y / (s_x^2 + s_y^2 + (m_x - m_y)^2), with variances over n."""
    correlation = np.corrcoef(true, predicted)[0, 1]
    scale = true.var() + predicted.var() + (true.mean() - predicted.mean()) ** 2
    return float(2 * correlation * true.std() * predicted.std() / scale)


@pytest.mark.parametrize("seed", range(4))
def test_concordance_is_that_of_lins_formula(seed: int) -> None:
    generator = np.random.default_rng(seed)
    true = generator.normal(2, 5, 30)
    predicted = 0.8 * true + 1 + generator.normal(0, 2, 30)
    weights = np.stack([np.ones(30), generator.integers(0, 4, 30)])
    expected = [lin(true, predicted), lin(*(np.repeat(each, weights[1].astype(int)) for each in (true, predicted)))]
    assert concordance(true, predicted, weights) == pytest.approx(expected)


def test_concordance_of_a_single_value_is_not_defined_however_large_it_is() -> None:
    # Nothing varies: Lin's formula is 0 / 0. The larger the value, the more of its squares is lost to rounding.
    for value in (0.0, 1.0, 123.456, 1000.1, 2500.7):
        same = np.full(3, value)
        assert np.isnan(concordance(same, same, np.ones((1, 3)))).all(), value


def test_concordance_of_tiny_volumes_is_that_of_lins_formula() -> None:
    # Changes of a few voxels of 0.5 mm3 (0.0005 ml): what counts is how they vary, not that they are small.
    true, predicted = np.array([1.0, 2.0, 4.0]) * 5e-4, np.array([1.5, 2.0, 3.5]) * 5e-4
    assert concordance(true, predicted, np.ones((1, 3))) == pytest.approx([lin(true, predicted)])


def test_limits_of_agreement_are_those_of_bland_and_altman() -> None:
    generator = np.random.default_rng(2)
    true = generator.normal(0, 3, 25)
    difference = generator.normal(0.5, 1, 25)
    values = [
        (place % 5, one, one + off)
        for place, (one, off) in enumerate(zip(true.tolist(), difference.tolist(), strict=True))
    ]
    found = agreement(values, Bootstrap(5, draws=50, seed=0))
    # The mean difference, and 1.96 standard deviations (over n - 1) to either side.
    spread = 1.96 * np.sqrt(((difference - difference.mean()) ** 2).sum() / 24)
    assert found.bias.value == pytest.approx(difference.mean())
    assert found.lower_limit == pytest.approx(difference.mean() - spread)
    assert found.upper_limit == pytest.approx(difference.mean() + spread)
    assert found.concordance.value == pytest.approx(lin(true, true + difference))


# ----------------------------------------------------------------------------------------------------------- comparison


def evaluation(name: str, dice: Sequence[float | None]) -> Evaluation:
    """A method with a Dice per patient, and nothing else that a comparison looks at."""
    rows = tuple(
        ExamRow(
            exam=f"{place:02}",
            dice=value,
            false_positive_ml=0.0,
            false_negative_ml=None,
            lesion_dice=None if value is None else value / 2,
            lesion_surface_dice=None,
            lesion_hausdorff_95_mm=None,
            lesion_absolute_volume_error_ml=None,
            entries=1,
            true_lesions=1,
            predicted_lesions=1,
            unknown_labels=0,
            missing_scans=(),
            response=None,
        )
        for place, value in enumerate(dice)
    )
    return Evaluation.model_construct(name=name, exams=rows)


@pytest.mark.parametrize("size", [6, 12, 70])
def test_p_value_is_that_of_wilcoxons_signed_ranks_in_scipy(size: int) -> None:
    generator = np.random.default_rng(size)
    first = generator.beta(4, 2, size)
    second = np.clip(first - generator.normal(0.03, 0.1, size), 0, 1)
    found = {
        row.value: row
        for row in compare(
            [evaluation("ours", first.tolist()), evaluation("theirs", second.tolist())],
            Bootstrap(size, draws=DRAWS, seed=0),
        )
    }
    assert found.keys() == set(PATIENT_VALUES)
    dice = found["dice"]
    assert (dice.first, dice.second) == ("ours", "theirs")
    assert dice.p_value == pytest.approx(wilcoxon(first, second).pvalue)
    assert dice.difference.value == pytest.approx((first - second).mean())
    # Half the differences: the same ranks.
    assert found["lesion_dice"].p_value == pytest.approx(dice.p_value)
    # No patient differs in false positives; none has false negatives at all.
    assert found["false_positive_ml"].p_value is None
    assert found["false_positive_ml"].difference.value == 0
    assert found["false_negative_ml"].p_value is None
    assert found["false_negative_ml"].difference.value is None
    # The interval is that of paired differences, not of two means.
    theirs = scipy_bootstrap(
        (first - second,), np.mean, n_resamples=DRAWS, method="percentile", rng=1
    ).confidence_interval
    tolerance = quantile_tolerance(theirs.low, theirs.high, DRAWS)
    assert dice.difference.low == pytest.approx(theirs.low, abs=tolerance)
    assert dice.difference.high == pytest.approx(theirs.high, abs=tolerance)


def test_patients_whom_one_method_leaves_undefined_take_no_part_in_the_comparison() -> None:
    first = [0.9, None, 0.7, 0.8, 0.75, 0.6, 0.85]
    second = [0.8, 0.5, None, 0.9, 0.70, 0.4, 0.85]
    both = [0, 3, 4, 5, 6]
    (dice, *_) = compare([evaluation("a", first), evaluation("b", second)], Bootstrap(7, draws=100, seed=0))
    # Differences 0.1, -0.1, 0.05, 0.2, 0.
    assert dice.value == "dice"
    assert dice.difference.count == 5
    assert dice.difference.value == pytest.approx(0.25 / 5)
    assert dice.p_value == pytest.approx(wilcoxon([first[i] - second[i] for i in both]).pvalue)


def test_three_methods_are_compared_in_three_pairs() -> None:
    methods = [evaluation(name, [0.1, 0.5, 0.9]) for name in "abc"]
    found = compare(methods, Bootstrap(3, draws=10, seed=0))
    assert [(row.first, row.second) for row in found if row.value == "dice"] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(row.p_value is None and row.difference.value in (0, None) for row in found)
