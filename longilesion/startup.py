"""What a program does before it imports torch; the library itself leaves its process alone."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def wait_passively() -> None:
    """Lets torch's threads sleep while they wait for each other, unless the environment says how they wait.

    Threads that spin hold the cores that others want, each other's among them. It has no effect once torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def garbage_left_alone() -> Iterator[None]:
    """Switches the collection of garbage off for imports, which make hardly any and would often be searched for it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
