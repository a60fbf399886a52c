"""`longilesion evaluate-diagnosis`: scores of the types of liver lesions, from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import track

from longilesion.cli.evaluate import MOST_DRAWS, method_names
from longilesion.diagnosis_settings import STATEMENT
from longilesion.errors import InputError
from longilesion.files import check_writable


def evaluate_diagnosis(
    predictions: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PREDICTIONS")],
    truth: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="TRUTH")],
    *,
    against: Annotated[tuple[Path, ...], tyro.conf.UseAppendAction] = (),
    output: Path | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> None:
    """Score diagnoses of liver lesions against the truth: patients by type, malignant or benign, lesions, outlines.

    Both folders hold a folder per exam, of the same name: predictions with lesions.nii.gz and report.json as
    `longilesion diagnose` writes them, true exams with their phases, lesions.nii.gz and lesions.json.

    Args:
        predictions: Folder of diagnoses.
        truth: Folder of true exams.
        against: Other diagnoses of the same exams, to compare with. Can be given several times.
        output: Folder for figures.json, figures.md, patients.csv and lesions.csv.
        draws: Draws of patients for the intervals.
        seed: Seed of the draws.
    """
    if not (0 < draws <= MOST_DRAWS and seed >= 0):
        raise InputError(f"--draws {draws}, --seed {seed}; expected 1 to {MOST_DRAWS} draws, and a seed from 0")
    folders = (predictions, *against)
    methods = dict(zip(method_names(folders), folders, strict=True))
    if output is not None:
        check_writable(output)
    # Imported late: the libraries of metrics take seconds to load.
    from longilesion.evaluation.diagnosis_output import diagnosis_sections, write_diagnosis_evaluation
    from longilesion.evaluation.diagnosis_reading import find_diagnosed
    from longilesion.evaluation.diagnosis_run import evaluate_diagnoses
    from longilesion.evaluation.tables import to_rich

    exams = find_diagnosed(truth, folders)
    evaluation = evaluate_diagnoses(
        track(exams, "reading", console=Console(stderr=True), disable=not Console(stderr=True).is_terminal),
        methods,
        draws=draws,
        seed=seed,
    )
    # The files first, so that they are complete if printing fails.
    written = [] if output is None else write_diagnosis_evaluation(output, evaluation)
    console = Console() if Console().is_terminal else Console(width=160)
    console.print(STATEMENT, style="bold")
    for section in diagnosis_sections(evaluation):
        console.print(to_rich(section))
    for path in written:
        console.print(str(path), highlight=False, soft_wrap=True, markup=False)
