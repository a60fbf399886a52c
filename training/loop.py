"""The loop of a training run: steps, reports, validations, checkpoints, and a stop on request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table

from longilesion.config import Device
from longilesion.errors import InputError
from training.learner import Progress, over_processes
from training.optimisation import learning_rate
from training.parallel import progress_bar
from training.recipe import OptimizerSettings
from training.run_folder import RunFolder, RunSummary, read_checkpoint, write_checkpoint, write_summary
from training.run_log import RunLog
from training.stopping import stop_signals, until_asked
from training.validation import Figure

_log = logging.getLogger("training")


@runtime_checkable
class MovableBatch(Protocol):
    """A batch that can be moved to a device."""

    def to(self, device: torch.device) -> MovableBatch:
        """The same batch there."""


B = TypeVar("B", bound=MovableBatch)
_B = TypeVar("_B", contravariant=True)


@runtime_checkable
class StepLearner(Protocol[_B]):
    """What a run trains: it makes steps, and its state can be saved and restored."""

    @property
    def fabric(self) -> Fabric:
        """The processes of the run."""

    def step(self, batch: _B, done: Progress, *, rate: float) -> None:
        """One step of the optimiser."""

    def state(self) -> dict[str, Any]:
        """All tensors needed to resume a run."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a result of `state`."""


@runtime_checkable
class Judge(Protocol):
    """Validates the averaged weights of a run, and writes them as a bundle."""

    @property
    def best(self) -> str:
        """The figure by which the best weights are chosen."""

    def figures(self, *, rank: int, processes: int) -> dict[str, Figure]:
        """The figures of this process' share, the same ones in every process; their sums are those of all."""

    def save(self, folder: Path, means: Mapping[str, float], *, step: int) -> None:
        """Writes the bundle; there are no means where the weights are not validated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a run reports, validates, saves and ends; all but minutes in steps.

    It stops after `minutes`, to be resumed. With `over_minutes` it is done after so many, and its rate falls with time.
    """

    steps: int
    minutes: float
    over_minutes: float | None = None
    log_every: int
    checkpoint_every: int
    validate_every: int

    def described(self, step: int) -> str:
        """How far a run is at a step, for the record of its weights."""
        return f"{step} of {self.steps}" if self.over_minutes is None else f"{step} in {self.over_minutes:g} minutes"

    def planned_steps(self, done: Progress) -> int:
        """The steps that a run has when it is done: where its time is over, those that it has made."""
        return done.step if self.share_done(done) >= 1 else self.steps

    def share_done(self, done: Progress) -> float:
        """How much of the run is done, from 0 to 1."""
        if self.over_minutes is None or done.step >= self.steps:
            return done.step / self.steps
        return min(done.seconds / 60 / self.over_minutes, 1.0)


