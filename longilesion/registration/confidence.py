"""Confidence of a registration's results: logistic regression on measures of similarity and consistency.

Their coefficients are fitted by `python -m benchmarks.registration_confidence` on pairs with a known deformation, easy
ones, hard ones and scans of different patients. In the fit a wrong result has three times the weight of a right one,
because high confidence in a wrong position does more harm than low confidence in a right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from longilesion.registration.result import Stage

# Factor on the confidence, by the last step that succeeded.
_STAGE_SHARE: Mapping[Stage, float] = {"deformable": 1.0, "rigid": 0.8, "shift": 0.5, "body centres": 0.2}

# A point within this distance of the true one is near enough to find the lesion.
NEAR_MM = 10.0
# The constant, and a weight for each feature.
_PLACE = (-7.718, 1.197, -3.307, 0.685, -0.897, 7.852, 4.021)
_TRUST = (-13.780, 13.006, 11.268)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The measures from which a propagated point's confidence is computed.

    For the point: the local `similarity` (correlation) of the registered scans, the inverse consistency error, and the
    correlation and distance of the best match in the local search. For the whole registration: the mean similarity,
    and the correlation of the initial translation.
    """

    similarity: float
    inverse_error_mm: float
    search_correlation: float
    search_shift_mm: float
    overall_similarity: float
    shift_correlation: float
    stage: Stage


def confidence_in_place(evidence: Evidence) -> float:
    """The probability that a propagated point lies within 10 mm of the true one."""
    return _STAGE_SHARE[evidence.stage] * _logistic(_PLACE, place_features(evidence))


def trust_in_registration(evidence: Evidence) -> float:
    """The probability that the registration is correct and the two scans are of the same patient."""
    return _STAGE_SHARE[evidence.stage] * _logistic(_TRUST, trust_features(evidence))


def place_features(evidence: Evidence) -> tuple[float, ...]:
    """Features of the confidence in a place, scaled to similar size."""
    return (
        max(evidence.similarity, 0.0),
        min(evidence.inverse_error_mm, 30.0) / 10.0,
        max(evidence.search_correlation, 0.0),
        evidence.search_shift_mm / 10.0,
        *trust_features(evidence),
    )


def trust_features(evidence: Evidence) -> tuple[float, ...]:
    """Features of the trust in a registration."""
    return evidence.overall_similarity, evidence.shift_correlation


def _logistic(coefficients: tuple[float, ...], features: tuple[float, ...]) -> float:
    constant, *weights = coefficients
    return float(1.0 / (1.0 + np.exp(-constant - np.dot(weights, features))))
