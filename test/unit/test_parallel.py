"""Jobs over several processes, and what becomes of these when one of them ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from longilesion.errors import InputError
from training.parallel import DeadWorkerError, in_parallel


def doubled(number: int) -> int:
    return 2 * number


def refused(number: int) -> int:
    raise InputError(f"{number}: no such thing; expected another")


def killed(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def asleep(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_done_once(workers: int) -> None:
    assert sorted(in_parallel(doubled, range(5), workers=workers, label="doubling")) == [0, 2, 4, 6, 8]


def test_workers_have_imported_what_jobs_need_before_any_job() -> None:
    # A job of no module of the project, which would bring it along.
    jobs = ["'training.dataset' in __import__('sys').modules"] * 2
    assert list(in_parallel(eval, jobs, workers=2, label="looking")) == [True, True]


def test_what_a_job_raises_is_raised_and_a_killed_one_is_told() -> None:
    with pytest.raises(InputError, match="no such thing"):
        list(in_parallel(refused, range(4), workers=2, label="refusing"))
    with pytest.raises(DeadWorkerError, match="counting: a worker process died"):
        list(in_parallel(killed, range(4), workers=2, label="counting"))


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = subprocess.Popen([sys.executable, "-m", "test.unit.test_parallel", str(tmp_path)])
    started = time.monotonic()
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() - started < 60:
        time.sleep(0.1)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 2
    assert all(is_alive(pid) for pid in workers)
    program.kill()
    program.wait()
    ended = time.monotonic()
    while any(is_alive(pid) for pid in workers) and time.monotonic() - ended < 10:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in workers)


if __name__ == "__main__":
    list(in_parallel(asleep, [Path(sys.argv[1])] * 2, workers=2, label="sleeping"))
