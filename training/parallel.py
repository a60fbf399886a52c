"""One job for many items, over the cores, with a progress bar where a person watches."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess as ParentProcess
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from longilesion.errors import LongilesionError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class DeadWorkerError(LongilesionError):
    """A process that ended in the middle of its work."""


def single_threaded() -> None:
    """One thread per process: more threads than cores slow each other down."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def begin_worker() -> None:
    """Begins a worker process, which ends with the one that has started it, however that ends."""
    single_threaded()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: ParentProcess) -> None:
    parent.join()
    os._exit(1)


def progress_bar(*, visible: bool = True) -> Progress:
    """A bar on stderr, drawn only in a terminal; each task has a note."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (visible and console.is_terminal),
    )


def in_parallel(
    job: Callable[[_Item], _Result], items: Sequence[_Item], *, workers: int, label: str
) -> Iterator[_Result]:
    """Does a job for every item and yields the results as they come; in this process with fewer than two workers.

    A job's own error is raised here; so is DeadWorkerError where a process is killed, for lack of memory say.
    """
    with progress_bar() as progress:
        task = progress.add_task(label, total=len(items), note="")
        if workers < 2 or len(items) < 2:
            for item in items:
                yield job(item)
                progress.advance(task)
            return
        # Processes that are forked from one with threads may never wake up.
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker) as pool:
            waiting = {pool.submit(job, item) for item in items}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                        progress.advance(task)
            except BrokenProcessPool as error:
                raise DeadWorkerError(
                    f"{label}: a worker process died, perhaps for lack of memory; run again with fewer --workers"
                ) from error
            finally:
                for future in waiting:
                    future.cancel()
