"""Trains one network: `python -m training.train RECIPE --output RUN [--data FOLDER]`.

The folder is a prepared data set (`training.prepare`) or contains CT volumes, on which pairs are synthesised; without
it, phantoms are used. A run resumes from its checkpoint. On several GPUs or machines, start it with `torchrun`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from longilesion.bundle import save_bundle
from longilesion.config import Device
from longilesion.ensemble import find_device
from longilesion.errors import InputError
from longilesion.networks import build_network
from longilesion.networks.interface import LesionNetwork
from training.batch import Batch
from training.command import run_command
from training.learner import LesionLearner, Progress, end_process, launched
from training.loading import Share, batches
from training.loop import Loop, RunOptions, Schedule, resumed, sum_up
from training.optimisation import initialised
from training.pool import pooled
from training.recipe import Recipe, read_recipe
from training.run_folder import RunFolder, RunRecord, RunSummary, begin_or_resume, package_versions
from training.run_log import RunLog
from training.samples import sample_seed
from training.training_data import TrainingData, find_training_data
from training.validation import Figure
from training.weights import load_weights

_log = logging.getLogger("training")


@dataclass(kw_only=True)
class Arguments(RunOptions):
    """Command line of a training run."""

    recipe: tyro.conf.Positional[Path]
    data: Path | None = None
    """A prepared data set, or a folder with one subfolder per CT volume (ct.nii.gz, lesions.nii.gz); else phantoms."""
    shapes: Path | None = None
    """A file of lesion shapes (`training.shapes`) for pairs drawn on the fly, in place of the recipe's."""
    fold: int | None = None
    """Validate on this one of a prepared data set's five folds; LongiNet's 80/20 split if not given."""
    weights: Path | None = None
    """Begin with these weights: a bundle (its first network), one of its files, or an nnU-Net v2 training folder."""
    workers: int = 1
    """Processes that draw lesions. A GPU takes what a dozen of them draw; two CPU cores have time for one."""
    synthesis_device: Device = "cpu"
    """Where the workers draw pairs on the fly: on a GPU, one or two of them do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionJudge:
    """Validates a run's averaged network, and writes it as a bundle."""

    network: LesionNetwork
    recipe: Recipe
    training_data: TrainingData
    schedule: Schedule

    @property
    def best(self) -> str:
        """That of the validation."""
        return self.training_data.validation.best

    def figures(self, *, rank: int, processes: int) -> dict[str, Figure]:
        """Those of the validation."""
        validation = self.training_data.validation
        return validation.figures(self.network, self.recipe.model, rank=rank, processes=processes)

    def save(self, folder: Path, means: Mapping[str, float], *, step: int) -> None:
        """Writes the bundle with what it was trained on."""
        provenance = {
            "recipe": self.recipe.name,
            "data": self.training_data.trained_on,
            "steps": self.schedule.described(step),
            "validation": self.training_data.validation.summary(means) if means else "none",
            "licence": "research use only",
        }
        if self.training_data.licence is not None:
            provenance["data licence"] = self.training_data.licence
        save_bundle(folder, self.recipe.model, [self.network], provenance=provenance)


def train(arguments: Arguments) -> Progress:
    """Runs or resumes a training; the bundles hold averaged weights, `best` those of the best validation."""
    recipe = read_recipe(arguments.recipe).with_shapes(arguments.shapes)
    schedule = arguments.schedule(steps=recipe.steps, validate_every=recipe.validation.every)
    if arguments.workers < 0:
        raise InputError(f"--workers {arguments.workers}: expected at least 0")
    loop = _begun(arguments, recipe, schedule)
    fabric = loop.learner.fabric
    done = resumed(loop.learner, loop.folder)
    run_log = RunLog(loop.folder, step=done.step) if fabric.is_global_zero else None
    replace(loop, run_log=run_log).run(done)
    if fabric.is_global_zero:
        sum_up(loop.folder, _summary(done, recipe, schedule))
    # No process ends before all are done.
    fabric.barrier()
    return done


def _begun(arguments: Arguments, recipe: Recipe, schedule: Schedule) -> Loop[Batch]:
    """The parts of a run; its record is written or compared."""
    folder = RunFolder(arguments.output)
    fabric = launched(recipe, arguments.device)
    if not fabric.is_global_zero:
        _log.setLevel(logging.WARNING)
    torch.manual_seed(arguments.seed)
    network = initialised(build_network(recipe.model))
    if arguments.weights is not None:
        load_weights(network, arguments.weights, recipe.model)
    # One process goes first: it may have to cut out the lesions for all.
    with fabric.rank_zero_first():
        training_data = find_training_data(
            arguments.data,
            recipe,
            fold=arguments.fold,
            seed=arguments.seed,
            workers=max(arguments.workers, 1),
            synthesis_device=find_device(arguments.synthesis_device),
        )
        if fabric.is_global_zero:
            record = RunRecord(
                recipe=recipe,
                data=training_data.contents,
                fold=arguments.fold,
                seed=arguments.seed,
                steps=schedule.steps,
                over_minutes=schedule.over_minutes,
                weights=None if arguments.weights is None else str(arguments.weights),
                processes=fabric.world_size,
                workers=arguments.workers if training_data.lesions.drawn_together > 1 else 0,
                versions=package_versions(),
            )
            begin_or_resume(folder, record)
    learner = LesionLearner.of(network, recipe, fabric)
    share = Share(rank=fabric.global_rank, processes=fabric.world_size, workers=arguments.workers)

    def taken(steps: range) -> Iterator[Batch]:
        drawn = batches(training_data.lesions, recipe.drawn(), share, steps=steps)
        if not recipe.data.pool:
            return drawn
        seed = sample_seed(arguments.seed, fabric.global_rank)
        return pooled(drawn, recipe, device=fabric.device, seed=seed, first_step=steps.start)

    return Loop(
        learner=learner,
        batches=taken,
        judge=LesionJudge(
            network=learner.averaged_network, recipe=recipe, training_data=training_data, schedule=schedule
        ),
        schedule=schedule,
        optimizer=recipe.optimizer,
        losses=("outline", "presence", "reconstruction"),
        folder=folder,
        run_log=None,
    )


def _summary(done: Progress, recipe: Recipe, schedule: Schedule) -> RunSummary:
    best = round(done.best_score, 4) if done.best_score >= 0 else None
    is_detector = recipe.task == "detection"
    return RunSummary(
        steps=done.step,
        planned_steps=schedule.planned_steps(done),
        minutes=round(done.seconds / 60, 1),
        best_step=done.best_step or None,
        best_challenge_dice=None if is_detector else best,
        best_mean_average_precision=best if is_detector else None,
        skipped_steps=done.bad_steps,
        damaged_cut_outs=done.skipped,
    )


def main() -> int:
    """Command line; 1 where the recipe or the data cannot be used."""
    code = run_command(train, Arguments, __doc__)
    end_process(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
