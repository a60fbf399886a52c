"""Preparing a data set: every patient separately, then the report, the folds and the list of cases."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from longilesion.errors import InputError
from longilesion.files import check_text, check_writable, valid, written_together
from longilesion.json_file import read_json
from training.differences import differences
from training.parallel import in_parallel, single_threaded
from training.preparation.case_folder import write_case
from training.preparation.folds import check_patient_count, make_folds
from training.preparation.memory import worker_count
from training.preparation.patient import DataSource, Job
from training.preparation.prepared import (
    CASES_FOLDER,
    DATASET_FILE,
    FOLDS_FILE,
    DatasetFile,
    is_prepared,
    read_dataset_file,
    write_json,
)
from training.preparation.record import LeftOut, Record, record_path
from training.preparation.released_splits import patients_for_testing
from training.preparation.report import Report, make_report, to_markdown, to_rich

REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"

_log = logging.getLogger("training")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options for all sources; `folds` may be 0, `workers` depend on cores and memory if 0.

    `strict` makes contradictions in the data an error.
    """

    output: Path
    name: str
    licence: str | None = None
    folds: int = 5
    seed: int = 0
    workers: int = 0
    strict: bool = False


def prepare(source: DataSource, options: Options) -> Report:
    """Writes a data set, resuming an earlier run if there is one, and prints what was left out.

    Raises InputError where nothing of the source can be used, there are too few patients for the folds, the folder
    contains another data set, or cannot be written; existing cases then stay for the next run.
    """
    testing = patients_for_testing(source.released)
    if source.jobs:
        # Before the work, and again after it, as patients may be left out.
        _check_count({job.patient for job in source.jobs} - testing, source, options)
    started = _begin(source, options)
    records = [*source.left_out, *_made_records(source.jobs, options)]
    records.sort(key=lambda record: record.name)
    kept = {record.patient for record in records if record.cases}
    report = make_report(
        records,
        name=options.name,
        source=source.place,
        testing=sorted(kept & testing),
        warnings=source.warnings,
    )
    _write_report(report, options.output)
    Console().print(to_rich(report))
    _check_errors(records, source, options)
    _check_count(kept - testing, source, options)
    folds = make_folds(kept - testing, folds=options.folds, seed=options.seed, released=source.released)
    write_json(options.output / FOLDS_FILE, folds)
    # Last, as it marks the data set as complete.
    cases = tuple(case for record in records for case in record.cases)
    write_json(options.output / DATASET_FILE, started.model_copy(update={"cases": cases, "is_complete": True}))
    _log.info(
        "%s: %d cases of %d patients, %d patients left out; see %s",
        options.output,
        len(cases),
        len(kept),
        report.patients.left_out,
        options.output / REPORT_MARKDOWN,
    )
    return report


def _begin(source: DataSource, options: Options) -> DatasetFile:
    """Writes the arguments of the data set, or compares them with those of an earlier run."""
    check_writable(options.output)
    started = DatasetFile(
        name=options.name,
        source=source.kind,
        licence=options.licence,
        arguments={**source.arguments, "folds": options.folds, "seed": options.seed},
    )
    if is_prepared(options.output):
        decisive = {"name", "source", "licence", "arguments"}
        earlier, now = (
            each.model_dump(mode="json", include=decisive) for each in (read_dataset_file(options.output), started)
        )
        for name, was, asked in differences(earlier, now):
            what = name.removeprefix("arguments.")
            path = options.output / DATASET_FILE
            raise InputError(f"{path}: prepared with {what} {was!r}, not {asked!r}; expected another --output")
    # Incomplete until the end, also if it was complete: a patient may be added.
    write_json(options.output / DATASET_FILE, started)
    return started


def _made_records(jobs: Sequence[Job], options: Options) -> Iterator[Record]:
    """The records of all patients; those completed by an earlier run are not made again."""
    missing = []
    for job in jobs:
        record = _earlier_record(options.output, job)
        if record is None:
            missing.append(job)
        else:
            yield record
    if len(missing) < len(jobs):
        _log.info("%d of %d are there from an earlier run", len(jobs) - len(missing), len(jobs))
    for folder in (options.output / CASES_FOLDER, record_path(options.output, "any").parent):
        check_writable(folder)
    work = partial(_make, output=options.output)
    workers = worker_count((job.memory_bytes for job in missing), options.workers)
    yield from in_parallel(work, missing, workers=workers, label="preparing")


def _earlier_record(output: Path, job: Job) -> Record | None:
    path = record_path(output, job.name)
    if not path.is_file():
        return None
    record = read_json(path, Record, expected=f"a record, delete it to prepare {job.name} again")
    there = all((output / CASES_FOLDER / case.case_id).is_dir() for case in record.cases)
    return record if there else None


def _make(job: Job, output: Path) -> Record:
    """Makes a patient's cases; an unusable patient is no error, but a folder that cannot be written is."""
    # In this process, too, so that sums have the same order with any number of workers.
    single_threaded()
    try:
        with _quiet_library():
            made = job.make()
    except InputError as error:
        # No record is written, so that the next run tries again.
        why = LeftOut(reason="files that cannot be used", detail=str(error))
        return Record(name=job.name, patient=job.patient, left_out=why)
    for content in made.cases:
        write_case(content, output / CASES_FOLDER / content.case_id)
    if made.cases:
        write_json(record_path(output, job.name), made.record)
    return made.record


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Suppresses the library's warnings, which do not name the patient; the report does."""
    library = logging.getLogger("longilesion")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)


def _write_report(report: Report, output: Path) -> None:
    checks = {output / REPORT_JSON: valid(Report), output / REPORT_MARKDOWN: check_text}
    with written_together(checks) as (as_json, as_markdown):
        as_json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        as_markdown.write_text(to_markdown(report), encoding="utf-8")


def _check_errors(records: Sequence[Record], source: DataSource, options: Options) -> None:
    """Raises InputError where no patient is left, and, with `strict`, for any contradiction in the data."""
    errors = [(thing, why) for record in records for thing, why in record.all_left_out() if why.is_error]
    if not any(record.cases for record in records):
        first = f"; {errors[0][0]}: {errors[0][1]}" if errors else ""
        raise InputError(f"{source.place}: none of {len(records)} patients can be used{first}")
    if options.strict and errors:
        thing, why = errors[0]
        raise InputError(f"{source.place}: {len(errors)} errors, see {REPORT_MARKDOWN}; the first: {thing}: {why}")


def _check_count(patients: set[str], source: DataSource, options: Options) -> None:
    check_patient_count(len(patients), folds=options.folds, source=source.place)
