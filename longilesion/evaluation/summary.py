"""The figures of one method over all exams."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from longilesion.evaluation.bootstrap import Bootstrap, Estimate
from longilesion.evaluation.detection import DIAMETERS_MM, Detection, detection_figures
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.longitudinal import Longitudinal, PatientResponse, longitudinal_figures, patient_change
from longilesion.evaluation.scoring import ExamScore
from longilesion.evaluation.strata import Stratum, score_strata

LESION_VALUES: dict[str, Callable[[LesionScore], float | None]] = {
    "dice": lambda lesion: lesion.dice,
    "surface_dice": lambda lesion: lesion.surface_dice,
    "hausdorff_95_mm": lambda lesion: lesion.hausdorff_95_mm,
    "volume_error_ml": lambda lesion: lesion.volume_error_ml,
    "absolute_volume_error_ml": lambda lesion: _absolute(lesion.volume_error_ml),
    "diameter_error_mm": lambda lesion: lesion.diameter_error_mm,
    "absolute_diameter_error_mm": lambda lesion: _absolute(lesion.diameter_error_mm),
    "match_dice": lambda lesion: lesion.match_dice,
    "match_surface_dice": lambda lesion: lesion.match_surface_dice,
    "match_hausdorff_95_mm": lambda lesion: lesion.match_hausdorff_95_mm,
    "detected": lambda lesion: lesion.is_detected,
    "present_kept": lambda lesion: lesion.is_kept,
    "gone_recognised": lambda lesion: lesion.is_recognised,
}

# Values whose means over lesions are in a patient's row, each named `lesion_...`.
EXAM_VALUES = ("dice", "surface_dice", "hausdorff_95_mm", "absolute_volume_error_ml")


class ExamRow(BaseModel):
    """One patient: the challenge's score, the means of its lesions by id, counts, and the response to therapy.

    Scores are None where they are not defined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exam: str
    dice: float | None
    false_positive_ml: float | None
    false_negative_ml: float | None
    lesion_dice: float | None
    lesion_surface_dice: float | None
    lesion_hausdorff_95_mm: float | None
    lesion_absolute_volume_error_ml: float | None
    entries: int
    true_lesions: int
    predicted_lesions: int
    unknown_labels: int
    missing_scans: tuple[str, ...]
    response: PatientResponse | None


class ChallengeFigures(BaseModel):
    """The challenge's score: means over the patients for whom it is defined.

    `dice_with_lesions` leaves out the patients without any true lesion, whose Dice is 0 for any predicted one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dice: Estimate
    false_positive_ml: Estimate
    false_negative_ml: Estimate
    dice_with_lesions: Estimate


class Evaluation(BaseModel):
    """All figures of one method; `patient_means` are means over patients of their lesions' means.

    `presence_auc` and the detection's ranking need a method that gives presences (`has_presence`); `longitudinal` needs
    baselines.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    has_presence: bool
    challenge: ChallengeFigures
    lesion_means: dict[str, Estimate]
    patient_means: dict[str, Estimate]
    presence_auc: Estimate
    detection: tuple[Detection, ...]
    longitudinal: Longitudinal | None
    strata: tuple[Stratum, ...]
    exams: tuple[ExamRow, ...]
    lesions: tuple[LesionScore, ...]
    warnings: tuple[str, ...]


def summarise(
    name: str, scores: Sequence[ExamScore], bootstrap: Bootstrap, *, warnings: Sequence[str] = ()
) -> Evaluation:
    """All figures of a method's scores, in the order in which `bootstrap` draws the exams."""
    lesions = [lesion for score in scores for lesion in score.lesions]
    place_of = np.array([place for place, score in enumerate(scores) for _ in score.lesions], np.int64)
    values = {key: _numbers(lesions, value) for key, value in LESION_VALUES.items()}
    means = {key: _patient_means(numbers, place_of, len(scores)) for key, numbers in values.items()}
    changes = [
        patient_change(score.lesions, unknown_labels=score.unknown_labels, extra_ml=score.extra_ml) for score in scores
    ]
    known = [score.has_baseline for score in scores]
    detections = [score.detection for score in scores]
    return Evaluation(
        name=name,
        has_presence=any(lesion.presence is not None for lesion in lesions),
        challenge=ChallengeFigures(
            dice=bootstrap.mean(np.array([score.challenge.dice for score in scores])),
            false_positive_ml=bootstrap.mean(np.array([score.challenge.false_positive_ml for score in scores])),
            false_negative_ml=bootstrap.mean(np.array([score.challenge.false_negative_ml for score in scores])),
            dice_with_lesions=bootstrap.mean(
                np.array([score.challenge.dice if len(score.detection.true_mm) else np.nan for score in scores])
            ),
        ),
        lesion_means={key: bootstrap.pooled_mean(numbers, place_of) for key, numbers in values.items()},
        patient_means={key: bootstrap.mean(numbers) for key, numbers in means.items()},
        presence_auc=_presence_auc(lesions, place_of, bootstrap),
        detection=tuple(detection_figures(detections, bootstrap, over_mm=over_mm) for over_mm in (0.0, *DIAMETERS_MM)),
        longitudinal=longitudinal_figures(changes, bootstrap, has_baseline=known) if any(known) else None,
        strata=tuple(score_strata(lesions, [score.exam for score in scores], bootstrap)),
        exams=tuple(
            ExamRow(
                exam=score.exam,
                dice=_defined(score.challenge.dice),
                false_positive_ml=_defined(score.challenge.false_positive_ml),
                false_negative_ml=_defined(score.challenge.false_negative_ml),
                **{f"lesion_{key}": _defined(float(means[key][place])) for key in EXAM_VALUES},
                entries=score.challenge.entries,
                true_lesions=len(score.detection.true_mm),
                predicted_lesions=len(score.detection.predicted_mm),
                unknown_labels=score.unknown_labels,
                missing_scans=score.missing,
                response=change.response if score.has_baseline else None,
            )
            for place, (score, change) in enumerate(zip(scores, changes, strict=True))
        ),
        lesions=tuple(lesions),
        warnings=tuple(warnings),
    )


def _numbers(
    lesions: Sequence[LesionScore], value: Callable[[LesionScore], float | None]
) -> Float[np.ndarray, " lesions"]:
    """A value of each lesion, NaN where it has none."""
    return np.array([np.nan if (number := value(lesion)) is None else number for lesion in lesions], np.float64)


def _patient_means(
    numbers: Float[np.ndarray, " lesions"], place_of: np.ndarray, patients: int
) -> Float[np.ndarray, " patients"]:
    is_defined = ~np.isnan(numbers)
    sums = np.bincount(place_of[is_defined], numbers[is_defined], minlength=patients)
    counts = np.bincount(place_of[is_defined], minlength=patients)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _presence_auc(lesions: Sequence[LesionScore], place_of: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """The ROC area of the method's presence, for telling present lesions from those that are gone."""
    judged = [place for place, lesion in enumerate(lesions) if None not in (lesion.presence, lesion.is_present)]
    is_present = np.array([bool(lesions[place].is_present) for place in judged], np.bool_)
    presence = np.array([lesions[place].presence for place in judged], np.float64)
    return bootstrap.auc(is_present, presence, place_of[judged])


def _absolute(number: float | None) -> float | None:
    return None if number is None else abs(number)


def _defined(number: float) -> float | None:
    return None if np.isnan(number) else number
