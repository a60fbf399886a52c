"""Time of a case and of training steps, alone and beside another process, by the threads' wait policy."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.pairs import PairSize, torso_pair, write_case
from benchmarks.runs import ROOT, measured
from longilesion.networks import build_network
from training.dataset import SyntheticLesions
from training.learner import LesionLearner, Progress, launched
from training.loading import Share, batches
from training.optimisation import initialised
from training.recipe import read_recipe
from training.training_data import synthesis_sources

# In libgomp a number of spins takes precedence over the policy; its default is 300000.
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "as shipped: passive": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "GOMP_SPINCOUNT=300000, libgomp's own": {"GOMP_SPINCOUNT": "300000"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
RECIPE = ROOT / "training" / "recipes" / "compact.toml"
# Spins until it is ended.
OTHER = [sys.executable, "-c", "while True: pass"]


@dataclass
class Arguments:
    """What to measure."""

    model: Path = ROOT / "model"
    """Model bundle."""
    others: int = 1
    """How many other processes there are, each of which would take a core."""
    repeats: int = 3
    """How often a case is run with each setting."""
    steps: int = 10
    """Steps of training that are timed; 0 leaves training out."""
    quick: bool = False
    """Small scans, to see that it works."""


def main(arguments: Arguments) -> None:
    """Prints a table for cases, and one for training."""
    console = Console(width=max(120, Console().width))
    size = (
        PairSize(slices=80, spacing_zyx_mm=(3.0, 2.0, 2.0), lesions=2)
        if arguments.quick
        else PairSize(slices=300, spacing_zyx_mm=(1.5, 0.75, 0.75), lesions=6)
    )
    with tempfile.TemporaryDirectory(prefix="longilesion-bench-") as name:
        folder = Path(name)
        write_case(folder / "case", torso_pair(size))
        (folder / "output").mkdir()
        paths = {"--input": folder / "case", "--output": folder / "output", "--model": arguments.model}
        command = [sys.executable, "process.py", *(str(part) for pair in paths.items() for part in pair)]
        _print_table(console, "seconds of a case", arguments, lambda: measured(command)[0])
    if arguments.steps:
        _print_table(console, "seconds of a step of training", arguments, lambda: _apart(arguments.steps))


def _print_table(console: Console, title: str, arguments: Arguments, measure: Callable[[], float]) -> None:
    beside = f"beside {arguments.others} other" + ("s" if arguments.others > 1 else "")
    table = Table("threads", title=f"{title}, median of {arguments.repeats}, on {os.cpu_count()} cores")
    for column in ("alone", beside):
        table.add_column(column, justify="right")
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(arguments.repeats):
        # Alternating, so that other load does not affect one setting alone.
        for name, variables in SETTINGS.items():
            for others in (0, arguments.others):
                with _environment(variables), _company(others):
                    seconds.setdefault((name, others), []).append(measure())
    for name in SETTINGS:
        table.add_row(name, *(f"{median(seconds[name, others]):.2f}" for others in (0, arguments.others)))
    console.print(table)


def _apart(steps: int) -> float:
    """Seconds of a step, in a separate process, which reads the environment anew."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_training_step, steps).result()


def _training_step(steps: int) -> float:
    """Median seconds of a step of the compact recipe, with the same batch each time."""
    recipe = read_recipe(RECIPE)
    lesions = SyntheticLesions(synthesis_sources(None, recipe)[0], recipe, seed=0)
    (batch,) = batches(lesions, recipe, Share(workers=0), steps=range(1))
    learner = LesionLearner.of(initialised(build_network(recipe.model)), recipe, launched(recipe, "cpu"))
    done, seconds = Progress(), []
    for _ in range(steps):
        begun = time.perf_counter()
        learner.step(batch, done, rate=recipe.optimizer.learning_rate)
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for the processes started in this context."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _company(count: int) -> Iterator[None]:
    """Starts other processes that keep a core busy each."""
    others = [subprocess.Popen(OTHER) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


if __name__ == "__main__":
    main(tyro.cli(Arguments))
