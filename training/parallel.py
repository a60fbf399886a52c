"""Runs one job for many items in parallel processes, with a progress bar in a terminal."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess as ParentProcess
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from longilesion.errors import LongilesionError

# By name: they import this module.
_PRELOADED = ("training.dataset", "training.preparation.run")

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class DeadWorkerError(LongilesionError):
    """A process that ended before its work was done."""


def single_threaded() -> None:
    """Sets one thread per process: more threads than cores slow each other down."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def worker_context() -> BaseContext:
    """Forks workers from a server: forked from a process with running threads, they can deadlock.

    The server imports once what takes each of them seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *_PRELOADED])
    return context


def begin_worker() -> None:
    """Initialises a worker process, which ends with its parent, however that ends."""
    single_threaded()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: ParentProcess) -> None:
    parent.join()
    os._exit(1)


def progress_bar(*, visible: bool = True) -> Progress:
    """A progress bar on stderr, drawn only in a terminal; each task has a note."""
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
    """Runs a job for every item and yields results in order of completion; in this process with fewer than two workers.

    Raises a job's own error, and DeadWorkerError where a process is killed, for instance for lack of memory.
    """
    with progress_bar() as progress:
        task = progress.add_task(label, total=len(items), note="")
        if workers < 2 or len(items) < 2:
            for item in items:
                yield job(item)
                progress.advance(task)
            return
        with ProcessPoolExecutor(workers, mp_context=worker_context(), initializer=begin_worker) as pool:
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
