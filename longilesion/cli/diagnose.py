"""`longilesion diagnose`: types of liver lesions, from scans of one to four contrast phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.status import Status
from rich.table import Table

from longilesion.case_files import check_outputs
from longilesion.cli.terminal import console, line_table, progress
from longilesion.config import Device, Precision
from longilesion.diagnosis_settings import PHASES, STATEMENT, TYPE_NAMES, Phase
from longilesion.errors import InputError
from longilesion.files import check_replaceable
from longilesion.startup import lasting_imports
from longilesion.timing import Stopwatch
from longilesion.volume_text import volume_text

if TYPE_CHECKING:
    from longilesion.diagnosis.bundle import DiagnosisModel
    from longilesion.diagnosis.findings import Diagnosis


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """An exam's files, and those to write."""

    name: str
    phases: dict[Phase, Path]
    liver: Path | None
    outputs: list[Path]


def diagnose(
    *,
    output: Path,
    phase: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="PHASE=FILE")] = (),
    liver: Path | None = None,
    exams: Path | None = None,
    weights: Path | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    report: Path | None = None,
    picture: bool = False,
) -> None:
    """Find the liver's lesions in one to four contrast phases, and tell their types.

    Research use only, trained on synthetic lesions. The phases are registered to the venous one, on whose voxels the
    lesions are outlined; without it, to the delayed, the arterial or the non-contrast one. Phases may be missing.
    Written into the output folder are lesions.nii.gz (lesion ids), lesions.csv (type, size and the probability of every
    type of each) and report.json (these, and the patient's probability of each type).

    Args:
        output: Folder to write to; with --exams, of a folder for each of them.
        phase: A scan of the exam as PHASE=FILE, of the phase non_contrast, arterial, venous or delayed; repeat it for
            each.
        liver: Mask of the liver on the voxels of the venous scan, or of the one that takes its place. Without it, the
            whole body is searched.
        exams: Folder of exams to diagnose, each a folder with venous.nii.gz and so on, and the mask liver.nii.gz.
        weights: Folder of the model of lesion types; by default the shipped one.
        device: Where the network runs; auto takes a GPU if there is one.
        precision: Number format of the network; auto takes the fastest that the device has.
        report: File for the report, in place of report.json in the output folder.
        picture: Draw each lesion in all phases, in lesions.png.
    """
    # Imported late, here and below: torch takes a second to load, and --help does not need it.
    with lasting_imports():
        from longilesion.diagnosis.bundle import load_diagnosis_bundle

    jobs = _jobs(output, phase, liver=liver, exams=exams, report=report, picture=picture)
    for job in jobs:
        check_outputs(job.outputs, inputs=(*job.phases.values(), job.liver))
        check_replaceable(*job.outputs)
    output_console = console()
    # The spinner shows in a terminal only.
    with output_console.status("loading the model") as status:
        model = load_diagnosis_bundle(weights, device, precision)
        for job in jobs:
            found = _diagnose(job, model, status)
            if exams is None:
                output_console.print(lesion_table(found), patient_table(found))
            else:
                count = len(found.typed)
                output_console.print(f"{job.name}: {count} lesion{'' if count == 1 else 's'}", highlight=False)
    output_console.print(STATEMENT, highlight=False)


def lesion_table(found: Diagnosis) -> Table:
    """A row per lesion: its most probable type, the score, and its size."""
    headings = ("lesion", "score", "ml", "mm", "probability", "type")
    table = line_table(*headings, numbers=headings[:-1])
    for lesion in found.typed:
        table.add_row(
            str(lesion.lesion_id),
            f"{lesion.score:.2f}",
            volume_text(lesion.volume_ml),
            f"{lesion.diameter_mm:.0f}",
            f"{lesion.probabilities[lesion.type]:.2f}",
            TYPE_NAMES[lesion.type],
        )
    return table


def patient_table(found: Diagnosis) -> Table:
    """A row per type: the probability that the patient has it, and its share of the lesions' volume."""
    table = line_table("patient", "share of volume", "type", numbers=("patient", "share of volume"))
    for name, probability in found.patient.items():
        table.add_row(f"{probability:.2f}", f"{found.by_volume[name]:.2f}", TYPE_NAMES[name])
    return table


def _jobs(
    output: Path,
    phase: Sequence[str],
    *,
    liver: Path | None,
    exams: Path | None,
    report: Path | None,
    picture: bool,
) -> list[_Job]:
    from longilesion.diagnosis.output import output_files

    if exams is None:
        outputs = output_files(output, report=report, picture=picture)
        return [_Job(name=output.name, phases=_phases(phase), liver=liver, outputs=outputs)]
    for option, value in (("--phase", phase), ("--liver", liver), ("--report", report)):
        if value:
            raise InputError(f"{option} beside --exams; expected one of both, as every exam has its own")
    return list(_exam_jobs(exams, output, picture=picture))


def _exam_jobs(exams: Path, output: Path, *, picture: bool) -> Iterator[_Job]:
    from longilesion.diagnosis.exam_folder import LIVER_FILE, exam_folders, phase_files
    from longilesion.diagnosis.output import output_files

    for folder in exam_folders(exams):
        mask = folder / LIVER_FILE
        yield _Job(
            name=folder.name,
            phases=phase_files(folder),
            liver=mask if mask.is_file() else None,
            outputs=output_files(output / folder.name, picture=picture),
        )


def _phases(given: Sequence[str]) -> dict[Phase, Path]:
    files: dict[Phase, Path] = {}
    for text in given:
        name, _, path = text.partition("=")
        # "non-contrast" is as good as its name in Python.
        phase = next((each for each in PHASES if each == name.strip().lower().replace("-", "_")), None)
        if phase is None or not path:
            raise InputError(f"--phase {text}: expected PHASE=FILE, with a phase of {', '.join(PHASES)}")
        if phase in files:
            raise InputError(f"--phase {text}: the phase {phase} is given twice, first as {files[phase]}; expected one")
        files[phase] = Path(path)
    if not files:
        raise InputError("nothing to diagnose; expected --phase venous=FILE, with more of them, or --exams FOLDER")
    return {phase: files[phase] for phase in PHASES if phase in files}


def _diagnose(job: _Job, model: DiagnosisModel, status: Status) -> Diagnosis:
    """Diagnoses an exam and writes its files."""
    from longilesion.diagnosis.diagnose import diagnose_registered
    from longilesion.diagnosis.output import PICTURE_FILE, write_diagnosis
    from longilesion.diagnosis.phases import read_phases
    from longilesion.diagnosis.registration import register_phases
    from longilesion.diagnosis.report import make_report

    watch = Stopwatch()
    with watch("diagnose"):
        status.update(f"{job.name}: reading the scans")
        exam = read_phases(job.phases, job.liver)
        status.update(f"{job.name}: registering")
        phases = register_phases(exam, model.settings)
        found = diagnose_registered(exam, phases, model, progress=progress(status, f"{job.name}: searching"))
    draw = None
    if job.outputs[-1].name == PICTURE_FILE:
        status.update(f"{job.name}: drawing")
        from longilesion.diagnosis.picture import draw_lesions

        draw = partial(draw_lesions(exam, phases, found).savefig, format="png")
    report = make_report(exam, phases, found, files=job.phases, weights=model.name, seconds=watch.seconds["diagnose"])
    write_diagnosis(job.outputs, found, report, like=job.phases[exam.reference], draw=draw)
    return found
