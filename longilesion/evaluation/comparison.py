"""Several methods on the same exams: paired differences, the challenge's rank, and the steps of interaction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from scipy.stats import wilcoxon

from longilesion.evaluation.bootstrap import Bootstrap, Estimate
from longilesion.evaluation.challenge import ChallengeScore, rank_scores
from longilesion.evaluation.summary import EXAM_VALUES, Evaluation

# The figures of a patient that are compared, as `ExamRow` names them.
PATIENT_VALUES = ("dice", "false_positive_ml", "false_negative_ml", *(f"lesion_{key}" for key in EXAM_VALUES))


class Difference(BaseModel):
    """First minus second method, patient by patient: the mean with its interval, and Wilcoxon's signed-rank p value.

    Only patients for whom both are defined are included; the p value is None where no two values differ.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    value: str
    difference: Estimate
    p_value: float | None


class Rank(BaseModel):
    """The challenge's rank score of a method among those compared; the lowest wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    score: float


class Interaction(BaseModel):
    """A score after each interactive step, without and with the follow-up's clicks, and the area under the curve.

    Steps have a distance of 1, so that the area of two steps is their mean. Only patients for whom both are defined are
    included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str
    without_clicks: Estimate
    with_clicks: Estimate
    area: Estimate


def compare(evaluations: Sequence[Evaluation], bootstrap: Bootstrap) -> list[Difference]:
    """The differences of every pair of methods in every value."""
    return [
        _difference(first, second, key, bootstrap)
        for first, second in combinations(evaluations, 2)
        for key in PATIENT_VALUES
    ]


def rank(evaluations: Sequence[Evaluation]) -> list[Rank]:
    """The methods sorted by the challenge's rank, the best first."""
    means = {
        evaluation.name: ChallengeScore(
            dice=_number(evaluation.challenge.dice.value),
            false_positive_ml=_number(evaluation.challenge.false_positive_ml.value),
            false_negative_ml=_number(evaluation.challenge.false_negative_ml.value),
            entries=sum(row.entries for row in evaluation.exams),
        )
        for evaluation in evaluations
    }
    scores = rank_scores(means)
    return [Rank(name=name, score=scores[name]) for name in sorted(scores, key=lambda name: scores[name])]


def interaction(without_clicks: Evaluation, with_clicks: Evaluation, bootstrap: Bootstrap) -> list[Interaction]:
    """The scores of one method at both interactive steps."""
    steps = []
    for key in PATIENT_VALUES:
        both = np.stack([_values(evaluation, key) for evaluation in (without_clicks, with_clicks)])
        both = np.where(np.isnan(both).any(axis=0), np.nan, both)
        steps.append(
            Interaction(
                value=key,
                without_clicks=bootstrap.mean(both[0]),
                with_clicks=bootstrap.mean(both[1]),
                area=bootstrap.mean(np.trapezoid(both, axis=0)),
            )
        )
    return steps


def _difference(first: Evaluation, second: Evaluation, key: str, bootstrap: Bootstrap) -> Difference:
    differences = _values(first, key) - _values(second, key)
    defined = differences[~np.isnan(differences)]
    p_value = float(wilcoxon(defined).pvalue) if np.any(defined != 0) else None
    return Difference(
        first=first.name, second=second.name, value=key, difference=bootstrap.mean(differences), p_value=p_value
    )


def _values(evaluation: Evaluation, key: str) -> Float[np.ndarray, " patients"]:
    return np.array([_number(getattr(row, key)) for row in evaluation.exams], np.float64)


def _number(value: float | None) -> float:
    return np.nan if value is None else value
