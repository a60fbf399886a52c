"""A run's folder: its record, checkpoint and bundles."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict

import longilesion
from longilesion.bundle import is_bundle
from longilesion.errors import InputError
from longilesion.files import check_archive, valid, written_together
from longilesion.json_file import read_json
from training.differences import differences
from training.recipe import Recipe

_PACKAGES = ("batchgeneratorsv2", "lightning-fabric", "monai", "numpy", "scipy", "torch")


class AnyRunRecord(BaseModel):
    """The record of a run: everything that determines its data order and weights, except the machine; in `run.json`.

    `data` names the data and their contents. The recipe is that of the kind of run. `over_minutes` is the time in which
    its rate falls, None where that goes by steps.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    seed: int
    steps: int
    over_minutes: float | None = None
    processes: int
    versions: dict[str, str]


class RunRecord(AnyRunRecord):
    """The record of a run of `training.train`; `workers` is 0 where the order does not depend on them."""

    recipe: Recipe
    fold: int | None
    weights: str | None
    workers: int


_Record = TypeVar("_Record", bound=AnyRunRecord)


class RunSummary(BaseModel):
    """The result of a finished or interrupted run; without a validation, step and score are None.

    The score is the challenge's Dice, a detector's mean average precision, or a diagnosis' mean AUC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    planned_steps: int
    minutes: float
    best_step: int | None
    best_challenge_dice: float | None = None
    best_mean_average_precision: float | None = None
    best_mean_auc: float | None = None
    skipped_steps: int
    damaged_cut_outs: int = 0


class RunFolder:
    """The paths of a run's files."""

    def __init__(self, path: Path) -> None:
        """Reads and writes nothing."""
        self.path = path
        self.record = path / "run.json"
        self.checkpoint = path / "checkpoint.pt"
        self.best = path / "best"
        self.last = path / "last"
        self.metrics = path / "metrics.csv"
        self.validation = path / "validation.csv"
        self.curve = path / "curve.png"
        self.summary = path / "summary.json"


def package_versions() -> dict[str, str]:
    """Versions of packages that a run's result may depend on."""
    return {"longilesion": longilesion.__version__, **{name: version(name) for name in _PACKAGES}}


def begin_or_resume(folder: RunFolder, record: AnyRunRecord) -> None:
    """Writes the record of a new run; raises InputError where the folder contains another run."""
    if not folder.record.is_file():
        if folder.checkpoint.exists():
            raise InputError(
                f"{folder.checkpoint}: a checkpoint without {folder.record.name}; expected an empty folder"
            )
        with written_together({folder.record: valid(type(record))}) as (temporary,):
            temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return
    # Versions may change while a run is interrupted.
    known, asked = (
        each.model_dump(mode="json", exclude={"versions"}) for each in (record_of(folder, type(record)), record)
    )
    found = list(differences(known, asked))
    if found:
        name, before, now = found[0]
        more = f", and {len(found) - 1} more differ" if len(found) > 1 else ""
        raise InputError(
            f"{folder.path}: begun with {name} = {before}, now {now}{more}; expected the same run, or another --output"
        )


def read_record(folder: RunFolder) -> RunRecord:
    """Reads the record of a run of `training.train`; raises InputError."""
    return record_of(folder, RunRecord)


def record_of(folder: RunFolder, kind: type[_Record]) -> _Record:
    """Reads the record of a run of that kind; raises InputError."""
    return read_json(folder.record, kind, expected="the record of a run of this version")


def write_summary(folder: RunFolder, summary: RunSummary) -> None:
    """Writes a run's summary; raises InputError where that is impossible."""
    with written_together({folder.summary: valid(RunSummary)}) as (temporary,):
        temporary.write_text(summary.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_summary(folder: RunFolder) -> RunSummary:
    """Reads a run's summary; raises InputError."""
    return read_json(folder.summary, RunSummary, expected="the summary of a run")


def is_finished(folder: RunFolder) -> bool:
    """Whether a run is finished, by its summary, which is written last."""
    try:
        summary = read_summary(folder)
    except InputError:
        return False
    return summary.steps == summary.planned_steps and is_bundle(folder.last)


def write_checkpoint(folder: RunFolder, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint as a whole or not at all; raises InputError where that is impossible."""
    with written_together({folder.checkpoint: check_archive}) as (temporary,):
        try:
            torch.save(dict(state), temporary)
        except RuntimeError as error:
            # PyTorch's writer raises this where the disk is full.
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{folder.checkpoint}: cannot be written ({reason}); the checkpoint before is as it was"
            ) from error


def read_checkpoint(folder: RunFolder, device: torch.device) -> dict[str, Any] | None:
    """The state to resume from, None where there is none; raises InputError for a damaged file."""
    if not folder.checkpoint.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(folder.checkpoint, weights_only=True, map_location=device)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        # PyTorch's message is long, and recommends loading without restrictions.
        raise InputError(
            f"{folder.checkpoint}: damaged ({type(error).__name__}); expected a checkpoint of this run"
        ) from error
    return state
