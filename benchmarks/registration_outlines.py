"""Effect of clicks on the outlines: perfect, with the published error, corrected by registration, and none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.runs import ROOT, print_target
from longilesion.case import Case, Click, lesion_regions
from longilesion.ensemble import Ensemble
from longilesion.evaluation.exam import Exam, ScoringSettings
from longilesion.evaluation.folders import find_exams
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.measures import Outline, centre_xyz_mm
from longilesion.evaluation.methods import prediction_of, without_followup_clicks
from longilesion.evaluation.reading import read_exam
from longilesion.evaluation.scoring import score_exam
from longilesion.geometry import triple
from longilesion.grand_challenge import read_case
from longilesion.pipeline import segment_case
from test.cases import CASES
from training.recipe import read_recipe
from training.synthesis.exams import exam_of
from training.synthesis.pairs import synthetic_pair
from training.training_data import held_out_sources

RECIPE = ROOT / "training" / "recipes" / "compact.toml"
DICE_TARGET = 0.9
SAMPLES, HELD_OUT = "sample cases", "held-out volumes"


def print_outlines(ensemble: Ensemble, console: Console, *, data: Path | None, cases: int, seed: int) -> None:
    """Prints the accuracy of the outlines with perfect, published, corrected and no clicks."""
    exams = list(_exams(data, cases=cases, seed=seed))
    methods: dict[str, Callable[[Case, Exam], tuple[Case, bool]]] = {
        "perfect clicks": lambda case, exam: (_with_perfect_clicks(case, exam), False),
        "given clicks": lambda case, exam: (case, False),
        "given clicks, --refine-clicks": lambda case, exam: (case, True),
        "no clicks": lambda case, exam: (without_followup_clicks(case), False),
    }
    scored: dict[str, list[tuple[str, LesionScore]]] = {name: [] for name in methods}
    for kind, case, exam in exams:
        for name, changed in methods.items():
            version, refine = changed(case, exam)
            prediction = prediction_of(segment_case(version, ensemble, refine_clicks=refine))
            scored[name] += [(kind, lesion) for lesion in score_exam(exam, prediction, ScoringSettings()).lesions]
    # A new lesion has no baseline outline; its baseline click in the challenge is propagated back, with an error.
    groups: dict[str, Callable[[str, LesionScore], bool]] = {
        SAMPLES: lambda kind, lesion: kind == SAMPLES,
        HELD_OUT: lambda kind, lesion: kind == HELD_OUT,
        f"{HELD_OUT}, in the baseline": lambda kind, lesion: kind == HELD_OUT and lesion.fate != "new",
        f"{HELD_OUT}, new": lambda kind, lesion: kind == HELD_OUT and lesion.fate == "new",
    }
    table = Table(title="Dice per lesion, by the challenge's rule")
    for heading in ("clicks", *groups, "gone recognised", "present kept"):
        table.add_column(heading, justify="left" if heading == "clicks" else "right")
    for name, own in scored.items():
        chosen = [[lesion.challenge_dice for kind, lesion in own if group(kind, lesion)] for group in groups.values()]
        table.add_row(
            name,
            *(_mean(values) for values in chosen),
            _mean([lesion.is_recognised for _, lesion in own]),
            _mean([lesion.is_kept for _, lesion in own]),
        )
    console.print(table)
    for name, group in groups.items():
        if not any(group(kind, lesion) and lesion.challenge_dice is not None for kind, lesion in scored["no clicks"]):
            continue
        perfect, none = (
            _value([lesion for kind, lesion in scored[clicks] if group(kind, lesion)])
            for clicks in ("perfect clicks", "no clicks")
        )
        print_target(
            console,
            none >= DICE_TARGET * perfect,
            f"{name}: without clicks {none:.2f}, {none / perfect:.0%} of the {perfect:.2f} with perfect ones; "
            f"target {DICE_TARGET:.0%}",
        )


def _exams(data: Path | None, *, cases: int, seed: int) -> Iterator[tuple[str, Case, Exam]]:
    for files in find_exams(CASES, inputs=None):
        if files.case is not None:
            yield SAMPLES, read_case(files.case)[0], read_exam(files)[0]
    recipe = read_recipe(RECIPE)
    sources = held_out_sources(data, recipe)
    for number in range(cases):
        source = sources[number % len(sources)]
        generator = np.random.default_rng((seed, number))
        pair = synthetic_pair(source, generator, shapes=sources, settings=recipe.synthesis, whole=True)
        yield HELD_OUT, pair.case, exam_of(f"{source.name}/{number}", pair)


def _with_perfect_clicks(case: Case, exam: Exam) -> Case:
    """Each click in the middle of the lesion's true outline; those of lesions that are gone stay."""
    middles: dict[int, Click] = {}
    for name in case.followups:
        truth = exam.truth[name]
        for lesion_id, region in lesion_regions(truth.ids).items():
            point = centre_xyz_mm(Outline.of(truth, [lesion_id], [region]))
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
