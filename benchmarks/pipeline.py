"""`make bench`: time of a case by stage, compared with a straightforward program, and growth of the cost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.pairs import PairSize, first_lesions, middle_slices, torso_pair, write_case
from benchmarks.runs import ROOT, Run, compared, print_target
from longilesion.bundle import is_bundle, save_bundle
from longilesion.case import Case
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.grand_challenge import read_case
from longilesion.networks import build_network
from longilesion.pipeline import segment_case
from longilesion.shipped import SHIPPED_MODEL
from training.recipe import read_recipe

RECIPES = ROOT / "training" / "recipes"

OVERHEAD_TARGET = 0.15
MEMORY_TARGET_BYTES = 2.5e9
SPEEDUP_TARGET = 2.0
# Tolerance of the targets for cost per lesion and cost of a longer scan.
GROWTH_TARGET = 1.2


@dataclass
class Arguments:
    """What to measure."""

    model: Path | None = None
    """Model bundle; model/ where it is not given, and random weights where that holds none."""
    repeats: int = 3
    """How often each is run."""
    quick: bool = False
    """Small scans with few lesions, to see that it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The long scan that all cases are cut from, the case of the main table, and the variations."""

    long: PairSize
    slices: int
    lesions: int
    lesion_counts: Sequence[int]
    slice_counts: Sequence[int]


FULL = Plan(
    long=PairSize(slices=600, spacing_zyx_mm=(1.5, 0.75, 0.75), lesions=20),
    slices=300,
    lesions=10,
    lesion_counts=(2, 5, 10, 20),
    slice_counts=(150, 300, 600),
)
QUICK = Plan(
    long=PairSize(slices=160, spacing_zyx_mm=(2.5, 2.0, 2.0), lesions=8),
    slices=120,
    lesions=4,
    lesion_counts=(2, 4, 8),
    slice_counts=(80, 120, 160),
)


# Rows of the main table, and the stages of each program.
ROWS = (
    ("start of Python, imports", ("start",), ("start",)),
    ("load weights", ("load",), ("load",)),
    ("read", ("read",), ("read",)),
    ("propagate", ("propagate",), ()),
    ("sample", ("sample",), ("resample", "crop")),
    ("network", ("network",), ("network",)),
    ("paste and label", ("label",), ("paste",)),
    ("write", ("write",), ("write",)),
)
OVERHEAD = ("propagate", "sample", "label", "write")


def main(arguments: Arguments) -> None:
    """Builds the case, runs both programs on it, and then varies lesions and slices."""
    console = Console(width=max(120, Console().width))
    plan = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(prefix="longilesion-bench-") as name:
        folder = Path(name)
        model = _model(arguments.model, folder, console)
        console.print("painting the scans ...", style="dim")
        # In a separate process: a process' peak memory includes that of its parent at its start.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as painter:
            shape = painter.submit(_write_cases, folder, plan).result()
        ours, theirs = compared(folder, model, arguments.repeats, console)
        ensemble = load_ensemble(model)
        _print_conditions(console, plan, shape, ensemble, arguments.repeats)
        _print_programs(console, ours, theirs)
        case, _ = read_case(folder / "long")
        published = load_ensemble(_random_bundle(RECIPES / "longinet.toml", folder / "longinet"))
        few = first_lesions(middle_slices(case, plan.slices), plan.lesions)
        _print_networks(console, few, ensemble, published=published, runs=ours)
        _print_scaling(console, plan, case, ensemble, arguments.repeats)


def _model(given: Path | None, folder: Path, console: Console) -> Path:
    """The bundle to run: the given one, the shipped one, or random weights."""
    if given is not None or is_bundle(SHIPPED_MODEL):
        return given or SHIPPED_MODEL
    console.print("random weights, as there is no model/: outlines are arbitrary, and no lesion is sampled twice")
    return _random_bundle(RECIPES / "compact.toml", folder / "model")


def _random_bundle(recipe: Path, folder: Path) -> Path:
    """A bundle of a recipe's network with random weights, which treats every lesion as present."""
    settings = read_recipe(recipe).model
    settings = settings.model_copy(
        update={
            "voi": settings.voi.model_copy(update={"growth_limit": 0}),
            "inference": settings.inference.model_copy(update={"presence_threshold": 0.0}),
        }
    )
    torch.manual_seed(0)
    save_bundle(folder, settings, [build_network(settings)], provenance={"data": "none, random weights"})
    return folder


