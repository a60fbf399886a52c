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
    """Leaves a file that says whether the process has the data set's module, which nothing here imports."""
    (folder / str(os.getpid())).write_text(str("training.dataset" in sys.modules))
    time.sleep(60)


def begun(folder: Path) -> dict[int, str]:
    """What the two jobs left, by their processes; as much as there is of it after a minute."""
    started = time.monotonic()
    while True:
        workers = {int(path.name): path.read_text() for path in folder.iterdir()}
        if (len(workers) == 2 and all(workers.values())) or time.monotonic() - started > 60:
            return workers
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_is_done_once(workers: int) -> None:
    assert sorted(in_parallel(doubled, range(5), workers=workers, label="doubling")) == [0, 2, 4, 6, 8]


def test_what_a_job_raises_is_raised_and_a_killed_one_is_told() -> None:
    with pytest.raises(InputError, match="no such thing"):
        list(in_parallel(refused, range(4), workers=2, label="refusing"))
    with pytest.raises(DeadWorkerError, match="counting: a worker process died"):
        list(in_parallel(killed, range(4), workers=2, label="counting"))


def test_workers_have_what_jobs_need_from_the_start_and_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    # A process of its own: a program has one server, which imports nothing more once it runs.
    program = subprocess.Popen([sys.executable, "-m", "test.unit.test_parallel", str(tmp_path)])
    try:
        workers = begun(tmp_path)
        assert list(workers.values()) == ["True", "True"]
        assert all(is_alive(pid) for pid in workers)
    finally:
        program.kill()
        program.wait()
    ended = time.monotonic()
    while any(is_alive(pid) for pid in workers) and time.monotonic() - ended < 10:
        time.sleep(0.1)
    assert not any(is_alive(pid) for pid in workers)


if __name__ == "__main__":
    list(in_parallel(asleep, [Path(sys.argv[1])] * 2, workers=2, label="sleeping"))
