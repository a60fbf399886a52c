"""`make bench-cohort`: cases an hour, efficiency of two workers, and a simulation of a large cohort on many GPUs."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.cohort_simulation import Machines, Stages, simulate
from benchmarks.pairs import WIDTH_MM, PairSize, torso_pair, write_case
from benchmarks.runs import COMMAND, measured
from longilesion.shipped import SHIPPED_MODEL

FULL = PairSize(slices=150, spacing_zyx_mm=(3.0, 1.5, 1.5), lesions=4)
QUICK = PairSize(slices=50, spacing_zyx_mm=(6.0, 4.0, 4.0), lesions=2)
# Voxels of a scan of the simulated cases, by which reading and writing grow.
SIMULATED_VOXELS = 512 * 512 * 300
# The stage of a case's record that a GPU shortens; the others are work of the cores.
NETWORK = "network"


@dataclass
class Arguments:
    """What to measure, and the assumptions of the simulation."""

    cases: int = 6
    """Cases of the cohort that is measured."""
    quick: bool = False
    """Small scans, to see that it works."""
    model: Path = SHIPPED_MODEL
    """Bundle to run."""
    pairs: int = 100_000
    """Cases of the cohort that is simulated."""
    gpus: tuple[int, ...] = (1, 8, 64)
    """Numbers of GPUs, each of which has a worker."""
    archive_mb_s: float = 1000.0
    """Bandwidth of the storage that all workers read from, in MB/s."""
    write_mb_s: float = 500.0
    """Bandwidth of the storage that all workers write to, in MB/s."""
    pair_mb: float = 150.0
    """Size of a case's files: two compressed scans of 512 x 512 x 300 voxels."""
    result_mb: float = 1.0
    """Size of a case's results."""
    cores_per_gpu: int = 8
    """Cores of each worker, which its work besides the network is spread over."""
    parallel_share: float = 0.7
    """Share of that work that is spread over cores (Amdahl's law); the rest is that of one core."""
    gpu_speed_up: float = 50.0
    """How much faster the network is on a GPU than on the cores of the measurement."""
    lesions_per_case: float = 15.0
    """Lesions of a simulated case; the measured time of outlining grows with them."""


def main(arguments: Arguments) -> None:
    """Runs the cohort by one process, by a process for each case, by one and by two workers, and prints tables."""
    console = Console(width=max(110, Console().width))
    size = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(prefix="longilesion-bench-") as name:
        folder = Path(name)
        for number in range(arguments.cases):
            write_case(folder / "cases" / f"case{number}", torso_pair(size, seed=number))
        once = _seconds_each(folder, arguments)
        ways = {
            "process.py, the model loaded for each case": once,
            "one process": _cohort(folder, arguments, "--one-process"),
            "one worker with a core": _cohort(folder, arguments, "--workers", "1", "--cores-per-worker", "1"),
            "two workers with a core each": _cohort(folder, arguments, "--workers", "2", "--cores-per-worker", "1"),
        }
        table = Table("way", title=f"{arguments.cases} cases on {len(os.sched_getaffinity(0))} cores")
        for heading in ("seconds", "start", "cases an hour, without start"):
            table.add_column(heading, justify="right")
        for way, (seconds, start) in ways.items():
            an_hour = 3600 * arguments.cases / (seconds - start)
            table.add_row(way, f"{seconds:.1f}", f"{start:.1f}", f"{an_hour:.0f}")
        console.print(table)
        net = {way: seconds - start for way, (seconds, start) in ways.items()}
        one, two = (net[way] for way in ("one worker with a core", "two workers with a core each"))
        console.print(f"two workers are {one / two:.2f} times as fast as one: efficiency {one / two / 2:.2f}")
        each, loaded = (net[way] for way in ("process.py, the model loaded for each case", "one process"))
        console.print(f"the model loaded once is {each / loaded:.2f} times as fast as for each case")
        stages = _stages(folder / "one", size, arguments)
    _print_simulation(console, stages, arguments)


