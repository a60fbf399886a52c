"""`python -m benchmarks.service`: seconds of a case by a process of its own (exec), and by one that serves (invoke)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.error import URLError
from urllib.request import Request, urlopen

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.pairs import PairSize, torso_pair, write_case
from benchmarks.runs import ROOT, measured
from longilesion.shipped import SHIPPED_MODEL

SIZES = {
    "small": PairSize(slices=60, spacing_zyx_mm=(5.0, 3.0, 3.0), lesions=2),
    "middle": PairSize(slices=150, spacing_zyx_mm=(3.0, 1.5, 1.5), lesions=4),
    "large": PairSize(slices=300, spacing_zyx_mm=(1.5, 0.75, 0.75), lesions=8),
}


@dataclass
class Arguments:
    """What to measure."""

    cases: int = 3
    """Cases of each size."""
    sizes: tuple[str, ...] = ("small", "middle", "large")
    """Sizes of the scans: small, middle, large."""
    model: Path = SHIPPED_MODEL
    """Bundle to run."""
    port: int = 4743
    """Port to serve at."""


def main(arguments: Arguments) -> None:
    """Runs each case in both ways in turn, so that other load does not affect one alone, and prints a table."""
    console = Console(width=max(100, Console().width))
    with tempfile.TemporaryDirectory(prefix="longilesion-bench-") as name:
        folder = Path(name)
        paths = [str(part) for pair in _paths(folder, arguments).items() for part in pair]
        table = Table("case", title="Seconds of a case; the ratio is of medians")
        for heading in ("exec, a process each", "invoke, one for all", "ratio"):
            table.add_column(heading, justify="right")
        (folder / "output").mkdir()
        with _serving([sys.executable, "process.py", "--serve", *paths], arguments.port) as started:
            for size in arguments.sizes:
                seconds: tuple[list[float], list[float]] = ([], [])
                for number in range(arguments.cases):
                    write_case(folder / f"{size}{number}", torso_pair(SIZES[size], seed=number))
                    (folder / "input").unlink(missing_ok=True)
                    (folder / "input").symlink_to(folder / f"{size}{number}")
                    seconds[0].append(measured([sys.executable, "process.py", *paths])[0])
                    begun = time.perf_counter()
                    urlopen(Request(f"http://127.0.0.1:{arguments.port}/invoke", method="POST")).close()
                    seconds[1].append(time.perf_counter() - begun)
                    console.print(f"{size} {number}: {seconds[0][-1]:.1f} s, {seconds[1][-1]:.1f} s", style="dim")
                each, one = (median(values) for values in seconds)
                table.add_row(size, f"{each:.2f}", f"{one:.2f}", f"{each / one:.2f}")
        console.print(table)
        console.print(f"start of the service, until it is healthy: {started:.2f} s", highlight=False)


def _paths(folder: Path, arguments: Arguments) -> dict[str, object]:
    return {
        "--input": folder / "input",
        "--output": folder / "output",
        "--model": arguments.model,
        "--port": arguments.port,
    }


@contextmanager
def _serving(command: list[str], port: int) -> Iterator[float]:
    """A service; yields the seconds that it took to start."""
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as service:
        try:
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except URLError:
                    if service.poll() is not None:
                        sys.exit(f"{' '.join(command)} failed")
                    time.sleep(0.05)
            yield time.perf_counter() - begun
        finally:
            service.terminate()


if __name__ == "__main__":
    main(tyro.cli(Arguments))
