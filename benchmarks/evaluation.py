"""`python -m benchmarks.evaluation`: cost of scoring an exam, and its growth with lesions and slices."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import SimpleITK as sitk
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.runs import COMMAND, measured, print_target
from longilesion.case import LesionMap
from longilesion.evaluation.challenge import challenge_entries, challenge_score
from longilesion.evaluation.exam import Exam, LesionFact, Prediction, ScoringSettings
from longilesion.evaluation.overlap import Overlap
from longilesion.evaluation.scoring import score_exam
from longilesion.geometry import Grid

SECONDS_TARGET = 10.0
MEMORY_TARGET_BYTES = 2e9
# Target: a lesion added to many costs at most this multiple of one added to few.
GROWTH_TARGET = 1.2
_SPACING_ZYX_MM = (1.5, 0.75, 0.75)
_RADII_MM = (4.0, 6.0, 9.0, 14.0, 20.0)


@dataclass
class Arguments:
    """What to measure."""

    repeats: int = 3
    """How often each is run."""
    quick: bool = False
    """Small maps with few lesions, to see that it works."""


def main(arguments: Arguments) -> None:
    """Scores a pair of maps as the command does, and as a straightforward program would; then varies its size."""
    console = Console(width=max(120, Console().width))
    slices, width, lesions = (120, 192, 10) if arguments.quick else (600, 512, 50)
    truth, predicted = _maps(slices, width, lesions)
    console.print(
        f"\nTwo label maps of {width} x {width} x {slices} voxels with {lesions} lesions; {arguments.repeats} runs; "
        f"{os.cpu_count()} cores.\n",
        highlight=False,
    )
    _print_command(console, truth, predicted, arguments.repeats)
    _print_scaling(console, truth, predicted, lesions, arguments.repeats)


def _maps(slices: int, width: int, lesions: int) -> tuple[LesionMap, LesionMap]:
    """Balls on a coarse lattice near the middle slices, and the same balls smaller and shifted."""
    grid = Grid.from_spacing((slices, width, width), _SPACING_ZYX_MM)
    truth, predicted = (np.zeros(grid.shape_zyx, np.uint16) for _ in range(2))
    generator = np.random.default_rng(0)
    per_side = int(np.ceil(np.sqrt(lesions)))
    for number in range(lesions):
        row, column = divmod(number, per_side)
        centre = (
            slices / 2 + generator.uniform(-4, 4),
            (row + 0.5) * width / per_side,
            (column + 0.5) * width / per_side,
        )
        radius = min(_RADII_MM[number % len(_RADII_MM)], 0.4 * width / per_side * _SPACING_ZYX_MM[1])
        _paint(truth, centre, radius, number + 1)
        _paint(predicted, np.add(centre, generator.uniform(-1, 1, 3)), 0.9 * radius, number + 1)
    return LesionMap(ids=truth, grid=grid), LesionMap(ids=predicted, grid=grid)


def _paint(ids: np.ndarray, centre: Sequence[float], radius_mm: float, lesion_id: int) -> None:
    reach = np.ceil(radius_mm / np.array(_SPACING_ZYX_MM))
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, ids.shape).astype(int)
    box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
    offsets = [
        (np.arange(first, last) - middle) * step
        for first, last, middle, step in zip(low, high, centre, _SPACING_ZYX_MM, strict=True)
    ]
    z, y, x = np.meshgrid(*offsets, indexing="ij", sparse=True)
    ids[box][z**2 + y**2 + x**2 <= radius_mm**2] = lesion_id


def _print_command(console: Console, truth: LesionMap, predicted: LesionMap, repeats: int) -> None:
    with tempfile.TemporaryDirectory(prefix="longilesion-bench-") as name:
        folder = Path(name)
        for place, lesions in (("truth", truth), ("predicted", predicted)):
            image = sitk.GetImageFromArray(lesions.ids.astype(np.uint8))
            image.SetSpacing(lesions.grid.spacing_zyx_mm[::-1])
            (folder / place).mkdir()
            sitk.WriteImage(image, str(folder / place / "exam.mha"), useCompression=True)
        options = ["evaluate", folder / "predicted", folder / "truth", "--output", folder / "output"]
        runs = [measured([*COMMAND, *map(str, options)]) for _ in range(repeats)]
    straightforward = [_seconds(lambda: _straightforward(truth, predicted)) for _ in range(repeats)]
    ours = [_seconds(lambda: _challenge(truth, predicted)) for _ in range(repeats)]
    table = Table("", "min", "median", title="Seconds", title_justify="left")
    rows = {
        "longilesion evaluate --output, a process of its own": [seconds for seconds, _ in runs],
        "the challenge's score alone, in this process": ours,
        "the same by a mask of the whole volume per label": straightforward,
    }
    for row, seconds in rows.items():
        table.add_row(row, f"{min(seconds):.2f}", f"{median(seconds):.2f}")
    console.print(table)
    peak = max(usage.ru_maxrss for _, usage in runs) * 1024
    worst = median(seconds for seconds, _ in runs)
    print_target(console, worst <= SECONDS_TARGET, f"the command takes {worst:.1f} s (at most {SECONDS_TARGET:g} s)")
    print_target(console, peak <= MEMORY_TARGET_BYTES, f"peak memory: {peak / 1e9:.2f} GB (at most 2 GB)")
    console.print(
        f"The challenge's score: {median(straightforward) / median(ours):.0f} times as fast as by whole masks.\n"
    )


def _challenge(truth: LesionMap, predicted: LesionMap) -> float:
    overlap = Overlap.of(truth.ids, predicted.ids)
    return challenge_score(challenge_entries(overlap, voxel_ml=truth.grid.voxel_volume_ml)).dice


def _straightforward(truth: LesionMap, predicted: LesionMap) -> float:
    """The same rule with whole-volume masks, one per label, as it is usually written."""
    dice = []
    for true_id in np.unique(truth.ids)[1:]:
        mask = truth.ids == true_id
        touching = np.unique(predicted.ids[mask])
        for label in touching[touching > 0]:
            other = predicted.ids == label
            dice.append(2 * float((mask & other).sum()) / float(mask.sum() + other.sum()))
        if not touching.any():
            dice.append(0.0)
    return float(np.mean(dice))


def _print_scaling(console: Console, truth: LesionMap, predicted: LesionMap, lesions: int, repeats: int) -> None:
    """Scores an exam with fewer lesions and with fewer slices, without reading and statistics."""
    counts = (lesions // 5, lesions // 2, lesions)
    # The first run includes one-time initialisation of the libraries.
    _scored(_first(truth, 1), _first(predicted, 1), 1)
    by_lesions = {count: _scored(_first(truth, count), _first(predicted, count), repeats) for count in counts}
    console.print(_growth_table("Lesions", by_lesions))
    first, second = ((by_lesions[more] - by_lesions[fewer]) / (more - fewer) for fewer, more in pairwise(counts))
    print_target(
        console,
        second <= GROWTH_TARGET * first,
        f"each lesion from {counts[1]} to {counts[2]} costs {second:.3f} s, {second / first:.2f} times each from "
        f"{counts[0]} to {counts[1]} (at most {GROWTH_TARGET})",
    )
    slices = truth.grid.shape_zyx[0]
    kept = (slices // 4, slices // 2, slices)
    by_slices = {count: _scored(_middle(truth, count), _middle(predicted, count), repeats) for count in kept}
    console.print(_growth_table("Slices", by_slices))
    console.print("More slices cost only the passes over the maps that find the lesions.", highlight=False)


def _scored(truth: LesionMap, predicted: LesionMap, repeats: int) -> float:
    facts = {int(true_id): LesionFact(fate=None, true_id=int(true_id)) for true_id in np.unique(truth.ids)[1:]}
    exam = Exam(name="exam", truth={"primary": truth}, facts=facts, baseline=None, clicks={})
    prediction = Prediction(maps={"primary": predicted}, presence={}, merged_into={})
    return min(_seconds(lambda: score_exam(exam, prediction, ScoringSettings())) for _ in range(repeats))


def _first(lesions: LesionMap, count: int) -> LesionMap:
    return LesionMap(ids=np.where(lesions.ids <= count, lesions.ids, 0).astype(np.uint16), grid=lesions.grid)


def _middle(lesions: LesionMap, count: int) -> LesionMap:
    z, y, x = lesions.grid.shape_zyx
    start = (z - count) // 2
    grid = lesions.grid.window((start, 0, 0), (start + count, y, x))
    return LesionMap(ids=lesions.ids[start : start + count].copy(), grid=grid)


def _growth_table(varied: str, seconds: dict[int, float]) -> Table:
    table = Table(varied.lower(), "seconds", "ratio", title=f"{varied}: scoring an exam", title_justify="left")
    first = next(iter(seconds.values()))
    for count, spent in seconds.items():
        table.add_row(str(count), f"{spent:.2f}", f"{spent / first:.2f}")
    return table


def _seconds(job: Callable[[], object]) -> float:
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main(tyro.cli(Arguments))
