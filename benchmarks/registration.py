"""`make bench-registration`: accuracy and cost of propagated clicks, and their effect on the outlines."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.pairs import PairSize, torso_pair
from benchmarks.registration_outlines import RECIPE, print_outlines
from benchmarks.registration_pairs import COVERAGES, RegistrationPair, registration_pair
from benchmarks.registration_visits import VISITS, kernel_twins
from benchmarks.runs import measured, print_target
from longilesion.case import LOW_CONFIDENCE
from longilesion.ensemble import load_ensemble
from longilesion.geometry import triple
from longilesion.registration.propagation import propagate_points
from longilesion.registration.register import register_scans
from longilesion.shipped import SHIPPED_MODEL
from training.recipe import read_recipe
from training.synthesis.sources import Source, load_sources, phantom_sources
from training.training_data import split_volumes

WRONG_MM = 20.0
MEDIAN_TARGET_MM, P90_TARGET_MM, FLAGGED_TARGET = 4.0, 10.0, 0.9
SECONDS_TARGET, MEMORY_TARGET_BYTES = 20.0, 3e9
LARGE = PairSize(slices=300, spacing_zyx_mm=(2.0, 0.75, 0.75), lesions=8)
SMALL = PairSize(slices=60, spacing_zyx_mm=(5.0, 2.0, 2.0), lesions=4)

# The large pair is measured in a separate process, which prints the seconds of the registration alone.
_COST_PROGRAM = """
import sys, time, numpy as np
from benchmarks.runs import peak_bytes
from longilesion.case import Scan
from longilesion.geometry import Grid
from longilesion.registration.propagation import propagate_points
from longilesion.registration.register import register_scans
loaded = np.load(sys.argv[1])
arrays = [(loaded[f"hu_{k}"], loaded[f"grid_{k}"]) for k in (0, 1)]
scans = [Scan(hu=hu, grid=Grid(shape_zyx=hu.shape, world_from_voxel=matrix)) for hu, matrix in arrays]
points = [tuple(point) for point in loaded["points"].tolist()]
begun = time.perf_counter()
registration = register_scans(*scans)
propagate_points(registration, *scans, points, extents_mm=[0.0] * len(points))
seconds = time.perf_counter() - begun
open(sys.argv[2], "w").write(f"{seconds} {peak_bytes()}")
"""


@dataclass
class Arguments:
    """What to measure."""

    data: Path | None = None
    """A folder of CT volumes, one subfolder each; phantoms where it is not given."""
    model: Path = SHIPPED_MODEL
    pairs: int = 2
    """Pairs drawn of each volume."""
    cases: int = 15
    """Synthetic cases over held-out volumes that are segmented, besides the sample cases."""
    seed: int = 2024
    quick: bool = False
    """Few and small ones, to see that it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PropagatedPair:
    """A propagated point; `error_mm` is infinite where the follow-up is another patient's."""

    coverage: str
    visits: str
    is_held_out: bool
    is_lesion: bool
    is_lung: bool
    truly_shown: bool
    said_shown: bool
    error_mm: float
    confidence: float

    @property
    def is_low(self) -> bool:
        return self.confidence < LOW_CONFIDENCE

    @property
    def is_wrong(self) -> bool:
        """Whether the point is far from the truth, or that far outside the scan's field of view."""
        return self.said_shown and self.error_mm > WRONG_MM


def propagated_points(
    sources: Sequence[Source], held_out: Sequence[str], *, pairs: int, seed: int
) -> Iterator[PropagatedPair]:
    """Propagates points in pairs of each volume, and from each volume to the previous one of another patient.

    Besides `pairs` with moderate motion, there is one of another kind of visits, in turn.
    """
    moderate, *harder = VISITS
    twins = kernel_twins([source.name for source in sources])
    last: RegistrationPair | None = None
    for number, source in enumerate(sources):
        is_held_out = source.name in held_out
        twin = next((each for each in sources if each.name == twins.get(source.name)), None)
        for repeat in range(pairs + 1):
            visits = moderate if repeat < pairs else harder[number % len(harder)]
            generator = np.random.default_rng((seed, number, repeat))
            pair = registration_pair(
                source,
                generator,
                coverage=COVERAGES[(number + repeat) % len(COVERAGES)],
                visits=VISITS[visits],
                twin=twin if repeat >= pairs else None,
            )
            yield from _propagated(pair, pair, visits=visits, is_held_out=is_held_out)
            if repeat == 0:
                if last is not None and (twin is None or last.name != twin.name):
                    yield from _propagated(pair, last, visits=visits, is_held_out=is_held_out)
                last = pair


def _propagated(
    before: RegistrationPair, after: RegistrationPair, *, visits: str, is_held_out: bool
) -> Iterator[PropagatedPair]:
    registration = register_scans(before.baseline, after.followup)
    points = [triple(point) for point in before.baseline_xyz_mm]
    found = propagate_points(registration, before.baseline, after.followup, points, extents_mm=[0.0] * len(points))
    is_same = before is after
    for number, (point, truth) in enumerate(zip(found, before.followup_xyz_mm, strict=True)):
        yield PropagatedPair(
            coverage=before.coverage if is_same else "another patient",
            visits=visits,
            is_held_out=is_held_out,
            is_lesion=bool(before.is_lesion[number]),
            is_lung=bool(before.is_lung[number]),
            truly_shown=bool(before.is_shown[number]) and is_same,
            said_shown=point.is_shown,
            error_mm=float(np.linalg.norm(np.subtract(point.point_xyz_mm, truth))) if is_same else math.inf,
            confidence=point.confidence,
        )


