"""The simulated cohort, where the answer is known without a simulation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cohort_simulation import Machines, Stages, simulate

seconds = st.floats(0.01, 10)
FAST = Machines(archive_mb_s=1e9, write_mb_s=1e9)


def stages(**known: float) -> Stages:
    values = {
        "read_s": 0.0,
        "transfer_mb": 0.0,
        "cores_s": 0.0,
        "gpu_s": 0.0,
        "write_s": 0.0,
        "result_mb": 0.0,
        **known,
    }
    return Stages(**values)


@given(cores_s=seconds, gpu_s=seconds, write_s=seconds)
def test_worker_that_need_not_read_does_one_case_after_another(cores_s: float, gpu_s: float, write_s: float) -> None:
    result = simulate(stages(cores_s=cores_s, gpu_s=gpu_s, write_s=write_s), FAST, workers=1, cases=50, seed=1)
    assert sum(result.busy.values()) == pytest.approx(1)
    assert result.busy["GPU"] / result.busy["cores"] == pytest.approx(gpu_s / cores_s)


@given(workers=st.integers(1, 20), transfer_mb=st.floats(1, 100), gpu_s=seconds)
def test_storage_that_is_too_slow_sets_the_pace(workers: int, transfer_mb: float, gpu_s: float) -> None:
    machines = Machines(archive_mb_s=transfer_mb / (100 * gpu_s), write_mb_s=1e9)
    result = simulate(stages(transfer_mb=transfer_mb, gpu_s=gpu_s), machines, workers=workers, cases=100, seed=2)
    assert result.busy["archive"] > 0.9


@given(workers=st.integers(1, 20), gpu_s=seconds)
def test_workers_that_share_nothing_are_busy_all_the_time(workers: int, gpu_s: float) -> None:
    """What is read ahead in less time than a case takes costs none, but for the first case and the last ones."""
    result = simulate(stages(read_s=gpu_s / 10, gpu_s=gpu_s), FAST, workers=workers, cases=200 * workers, seed=3)
    assert result.busy["GPU"] > 0.9
    assert result.busy["reader"] == pytest.approx(result.busy["GPU"] / 10)


def test_fewer_cases_than_workers_are_all_run() -> None:
    """Two of five workers have one, and the last is done when the longer one is."""
    result = simulate(stages(gpu_s=1.0), FAST, workers=5, cases=2, seed=0)
    assert 1 < 5 * result.busy["GPU"] <= 2
