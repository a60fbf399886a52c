"""`python -m benchmarks.find_new`: seconds and peak memory of a search for lesions that nobody clicked."""

from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.pairs import PairSize, torso_pair, write_case
from benchmarks.runs import ROOT, measured
from longilesion.case import LesionMap
from longilesion.geometry import Grid
from longilesion.grand_challenge import read_case
from longilesion.images import write_lesion_map
from longilesion.shipped import SHIPPED_MODEL

FULL = PairSize(slices=300, spacing_zyx_mm=(1.5, 0.75, 0.75), lesions=4)
QUICK = PairSize(slices=100, spacing_zyx_mm=(4.0, 3.0, 3.0), lesions=2)
# The half axes of an ellipsoid of a liver's size.
LIVER_ZYX_MM = (75.0, 70.0, 100.0)


@dataclass
class Arguments:
    """What to measure."""

    model: Path = SHIPPED_MODEL
    """Bundle of the network that searches."""
    quick: bool = False
    """A small pair of scans, to see that it works."""
    organ_only: bool = False
    """Leaves out the search of the whole body."""


def main(arguments: Arguments) -> None:
    """Runs process.py without a search, with one in an organ, and with one in the whole body."""
    console = Console(width=max(100, Console().width))
    size = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(prefix="longilesion-bench-") as name:
        folder = Path(name)
        # In a separate process: a process' peak memory includes that of its parent at its start.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as painter:
            shape = painter.submit(_write, folder, size).result()
        table = Table("run", title=f"process.py on a pair of {' x '.join(map(str, shape[::-1]))} voxels")
        for heading in ("seconds", "of the search", "peak memory, GB", "candidates"):
            table.add_column(heading, justify="right")
        searches = {
            "without a search": [],
            "in an organ of a liver's size": ["--find-new", "--organs", str(folder / "organs")],
            "in the whole body": ["--find-new"],
        }
        if arguments.organ_only:
            del searches["in the whole body"]
        for run, options in searches.items():
            output = folder / run
            output.mkdir()
            paths = [
                "--input",
                folder / "case",
                "--output",
                output,
                "--model",
                arguments.model,
                "--report",
                output / "r.json",
            ]
            if options:
                options = [*options, "--detector", str(arguments.model)]
            wall, usage = measured([sys.executable, str(ROOT / "process.py"), *map(str, paths), *options])
            report = json.loads((output / "r.json").read_text())
            table.add_row(
                run,
                f"{wall:.0f}",
                f"{report['seconds'].get('search', 0):.0f}",
                f"{usage.ru_maxrss * 1024 / 1e9:.2f}",
                str(len(report["candidates"])),
            )
        console.print(table)


def _write(folder: Path, size: PairSize) -> tuple[int, int, int]:
    """Paints and writes the pair and the mask of an organ in the middle of the follow-up; returns that scan's shape."""
    write_case(folder / "case", torso_pair(size))
    case, files = read_case(folder / "case")
    grid = case.followups["primary"].grid
    organs = folder / "organs"
    organs.mkdir()
    write_lesion_map(organs / "liver.nii.gz", LesionMap(ids=_ellipsoid(grid), grid=grid), like=files["primary"])
    return grid.shape_zyx


def _ellipsoid(grid: Grid) -> np.ndarray:
    axes = zip(np.ogrid[tuple(slice(0, size) for size in grid.shape_zyx)], grid.shape_zyx, strict=True)
    parts = zip(axes, grid.spacing_zyx_mm, LIVER_ZYX_MM, strict=True)
    return (sum((((axis - (size - 1) / 2) * step) / half) ** 2 for (axis, size), step, half in parts) <= 1).astype(
        np.uint16
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
