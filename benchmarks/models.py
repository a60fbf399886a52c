"""`python -m benchmarks.models MODEL... --data CT_FOLDER`: bundles on the same synthetic pairs, and how they differ.

The pairs are those of `training.evaluate`, of volumes that the recipe does not train on; with `--pair`, lesions
inserted into a real pair follow in tables of their own. Intervals are over pairs, which share few volumes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import track

from benchmarks.inserted_pair import inserted_pair
from benchmarks.pair_folder import read_pair
from longilesion.case import Case
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.bootstrap import Bootstrap, Estimate
from longilesion.evaluation.exam import ScoringSettings
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.methods import prediction_of, without_followup_clicks
from longilesion.evaluation.scoring import ExamScore, score_exam
from longilesion.evaluation.tables import Section, figure, to_markdown, to_rich
from longilesion.files import check_text, written_together
from longilesion.pipeline import segment_case
from training.command import run_command
from training.evaluate import DIAMETERS_MM, is_between
from training.held_out import HeldOutOptions
from training.synthesis.exams import REAL, exam_of
from training.synthesis.pairs import SyntheticPair
from training.synthesis.real_shapes import RealShapes
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import read_shape_library


@dataclass(kw_only=True)
class Arguments(HeldOutOptions):
    """What to compare, and on what."""

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Bundles; the first is the one that the others are compared with."""
    pair: Path | None = None
    """A real pair with landmarks (`benchmarks.real_pair`), into which lesions are inserted."""
    inserted: int = 10
    """How often lesions are inserted into the real pair, at other landmarks each time."""
    shapes: Path | None = None
    """A file of lesion shapes for the inserted ones; lumpy ellipsoids where it is not given."""
    kept: float = 0.97
    """The share of present lesions to keep, at which the recognition of gone ones is compared."""
    output: Path | None = None
    """Also write the tables to this file (Markdown)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """A model's scores of all pairs, in their order, and the seconds of its networks."""

    name: str
    exams: Sequence[ExamScore]
    network_seconds: float

    @property
    def lesions(self) -> list[LesionScore]:
        """Those of all pairs."""
        return [lesion for exam in self.exams for lesion in exam.lesions]


Pairs = Sequence[tuple[str, SyntheticPair]]
Tissues = Mapping[tuple[str, int], str]


def real_pairs(folder: Path, arguments: Arguments) -> Iterator[tuple[str, SyntheticPair]]:
    """The real pair with lesions inserted at landmarks, with names."""
    pair = read_pair(folder)
    library = None if arguments.shapes is None else read_shape_library(arguments.shapes)
    for number in range(arguments.inserted):
        yield (
            f"{folder.name}/{number}",
            inserted_pair(
                pair,
                np.random.default_rng((0, number)),
                lesions=8,
                shapes=RealShapes() if library is None else RealShapes(of_file=library),
                settings=SynthesisSettings(real_shape_share=1.0),
            ),
        )


def scored(models: Sequence[Path], pairs: Pairs, *, shown: Callable[[Case], Case] = lambda case: case) -> list[Scored]:
    """Every model's scores of the same pairs, case after case."""
    found = []
    for folder in models:
        ensemble = load_ensemble(folder)
        exams, seconds = [], 0.0
        for name, pair in track(pairs, str(folder), console=Console(stderr=True)):
            result = segment_case(shown(pair.case), ensemble)
            exams.append(score_exam(exam_of(name, pair), prediction_of(result), ScoringSettings()))
            seconds += result.seconds["network"]
        found.append(Scored(name=str(folder), exams=exams, network_seconds=seconds))
    return found


def compared(models: Sequence[Scored], tissues: Tissues, *, title: str, kept: float) -> Section:
    """A line per figure: each model's, and the difference of each one from the first, with intervals over pairs."""
    first, *others = models
    bootstrap = Bootstrap(len(first.exams), draws=2000, seed=0)
    place_of = {exam.exam: place for place, exam in enumerate(first.exams)}
    places = np.array([place_of[lesion.exam] for lesion in first.lesions], np.int64)
    rows: list[tuple[str, ...]] = []
    for name, of_exam in _EXAM_FIGURES.items():
        values = [np.array([_number(of_exam(exam)) for exam in model.exams]) for model in models]
        rows.append((name, *_cells(values, bootstrap.mean)))
    for name, of_lesion in _lesion_figures(tissues).items():
        values = [np.array([_number(of_lesion(lesion)) for lesion in model.lesions]) for model in models]
        if not np.isnan(values[0]).all():
            rows.append((name, *_cells(values, partial(bootstrap.pooled_mean, patient_of=places))))
    recognised = partial(_recognised_at, places=places, kept=kept, bootstrap=bootstrap)
    rows.append(
        (
            f"gone recognised where {kept:g} are kept",
            *(figure(recognised(model.lesions)) for model in models),
            *(figure(recognised(model.lesions, first.lesions)) for model in others),
        )
    )
    count = len(first.lesions)
    rows.append(
        (
            "seconds of the networks per lesion",
            *(f"{model.network_seconds / count:.2f}" for model in models),
            *(f"{model.network_seconds / first.network_seconds:.2f} times" for model in others),
        )
    )
    return Section(
        title=title,
        headings=("", *(model.name for model in models), *(f"{model.name} - {first.name}" for model in others)),
        rows=tuple(rows),
        note="Means [95 % interval over pairs] (number). The threshold of the line before the last is chosen on these "
        "pairs, for each model alike; all other lines have the models' own thresholds.",
    )


