"""Scores a bundle and naive methods on synthetic pairs of held-out volumes: `python -m training.evaluate`.

Every lesion is scored on the whole scan by `longilesion.evaluation`. The tables' Dice follows the challenge's rule, the
mean over all predicted labels that touch a lesion, 0 where none does. A gone lesion is recognised if its label is
nowhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from rich.console import Console
from rich.table import Table

from longilesion.case import Case, LesionMap, lesion_regions
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.evaluation.exam import Fate, Prediction, ScoringSettings
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.measures import Outline, centre_xyz_mm
from longilesion.evaluation.methods import prediction_of
from longilesion.evaluation.run import sum_up
from longilesion.evaluation.scoring import ExamScore, score_exam
from longilesion.geometry import Triple
from longilesion.pipeline import segment_case
from longilesion.prompts import complete_prompts
from training.command import run_command
from training.held_out import HeldOutOptions
from training.naive_methods import grow_region, paste_baseline
from training.synthesis.exams import REAL, exam_of
from training.synthesis.pairs import SyntheticPair

DIAMETERS_MM = ((0, 12), (12, 20), (20, 40), (40, 400))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlined:
    """A method's lesion maps of a case, and the positions where it looked, by lesion id."""

    prediction: Prediction
    places_xyz_mm: Mapping[int, Triple]


@dataclass(kw_only=True)
class Arguments(HeldOutOptions):
    """Command line of an evaluation."""

    model: Path = Path("model")
    cases: int = 60
    output: Path | None = None
    """Also write everything that `longilesion evaluate` would write to this folder."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """Each method's scores of all exams, and the distances between lesions and the positions looked at: (fate, mm)."""

    scores: Mapping[str, Sequence[ExamScore]]
    distances_mm: Mapping[str, Sequence[tuple[Fate, float]]]

    @property
    def lesions(self) -> dict[str, list[LesionScore]]:
        """The lesions of all exams by method."""
        return {method: [lesion for score in own for lesion in score.lesions] for method, own in self.scores.items()}


def evaluate(arguments: Arguments) -> Scored:
    """Scores every method on the same cases."""
    pairs = arguments.pairs("scoring")
    ensemble = load_ensemble(arguments.model)
    # Outlines are also needed for lesions that the presence head rejects, to show the effect of each threshold.
    everything = replace(ensemble, thresholds=ensemble.thresholds.model_copy(update={"presence_threshold": 0.0}))
    methods: dict[str, Callable[[Case], Outlined]] = {
        "longilesion": lambda case: _segmented(case, ensemble),
        "without presence": lambda case: _segmented(case, everything),
        "paste baseline": lambda case: _at_clicks(case, paste_baseline(case)),
        "region growing": lambda case: _at_clicks(case, grow_region(case)),
    }
    scores: dict[str, list[ExamScore]] = {method: [] for method in methods}
    distances_mm: dict[str, list[tuple[Fate, float]]] = {method: [] for method in methods}
    for name, pair in pairs:
        exam = exam_of(name, pair)
        for method, outline in methods.items():
            outlined = outline(pair.case)
            scores[method].append(score_exam(exam, outlined.prediction, ScoringSettings()))
            distances_mm[method] += _distances_mm(pair, outlined.places_xyz_mm)
    return Scored(scores=scores, distances_mm=distances_mm)


def _segmented(case: Case, ensemble: Ensemble) -> Outlined:
    result = segment_case(case, ensemble)
    return Outlined(
        prediction=prediction_of(result),
        places_xyz_mm={
            lesion.prompt.lesion_id: lesion.place_xyz_mm for lesion in result.lesions if lesion.place_xyz_mm is not None
        },
    )


def _at_clicks(case: Case, ids: UInt16[np.ndarray, "z y x"]) -> Outlined:
    lesions = LesionMap(ids=ids, grid=case.followups["primary"].grid)
    return Outlined(
        prediction=Prediction(maps={"primary": lesions}, presence={}, merged_into={}),
        places_xyz_mm={prompt.lesion_id: prompt.followup.point_xyz_mm for prompt in complete_prompts(case).lesions},
    )


