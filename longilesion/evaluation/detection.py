"""Detection measures as in LiFE-Net (section 3.2) and Difference Weighting (section 3.2).

A predicted lesion matches a true one if they overlap by an IoU of 0.1; lesions and predictions under 3 mm3 are left
out beforehand. Where only lesions over a diameter are evaluated, smaller true ones, predictions that match them, and
smaller predictions without a match are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict

from longilesion.evaluation.bootstrap import Bootstrap, Estimate, Statistic, roc_areas

MATCH_IOU = 0.1
# The mean average precision is the mean over these overlaps.
PRECISION_IOUS = tuple(np.arange(0.1, 0.501, 0.05).round(2).tolist())
FALSE_POSITIVES_PER_EXAM = (0.2, 0.5)
DIAMETERS_MM = (6.0, 10.0)
SMALLEST_ML = 0.003


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExamLesions:
    """The true and predicted lesions of an exam, and their overlaps; a prediction's confidence is 1 if not given."""

    true_mm: Float[np.ndarray, " true"]
    true_ml: Float[np.ndarray, " true"]
    predicted_mm: Float[np.ndarray, " predicted"]
    predicted_ml: Float[np.ndarray, " predicted"]
    confidence: Float[np.ndarray, " predicted"]
    iou: Float[np.ndarray, "true predicted"]


