"""`make bench-registration`: how well clicks are carried over, what that costs, and what it means for the outlines."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.pairs import PairSize, torso_pair
from benchmarks.registration_pairs import COVERAGES, RegistrationPair, registration_pair
from benchmarks.runs import ROOT, measured, print_target
from longilesion.case import LOW_CONFIDENCE, Case, Click, LesionMap, lesion_regions
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.evaluation.exam import Exam, ScoringSettings
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.measures import Outline, center_xyz_mm
from longilesion.evaluation.methods import prediction_of
from longilesion.evaluation.reading import read_exam
from longilesion.evaluation.scoring import score_exam
from longilesion.geometry import triple
from longilesion.grand_challenge import read_case
from longilesion.pipeline import segment_case
from longilesion.registration.carrying import carry_points
from longilesion.registration.register import register_scans
from test.cases import CASES
from training.material import held_out_sources, split_volumes
from training.recipe import read_recipe
from training.synthesis.exams import exam_of
from training.synthesis.pairs import synthetic_pair
from training.synthesis.sources import Source, load_sources, phantom_sources

RECIPE = ROOT / "training" / "recipes" / "compact.toml"
WRONG_MM = 20.0
MEDIAN_TARGET_MM, P90_TARGET_MM, FLAGGED_TARGET = 4.0, 10.0, 0.9
SECONDS_TARGET, MEMORY_TARGET_BYTES = 20.0, 3e9
DICE_TARGET = 0.9
LARGE = PairSize(slices=300, spacing_zyx_mm=(2.0, 0.75, 0.75), lesions=8)
SMALL = PairSize(slices=60, spacing_zyx_mm=(5.0, 2.0, 2.0), lesions=4)

# What the large pair costs is measured of a process that does nothing else; it prints the seconds of the work alone.
_COST_PROGRAM = """
import sys, time, numpy as np
from longilesion.case import Scan
from longilesion.geometry import Grid
from longilesion.registration.carrying import carry_points
from longilesion.registration.register import register_scans
loaded = np.load(sys.argv[1])
arrays = [(loaded[f"hu_{k}"], loaded[f"grid_{k}"]) for k in (0, 1)]
scans = [Scan(hu=hu, grid=Grid(shape_zyx=hu.shape, world_from_voxel=matrix)) for hu, matrix in arrays]
points = [tuple(point) for point in loaded["points"].tolist()]
begun = time.perf_counter()
registration = register_scans(*scans)
carry_points(registration, *scans, points, extents_mm=[0.0] * len(points))
open(sys.argv[2], "w").write(str(time.perf_counter() - begun))
"""


@dataclass
class Arguments:
    """What to measure."""

    data: Path | None = None
    """A folder of CT volumes, one subfolder each; phantoms where it is not given."""
    model: Path = ROOT / "model"
    pairs: int = 2
    """Pairs drawn of each volume."""
    cases: int = 15
    """Synthetic cases over held-out volumes that are segmented, besides the sample cases."""
    seed: int = 2024
    quick: bool = False
    """Few and small ones, to see that it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A point that was carried over; `error_mm` is infinite where the follow-up is another patient's."""

    coverage: str
    is_held_out: bool
    is_lesion: bool
    truly_shown: bool
    said_shown: bool
    error_mm: float
    confidence: float

    @property
    def is_low(self) -> bool:
        return self.confidence < LOW_CONFIDENCE

    @property
    def is_wrong(self) -> bool:
        """Far from the truth, or in a scan that does not show it by more than that."""
        return self.said_shown and self.error_mm > WRONG_MM


