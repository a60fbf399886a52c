"""A worker: keeps the models loaded, runs case after case, and reads the next one meanwhile."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from longilesion.case_run import Inputs, load_models, segment_inputs, with_masks
from longilesion.cohort.plan import CohortCase, Task
from longilesion.cohort.record import REPORT, CaseRecord, Outcome, clear, finished, write_record
from longilesion.files import check_replaceable
from longilesion.fingerprint import file_fingerprint, fingerprint
from longilesion.grand_challenge import check_outputs, output_paths, write_outputs
from longilesion.program import failure_of
from longilesion.report import make_report, write_report
from longilesion.timing import Stopwatch

_READER = "reads the next case"


@dataclass(slots=True, kw_only=True)
class _Reading:
    """A case that has been read, or is of an earlier run (`kept`), or why it cannot be read, and what was warned of."""

    case: CohortCase
    warnings: list[str]
    seconds: Stopwatch
    made_of: str = ""
    kept: CaseRecord | None = None
    inputs: Inputs | None = None
    failure: str | None = None


class Worker:
    """Runs cases by models that are loaded once; raises BundleError where they cannot be."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._models = load_models(task.options, Stopwatch())
        self._warnings = _Warnings()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=_READER)
        self._ahead: tuple[str, Future[_Reading]] | None = None

    def close(self) -> None:
        """Lets warnings be printed again."""
        self._reader.shutdown(cancel_futures=True)
        self._warnings.close()

    def run(self, case: CohortCase, ahead: CohortCase | None = None) -> Outcome:
        """Runs a case and reads another one meanwhile; whatever goes wrong with it is in its record."""
        if self._ahead is not None and self._ahead[0] == case.name:
            reading = self._ahead[1]
        else:
            reading = self._reader.submit(self._read, case)
        self._ahead = None if ahead is None else (ahead.name, self._reader.submit(self._read, ahead))
        read = reading.result()
        if read.kept is not None:
            return Outcome(record=read.kept, is_kept=True)
        done: list[CaseRecord] = []
        failure = read.failure
        if failure is None:
            with self._warnings.into(read.warnings):
                failure = failure_of(lambda: done.append(self._segment(read)))
        if failure is None:
            return Outcome(record=done[0])
        clear(self._task.folder(case.name))
        # Errors refer to frames, and these to the case, in circles.
        gc.collect()
        return Outcome(
            record=CaseRecord(case=case.name, seconds=read.seconds.seconds, warnings=read.warnings, error=failure)
        )

    def _read(self, case: CohortCase) -> _Reading:
        """In the reader's thread."""
        reading = _Reading(case=case, warnings=[], seconds=Stopwatch("read"))

        def read() -> None:
            reading.made_of = fingerprint(self._task.made_of, *case.inputs)
            reading.kept = finished(self._task.folder(case.name), reading.made_of)
            if reading.kept is None:
                reading.inputs = with_masks(*case.read(), self._task.options)

        with self._warnings.into(reading.warnings), reading.seconds("read"):
            reading.failure = failure_of(read)
        return reading

    def _segment(self, read: _Reading) -> CaseRecord:
        assert read.inputs is not None
        folder, watch = self._task.folder(read.case.name), read.seconds
        clear(folder)
        check_outputs(folder, read.inputs.followup_files)
        check_replaceable(folder / REPORT)
        segmentation = segment_inputs(read.inputs, models=self._models, options=self._task.options)
        with watch("write"):
            write_outputs(folder, segmentation.maps, followup_files=read.inputs.followup_files)
        report = make_report(read.inputs.case, segmentation, seconds=watch.seconds)
        write_report(folder / REPORT, report)
        written = [folder / REPORT, *(output_paths(folder)[name] for name in segmentation.maps)]
        record = CaseRecord(
            case=read.case.name,
            fingerprint=read.made_of,
            seconds=report.seconds,
            warnings=read.warnings,
            outputs={path.relative_to(folder).as_posix(): file_fingerprint(path) for path in written},
        )
        write_record(folder, record)
        return record


class _Warnings(logging.Handler):
    """Collects what the library warns of, by case: what the reader's thread says is of the case that is read.

    Other threads belong to the case that is segmented. What belongs to none is passed on.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._into: dict[bool, list[str]] = {}
        self._logger = logging.getLogger("longilesion")
        self._logger.addHandler(self)
        self._logger.propagate = False

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True
        super().close()

    @contextmanager
    def into(self, lines: list[str]) -> Iterator[None]:
        """Collects there what is said in this context."""
        is_reader = _is_reader(threading.current_thread().name)
        self._into[is_reader] = lines
        try:
            yield
        finally:
            del self._into[is_reader]

    def emit(self, record: logging.LogRecord) -> None:
        lines = self._into.get(_is_reader(record.threadName or ""))
        if lines is None:
            logging.getLogger().handle(record)
        else:
            lines.append(" ".join(record.getMessage().split()))


def _is_reader(thread: str) -> bool:
    return thread.startswith(_READER)
