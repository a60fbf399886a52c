"""Confidence of a registration's results: logistic regression on the agreement of registration and local searches.

The coefficients are fitted by `python -m benchmarks.registration_confidence` on pairs with a known deformation and on
scans of different patients; every point counts alike, so that the result is a probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from longilesion.registration.result import Stage

# Steps of the registration that were not reached.
_MISSING_STEPS: Mapping[Stage, int] = {"deformable": 0, "rigid": 1, "shift": 2, "body centres": 3}

# A point within this distance of the true one is near enough to find the lesion.
NEAR_MM = 10.0
# The constant, and a weight for each feature.
_PLACE = (5.117, -4.517, -1.655, 2.607, -5.630, -1.802)
_TRUST = (0.660, -5.105, 4.769)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The measures from which a propagated point's confidence is computed.

    For the point: the inverse consistency error of the registration, the shift by the local search, the margin of a
    wider one. For the whole registration: the deviation of the control points' shifts, the share of them to which the
    search back returns, and the step that was reached.
    """

    inverse_error_mm: float
    search_shift_mm: float
    margin: float
    shift_deviation_mm: float
    returned_share: float
    stage: Stage


def confidence_in_place(evidence: Evidence) -> float:
    """The probability that a propagated point lies within 10 mm of the true one."""
    return _logistic(_PLACE, place_features(evidence))


def trust_in_registration(evidence: Evidence) -> float:
    """The probability that registration places a point within 20 mm of the true one, from the whole registration."""
    return _logistic(_TRUST, trust_features(evidence))


def place_features(evidence: Evidence) -> tuple[float, ...]:
    """Features of the confidence in a place, scaled to similar size."""
    return (
        min(evidence.inverse_error_mm, 30.0) / 10.0,
        evidence.search_shift_mm / 10.0,
        max(evidence.margin, 0.0) * 10.0,
        evidence.shift_deviation_mm / 10.0,
        float(_MISSING_STEPS[evidence.stage]),
    )


def trust_features(evidence: Evidence) -> tuple[float, ...]:
    """Features of the trust in a registration."""
    return evidence.shift_deviation_mm / 10.0, evidence.returned_share


def _logistic(coefficients: tuple[float, ...], features: tuple[float, ...]) -> float:
    constant, *weights = coefficients
    return float(1.0 / (1.0 + np.exp(-constant - np.dot(weights, features))))