def carried_points(sources: Sequence[Source], held_out: Sequence[str], *, pairs: int, seed: int) -> Iterator[Carried]:
    """Carries the points of pairs of each volume, and of each with the volume before it."""
    last: RegistrationPair | None = None
    for number, source in enumerate(sources):
        is_held_out = source.name in held_out
        for repeat in range(pairs):
            generator = np.random.default_rng((seed, number, repeat))
            pair = registration_pair(source, generator, coverage=COVERAGES[(number + repeat) % len(COVERAGES)])
            yield from _carried(pair, pair, is_held_out=is_held_out)
            if repeat == 0:
                if last is not None:
                    yield from _carried(pair, last, is_held_out=is_held_out)
                last = pair


def _carried(before: RegistrationPair, after: RegistrationPair, *, is_held_out: bool) -> Iterator[Carried]:
    registration = register_scans(before.baseline, after.followup)
    points = [triple(point) for point in before.baseline_xyz_mm]
    found = carry_points(registration, before.baseline, after.followup, points, extents_mm=[0.0] * len(points))
    is_same = before is after
    for point, truth, is_shown, is_lesion in zip(
        found, before.followup_xyz_mm, before.is_shown, before.is_lesion, strict=True
    ):
        yield Carried(
            coverage=before.coverage if is_same else "another patient",
            is_held_out=is_held_out,
            is_lesion=bool(is_lesion),
            truly_shown=bool(is_shown) and is_same,
            said_shown=point.is_shown,
            error_mm=float(np.linalg.norm(np.subtract(point.point_xyz_mm, truth))) if is_same else math.inf,
            confidence=point.confidence,
        )


