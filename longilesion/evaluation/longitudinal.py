"""Agreement on change between scans: volumes, fates, and response to therapy by RECIST 1.1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from longilesion.evaluation.bootstrap import Bootstrap, Estimate
from longilesion.evaluation.exam import FATES
from longilesion.evaluation.lesions import LesionScore
from longilesion.response import Lesion, Measured, Response, Visit, assess

DefinedResponse: TypeAlias = Literal["CR", "PR", "SD", "PD"]

RESPONSES: tuple[DefinedResponse, ...] = get_args(DefinedResponse)

# Types of lesions that name no organ.
_NO_ORGAN = ("", "unclear", "others", "other")


class Confusion(BaseModel):
    """The confusion matrix of true (rows) and predicted (columns) categories, and Cohen's kappa of the two.

    The weighted kappa weights an error by the distance of the categories (None where they have no order).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    categories: tuple[str, ...]
    counts: list[list[int]]
    kappa: Estimate
    weighted_kappa: Estimate | None


class Agreement(BaseModel):
    """Predicted against true values: the mean difference, its 95 % limits (Bland-Altman), Lin's concordance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bias: Estimate
    lower_limit: float | None
    upper_limit: float | None
    concordance: Estimate


class PatientResponse(BaseModel):
    """One patient's response; None where no lesion was measurable in the baseline, none is new, and some are left.

    The sums are those of the targets' largest axial diameters, of lymph nodes their short axes. Merged
    lesions count once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    targets: tuple[int, ...]
    baseline_sum_mm: float
    true_sum_mm: float
    predicted_sum_mm: float
    true_response: DefinedResponse | None
    predicted_response: DefinedResponse | None


class Longitudinal(BaseModel):
    """All figures of change.

    `not_evaluable` patients have neither a true nor a predicted response; where only one of them is defined, the other
    counts as stable disease. Patients `without_baseline` are in none of the figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lesion_change_ml: Agreement
    burden_change_ml: Agreement
    fates: Confusion
    response: Confusion
    not_evaluable: int
    without_baseline: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatientChange:
    """One patient's lesions, one row each, their changes of volume, and the response.

    `changes_ml` are the true and predicted changes of the lesions in the baseline, merged ones as one.
    """

    lesions: Sequence[LesionScore]
    changes_ml: Sequence[tuple[float, float]]
    burden_change_ml: tuple[float, float]
    response: PatientResponse


def patient_change(rows: Sequence[LesionScore], *, unknown_labels: int, extra_ml: float) -> PatientChange:
    """The change of one patient's lesions.

    `unknown_labels` were predicted under ids that no lesion has; `extra_ml` is their volume, with that of lesions in
    scans where they are not. A lesion that lies in both of the exam's scans is measured where it is larger.
    """
    largest: dict[int, LesionScore] = {}
    for row in sorted(rows, key=lambda row: row.true_volume_ml + row.predicted_volume_ml):
        largest[row.lesion_id] = row
    lesions = [largest[lesion_id] for lesion_id in sorted(largest)]
    groups: dict[int, list[LesionScore]] = {}
    for lesion in lesions:
        groups.setdefault(lesion.true_id or lesion.lesion_id, []).append(lesion)
    volumes_ml = [
        (
            sum(lesion.baseline_volume_ml or 0.0 for lesion in group),
            sum(lesion.true_volume_ml for lesion in group),
            max(lesion.predicted_volume_ml for lesion in group),
        )
        for group in groups.values()
    ]
    before, true, predicted = (sum(volumes) for volumes in zip(*volumes_ml, strict=True)) if volumes_ml else (0.0,) * 3
    return PatientChange(
        lesions=lesions,
        changes_ml=[(true - before, predicted - before) for before, true, predicted in volumes_ml if before > 0],
        burden_change_ml=(true - before, predicted + extra_ml - before),
        response=_response(lesions, has_unknown=unknown_labels > 0),
    )


def longitudinal_figures(
    patients: Sequence[PatientChange], bootstrap: Bootstrap, *, has_baseline: Sequence[bool]
) -> Longitudinal:
    """Agreement and confusion over the patients with a baseline, in the order in which `bootstrap` draws all."""
    followed = [(place, patient) for place, patient in enumerate(patients) if has_baseline[place]]
    changes = [(place, *change) for place, patient in followed for change in patient.changes_ml]
    burdens = [(place, *patient.burden_change_ml) for place, patient in followed]
    fates = [
        (place, lesion.fate, lesion.predicted_fate)
        for place, patient in followed
        for lesion in patient.lesions
        if lesion.fate is not None and lesion.predicted_fate is not None
    ]
    # A response that is not defined (nothing measurable, nothing new) counts as stable, as it is no progression.
    responses = [
        (place, patient.response.true_response or "SD", patient.response.predicted_response or "SD")
        for place, patient in followed
        if patient.response.true_response or patient.response.predicted_response
    ]
    return Longitudinal(
        lesion_change_ml=agreement(changes, bootstrap),
        burden_change_ml=agreement(burdens, bootstrap),
        fates=confusion(fates, FATES, bootstrap, is_ordered=False),
        response=confusion(responses, RESPONSES, bootstrap, is_ordered=True),
        not_evaluable=len(followed) - len(responses),
        without_baseline=len(patients) - len(followed),
    )


def agreement(values: Sequence[tuple[int, float, float]], bootstrap: Bootstrap) -> Agreement:
    """Agreement of values given as (patient, truth, prediction)."""
    patient_of = np.array([place for place, _, _ in values], np.int64)
    true, predicted = (np.array([value[side] for value in values], np.float64) for side in (1, 2))
    difference = predicted - true
    bias = bootstrap.pooled_mean(difference, patient_of)
    middle, spread = (float(difference.mean()), float(difference.std(ddof=1))) if len(values) > 1 else (np.nan, np.nan)
    return Agreement(
        bias=bias,
        lower_limit=middle - 1.96 * spread if len(values) > 1 else None,
        upper_limit=middle + 1.96 * spread if len(values) > 1 else None,
        concordance=bootstrap.estimate(
            lambda weights: concordance(true, predicted, weights[:, patient_of]),
            count=len(values),
            contributors=len(np.unique(patient_of)),
        ),
    )


def concordance(
    true: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], weights: Float[np.ndarray, "draws n"]
) -> Float[np.ndarray, " draws"]:
    """Lin's concordance correlation coefficient; NaN where all values are equal."""
    total = np.maximum(weights.sum(axis=1), 1e-300)
    # Centred, as the variance of values far from zero would be lost to rounding.
    middle = (true.mean() + predicted.mean()) / 2 if len(true) else 0.0
    true, predicted = true - middle, predicted - middle
    mean_true, mean_predicted = weights @ true / total, weights @ predicted / total
    variances = weights @ true**2 / total - mean_true**2 + weights @ predicted**2 / total - mean_predicted**2
    covariance = weights @ (true * predicted) / total - mean_true * mean_predicted
    scale = variances + (mean_true - mean_predicted) ** 2
    is_defined = scale > 1e-12 * max(1.0, middle**2)
    return np.asarray(np.where(is_defined, 2 * covariance / np.where(is_defined, scale, 1.0), np.nan))