def _distances_mm(pair: SyntheticPair, places_xyz_mm: Mapping[int, Triple]) -> list[tuple[Fate, float]]:
    regions = lesion_regions(pair.truth.ids)
    centres = {each: centre_xyz_mm(Outline.of(pair.truth, [each], [region])) for each, region in regions.items()}
    return [
        (fact.fate, float(np.linalg.norm(np.subtract(centres[lesion_id], places_xyz_mm[lesion_id]))))
        for lesion_id, fact in pair.facts.items()
        if lesion_id in centres and lesion_id in places_xyz_mm
    ]


def print_tables(scored: Scored, console: Console) -> None:
    """Dice overall, per fate and diameter, and the presence rates; then distances and the presence thresholds."""
    lesions = scored.lesions
    cases = {lesion.exam for own in lesions.values() for lesion in own}
    table = Table(title=f"{len(cases)} cases: Dice per lesion (number of lesions)")
    columns: dict[str, Callable[[LesionScore], bool]] = {
        "all": lambda lesion: True,
        "real tumours": lambda lesion: lesion.lesion_type == REAL,
        "persists": lambda lesion: lesion.fate == "persists" and lesion.lesion_type != REAL,
        "new": lambda lesion: lesion.fate == "new",
    }
    for low, high in DIAMETERS_MM:
        columns[f"{low}-{high} mm"] = partial(is_between, low, high)
    for heading in ("method", *columns, "gone recognised", "present kept"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method, own in lesions.items():
        cells = [_mean([lesion.challenge_dice for lesion in own if chosen(lesion)]) for chosen in columns.values()]
        table.add_row(
            method,
            *cells,
            _mean([lesion.is_recognised for lesion in own]),
            _mean([lesion.is_kept for lesion in own]),
        )
    console.print(table)
    _print_distances(scored.distances_mm, console)
    _print_thresholds(lesions["longilesion"], console)


def is_between(low: float, high: float, lesion: LesionScore) -> bool:
    """Whether a lesion's diameter, in mm, lies in a range."""
    return lesion.diameter_mm is not None and low <= lesion.diameter_mm < high


def _print_distances(distances_mm: Mapping[str, Sequence[tuple[Fate, float]]], console: Console) -> None:
    """Distances between lesion and the position looked at; lesions of the baseline can be aligned, new ones cannot."""
    table = Table(title="distance to the lesion's centre, mm: median / 90th percentile")
    for heading in ("method", "persists", "new"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in ("longilesion", "paste baseline"):
        cells = [
            _quantiles([distance for fate, distance in distances_mm[method] if fate == chosen])
            for chosen in ("persists", "new")
        ]
        table.add_row(method if method == "longilesion" else "click", *cells)
    console.print(table)


def _quantiles(values: Sequence[float]) -> str:
    return "{:.1f} / {:.1f}".format(*np.quantile(values, [0.5, 0.9])) if values else "-"


def _print_thresholds(lesions: Sequence[LesionScore], console: Console) -> None:
    table = Table(title="presence threshold")
    for heading in ("threshold", "gone recognised", "present kept"):
        table.add_column(heading, justify="right")
    for threshold in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        gone = [float((lesion.presence or 0.0) < threshold) for lesion in lesions if lesion.fate == "gone"]
        kept = [float((lesion.presence or 0.0) >= threshold) for lesion in lesions if lesion.fate != "gone"]
        table.add_row(f"{threshold:.2f}", _mean(gone), _mean(kept))
    console.print(table)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f} ({len(known)})" if known else "-"


def report(arguments: Arguments) -> None:
    """Scores every method, prints the tables, and writes everything if a folder is given."""
    scored = evaluate(arguments)
    print_tables(scored, Console(width=180))
    if arguments.output is not None:
        # matplotlib takes long to import.
        from longilesion.evaluation.output import write_evaluation

        write_evaluation(arguments.output, sum_up(scored.scores, ScoringSettings(), warnings={}))


def main() -> int:
    """Command line; 1 where the bundle or the data cannot be used."""
    return run_command(report, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