def print_accuracy(points: Sequence[Carried], console: Console) -> None:
    """The errors of the points that the follow-up shows, and what is said of those that it does not."""
    same = [point for point in points if point.coverage != "another patient"]
    groups: dict[str, Callable[[Carried], bool]] = {
        "all": lambda point: True,
        **{coverage: lambda point, coverage=coverage: point.coverage == coverage for coverage in COVERAGES},
        "lesions": lambda point: point.is_lesion,
        "volumes held out": lambda point: point.is_held_out,
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
    shown = [point for point in same if point.truly_shown]
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
    """Seconds and memory of registering a large pair and carrying ten points over, in a process of its own."""
    case = torso_pair(size)
    scans = case.baselines["primary"].scan, case.followups["primary"]
    points = [pair.baseline.point_xyz_mm for pair in case.clicks if pair.baseline is not None]
    with tempfile.TemporaryDirectory() as folder:
        stored, printed = Path(folder, "pair.npz"), Path(folder, "seconds")
        arrays = {f"hu_{k}": scan.hu for k, scan in enumerate(scans)}
        grids = {f"grid_{k}": scan.grid.world_from_voxel for k, scan in enumerate(scans)}
        np.savez(stored, points=np.array(points), **arrays, **grids)
        _, usage = measured([sys.executable, "-c", _COST_PROGRAM, str(stored), str(printed)])
        seconds, peak_bytes = float(printed.read_text()), usage.ru_maxrss * 1024
    shape = " x ".join(str(length) for length in scans[0].grid.shape_zyx[::-1])
    print_target(
        console,
        seconds < SECONDS_TARGET and peak_bytes < MEMORY_TARGET_BYTES,
        f"{shape}, {len(points)} points: {seconds:.1f} s and {peak_bytes / 1e9:.2f} GB, scans included; "
        f"target {SECONDS_TARGET:g} s and {MEMORY_TARGET_BYTES / 1e9:g} GB",
    )


def print_outlines(arguments: Arguments, ensemble: Ensemble, console: Console) -> None:
    """What the clicks are worth for the outlines: perfect, as published, corrected, and none."""
    cases = list(_cases(arguments))
    methods: dict[str, Callable[[Case, Exam], tuple[Case, bool]]] = {
        "perfect clicks": lambda case, exam: (_with_perfect_clicks(case, exam), False),
        "given clicks": lambda case, exam: (case, False),
        "given clicks, --refine-clicks": lambda case, exam: (case, True),
        "no clicks": lambda case, exam: (_without_followup_clicks(case), False),
    }
    scored: dict[str, dict[str, list[LesionScore]]] = {name: {} for name in methods}
    for kind, case, exam in cases:
        for name, changed in methods.items():
            version, refine = changed(case, exam)
            prediction = prediction_of(segment_case(version, ensemble, refine_clicks=refine))
            scored[name].setdefault(kind, []).extend(score_exam(exam, prediction, ScoringSettings()).lesions)
    kinds = list(dict.fromkeys(kind for kind, _, _ in cases))
    table = Table(title="Dice per lesion, by the challenge's rule")
    for heading in ("clicks", *kinds, "gone recognised", "present kept"):
        table.add_column(heading, justify="left" if heading == "clicks" else "right")
    for name, own in scored.items():
        everything = [lesion for kind in kinds for lesion in own[kind]]
        table.add_row(
            name,
            *(_mean([lesion.challenge_dice for lesion in own[kind]]) for kind in kinds),
            _mean([lesion.is_recognised for lesion in everything]),
            _mean([lesion.is_kept for lesion in everything]),
        )
    console.print(table)
    for kind in kinds:
        perfect, none = (_value(scored[name][kind]) for name in ("perfect clicks", "no clicks"))
        print_target(
            console,
            none >= DICE_TARGET * perfect,
            f"{kind}: without clicks {none:.2f}, {none / perfect:.0%} of the {perfect:.2f} with perfect ones; "
            f"target {DICE_TARGET:.0%}",
        )


def _cases(arguments: Arguments) -> Iterator[tuple[str, Case, Exam]]:
    for files in find_exams(CASES, inputs=None):
        if files.case is not None:
            yield "sample cases", read_case(files.case)[0], read_exam(files)[0]
    recipe = read_recipe(RECIPE)
    sources = held_out_sources(arguments.data, recipe)
    for number in range(arguments.cases):
        source = sources[number % len(sources)]
        generator = np.random.default_rng((arguments.seed, number))
        pair = synthetic_pair(source, generator, shapes=sources, settings=recipe.synthesis, whole=True)
        yield "held-out volumes", pair.case, exam_of(f"{source.name}/{number}", pair)


def _without_followup_clicks(case: Case) -> Case:
    return replace(case, clicks=tuple(replace(pair, followup=None) for pair in case.clicks))


def _with_perfect_clicks(case: Case, exam: Exam) -> Case:
    """Each click in the middle of the lesion's true outline; that of a lesion that is gone stays."""
    middles: dict[int, Click] = {}
    for name, followup in case.followups.items():
        truth: LesionMap | None = exam.truth.get(name)
        for lesion_id, region in ({} if truth is None else lesion_regions(truth.ids)).items():
            assert followup.grid.shape_zyx == truth.grid.shape_zyx
            point = center_xyz_mm(Outline.of(truth, [lesion_id], [region]))
            middles[lesion_id] = Click(scan_name=name, point_xyz_mm=triple(point))
    true_ids = {lesion_id: fact.true_id or lesion_id for lesion_id, fact in exam.facts.items()}
    clicks = (
        replace(pair, followup=middles.get(true_ids.get(pair.lesion_id, pair.lesion_id), pair.followup))
        for pair in case.clicks
    )
    return replace(case, clicks=tuple(clicks))


def _value(lesions: Sequence[LesionScore]) -> float:
    return float(np.mean([lesion.challenge_dice for lesion in lesions if lesion.challenge_dice is not None]))


def _mean(values: Sequence[float | None]) -> str:
    known = [float(value) for value in values if value is not None]
    return f"{np.mean(known):.2f} ({len(known)})" if known else "-"


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
        carried_points(sources, held_out, pairs=1 if arguments.quick else arguments.pairs, seed=arguments.seed)
    )
    print_accuracy(points, console)
    print_cost(SMALL if arguments.quick else LARGE, console)
    if arguments.quick:
        arguments.cases = 1
    print_outlines(arguments, load_ensemble(arguments.model), console)


if __name__ == "__main__":
    main()
