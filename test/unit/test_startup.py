"""What programs import, and how their threads wait; each program is a process of its own."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from longilesion.startup import lasting_imports
from test.unit.case_folders import write_case

ROOT = Path(__file__).parents[2]

# What registration, drawing, scoring and training need, and a case with clicks does not.
UNUSED = {
    "fastapi",
    "matplotlib",
    "monai",
    "nibabel",
    "nnunetv2",
    "pandas",
    "picsl_greedy",
    "rich",
    "scipy.signal",
    "scipy.stats",
    "skimage",
    "sklearn",
    "tyro",
    "uvicorn",
}

LIST_MODULES = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(list(sys.modules))))
"""

# Ends the program where it imports torch, and prints how threads are to wait.
STOP_AT_TORCH = """
import os, sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Stop())
"""

PROGRAMS = (
    "import process; process.main(['--help'])",
    "from longilesion.cli import main; main(['segment', '--followup', 'f', '--output', 'o.mha', '--lesions', 'l'])",
    "import training.command",
)


def printed(program: str, **environment: str) -> str:
    """The last line that a Python program prints, in an environment that does not say how threads wait."""
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**inherited, "OMP_NUM_THREADS": "1", **environment},
    )
    return finished.stdout.splitlines()[-1]


def modules_of(program: str) -> set[str]:
    """The modules that a program has imported when it ends."""
    return set(json.loads(printed(LIST_MODULES + program)))


def test_case_with_clicks_imports_only_what_it_uses(tmp_path: Path, bundle: Path) -> None:
    options = ["--input", write_case(tmp_path / "in"), "--output", tmp_path / "out", "--model", bundle]
    arguments = [*map(str, options), "--report", str(tmp_path / "report.json")]
    modules = modules_of(f"import process; assert process.main({arguments}) == 0")
    assert "torch" in modules
    assert modules & UNUSED == set()
    assert "longilesion.registration.register" not in modules


def test_registration_imports_neither_signal_processing_nor_torch() -> None:
    modules = modules_of("import longilesion.registration.propagation, longilesion.registration.register")
    assert modules & (UNUSED | {"torch"}) == {"picsl_greedy"}


def test_help_comes_without_waiting_for_libraries() -> None:
    program = """
from longilesion.cli import main
for command in ("", "segment", "follow", "cohort", "review", "register", "evaluate", "evaluate-diagnosis"):
    try:
        main([*command.split(), "--help"])
    except SystemExit as end:
        assert not end.code
"""
    assert modules_of(program) & (UNUSED | {"torch", "scipy"}) == {"rich", "tyro"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_threads_of_programs_wait_passively(program: str) -> None:
    assert printed(STOP_AT_TORCH + program) == "PASSIVE"


def test_threads_wait_as_the_environment_says() -> None:
    assert printed(STOP_AT_TORCH + PROGRAMS[0], OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


def test_library_leaves_the_environment_alone() -> None:
    assert printed(STOP_AT_TORCH + "import longilesion.pipeline") == "None"


def import_that_fails() -> None:
    with lasting_imports():
        assert not gc.isenabled()
        raise ImportError


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_is_collected_as_before_after_imports_that_fail(was_on: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(ImportError):
            import_that_fails()
        assert gc.isenabled() is was_on
    finally:
        (gc.enable if before else gc.disable)()
