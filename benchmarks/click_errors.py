"""Dice against the error of the follow-up clicks: `python -m benchmarks.click_errors --output curve.png`.

Models and naive methods outline the lesions of whole synthetic pairs of held-out volumes. All follow-up clicks lie at
the same distance from their exact position, each in a random direction that is the same for every distance and method;
baseline clicks are drawn as for training. Intervals are the evaluation's, over draws of pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt16
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.runs import ROOT
from longilesion.case import Case, Click, ClickPair, LesionMap
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.bootstrap import Bootstrap, Estimate
from longilesion.evaluation.exam import Fate, Prediction, ScoringSettings
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.methods import prediction_of
from longilesion.evaluation.plot_style import LOOKS, add_legend, counted, new_figure, shortened, tidy
from longilesion.evaluation.scoring import ExamScore, score_exam
from longilesion.files import check_picture, written_together
from longilesion.geometry import Grid
from longilesion.pipeline import segment_case
from longilesion.shipped import SHIPPED_MODEL
from training.command import run_command
from training.naive_methods import grow_region, paste_baseline
from training.recipe import Recipe, read_recipe
from training.synthesis.exams import exam_of
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.sources import Source
from training.training_data import held_out_sources

ERRORS_MM = (0.0, 3.0, 10.0, 20.0, 30.0)
DRAWS = 1000
# Directions that are tried for one in which the farthest click lies in the scan.
_ATTEMPTS = 50

Method: TypeAlias = Callable[[Case], Prediction]
# The scores of all pairs by method and error.
Scores: TypeAlias = Mapping[tuple[str, float], Sequence[ExamScore]]

# What is shown of each fate: its name on the axis, and the value of a lesion.
SHOWN: Mapping[Fate, tuple[str, Callable[[LesionScore], float | None]]] = {
    "persists": ("Dice", lambda lesion: lesion.challenge_dice),
    "new": ("Dice", lambda lesion: lesion.challenge_dice),
    "gone": ("share recognised", lambda lesion: lesion.is_recognised),
}


@dataclass
class Arguments:
    """What to measure."""

    data: Path | None = None
    """A folder of CT volumes, one subfolder each, of which the recipe's validation volumes are used; else phantoms."""
    model: tuple[Path, ...] = (SHIPPED_MODEL,)
    """One or more bundles."""
    recipe: Path = ROOT / "training" / "recipes" / "compact.toml"
    """Its validation volumes and its kind of synthetic pairs are used."""
    cases: int = 20
    """Pairs of whole scans."""
    errors_mm: tuple[float, ...] = ERRORS_MM
    views: bool = False
    """Predict all views of the bundle, mirrored and at other zooms: more accurate, and several times slower."""
    seed: int = 2024
    output: Path | None = None
    """The curves (PNG)."""


def score_errors(
    pairs: Iterable[tuple[str, SyntheticPair]], methods: Mapping[str, Method], errors_mm: Sequence[float], *, seed: int
) -> Scores:
    """Scores each method on each pair, named, with clicks of each error."""
    scores: dict[tuple[str, float], list[ExamScore]] = {(name, error): [] for name in methods for error in errors_mm}
    for number, (pair_name, pair) in enumerate(pairs):
        exam = exam_of(pair_name, pair)
        directions = _directions(pair, max(errors_mm), np.random.default_rng((seed, number)))
        for error_mm in errors_mm:
            case = with_click_errors(pair, directions, error_mm)
            for name, predict in methods.items():
                scores[name, error_mm].append(score_exam(exam, predict(case), ScoringSettings()))
    return scores


def with_click_errors(pair: SyntheticPair, directions: Sequence[Float[np.ndarray, "3"]], error_mm: float) -> Case:
    """The pair's case with each follow-up click at a distance from its exact position, in its direction (x, y, z)."""
    grid = pair.truth.grid
    clicks = tuple(
        replace(given, followup=_moved(exact.followup, error_mm * direction, grid))
        for given, exact, direction in zip(pair.case.clicks, pair.exact_clicks, directions, strict=True)
    )
    return replace(pair.case, clicks=clicks)


def _directions(
    pair: SyntheticPair, farthest_mm: float, generator: np.random.Generator
) -> list[Float[np.ndarray, "3"]]:
    """A random direction for each lesion in which its farthest click lies in the scan, if there is one."""
    return [_direction(exact, pair.truth.grid, farthest_mm, generator) for exact in pair.exact_clicks]


def _direction(
    exact: ClickPair, grid: Grid, farthest_mm: float, generator: np.random.Generator
) -> Float[np.ndarray, "3"]:
    for _ in range(_ATTEMPTS):
        direction = generator.normal(size=3)
        direction /= np.linalg.norm(direction)
        if exact.followup is None or grid.contains(
            grid.index_zyx(np.add(exact.followup.point_xyz_mm, farthest_mm * direction))
        ):
            break
    return direction


def _moved(click: Click | None, error_xyz_mm: Float[np.ndarray, "3"], grid: Grid) -> Click | None:
    if click is None:
        return None
    index = grid.clamped(grid.index_zyx(np.add(click.point_xyz_mm, error_xyz_mm)))
    return replace(click, point_xyz_mm=grid.world_xyz_mm(index))


def estimates(scores: Scores) -> dict[Fate, dict[str, dict[float, Estimate]]]:
    """The mean over the lesions of each fate by method and error, with intervals over draws of pairs."""
    found: dict[Fate, dict[str, dict[float, Estimate]]] = {fate: {} for fate in SHOWN}
    for (method, error_mm), exams in scores.items():
        bootstrap = Bootstrap(len(exams), draws=DRAWS, seed=0)
        for fate, (_, value) in SHOWN.items():
            known = [
                (place, float(number))
                for place, exam in enumerate(exams)
                for lesion in exam.lesions
                if lesion.fate == fate and (number := value(lesion)) is not None
            ]
            places, numbers = np.array(known, np.float64).reshape(-1, 2).T
            found[fate].setdefault(method, {})[error_mm] = bootstrap.pooled_mean(numbers, places.astype(np.int64))
    return found


