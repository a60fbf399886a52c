"""Trains one network: `python -m training.train RECIPE --output RUN [--data FOLDER]`.

The folder is a prepared data set (`training.prepare`) or contains CT volumes, on which pairs are synthesised; without
it, phantoms are used. A run resumes from its checkpoint. On several GPUs or machines, start it with `torchrun`.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from longilesion.bundle import save_bundle
from longilesion.config import Device
from longilesion.ensemble import find_device
from longilesion.errors import InputError
from longilesion.networks import build_network
from training.command import run_command
from training.learner import Learner, Progress, end_process, launched, over_processes
from training.loading import Share, batches
from training.optimisation import initialised, learning_rate
from training.parallel import progress_bar
from training.recipe import Recipe, read_recipe
from training.run_folder import (
    RunFolder,
    RunRecord,
    RunSummary,
    begin_or_resume,
    package_versions,
    read_checkpoint,
    write_checkpoint,
    write_summary,
)
from training.run_log import RunLog
from training.stopping import stop_signals, until_asked
from training.training_data import TrainingData, find_training_data
from training.validation import Figure
from training.weights import load_weights

_log = logging.getLogger("training")

# Means over the steps that were not skipped.
_MEANS = ("loss", "outline", "presence", "reconstruction", "gradient_norm")


@dataclass
class Arguments:
    """Command line of a training run."""

    recipe: tyro.conf.Positional[Path]
    output: Path
    """Folder of the run: checkpoint, logs, curve, and the bundles `best` and `last`."""
    data: Path | None = None
    """A prepared data set, or a folder with one subfolder per CT volume (ct.nii.gz, lesions.nii.gz); else phantoms."""
    shapes: Path | None = None
    """A file of lesion shapes (`training.shapes`) for pairs drawn on the fly, in place of the recipe's."""
    fold: int | None = None
    """Validate on this one of a prepared data set's five folds; LongiNet's 80/20 split if not given."""
    weights: Path | None = None
    """Begin with these weights: a bundle, or an nnU-Net v2 training folder."""
    steps: int | None = None
    """Train for fewer steps than the recipe says; the learning rate's decay follows."""
    minutes: float = float("inf")
    """Stop after this time with a checkpoint, to be resumed later."""
    checkpoint_every: int = 250
    """Steps; what a run that is killed has to do again at most."""
    log_every: int = 50
    """Steps, of which the logs hold the means."""
    seed: int = 0
    workers: int = 1
    """Processes that draw lesions. A GPU takes what a dozen of them draw; two CPU cores have time for one."""
    device: Device = "auto"
    synthesis_device: Device = "cpu"
    """Where the workers draw pairs on the fly: on a GPU, one or two of them do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The constant parts of a run; only one process writes the log."""

    recipe: Recipe
    steps: int
    training_data: TrainingData
    folder: RunFolder
    learner: Learner
    run_log: RunLog | None


def train(arguments: Arguments) -> Progress:
    """Runs or resumes a training; the bundles hold averaged weights, `best` those of the best validation."""
    run, done = _begun(arguments)
    fabric = run.learner.fabric
    share = Share(rank=fabric.global_rank, processes=fabric.world_size, workers=arguments.workers)
    begun, before = time.monotonic(), done.seconds
    with stop_signals() as asked, progress_bar(visible=fabric.is_global_zero) as bar:
        stream = batches(run.training_data.lesions, run.recipe, share, steps=range(done.step, run.steps))
        if fabric.world_size == 1:
            # One of several processes must not leave the others waiting for its part of a step.
            stream = until_asked(asked, stream)
        task = bar.add_task("training", total=run.steps, completed=done.step, note="")
        while done.step < run.steps:
            waiting = time.monotonic()
            batch = next(stream, None)
            waited = time.monotonic() - waiting
            if batch is None:
                # A stop was requested, and there are no more batches.
                _save(run, done)
                break
            rate = learning_rate(done.step, run.steps, run.recipe.optimizer)
            run.learner.step(batch.to(fabric.device), done, rate=rate)
            done.seconds = before + time.monotonic() - begun
            done.add({"steps": 1.0, "seconds": time.monotonic() - waiting, "waiting": waited})
            is_last = done.step == run.steps
            if done.step % arguments.log_every == 0 or is_last:
                bar.update(task, note=_report(run, done, rate=rate))
            if done.step % run.recipe.validation.every == 0 or is_last:
                _judge(run, done)
            # A stop requested from one process stops all.
            is_over = bool(asked) or done.seconds - before > 60 * arguments.minutes
            late = any(over_processes(fabric, [is_over], how="sum"))
            if done.step % arguments.checkpoint_every == 0 or is_last or late:
                _save(run, done)
            bar.advance(task)
            if late and not is_last:
                _log.info("stopped at step %d after %.0f minutes; run again to resume", done.step, done.seconds / 60)
                break
    done.skipped = round(over_processes(fabric, [done.skipped], how="sum")[0])
    if run.run_log is not None:
        run.run_log.close()
        _sum_up(run, done)
    # No process ends before all are done.
    fabric.barrier()
    return done


