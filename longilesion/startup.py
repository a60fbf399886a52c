"""Process-wide settings that a program makes before it imports torch; importing the library makes none."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def wait_passively() -> None:
    """Lets torch's threads sleep while they wait for each other, unless the environment sets a wait policy.

    Threads that spin occupy cores that other threads could use. It has no effect once torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Excludes what is imported in this context from garbage collection, as modules last until the process ends.

    Torch creates hundreds of thousands of objects. Traversing them repeatedly during the imports, and when Python ends,
    takes half as long as the import of torch.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_on:
            gc.enable()
