"""The figures of a diagnosis as LIDIA reports them (section 3.1), with intervals, and paired differences of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import confusion_matrix

from longilesion.diagnosis_settings import LESION_TYPES, MALIGNANT, RARE, LesionType
from longilesion.errors import InputError
from longilesion.evaluation.bootstrap import Bootstrap, Estimate, Statistic, roc_areas
from longilesion.evaluation.diagnosis_exam import DiagnosedExam

# What a patient's probabilities come from, named as in `Diagnosis`: LiverMax, or counted voxels.
Scoring: TypeAlias = Literal["patient", "by_volume"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)
# In the confusion of types: the true type of a false finding, and the predicted one of a missed lesion.
NO_LESION = "none"


class Figures(BaseModel):
    """Estimates by name.

    Of the patients, by LiverMax (`patient`) and by counted voxels (`by_volume`), the areas under the ROC curve: of each
    type, `auc_8`, the mean of those that are defined (`count` is their number), and `auc_2`, of malignant against
    benign. Of the lesions, `precision` and `sensitivity` whatever the type, `accuracy` of the type where found, and
    `dice`, the mean over the patients with lesions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patient: dict[str, Estimate]
    by_volume: dict[str, Estimate]
    lesions: dict[str, Estimate]


class DiagnosisFigures(Figures):
    """The figures of one method.

    `with_type` is the number of patients by type. `confusion` counts the lesions, a row for each true type and a column
    for each predicted one, in the order of `categories`, whose last is no lesion.
    """

    patients: int
    with_type: dict[str, int]
    categories: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]


class DiagnosisDifference(Figures):
    """First minus second method on the same draws of patients; the counts are those of patients."""

    first: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Measure:
    """A statistic, with the number of samples, and of patients, on which it is based."""

    statistic: Statistic
    count: int
    contributors: int


def diagnosis_figures(exams: Sequence[DiagnosedExam], bootstrap: Bootstrap) -> DiagnosisFigures:
    """All figures of a method's exams, one for each patient that `bootstrap` draws, in any order."""
    estimates = {
        group: {
            key: bootstrap.estimate(measure.statistic, count=measure.count, contributors=measure.contributors)
            for key, measure in measures.items()
        }
        for group, measures in _measures(exams).items()
    }
    categories = (*LESION_TYPES, NO_LESION)
    return DiagnosisFigures(
        **estimates,
        patients=len(exams),
        with_type={each: sum(each in exam.types for exam in exams) for each in LESION_TYPES},
        categories=categories,
        confusion=_confusion(exams, categories),
    )


def diagnosis_difference(
    first: tuple[str, Sequence[DiagnosedExam]], second: tuple[str, Sequence[DiagnosedExam]], bootstrap: Bootstrap
) -> DiagnosisDifference:
    """Compares two methods, each with its name, on the same patients; raises InputError where they are others."""
    names = [sorted(exam.name for exam in exams) for _, exams in (first, second)]
    if names[0] != names[1]:
        raise InputError(f"{first[0]} and {second[0]}: diagnoses of different exams; expected the same")
    others = _measures(second[1])
    estimates: dict[str, Any] = {
        group: {
            key: bootstrap.estimate(
                _difference(measure.statistic, others[group][key].statistic),
                count=len(names[0]),
                contributors=min(measure.contributors, others[group][key].contributors),
            )
            for key, measure in measures.items()
        }
        for group, measures in _measures(first[1]).items()
    }
    return DiagnosisDifference(first=first[0], second=second[0], **estimates)


def _difference(first: Statistic, second: Statistic) -> Statistic:
    return lambda weights: first(weights) - second(weights)


def _measures(exams: Sequence[DiagnosedExam]) -> dict[str, dict[str, _Measure]]:
    # Sorted, so that a draw has the same patients for every method, whatever the order.
    exams = sorted(exams, key=lambda exam: exam.name)
    return {**{scoring: _patient_measures(exams, scoring) for scoring in SCORINGS}, "lesions": _lesion_measures(exams)}


