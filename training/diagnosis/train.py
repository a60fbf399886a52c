"""Trains a model of lesion types: `python -m training.diagnosis.train RECIPE --data EXAMS --output RUN`.

EXAMS is what `python -m training.prepare phases` writes. The exams of the livers named by --held-out validate; nothing
is learnt from them. A run resumes from its checkpoint. On several GPUs or machines, start it with `torchrun`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from longilesion.diagnosis.bundle import DiagnosisModel, save_diagnosis_bundle
from longilesion.diagnosis_settings import STATEMENT
from longilesion.ensemble import find_precision
from longilesion.errors import InputError
from longilesion.networks.lesion_queries import LesionQueries
from training.command import run_command
from training.diagnosis.exams import TypedExam, described, load_exams, split_hosts
from training.diagnosis.learner import LOSSES, DiagnosisLearner, initialised
from training.diagnosis.recipe import DiagnosisRecipe, read_diagnosis_recipe
from training.diagnosis.record import DiagnosisRecord
from training.diagnosis.validation import BEST, validation_figures
from training.diagnosis.windows import ExamWindows, WindowBatch
from training.learner import Progress, end_process, launched_for
from training.loading import Share
from training.loop import Loop, RunOptions, Schedule, resumed, sum_up
from training.run_folder import RunFolder, RunSummary, begin_or_resume, package_versions
from training.run_log import RunLog
from training.validation import Figure, spread

_log = logging.getLogger("training")


@dataclass(kw_only=True)
class Arguments(RunOptions):
    """Command line of a training run."""

    recipe: tyro.conf.Positional[Path]
    data: Path
    """A folder of exams (`training.prepare phases`)."""
    held_out: tuple[str, ...] = ()
    """Livers whose exams validate; without any, all exams train and none validates."""
    workers: int = 1
    """Processes that register exams that are not in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnosisJudge:
    """Validates a run's averaged network, and writes it as a bundle."""

    network: LesionQueries
    recipe: DiagnosisRecipe
    exams: Sequence[TypedExam]
    trained_on: str
    schedule: Schedule
    best: str = BEST

    def figures(self, *, rank: int, processes: int) -> dict[str, Figure]:
        """The figures over all exams, in the first process: they are no means over exams."""
        del processes
        device = next(self.network.parameters()).device
        model = DiagnosisModel(
            settings=self.recipe.model,
            network=self.network.eval(),
            provenance={},
            name="validation",
            device=device,
            precision=find_precision("auto", device),
        )
        return validation_figures(() if rank else self.exams, model)

    def save(self, folder: Path, means: Mapping[str, float], *, step: int) -> None:
        """Writes the bundle with what it was trained on."""
        validation = f"mean AUC {means[BEST]:.3f} over {len(self.exams)} exams" if means and self.exams else "none"
        provenance = {
            "recipe": self.recipe.name,
            "data": self.trained_on,
            "steps": self.schedule.described(step),
            "validation": validation,
            "licence": STATEMENT,
        }
        save_diagnosis_bundle(folder, self.recipe.model, self.network, provenance=provenance)


def train(arguments: Arguments) -> Progress:
    """Runs or resumes a training; the bundles hold averaged weights, `best` those of the best validation."""
    recipe = read_diagnosis_recipe(arguments.recipe)
    schedule = arguments.schedule(steps=recipe.steps, validate_every=recipe.validation.every)
    if arguments.workers < 1:
        raise InputError(f"--workers {arguments.workers}: expected at least 1")
    loop = _begun(arguments, recipe, schedule)
    fabric = loop.learner.fabric
    done = resumed(loop.learner, loop.folder)
    run_log = RunLog(loop.folder, step=done.step) if fabric.is_global_zero else None
    replace(loop, run_log=run_log).run(done)
    if fabric.is_global_zero:
        summary = RunSummary(
            steps=done.step,
            planned_steps=schedule.planned_steps(done),
            minutes=round(done.seconds / 60, 1),
            best_step=done.best_step or None,
            best_mean_auc=round(done.best_score, 4) if done.best_score >= 0 else None,
            skipped_steps=done.bad_steps,
        )
        sum_up(loop.folder, summary)
    # No process ends before all are done.
    fabric.barrier()
    return done


def _begun(arguments: Arguments, recipe: DiagnosisRecipe, schedule: Schedule) -> Loop[WindowBatch]:
    """The parts of a run; its record is written or compared."""
    folder = RunFolder(arguments.output)
    # A batch may lack a phase, whose weights then take no part.
    fabric = launched_for(arguments.device, batch_size=recipe.batch_size, precision=recipe.precision, uses_all=False)
    if not fabric.is_global_zero:
        _log.setLevel(logging.WARNING)
    torch.manual_seed(arguments.seed)
    network = initialised(LesionQueries(recipe.model))
    # One process goes first: it may have to register the exams for all.
    with fabric.rank_zero_first():
        training, held_out = split_hosts(arguments.data, arguments.held_out)
        exams = load_exams(arguments.data, recipe.model, hosts=training, workers=arguments.workers)
        judged = load_exams(arguments.data, recipe.model, hosts=held_out, workers=arguments.workers) if held_out else []
        if fabric.is_global_zero:
            record = DiagnosisRecord(
                recipe=recipe,
                data=described(arguments.data, exams),
                held_out=held_out,
                seed=arguments.seed,
                steps=schedule.steps,
                over_minutes=schedule.over_minutes,
                processes=fabric.world_size,
                versions=package_versions(),
            )
            begin_or_resume(folder, record)
    learner = DiagnosisLearner.of(network, recipe, fabric)
    windows = ExamWindows(exams, recipe, seed=arguments.seed)
    share = Share(rank=fabric.global_rank, processes=fabric.world_size)
    return Loop(
        learner=learner,
        batches=lambda steps: windows.batches(steps, share),
        judge=DiagnosisJudge(
            network=learner.averaged_network,
            recipe=recipe,
            exams=spread(judged, recipe.validation.exams),
            trained_on=f"{arguments.data.name}, {len(exams)} synthetic exams over {', '.join(training)}",
            schedule=schedule,
        ),
        schedule=schedule,
        optimizer=recipe.optimizer,
        losses=LOSSES,
        folder=folder,
        run_log=None,
    )


def main() -> int:
    """Command line; 1 where the recipe or the exams cannot be used."""
    code = run_command(train, Arguments, __doc__)
    end_process(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
