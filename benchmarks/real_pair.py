"""`python -m benchmarks.real_pair PAIR_FOLDER`: the pipeline on two real scans of a patient, at expert landmarks.

It prints the errors of the landmarks propagated by registration, and the Dice of lesions inserted at the landmarks of
both scans. So no scan with lesions is needed. Nothing is fitted to the pair.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float64
from rich.console import Console
from rich.table import Table

from benchmarks.inserted_pair import inserted_pair
from benchmarks.pair_folder import PairFolder, read_pair
from benchmarks.runs import print_target
from longilesion.case import LOW_CONFIDENCE, Case
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.evaluation.exam import ScoringSettings
from longilesion.evaluation.methods import prediction_of, without_followup_clicks
from longilesion.evaluation.scoring import ExamScore, score_exam
from longilesion.geometry import triple
from longilesion.pipeline import segment_case
from longilesion.registration.propagation import propagate_points
from longilesion.registration.register import register_scans
from longilesion.registration.result import Registration
from longilesion.shipped import SHIPPED_MODEL
from training.command import run_command
from training.synthesis.exams import exam_of
from training.synthesis.pairs import SyntheticPair
from training.synthesis.preview import Example, write_examples
from training.synthesis.real_shapes import RealShapes
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import read_shape_library

MEAN_TARGET_MM, P90_TARGET_MM, FLAGGED_TARGET = 2.5, 5.0, 0.2
DICE_TARGET, WITHOUT_CLICKS_TARGET = 0.75, 0.9
# A propagated point within this distance is right: near enough to find the lesion.
_RIGHT_MM = 10.0


@dataclass
class Arguments:
    """What to measure."""

    folder: tyro.conf.Positional[Path]
    """With `baseline.nii.gz`, `followup.nii.gz` and `landmarks.json`."""
    model: Path = SHIPPED_MODEL
    cases: int = 6
    """How often lesions are inserted, at other landmarks each time."""
    lesions: int = 8
    """Lesions of a case, at most."""
    shapes: Path | None = None
    """A file of lesion shapes; lumpy ellipsoids where it is not given."""
    seed: int = 0
    picture: Path | None = None
    """Draws a lesion of each case (PNG)."""


def print_landmarks(pair: PairFolder, console: Console) -> None:
    """Prints the errors of the landmarks after each step, and the confidences of the results."""
    registration = register_scans(pair.baseline, pair.followup)
    points = [triple(point) for point in pair.baseline_xyz_mm]
    propagated = propagate_points(registration, pair.baseline, pair.followup, points, extents_mm=[0.0] * len(points))
    mean_shift = (pair.followup_xyz_mm - pair.baseline_xyz_mm).mean(axis=0)
    table = Table(title=f"target registration error at {len(points)} landmarks, mm")
    for heading in ("method", "mean", "median", "p90", "greatest"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    errors_mm: dict[str, Float64[np.ndarray, " n"]] = {
        name: np.linalg.norm(found - pair.followup_xyz_mm, axis=1)
        for name, found in {
            "mean shift of the landmarks themselves": pair.baseline_xyz_mm + mean_shift,
            **_by_stage(registration, pair.baseline_xyz_mm),
            "with the local search": np.array([point.point_xyz_mm for point in propagated]),
        }.items()
    }
    for name, errors in errors_mm.items():
        numbers = errors.mean(), *np.quantile(errors, (0.5, 0.9)), errors.max()
        table.add_row(name, *(f"{number:.1f}" for number in numbers))
    console.print(table)
    errors = errors_mm["with the local search"]
    right = errors <= _RIGHT_MM
    low = np.array([point.confidence < LOW_CONFIDENCE for point in propagated])
    console.print(
        f"confidence {min(point.confidence for point in propagated):.2f} to "
        f"{max(point.confidence for point in propagated):.2f}; of {(~right).sum()} points wrong by over "
        f"{_RIGHT_MM:g} mm, {(low & ~right).sum()} are low"
    )
    for name, value, target in (
        ("mean error", errors.mean(), MEAN_TARGET_MM),
        ("p90 error", float(np.quantile(errors, 0.9)), P90_TARGET_MM),
    ):
        print_target(console, value <= target, f"{name} {value:.1f} mm, target {target:g} mm")
    flagged = float(low[right].mean())
    print_target(
        console,
        flagged <= FLAGGED_TARGET,
        f"{flagged:.0%} of the {right.sum()} right points of low confidence, target {FLAGGED_TARGET:.0%}",
    )


def _by_stage(
    registration: Registration, points_xyz_mm: Float64[np.ndarray, "n 3"]
) -> dict[str, Float64[np.ndarray, "n 3"]]:
    stages = {"rigid": replace(registration, deformation=None)}
    if registration.deformation is not None:
        stages["deformable"] = registration
    return {name: each.followup_xyz_mm(points_xyz_mm) for name, each in stages.items()}


def print_outlines(pairs: Sequence[SyntheticPair], ensemble: Ensemble, console: Console) -> None:
    """Prints the Dice of inserted lesions with exact, the challenge's and no clicks."""
    versions: Mapping[str, Callable[[SyntheticPair], Case]] = {
        "exact": lambda pair: replace(pair.case, clicks=pair.exact_clicks),
        "as in the challenge": lambda pair: pair.case,
        "none in the follow-up": lambda pair: without_followup_clicks(pair.case),
    }
    table = Table(title=f"inserted lesions of {len(pairs)} cases, Dice by the challenge's rule (lesions)")
    for heading in ("clicks", "cases' mean", "persist", "new", "gone recognised", "present kept"):
        table.add_column(heading, justify="left" if heading == "clicks" else "right")
    dice = {}
    for name, version in versions.items():
        scores = list(_scored(pairs, version, ensemble))
        dice[name] = float(np.mean([score.challenge.dice for score in scores]))
        lesions = [lesion for score in scores for lesion in score.lesions]
        table.add_row(
            name,
            f"{dice[name]:.2f}",
            *(
                _mean([lesion.challenge_dice for lesion in lesions if lesion.fate == fate])
                for fate in ("persists", "new")
            ),
            _mean([lesion.is_recognised for lesion in lesions]),
            _mean([lesion.is_kept for lesion in lesions]),
        )
    console.print(table)
    given, none = dice["as in the challenge"], dice["none in the follow-up"]
    print_target(console, given >= DICE_TARGET, f"Dice {given:.2f} with the challenge's clicks, target {DICE_TARGET:g}")
    print_target(
        console,
        none >= WITHOUT_CLICKS_TARGET * given,
        f"{none:.2f} without follow-up clicks, {none / given:.0%} of that; target {WITHOUT_CLICKS_TARGET:.0%}",
    )


