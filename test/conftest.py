"""What all tests share: checked shapes and types, one thread, a small phantom, real CT where there is some."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

from test.type_checking import check_types

# What is imported stays, and need not be looked through for garbage: neither while it is, nor by each later collection.
gc.disable()

# Before anything imports the library.
check_types(["longilesion", "training"])

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from test.phantoms import PhantomCase, torso_case  # noqa: E402

torch.set_num_threads(1)

# The same examples at every run; no limit on a single one's time, as machines are shared.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts files with slow tests first, so that no worker is left with one of them in the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Gives the processor its denormal numbers back, which the commands of training take from the whole process."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def phantom() -> PhantomCase:
    """A torso with lesions of every fate, in one scan per time point."""
    return torso_case(0)


@pytest.fixture(scope="session")
def real_ct() -> Path:
    """The folder of real scans, from LONGILESION_CT or beside the repository; skips the test where there is none."""
    default = Path(__file__).parents[2] / "shared" / "data" / "ct"
    folder = Path(os.environ.get("LONGILESION_CT", default))
    if not any(folder.glob("*/ct.nii.gz")):
        pytest.skip(f"no real CT in {folder}; set LONGILESION_CT")
    return folder
