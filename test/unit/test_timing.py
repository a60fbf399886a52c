from __future__ import annotations

import pytest

from longilesion.timing import Stopwatch


def test_stages_that_alternate_add_up_and_one_that_fails_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 10.0, 12.0, 20.0, 24.0, 30.0, 38.0])
    monkeypatch.setattr("longilesion.timing.time.perf_counter", lambda: next(now))
    watch = Stopwatch("read", "write", "never")
    for stage in ("write", "read", "write"):
        with watch(stage):
            pass
    with pytest.raises(OSError, match="full"), watch("late"):
        raise OSError("full")
    assert list(watch.seconds.items()) == [("read", 2.0), ("write", 5.0), ("never", 0.0), ("late", 8.0)]
