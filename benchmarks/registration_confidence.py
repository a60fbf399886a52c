"""Fits the confidence of propagated points on known deformations: `python -m benchmarks.registration_confidence`.

Pairs like those of the benchmark, harder ones, and scans of different patients, of the volumes that the shipped
weights were trained on. The fit is assessed by leaving out one volume at a time.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from benchmarks.registration_pairs import COVERAGES, MOTION, RegistrationPair, registration_pair
from longilesion.case import LOW_CONFIDENCE
from longilesion.geometry import triple
from longilesion.registration.confidence import NEAR_MM, Evidence, place_features, trust_features
from longilesion.registration.propagation import BORDER_MM, find_places
from longilesion.registration.register import register_scans
from training.recipe import read_recipe
from training.synthesis.settings import MotionSettings
from training.synthesis.sources import Source, load_sources, phantom_sources
from training.training_data import split_volumes

WRONG_MM = 20.0
# Trusting a wrong answer does more harm than rejecting a right one.
WRONG_WEIGHT = 3.0
HARD = MotionSettings(rotation_deg=18.0, deformation_mm=(3.0, 8.0), breathing_mm=20.0)
# Motion, and the shortest part of the body in the field of view.
_KINDS = ((MOTION, 110.0), (MOTION, 70.0), (HARD, 110.0), (HARD, 60.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A propagated point: its evidence, and its distance from the truth (infinite where there is none)."""

    group: str
    evidence: Evidence
    error_mm: float
    is_same_patient: bool


def observations(sources: Sequence[Source], *, seed: int) -> Iterator[Observation]:
    """Registers pairs of each source, and one of each source with the previous one."""
    last: RegistrationPair | None = None
    for number, source in enumerate(sources):
        for kind, (motion, shortest_mm) in enumerate(_KINDS):
            generator = np.random.default_rng((seed, number, kind))
            coverage = COVERAGES[int(generator.integers(len(COVERAGES)))]
            pair = registration_pair(
                source, generator, coverage=coverage, motion_settings=motion, shortest_mm=shortest_mm
            )
            yield from _observed(pair, pair, group=source.name)
            if kind == 0:
                if last is not None:
                    yield from _observed(pair, last, group=source.name)
                last = pair


def _observed(before: RegistrationPair, after: RegistrationPair, *, group: str) -> Iterator[Observation]:
    registration = register_scans(before.baseline, after.followup)
    points = [triple(point) for point in before.baseline_xyz_mm]
    places = find_places(registration, before.baseline, after.followup, points, extents_mm=[0.0] * len(points))
    for place, truth in zip(places, before.followup_xyz_mm, strict=True):
        error_mm = float(np.linalg.norm(np.subtract(place.point_xyz_mm, truth))) if before is after else math.inf
        if place.beyond_mm <= BORDER_MM:
            yield Observation(group=group, evidence=place.evidence, error_mm=error_mm, is_same_patient=before is after)


def main() -> None:
    """Prints the coefficients, and their accuracy on left-out volumes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with one subfolder per CT volume (default: phantoms)")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    recipe = read_recipe(Path("training/recipes/compact.toml"))
    sources = (
        phantom_sources(range(4))
        if arguments.data is None
        else load_sources(arguments.data, split_volumes(arguments.data, recipe)[0])
    )
    seen = list(observations(sources, seed=arguments.seed))
    groups = np.array([each.group for each in seen])
    near = np.array([each.error_mm <= NEAR_MM for each in seen])
    wrong = np.array([each.error_mm > WRONG_MM for each in seen])
    same = np.array([each.is_same_patient for each in seen])
    print(f"{len(seen)} points of {len(sources)} volumes, {wrong.sum()} wrong, {(~same).sum()} of another patient")
    for name, features, truth in (
        ("confidence_in_place", np.array([place_features(each.evidence) for each in seen]), near),
        ("trust_in_registration", np.array([trust_features(each.evidence) for each in seen]), same),
    ):
        model = _fitted(features, truth)
        numbers = ", ".join(f"{value:.3f}" for value in (*model.intercept_, *model.coef_[0]))
        held_out = _held_out(features, truth, groups)
        low = held_out < LOW_CONFIDENCE
        print(f"{name}: {numbers}")
        print(
            f"  volumes left out: AUC {roc_auc_score(truth, held_out):.3f}, "
            f"low for {low[wrong & same].mean():.0%} of the wrong, {low[~same].mean():.0%} of another patient's, "
            f"{low[near].mean():.0%} of the near"
        )


def _fitted(features: np.ndarray, truth: np.ndarray) -> LogisticRegression:
    weights = np.where(truth, 1.0, WRONG_WEIGHT)
    return LogisticRegression(max_iter=10_000).fit(features, truth, sample_weight=weights)


def _held_out(features: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Each volume's probabilities by a model fitted without it."""
    probability = np.zeros(len(truth))
    for group in np.unique(groups):
        rest = groups != group
        model = _fitted(features[rest], truth[rest])
        probability[~rest] = model.predict_proba(features[~rest])[:, 1]
    return probability


if __name__ == "__main__":
    main()
