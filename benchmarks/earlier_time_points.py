"""`python -m benchmarks.earlier_time_points`: where lesions that are unknown in an earlier scan are looked for.

Whole series of scans; each lesion outlined in an earlier one is hidden there, outline and click, and its position is
found from the other lesions and the baseline's neighbourhood. The error is the distance to its outline's centre.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console

from longilesion.alignment import place_vois
from longilesion.case import Baseline, EarlierVisit, LesionMap
from longilesion.config import ModelSettings
from longilesion.prompts import complete_prompts
from training.command import run_command
from training.recipe import read_recipe
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.sources import find_volumes, load_sources, phantom_sources

_RECIPE = Path(__file__).parents[1] / "training" / "recipes" / "compact_iterative.toml"


@dataclass
class Arguments:
    """Command line of the benchmark."""

    data: Path | None = None
    """Folder of CT volumes; phantoms if not given."""
    series: int = 2
    """Per volume."""
    priors: int = 3
    seed: int = 78


def hidden_errors_mm(pair: SyntheticPair, settings: ModelSettings) -> Iterator[float | None]:
    """The error for each lesion hidden in each earlier scan; None where the scan is left out for it."""
    for prompt in complete_prompts(pair.case).lesions:
        for visit in pair.case.earlier:
            shown = visit.position(prompt.lesion_id)
            if shown is None or prompt.lesion_id not in visit.baselines[shown.scan_name].regions:
                continue
            case = replace(pair.case, earlier=(_without(visit, prompt.lesion_id),))
            (found,) = place_vois(case, prompt, settings).earlier
            yield None if found is None else float(np.linalg.norm(np.subtract(found.point_xyz_mm, shown.point_xyz_mm)))


def _without(visit: EarlierVisit, lesion_id: int) -> EarlierVisit:
    baselines = {}
    for name, prior in visit.baselines.items():
        lesions = prior.lesions
        if lesions is not None:
            ids = np.where(lesions.ids == lesion_id, 0, lesions.ids).astype(np.uint16)
            lesions = LesionMap(ids=ids, grid=lesions.grid)
        baselines[name] = Baseline.of(prior.scan, lesions)
    return EarlierVisit(
        baselines=baselines, clicks={number: click for number, click in visit.clicks.items() if number != lesion_id}
    )


def measure(arguments: Arguments) -> None:
    """Prints the errors' quantiles, and how often a scan is left out."""
    settings = read_recipe(_RECIPE).model
    data = arguments.data
    sources = phantom_sources(range(4)) if data is None else load_sources(data, find_volumes(data))
    errors: list[float | None] = []
    for number, source in enumerate(sources):
        for repeat in range(arguments.series):
            generator = np.random.default_rng((arguments.seed, number, repeat))
            pair = synthetic_pair(source, generator, shapes=sources, whole=True, priors=arguments.priors)
            errors += hidden_errors_mm(pair, settings)
    known = [error for error in errors if error is not None]
    console = Console()
    console.print(f"{len(errors)} lesions hidden in earlier scans, {len(errors) - len(known)} left out there")
    if known:
        median, p90, most = np.quantile(known, (0.5, 0.9, 1.0))
        console.print(f"error: median {median:.1f} mm, 90th percentile {p90:.1f} mm, at most {most:.1f} mm")


if __name__ == "__main__":
    sys.exit(run_command(measure, Arguments, __doc__))
