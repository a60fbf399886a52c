"""Trains recipes on the same folds and compares them: `python -m training.study RECIPES... --data DATA --output STUDY`.

Each recipe is trained in STUDY/<recipe>, fold by fold; run it again to resume, or with further recipes to add them. The
tables, printed and written to STUDY/study.md, give each recipe's figures out of fold with 95 % intervals, the paired
differences from a reference, and how far each training's loss still fell at its end. Recipes that outline lesions are
cross-validated (`training.crossvalidate`), and whole patients are drawn for their intervals; detectors are scored by
`training.evaluate_detection`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from training import crossvalidate, evaluate_detection
from training.command import run_command
from training.export import read_report
from training.preparation.prepared import read_prepared
from training.recipe import Recipe, read_recipe
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
    """A recipe's figures out of fold."""

    name: str
    evaluation: Evaluation


def _dice_of(fate: Fate) -> Callable[[LesionScore], float | None]:
    return lambda lesion: lesion.challenge_dice if lesion.fate == fate else None


LESION_FIGURES: Mapping[str, Callable[[LesionScore], float | None]] = {
    "Dice": lambda lesion: lesion.challenge_dice,
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
    """Trains what is not trained yet, and writes the tables; None where a training was interrupted.

    Raises InputError where a recipe or the data cannot be used, where recipes have different tasks, or where they were
    not judged on the same cases.
    """
    recipes = {path: read_recipe(path) for path in arguments.recipes}
    _check(recipes.values(), arguments.reference)
    folders = {path: arguments.output / recipe.name for path, recipe in recipes.items()}
    detects = any(recipe.task == "detection" for recipe in recipes.values())
    # Detectors are scored together, after all of them are trained.
    train_or_judge = crossvalidate.train_folds if detects else crossvalidate.cross_validate
    for path, folder in folders.items():
        if not train_or_judge(_folds(path, folder, arguments)):
            return None
    reference = folders[arguments.recipes[0]] if arguments.reference is None else arguments.output / arguments.reference
    ordered = sorted(folders.values(), key=lambda folder: folder != reference)
    tables = _detections(ordered, arguments) if detects else _outlines(ordered, arguments)
    tables.append(ends({folder.name: _runs(folder, arguments) for folder in ordered}))
    with written_together({arguments.output / "study.md": check_text}) as (temporary,):
        temporary.write_text("\n".join(map(to_markdown, tables)), encoding="utf-8")
    console = Console() if Console().is_terminal else Console(width=200)
    for table in tables:
        console.print(to_rich(table))
    return tables


def compared(studied: Sequence[Studied], patients: Mapping[str, str], *, draws: int) -> list[Section]:
    """The tables of recipes that were judged on the same cases, whose `patients` are given; the first is the reference.

    Raises InputError where the cases differ.
    """
    first = studied[0]
    for each in studied:
        if _judged(each) != _judged(first):
            raise InputError(f"{each.name}: judged on other lesions than {first.name}; expected the same folds")
    names = sorted({patients[row.exam] for row in first.evaluation.exams})
    place_of = {row.exam: names.index(patients[row.exam]) for row in first.evaluation.exams}
    bootstrap = Bootstrap(len(names), draws=draws, seed=0)
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
            rows=tuple((each.name, *_figures(each, first, place_of, bootstrap)) for each in studied[1:]),
            note="Lesion by lesion and exam by exam; an interval that leaves out 0 is a difference.",
        ),
    ]


def ends(runs: Mapping[str, Sequence[RunFolder]]) -> Section:
    """How far each recipe's loss still fell at the end of its trainings."""
    return Section(
        title="Ends of the trainings",
        headings=("recipe", "folds", "steps", "minutes", "loss before", "loss at the end", "fall"),
        rows=tuple((name, *_end(own)) for name, own in runs.items()),
        note="Mean outline loss over the last tenth of the steps and over the tenth before it; means over folds.",
    )


def _check(recipes: Collection[Recipe], reference: str | None) -> None:
    """Raises InputError for recipes that cannot be compared."""
    names, tasks = [recipe.name for recipe in recipes], {recipe.task for recipe in recipes}
    if not names:
        raise InputError("no recipe given; expected at least one")
    if len(tasks) > 1:
        raise InputError(f"recipes of the tasks {', '.join(sorted(tasks))}; expected recipes of one task")
    twice = max(names, key=names.count)
    if names.count(twice) > 1:
        raise InputError(f"two recipes have the name {twice}; expected a name of its own for each")
    if reference not in (None, *names):
        raise InputError(f"--reference {reference}: expected one of {', '.join(names)}")


def _runs(folder: Path, arguments: Arguments) -> tuple[RunFolder, ...]:
    return tuple(RunFolder(folder / f"fold_{number}") for number in sorted(set(arguments.folds)))


def _folds(recipe: Path, folder: Path, arguments: Arguments) -> crossvalidate.Arguments:
    """The folds of a recipe, for either kind of it."""
    return crossvalidate.Arguments(
        recipe=recipe,
        data=arguments.data,
        output=folder,
        folds=arguments.folds,
        steps=arguments.steps,
        minutes=arguments.minutes,
        seed=arguments.seed,
        workers=arguments.workers,
        device=arguments.device,
    )


def _outlines(folders: Sequence[Path], arguments: Arguments) -> list[Section]:
    studied = [
        Studied(name=folder.name, evaluation=read_report(folder / "out_of_fold" / "evaluation.json").evaluations[0])
        for folder in folders
    ]
    patients = {case.case_id: case.patient for case in read_prepared(arguments.data).cases}
    return compared(studied, patients, draws=arguments.draws)


def _detections(folders: Sequence[Path], arguments: Arguments) -> list[Section]:
    scored = evaluate_detection.score_detectors(
        evaluate_detection.Arguments(
            detectors=tuple(folders), data=arguments.data, workers=arguments.workers, device=arguments.device
        )
    )
    return evaluate_detection.detection_tables(scored, draws=arguments.draws, seed=0)


def _judged(studied: Studied) -> list[tuple[str, int]]:
    return [(lesion.exam, lesion.lesion_id) for lesion in studied.evaluation.lesions]


def _figures(
    studied: Studied, reference: Studied | None, place_of: Mapping[str, int], bootstrap: Bootstrap
) -> Iterator[str]:
    """A cell for each figure, or for its difference from the reference."""
    lesions, rows = studied.evaluation.lesions, studied.evaluation.exams
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
            values = values - _numbers(map(of_row, reference.evaluation.exams))
        yield figure(bootstrap.pooled_mean(values, row_places), digits=2)


def _numbers(values: Iterator[float | None]) -> Float[np.ndarray, " n"]:
    return np.array([nan if value is None else value for value in values], np.float64)


def _end(runs: Sequence[RunFolder]) -> tuple[str, ...]:
    summaries = [read_summary(run) for run in runs]
    before, after = (np.mean([_loss(run, share) for run in runs]) for share in ((0.8, 0.9), (0.9, 1.0)))
    return (
        str(len(runs)),
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