def _begun(arguments: Arguments) -> tuple[Run, Progress]:
    """The parts of a run, and its progress."""
    for name, least in (("steps", 1), ("checkpoint_every", 1), ("log_every", 1), ("workers", 0), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected at least {least}")
    recipe = read_recipe(arguments.recipe).with_shapes(arguments.shapes)
    folder = RunFolder(arguments.output)
    fabric = launched(recipe, arguments.device)
    if not fabric.is_global_zero:
        _log.setLevel(logging.WARNING)
    steps = arguments.steps or recipe.steps
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
                steps=steps,
                weights=None if arguments.weights is None else str(arguments.weights),
                processes=fabric.world_size,
                workers=arguments.workers if training_data.lesions.drawn_together > 1 else 0,
                versions=package_versions(),
            )
            begin_or_resume(folder, record)
    learner = Learner.of(network, recipe, fabric)
    done = Progress()
    state = read_checkpoint(folder, fabric.device)
    if state is not None:
        try:
            learner.restore(state)
            done = Progress.restored(state["progress"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{folder.checkpoint}: {reason}; expected a checkpoint of this run") from error
        if not fabric.is_global_zero:
            # The first process has the sums of all.
            done.skipped = 0
        _log.info("resumed from step %d", done.step)
    run_log = RunLog(folder, step=done.step) if fabric.is_global_zero else None
    run = Run(recipe=recipe, steps=steps, training_data=training_data, folder=folder, learner=learner, run_log=run_log)
    return run, done


def _report(run: Run, done: Progress, *, rate: float) -> str:
    """Logs the means since the last report, over all processes; returns the losses for the progress bar."""
    sums, done.sums = done.sums, {}
    means = {name: sums[name] / sums["good"] if name in sums else float("nan") for name in _MEANS}
    means |= {
        "learning_rate": rate,
        "seconds": sums["seconds"] / sums["steps"],
        "waiting": sums["waiting"] / max(sums["seconds"], 1e-9),
    }
    shared = over_processes(run.learner.fabric, means.values(), how="mean")
    figures = dict(zip(means, shared, strict=True))
    said = "  ".join(
        f"{name} {figures[name]:.3f}"
        for name in ("outline", "presence", "reconstruction")
        if figures[name] == figures[name]
    )
    if run.run_log is not None:
        run.run_log.training(done.step, figures)
    _log.info("step %d of %d  %s  %.2f s a step", done.step, run.steps, said, figures["seconds"])
    return said


def _judge(run: Run, done: Progress) -> None:
    """Validates the averaged weights, each process its share of the cases, and keeps them if they are the best."""
    fabric, network = run.learner.fabric, run.learner.averaged_network
    validation = run.training_data.validation
    figures = validation.figures(network, run.recipe.model, rank=fabric.global_rank, processes=fabric.world_size)
    totals = over_processes(fabric, (figure.total for figure in figures.values()), how="sum")
    counts = over_processes(fabric, (figure.count for figure in figures.values()), how="sum")
    means = {
        name: Figure(total=total, count=count).mean for name, total, count in zip(figures, totals, counts, strict=True)
    }
    if run.run_log is None:
        return
    run.run_log.validation(done.step, means)
    _log.info("validation at step %d: %s", done.step, "  ".join(f"{name} {value:.3f}" for name, value in means.items()))
    provenance = {
        "recipe": run.recipe.name,
        "data": run.training_data.trained_on,
        "steps": f"{done.step} of {run.steps}",
        "validation": validation.summary(means),
        "licence": "research use only",
    }
    if run.training_data.licence is not None:
        provenance["data licence"] = run.training_data.licence
    save_bundle(run.folder.last, run.recipe.model, [network], provenance=provenance)
    # Of equal ones the later is kept, as it was trained longer; also without a lesion in the validation.
    score = -1.0 if isnan(means[validation.best]) else means[validation.best]
    if score >= done.best_score:
        done.best_score, done.best_step = score, done.step
        save_bundle(run.folder.best, run.recipe.model, [network], provenance=provenance)


def _save(run: Run, done: Progress) -> None:
    """Writes a checkpoint with the sums of all processes."""
    fabric = run.learner.fabric
    progress = asdict(done)
    progress["sums"] = dict(zip(done.sums, over_processes(fabric, done.sums.values(), how="mean"), strict=True))
    progress["skipped"] = round(over_processes(fabric, [done.skipped], how="sum")[0])
    if run.run_log is not None:
        write_checkpoint(run.folder, {**run.learner.state(), "progress": progress})
    fabric.barrier()


def _sum_up(run: Run, done: Progress) -> None:
    best = round(done.best_score, 4) if done.best_score >= 0 else None
    is_detector = run.recipe.task == "detection"
    summary = RunSummary(
        steps=done.step,
        planned_steps=run.steps,
        minutes=round(done.seconds / 60, 1),
        best_step=done.best_step or None,
        best_challenge_dice=None if is_detector else best,
        best_mean_average_precision=best if is_detector else None,
        skipped_steps=done.bad_steps,
        damaged_cut_outs=done.skipped,
    )
    write_summary(run.folder, summary)
    table = Table(title=f"run in {run.folder.path}", show_header=False)
    for name, value in summary:
        table.add_row(name.replace("_", " "), "-" if value is None else str(value))
    Console().print(table)


def main() -> int:
    """Command line; 1 where the recipe or the data cannot be used."""
    code = run_command(train, Arguments, __doc__)
    end_process(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
