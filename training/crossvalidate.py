"""Trains a network per fold, evaluates them out of fold, and exports them together.

`python -m training.crossvalidate RECIPE --data PREPARED --output CV` writes a run per fold to CV/fold_k, the evaluation
to CV/out_of_fold and the ensemble to CV/model and CV/model.tar.gz. Run it again to resume. Folds that were trained
elsewhere, with `training.train --fold k`, are put into CV/fold_k; `--collect` then trains nothing.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console

from longilesion.bundle import is_bundle
from longilesion.config import Device, ModelSettings
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.exam import ScoringSettings
from longilesion.evaluation.folders import ExamFiles, find_exams
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.methods import FilesMethod
from longilesion.evaluation.run import evaluate_methods
from longilesion.evaluation.tables import to_rich
from longilesion.grand_challenge import write_outputs
from longilesion.networks import build_network
from longilesion.pipeline import segment_case
from longilesion.report import make_report, write_report
from training import presence, train
from training.command import run_command
from training.differences import differences
from training.export import Arguments as ExportArguments
from training.export import export
from training.members import presence_bundle
from training.model_card import OUT_OF_FOLD
from training.parallel import progress_bar
from training.preparation.prepared import (
    PreparedCase,
    PreparedData,
    read_dataset_file,
    read_prepared,
    read_prepared_case,
)
from training.recipe import PresenceSettings, Recipe, read_recipe
from training.run_folder import RunFolder, is_finished, read_record
from training.training_data import prepared_contents

_log = logging.getLogger("training")

_REPORT = "report.json"


@dataclass
class Arguments:
    """Command line of a cross-validation."""

    recipe: tyro.conf.Positional[Path]
    data: Path
    """A prepared data set."""
    output: Path
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Which folds to train, judge and export."""
    collect: bool = False
    """Train nothing: all folds have to be there, trained to their end."""
    presence: bool = True
    """Fit each network's presence head, if it has one, further, on its own training data."""
    weights: Path | None = None
    """Begin each fold with these weights, as for training.train."""
    steps: int | None = None
    """Train for fewer steps than the recipe says."""
    minutes: float = float("inf")
    """Stop training after this time with a checkpoint, to be resumed later."""
    seed: int = 0
    workers: int = 1
    """Processes that draw lesions, as for training.train."""
    device: Device = "auto"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """A fold: its run, and the cases whose patients are not in its training data."""

    number: int
    run: RunFolder
    held_out: tuple[PreparedCase, ...]


def cross_validate(arguments: Arguments) -> Path | None:
    """Returns the exported model's tarball; None where training was interrupted.

    Raises InputError where a fold is missing, unfinished (with `collect`), or belongs to another run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "several processes; expected one: train each fold with torchrun -m training.train, then --collect"
        )
    recipe = read_recipe(arguments.recipe)
    arguments = replace(arguments, presence=arguments.presence and _has_presence(recipe.model))
    data = read_prepared(arguments.data)
    folds = _folds(arguments, recipe, data)
    if not _all_trained(folds, arguments):
        return None
    bundles = [_judge(fold, arguments) for fold in folds]
    threshold = _sum_up(folds, bundles, arguments, recipe.presence)
    return export(
        ExportArguments(
            bundles=tuple(bundles),
            output=arguments.output / "model",
            name=recipe.name,
            data_licence=read_dataset_file(data.folder).licence,
            evaluation=arguments.output / "out_of_fold" / "evaluation.json",
            presence_threshold=threshold,
        )
    )


def _has_presence(settings: ModelSettings) -> bool:
    """Whether the settings' network has a presence head; it is built without memory for its weights."""
    with torch.device("meta"):
        return build_network(settings).presence is not None


def train_folds(arguments: Arguments) -> bool:
    """Trains the folds that are not trained yet, and judges none; returns false where training was interrupted."""
    return _all_trained(_folds(arguments, read_recipe(arguments.recipe), read_prepared(arguments.data)), arguments)


def _folds(arguments: Arguments, recipe: Recipe, data: PreparedData) -> list[Fold]:
    """The requested folds, each once; raises InputError where a fold's folder belongs to another run."""
    folds = []
    for number in sorted(set(arguments.folds)):
        seen, held_out = data.split(number)
        run = RunFolder(arguments.output / f"fold_{number}")
        if run.record.is_file():
            record = read_record(run).model_dump(mode="json")
            wanted = {
                "recipe": recipe.model_dump(mode="json"),
                "data": prepared_contents(data, seen),
                "fold": number,
                "steps": arguments.steps or recipe.steps,
                "seed": arguments.seed,
                "weights": None if arguments.weights is None else str(arguments.weights),
            }
            for name, found, expected in differences({key: record[key] for key in wanted}, wanted):
                raise InputError(f"{run.record}: {name} = {found}; expected {expected}, as in this cross-validation")
        folds.append(Fold(number=number, run=run, held_out=held_out))
    if not folds:
        raise InputError("--folds names none; expected at least one")
    return folds


