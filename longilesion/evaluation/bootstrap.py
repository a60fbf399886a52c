"""Bootstrap intervals over patients, for statistics that pool the lesions of all patients as well as for means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict

CONFIDENCE = 0.95
# Largest number of values of a statistic in memory at once (8 MB), for any number of draws.
_NUMBERS_AT_ONCE = 2**20

# Maps the patients' weights, a row per draw, to the statistic of each draw; NaN where it is not defined.
Statistic: TypeAlias = Callable[[Float[np.ndarray, "draws patients"]], Float[np.ndarray, " draws"]]


class Estimate(BaseModel):
    """A statistic with its 95 % interval, and the number of patients, lesions or other samples that it is based on.

    The value is None where it is not defined, the interval where fewer than two patients contribute.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    low: float | None
    high: float | None
    count: int


class Bootstrap:
    """Draws of all patients (at least one) with replacement, the same for every statistic."""

    def __init__(self, patients: int, *, draws: int, seed: int) -> None:
        self.patients = patients
        generator, even = np.random.default_rng(seed), np.full(patients, 1 / patients)
        # How often each patient was drawn, a row per draw.
        self._counts = np.empty((draws, patients), np.min_scalar_type(patients))
        for rows in _blocks(draws, patients):
            self._counts[rows] = generator.multinomial(patients, even, size=rows.stop - rows.start)

    def estimate(self, statistic: Statistic, *, count: int, contributors: int, width: int = 1) -> Estimate:
        """The statistic over all patients, and the percentiles between which it lies in 95 % of the draws.

        It has no interval where fewer than two patients contribute to it. `width` is the number of intermediate values
        per draw, besides one for each patient; it limits the number of draws that are computed at once.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            (value,) = statistic(np.ones((1, self.patients)))
            blocks = _blocks(len(self._counts), max(width, self.patients)) if contributors > 1 else []
            drawn = np.concatenate(
                [np.empty(0), *(statistic(self._counts[rows].astype(np.float64)) for rows in blocks)]
            )
        drawn = drawn[~np.isnan(drawn)]
        if np.isnan(value) or not drawn.size:
            return Estimate(value=None if np.isnan(value) else float(value), low=None, high=None, count=count)
        low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(value=float(value), low=float(low), high=float(high), count=count)

    def mean(self, values: Float[np.ndarray, " patients"]) -> Estimate:
        """The mean over the patients whose value is defined (not NaN)."""
        is_defined = ~np.isnan(values)
        filled, count = np.where(is_defined, values, 0.0), int(is_defined.sum())
        return self.estimate(lambda weights: weights @ filled / (weights @ is_defined), count=count, contributors=count)

    def pooled_mean(self, values: Float[np.ndarray, " lesions"], patient_of: np.ndarray) -> Estimate:
        """The mean over lesions, `patient_of` being the index of each one's patient; whole patients are drawn."""
        is_defined = ~np.isnan(values)
        sums = np.bincount(patient_of[is_defined], values[is_defined], minlength=self.patients)
        counts = np.bincount(patient_of[is_defined], minlength=self.patients)
        return self.estimate(
            lambda weights: weights @ sums / (weights @ counts),
            count=int(is_defined.sum()),
            contributors=int(np.count_nonzero(counts)),
        )

    def auc(
        self, is_positive: Bool[np.ndarray, " n"], certainty: Float[np.ndarray, " n"], patient_of: np.ndarray
    ) -> Estimate:
        """The area under the ROC curve of a confidence; not defined where all or none are positive."""
        return self.estimate(
            lambda weights: roc_areas(is_positive, certainty, weights[:, patient_of]),
            count=len(certainty),
            contributors=len(np.unique(patient_of)),
            width=len(certainty),
        )


def roc_areas(
    is_positive: Bool[np.ndarray, " n"], certainty: Float[np.ndarray, " n"], weights: Float[np.ndarray, "draws n"]
) -> Float[np.ndarray, " draws"]:
    """The area under the weighted ROC curve of each draw; a division by zero, to NaN, where all or none are positive.

    It is the weighted share of the pairs of a positive and a negative in which the positive has the higher certainty;
    equal ones count half.
    """
    order = np.argsort(certainty, kind="stable")
    firsts = np.flatnonzero(np.diff(certainty[order], prepend=-np.inf))
    positive, negative = (
        np.add.reduceat(weights[:, order] * side[order], firsts, axis=1) for side in (is_positive, ~is_positive)
    )
    lower = np.cumsum(negative, axis=1) - negative / 2
    return np.asarray((positive * lower).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1)))


def _blocks(draws: int, width: int) -> list[slice]:
    """The draws in blocks that together hold a limited number of numbers, `width` each."""
    rows = max(1, _NUMBERS_AT_ONCE // width)
    return [slice(first, min(first + rows, draws)) for first in range(0, draws, rows)]
