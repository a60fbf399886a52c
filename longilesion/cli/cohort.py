"""`longilesion cohort`: outlines the lesions of many cases, by one worker or several."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from longilesion.cli.terminal import console
from longilesion.config import Device, Precision
from longilesion.errors import InputError
from longilesion.files import check_writable
from longilesion.run_options import RunOptions
from longilesion.shipped import SHIPPED_MODEL
from longilesion.startup import lasting_imports

if TYPE_CHECKING:
    from longilesion.cohort.plan import Task
    from longilesion.cohort.record import CaseRecord, Outcome
    from longilesion.cohort.workers import Layout, Workers

_log = logging.getLogger(__name__)


def cohort(
    cases: Annotated[Path, tyro.conf.Positional],
    /,
    *,
    output: Path,
    model: Path = SHIPPED_MODEL,
    device: Device = "auto",
    precision: Precision = "auto",
    refine_clicks: bool = False,
    find_new: bool = False,
    detector: Path | None = None,
    cores_per_worker: int | None = None,
    workers: int | None = None,
    address: str | None = None,
    one_process: bool = False,
) -> None:
    """Outline the lesions of many cases, each as by `longilesion segment`, on all cores, GPUs or machines.

    Workers keep the model loaded. A case that fails, or costs its worker, is run once more in the end, then reported,
    and stops no other. What is done and unchanged is not done again. Without Ray (pip install longilesion[cohort]),
    one process runs all cases.

    Args:
        cases: Folder of cases in Grand Challenge's layout, a subfolder each; or a table (.csv) with the columns case,
            followup, and any of baseline, lesions, baseline_clicks, followup_clicks, whose paths are relative to it.
        output: Folder for a folder of each case (maps, report.json), the tables of lesions (lesions.csv,
            lesions.parquet) and of cases (cases.csv), and a page (summary.html).
        model: Folder with the model's settings and weights.
        device: Where the networks run; auto takes a GPU if there is one.
        precision: Number format of the networks; auto takes the fastest that the device has.
        refine_clicks: Let registration move follow-up clicks that it contradicts confidently.
        find_new: Search the follow-up scans for lesions that nobody clicked.
        detector: Folder of the model that searches.
        cores_per_worker: Cores of each worker; by default 4, or with GPUs an equal share, as each has a worker.
        workers: The most workers to start; by default as many as there is room for.
        address: Address of a Ray cluster (HOST:6379, or auto), all machines of which see the same paths; by default,
            this machine alone is used.
        one_process: Run all cases in one process, without Ray.
    """
    for name, value in (("cores-per-worker", cores_per_worker), ("workers", workers)):
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}; expected 1 or more")
    with lasting_imports():
        from longilesion import __version__
        from longilesion.cohort.page import PAGE
        from longilesion.cohort.plan import Task, find_cases
        from longilesion.cohort.tables import CASES, LESIONS, LESIONS_PARQUET
        from longilesion.cohort.workers import Layout, run_cases
        from longilesion.fingerprint import fingerprint
        from longilesion.organs import check_search_options

    check_search_options(find_new=find_new, organs=None, organ=(), detector=detector)
    found = find_cases(cases, output, reserved=(CASES, LESIONS, LESIONS_PARQUET, PAGE))
    output = output.absolute()
    check_writable(output)
    options = RunOptions(
        model=model.absolute(),
        device=device,
        precision=precision,
        refine_clicks=refine_clicks,
        find_new=find_new,
        detector=None if detector is None else detector.absolute(),
    )
    made_of = fingerprint(__version__, *(getattr(options, option.name) for option in fields(options)))
    task = Task(options=options, output=output, made_of=made_of)
    to = console(piped_width=120)
    records: dict[str, CaseRecord] = {}
    kept = 0
    layout = Layout(address=address, cores=cores_per_worker, workers=workers)
    with _workers(task, to, layout, in_one_process=one_process) as running:
        for outcome in _shown(run_cases(found, running), len(found), to):
            records[outcome.record.case] = outcome.record
            kept += outcome.is_kept
    _write_results(output, [records[case.name] for case in found], model, to, kept=kept)


@contextmanager
def _workers(task: Task, to: Console, layout: Layout, *, in_one_process: bool) -> Iterator[Workers]:
    """Workers on Ray; one in this process where that is wished, or where Ray is missing."""
    from longilesion.cohort.start import has_ray, on_ray, one_process

    if not (in_one_process or has_ray()):
        if layout.address is not None:
            raise InputError(f"--address {layout.address} without Ray; expected it: pip install 'longilesion[cohort]'")
        to.print("Ray is not installed: all cases are run in this process, one after another", highlight=False)
        in_one_process = True
    with ExitStack() as stack:
        with to.status("starting workers"):
            workers = stack.enter_context(one_process(task) if in_one_process else on_ray(task, layout))
        if workers.description:
            to.print(workers.description, highlight=False)
        yield workers


def _shown(outcomes: Iterator[Outcome], count: int, to: Console) -> Iterator[Outcome]:
    """Passes outcomes on and shows how many there are, in a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=to, disable=not to.is_terminal) as progress:
        bar = progress.add_task("cases", total=count)
        failed = 0
        for outcome in outcomes:
            failed += outcome.record.error is not None
            progress.update(bar, advance=1, description=f"cases, {failed} failed" if failed else "cases")
            yield outcome


def _write_results(output: Path, records: Sequence[CaseRecord], model: Path, to: Console, *, kept: int) -> None:
    """Writes tables and page, says what failed; raises InputError where anything did."""
    from longilesion.cohort.page import write_summary
    from longilesion.cohort.summary import CohortSummary
    from longilesion.cohort.tables import CASES, LESIONS_PARQUET, has_parquet, write_cases, write_lesions

    failed = [record for record in records if record.error is not None]
    for record in failed:
        _log.warning("case %s: %s", record.case, record.error)
    summary = CohortSummary(output, records)
    write_lesions(output, summary.rows())
    write_cases(output, summary.cases)
    write_summary(output, summary, model=str(model))
    if not has_parquet():
        to.print(f"pyarrow is not installed: there is no {LESIONS_PARQUET}", highlight=False)
    lesions = sum(case.lesions for case in summary.cases)
    before = f", {kept} of them by an earlier run" if kept else ""
    done = len(records) - len(failed)
    to.print(f"{done} of {len(records)} cases done{before}; {lesions} lesions", highlight=False)
    if failed:
        raise InputError(
            f"{output}: {len(failed)} of {len(records)} cases failed (see above, and {CASES}); expected none"
        )
