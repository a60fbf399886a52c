"""Scores detectors by LiFE-Net's measures on exams that they were not trained on.

`python -m training.evaluate_detection CV... --data EXAMS --output REPORT`: each CV is a folder of runs CV/fold_k
(`training.train RECIPE --data EXAMS --fold k --output CV/fold_k`), or a single run; the held-out exams of all its folds
are pooled. The detectors are compared with the first one on the same draws of exams.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import tyro
from rich.console import Console

from longilesion.bundle import is_bundle
from longilesion.case import Scan
from longilesion.config import Device
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.bootstrap import Bootstrap, Estimate, Statistic
from longilesion.evaluation.detection import DIAMETERS_MM, ExamLesions, detection_statistics
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.reading import read_exam as read_truth
from longilesion.evaluation.tables import Section, figure, to_markdown, to_rich
from longilesion.files import check_text, written_together
from training.command import run_command
from training.detector import (
    exam_candidates,
    exam_probability,
    masked,
    matched_lesions,
    with_detected_prior,
    with_prior_mask,
)
from training.exam_cache import CachedExam, build_exam_cache
from training.exams import RegisteredExam, read_exam
from training.mask_errors import with_mask_errors
from training.preparation.prepared import PreparedCase, PreparedData, read_organ, read_prepared
from training.recipe import Recipe
from training.run_folder import RunFolder, read_record
from training.training_data import prepared_contents

PriorMask: TypeAlias = Literal["truth", "errors", "none"]

_log = logging.getLogger("training")

_NAMES = {
    "mean_average_precision": "mAP",
    "exam_auc": "exam AUC",
    "sensitivity_0.2": "sensitivity at 0.2 FP",
    "sensitivity_0.5": "sensitivity at 0.5 FP",
}


@dataclass
class Arguments:
    """Command line of the scoring of detectors."""

    detectors: tyro.conf.Positional[tuple[Path, ...]]
    data: Path
    """The prepared exams that the detectors were trained on."""
    output: Path | None = None
    """A folder for the tables in Markdown (detection.md); printed only if not given."""
    prior_mask: PriorMask = "truth"
    """The baseline's lesion mask: the true one, with the errors of training, or empty."""
    prior_detector: Path | None = None
    """A detector, as those to be scored, that marks the baseline's lesions instead, seeing the baseline alone."""
    masked: bool = True
    """Score LiFE-Net also without its prior."""
    workers: int = 1
    """Processes that register exams that are not in the cache."""
    device: Device = "auto"
    draws: int = 1000
    """Draws of exams for the intervals."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """A detector's candidates on every held-out exam, by LiFE-Net's matching; `cases` are the exams' names."""

    name: str
    cases: tuple[str, ...]
    exams: tuple[ExamLesions, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Fold:
    """A run, its recipe, and the exams of patients that it was not trained on."""

    run: RunFolder
    number: int | None
    recipe: Recipe
    held_out: tuple[PreparedCase, ...]


def evaluate_detectors(arguments: Arguments) -> list[Scored]:
    """Scores all detectors, LiFE-Net twice; prints the tables."""
    scored = score_detectors(arguments)
    tables = detection_tables(scored, draws=arguments.draws, seed=arguments.seed)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        with written_together({arguments.output / "detection.md": check_text}) as (temporary,):
            temporary.write_text("\n".join(map(to_markdown, tables)), encoding="utf-8")
    console = Console() if Console().is_terminal else Console(width=200)
    for table in tables:
        console.print(to_rich(table))
    return scored


def score_detectors(arguments: Arguments) -> list[Scored]:
    """Searches the held-out exams with all detectors, with LiFE-Net twice.

    Raises InputError where a run is missing, or belongs to other data.
    """
    data = read_prepared(arguments.data)
    alone = None if arguments.prior_detector is None else _folds(arguments.prior_detector, data)
    scored: list[Scored] = []
    for path in arguments.detectors:
        folds = _folds(path, data)
        scored.append(_scored(path.name, folds, data, arguments, alone=alone, without_prior=False))
        if arguments.masked and all(fold.recipe.model.network.kind == "joint_encoder" for fold in folds):
            scored.append(_scored(f"{path.name}, masked", folds, data, arguments, alone=alone, without_prior=True))
    return scored


def detection_tables(scored: Sequence[Scored], *, draws: int, seed: int) -> list[Section]:
    """The measures of every detector, and their differences from the first; raises InputError for different exams."""
    first = scored[0]
    for other in scored:
        if other.cases != first.cases:
            raise InputError(f"{other.name}: scored on other exams than {first.name}; expected the same folds")
    bootstrap = Bootstrap(len(first.cases), draws=draws, seed=seed)
    headings = (*(f"{name}, over {over_mm:g} mm" for over_mm in DIAMETERS_MM for name in _NAMES.values()),)
    measured = [
        [
            statistic
            for over_mm in DIAMETERS_MM
            for statistic in detection_statistics(each.exams, over_mm=over_mm).values()
        ]
        for each in scored
    ]
    counts = [
        int(sum((exam.true_mm >= over_mm).sum() for exam in first.exams)) for over_mm in DIAMETERS_MM for _ in _NAMES
    ]
    width = max(sum(len(exam.predicted_mm) for exam in each.exams) for each in scored)

    def estimated(statistics: Sequence[Statistic]) -> Iterator[Estimate]:
        for statistic, count in zip(statistics, counts, strict=True):
            yield bootstrap.estimate(statistic, count=count, contributors=len(first.cases), width=width)

    return [
        Section(
            title="Detection",
            headings=("detector", *headings),
            rows=tuple(
                (each.name, *map(figure, estimated(statistics)))
                for each, statistics in zip(scored, measured, strict=True)
            ),
            note=f"{len(first.cases)} exams [95 % interval over exams] (lesions).",
        ),
        Section(
            title=f"Differences from {first.name}",
            headings=("detector", *headings),
            rows=tuple(
                (each.name, *map(figure, estimated([*map(_difference, statistics, measured[0])])))
                for each, statistics in zip(scored[1:], measured[1:], strict=True)
            ),
            note="On the same draws of exams; an interval that leaves out 0 is a difference.",
        ),
    ]


def _difference(statistic: Statistic, reference: Statistic) -> Statistic:
    return lambda weights: statistic(weights) - reference(weights)


def _folds(path: Path, data: PreparedData) -> list[_Fold]:
    """The runs of a folder, each with its held-out exams."""
    runs = [RunFolder(path)] if RunFolder(path).record.is_file() else map(RunFolder, sorted(path.glob("fold_*")))
    folds = []
    for run in runs:
        record = read_record(run)
        seen, held_out = data.split(record.fold)
        if record.recipe.task != "detection":
            raise InputError(f"{run.record}: recipe {record.recipe.name} trains no detector; expected one that does")
        if record.data != prepared_contents(data, seen):
            raise InputError(f"{run.record}: trained on {record.data}; expected {prepared_contents(data, seen)}")
        if not is_bundle(run.last):
            raise InputError(f"{run.last}: no bundle; expected a finished run, resume it with training.train")
        folds.append(_Fold(run=run, number=record.fold, recipe=record.recipe, held_out=held_out))
    if not folds:
        raise InputError(f"{path}: neither a run nor runs in fold_*; expected a folder of training.train --output")
    return folds


def _scored(
    name: str,
    folds: Sequence[_Fold],
    data: PreparedData,
    arguments: Arguments,
    *,
    alone: Sequence[_Fold] | None,
    without_prior: bool,
) -> Scored:
    """The held-out exams of all folds, each searched by the network that was not trained on its patient."""
    found: dict[str, ExamLesions] = {}
    for fold in folds:
        detector = load_ensemble(fold.run.last, device=arguments.device)
        settings = detector.settings
        cached = build_exam_cache(data, fold.held_out, settings.voi, workers=arguments.workers)
        prior = _prior(fold, alone, arguments)
        _log.info("%s: searching %d exams", name, len(cached))
        for case, exam in zip(fold.held_out, cached, strict=True):
            found[case.case_id] = _searched(
                case, prior(exam, read_exam(exam.path)), masked(detector) if without_prior else detector
            )
    cases = tuple(sorted(found))
    return Scored(name=name, cases=cases, exams=tuple(found[case] for case in cases))


def _searched(case: PreparedCase, exam: RegisteredExam, detector: Ensemble) -> ExamLesions:
    """The candidates as inference outlines them, on the follow-up's own voxels."""
    truth = read_truth(find_exams(case.folder)[0])[0].truth["primary"]
    organ = read_organ(case, "primary-followup-ct", truth.grid)
    scan = Scan(hu=np.broadcast_to(np.int16(0), truth.grid.shape_zyx), grid=truth.grid, organ=organ)
    probability = exam_probability(exam, detector)
    return matched_lesions(exam_candidates(probability, exam.region.grid, scan, detector.settings), truth, exam)


def _prior(
    fold: _Fold, alone: Sequence[_Fold] | None, arguments: Arguments
) -> Callable[[CachedExam, RegisteredExam], RegisteredExam]:
    """How the mask of the baseline's lesions is replaced."""
    if alone is not None:
        own = next((other for other in alone if other.number == fold.number), None)
        if own is None:
            raise InputError(f"{arguments.prior_detector}: no fold {fold.number}; expected the folds of the detectors")
        marking = load_ensemble(own.run.last, device=arguments.device)
        if marking.settings.voi != fold.recipe.model.voi:
            raise InputError(f"{own.run.last}: another lattice than {fold.run.last}; expected the same")
        return lambda _, exam: with_detected_prior(exam, marking)
    match arguments.prior_mask:
        case "truth":
            return lambda _, exam: exam
        case "none":
            return lambda _, exam: with_prior_mask(exam, np.zeros(exam.ids.shape, np.float32))
        case "errors":
            return lambda cached, exam: _with_errors(cached, exam, fold.recipe, seed=arguments.seed)


def _with_errors(cached: CachedExam, exam: RegisteredExam, recipe: Recipe, *, seed: int) -> RegisteredExam:
    """The exam with errors in the mask that depend on the exam and the seed alone."""
    generator = np.random.default_rng((seed, *cached.case_id.encode()))
    pair = with_mask_errors(exam.pair, recipe.mask_errors, generator)
    return exam if pair.baseline_mask is None else with_prior_mask(exam, pair.baseline_mask)


def main() -> int:
    """Command line; 1 where a run or the data cannot be used."""
    return run_command(evaluate_detectors, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