def _write_cases(folder: Path, plan: Plan) -> tuple[int, int, int]:
    """Paints and writes the long scans and the case of the main table; returns that case's shape."""
    long = torso_pair(plan.long)
    write_case(folder / "long", long)
    case = first_lesions(middle_slices(long, plan.slices), plan.lesions)
    write_case(folder / "case", case)
    return case.followups["primary"].grid.shape_zyx


def _print_conditions(
    console: Console, plan: Plan, shape_zyx: tuple[int, int, int], ensemble: Ensemble, repeats: int
) -> None:
    z, y, x = shape_zyx
    at_a_time = ensemble.batch_size(ensemble.main_settings)
    precision = str(ensemble.precision).removeprefix("torch.")
    console.print(
        f"""
A pair of {x} x {y} x {z} voxels with {plan.lesions} lesions, as compressed .mha files; {repeats} runs, each a process
of its own. Networks: {len(ensemble.networks)} on {ensemble.device}, {torch.get_num_threads()} threads, \
{os.cpu_count()} cores.
longilesion: {precision}, {at_a_time} lesions at a time, weights loaded once. It aligns each lesion first.
straightforward: float32; both scans resampled as a whole, then lesion by lesion and fold by fold, weights loaded each
time, each probability sampled back to the whole scan. It neither aligns nor zooms, and looks at no lesion twice.
""",
        highlight=False,
    )


def _print_programs(console: Console, ours: Sequence[Run], theirs: Sequence[Run]) -> None:
    """The main table, and the targets below it."""
    table = Table("seconds", title="From start to end")
    for column in ("longilesion, min", "median", "straightforward, min", "median"):
        table.add_column(column, justify="right")
    for row, of_ours, of_theirs in ROWS:
        table.add_row(row, *_spread(ours, of_ours), *_spread(theirs, of_theirs))
    table.add_section()
    walls = [[run.wall for run in runs] for runs in (ours, theirs)]
    table.add_row("everything", *(f"{of(wall):.2f}" for wall in walls for of in (min, median)))
    processor = [[run.processor for run in runs] for runs in (ours, theirs)]
    table.add_row("processor time", *(f"{of(spent):.2f}" for spent in processor for of in (min, median)))
    network = [[run.stages["network"] for run in runs] for runs in (ours, theirs)]
    ratios = [f"{of(wall) / of(net):.2f}" for wall, net in zip(walls, network, strict=True) for of in (min, median)]
    table.add_row("everything / network", *ratios)
    memory = [max(run.peak_bytes for run in runs) for runs in (ours, theirs)]
    table.add_row("peak memory, GB", "", f"{memory[0] / 1e9:.2f}", "", f"{memory[1] / 1e9:.2f}")
    table.add_row("as its report says, GB", "", f"{max(run.reported_bytes or 0 for run in ours) / 1e9:.2f}", "", "")
    console.print(table)
    overhead = median(sum(run.stages[stage] for stage in OVERHEAD) for run in ours) / median(network[0])
    unread = median(run.wall - run.stages["read"] - run.stages["network"] for run in ours) / median(network[0])
    speedup = median(walls[1]) / median(walls[0])
    print_target(
        console,
        overhead <= OVERHEAD_TARGET,
        f"propagate, sample, label and write: {overhead:.0%} of network time (at most {OVERHEAD_TARGET:.0%}); "
        f"{unread:.0%} with the start of Python and the loading of weights",
    )
    print_target(console, memory[0] <= MEMORY_TARGET_BYTES, f"peak memory: {memory[0] / 1e9:.2f} GB (at most 2.5 GB)")
    print_target(
        console,
        speedup >= SPEEDUP_TARGET,
        f"{speedup:.1f} times as fast as straightforward (at least {SPEEDUP_TARGET})",
    )


def _spread(runs: Sequence[Run], stages: Sequence[str]) -> tuple[str, str]:
    if not stages:
        return "", ""
    seconds = [sum(run.stages[stage] for stage in stages) for run in runs]
    return f"{min(seconds):.3f}", f"{median(seconds):.3f}"


