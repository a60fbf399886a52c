"""Starts the workers of a cohort: on Ray where that is installed, else one process."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from longilesion.cohort.plan import Task
from longilesion.cohort.workers import Layout, OneProcess, Workers


def has_ray() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


@contextmanager
def one_process(task: Task) -> Iterator[Workers]:
    """Runs all cases in this process."""
    from longilesion.cohort.worker import Worker

    worker = Worker(task)
    try:
        yield OneProcess(worker)
    finally:
        worker.close()


@contextmanager
def on_ray(task: Task, layout: Layout) -> Iterator[Workers]:
    """Runs cases on Ray; raises InputError where it does not start."""
    # Read when Ray is imported: no telemetry, and none but the loopback address where this machine is all there is.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if layout.address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from longilesion.cohort.on_ray import OnRay

    with OnRay(task, layout) as workers:
        yield workers
