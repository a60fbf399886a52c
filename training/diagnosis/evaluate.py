"""Scores models of lesion types on the livers that they were not trained on: LIDIA's tables 2 and 3.

`python -m training.diagnosis.evaluate RUN... --data EXAMS --output REPORT`: each RUN is what `training.diagnosis.train
--held-out` has written. All are judged on the same exams, by LiverMax and by counted voxels, and each is compared with
the one before it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tyro
from rich.console import Console

from longilesion.config import Device
from longilesion.diagnosis.bundle import load_diagnosis_bundle
from longilesion.diagnosis_settings import LESION_TYPES, STATEMENT
from longilesion.errors import InputError
from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.diagnosis_exam import DiagnosedExam
from longilesion.evaluation.diagnosis_figures import (
    SCORINGS,
    DiagnosisDifference,
    DiagnosisFigures,
    diagnosis_difference,
    diagnosis_figures,
)
from longilesion.evaluation.tables import Section, figure, to_markdown, to_rich
from longilesion.files import check_text, written_together
from training.command import run_command
from training.diagnosis.exams import load_exams
from training.diagnosis.record import DiagnosisRecord
from training.diagnosis.validation import diagnosed
from training.parallel import progress_bar
from training.run_folder import RunFolder, record_of

_log = logging.getLogger("training")

_SCORING_NAMES = {"patient": "LiverMax", "by_volume": "counted voxels"}
_LESIONS = {"precision": "precision", "sensitivity": "sensitivity", "accuracy": "accuracy", "dice": "Dice"}


@dataclass
class Arguments:
    """Command line of the scoring of runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    data: Path
    """The exams that the runs were trained on."""
    output: Path | None = None
    """A folder for the tables in Markdown (diagnosis.md); printed only if not given."""
    workers: int = 1
    """Processes that register exams that are not in the cache."""
    device: Device = "auto"
    draws: int = 1000
    """Draws of patients for the intervals."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRun:
    """A run's diagnoses of the held-out exams, and their figures."""

    name: str
    exams: tuple[DiagnosedExam, ...]
    figures: DiagnosisFigures


def evaluate_runs(arguments: Arguments) -> list[ScoredRun]:
    """Diagnoses the held-out exams with the last weights of all runs; prints the tables.

    Raises InputError where runs hold out other livers, or none.
    """
    if not arguments.runs:
        raise InputError("no run; expected folders of training.diagnosis.train")
    records = {path: record_of(RunFolder(path), DiagnosisRecord) for path in arguments.runs}
    held_out = next(iter(records.values())).held_out
    for path, record in records.items():
        if not record.held_out:
            raise InputError(f"{path}: trained on all livers; expected a run with --held-out")
        if record.held_out != held_out:
            raise InputError(
                f"{path}: held out {', '.join(record.held_out)}; expected {', '.join(held_out)}, as {arguments.runs[0]}"
            )
    scored: list[ScoredRun] = []
    for path, record in records.items():
        exams = load_exams(arguments.data, record.recipe.model, hosts=held_out, workers=arguments.workers)
        bootstrap = Bootstrap(len(exams), draws=arguments.draws, seed=arguments.seed)
        # Not the best weights: they were chosen on some of these exams.
        model = load_diagnosis_bundle(RunFolder(path).last, device=arguments.device)
        found = []
        with progress_bar() as bar:
            task = bar.add_task(record.recipe.name, total=len(exams), note="")
            for exam in exams:
                found.append(diagnosed(exam, model))
                bar.advance(task)
        scored.append(
            ScoredRun(name=record.recipe.name, exams=tuple(found), figures=diagnosis_figures(found, bootstrap))
        )
        _log.info("%s: mean AUC by LiverMax %s", record.recipe.name, figure(scored[-1].figures.patient["auc_8"]))
    differences = [
        diagnosis_difference((later.name, later.exams), (earlier.name, earlier.exams), bootstrap)
        for earlier, later in pairwise(scored)
    ]
    _show(run_tables(scored, differences), arguments.output)
    return scored


def run_tables(scored: Sequence[ScoredRun], differences: Sequence[DiagnosisDifference]) -> list[Section]:
    """LIDIA's tables: a row for each run and scoring, a column for each type; then lesions, then differences."""
    by_type: dict[str, str] = {"auc_8": "mean", "auc_2": "malignant", **{each: each for each in LESION_TYPES}}
    tables = [
        Section(
            title=f"Patients, area under the ROC curve ({STATEMENT})",
            headings=("", *by_type.values()),
            rows=tuple(
                (
                    f"{run.name}, {_SCORING_NAMES[scoring]}",
                    *(figure(getattr(run.figures, scoring)[key]) for key in by_type),
                )
                for run in scored
                for scoring in SCORINGS
            ),
            note="[95 % interval] (patients; of the mean: types).",
        ),
        Section(
            title=f"Lesions ({STATEMENT})",
            headings=("", *_LESIONS.values()),
            rows=tuple((run.name, *(figure(run.figures.lesions[key]) for key in _LESIONS)) for run in scored),
            note="Precision (predicted lesions), sensitivity (true ones), accuracy of the type (found ones), Dice of "
            "all lesions together (patients with lesions).",
        ),
    ]
    if differences:
        headings = {"patient": "mean AUC, LiverMax", "by_volume": "mean AUC, counted voxels", **_LESIONS}
        tables.append(
            Section(
                title="Differences on the same draws of patients",
                headings=("", *headings.values()),
                rows=tuple(
                    (
                        f"{each.first} - {each.second}",
                        *(figure(getattr(each, scoring)["auc_8"]) for scoring in SCORINGS),
                        *(figure(each.lesions[key]) for key in _LESIONS),
                    )
                    for each in differences
                ),
                note="An interval that leaves out 0 is a difference.",
            )
        )
    return tables


def _show(tables: Sequence[Section], output: Path | None) -> None:
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        with written_together({output / "diagnosis.md": check_text}) as (temporary,):
            temporary.write_text("\n".join(map(to_markdown, tables)), encoding="utf-8")
    console = Console() if Console().is_terminal else Console(width=200)
    for table in tables:
        console.print(to_rich(table))


def main() -> int:
    """Command line; 1 where the runs or the exams cannot be used."""
    return run_command(evaluate_runs, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
