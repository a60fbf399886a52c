"""Lesions without an outline in the baseline: their Dice by size, zoom and the click's error, and their likelihood.

`python -m benchmarks.new_lesions [--data CT_FOLDER] [--model DIR]`
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import mannwhitneyu

from benchmarks.runs import ROOT
from longilesion.alignment import place_vois
from longilesion.case import Case
from longilesion.config import ModelSettings
from longilesion.ensemble import Ensemble, load_ensemble
from longilesion.geometry import triple
from longilesion.likelihood import lesion_likelihood
from longilesion.neighbourhood import squared_distance_mm
from longilesion.pipeline import segment_case
from longilesion.prompts import complete_prompts
from longilesion.shipped import SHIPPED_MODEL
from longilesion.voi import sample_voi_pair
from training.command import run_command
from training.recipe import read_recipe
from training.samples import sample_target
from training.synthesis.changes import random_lesion
from training.synthesis.lesions import Tissue
from training.synthesis.pairs import SyntheticPair, pair_of_scene
from training.synthesis.real_shapes import RealShapes
from training.synthesis.scene import Scene, random_site
from training.synthesis.settings import SynthesisSettings, TissueShares
from training.synthesis.sources import Source
from training.training_data import held_out_sources

RECIPE = ROOT / "training" / "recipes" / "compact.toml"
# Ranges of the radius in mm of a sphere of the same volume: 0.3 to 2, 2 to 17, 20 to 100, 100 to 270 ml.
SIZES = {"small": (4.0, 8.0), "medium": (8.0, 16.0), "large": (17.0, 28.5), "very large": (29.0, 40.0)}
TISSUES: tuple[Tissue, ...] = ("soft", "lung", "fat")
ZOOMS = (0.7, 1.0, 2.0)
ERRORS_MM = (0.0, 3.0, 10.0)
FARTHEST_MM = 20.0
# What each likelihood changes in the settings' one.
LIKELIHOODS: Mapping[str, Mapping[str, object]] = {
    "click": {"without_outline": "click"},
    "neighbourhood": {"without_outline": "neighbourhood"},
    **{f"neighbourhood, {near:.0f} mm": {"without_outline": "neighbourhood", "near_mm": near} for near in (4.0, 10.0)},
    "neighbourhood, change counts less": {"without_outline": "neighbourhood", "unchanged_weight": 0.1},
    "neighbourhood, no baseline": {"without_outline": "neighbourhood"},
}
# The scans around a lesion; the widest VOI of the shipped model is 300 mm wide.
_SIDE_ZYX_MM = (190.0, 230.0, 230.0)
# Tissue, bone and air leave less of a lesion than planned, or no room for it.
_LEAST_SHARE, _TRIES = 0.5, 12
# The likelihood is judged up to this distance from the lesion.
_NEAR_MM = 30.0


@dataclass
class Arguments:
    """Command line of the benchmark."""

    data: Path | None = None
    """Folder with one subfolder per CT volume; phantoms where it is not given."""
    model: Path = SHIPPED_MODEL
    """A bundle."""
    lesions: int = 3
    """Of each size in each tissue."""
    views: bool = False
    """Average all views as in inference, mirrored and at other zooms, which takes as many times as long as they are."""
    seed: int = 11


class _Values:
    """Values by method, size and the click's error, and their means as a table."""

    def __init__(self) -> None:
        self.values: dict[str, dict[tuple[str, float], list[float]]] = {}

    def add(self, method: str, size: str, error_mm: float, value: float) -> None:
        self.values.setdefault(method, {}).setdefault((size, error_mm), []).append(value)

    def table(self, title: str) -> Table:
        table = Table(title=title)
        for heading in ("size", "click's error", *self.values, "lesions"):
            table.add_column(heading, justify="left" if heading == "size" else "right")
        keys = list(next(iter(self.values.values()), {}))
        for size in ("all", *SIZES):
            for error_mm in sorted({error for _, error in keys}):
                chosen = [key for key in keys if key[1] == error_mm and size in ("all", key[0])]
                columns = [[value for key in chosen for value in own[key]] for own in self.values.values()]
                if chosen:
                    means = (f"{np.mean(values):.2f}" for values in columns)
                    table.add_row(size, f"{error_mm:.0f} mm", *means, str(len(columns[0])))
        return table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewLesion:
    """A pair with one new lesion, and a point in its middle."""

    size: str
    tissue: Tissue
    radius_mm: float
    pair: SyntheticPair
    middle_xyz_mm: NDArray[np.float64]
    direction_xyz: NDArray[np.float64]

    def case(self, error_mm: float) -> Case:
        """The case with a follow-up click at that distance from the middle."""
        (click,) = self.pair.case.clicks
        assert click.followup is not None
        place = triple(self.middle_xyz_mm + error_mm * self.direction_xyz)
        return replace(self.pair.case, clicks=(replace(click, followup=replace(click.followup, point_xyz_mm=place)),))

    def dice(self, ensemble: Ensemble, error_mm: float) -> float:
        """The Dice of the lesion's outline."""
        found = segment_case(self.case(error_mm), ensemble).maps["primary"].ids == 1
        truth = self.pair.truth.ids == 1
        return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())

    def separations(self, settings: ModelSettings, error_mm: float) -> Iterator[tuple[str, float]]:
        """By likelihood, how often a voxel of the lesion has a higher one than a voxel up to 30 mm from it.

        That is the area under the ROC curve; nothing where the VOI does not show the lesion.
        """
        case = self.case(error_mm)
        (prompt,) = complete_prompts(case).lesions
        pair = sample_voi_pair(case, prompt, place_vois(case, prompt, settings), settings.voi)
        truth = sample_target(self.pair.truth, 1, pair.followup.grid) > 0
        if not truth.any():
            return
        near = squared_distance_mm(pair.followup) < (_NEAR_MM + self.radius_mm) ** 2
        for name, changes in LIKELIHOODS.items():
            shown = replace(pair, baseline=None) if "no baseline" in name else pair
            likelihood, _ = lesion_likelihood(shown, settings.encoding.likelihood.model_copy(update=dict(changes)))
            inside, outside = likelihood[near & truth], likelihood[near & ~truth]
            yield name, float(mannwhitneyu(inside, outside).statistic) / (len(inside) * len(outside))


