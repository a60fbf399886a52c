"""Runs both programs on a case, each run in a separate process, and measures them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parent.parent
# The command in a process of its own; its words follow.
COMMAND = (sys.executable, "-c", "import sys; from longilesion.cli import main; sys.exit(main())")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a program in a separate process: seconds, CPU time, seconds by stage, memory."""

    wall: float
    processor: float
    stages: Mapping[str, float]
    peak_bytes: int
    reported_bytes: int | None


def compared(folder: Path, model: Path, repeats: int, console: Console) -> tuple[list[Run], list[Run]]:
    """Runs longilesion and the straightforward program alternately, so that other load does not affect one alone."""
    programs = ([str(ROOT / "process.py")], ["-m", "benchmarks.straightforward"])
    runs: tuple[list[Run], list[Run]] = ([], [])
    for repeat in range(repeats):
        for program, collected in zip(programs, runs, strict=True):
            console.print(f"run {repeat + 1} of {repeats}: {program[-1]} ...", style="dim")
            collected.append(_run(program, folder, model))
    return runs


def _run(program: Sequence[str], folder: Path, model: Path) -> Run:
    output, report = folder / "output", folder / "report.json"
    output.mkdir(exist_ok=True)
    paths = {"--input": folder / "case", "--output": output, "--model": model, "--report": report}
    command = [sys.executable, *program, *(str(part) for pair in paths.items() for part in pair)]
    wall, usage = measured(command)
    content = json.loads(report.read_text())
    stages = content.get("seconds", content)
    return Run(
        wall=wall,
        processor=usage.ru_utime + usage.ru_stime,
        stages={**stages, "start": wall - sum(stages.values())},
        peak_bytes=usage.ru_maxrss * 1024,
        reported_bytes=content.get("peak_memory_bytes"),
    )


def measured(command: Sequence[str]) -> tuple[float, resource.struct_rusage]:
    """Runs a command to its end; returns the seconds and the process' resource usage."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    # Unlike getrusage(RUSAGE_CHILDREN), which covers all ended processes, this covers one.
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return wall, usage


def peak_bytes() -> int:
    """The peak memory of this process; that of getrusage may include the parent's before this process' start."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def print_target(console: Console, reached: bool, text: str) -> None:
    """Prints whether a target is reached, and the figure."""
    verdict = "[green]reached[/green]" if reached else "[red]missed[/red]"
    console.print(f"{verdict}  {text}", highlight=False)