def _print_networks(
    console: Console, case: Case, ensemble: Ensemble, *, published: Ensemble, runs: Sequence[Run]
) -> None:
    """Compares the work around the network for a small network and for the published one."""
    write = median(run.stages["write"] for run in runs)
    table = Table("network", title=f"The work around the network, {len(case.clicks)} lesions, one run in this process")
    for column in (*OVERHEAD, "network", "rest / network"):
        table.add_column(column, justify="right")
    share = 0.0
    for name, measured in (("the bundle above", ensemble), ("LongiNet as published", published)):
        seconds = {**segment_case(case, measured).seconds, "write": write}
        share = sum(seconds[stage] for stage in OVERHEAD) / seconds["network"]
        table.add_row(name, *(f"{seconds[stage]:.3f}" for stage in (*OVERHEAD, "network")), f"{share:.0%}")
    console.print(table)
    verdict = f"LongiNet as published: the rest takes {share:.0%} (at most {OVERHEAD_TARGET:.0%})"
    print_target(console, share <= OVERHEAD_TARGET, verdict)


def _print_scaling(console: Console, plan: Plan, case: Case, ensemble: Ensemble, repeats: int) -> None:
    """Prints the growth of the cost with lesions and with slices."""
    console.print(
        f"\nBelow, the best of {repeats} runs in this process, without reading and writing files.\n", highlight=False
    )
    whole = middle_slices(case, plan.slices)
    # The first case of a process includes one-time initialisation of the libraries.
    segment_case(first_lesions(whole, 2), ensemble)
    by_lesions = {count: _fastest(first_lesions(whole, count), ensemble, repeats) for count in plan.lesion_counts}
    _print_stages(console, f"Lesions, at {plan.slices} slices", "lesions", by_lesions, per_step=True)
    costs = [sum(seconds.values()) / count for count, seconds in by_lesions.items()]
    growth = costs[-1] / costs[0]
    print_target(
        console,
        growth <= GROWTH_TARGET,
        f"a lesion among {plan.lesion_counts[-1]} costs {growth:.2f} times one among {plan.lesion_counts[0]} "
        f"(at most {GROWTH_TARGET})",
    )
    few = first_lesions(case, plan.lesions)
    by_slices = {count: _fastest(middle_slices(few, count), ensemble, repeats) for count in plan.slice_counts}
    console.print()
    _print_stages(console, f"Slices, with {plan.lesions} lesions", "slices", by_slices, per_step=False)
    totals = [sum(seconds.values()) for seconds in by_slices.values()]
    growth = totals[-1] / totals[0]
    print_target(
        console,
        growth <= GROWTH_TARGET,
        f"{plan.slice_counts[-1]} slices cost {growth:.2f} times {plan.slice_counts[0]} (at most {GROWTH_TARGET})",
    )


def _fastest(case: Case, ensemble: Ensemble, repeats: int) -> Mapping[str, float]:
    return min(
        (segment_case(case, ensemble).seconds for _ in range(repeats)), key=lambda seconds: sum(seconds.values())
    )


def _print_stages(
    console: Console, title: str, varied: str, measured: Mapping[int, Mapping[str, float]], *, per_step: bool
) -> None:
    """One row per size. The ratio is the cost relative to the first row, per lesion where lesions are varied."""
    stages = list(next(iter(measured.values())))
    table = Table(varied, title=title)
    for column in (*stages, "everything", "ratio per lesion" if per_step else "ratio"):
        table.add_column(column, justify="right")
    for row in _scaling_rows(measured, per_step=per_step):
        table.add_row(*row)
    console.print(table)


def _scaling_rows(measured: Mapping[int, Mapping[str, float]], *, per_step: bool) -> Iterator[list[str]]:
    first = None
    for count, seconds in measured.items():
        total = sum(seconds.values())
        cost = total / count if per_step else total
        first = first or cost
        yield [str(count), *(f"{value:.3f}" for value in seconds.values()), f"{total:.3f}", f"{cost / first:.2f}"]


if __name__ == "__main__":
    main(tyro.cli(Arguments))
