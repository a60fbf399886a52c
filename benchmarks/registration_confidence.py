"""Fits the confidence of propagated points on known deformations: `python -m benchmarks.registration_confidence`.

Pairs of each kind of visits, and scans of different patients, of all volumes but those on which the shipped weights are
validated. The fit is assessed by leaving out one volume at a time; a real pair with landmarks is checked, never fitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from benchmarks.pair_folder import read_pair
from benchmarks.registration_pairs import COVERAGES, RegistrationPair, registration_pair
from benchmarks.registration_visits import VISITS, kernel_twins
from longilesion.case import LOW_CONFIDENCE
from longilesion.evaluation.plot_style import INK, LOOKS, new_figure, tidy
from longilesion.geometry import triple
from longilesion.registration.confidence import (
    NEAR_MM,
    Evidence,
    confidence_in_place,
    place_features,
    trust_features,
    trust_in_registration,
)
from longilesion.registration.propagation import BORDER_MM, find_places
from longilesion.registration.register import register_scans
from training.recipe import read_recipe
from training.synthesis.sources import Source, find_volumes, load_sources, phantom_sources
from training.training_data import split_volumes

RECIPE = Path("training/recipes/compact.toml")
WRONG_MM = 20.0
# Below it an answer is more likely wrong than right.
EVEN = 0.5
BINS = 10
# Every so many points of a pair, and of a pair of different patients.
_STRIDES = (3, 6)
# A shorter volume is no scan of a region.
_SHORTEST_MM = 100.0
# The kinds of visits of which there is a pair with another patient's follow-up: the n-th most similar volume's.
_OTHERS = {0: 0, 2: 1, 3: 0, 5: 8}


@dataclass
class Arguments:
    """What to fit, and what to check."""

    data: Path | None = None
    """A folder of CT volumes, one subfolder each; phantoms where it is not given.

    Volumes named X_soft and X_sharp are one acquisition, reconstructed with two kernels."""
    pair: Path | None = None
    """A folder with a real pair and its landmarks, to check the fit on."""
    diagram: Path | None = None
    """The file of the reliability diagram, which is drawn where this is given."""
    seed: int = 7
    """What the pairs follow from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A propagated point: its evidence, and the distances from the truth (infinite where there is none).

    `is_compared` is whether the follow-up's field of view was found to show it, `is_shown` whether it does;
    `registration_error_mm` is the error before the local search.
    """

    group: str
    evidence: Evidence
    error_mm: float
    registration_error_mm: float
    is_compared: bool
    is_shown: bool
    is_lung: bool
    is_same_patient: bool


def observations(sources: Sequence[Source], *, seed: int) -> Iterator[Observation]:
    """Registers pairs of each source, and some of each source with another one's follow-up."""
    twins = kernel_twins([source.name for source in sources])
    for number, source in enumerate(sources):
        names = sorted((source.name, twins.get(source.name, source.name)))
        others = [other for other, each in enumerate(sources) if each.name not in names]
        others.sort(key=lambda other: _difference(source, sources[other]))
        for kind in range(len(VISITS)):
            pair = _drawn(sources, number, kind, seed)
            yield from _observed(pair, pair, group=names[0])
            if kind in _OTHERS and others:
                rank = min(_OTHERS[kind], len(others) - 1)
                yield from _observed(pair, _drawn(sources, others[rank], kind, seed), group=names[0])


def _drawn(sources: Sequence[Source], number: int, kind: int, seed: int) -> RegistrationPair:
    """A source's pair of a kind of visits, the same at every call."""
    source, visits = sources[number], list(VISITS.values())[kind]
    twin_name = kernel_twins([each.name for each in sources]).get(source.name)
    generator = np.random.default_rng((seed, number, kind))
    return registration_pair(
        source,
        generator,
        coverage=COVERAGES[int(generator.integers(len(COVERAGES)))],
        visits=visits,
        twin=next((each for each in sources if each.name == twin_name), None),
    )


