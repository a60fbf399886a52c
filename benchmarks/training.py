"""`make bench-training`: time of a step, waiting for data, two processes, synthesis, augmentation, cache."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.runs import ROOT, measured, peak_bytes, print_target
from longilesion.networks import build_network
from training import prepare
from training.cache import build_cache
from training.dataset import CachedLesions, SyntheticLesions
from training.learner import LesionLearner, Progress, launched
from training.loading import Lesions, Share, batches
from training.optimisation import initialised
from training.preparation.prepared import PreparedData, read_prepared
from training.recipe import AugmentationSettings, Recipe, read_recipe
from training.run_log import read_log
from training.samples import Sample, collate
from training.synthesis.pairs import synthetic_pair
from training.synthesis.sources import load_sources
from training.training_data import split_volumes, synthesis_sources

RECIPES = ROOT / "training" / "recipes"
WAITING_TARGET = 0.10
# Tolerance for sums in another order, in float32; the difference grows from step to step.
LOSS_TOLERANCE = 1e-3
MEMORY_TARGET_BYTES = 4e9


@dataclass
class Arguments:
    """What to measure."""

    data: Path | None = None
    """A folder of CT volumes, to be measured beside phantoms."""
    recipe: Path = RECIPES / "compact.toml"
    steps: int = 60
    """How many steps are timed; the recipe's first draw of lesions comes before."""
    pairs: int = 6
    """How many synthetic pairs are drawn, and cases are prepared."""
    quick: bool = False
    """A small network, few steps, to see that it works."""


def main(arguments: Arguments) -> None:
    """Runs the measurements in turn; each prints its table."""
    console = Console(width=max(120, Console().width))
    if arguments.quick:
        arguments.recipe, arguments.steps, arguments.pairs = RECIPES / "tiny.toml", 8, 3
    torch.set_flush_denormal(True)
    recipe = read_recipe(arguments.recipe)
    console.print(
        f"\nRecipe {recipe.name}, {recipe.batch_size} lesions a step; {torch.get_num_threads()} threads, "
        f"{os.cpu_count()} cores.\n",
        highlight=False,
    )
    with tempfile.TemporaryDirectory(prefix="longilesion-bench-") as name:
        folder = Path(name)
        prepared = _print_preparation(console, folder, arguments)
        lesions = _print_cache(console, prepared, recipe)
        _print_steps(console, arguments, recipe, lesions)
        _print_processes(console, folder, prepared, steps=min(arguments.steps, 20))
    _print_synthesis(console, arguments)
    _print_augmentation(console, recipe)


def _print_preparation(console: Console, folder: Path, arguments: Arguments) -> PreparedData:
    """Prepares synthetic cases with one worker, in a separate process."""
    rows: dict[str, tuple[float, float]] = {}
    for name, source in _sources(arguments).items():
        output = folder / name
        options = ["--cases", arguments.pairs, "--phantoms", 2, "--folds", 0, "--workers", 1, "--output", output]
        given = [] if source is None else ["--data", source]
        seconds, peak = _apart(_prepared, ["synthetic", *map(str, [*options, *given])])
        rows[name] = seconds / arguments.pairs, peak
    table = Table("whole scans of", "seconds a case", "peak memory, GB", "ratio", title="Preparation, one worker")
    first = next(iter(rows.values()))[0]
    for name, (seconds, peak) in rows.items():
        table.add_row(name, f"{seconds:.2f}", f"{peak / 1e9:.2f}", f"{seconds / first:.2f}")
    console.print(table)
    peak = max(peak for _, peak in rows.values())
    print_target(console, peak <= MEMORY_TARGET_BYTES, f"peak memory of a worker: {peak / 1e9:.2f} GB (at most 4 GB)")
    return read_prepared(folder / "phantoms")


def _prepared(words: Sequence[str]) -> tuple[float, float]:
    """Seconds of `training.prepare`, and its peak memory."""
    sys.argv = ["prepare", *words]
    begun = time.perf_counter()
    if prepare.main():
        sys.exit("training.prepare failed")
    return time.perf_counter() - begun, peak_bytes()