def confusion(
    pairs: Sequence[tuple[int, str, str]], categories: Sequence[str], bootstrap: Bootstrap, *, is_ordered: bool
) -> Confusion:
    """Confusion of categories given as (patient, truth, prediction)."""
    size, patient_of = len(categories), np.array([place for place, _, _ in pairs], np.int64)
    # The confusion matrix of each pair alone.
    of_pair = np.zeros((len(pairs), size, size))
    for matrix, (_, true, predicted) in zip(of_pair, pairs, strict=True):
        matrix[categories.index(true), categories.index(predicted)] = 1.0
    steps = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)

    def kappa(disagreement: Float[np.ndarray, "k k"]) -> Estimate:
        return bootstrap.estimate(
            lambda weights: kappas(np.tensordot(weights[:, patient_of], of_pair, axes=1), disagreement),
            count=len(pairs),
            contributors=len(np.unique(patient_of)),
            width=max(len(pairs), size**2),
        )

    return Confusion(
        categories=tuple(categories),
        counts=of_pair.sum(axis=0).astype(int).tolist(),
        kappa=kappa(np.minimum(steps, 1.0)),
        weighted_kappa=kappa(steps) if is_ordered else None,
    )


def kappas(
    counts: Float[np.ndarray, "draws k k"], disagreement: Float[np.ndarray, "k k"]
) -> Float[np.ndarray, " draws"]:
    """Cohen's kappa of each draw's confusion matrix; a division by zero, to NaN, where there is a single category."""
    rows, columns = counts.sum(axis=2), counts.sum(axis=1)
    expected = rows[:, :, None] * columns[:, None, :] / rows.sum(axis=1)[:, None, None]
    return np.asarray(1.0 - (disagreement * counts).sum(axis=(1, 2)) / (disagreement * expected).sum(axis=(1, 2)))


def _response(rows: Sequence[LesionScore], *, has_unknown: bool) -> PatientResponse:
    """The response of one patient by RECIST 1.1 (`longilesion.response`), with the baseline as the smallest sum.

    Targets are the lesions marked as such, or else the largest measurable ones that are not marked as non-targets, two
    of each type at most. A lesion that has merged is measured as part of its host, in the truth and as predicted.
    """
    lesions = [_lesion(row) for row in rows]
    part_of = {row.lesion_id: row.true_id for row in rows if row.true_id not in (None, row.lesion_id)}
    baseline = Visit(
        measured={
            row.lesion_id: Measured(longest_mm=row.baseline_diameter_mm, short_mm=row.baseline_short_mm or 0.0)
            for row in rows
            if row.baseline_diameter_mm
        }
    )
    true, predicted = (
        assess(lesions, [baseline, Visit(measured=measured, part_of=part_of)])
        for measured in (
            {
                row.lesion_id: Measured(longest_mm=row.true_diameter_mm, short_mm=row.true_short_mm)
                for row in rows
                if row.lesion_id not in part_of
            },
            {
                row.lesion_id: Measured(longest_mm=row.predicted_diameter_mm, short_mm=row.predicted_short_mm)
                for row in rows
                if row.lesion_id not in part_of
            },
        )
    )
    (now,), (as_predicted,) = true.assessments, predicted.assessments
    return PatientResponse(
        targets=true.targets,
        baseline_sum_mm=true.baseline.mm,
        true_sum_mm=now.sum.mm,
        predicted_sum_mm=as_predicted.sum.mm,
        true_response=_defined(now.overall),
        predicted_response="PD" if has_unknown else _defined(as_predicted.overall),
    )


def _lesion(row: LesionScore) -> Lesion:
    kind = row.lesion_type or ""
    return Lesion(
        lesion_id=row.lesion_id,
        organ=None if kind.lower() in _NO_ORGAN else kind,
        is_node="lymph" in kind.lower(),
        is_target=row.is_target,
    )


def _defined(response: Response) -> DefinedResponse | None:
    return None if response == "NE" or response == "non-CR/non-PD" else response
