"""Where the cases of a cohort are run: the interface, and its simplest form, one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from longilesion.cohort.plan import CohortCase
from longilesion.cohort.record import Outcome

if TYPE_CHECKING:
    from longilesion.cohort.worker import Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many workers there are, and what each of them has; None for as many as there is room for."""

    address: str | None = None
    cores: int | None = None
    workers: int | None = None


@runtime_checkable
class Workers(Protocol):
    """Runs cases in any order; with `read_ahead`, a worker reads its next case while it computes one.

    A worker that is lost costs the case that it computes and no other. `description` is for people, and may be empty.
    """

    @property
    def description(self) -> str:
        """How many workers of which kind there are."""

    def run(self, cases: Sequence[CohortCase], *, read_ahead: bool) -> Iterator[Outcome]:
        """The outcome of each case, as soon as it is known; raises BundleError where the model cannot be used."""


class OneProcess:
    """Runs cases in this process, one after another."""

    description = ""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def run(self, cases: Sequence[CohortCase], *, read_ahead: bool) -> Iterator[Outcome]:
        """As `Workers`."""
        for number, case in enumerate(cases, start=1):
            yield self._worker.run(case, cases[number] if read_ahead and number < len(cases) else None)


def run_cases(cases: Sequence[CohortCase], workers: Workers) -> Iterator[Outcome]:
    """The outcome of each case; those that fail are run once more, when all others are done.

    They are not read ahead then: where one costs its worker, no other case is there.
    """
    failed = []
    for outcome in workers.run(cases, read_ahead=True):
        if outcome.record.error is None:
            yield outcome
        else:
            failed.append(outcome.record.case)
    yield from workers.run([case for case in cases if case.name in set(failed)], read_ahead=False)