def print_tables(found: Mapping[Fate, Mapping[str, Mapping[float, Estimate]]], console: Console) -> None:
    """A table per fate: methods by errors, with the number of lesions."""
    for fate, by_method in found.items():
        errors_mm = list(next(iter(by_method.values())))
        table = Table(title=f"{_title(fate, by_method)}, by the clicks' error in mm")
        for heading in ("method", *(f"{error_mm:g}" for error_mm in errors_mm)):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for method, by_error in by_method.items():
            table.add_row(method, *(_cell(by_error[error_mm]) for error_mm in errors_mm))
        console.print(table)


def draw_curves(found: Mapping[Fate, Mapping[str, Mapping[float, Estimate]]]) -> Figure:
    """A panel per fate with a curve per method, in its interval."""
    methods = list(next(iter(found.values())))
    looks = {
        method: {"color": color, "marker": marker, "linestyle": line, "linewidth": 1.8}
        for method, (color, marker, line, _) in zip(methods, cycle(LOOKS), strict=False)
    }
    figure = new_figure(12.0, 4.6, "Outlines by the error of the follow-up click", "shaded: 95 % of draws of pairs")
    lines = []
    for axes, (fate, by_method) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        tidy(axes).set_title(_title(fate, by_method), fontsize=10, loc="left")
        for method, by_error in by_method.items():
            defined = {error_mm: each for error_mm, each in by_error.items() if each.value is not None}
            (line,) = axes.plot(list(defined), [each.value for each in defined.values()], **looks[method])
            lines.append(line)
            spread = {error_mm: each for error_mm, each in defined.items() if each.low is not None}
            low, high = [each.low for each in spread.values()], [each.high for each in spread.values()]
            axes.fill_between(list(spread), low, high, color=looks[method]["color"], alpha=0.12, linewidth=0.0)
        axes.set(xlabel="error of the follow-up click (mm)", ylabel=SHOWN[fate][0], ylim=(-0.03, 1.03))
    add_legend(figure, lines[: len(methods)], [shortened(method) for method in methods])
    return figure


def _title(fate: Fate, by_method: Mapping[str, Mapping[float, Estimate]]) -> str:
    count = max(estimate.count for by_error in by_method.values() for estimate in by_error.values())
    return f"{fate}: {SHOWN[fate][0]} of {counted([count], 'lesion')}"


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    interval = "" if estimate.low is None else f" ({estimate.low:.2f}-{estimate.high:.2f})"
    return f"{estimate.value:.2f}{interval}"


def whole_pairs(
    sources: Sequence[Source], recipe: Recipe, *, cases: int, seed: int
) -> Iterator[tuple[str, SyntheticPair]]:
    """Pairs of the sources in turn, with names."""
    for number in range(cases):
        source = sources[number % len(sources)]
        generator = np.random.default_rng((seed, number))
        pair = synthetic_pair(source, generator, shapes=sources, settings=recipe.synthesis, whole=True)
        yield f"{source.name}/{number}", pair


def find_methods(models: Sequence[Path], *, views: bool) -> dict[str, Method]:
    """The models by their paths, and the naive methods."""
    names = ["shipped model" if path == SHIPPED_MODEL else str(path) for path in models]
    return {
        **{name: _segmenting(load_ensemble(path), views=views) for name, path in zip(names, models, strict=True)},
        "paste baseline": lambda case: _prediction(case, paste_baseline(case)),
        "region growing": lambda case: _prediction(case, grow_region(case)),
    }


def _segmenting(ensemble: Ensemble, *, views: bool) -> Method:
    chosen = ensemble if views else ensemble.with_settings(lambda settings: settings.with_views(()))
    return lambda case: prediction_of(segment_case(case, chosen))


def _prediction(case: Case, ids: UInt16[np.ndarray, "z y x"]) -> Prediction:
    lesions = LesionMap(ids=ids, grid=case.followups["primary"].grid)
    return Prediction(maps={"primary": lesions}, presence={}, merged_into={})


def measure(arguments: Arguments) -> None:
    """Prints the tables, and draws the curves if a picture is wanted."""
    if arguments.output is not None and arguments.output.suffix != ".png":
        raise InputError(f"{arguments.output}: not a picture; expected a name that ends with .png")
    if arguments.cases < 1:
        raise InputError(f"--cases {arguments.cases}: expected a number from 1 on")
    if not arguments.errors_mm or min(arguments.errors_mm) < 0:
        raise InputError(f"--errors-mm {' '.join(map(str, arguments.errors_mm))}: expected distances from 0 mm on")
    recipe = read_recipe(arguments.recipe)
    methods = find_methods(arguments.model, views=arguments.views)
    sources = held_out_sources(arguments.data, recipe)
    pairs = track(
        whole_pairs(sources, recipe, cases=arguments.cases, seed=arguments.seed),
        "segmenting",
        total=arguments.cases,
        console=Console(stderr=True),
    )
    found = estimates(score_errors(pairs, methods, sorted(set(arguments.errors_mm)), seed=arguments.seed))
    print_tables(found, Console(width=160))
    if arguments.output is not None:
        with written_together({arguments.output: check_picture}) as (temporary,):
            draw_curves(found).savefig(temporary, format="png")


def main() -> int:
    """Command line; 1 where a bundle, the recipe or the data cannot be used."""
    return run_command(measure, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
