"""Longitudinal pairs, and series of them: a source imaged several times, with lesions, clicks and ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from longilesion.case import Baseline, Case, ClickPair, EarlierVisit, LesionMap, Scan, lesion_regions
from training.synthesis.clicks import challenge_clicks
from training.synthesis.scene import Scene, random_scene
from training.synthesis.series import ImagedScene, imaged_scene
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import ShapeLibrary
from training.synthesis.sources import Source
from training.synthesis.truth import SyntheticFact, facts_and_clicks

_CPU = torch.device("cpu")
_DEFAULTS = SynthesisSettings()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticPair:
    """A case, the follow-up's true lesion map, and the facts by lesion id; every lesion with a fact has its clicks.

    `exact_clicks` are the case's clicks without errors.
    """

    case: Case
    truth: LesionMap
    facts: Mapping[int, SyntheticFact]
    exact_clicks: tuple[ClickPair, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticSeries:
    """Consecutive time points of one anatomy as pairs: the follow-up of each is the baseline of the next.

    A lesion has the same id at all time points. One that comes back is new again under its id, and one that is absent
    from both time points of a pair has no fact there. Only the first baseline's mask has the reader's errors.
    """

    pairs: tuple[SyntheticPair, ...]

    @property
    def last(self) -> SyntheticPair:
        """The last pair, whose case has the time points before its baseline."""
        *before, last = self.pairs
        return replace(last, case=replace(last.case, earlier=tuple(EarlierVisit.of(pair.case) for pair in before)))

    @property
    def scans(self) -> tuple[Scan, ...]:
        """The scans by time point."""
        return self.pairs[0].case.baselines["primary"].scan, *(pair.case.followups["primary"] for pair in self.pairs)

    @property
    def lesions(self) -> tuple[LesionMap, ...]:
        """The lesion maps by time point."""
        first = self.pairs[0].case.baselines["primary"].lesions
        if first is None:
            raise ValueError("the first baseline of a series has no mask")
        return first, *(pair.truth for pair in self.pairs)

    @property
    def volumes_ml(self) -> Mapping[int, tuple[float, ...]]:
        """The volumes of every lesion by time point, 0 where it has no outline."""
        regions = [lesion_regions(lesions.ids) for lesions in self.lesions]
        voxels_ml = [lesions.grid.voxel_volume_ml for lesions in self.lesions]
        return {
            lesion_id: tuple(
                found[lesion_id].voxels * voxel_ml if lesion_id in found else 0.0
                for found, voxel_ml in zip(regions, voxels_ml, strict=True)
            )
            for lesion_id in dict.fromkeys(lesion_id for pair in self.pairs for lesion_id in pair.facts)
        }


def synthetic_pair(
    source: Source,
    generator: np.random.Generator,
    *,
    shapes: Sequence[Source],
    library: ShapeLibrary | None = None,
    settings: SynthesisSettings = _DEFAULTS,
    whole: bool = False,
    priors: int = 1,
    device: torch.device = _CPU,
) -> SyntheticPair:
    """Draws a pair: two scans of the whole source, or a cut-out around one of its lesions for training.

    Painted lesions take shapes from the real lesions of `shapes`, and from the `library`. Frames of the two scans are
    unrelated. The pair depends on the generator alone, on every device except for rounding. With more `priors`, it is
    the last pair of a series with so many time points before the follow-up, and its case has those, too.
    """
    series = synthetic_series(
        source,
        generator,
        times=1 + priors,
        shapes=shapes,
        library=library,
        settings=settings,
        whole=whole,
        device=device,
    )
    return series.last


def pair_of_scene(
    source: Source,
    scene: Scene,
    generator: np.random.Generator,
    *,
    settings: SynthesisSettings = _DEFAULTS,
    device: torch.device = _CPU,
) -> SyntheticPair:
    """Images a scene twice, with random protocols and motion."""
    imaged = imaged_scene(source, scene, generator, settings=settings, times=2, device=device)
    return _pair(imaged, 0, generator)


def synthetic_series(
    source: Source,
    generator: np.random.Generator,
    *,
    times: int,
    shapes: Sequence[Source],
    library: ShapeLibrary | None = None,
    settings: SynthesisSettings = _DEFAULTS,
    whole: bool = False,
    organ: str | None = None,
    device: torch.device = _CPU,
) -> SyntheticSeries:
    """Draws a series of so many time points, at least two; one of two is `synthetic_pair`.

    With an `organ`, whole scans are those of the part of the source around it, and contain its masks.
    """
    scene = random_scene(
        source, generator, shapes=shapes, library=library, settings=settings, whole=whole, times=times, organ=organ
    )
    imaged = imaged_scene(source, scene, generator, settings=settings, times=times, device=device)
    return SyntheticSeries(pairs=tuple(_pair(imaged, before, generator) for before in range(times - 1)))


def _pair(imaged: ImagedScene, before: int, generator: np.random.Generator) -> SyntheticPair:
    """A time point and the next one."""
    chosen = slice(before, before + 2)
    (first, second), (first_grid, second_grid) = imaged.images[chosen], imaged.grids[chosen]
    grids = first_grid, second_grid
    scene = imaged.scene.between(before, before + 1)
    facts, exact_clicks = facts_and_clicks(scene, (first, second), grids)
    clicks = (
        challenge_clicks(exact, facts[exact.lesion_id], grids=grids, is_whole=scene.is_whole, generator=generator)
        for exact in exact_clicks
    )
    prior, scan = (
        Scan(hu=image.hu, grid=grid, organ=image.organ) for image, grid in zip((first, second), grids, strict=True)
    )
    case = Case(
        baselines={"primary": Baseline.of(prior, LesionMap(ids=first.ids, grid=prior.grid))},
        followups={"primary": scan},
        clicks=tuple(clicks),
    )
    truth = LesionMap(ids=second.ids, grid=scan.grid)
    return SyntheticPair(case=case, truth=truth, facts=facts, exact_clicks=exact_clicks)
