"""Network, optimiser and weight average, and one training step, in one process or several."""

from __future__ import annotations

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from longilesion.config import Device
from longilesion.ensemble import find_device, find_precision
from longilesion.errors import InputError, LongilesionError
from longilesion.networks.interface import LesionNetwork
from longilesion.startup import lasting_imports
from training.batch import Batch
from training.losses import counted_samples
from training.optimisation import Objective, averaged, build_optimizer
from training.recipe import LossSettings, OptimizerSettings, Precision, Recipe
from training.shallow import ShallowInFloat32
from training.sharpness import sharpness_aware_gradients

with lasting_imports():
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

_log = logging.getLogger("training")

# A single bad batch is skipped; this many in a row mean that the weights have diverged. Half precision needs some
# skipped steps to find its scale.
_BAD_IN_A_ROW = 30
# Timeout of processes that wait for each other: one of them may be cutting out the lesions of a large data set.
_PATIENCE = timedelta(hours=2)
# The process group, kept until `end_process`.
_NEVER_FREED: list[nn.Module] = []


@runtime_checkable
class StepBatch(Protocol):
    """What a step is made of; `skipped` lists damaged cut-outs that were replaced by others."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Their files, with what is wrong with them."""


_Batch = TypeVar("_Batch", bound=StepBatch, contravariant=True)


class TrainingError(LongilesionError):
    """A run that cannot continue."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """Progress of a run: everything in a checkpoint that is no tensor. `sums` are those since the last report."""

    step: int = 0
    seconds: float = 0.0
    bad_steps: int = 0
    bad_in_a_row: int = 0
    skipped: int = 0
    best_step: int = 0
    best_score: float = -1.0
    sums: dict[str, float] = field(default_factory=dict)

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> Progress:
        """The progress of a checkpoint; up to version 0.2, the score was always a Dice and was called so."""
        known = {"best_score" if name == "best_dice" else name: value for name, value in saved.items()}
        return cls(**known)

    def add(self, figures: Mapping[str, float]) -> None:
        """Adds a step's figures to the sums."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The weighted parts of a loss, and what a step does once, with its first pass, when all passes are over."""

    parts: dict[str, torch.Tensor]
    then: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner(ABC, Generic[_Batch]):
    """The training state: network, objective wrapped for the device, optimiser, average of weights.

    `sharpness` is the radius of sharpness-aware minimisation, 0 for none.
    """

    fabric: Fabric
    network: nn.Module
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel
    gradient_clip: float
    sharpness: float

    def state(self) -> dict[str, Any]:
        """All tensors needed to resume a run."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a result of `state`."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        # Half precision has a scale; a checkpoint of another precision has none.
        if state["precision"]:
            self.fabric.strategy.precision.load_state_dict(state["precision"])

    def step(self, batch: _Batch, done: Progress, *, rate: float) -> None:
        """One step of the optimiser; it is skipped where gradients are not finite.

        The gradients are those of all processes, so that all decide alike. Raises TrainingError where nearly all
        steps are skipped.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.objective.train()
        first = sharpness_aware_gradients(lambda: self._pass(batch), self.network.parameters(), rho=self.sharpness)
        first.then()
        loss = float(torch.stack(list(first.parts.values())).sum())
        total = self.fabric.clip_gradients(
            self.objective, self.optimizer, max_norm=self.gradient_clip, error_if_nonfinite=False
        )
        norm = float("nan") if total is None else float(total)
        is_good = norm < float("inf")
        # Half precision's scaler skips a bad step by itself, and has to process it to lower its scale.
        if is_good or self.fabric.strategy.precision.precision == "16-mixed":
            self.optimizer.step()
        if is_good:
            done.bad_in_a_row = 0
            self.average.update_parameters(self.network)
            figures = {name: float(part) for name, part in first.parts.items()}
            done.add({"good": 1.0, "loss": loss, "gradient_norm": norm, **figures})
        else:
            _note_bad_step(done, loss)
        for name in batch.skipped:
            done.skipped += 1
            _log.warning("step %d: %s; another lesion takes its place", done.step + 1, name)
        done.step += 1

    def _pass(self, batch: _Batch) -> Pass:
        """Forward and backward; leaves the gradients."""
        with ShallowInFloat32():
            found = self._losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(torch.stack(list(found.parts.values())).sum())
        return replace(found, parts={name: part.detach() for name, part in found.parts.items()})

    @abstractmethod
    def _losses(self, batch: _Batch) -> Pass:
        """The parts of the loss of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionLearner(Learner[Batch]):
    """The training state of a network of `longilesion.networks.NETWORKS`."""

    loss: LossSettings

    @classmethod
    def of(cls, network: LesionNetwork, recipe: Recipe, fabric: Fabric) -> LesionLearner:
        """Moves a network to this process' device and sets up objective, optimiser and average."""
        objective, optimizer = set_up(fabric, network, Objective(network, recipe.loss), recipe.optimizer)
        return cls(
            fabric=fabric,
            network=network,
            objective=objective,
            optimizer=optimizer,
            average=averaged(network, recipe.average_decay),
            gradient_clip=recipe.optimizer.gradient_clip,
            sharpness=recipe.optimizer.sharpness,
            loss=recipe.loss,
        )

    @property
    def averaged_network(self) -> LesionNetwork:
        """The network with averaged weights."""
        return cast("LesionNetwork", self.average.module)

    def _losses(self, batch: Batch) -> Pass:
        counts = counted_samples(batch, self.loss, parts=cast("LesionNetwork", self.network).loss_parts)
        shared = over_processes(self.fabric, counts.values(), how="mean")
        parts: dict[str, torch.Tensor] = self.objective(
            batch.input.tensors(), batch.target, batch.present, dict(zip(counts, shared, strict=True))
        )
        return Pass(parts=parts)