def print_accuracy(points: Sequence[PropagatedPair], console: Console) -> None:
    """Errors of the points in the follow-up's field of view, and results for those outside."""
    moderate, *harder = VISITS
    same = [point for point in points if point.coverage != "another patient"]
    groups: dict[str, Callable[[PropagatedPair], bool]] = {
        moderate: lambda point: point.visits == moderate,
        **{
            coverage: lambda point, coverage=coverage: point.visits == moderate and point.coverage == coverage
            for coverage in COVERAGES
        },
        "lungs": lambda point: point.visits == moderate and point.is_lung,
        "lesions": lambda point: point.visits == moderate and point.is_lesion,
        "volumes held out": lambda point: point.visits == moderate and point.is_held_out,
        **{visits: lambda point, visits=visits: point.visits == visits for visits in harder},
    }
    table = Table(title="points that the follow-up shows")
    for heading in (
        "of",
        "points",
        "median mm",
        "p90 mm",
        "p97 mm",
        "over 20 mm",
        "of these low",
        "low in all",
        "said outside",
    ):
        table.add_column(heading, justify="left" if heading == "of" else "right")
    for name, chosen in groups.items():
        shown = [point for point in same if chosen(point) and point.truly_shown]
        if not shown:
            continue
        errors = np.array([point.error_mm for point in shown if point.said_shown])
        wrong = [point for point in shown if point.is_wrong]
        table.add_row(
            name,
            str(len(shown)),
            *(f"{value:.1f}" for value in np.quantile(errors, (0.5, 0.9, 0.97))),
            str(len(wrong)),
            str(sum(point.is_low for point in wrong)),
            f"{np.mean([point.is_low for point in shown]):.1%}",
            f"{np.mean([not point.said_shown for point in shown]):.1%}",
        )
    console.print(table)
    table = Table(title="points that the follow-up does not show")
    for heading in ("of", "points", "said outside", "said inside, low", "said inside, wrong by over 20 mm, not low"):
        table.add_column(heading, justify="left" if heading == "of" else "right")
    other = [point for point in points if point.coverage == "another patient"]
    for name, beyond in (
        ("the same patient", [point for point in same if not point.truly_shown]),
        ("another patient", other),
    ):
        inside = [point for point in beyond if point.said_shown]
        table.add_row(
            name,
            str(len(beyond)),
            str(len(beyond) - len(inside)),
            str(sum(point.is_low for point in inside)),
            str(sum(point.is_wrong and not point.is_low for point in inside)),
        )
    console.print(table)
    shown = [point for point in same if point.visits == moderate and point.truly_shown]
    median, p90 = np.quantile([point.error_mm for point in shown if point.said_shown], (0.5, 0.9))
    wrong = [point for point in points if point.is_wrong]
    flagged = np.mean([point.is_low for point in wrong]) if wrong else 1.0
    print_target(console, median < MEDIAN_TARGET_MM, f"median error {median:.1f} mm, target {MEDIAN_TARGET_MM:g} mm")
    print_target(console, p90 < P90_TARGET_MM, f"p90 error {p90:.1f} mm, target {P90_TARGET_MM:g} mm")
    print_target(
        console,
        flagged >= FLAGGED_TARGET,
        f"{flagged:.0%} of {len(wrong)} wrong answers of low confidence, target {FLAGGED_TARGET:.0%}",
    )


def print_cost(size: PairSize, console: Console) -> None:
    """Seconds and memory of registering a large pair and propagating its lesions, in a separate process."""
    case = torso_pair(size)
    scans = case.baselines["primary"].scan, case.followups["primary"]
    points = [pair.baseline.point_xyz_mm for pair in case.clicks if pair.baseline is not None]
    with tempfile.TemporaryDirectory() as folder:
        stored, printed = Path(folder, "pair.npz"), Path(folder, "seconds")
        arrays = {f"hu_{k}": scan.hu for k, scan in enumerate(scans)}
        grids = {f"grid_{k}": scan.grid.world_from_voxel for k, scan in enumerate(scans)}
        np.savez(stored, points=np.array(points), **arrays, **grids)
        measured([sys.executable, "-c", _COST_PROGRAM, str(stored), str(printed)])
        seconds, held_bytes = (float(number) for number in printed.read_text(encoding="utf-8").split())
    shape = " x ".join(str(length) for length in scans[0].grid.shape_zyx[::-1])
    print_target(
        console,
        seconds < SECONDS_TARGET and held_bytes < MEMORY_TARGET_BYTES,
        f"{shape}, {len(points)} points: {seconds:.1f} s and {held_bytes / 1e9:.2f} GB, scans included; "
        f"target {SECONDS_TARGET:g} s and {MEMORY_TARGET_BYTES / 1e9:g} GB",
    )


def main() -> None:
    """Prints the tables and the targets."""
    arguments = tyro.cli(Arguments, description=__doc__)
    console = Console(width=150)
    if arguments.data is None:
        sources, held_out = phantom_sources(range(1 if arguments.quick else 4)), []
    else:
        training, held_out = split_volumes(arguments.data, read_recipe(RECIPE))
        names = [*training, *held_out]
        sources = load_sources(arguments.data, names[:: 6 if arguments.quick else 1])
    points = list(
        propagated_points(sources, held_out, pairs=1 if arguments.quick else arguments.pairs, seed=arguments.seed)
    )
    print_accuracy(points, console)
    print_cost(SMALL if arguments.quick else LARGE, console)
    if arguments.quick:
        arguments.cases = 1
    print_outlines(
        load_ensemble(arguments.model), console, data=arguments.data, cases=arguments.cases, seed=arguments.seed
    )


if __name__ == "__main__":
    main()
