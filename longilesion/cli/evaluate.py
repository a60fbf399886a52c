"""`longilesion evaluate`: scores of outlines, from files or from a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import track

from longilesion.config import Device, Precision
from longilesion.errors import InputError
from longilesion.evaluation.exam import Instances, Matching, ScoringSettings
from longilesion.evaluation.folders import ExamFiles, find_exams
from longilesion.files import check_writable

if TYPE_CHECKING:
    from longilesion.evaluation.methods import Method

MOST_DRAWS = 100_000


def evaluate(
    predictions: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PREDICTIONS")],
    truth: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[TRUTH]")] = None,
    *,
    model: Path | None = None,
    inputs: Path | None = None,
    against: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = (),
    without_clicks: Path | None = None,
    steps: bool = False,
    output: Path | None = None,
    matching: Matching = "id",
    instances: Instances = "labels",
    tolerance_mm: float = 2.0,
    detection_iou: float = 0.1,
    draws: int = 1000,
    seed: int = 0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Score outlines against the truth: the challenge's score, lesions, detection, change, response to therapy.

    `longilesion evaluate PREDICTIONS TRUTH` compares two folders, `longilesion evaluate --model BUNDLE CASES` first
    segments the cases, which have their inputs in `input` and their truth in `truth`.

    Folders hold either label maps (<exam>.nii.gz, or named as in the challenge's training data), or a folder per exam
    with images/primary-followup-ct-tumor-lesion-seg/<one image>, in it or in its `truth` (`output`) folder. The value
    of a voxel is the lesion's id. With baselines (the `input` folder of a case, or --inputs), change and response are
    scored too; with the run reports of the predictions (<exam>.json, or report.json in the exam's folder), presence and
    the ranking of detections.

    Args:
        predictions: Folder of predicted label maps; with --model, folder of cases.
        truth: Folder of true label maps.
        model: Folder with a model's settings and weights, to segment the cases with.
        inputs: Folder of baseline label maps, follow-up clicks and lesion tables, laid out like the truths.
        against: Other predictions for the same exams, or another model, to compare with. Can be given several times.
        without_clicks: Predictions by the same method without follow-up clicks, for the interactive steps.
        steps: With --model, segment the cases without follow-up clicks, too, for the interactive steps.
        output: Folder for evaluation.json, evaluation.md, exams.csv, lesions.csv and plots.
        matching: Whether a predicted label is the lesion whose id it has, or the one that it overlaps best.
        instances: Whether detection counts labels or connected components.
        tolerance_mm: Distance up to which surfaces count as equal in the surface Dice.
        detection_iou: Overlap from which a lesion counts as detected in the table of lesions.
        draws: Draws of patients for the intervals.
        seed: Seed of the draws.
        device: Where the networks run; auto takes a GPU if there is one.
        precision: Number format of the networks; auto takes the fastest that the device has.
    """
    if (model is None) == (truth is None):
        raise InputError(
            "expected either two folders, PREDICTIONS and TRUTH, or --model BUNDLE and one folder of CASES"
        )
    if steps and model is None:
        raise InputError("--steps without --model; expected the predictions without clicks as --without-clicks")
    if without_clicks is not None and model is not None:
        raise InputError("--without-clicks with --model; expected --steps, which segments without clicks")
    if not (tolerance_mm > 0 and 0 < detection_iou <= 1 and 0 < draws <= MOST_DRAWS and seed >= 0):
        raise InputError(
            f"--tolerance-mm {tolerance_mm:g}, --detection-iou {detection_iou:g}, --draws {draws}, --seed {seed}; "
            f"expected all over 0, an overlap of at most 1, {MOST_DRAWS} draws at most, and a seed from 0"
        )
    if output is not None:
        check_writable(output)
    exams = find_exams(predictions if truth is None else truth, inputs=inputs)
    # Imported late: torch and the libraries of metrics and plots take seconds to load.
    from longilesion.bundle import is_bundle
    from longilesion.evaluation.output import report_sections, write_evaluation
    from longilesion.evaluation.run import evaluate_methods
    from longilesion.evaluation.tables import to_rich

    first_step = without_clicks if model is None else model if steps else None
    folders = [model or predictions, *against]
    names = method_names(folders, first_step)
    run = evaluate_methods(
        track(exams, "scoring", console=Console(stderr=True), disable=not Console(stderr=True).is_terminal),
        [
            _method(folder, exams, name, is_model=folder is model or is_bundle(folder), options=(device, precision))
            for folder, name in zip(folders, names, strict=False)
        ],
        ScoringSettings(tolerance_mm=tolerance_mm, detection_iou=detection_iou, matching=matching, instances=instances),
        without_clicks=None
        if first_step is None
        else _method(
            first_step, exams, names[-1], is_model=steps, options=(device, precision), has_followup_clicks=False
        ),
        draws=draws,
        seed=seed,
    )
    # The files first, so that they are complete if printing fails.
    written = [] if output is None else write_evaluation(output, run)
    console = Console() if Console().is_terminal else Console(width=160)
    for section in report_sections(run.report):
        console.print(to_rich(section))
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)


def _method(
    folder: Path,
    exams: Sequence[ExamFiles],
    name: str,
    *,
    is_model: bool,
    options: tuple[Device, Precision],
    has_followup_clicks: bool = True,
) -> Method:
    from longilesion.ensemble import load_ensemble
    from longilesion.evaluation.methods import FilesMethod, ModelMethod

    if is_model:
        device, precision = options
        ensemble = load_ensemble(folder, device=device, precision=precision)
        return ModelMethod(name=name, ensemble=ensemble, has_followup_clicks=has_followup_clicks, warnings=[])
    return FilesMethod.of(folder, exams, name=name)


def method_names(folders: Sequence[Path], first_step: Path | None = None) -> list[str]:
    """Each folder's name, or its whole path where several have the same name; last, that of the first step."""
    resolved = [folder.resolve() for folder in folders]
    given = [*folders, *([first_step] if first_step is not None and first_step is not folders[0] else [])]
    for place, folder in enumerate(given):
        if folder.resolve() in [other.resolve() for other in given[:place]]:
            raise InputError(f"{folder}: given twice; expected different results to compare")
    short = [folder.name for folder in resolved]
    names = [name if short.count(name) == 1 else str(folder) for name, folder in zip(short, resolved, strict=True)]
    if first_step is None:
        return names
    step = f"{names[0]} without clicks"
    return [*names, step if step not in names else f"{step} ({first_step})"]
