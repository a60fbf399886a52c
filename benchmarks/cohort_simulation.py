"""A discrete simulation of a cohort: workers that read one case ahead, a shared archive and storage of results."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Deviation of a case's seconds and megabytes, as a share of their mean.
VARIATION = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """A case on average: megabytes and seconds of each stage of a worker."""

    read_s: float
    transfer_mb: float
    cores_s: float
    gpu_s: float
    write_s: float
    result_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """What all workers share: storages, each of which serves one transfer after another at its full bandwidth."""

    archive_mb_s: float
    write_mb_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """The seconds of all cases, and the share of them that each resource is busy."""

    seconds: float
    busy: Mapping[str, float]


@dataclass(slots=True)
class _Queue:
    """A resource that serves one after another; `free_at` is when it is free again."""

    free_at: float = 0.0
    busy: float = 0.0

    def serve(self, at: float, seconds: float) -> float:
        """When a request of that time, which comes then, is served."""
        self.free_at = max(self.free_at, at) + seconds
        self.busy += seconds
        return self.free_at


@dataclass(slots=True)
class _Next:
    """The case that a worker reads ahead: its factor, and when it is read."""

    factor: float
    ready_at: float


def simulate(stages: Stages, machines: Machines, *, workers: int, cases: int, seed: int) -> Simulated:
    """Runs the cases. From when a worker takes one up, it reads the next, which it takes when the first is written."""
    random = np.random.default_rng(seed)
    # Log-normal factors of mean 1: times and sizes are never negative, and some cases are large.
    sigma = float(np.sqrt(np.log1p(VARIATION**2)))
    left = iter(random.lognormal(-(sigma**2) / 2, sigma, cases).tolist())
    archive, results = _Queue(), _Queue()
    spent = dict.fromkeys(("reader", "cores", "GPU", "writing"), 0.0)

    def read(at: float) -> _Next | None:
        factor = next(left, None)
        if factor is None:
            return None
        transferred = archive.serve(at, factor * stages.transfer_mb / machines.archive_mb_s)
        spent["reader"] += factor * stages.read_s
        return _Next(factor=factor, ready_at=transferred + factor * stages.read_s)

    # In order of time, as both storages serve who comes first.
    events: list[tuple[float, int, bool]] = []
    current: list[_Next | None] = [read(0.0) for _ in range(workers)]
    ahead: list[_Next | None] = [None] * workers
    for number, case in enumerate(current):
        if case is not None:
            heapq.heappush(events, (case.ready_at, number, False))
    last = 0.0
    while events:
        now, number, is_computed = heapq.heappop(events)
        case = current[number]
        assert case is not None
        if not is_computed:
            ahead[number] = read(now)
            spent["cores"] += case.factor * stages.cores_s
            spent["GPU"] += case.factor * stages.gpu_s
            heapq.heappush(events, (now + case.factor * (stages.cores_s + stages.gpu_s), number, True))
            continue
        stored = results.serve(now, case.factor * stages.result_mb / machines.write_mb_s)
        end = stored + case.factor * stages.write_s
        last = max(last, end)
        spent["writing"] += end - now
        following = current[number] = ahead[number]
        if following is not None:
            heapq.heappush(events, (max(end, following.ready_at), number, False))
    shares = {name: seconds / workers / last for name, seconds in spent.items()}
    return Simulated(seconds=last, busy={"archive": archive.busy / last, **shares})