@dataclass(kw_only=True)
class RunOptions:
    """What every command that trains takes."""

    output: Path
    """Folder of the run: checkpoint, logs, curve, and the bundles `best` and `last`."""
    steps: int | None = None
    """Train for fewer steps than the recipe says; the learning rate's decay follows."""
    minutes: float = float("inf")
    """Stop after this time with a checkpoint, to be resumed later."""
    over_minutes: float | None = None
    """Let the rate fall with time, not with steps, and be done after so many minutes: for a machine that is lent."""
    checkpoint_every: int = 250
    """Steps; what a run that is killed has to do again at most."""
    log_every: int = 50
    """Steps, of which the logs hold the means."""
    seed: int = 0
    device: Device = "auto"

    def schedule(self, *, steps: int, validate_every: int) -> Schedule:
        """The schedule for a recipe; raises InputError for an option that makes no sense."""
        wanted = steps if self.steps is None else self.steps
        for name, value, least in (
            ("steps", wanted, 1),
            ("checkpoint-every", self.checkpoint_every, 1),
            ("log-every", self.log_every, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise InputError(f"--{name} {value}: expected at least {least}")
        if self.over_minutes is not None and not 0 < self.over_minutes < float("inf"):
            raise InputError(f"--over-minutes {self.over_minutes:g}: expected more than 0")
        return Schedule(
            steps=wanted,
            minutes=self.minutes,
            over_minutes=self.over_minutes,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            validate_every=validate_every,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop(Generic[B]):
    """The constant parts of a run; only one process writes the log.

    `losses` are the parts of the loss, by the names that the learner adds to the progress.
    """

    learner: StepLearner[B]
    # The batches of this process for those steps.
    batches: Callable[[range], Iterator[B]]
    judge: Judge
    schedule: Schedule
    optimizer: OptimizerSettings
    losses: tuple[str, ...]
    folder: RunFolder
    run_log: RunLog | None

    def run(self, done: Progress) -> None:
        """Trains up to the last step, the time limit, or a request to stop."""
        fabric, schedule = self.learner.fabric, self.schedule
        begun, before = time.monotonic(), done.seconds
        with stop_signals() as asked, progress_bar(visible=fabric.is_global_zero) as bar:
            stream = self.batches(range(done.step, schedule.steps))
            if fabric.world_size == 1:
                # One of several processes must not leave the others waiting for its part of a step.
                stream = until_asked(asked, stream)
            task = bar.add_task("training", total=schedule.steps, completed=done.step, note="")
            share = self._share_done(done)
            while share < 1:
                waiting = time.monotonic()
                batch = next(stream, None)
                waited = time.monotonic() - waiting
                if batch is None:
                    # A stop was requested, and there are no more batches.
                    self._save(done)
                    self._keep_last(done)
                    break
                rate = learning_rate(done.step, share, self.optimizer)
                self.learner.step(batch.to(fabric.device), done, rate=rate)  # type: ignore[arg-type]
                done.seconds = before + time.monotonic() - begun
                done.add({"steps": 1.0, "seconds": time.monotonic() - waiting, "waiting": waited})
                share = self._share_done(done)
                is_last = share >= 1
                if done.step % schedule.log_every == 0 or is_last:
                    bar.update(task, note=self._report(done, rate=rate))
                if done.step % schedule.validate_every == 0 or is_last:
                    self._validate(done)
                # A stop requested from one process stops all.
                is_over = bool(asked) or done.seconds - before > 60 * schedule.minutes
                late = any(over_processes(fabric, [is_over], how="sum"))
                if done.step % schedule.checkpoint_every == 0 or is_last or late:
                    self._save(done)
                bar.advance(task)
                if late and not is_last:
                    self._keep_last(done)
                    _log.info(
                        "stopped at step %d after %.0f minutes; run again to resume", done.step, done.seconds / 60
                    )
                    break
        done.skipped = round(over_processes(fabric, [done.skipped], how="sum")[0])
        if self.run_log is not None:
            self.run_log.close()

    def _report(self, done: Progress, *, rate: float) -> str:
        """Logs the means since the last report, over all processes; returns the losses for the progress bar."""
        sums, done.sums = done.sums, {}
        # Of the loss, over the steps that were not skipped.
        names = ("loss", *self.losses, "gradient_norm")
        means = {name: sums[name] / sums["good"] if name in sums else float("nan") for name in names}
        means |= {
            "learning_rate": rate,
            "seconds": sums["seconds"] / sums["steps"],
            "waiting": sums["waiting"] / max(sums["seconds"], 1e-9),
        }
        shared = over_processes(self.learner.fabric, means.values(), how="mean")
        figures = dict(zip(means, shared, strict=True))
        said = "  ".join(f"{name} {figures[name]:.3f}" for name in self.losses if not isnan(figures[name]))
        if self.run_log is not None:
            self.run_log.training(done.step, figures)
        _log.info("step %d of %d  %s  %.2f s a step", done.step, self.schedule.steps, said, figures["seconds"])
        return said

    def _validate(self, done: Progress) -> None:
        """Validates the averaged weights, each process its share, and keeps them if they are the best."""
        fabric, judge = self.learner.fabric, self.judge
        figures = judge.figures(rank=fabric.global_rank, processes=fabric.world_size)
        totals = over_processes(fabric, (figure.total for figure in figures.values()), how="sum")
        counts = over_processes(fabric, (figure.count for figure in figures.values()), how="sum")
        means = {
            name: Figure(total=total, count=count).mean
            for name, total, count in zip(figures, totals, counts, strict=True)
        }
        if self.run_log is None:
            return
        self.run_log.validation(done.step, means)
        said = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        _log.info("validation at step %d: %s", done.step, said)
        judge.save(self.folder.last, means, step=done.step)
        # Of equal ones the later is kept, as it was trained longer; also without a lesion in the validation.
        score = -1.0 if isnan(means[judge.best]) else means[judge.best]
        if score >= done.best_score:
            done.best_score, done.best_step = score, done.step
            judge.save(self.folder.best, means, step=done.step)

    def _share_done(self, done: Progress) -> float:
        """How much of the run is done, the same in all processes."""
        return over_processes(self.learner.fabric, [self.schedule.share_done(done)], how="mean")[0]

    def _keep_last(self, done: Progress) -> None:
        """Writes the averaged weights of a run that is stopped, unless it has just validated and written them."""
        if self.run_log is not None and done.step % self.schedule.validate_every:
            self.judge.save(self.folder.last, {}, step=done.step)

    def _save(self, done: Progress) -> None:
        """Writes a checkpoint with the sums of all processes."""
        fabric = self.learner.fabric
        progress = asdict(done)
        progress["sums"] = dict(zip(done.sums, over_processes(fabric, done.sums.values(), how="mean"), strict=True))
        progress["skipped"] = round(over_processes(fabric, [done.skipped], how="sum")[0])
        if self.run_log is not None:
            write_checkpoint(self.folder, {**self.learner.state(), "progress": progress})
        fabric.barrier()


def resumed(learner: StepLearner[B], folder: RunFolder) -> Progress:
    """Restores a learner and its progress from a run's checkpoint, if any; raises InputError for one of another run."""
    state = read_checkpoint(folder, learner.fabric.device)
    if state is None:
        return Progress()
    try:
        learner.restore(state)
        done = Progress.restored(state["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder.checkpoint}: {reason}; expected a checkpoint of this run") from error
    if not learner.fabric.is_global_zero:
        # The first process has the sums of all.
        done.skipped = 0
    _log.info("resumed from step %d", done.step)
    return done


def sum_up(folder: RunFolder, summary: RunSummary) -> None:
    """Writes and prints the result of a run."""
    write_summary(folder, summary)
    table = Table(title=f"run in {folder.path}", show_header=False)
    for name, value in summary:
        table.add_row(name.replace("_", " "), "-" if value is None else str(value))
    Console().print(table)