def _all_trained(folds: Sequence[Fold], arguments: Arguments) -> bool:
    """Trains unfinished folds, one after the other; returns false where training was interrupted."""
    begun = time.monotonic()
    for fold in folds:
        if is_finished(fold.run):
            _log.info("fold %d is trained", fold.number)
            continue
        if arguments.collect:
            found = "not trained to its end" if fold.run.record.is_file() else "no run of fold"
            raise InputError(f"{fold.run.path}: {found} {fold.number}; expected one to collect")
        _log.info("training fold %d", fold.number)
        train.train(
            train.Arguments(
                recipe=arguments.recipe,
                output=fold.run.path,
                data=arguments.data,
                fold=fold.number,
                weights=arguments.weights,
                steps=arguments.steps,
                minutes=arguments.minutes - (time.monotonic() - begun) / 60,
                seed=arguments.seed,
                workers=arguments.workers,
                device=arguments.device,
            )
        )
        if not is_finished(fold.run):
            return False
    return True


def _judge(fold: Fold, arguments: Arguments) -> Path:
    """Fits the presence head on request, and segments the fold's held-out cases; returns the bundle."""
    bundle = presence_bundle(fold.run) if arguments.presence else fold.run.last
    if not is_bundle(bundle):
        _log.info("fitting the presence head of fold %d", fold.number)
        presence.fit_presence(
            presence.Arguments(
                recipe=arguments.recipe,
                bundle=fold.run.last,
                output=bundle,
                data=arguments.data,
                fold=fold.number,
                workers=arguments.workers,
                device=arguments.device,
            )
        )
    folder = predictions_folder(bundle)
    missing = [case for case in fold.held_out if not (folder / case.case_id / _REPORT).is_file()]
    if missing:
        _segment(bundle, missing, folder, device=arguments.device)
    return bundle


def predictions_folder(bundle: Path) -> Path:
    """The folder of a fold's segmented held-out cases, in the layout of `longilesion evaluate`."""
    return bundle.with_name(f"out_of_fold_{bundle.name}")


def _segment(bundle: Path, cases: Sequence[PreparedCase], folder: Path, *, device: Device) -> None:
    """Segments cases as in inference; a case's report is written last and marks it as done."""
    ensemble = load_ensemble(bundle, device=device)
    _log.info("segmenting %d cases that %s has not seen", len(cases), bundle)
    with progress_bar() as bar:
        for case in bar.track(cases, description="segmenting"):
            scans, followup_files = read_prepared_case(case, with_earlier=ensemble.settings.network.uses_earlier)
            segmentation = segment_case(scans, ensemble)
            write_outputs(folder / case.case_id / "output", segmentation.maps, followup_files=followup_files)
            write_report(folder / case.case_id / _REPORT, make_report(scans, segmentation, seconds={}))


def _sum_up(
    folds: Sequence[Fold], bundles: Sequence[Path], arguments: Arguments, settings: PresenceSettings
) -> float | None:
    """Scores every case segmented by its fold, and writes the scores; returns one threshold for all folds."""
    # matplotlib takes long to import.
    from longilesion.evaluation.output import report_sections, write_evaluation

    exams: list[ExamFiles] = []
    method = FilesMethod(name=OUT_OF_FOLD, warnings=[], exams={})
    for fold, bundle in zip(folds, bundles, strict=True):
        own = [find_exams(case.folder)[0] for case in fold.held_out]
        found = FilesMethod.of(predictions_folder(bundle), own, name=method.name)
        exams += own
        method.exams |= found.exams
        method.warnings += found.warnings
    run = evaluate_methods(sorted(exams, key=lambda exam: exam.name), [method], ScoringSettings())
    write_evaluation(arguments.output / "out_of_fold", run)
    console = Console() if Console().is_terminal else Console(width=160)
    for section in report_sections(run.report):
        console.print(to_rich(section))
    return pooled_threshold(run.report.evaluations[0].lesions, settings)


def pooled_threshold(lesions: Iterable[LesionScore], settings: PresenceSettings) -> float | None:
    """The highest threshold that keeps the required share of persisting lesions, each judged by its own fold.

    None where no lesion persists.
    """
    sure = [lesion.presence for lesion in lesions if lesion.is_persisting and lesion.presence is not None]
    return presence.presence_threshold(torch.tensor(sure), settings) if sure else None


def main() -> int:
    """Command line; 1 where the recipe, the data or a fold cannot be used."""
    return run_command(cross_validate, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