def _scored(
    pairs: Sequence[SyntheticPair], version: Callable[[SyntheticPair], Case], ensemble: Ensemble
) -> Iterator[ExamScore]:
    for number, pair in enumerate(pairs):
        prediction = prediction_of(segment_case(version(pair), ensemble))
        yield score_exam(exam_of(f"case {number}", pair), prediction, ScoringSettings())


def _mean(values: Sequence[float | None]) -> str:
    known = [float(value) for value in values if value is not None]
    return f"{np.mean(known):.2f} ({len(known)})" if known else "-"


def measure(arguments: Arguments) -> None:
    """Prints the tables and the targets."""
    console = Console(width=140)
    pair, ensemble = read_pair(arguments.folder), load_ensemble(arguments.model)
    print_landmarks(pair, console)
    shapes = RealShapes() if arguments.shapes is None else RealShapes(of_file=read_shape_library(arguments.shapes))
    settings = SynthesisSettings(real_shape_share=1.0)
    cases = [
        inserted_pair(
            pair,
            np.random.default_rng((arguments.seed, number)),
            lesions=arguments.lesions,
            shapes=shapes,
            settings=settings,
        )
        for number in range(arguments.cases)
    ]
    if arguments.picture is not None:
        examples = [
            Example(source=arguments.folder.name, pair=case, lesion_id=sorted(case.facts)[number % len(case.facts)])
            for number, case in enumerate(cases)
        ]
        write_examples(arguments.picture, examples, ensemble.main_settings)
    print_outlines(cases, ensemble, console)


if __name__ == "__main__":
    sys.exit(run_command(measure, Arguments, __doc__))