class Detection(BaseModel):
    """The figures for lesions over one diameter; `sensitivity` is by the number of false positives per exam."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    over_mm: float
    true_lesions: int
    predicted_lesions: int
    f1: Estimate
    average_precision: Estimate
    mean_average_precision: Estimate
    exam_auc: Estimate
    sensitivity: dict[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Every exam's predictions at one overlap, by decreasing confidence: the exam, and whether they are right."""

    exam: Int[np.ndarray, " predicted"]
    is_right: Bool[np.ndarray, " predicted"]
    confidence: Float[np.ndarray, " predicted"]
    true_counts: Float[np.ndarray, " exams"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Free-response curve: sensitivity and false positives per exam at every confidence, the highest first."""

    false_positives: Float[np.ndarray, "draws steps"]
    sensitivity: Float[np.ndarray, "draws steps"]
    precision: Float[np.ndarray, "draws steps"]


def detection_figures(exams: Sequence[ExamLesions], bootstrap: Bootstrap, *, over_mm: float) -> Detection:
    """All figures for lesions of at least one diameter, with intervals over patients."""
    statistics = detection_statistics(exams, over_mm=over_mm)
    first = ranked(exams, iou=MATCH_IOU, over_mm=over_mm)
    lesions = int(first.true_counts.sum())
    f1 = np.array([exam_f1(exam, over_mm=over_mm) for exam in exams])
    estimate = partial(
        bootstrap.estimate,
        count=lesions,
        contributors=sum(bool(len(exam.true_mm) or len(exam.predicted_mm)) for exam in exams),
        width=sum(len(exam.predicted_mm) for exam in exams),
    )
    return Detection(
        over_mm=over_mm,
        true_lesions=lesions,
        predicted_lesions=len(first.exam),
        f1=bootstrap.mean(f1),
        average_precision=estimate(partial(average_precision, first)),
        mean_average_precision=estimate(statistics["mean_average_precision"]),
        exam_auc=bootstrap.auc(*exam_confidence(exams, over_mm=over_mm), np.arange(len(exams))),
        sensitivity={f"{rate:g}": estimate(statistics[f"sensitivity_{rate:g}"]) for rate in FALSE_POSITIVES_PER_EXAM},
    )


def detection_statistics(exams: Sequence[ExamLesions], *, over_mm: float) -> Mapping[str, Statistic]:
    """LiFE-Net's measures (section 3.2) as functions of the exams' weights, for intervals and paired differences."""
    rankings = [ranked(exams, iou=iou, over_mm=over_mm) for iou in PRECISION_IOUS]
    is_ill, surest = exam_confidence(exams, over_mm=over_mm)
    return {
        "mean_average_precision": lambda weights: np.asarray(
            np.mean([average_precision(ranking, weights) for ranking in rankings], axis=0)
        ),
        "exam_auc": partial(roc_areas, is_ill, surest),
        **{
            f"sensitivity_{rate:g}": partial(sensitivity_at, rankings[0], rate=rate)
            for rate in FALSE_POSITIVES_PER_EXAM
        },
    }


def without_specks(exam: ExamLesions) -> ExamLesions:
    """The exam without lesions and predictions under 3 mm3, which Difference Weighting leaves out beforehand."""
    is_true, is_predicted = exam.true_ml >= SMALLEST_ML, exam.predicted_ml >= SMALLEST_ML
    return ExamLesions(
        true_mm=exam.true_mm[is_true],
        true_ml=exam.true_ml[is_true],
        predicted_mm=exam.predicted_mm[is_predicted],
        predicted_ml=exam.predicted_ml[is_predicted],
        confidence=exam.confidence[is_predicted],
        iou=exam.iou[is_true][:, is_predicted],
    )


def ranked(exams: Sequence[ExamLesions], *, iou: float, over_mm: float) -> Ranking:
    """Matches every exam's predictions, by decreasing confidence, each to the true lesion that it overlaps most."""
    exams = [without_specks(exam) for exam in exams]
    verdicts = [_judged(exam, iou=iou, over_mm=over_mm) for exam in exams]
    exam_of = np.repeat(np.arange(len(exams)), [len(right) for _, right in verdicts])
    confidence = np.concatenate([np.empty(0), *(sure for sure, _ in verdicts)])
    is_right = np.concatenate([np.empty(0, np.bool_), *(right for _, right in verdicts)])
    order = np.argsort(-confidence, kind="stable")
    return Ranking(
        exam=exam_of[order],
        is_right=is_right[order],
        confidence=confidence[order],
        true_counts=np.array([float((exam.true_mm >= over_mm).sum()) for exam in exams]),
    )


def curve(ranking: Ranking, weights: Float[np.ndarray, "draws exams"]) -> Curve:
    """The curve, with a weight for each exam; equal confidences are one step.

    Without true lesions, the sensitivity is NaN.
    """
    ends = np.flatnonzero(np.diff(ranking.confidence, append=-np.inf))
    repeated = weights[:, ranking.exam]
    right = np.cumsum(repeated * ranking.is_right, axis=1)[:, ends]
    wrong = np.cumsum(repeated * ~ranking.is_right, axis=1)[:, ends]
    with np.errstate(invalid="ignore"):
        return Curve(
            false_positives=wrong / weights.sum(axis=1, keepdims=True),
            sensitivity=right / (weights @ ranking.true_counts)[:, None],
            precision=right / np.maximum(right + wrong, 1e-300),
        )


def average_precision(ranking: Ranking, weights: Float[np.ndarray, "draws exams"]) -> Float[np.ndarray, " draws"]:
    """Precision averaged over the steps in sensitivity, as in scikit-learn; lesions never found contribute 0."""
    steps = curve(ranking, weights)
    gains = np.diff(steps.sensitivity, axis=1, prepend=0.0)
    return np.asarray(np.where(weights @ ranking.true_counts > 0, (gains * steps.precision).sum(axis=1), np.nan))


def sensitivity_at(
    ranking: Ranking, weights: Float[np.ndarray, "draws exams"], *, rate: float
) -> Float[np.ndarray, " draws"]:
    """The highest sensitivity with at most `rate` false positives per exam."""
    steps = curve(ranking, weights)
    allowed = np.where(steps.false_positives <= rate, steps.sensitivity, 0.0)
    return np.asarray(np.where(weights @ ranking.true_counts > 0, allowed.max(axis=1, initial=0.0), np.nan))


def exam_f1(exam: ExamLesions, *, over_mm: float) -> float:
    """The harmonic mean of lesion precision and recall; NaN where there are neither true nor predicted lesions."""
    exam = without_specks(exam)
    true_counts: Bool[np.ndarray, " true"] = np.asarray(exam.true_mm >= over_mm)
    touches = np.asarray(exam.iou >= MATCH_IOU)
    is_right = touches[true_counts].any(axis=0)
    counts = is_right | ~touches.any(axis=0) & (exam.predicted_mm >= over_mm)
    if not true_counts.any() and not counts.any():
        return np.nan
    recall = touches[true_counts][:, counts].any(axis=1).mean() if true_counts.any() else 0.0
    precision = is_right[counts].mean() if counts.any() else 0.0
    return float(2 * recall * precision / (recall + precision)) if recall + precision else 0.0


def exam_confidence(
    exams: Sequence[ExamLesions], *, over_mm: float
) -> tuple[Bool[np.ndarray, " exams"], Float[np.ndarray, " exams"]]:
    """Whether an exam has lesions, and its highest confidence, which tells exams with lesions from those without."""
    exams = [without_specks(exam) for exam in exams]
    is_ill = np.array([(exam.true_mm >= over_mm).any() for exam in exams], np.bool_)
    surest = np.array([_judged(exam, iou=MATCH_IOU, over_mm=over_mm)[0].max(initial=0.0) for exam in exams], np.float64)
    return is_ill, surest


def _judged(
    exam: ExamLesions, *, iou: float, over_mm: float
) -> tuple[Float[np.ndarray, " judged"], Bool[np.ndarray, " judged"]]:
    """The confidence of each prediction that is not ignored, and whether it is right."""
    true_counts, big_enough = exam.true_mm >= over_mm, exam.predicted_mm >= over_mm
    is_free = np.ones(len(exam.true_mm), np.bool_)
    confidences, verdicts = [], []
    for prediction in np.lexsort((-exam.iou.max(axis=0, initial=0.0), -exam.confidence)):
        touched = exam.iou[:, prediction] >= iou
        free = np.flatnonzero(touched & is_free)
        # Lesions that are not ignored come first, then the greatest overlap.
        found = max(free, key=lambda true: (true_counts[true], exam.iou[true, prediction]), default=None)
        if found is not None:
            is_free[found] = False
            if not true_counts[found]:
                continue
        elif not touched[true_counts].any() and (touched.any() or not big_enough[prediction]):
            continue
        confidences.append(exam.confidence[prediction])
        verdicts.append(found is not None)
    return np.array(confidences, np.float64), np.array(verdicts, np.bool_)
