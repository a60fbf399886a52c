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
def lasting_imports() -> Iterator[None]:
    """Keeps what is imported meanwhile from being searched for garbage, then and later, as it lasts until the end.

    Torch brings hundreds of thousands of objects. To search them again and again during imports, and when Python ends,
    takes as long as half of torch's import.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_on:
            gc.enable()