def set_up(
    fabric: Fabric, network: nn.Module, objective: nn.Module, settings: OptimizerSettings
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The objective, which contains the network, wrapped for this process' device, and the network's optimiser."""
    # Several processes exchange gradients in buckets that support no other memory layout.
    if fabric.device.type == "cpu" and fabric.world_size == 1:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    wrapped, optimizer = fabric.setup(objective, build_optimizer(network, settings))
    if fabric.world_size > 1:
        _NEVER_FREED.append(wrapped)
    return wrapped, optimizer


def over_processes(fabric: Fabric, values: Iterable[float], *, how: Literal["mean", "sum"]) -> list[float]:
    """The means or the sums of figures over all processes."""
    shared = fabric.all_reduce(torch.tensor(list(values), dtype=torch.float64).to(fabric.device), reduce_op=how)
    listed: list[float] = torch.as_tensor(shared).tolist()
    return listed


def launched(recipe: Recipe, device: Device) -> Fabric:
    """Fabric for a recipe of `training.train`."""
    return launched_for(
        device,
        batch_size=recipe.drawn().batch_size,
        precision=recipe.precision,
        uses_all=recipe.loss.deep_supervision,
    )


def launched_for(device: Device, *, batch_size: int, precision: Precision, uses_all: bool) -> Fabric:
    """Fabric for this process, or for those that `torchrun` has started.

    `uses_all` says that every parameter takes part in every step. Raises InputError where a batch cannot be divided
    among the processes.
    """
    # Its messages on precision and environment repeat the recipe.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    chosen = find_device(device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % processes:
        raise InputError(f"{processes} processes for batches of {batch_size}; expected a divisor of that")
    fabric = Fabric(
        accelerator=chosen.type,
        devices=local,
        num_nodes=processes // local,
        strategy=DDPStrategy(timeout=_PATIENCE, find_unused_parameters=not uses_all) if processes > 1 else "auto",
        precision=_precision(precision, chosen),
    )
    fabric.launch()
    return fabric


def end_process(code: int) -> None:
    """Ends this process at once where it is one of several; otherwise does nothing.

    Python's normal exit frees memory that gloo's threads still use, which leads to a deadlock.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _precision(asked: Precision, device: torch.device) -> Precision:
    """The recipe's precision, or on a CPU the one that it multiplies fast."""
    if device.type == "cuda" or asked == "32-true":
        return asked
    return "bf16-mixed" if find_precision("auto", device) == torch.bfloat16 else "32-true"


def _note_bad_step(done: Progress, loss: float) -> None:
    done.bad_steps += 1
    done.bad_in_a_row += 1
    _log.warning("step %d: loss %.3g, its gradients are no numbers; skipped", done.step + 1, loss)
    if done.bad_in_a_row >= _BAD_IN_A_ROW:
        raise TrainingError(
            f"step {done.step + 1}: gradients that are no numbers in {_BAD_IN_A_ROW} steps in a row; expected a lower "
            "learning rate, or weights of an earlier run to begin with"
        )