def _patient_measures(exams: Sequence[DiagnosedExam], scoring: Scoring) -> dict[str, _Measure]:
    probabilities: list[Mapping[LesionType, float]] = [getattr(exam, scoring) for exam in exams]
    everybody = np.ones(len(exams), np.bool_)
    # A type that a method does not know has the same probability, 0, in all patients.
    by_type: dict[str, _Measure] = {
        each: _area(
            np.array([each in exam.types for exam in exams], np.bool_),
            np.array([own.get(each, 0.0) for own in probabilities], np.float64),
            everybody,
        )
        for each in LESION_TYPES
    }
    is_malignant = np.array([bool(MALIGNANT & set(exam.types)) for exam in exams], np.bool_)
    has_common = np.array([bool(set(exam.types) - {RARE}) for exam in exams], np.bool_)
    malignancy = np.array([max(own.get(each, 0.0) for each in MALIGNANT) for own in probabilities], np.float64)
    return {
        "auc_8": _mean([measure.statistic for measure in by_type.values()], patients=len(exams)),
        "auc_2": _area(is_malignant, malignancy, has_common),
        **by_type,
    }


def _area(
    is_positive: Bool[np.ndarray, " patients"],
    probability: Float[np.ndarray, " patients"],
    counts: Bool[np.ndarray, " patients"],
) -> _Measure:
    """The area under the ROC curve over the patients that count."""
    patients = int(counts.sum())
    return _Measure(
        statistic=lambda weights: roc_areas(is_positive[counts], probability[counts], weights[:, counts]),
        count=patients,
        contributors=patients,
    )


def _mean(statistics: Sequence[Statistic], *, patients: int) -> _Measure:
    """The mean of those statistics that are defined, in each draw; their number, over all patients, is the count."""

    def mean(weights: Float[np.ndarray, "draws patients"]) -> Float[np.ndarray, " draws"]:
        values = np.stack([statistic(weights) for statistic in statistics])
        is_defined = ~np.isnan(values)
        return np.asarray(np.where(is_defined, values, 0.0).sum(axis=0) / is_defined.sum(axis=0))

    with np.errstate(invalid="ignore"):
        defined = sum(not np.isnan(statistic(np.ones((1, patients)))[0]) for statistic in statistics)
    return _Measure(statistic=mean, count=defined, contributors=patients)


def _lesion_measures(exams: Sequence[DiagnosedExam]) -> dict[str, _Measure]:
    true, predicted, matched, right = (
        np.array([sum(counted) for counted in each], np.float64)
        for each in zip(*(_counted(exam) for exam in exams), strict=True)
    )
    has_lesions = np.array([exam.dice is not None for exam in exams], np.float64)
    return {
        "precision": _ratio(matched, predicted),
        "sensitivity": _ratio(matched, true),
        "accuracy": _ratio(right, matched),
        "dice": _ratio(np.array([exam.dice or 0.0 for exam in exams], np.float64), has_lesions),
    }


def _counted(exam: DiagnosedExam) -> tuple[list[bool], ...]:
    """Whether each lesion is a true one, a predicted one, a match, and one of the right type."""
    return (
        [lesion.true_id is not None for lesion in exam.lesions],
        [lesion.predicted_id is not None for lesion in exam.lesions],
        [lesion.is_match for lesion in exam.lesions],
        [lesion.is_match and lesion.true_type == lesion.predicted_type for lesion in exam.lesions],
    )


def _ratio(parts: Float[np.ndarray, " patients"], wholes: Float[np.ndarray, " patients"]) -> _Measure:
    """The ratio of two sums over patients."""
    return _Measure(
        statistic=lambda weights: weights @ parts / (weights @ wholes),
        count=int(wholes.sum()),
        contributors=int(np.count_nonzero(wholes)),
    )


def _confusion(exams: Sequence[DiagnosedExam], categories: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    lesions = [lesion for exam in exams for lesion in exam.lesions]
    if not lesions:
        return ((0,) * len(categories),) * len(categories)
    counts = confusion_matrix(
        [lesion.true_type or NO_LESION for lesion in lesions],
        [lesion.predicted_type or NO_LESION for lesion in lesions],
        labels=list(categories),
    )
    return tuple(map(tuple, counts.tolist()))