def _print_cache(console: Console, prepared: PreparedData, recipe: Recipe) -> CachedLesions:
    begun = time.perf_counter()
    cache = build_cache(prepared, prepared.cases, recipe, workers=1)
    seconds = time.perf_counter() - begun
    count = len(cache.lesions)
    size = sum(path.stat().st_size for path in cache.folder.rglob("*.npz"))
    lesions = CachedLesions(cache, recipe, seed=0)
    begun = time.perf_counter()
    for index in range(count):
        lesions[index]
    read = (time.perf_counter() - begun) / count
    table = Table("", "per lesion", "ratio", title=f"Cache of {count} lesions, one worker")
    table.add_row("cut out and written, seconds", f"{seconds / count:.3f}", "1.00")
    table.add_row("read, jittered and sampled, seconds", f"{read:.3f}", f"{read * count / seconds:.2f}")
    table.add_row("on the disk, MB", f"{size / count / 1e6:.2f}", "")
    console.print(table)
    return lesions


def _print_steps(console: Console, arguments: Arguments, recipe: Recipe, cached: CachedLesions) -> None:
    """Steps of training with one worker, from each source."""
    sources: dict[str, Lesions] = {"the cache": cached}
    for name, folder in _sources(arguments).items():
        sources[f"{name}, on the fly"] = SyntheticLesions(synthesis_sources(folder, recipe)[0], recipe, seed=0)
    table = Table("lesions from", "seconds a step", "ratio", "waiting for data", title="Steps, one worker")
    rows = {name: _steps(lesions, recipe, arguments.steps) for name, lesions in sources.items()}
    for name, (seconds, waiting) in rows.items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / rows['the cache'][0]:.2f}", f"{waiting:.1%}")
    console.print(table)
    for name, (_, waiting) in rows.items():
        text = f"{name}: {waiting:.1%} of a step is waiting for data (at most {WAITING_TARGET:.0%})"
        print_target(console, waiting <= WAITING_TARGET, text)


