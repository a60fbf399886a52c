"""Synthetic exams of the liver in contrast phases as exam folders: drawn from CT volumes, or from phantoms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import cycle
from pathlib import Path

import numpy as np
from pydantic import Field

from longilesion.diagnosis.exam_folder import EXAMS_FILE
from longilesion.diagnosis_settings import STATEMENT, Phase
from longilesion.errors import InputError
from longilesion.files import check_writable
from longilesion.json_file import read_json
from longilesion.settings import Settings
from training.differences import differences
from training.parallel import in_parallel, single_threaded
from training.preparation.case_folder import save_image
from training.preparation.memory import drawing_bytes, worker_count
from training.preparation.prepared import write_json
from training.synthesis.exam_settings import ExamSettings
from training.synthesis.liver_host import LIVER, LiverHost, liver_host
from training.synthesis.phases import SyntheticExam, synthetic_exam
from training.synthesis.real_shapes import RealShape, liver_shapes
from training.synthesis.shape_library import read_shape_library
from training.synthesis.sources import load_sources, phantom_sources, volumes_with

ENTRY_FILE = "exam.json"
# Seeds other than those of the phantoms elsewhere.
_FIRST_PHANTOM = 500_000


class ExamEntry(Settings):
    """An exam: exams of one `host` show the same liver, so that data are split by it; each is a patient of its own."""

    name: str
    patient: str
    host: str
    phases: tuple[Phase, ...]
    lesions: int = Field(ge=0)
    seed: int = Field(ge=0)
    number: int = Field(ge=0)


class ExamsFile(Settings):
    """The list of a folder's exams, and what they were drawn with."""

    statement: str = STATEMENT
    seed: int = Field(ge=0)
    data: str | None
    shapes: str | None
    settings: ExamSettings
    exams: tuple[ExamEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExamOptions:
    """What exams are drawn from; without `data` from that many phantoms. `workers` depend on the cores if 0."""

    output: Path
    exams: int
    data: Path | None = None
    shapes: Path | None = None
    phantoms: int = 20
    seed: int = 0
    workers: int = 0
    settings: ExamSettings


@dataclass(frozen=True, kw_only=True)
class _Job:
    number: int
    host: str

    @property
    def name(self) -> str:
        return f"exam_{self.number:05d}"


def prepare_exams(options: ExamOptions) -> ExamsFile:
    """Writes exam folders and their list; complete ones of an earlier run with the same arguments are kept.

    An exam depends on the seed and its number alone; the hosts take turns. Raises InputError where the data cannot be
    used, or the folder has exams drawn with other arguments.
    """
    hosts = _hosts(options)
    library = None if options.shapes is None else read_shape_library(options.shapes)
    started = ExamsFile(
        seed=options.seed,
        data=None if options.data is None else str(options.data.resolve()),
        shapes=None if library is None else library.description,
        settings=options.settings,
    )
    check_writable(options.output)
    _check_same(options.output / EXAMS_FILE, started)
    write_json(options.output / EXAMS_FILE, started)
    # A worker keeps the host that it has read: exams of the same one are consecutive.
    pairs = zip(range(options.exams), cycle(hosts), strict=False)
    jobs = sorted((_Job(number=number, host=host) for number, host in pairs), key=lambda job: job.host)
    memory = (drawing_bytes(None if options.data is None else options.data / host / "ct.nii.gz") for host in hosts)
    work = partial(_written, options=options)
    workers = worker_count(memory, options.workers)
    entries = sorted(in_parallel(work, jobs, workers=workers, label="drawing exams"), key=lambda entry: entry.number)
    done = started.model_copy(update={"exams": tuple(entries)})
    # Last, as a list without exams marks a run that was interrupted.
    write_json(options.output / EXAMS_FILE, done)
    return done


def write_exam(exam: SyntheticExam, entry: ExamEntry, folder: Path) -> None:
    """Writes an exam folder, completely or not at all; raises InputError where that is impossible."""
    partial_folder = folder.with_name(f".partial-{folder.name}")
    try:
        shutil.rmtree(partial_folder, ignore_errors=True)
        for phase, scan in exam.phases.items():
            save_image(partial_folder / f"{phase}.nii.gz", scan.hu, scan.grid)
        venous = exam.phases["venous"]
        if venous.organ is None:
            raise ValueError("the venous phase of a synthetic exam has no liver")
        save_image(partial_folder / "liver.nii.gz", venous.organ.astype(np.uint8), venous.grid)
        save_image(partial_folder / "lesions.nii.gz", exam.truth.ids.astype(np.uint8), exam.truth.grid)
        described = {
            str(lesion_id): {
                "type": lesion.kind.lesion_type,
                "kind": lesion.kind.name,
                "diameter_mm": round(2 * lesion.radius_mm, 1),
            }
            for lesion_id, lesion in exam.lesions.items()
        }
        (partial_folder / "lesions.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
        write_json(partial_folder / ENTRY_FILE, entry)
        partial_folder.rename(folder)
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _hosts(options: ExamOptions) -> Sequence[str]:
    if options.data is not None:
        return volumes_with(LIVER, options.data)
    first = _FIRST_PHANTOM + 1000 * options.seed
    return [f"phantom_{first + number}" for number in range(min(options.phantoms, options.exams))]


def _check_same(path: Path, started: ExamsFile) -> None:
    """Raises InputError where a folder's exams were drawn with other arguments."""
    if not path.is_file():
        return
    earlier = read_json(path, ExamsFile, expected="a list of exams, as training.prepare phases writes")
    was, now = (each.model_dump(mode="json", exclude={"exams"}) for each in (earlier, started))
    for name, before, asked in differences(was, now):
        raise InputError(f"{path}: drawn with {name} {before!r}, not {asked!r}; expected another --output")


def _written(job: _Job, options: ExamOptions) -> ExamEntry:
    """Draws and writes an exam, unless an earlier run did."""
    single_threaded()
    folder = options.output / job.name
    if folder.is_dir():
        return read_json(folder / ENTRY_FILE, ExamEntry, expected=f"an exam's entry; delete {folder} to draw it again")
    exam = synthetic_exam(
        _host(options.data, job.host, options.settings),
        np.random.default_rng((options.seed, job.number)),
        options.settings,
        shapes=() if options.shapes is None else _shapes(options.shapes),
    )
    entry = ExamEntry(
        name=job.name,
        patient=job.name,
        host=job.host,
        phases=tuple(exam.phases),
        lesions=len(exam.lesions),
        seed=options.seed,
        number=job.number,
    )
    write_exam(exam, entry, folder)
    return entry


@lru_cache(maxsize=1)
def _host(data: Path | None, name: str, settings: ExamSettings) -> LiverHost:
    seed = int(name.rpartition("_")[2]) if data is None else 0
    (source,) = phantom_sources([seed]) if data is None else load_sources(data, [name])
    return liver_host(source, spacing_zyx_mm=settings.spacing_zyx_mm)


@lru_cache(maxsize=1)
def _shapes(path: Path) -> Sequence[RealShape]:
    return liver_shapes(read_shape_library(path))
