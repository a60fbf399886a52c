"""Trains recipes on the same folds and compares them: `python -m training.study RECIPES... --data DATA --output STUDY`.

Each recipe is cross-validated into STUDY/<recipe>; run it again to resume, or with further recipes to add them. The
tables, printed and written to STUDY/study.md, give each recipe's figures out of fold with 95 % intervals, the paired
differences from a reference, and how far each training's loss still fell at its end. Whole patients are drawn for the
intervals.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float
from rich.console import Console

from longilesion.config import Device
from longilesion.errors import InputError
from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.exam import Fate
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.summary import Evaluation, ExamRow
from longilesion.evaluation.tables import Section, figure, to_markdown, to_rich
from longilesion.files import check_text, written_together
from training.command import run_command
from training.crossvalidate import Arguments as FoldArguments
from training.crossvalidate import cross_validate
from training.export import read_report
from training.preparation.prepared import read_prepared
from training.recipe import read_recipe
from training.run_folder import RunFolder, read_summary
from training.run_log import read_log


@dataclass
class Arguments:
    """Command line of a study."""

    recipes: tyro.conf.Positional[tuple[Path, ...]]
    data: Path
    """A prepared data set."""
    output: Path
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Which folds to train and judge."""
    reference: str | None = None
    """The recipe that the others are compared with, by its name; the first one if not given."""
    steps: int | None = None
    """Train each recipe for as many steps, instead of its own number."""
    minutes: float = float("inf")
    """Stop each recipe's training after this time with a checkpoint, to be resumed later."""
    seed: int = 0
    workers: int = 1
    """Processes that draw lesions, as for training.train."""
    device: Device = "auto"
    draws: int = 2000
    """Draws of patients for the intervals."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Studied:
    """A cross-validated recipe: its figures out of fold, and its runs."""

    name: str
    evaluation: Evaluation
    runs: tuple[RunFolder, ...]


def _dice(lesion: LesionScore) -> float | None:
    return lesion.challenge_dice


def _dice_of(fate: Fate) -> Callable[[LesionScore], float | None]:
    return lambda lesion: lesion.challenge_dice if lesion.fate == fate else None


LESION_FIGURES: Mapping[str, Callable[[LesionScore], float | None]] = {
    "Dice": _dice,
    "Dice, persisting": _dice_of("persists"),
    "Dice, new": _dice_of("new"),
    "present kept": lambda lesion: lesion.is_kept,
    "gone recognised": lambda lesion: lesion.is_recognised,
}
EXAM_FIGURES: Mapping[str, Callable[[ExamRow], float | None]] = {
    "FNvol, ml": lambda row: row.false_negative_ml,
    "FPvol, ml": lambda row: row.false_positive_ml,
}


def study(arguments: Arguments) -> list[Section] | None:
    """Returns the tables; None where a training was interrupted.

    Raises InputError where a recipe or the data cannot be used, or where the recipes were not judged on the same cases.
    """
    data = read_prepared(arguments.data)
    studied = []
    for path in arguments.recipes:
        folder = arguments.output / read_recipe(path).name
        tarball = cross_validate(
            FoldArguments(
                recipe=path,
                data=arguments.data,
                output=folder,
                folds=arguments.folds,
                steps=arguments.steps,
                minutes=arguments.minutes,
                seed=arguments.seed,
                workers=arguments.workers,
                device=arguments.device,
            )
        )
        if tarball is None:
            return None
        (evaluation,) = read_report(folder / "out_of_fold" / "evaluation.json").evaluations
        runs = tuple(RunFolder(folder / f"fold_{number}") for number in sorted(set(arguments.folds)))
        studied.append(Studied(name=folder.name, evaluation=evaluation, runs=runs))
    tables = compared(
        studied,
        {case.case_id: case.patient for case in data.cases},
        reference=arguments.reference,
        draws=arguments.draws,
    )
    with written_together({arguments.output / "study.md": check_text}) as (temporary,):
        temporary.write_text("\n".join(map(to_markdown, tables)))
    console = Console() if Console().is_terminal else Console(width=200)
    for table in tables:
        console.print(to_rich(table))
    return tables


def compared(
    studied: Sequence[Studied], patients: Mapping[str, str], *, reference: str | None, draws: int
) -> list[Section]:
    """The tables of recipes that were judged on the same cases; `patients` are those of the cases.

    Raises InputError where the cases differ, no recipe is given, or the reference is none of them.
    """
    if not studied:
        raise InputError("no recipe given; expected at least one")
    names = [each.name for each in studied]
    if len(set(names)) < len(names):
        raise InputError(
            f"two recipes have the name {max(names, key=names.count)}; expected a name of its own for each"
        )
    first = next((each for each in studied if each.name == (reference or names[0])), None)
    if first is None:
        raise InputError(f"--reference {reference}: expected one of {', '.join(names)}")
    judged = [_judged(each.evaluation) for each in studied]
    for each, keys in zip(studied, judged, strict=True):
        if keys != judged[0]:
            raise InputError(f"{each.name}: judged on other lesions than {studied[0].name}; expected the same folds")
    places = {patient: place for place, patient in enumerate(sorted({patients[row.exam] for row in _rows(first)}))}
    place_of = {case: places[patient] for case, patient in patients.items() if patient in places}
    bootstrap = Bootstrap(len(places), draws=draws, seed=0)
    return [
        Section(
            title="Figures out of fold",
            headings=("recipe", *LESION_FIGURES, *EXAM_FIGURES),
            rows=tuple((each.name, *_figures(each, None, place_of, bootstrap)) for each in studied),
            note="Means over lesions, volumes over exams [95 % interval over patients] (number).",
        ),
        Section(
            title=f"Differences from {first.name}",
            headings=("recipe", *LESION_FIGURES, *EXAM_FIGURES),
            rows=tuple(
                (each.name, *_figures(each, first, place_of, bootstrap)) for each in studied if each is not first
            ),
            note="Lesion by lesion and exam by exam; an interval that leaves out 0 is a difference.",
        ),
        Section(
            title="Ends of the trainings",
            headings=("recipe", "steps", "minutes", "loss before", "loss at the end", "fall"),
            rows=tuple(_end(each) for each in studied),
            note="Mean outline loss over the last tenth of the steps and over the tenth before it; means over folds.",
        ),
    ]


def _rows(studied: Studied) -> Sequence[ExamRow]:
    return studied.evaluation.exams


def _judged(evaluation: Evaluation) -> list[tuple[str, int]]:
    return [(lesion.exam, lesion.lesion_id) for lesion in evaluation.lesions]


def _figures(
    studied: Studied, reference: Studied | None, place_of: Mapping[str, int], bootstrap: Bootstrap
) -> Iterator[str]:
    """A cell for each figure, or for its difference from the reference."""
    lesions, rows = studied.evaluation.lesions, _rows(studied)
    lesion_places = np.array([place_of[lesion.exam] for lesion in lesions], np.int64)
    row_places = np.array([place_of[row.exam] for row in rows], np.int64)
    for of_lesion in LESION_FIGURES.values():
        values = _numbers(map(of_lesion, lesions))
        if reference is not None:
            values = values - _numbers(map(of_lesion, reference.evaluation.lesions))
        yield figure(bootstrap.pooled_mean(values, lesion_places))
    for of_row in EXAM_FIGURES.values():
        values = _numbers(map(of_row, rows))
        if reference is not None:
            values = values - _numbers(map(of_row, _rows(reference)))
        yield figure(bootstrap.pooled_mean(values, row_places), digits=2)


def _numbers(values: Iterator[float | None]) -> Float[np.ndarray, " n"]:
    return np.array([nan if value is None else value for value in values], np.float64)


def _end(studied: Studied) -> tuple[str, ...]:
    """How far the loss still fell at the end of a recipe's trainings."""
    summaries = [read_summary(run) for run in studied.runs]
    before, after = (np.mean([_loss(run, share) for run in studied.runs]) for share in ((0.8, 0.9), (0.9, 1.0)))
    return (
        studied.name,
        f"{np.mean([summary.steps for summary in summaries]):.0f}",
        f"{np.mean([summary.minutes for summary in summaries]):.1f}",
        f"{before:.3f}",
        f"{after:.3f}",
        f"{100 * (1 - after / before):.1f} %",
    )


def _loss(run: RunFolder, share: tuple[float, float]) -> float:
    """The mean outline loss over a share of a run's steps; NaN where none was logged there."""
    rows = read_log(run.metrics)
    low, high = (part * read_summary(run).planned_steps for part in share)
    losses = [row["outline"] for row in rows if low < row["step"] <= high]
    return float(np.mean(losses)) if losses else nan


def main() -> int:
    """Command line; 1 where a recipe or the data cannot be used."""
    return run_command(study, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
