"""Import times of the programs, compared with torch's own import."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from statistics import median

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.runs import measured, print_target

# Target: share of torch's import time that all other imports may take.
IMPORT_TARGET = 0.35

TORCH = "import torch"
CASE = "imports of a case"
# Python's shutdown, which takes a while with torch, is left out of these two.
PROGRAMS = {
    TORCH: ["-c", "import os, torch; os._exit(0)"],
    # It prints its help once everything is imported.
    CASE: ["-c", "import os, process\ntry:\n    process.main(['--help'])\nfinally:\n    os._exit(0)"],
    "import torch, to the end": ["-c", "import torch"],
    "process.py --help": ["process.py", "--help"],
    "longilesion --help": ["-c", "from longilesion.cli import main; main(['--help'])"],
    "longilesion segment --help": ["-c", "from longilesion.cli import main; main(['segment', '--help'])"],
}


@dataclass
class Arguments:
    """How to measure."""

    repeats: int = 9
    """How often each program is started."""


def main(arguments: Arguments) -> None:
    """Starts the programs alternately, so that other load does not affect one alone, and prints a table."""
    console = Console(width=max(120, Console().width))
    for program in PROGRAMS.values():
        # Once for the bytecode files and the system's file cache.
        measured([sys.executable, *program])
    runs = [
        {name: measured([sys.executable, *program]) for name, program in PROGRAMS.items()}
        for _ in range(arguments.repeats)
    ]
    walls = {name: [run[name][0] for run in runs] for name in PROGRAMS}
    processor = {name: [run[name][1].ru_utime + run[name][1].ru_stime for run in runs] for name in PROGRAMS}
    table = Table("program", title=f"Start-up, {arguments.repeats} fresh processes each")
    for column in ("seconds, median", "least", "processor time, median", "beyond torch / torch"):
        table.add_column(column, justify="right")
    for name in PROGRAMS:
        beyond = f"{_beyond(walls, name):.2f}" if name == CASE else ""
        table.add_row(
            name, f"{median(walls[name]):.2f}", f"{min(walls[name]):.2f}", f"{median(processor[name]):.2f}", beyond
        )
    console.print(table)
    share = _beyond(walls, CASE)
    text = f"a case's imports beside torch's: {share:.2f} of it (at most {IMPORT_TARGET})"
    print_target(console, share <= IMPORT_TARGET, text)


def _beyond(seconds: dict[str, list[float]], name: str) -> float:
    """A program's time beyond torch's import, as a share of that: the median over paired rounds."""
    return median(own / torch - 1 for own, torch in zip(seconds[name], seconds[TORCH], strict=True))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