def _seconds_each(folder: Path, arguments: Arguments) -> tuple[float, float]:
    """Seconds of process.py for all cases, none of which are those of the start."""
    begun = time.perf_counter()
    for case in sorted((folder / "cases").iterdir()):
        paths = {"--input": case, "--output": folder / "each" / case.name, "--model": arguments.model}
        measured([sys.executable, "process.py", *(str(part) for pair in paths.items() for part in pair)])
    return time.perf_counter() - begun, 0.0


def _cohort(folder: Path, arguments: Arguments, *options: str) -> tuple[float, float]:
    """Seconds of the command, and of those the ones without any case: start, results, end."""
    name = "one" if options == ("--one-process",) else "-".join(options)
    words = ["cohort", str(folder / "cases"), "--output", str(folder / name), "--model", str(arguments.model), *options]
    command = [*COMMAND, *words]
    seconds, _ = measured(command)
    # Once more: every case is done.
    start, _ = measured(command)
    return seconds, start


def _stages(output: Path, size: PairSize, arguments: Arguments) -> Stages:
    """A case's stages as they are on a GPU, by the records of the measured cases and the assumptions."""
    seconds = [json.loads(path.read_text())["seconds"] for path in output.glob("*/case.json")]
    average: Mapping[str, float] = {stage: mean(each[stage] for each in seconds) for stage in seconds[0]}
    more = arguments.lesions_per_case / size.lesions
    _, y, x = size.spacing_zyx_mm
    larger = SIMULATED_VOXELS / (size.slices * (WIDTH_MM / y) * (WIDTH_MM / x))
    spread = arguments.parallel_share / arguments.cores_per_gpu + 1 - arguments.parallel_share
    outlining = {stage: spent * more for stage, spent in average.items() if stage not in ("read", "write")}
    network = outlining.pop(NETWORK) / arguments.gpu_speed_up
    return Stages(
        read_s=average["read"] * larger,
        transfer_mb=arguments.pair_mb,
        cores_s=sum(outlining.values()) * spread,
        gpu_s=network,
        write_s=average["write"] * larger,
        result_mb=arguments.result_mb,
    )


def _print_simulation(console: Console, stages: Stages, arguments: Arguments) -> None:
    console.print(
        f"\nAssumed for a case: {stages.transfer_mb:.0f} MB to read and {stages.read_s:.2f} s to decode, "
        f"{stages.cores_s:.2f} s of {arguments.cores_per_gpu} cores, {stages.gpu_s:.2f} s of the GPU, "
        f"{stages.write_s:.2f} s and {stages.result_mb:.1f} MB to write",
        highlight=False,
    )
    table = Table("GPUs", title=f"{arguments.pairs:,} cases, simulated")
    for heading in (
        "hours",
        "cases an hour",
        "efficiency",
        "archive",
        "reader",
        "cores",
        "GPU",
        "writing",
        "bottleneck",
    ):
        table.add_column(heading, justify="right")
    machines = Machines(archive_mb_s=arguments.archive_mb_s, write_mb_s=arguments.write_mb_s)
    alone = None
    for gpus in arguments.gpus:
        # Enough cases for a steady state; more would change no rate.
        count = min(arguments.pairs, 400 * gpus)
        result = simulate(stages, machines, workers=gpus, cases=count, seed=0)
        rate = count / result.seconds
        alone = rate / gpus if alone is None else alone
        busy = [f"{share:.0%}" for share in result.busy.values()]
        table.add_row(
            str(gpus),
            f"{arguments.pairs / rate / 3600:.1f}",
            f"{3600 * rate:.0f}",
            f"{rate / gpus / alone:.2f}",
            *busy,
            max(result.busy, key=result.busy.__getitem__),
        )
    console.print(table)
    console.print("Shares of the time that each is busy, of workers the mean; seconds of a case vary by a third.")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