def _steps(lesions: Lesions, recipe: Recipe, steps: int) -> tuple[float, float]:
    """Mean seconds of a step, and the share spent waiting for data, after the steps of a first block."""
    torch.manual_seed(0)
    learner = LesionLearner.of(initialised(build_network(recipe.model)), recipe, launched(recipe, "cpu"))
    first = max(3, lesions.drawn_together // recipe.batch_size)
    # Later samples are not drawn: the worker would prefetch samples that are not used.
    stream = batches(lesions, recipe, Share(workers=1), steps=range(first + steps))
    done, waited = Progress(), 0.0
    begun = before = time.perf_counter()
    for number, batch in enumerate(stream):
        if number == first:
            begun, waited = before, 0.0
        waited += time.perf_counter() - before
        learner.step(batch, done, rate=recipe.optimizer.learning_rate)
        before = time.perf_counter()
    return (before - begun) / steps, waited / (before - begun)


def _print_processes(console: Console, folder: Path, prepared: PreparedData, *, steps: int) -> None:
    """The same run in one process and in two that share its batches, each with one thread."""
    text = (RECIPES / "tiny.toml").read_text()
    assert "average_decay" in text
    recipe = folder / "tiny.toml"
    recipe.write_text(text.replace("average_decay", 'precision = "32-true"\naverage_decay', 1))
    common = [recipe, "--data", prepared.folder, "--steps", steps, "--workers", 0, "--log-every", 1, "--device", "cpu"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launchers = {
        "one": [sys.executable, "-m"],
        "two, by gloo": [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            f"--master-port={port}",
            "-m",
        ],
    }
    losses: dict[str, list[float]] = {}
    table = Table("processes", "seconds a step", "ratio", "last loss", title=f"Two processes, {steps} steps, float32")
    seconds: dict[str, float] = {}
    # Fewer cut-outs to make for the first run.
    build_cache(prepared, prepared.split(None)[0], read_recipe(recipe), workers=1)
    os.environ.update({"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})
    for name, launcher in launchers.items():
        output = folder / f"run of {name}"
        measured([*map(str, [*launcher, "training.train", *common, "--output", output])])
        log = read_log(output / "metrics.csv")
        losses[name] = [row["loss"] for row in log]
        seconds[name] = float(np.median([row["seconds"] for row in log]))
        table.add_row(name, f"{seconds[name]:.3f}", f"{seconds[name] / seconds['one']:.2f}", f"{losses[name][-1]:.6f}")
    console.print(table)
    alone, together = (np.array(own) for own in losses.values())
    difference = float(np.abs(together / alone - 1).max())
    text = f"losses differ by {difference:.1e} of their value at most (tolerance {LOSS_TOLERANCE:g})"
    print_target(console, difference <= LOSS_TOLERANCE, text)


def _print_synthesis(console: Console, arguments: Arguments) -> None:
    table = Table("pairs of", "", "seconds a pair", "ratio", "peak memory, GB", title="Synthesis, one thread")
    for name, folder in _sources(arguments).items():
        first = 0.0
        for whole in (False, True):
            seconds, peak = _apart(_painted, folder, arguments.recipe, arguments.pairs, whole)
            first = first or seconds
            size = "whole scans" if whole else "cut-outs"
            table.add_row(name, size, f"{seconds:.2f}", f"{seconds / first:.2f}", f"{peak / 1e9:.2f}")
    console.print(table)


def _painted(folder: Path | None, recipe_file: Path, pairs: int, whole: bool) -> tuple[float, float]:
    """Seconds per pair, and the peak memory including at most three volumes."""
    torch.set_num_threads(1)
    recipe = read_recipe(recipe_file)
    sources = (
        synthesis_sources(None, recipe)[0][:2]
        if folder is None
        else load_sources(folder, split_volumes(folder, recipe)[0][:2])
    )
    begun = time.perf_counter()
    for number in range(pairs):
        generator = np.random.default_rng(number)
        source = sources[number % len(sources)]
        synthetic_pair(source, generator, shapes=sources, settings=recipe.synthesis, whole=whole)
    seconds = (time.perf_counter() - begun) / pairs
    return seconds, peak_bytes()


def _apart(job: Callable[..., tuple[float, float]], *arguments: Any) -> tuple[float, float]:
    """Runs a job in a separate process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(job, *arguments).result()


def _print_augmentation(console: Console, recipe: Recipe) -> None:
    """Times the encoding of a batch with the published recipe's augmentation, with this recipe's, and without."""
    sources = synthesis_sources(None, recipe)[0][:1]
    lesions = SyntheticLesions(sources, recipe, seed=0)
    samples: Sequence[Sample] = [lesions[index] for index in range(4 * recipe.batch_size)]
    published = read_recipe(RECIPES / "longinet.toml").augmentation
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = {}
    for name, settings in (
        ("off", AugmentationSettings()),
        (recipe.name, recipe.augmentation),
        ("longinet", published),
    ):
        augmenting = recipe.model_copy(update={"augmentation": settings})
        begun = time.perf_counter()
        for start in range(0, len(samples), recipe.batch_size):
            collate(samples[start : start + recipe.batch_size], augmenting)
        rows[name] = 1000 * (time.perf_counter() - begun) / len(samples)
    torch.set_num_threads(threads)
    table = Table("augmentation", "ms a sample, with encoding", "ratio", title="Augmentation, one thread")
    for name, spent in rows.items():
        table.add_row(name, f"{spent:.1f}", f"{spent / rows['off']:.2f}")
    console.print(table)


def _sources(arguments: Arguments) -> dict[str, Path | None]:
    return {"phantoms": None, **({} if arguments.data is None else {"CT": arguments.data})}


if __name__ == "__main__":
    main(tyro.cli(Arguments))
