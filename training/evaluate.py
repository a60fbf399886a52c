"""Scores a bundle and its naive opponents on synthetic pairs over held-out volumes: `python -m training.evaluate`.

Every lesion is scored on the whole scan: its Dice follows the challenge's rule, the mean over all predicted labels that
touch it, 0 where none does. A gone lesion is recognised if its label is nowhere.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from evalutils.stats import calculate_confusion_matrix, dice_from_confusion_matrix
from jaxtyping import UInt16
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.ndimage import center_of_mass

from longilesion.case import Case, LesionMap
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.geometry import Triple
from longilesion.pipeline import segment_case
from longilesion.prompts import complete_prompts
from training.command import run_command
from training.opponents import grow_region, paste_baseline
from training.recipe import read_recipe
from training.synthesis.lesions import Fate
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.sources import load_sources, phantom_sources

DIAMETERS_MM = ((0, 12), (12, 20), (20, 40), (40, 400))


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionScore:
    """One method's result on one lesion.

    Dice is None for a gone lesion, presence None for a method that gives none. `distance_mm` is from where the method
    looked to the lesion's true centre, None for a gone one.
    """

    method: str
    case: str
    lesion_id: int
    fate: Fate
    real: bool
    diameter_mm: float
    dice: float | None
    voxels: int
    presence: float | None
    distance_mm: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlined:
    """What a method says of a case: the label map, and by lesion id where it looked and how sure it is of presence."""

    ids: UInt16[np.ndarray, "z y x"]
    places_xyz_mm: Mapping[int, Triple]
    presence: Mapping[int, float]


@dataclass
class Arguments:
    """Command line of an evaluation."""

    model: Path = Path("model")
    recipe: Path = Path("training/recipes/compact.toml")
    """Its list of validation volumes is used."""
    data: Path | None = None
    """Folder with one subfolder per CT volume; phantoms where it is not given."""
    cases: int = 60
    seed: int = 2024
    output: Path | None = None
    """Also write all scores to this JSON file."""


def evaluate(arguments: Arguments) -> list[LesionScore]:
    """Scores every method on the same cases."""
    ensemble = load_ensemble(arguments.model)
    # Outlines are also wanted for lesions that the presence head rejects, to show what each threshold would do.
    everything = replace(
        ensemble,
        settings=ensemble.settings.model_copy(
            update={"inference": ensemble.settings.inference.model_copy(update={"presence_threshold": 0.0})}
        ),
    )
    names = read_recipe(arguments.recipe).data.validation
    sources = phantom_sources(range(100, 105)) if arguments.data is None else load_sources(arguments.data, names)
    methods: dict[str, Callable[[Case], Outlined]] = {
        "longilesion": lambda case: _segmented(case, ensemble),
        "without presence": lambda case: _segmented(case, everything),
        "paste baseline": lambda case: _at_clicks(case, paste_baseline(case)),
        "region growing": lambda case: _at_clicks(case, grow_region(case)),
    }
    scores = []
    for number in track(range(arguments.cases), "scoring", console=Console(stderr=True)):
        source = sources[number % len(sources)]
        generator = np.random.default_rng((arguments.seed, number))
        pair = synthetic_pair(source, generator, shapes=sources)
        for method, outline in methods.items():
            scores.extend(_scored(method, f"{source.name}/{number}", pair, outline(pair.case)))
    return scores


def _segmented(case: Case, ensemble: Ensemble) -> Outlined:
    result = segment_case(case, ensemble)
    return Outlined(
        ids=result.maps["primary"].ids,
        places_xyz_mm={lesion.prompt.lesion_id: lesion.place_xyz_mm for lesion in result.lesions},
        presence={lesion.prompt.lesion_id: lesion.presence for lesion in result.lesions},
    )


def _at_clicks(case: Case, ids: UInt16[np.ndarray, "z y x"]) -> Outlined:
    places = {prompt.lesion_id: prompt.followup.point_xyz_mm for prompt in complete_prompts(case)}
    return Outlined(ids=ids, places_xyz_mm=places, presence={})


def _scored(method: str, case: str, pair: SyntheticPair, outlined: Outlined) -> list[LesionScore]:
    return [
        LesionScore(
            method=method,
            case=case,
            lesion_id=lesion_id,
            fate=fact.fate,
            real=fact.real,
            diameter_mm=fact.diameter_mm,
            dice=None if fact.fate == "gone" else challenge_dice(pair.truth.ids == lesion_id, outlined.ids),
            voxels=int((outlined.ids == lesion_id).sum()),
            presence=outlined.presence.get(lesion_id),
            distance_mm=None
            if fact.fate == "gone"
            else _distance_mm(pair.truth, lesion_id, outlined.places_xyz_mm[lesion_id]),
        )
        for lesion_id, fact in pair.facts.items()
    ]


def _distance_mm(truth: LesionMap, lesion_id: int, place_xyz_mm: Triple) -> float:
    z, y, x = center_of_mass(truth.ids == lesion_id)
    return float(np.linalg.norm(np.subtract(truth.grid.world_xyz_mm((z, y, x)), place_xyz_mm)))


def challenge_dice(truth: np.ndarray, ids: UInt16[np.ndarray, "z y x"]) -> float:
    """Mean Dice over all labels that touch a true lesion, 0 where none does."""
    touching = np.unique(ids[truth])
    scores = [
        float(dice_from_confusion_matrix(calculate_confusion_matrix(truth, ids == label, labels=[False, True]))[1])
        for label in touching[touching > 0]
    ]
    return float(np.mean(scores)) if scores else 0.0


def print_tables(scores: Sequence[LesionScore], console: Console) -> None:
    """Dice overall, per fate and diameter, and the presence rates; then distances and the presence thresholds."""
    table = Table(title=f"{len({score.case for score in scores})} cases: Dice per lesion (number of lesions)")
    columns: dict[str, Callable[[LesionScore], bool]] = {
        "all": lambda score: True,
        "real tumours": lambda score: score.real,
        "persists": lambda score: score.fate == "persists" and not score.real,
        "new": lambda score: score.fate == "new",
    }
    for low, high in DIAMETERS_MM:
        columns[f"{low}-{high} mm"] = partial(_is_between, low, high)
    for heading in ("method", *columns, "gone recognised", "present kept"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in dict.fromkeys(score.method for score in scores):
        own = [score for score in scores if score.method == method]
        cells = [_mean([s.dice for s in own if s.dice is not None and chosen(s)]) for chosen in columns.values()]
        gone = _mean([float(score.voxels == 0) for score in own if score.fate == "gone"])
        kept = _mean([float(score.voxels > 0) for score in own if score.fate != "gone"])
        table.add_row(method, *cells, gone, kept)
    console.print(table)
    _print_distances(scores, console)
    _print_thresholds([score for score in scores if score.method == "longilesion"], console)


def _is_between(low: float, high: float, score: LesionScore) -> bool:
    return low <= score.diameter_mm < high


def _print_distances(scores: Sequence[LesionScore], console: Console) -> None:
    """How far from the lesion each method looked; what the baseline shows can be aligned, what is new cannot."""
    table = Table(title="distance to the lesion's centre, mm: median / 90th percentile")
    for heading in ("method", "persists", "new"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in ("longilesion", "paste baseline"):
        cells = [
            _quantiles(
                [s.distance_mm for s in scores if (s.method, s.fate) == (method, fate) and s.distance_mm is not None]
            )
            for fate in ("persists", "new")
        ]
        table.add_row(method if method == "longilesion" else "click", *cells)
    console.print(table)


def _quantiles(values: Sequence[float]) -> str:
    return "{:.1f} / {:.1f}".format(*np.quantile(values, [0.5, 0.9])) if values else "-"


def _print_thresholds(scores: Sequence[LesionScore], console: Console) -> None:
    table = Table(title="presence threshold")
    for heading in ("threshold", "gone recognised", "present kept"):
        table.add_column(heading, justify="right")
    for threshold in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        gone = [float((score.presence or 0.0) < threshold) for score in scores if score.fate == "gone"]
        kept = [float((score.presence or 0.0) >= threshold) for score in scores if score.fate != "gone"]
        table.add_row(f"{threshold:.2f}", _mean(gone), _mean(kept))
    console.print(table)


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({len(values)})" if values else "-"


def report(arguments: Arguments) -> None:
    """Scores every method, prints the tables, and writes the scores where a file is asked for."""
    scores = evaluate(arguments)
    print_tables(scores, Console(width=180))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps([asdict(score) for score in scores], indent=1) + "\n")


def main() -> int:
    """Command line; 1 where the bundle or the data cannot be used."""
    return run_command(report, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