def measure(arguments: Arguments) -> None:
    """Draws new lesions and prints both tables."""
    ensemble = load_ensemble(arguments.model)
    if not arguments.views:
        ensemble = ensemble.with_settings(lambda settings: settings.with_views(()))
    methods = _methods(ensemble)
    sources = held_out_sources(arguments.data, read_recipe(RECIPE))
    dice, separation = _Values(), _Values()
    drawn = new_lesions(sources, count=arguments.lesions, seed=arguments.seed)
    for lesion in track(drawn, "new lesions", console=Console(stderr=True), transient=True):
        for error_mm in (*ERRORS_MM, FARTHEST_MM):
            for name, share in lesion.separations(ensemble.main_settings, error_mm):
                separation.add(name, lesion.size, error_mm, share)
        for error_mm in ERRORS_MM:
            for name, method in methods.items():
                dice.add(name, lesion.size, error_mm, lesion.dice(method, error_mm))
    console = Console(width=160)
    console.print(separation.table("Area under the ROC curve of the likelihood"))
    console.print(dice.table("Dice of new lesions"))


def new_lesions(sources: Sequence[Source], *, count: int, seed: int) -> Iterator[NewLesion]:
    """Draws up to `count` lesions of each size in each tissue, from the sources in turn."""
    for (number, size), tissue in ((each, tissue) for each in enumerate(SIZES) for tissue in TISSUES):
        able = [source for source in sources if tissue in source.sites]
        drawn = 0
        for attempt in range(_TRIES * count if able else 0):
            if drawn == count:
                break
            generator = np.random.default_rng((seed, number, TISSUES.index(tissue), attempt))
            lesion = _new_lesion(able[attempt % len(able)], sources, generator, size=size, tissue=tissue)
            if lesion is not None:
                drawn += 1
                yield lesion


def _new_lesion(
    source: Source, sources: Sequence[Source], generator: np.random.Generator, *, size: str, tissue: Tissue
) -> NewLesion | None:
    """None where the lesion has too little room."""
    shares = TissueShares(**{name: float(name == tissue) for name in TissueShares.model_fields})
    settings = SynthesisSettings(tissues=shares)
    outlined = tuple(lesion for other in sources for lesion in other.lesions)
    shapes = RealShapes(outlined=outlined, organs=tuple(source.organs))
    site = random_site(source, generator, settings, near=None)
    lesion = random_lesion(generator, site, lesion_id=1, fate="new", real_shapes=shapes, settings=settings)
    radius_mm = float(np.exp(generator.uniform(*np.log(SIZES[size]))))
    lesion = replace(lesion, followup=tuple(replace(part, radius_mm=radius_mm) for part in lesion.followup))
    scene = Scene(
        is_whole=False,
        middle_zyx_mm=lesion.centre_zyx_mm,
        side_zyx_mm=np.array(_SIDE_ZYX_MM),
        coarseness=1.0,
        shown=(),
        lesions=(lesion,),
    )
    pair = pair_of_scene(source, scene, generator, settings=settings)
    grid, voxels = pair.truth.grid, np.argwhere(pair.truth.ids == 1)
    if len(voxels) * grid.voxel_volume_ml < _LEAST_SHARE * 4e-3 / 3 * np.pi * radius_mm**3 or not pair.facts:
        return None
    offsets_mm = (voxels - voxels.mean(axis=0)) * grid.spacing_zyx_mm
    z, y, x = voxels[np.linalg.norm(offsets_mm, axis=1).argmin()].astype(float).tolist()
    direction = generator.normal(size=3)
    return NewLesion(
        size=size,
        tissue=tissue,
        radius_mm=radius_mm,
        pair=pair,
        middle_xyz_mm=np.array(grid.world_xyz_mm((z, y, x))),
        direction_xyz=direction / np.linalg.norm(direction),
    )


def _methods(ensemble: Ensemble) -> Mapping[str, Ensemble]:
    """The ensemble as it is, with all members at other zooms, and with one likelihood for all."""
    changed = {f"zoom {zoom:.1f}": ensemble.with_settings(partial(_at_zoom, zoom=zoom)) for zoom in ZOOMS}
    for name in ("click", "neighbourhood"):
        changed[f"likelihood: {name}"] = ensemble.with_settings(partial(_with_likelihood, name=name))
    as_set = [member.settings for member in ensemble.members]
    others = {name: each for name, each in changed.items() if [member.settings for member in each.members] != as_set}
    return {"as set": ensemble, **others}


def _at_zoom(settings: ModelSettings, zoom: float) -> ModelSettings:
    return settings.model_copy(update={"voi": settings.voi.model_copy(update={"unoutlined_zoom": zoom})})


def _with_likelihood(settings: ModelSettings, name: str) -> ModelSettings:
    likelihood = settings.encoding.likelihood.model_copy(update=dict(LIKELIHOODS[name]))
    return settings.model_copy(update={"encoding": settings.encoding.model_copy(update={"likelihood": likelihood})})


def main() -> int:
    """Command line; 1 where the model or the data cannot be used."""
    return run_command(measure, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