def _difference(source: Source, other: Source) -> float:
    """How much the shares of the tissues differ: little for two scans of the same region."""
    names = sorted({*source.sites, *other.sites})
    shares = [
        counts / counts.sum()
        for counts in (np.array([len(each.sites.get(name, ())) for name in names], float) for each in (source, other))
    ]
    return float(np.abs(shares[0] - shares[1]).sum())


def _observed(before: RegistrationPair, after: RegistrationPair, *, group: str) -> Iterator[Observation]:
    is_same = before is after
    chosen = slice(None, None, _STRIDES[0] if is_same else _STRIDES[1])
    registration = register_scans(before.baseline, after.followup)
    points, truths = before.baseline_xyz_mm[chosen], before.followup_xyz_mm[chosen]
    places = find_places(
        registration,
        before.baseline,
        after.followup,
        [triple(point) for point in points],
        extents_mm=[0.0] * len(points),
    )
    registered_mm = np.linalg.norm(registration.followup_xyz_mm(points) - truths, axis=1)
    for number, place in enumerate(places):
        error_mm = float(np.linalg.norm(np.subtract(place.point_xyz_mm, truths[number])))
        yield Observation(
            group=group,
            evidence=place.evidence,
            error_mm=error_mm if is_same else math.inf,
            registration_error_mm=float(registered_mm[number]) if is_same else math.inf,
            is_compared=place.beyond_mm <= BORDER_MM,
            is_shown=bool(before.is_shown[chosen][number]) and is_same,
            is_lung=bool(before.is_lung[chosen][number]),
            is_same_patient=is_same,
        )


