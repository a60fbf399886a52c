"""Batches for each step of a run, made by worker processes, in an order that a resumed run repeats."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TypeAlias

from torch.utils.data import DataLoader

from longilesion.errors import InputError, LongilesionError
from training.batch import Batch
from training.dataset import CachedLesions, SyntheticLesions
from training.exam_dataset import CachedExams
from training.parallel import DeadWorkerError, begin_worker, worker_context
from training.recipe import Recipe
from training.samples import Sample, collate
from training.stopping import ignore_stop_signals

Lesions: TypeAlias = CachedLesions | SyntheticLesions | CachedExams

# Lesions of a block give several batches at once; the network must not wait for the next block meanwhile.
_PREFETCHED = 16
# Reading a cut-out takes little time.
_FEW = 3
# The shared memory for the workers' batches; Docker's default is 64 MB.
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of every global batch that this process makes, and its number of workers."""

    rank: int = 0
    processes: int = 1
    workers: int = 0


def batches(lesions: Lesions, recipe: Recipe, share: Share, *, steps: range) -> Iterator[Batch]:
    """The batches of this process for those steps of the run.

    Raises DeadWorkerError where a worker process ends, and the error of a failing worker.
    """
    prefetched = _PREFETCHED if lesions.drawn_together > 1 else _FEW
    if share.workers:
        _check_shared_memory(recipe, share, prefetched=prefetched)
        _end_workers_with_the_program()
    loader: DataLoader[Sample] = DataLoader(
        lesions,
        batch_sampler=(sample_indices(lesions.drawn_together, recipe.batch_size, share, step=step) for step in steps),
        collate_fn=partial(collate, recipe=recipe),
        num_workers=share.workers,
        prefetch_factor=prefetched if share.workers else None,
        worker_init_fn=_begin_worker,
        multiprocessing_context=worker_context() if share.workers else None,
    )
    try:
        yield from loader
    except LongilesionError as error:
        # The loader prefixes the message with the worker's traceback.
        raise type(error)(str(error).strip().splitlines()[-1].removeprefix(f"{_qualified(type(error))}: ")) from error
    except (RuntimeError, EOFError, ConnectionError) as error:
        # Batches of a killed worker may refer to shared memory that no longer exists.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        reason = str(error).splitlines()[0] if str(error) else "its connection broke"
        raise DeadWorkerError(
            f"a worker process died ({reason}); run again to resume, with fewer --workers if memory was short"
        ) from error


def sample_indices(drawn_together: int, batch_size: int, share: Share, *, step: int) -> list[int]:
    """The run's samples that one process takes at a step, out of a global batch of `batch_size`.

    The samples of a block go to one worker, so that they are drawn only once; the loader assigns steps to its workers
    in turn.
    """
    own = batch_size // share.processes
    if drawn_together == 1:
        first = step * batch_size + share.rank * own
        return list(range(first, first + own))
    workers = max(share.workers, 1)
    lanes = share.processes * workers
    lane = share.rank * workers + step % workers
    block, place = divmod(step // workers, drawn_together // own)
    first = (block * lanes + lane) * drawn_together + place * own
    return list(range(first, first + own))


def _check_shared_memory(recipe: Recipe, share: Share, *, prefetched: int) -> None:
    """Raises InputError where shared memory is too small: the loader would wait for the workers without end."""
    if not _SHARED_MEMORY.is_dir():
        return
    voxels = prod(recipe.jitter.lattice(recipe.model.voi).shape_zyx)
    encoding = recipe.model.encoding
    priors = recipe.data.priors[1] if recipe.model.network.uses_earlier else 1
    maps = encoding.width(encoding.followup_channels) + priors * encoding.width(encoding.baseline_channels)
    maps += encoding.has_prior_mask + 1
    sample = 4 * voxels * maps
    # All processes on this machine use the same shared memory.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    wanted = sample * (recipe.batch_size // share.processes) * (prefetched + 1) * share.workers * processes
    room = shutil.disk_usage(_SHARED_MEMORY).free
    if wanted > room:
        workers = f"{share.workers} workers" + (f" of each of {processes} processes" if processes > 1 else "")
        raise InputError(
            f"{_SHARED_MEMORY}: {room / 1e6:.0f} MB for the batches of {workers}; expected "
            f"{wanted / 1e6:.0f} MB (docker run --shm-size), or fewer --workers (0 needs none)"
        )


@cache
def _end_workers_with_the_program() -> None:
    """Where a program ends by an error, workers of an open stream are waited for, and ignore the signal to end."""
    Finalize(None, _kill_workers, exitpriority=0)


def _kill_workers() -> None:
    # torch reports killed workers as an error.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def _begin_worker(_worker: int) -> None:
    ignore_stop_signals()
    begin_worker()


def _qualified(kind: type[Exception]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
