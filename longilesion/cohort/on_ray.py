"""Workers on Ray: an actor per GPU or per few cores, on this machine or on a cluster. Nothing else imports Ray."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from longilesion.cohort.plan import CohortCase, Task
from longilesion.cohort.record import CaseRecord, Outcome
from longilesion.cohort.workers import Layout
from longilesion.errors import BundleError, InputError
from longilesion.startup import wait_passively

if TYPE_CHECKING:
    from longilesion.cohort.worker import Worker

# Seconds that Ray, and the first worker, may take to start.
START_S = 180.0
_CONNECT_S = 10.0
# Starts of a worker in a row that may fail.
_MOST_STARTS = 3
_STORE_BYTES = 100 << 20
# Cores of a worker without a GPU, where nothing else is said.
_USUAL_CORES = 4


class _Actor:
    """A worker in a process of its own. Errors are returned as text, as their classes may not be known elsewhere."""

    def __init__(self, task: Task) -> None:
        # Before anything imports torch.
        wait_passively()
        self._task = task
        self._worker: Worker | None = None

    def load(self) -> str | None:
        """Loads the models; returns why that fails, else None."""
        from longilesion.cohort.worker import Worker
        from longilesion.program import failure_of

        def load() -> None:
            self._worker = Worker(self._task)

        return failure_of(load)

    def run(self, case: CohortCase, ahead: CohortCase | None) -> Outcome:
        """As `Worker.run`."""
        assert self._worker is not None
        return self._worker.run(case, ahead)


@dataclass(slots=True, kw_only=True, eq=False)
class _Slot:
    """A worker, the case that it computes, and the one that it reads ahead; `starts` counts those in vain."""

    actor: Any
    case: CohortCase | None = None
    ahead: CohortCase | None = None
    is_loaded: bool = False
    starts: int = 0


class OnRay:
    """A context with workers on Ray; they are stopped at its end. Raises InputError where Ray does not start."""

    def __init__(self, task: Task, layout: Layout) -> None:
        self._task, self._layout = task, layout
        self._slots: list[_Slot] = []
        # What is awaited of which worker: that it is loaded, or an outcome.
        self._awaited: dict[Any, _Slot] = {}
        self._has_started = False
        self._ends = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> OnRay:
        if self._layout.address is not None:
            _check_address(self._layout.address)
        # Ray's processes end with the thread that starts them. In a thread of its own, it can be given up, and leaves
        # the program's signals alone.
        started = threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(started,), daemon=True)
        self._thread.start()
        where = self._layout.address or "this machine"
        if not started.wait(START_S):
            raise InputError(f"{where}: Ray has not started within {START_S:.0f} s; expected it to, or --one-process")
        if self._failure is not None:
            reason = str(self._failure).splitlines()[0] if str(self._failure) else type(self._failure).__name__
            raise InputError(f"{where}: Ray does not start ({reason}); expected it to, or --one-process")
        try:
            # Kept, as a machine may be lost: a worker that follows another one is of the same kind.
            self._count, self._needs = self._room()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            ray.kill(slot.actor)
        self._ends.set()
        self._thread.join(_CONNECT_S)

    def _hold(self, started: threading.Event) -> None:
        try:
            logging.getLogger("ray").setLevel(logging.CRITICAL)
            # The only switch for what Ray prints of processes that end; that of a worker is in its case's record.
            ray._private.worker._worker_logs_enabled = False
            quiet: dict[str, Any] = {
                "configure_logging": False,
                "log_to_driver": False,
                "logging_level": logging.CRITICAL,
            }
            if self._layout.address is None:
                # Also where an address is set in the environment.
                ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
            else:
                ray.init(self._layout.address, **quiet)
        except BaseException as error:  # noqa: BLE001 - told in the other thread
            self._failure = error
            return
        finally:
            started.set()
        self._ends.wait()
        ray.shutdown()

    @property
    def description(self) -> str:
        """How many workers of which kind there are, for people."""
        gpu = "a GPU and " if self._needs["num_gpus"] else ""
        return f"workers: {self._count}, each with {gpu}{self._needs['num_cpus']} cores"

    def run(self, cases: Sequence[CohortCase], *, read_ahead: bool) -> Iterator[Outcome]:
        """As `Workers`. Raises InputError where no worker starts at all."""
        waiting = deque(cases)
        while len(self._slots) < min(self._count, len(cases)):
            self._slots.append(_Slot(actor=self._actor()))
        self._occupy(waiting, read_ahead=read_ahead)
        last = time.monotonic()
        # A worker that is being started is waited for only where there is something to do.
        while self._awaited and (waiting or self._is_computing()):
            ready, _ = ray.wait(list(self._awaited), num_returns=1, timeout=1.0)
            if ready or self._is_computing():
                last = time.monotonic()
            elif time.monotonic() - last > START_S:
                break
            for reference in ready:
                yield from self._taken(self._awaited.pop(reference), reference, waiting)
            # All that are idle, not only this one: a worker that is lost gives back what it was to do next.
            self._occupy(waiting, read_ahead=read_ahead)
        if waiting and not self._has_started:
            raise InputError(f"no worker has started within {START_S:.0f} s; expected room for {self.description}")
        for case in waiting:
            yield _failed(case, "its workers were lost, and no other one could be started")

    def _occupy(self, waiting: deque[CohortCase], *, read_ahead: bool) -> None:
        """Gives all idle workers something to do."""
        for slot in self._slots:
            if slot not in self._awaited.values() and slot.starts < _MOST_STARTS:
                self._next(slot, waiting, read_ahead=read_ahead)

    def _actor(self) -> Any:
        return ray.remote(max_restarts=0, max_task_retries=0, **self._needs)(_Actor).remote(self._task)

    def _is_computing(self) -> bool:
        return any(slot.case is not None for slot in self._slots)

    def _room(self) -> tuple[int, dict[str, Any]]:
        """How many workers there is room for, and what each needs; raises InputError where there is none."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        there = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
        on_gpu = self._task.options.device != "cpu" and any(gpus for _, gpus in there)
        if on_gpu:
            there = [(cores, gpus) for cores, gpus in there if gpus]
            each = self._layout.cores or max(1, min(cores // gpus for cores, gpus in there))
            count = sum(min(gpus, cores // each) for cores, gpus in there)
        else:
            most = max((cores for cores, _ in there), default=0)
            each = self._layout.cores or max(1, min(_USUAL_CORES, most))
            count = sum(cores // each for cores, _ in there)
        if count == 0:
            raise InputError(f"--cores-per-worker {each}: no machine has as many; expected fewer")
        return min(count, self._layout.workers or count), {"num_cpus": each, "num_gpus": int(on_gpu)}

    def _next(self, slot: _Slot, waiting: deque[CohortCase], *, read_ahead: bool) -> None:
        """Gives a worker something to do, if there is anything."""
        if not slot.is_loaded:
            self._awaited[slot.actor.load.remote()] = slot
            return
        slot.case, slot.ahead = slot.ahead or (waiting.popleft() if waiting else None), None
        if slot.case is None:
            return
        # The last cases are left to whoever is free first.
        if read_ahead and len(waiting) >= len(self._slots):
            slot.ahead = waiting.popleft()
        self._awaited[slot.actor.run.remote(slot.case, slot.ahead)] = slot

    def _taken(self, slot: _Slot, reference: Any, waiting: deque[CohortCase]) -> Iterator[Outcome]:
        """What a worker has come to; one that is lost is replaced."""
        try:
            value: Outcome | str | None = ray.get(reference)
        except RayError as error:
            yield from self._lost(slot, waiting, error)
            return
        if isinstance(value, Outcome):
            slot.case = None
            yield value
        elif value is not None:
            raise BundleError(value)
        else:
            slot.is_loaded, slot.starts, self._has_started = True, 0, True

    def _lost(self, slot: _Slot, waiting: deque[CohortCase], error: RayError) -> Iterator[Outcome]:
        """A worker that was killed, or whose machine is gone: only the case that it was computing counts as failed."""
        if slot.ahead is not None:
            waiting.appendleft(slot.ahead)
        case, slot.case, slot.ahead = slot.case, None, None
        slot.starts += not slot.is_loaded
        slot.is_loaded = False
        # It lives on where Ray itself failed.
        ray.kill(slot.actor)
        slot.actor = self._actor()
        if case is not None:
            yield _failed(case, _reason(error))


def _failed(case: CohortCase, reason: str) -> Outcome:
    return Outcome(record=CaseRecord(case=case.name, error=reason))


def _reason(error: RayError) -> str:
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its worker was stopped, as memory ran out; expected more, or fewer workers"
    return "its worker was killed, or its machine is gone; expected one that lasts, and has the memory for it"


def _check_address(address: str) -> None:
    """Raises InputError where nobody listens: Ray itself ends the program then."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{address}: {reason}; expected the address of a Ray cluster, such as HOST:6379") from error