def print_place(seen: Sequence[Observation]) -> tuple[Float[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """The fit of the confidence in a place; returns each left-out point's confidence, and whether it was near."""
    compared = [each for each in seen if each.is_compared]
    errors_mm = np.array([each.error_mm for each in compared])
    near, wrong = errors_mm <= NEAR_MM, errors_mm > WRONG_MM
    same, lung = (np.array([getattr(each, name) for each in compared]) for name in ("is_same_patient", "is_lung"))
    confidence = _fitted("confidence_in_place", [place_features(each.evidence) for each in compared], near, compared)
    for name, chosen in (
        ("wrong in the same patient", wrong & same),
        ("of another patient", ~same),
        ("wrong", wrong),
        ("near", near),
        ("near in the lungs", near & lung),
    ):
        shares = " and ".join(
            f"below {limit:g} for {(confidence[chosen] < limit).mean():.1%}" for limit in (LOW_CONFIDENCE, EVEN)
        )
        print(f"  {shares} of {chosen.sum()} points {name}")
    return confidence, near


def print_trust(seen: Sequence[Observation]) -> None:
    """The fit of the trust in a registration, and what it says of points outside the field of view."""
    right = np.array([each.registration_error_mm <= WRONG_MM for each in seen])
    trust = _fitted("trust_in_registration", [trust_features(each.evidence) for each in seen], right, seen)
    outside = np.array([not each.is_compared for each in seen]) & (trust >= LOW_CONFIDENCE)
    shown = np.array([each.is_shown for each in seen])
    print(
        f"  of {outside.sum()} points said to be outside, mean trust {trust[outside].mean():.1%}, "
        f"{(~shown)[outside].mean():.1%} are"
    )


def _fitted(
    name: str,
    features: Sequence[tuple[float, ...]],
    truth: Bool[np.ndarray, "n"],
    seen: Sequence[Observation],
) -> Float[np.ndarray, "n"]:
    """Prints the coefficients, and returns each volume's probabilities by a model fitted without it."""
    table, groups = np.array(features), np.array([each.group for each in seen])
    model = LogisticRegression(C=math.inf, max_iter=10_000)
    held_out = cross_val_predict(model, table, truth, groups=groups, cv=LeaveOneGroupOut(), method="predict_proba")[
        :, 1
    ]
    model.fit(table, truth)
    numbers = ", ".join(f"{value:.3f}" for value in (*model.intercept_, *model.coef_[0]))
    print(f"{name}: {numbers}")
    print(
        f"  {len(truth)} points, {truth.mean():.1%} right; volumes left out: AUC {roc_auc_score(truth, held_out):.3f}, "
        f"expected calibration error {calibration_error(held_out, truth):.3f}"
    )
    return np.asarray(held_out)


def calibration_error(confidence: Float[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]) -> float:
    """The expected calibration error: the mean distance of confidence and share of right answers, over ten bins."""
    return sum(share * abs(mean - right) for share, mean, right in _bins(confidence, truth))


def _bins(confidence: Float[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]) -> list[tuple[float, float, float]]:
    """Share of the points, mean confidence and share of right answers of each bin that is not empty."""
    numbers = np.minimum((confidence * BINS).astype(int), BINS - 1)
    chosen = [numbers == number for number in np.unique(numbers)]
    return [(float(each.mean()), float(confidence[each].mean()), float(truth[each].mean())) for each in chosen]


def draw_diagram(path: Path, confidence: Float[np.ndarray, "n"], near: Bool[np.ndarray, "n"]) -> None:
    """The reliability diagram: the share of near points by confidence, with the share of all points in each bin."""
    shares, means, rights = zip(*_bins(confidence, near), strict=True)
    figure = new_figure(
        5.0,
        4.4,
        "Reliability of the confidence",
        f"{len(near)} propagated points of simulated pairs, volumes left out in turn; "
        f"expected calibration error {calibration_error(confidence, near):.3f}",
    )
    axes = tidy(figure.add_subplot())
    axes.bar([(math.floor(mean * BINS) + 0.5) / BINS for mean in means], shares, width=0.08, color="#dddddd")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    colour, marker, line, _ = LOOKS[0]
    axes.plot(means, rights, color=colour, marker=marker, linestyle=line)
    axes.set(xlabel="confidence", ylabel=f"share within {NEAR_MM:g} mm (line), of all points (bars)")
    figure.savefig(path)


def print_real(folder: Path) -> None:
    """The check on a real pair, by the coefficients of the library."""
    pair = read_pair(folder)
    registration = register_scans(pair.baseline, pair.followup)
    places = find_places(
        registration,
        pair.baseline,
        pair.followup,
        [triple(point) for point in pair.baseline_xyz_mm],
        extents_mm=[0.0] * len(pair.baseline_xyz_mm),
    )
    errors_mm = np.linalg.norm([place.point_xyz_mm for place in places] - pair.followup_xyz_mm, axis=1)
    confidence = np.array([confidence_in_place(place.evidence) for place in places])
    near = errors_mm <= NEAR_MM
    print(
        f"real pair: {near.sum()} of {len(near)} landmarks near, {(errors_mm > WRONG_MM).sum()} wrong; "
        f"confidence {confidence.min():.2f} to {confidence.max():.2f}, mean {confidence.mean():.2f}; low for "
        f"{(confidence[near] < LOW_CONFIDENCE).mean():.0%} of the near; "
        f"trust {trust_in_registration(places[0].evidence):.2f}"
    )


def read_sources(data: Path | None) -> Sequence[Source]:
    """The volumes to fit on: no validation volumes, and none that is shorter than 100 mm."""
    if data is None:
        return phantom_sources(range(4))
    held_out = split_volumes(data, read_recipe(RECIPE))[1]
    sources = load_sources(data, [name for name in find_volumes(data) if name not in held_out])
    return [each for each in sources if len(each.hu) * each.spacing_zyx_mm[0] >= _SHORTEST_MM]


def main() -> None:
    """Prints the coefficients, their accuracy on left-out volumes, and the check on a real pair."""
    arguments = tyro.cli(Arguments, description=__doc__)
    seen = list(observations(read_sources(arguments.data), seed=arguments.seed))
    confidence, near = print_place(seen)
    print_trust(seen)
    if arguments.diagram is not None:
        draw_diagram(arguments.diagram, confidence, near)
    if arguments.pair is not None:
        print_real(arguments.pair)


if __name__ == "__main__":
    main()