_EXAM_FIGURES: Mapping[str, Callable[[ExamScore], float | None]] = {
    "challenge Dice of the pairs": lambda exam: exam.challenge.dice,
    "false positive volume, ml": lambda exam: exam.challenge.false_positive_ml,
    "false negative volume, ml": lambda exam: exam.challenge.false_negative_ml,
}


def _lesion_figures(tissues: Tissues) -> dict[str, Callable[[LesionScore], float | None]]:
    """Dice overall, and by kind, tissue and diameter; what is kept and recognised."""
    chosen: dict[str, Callable[[LesionScore], bool]] = {
        "Dice of the lesions": lambda lesion: True,
        "real tumours": lambda lesion: lesion.lesion_type == REAL,
        "inserted, persisting": lambda lesion: lesion.lesion_type != REAL and lesion.fate == "persists",
        "new": lambda lesion: lesion.fate == "new",
    }
    for tissue in sorted(set(tissues.values())):
        chosen[tissue] = partial(_is_of, tissues, tissue)
    for low, high in DIAMETERS_MM:
        is_last = (low, high) == DIAMETERS_MM[-1]
        chosen[f"over {low} mm" if is_last else f"{low} to {high} mm"] = partial(is_between, low, high)
    figures: dict[str, Callable[[LesionScore], float | None]] = {
        name: partial(_dice_where, belongs) for name, belongs in chosen.items()
    }
    return figures | {
        "present kept": lambda lesion: lesion.is_kept,
        "gone recognised": lambda lesion: lesion.is_recognised,
    }


def _is_of(tissues: Tissues, tissue: str, lesion: LesionScore) -> bool:
    return lesion.lesion_type != REAL and tissues.get((lesion.exam, lesion.lesion_id)) == tissue


def _dice_where(belongs: Callable[[LesionScore], bool], lesion: LesionScore) -> float | None:
    return lesion.challenge_dice if belongs(lesion) else None


def _number(value: float | None) -> float:
    return nan if value is None else value


def _cells(
    values: Sequence[Float[np.ndarray, " n"]], estimate: Callable[[Float[np.ndarray, " n"]], Estimate]
) -> Iterator[str]:
    yield from (figure(estimate(own)) for own in values)
    yield from (figure(estimate(own - values[0])) for own in values[1:])


def _recognised_at(
    lesions: Sequence[LesionScore],
    others: Sequence[LesionScore] | None = None,
    *,
    places: Int[np.ndarray, " n"],
    kept: float,
    bootstrap: Bootstrap,
) -> Estimate:
    """The share of gone lesions below the presence that a share of the present ones reaches; less that of others."""
    is_present = np.array([bool(lesion.is_present) for lesion in lesions])
    is_gone = np.array([lesion.is_present is False for lesion in lesions])

    def share(own: Sequence[LesionScore], weights: Float[np.ndarray, " n"]) -> float:
        presence = np.array([lesion.presence or 0.0 for lesion in own])
        if not weights[is_present].sum() or not weights[is_gone].sum():
            return nan
        threshold = np.quantile(np.repeat(presence[is_present], weights[is_present].astype(int)), 1 - kept)
        return float(np.average(presence[is_gone] < threshold, weights=weights[is_gone]))

    def statistic(weights: Float[np.ndarray, "draws patients"]) -> Float[np.ndarray, " draws"]:
        drawn = (row[places] for row in weights)
        return np.array([share(lesions, row) - (0.0 if others is None else share(others, row)) for row in drawn])

    return bootstrap.estimate(statistic, count=int(is_gone.sum()), contributors=len(np.unique(places[is_gone])))


def compare(arguments: Arguments) -> list[Section]:
    """Scores all models, prints the tables, and writes them if a file is given."""
    if not arguments.models:
        raise InputError("no model given; expected at least one")
    if arguments.inserted < 1:
        raise InputError(f"--inserted {arguments.inserted}; expected at least 1")
    pairs = list(arguments.pairs("drawing"))
    tables = [_table(arguments, pairs, f"{len(pairs)} synthetic pairs")]
    if arguments.pair is not None:
        real = list(real_pairs(arguments.pair, arguments))
        title = f"lesions inserted into a real pair {len(real)} times"
        tables.append(_table(arguments, real, title))
        tables.append(_table(arguments, real, f"{title}, without follow-up clicks", shown=without_followup_clicks))
    console = Console(width=220)
    for table in tables:
        console.print(to_rich(table))
    if arguments.output is not None:
        with written_together({arguments.output: check_text}) as (temporary,):
            temporary.write_text("\n".join(map(to_markdown, tables)))
    return tables


def _table(
    arguments: Arguments,
    pairs: Pairs,
    title: str,
    *,
    shown: Callable[[Case], Case] = lambda case: case,
) -> Section:
    tissues = {
        (name, lesion_id): fact.lesion_type
        for name, pair in pairs
        for lesion_id, fact in pair.facts.items()
        if fact.lesion_type is not None
    }
    return compared(scored(arguments.models, pairs, shown=shown), tissues, title=title, kept=arguments.kept)


if __name__ == "__main__":
    sys.exit(run_command(compare, Arguments, __doc__))
