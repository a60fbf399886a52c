"""Ground truth and exact clicks of a pair, once its scans are painted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt16
from scipy.ndimage import center_of_mass

from longilesion.case import Click, ClickPair, LesionRegion, lesion_regions
from longilesion.evaluation.exam import Fate, LesionFact
from longilesion.geometry import Grid, Triple
from training.synthesis.lesions import UNMARKED
from training.synthesis.rendering import Exposure
from training.synthesis.scene import Scene
from training.synthesis.sources import FEWEST_VOXELS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticFact(LesionFact):
    """Ground truth of one lesion relative to the baseline's mask.

    A lesion that the mask misses is new, and an outline of normal tissue is gone. `real` means that an expert outlined
    it, and `diameter_mm` is that of the sphere of equal volume, in the baseline where it is gone or merged.
    """

    fate: Fate
    lesion_type: str
    real: bool
    diameter_mm: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Planned:
    """The planned labels of a lesion in the maps, and its position in the anatomy."""

    lesion_id: int
    fate: Fate
    real: bool
    true_id: int | None
    lesion_type: str
    place_zyx_mm: Float[np.ndarray, "3"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Map:
    """A time point's lesions as rendered."""

    exposure: Exposure
    grid: Grid
    regions: Mapping[int, LesionRegion]

    @property
    def ids(self) -> UInt16[np.ndarray, "z y x"]:
        return self.exposure.ids

    def shows(self, lesion_id: int) -> bool:
        return lesion_id in self.regions and self.regions[lesion_id].voxels >= FEWEST_VOXELS

    def centre_zyx(self, lesion_id: int) -> Triple:
        box = self.regions[lesion_id].box
        inside = center_of_mass(self.ids[box] == lesion_id)
        z, y, x = (side.start + float(index) for side, index in zip(box, inside, strict=True))
        return z, y, x

    def diameter_mm(self, lesion_id: int) -> float:
        volume_mm3 = self.regions[lesion_id].voxels * self.grid.voxel_volume_ml * 1000
        return float((6 * volume_mm3 / np.pi) ** (1 / 3))

    def erase(self, lesion_id: int) -> None:
        if lesion_id in self.regions:
            part = self.ids[self.regions[lesion_id].box]
            part[part == lesion_id] = 0


def facts_and_clicks(
    scene: Scene, images: tuple[Exposure, Exposure], grids: tuple[Grid, Grid]
) -> tuple[dict[int, SyntheticFact], tuple[ClickPair, ...]]:
    """The facts by lesion id, and the exact clicks of each lesion.

    A lesion that differs from the plan, as it has too few voxels or lies outside one of the scans, is erased from the
    maps.
    """
    before, after = (
        _Map(exposure=image, grid=grid, regions=lesion_regions(image.ids))
        for image, grid in zip(images, grids, strict=True)
    )
    facts: dict[int, SyntheticFact] = {}
    # A lesion comes after the one that it merged into.
    plans = sorted(_planned(scene), key=lambda one: one.fate == "merged")
    for planned in plans:
        if not _is_as_planned(planned, before, after, facts):
            before.erase(planned.lesion_id)
            after.erase(planned.lesion_id)
            continue
        facts[planned.lesion_id] = SyntheticFact(
            fate=planned.fate,
            real=planned.real,
            diameter_mm=(before if planned.fate in ("gone", "merged") else after).diameter_mm(planned.lesion_id),
            true_id=planned.true_id,
            lesion_type=planned.lesion_type,
        )
    hosts = {fact.true_id for fact in facts.values() if fact.fate == "merged"}
    facts.update({lesion_id: replace(fact, fate="merged") for lesion_id, fact in facts.items() if lesion_id in hosts})
    clicks = (
        _exact_clicks(planned, facts[planned.lesion_id].fate, before, after)
        for planned in plans
        if planned.lesion_id in facts
    )
    return facts, tuple(clicks)


def _planned(scene: Scene) -> Iterator[_Planned]:
    for shown in scene.shown:
        yield _Planned(
            lesion_id=shown.lesion_id,
            fate="persists" if shown.is_marked_before else "new",
            real=True,
            true_id=shown.lesion_id,
            lesion_type=shown.lesion_type,
            place_zyx_mm=shown.real.centre_zyx_mm,
        )
    for lesion in scene.lesions:
        if lesion.lesion_id == UNMARKED:
            continue
        fate: Fate = "persists" if lesion.baseline and lesion.is_marked_before else "new"
        if lesion.true_id != lesion.lesion_id:
            fate = "merged"
        elif not lesion.followup:
            fate = "gone"
        yield _Planned(
            lesion_id=lesion.lesion_id,
            fate=fate,
            real=False,
            true_id=None if fate == "gone" else lesion.true_id,
            lesion_type=lesion.lesion_type,
            place_zyx_mm=lesion.centre_zyx_mm,
        )


def _is_as_planned(planned: _Planned, before: _Map, after: _Map, facts: Mapping[int, SyntheticFact]) -> bool:
    if planned.fate == "merged":
        return before.shows(planned.lesion_id) and planned.true_id in facts
    return before.shows(planned.lesion_id) == (planned.fate != "new") and after.shows(planned.lesion_id) == (
        planned.fate != "gone"
    )


def _exact_clicks(planned: _Planned, fate: Fate, before: _Map, after: _Map) -> ClickPair:
    """The centre of the lesion's own outline, or its position in the anatomy where it has none in the scan."""
    is_outlined = fate != "new", fate in ("persists", "new")
    baseline, followup = (
        _click(image.grid, image.centre_zyx(planned.lesion_id))
        if outlined
        else _click(image.grid, image.exposure.view.nearest_voxel(planned.place_zyx_mm))
        for image, outlined in zip((before, after), is_outlined, strict=True)
    )
    return ClickPair(lesion_id=planned.lesion_id, baseline=baseline, followup=followup)


def _click(grid: Grid, index_zyx: Triple) -> Click:
    return Click(scan_name="primary", point_xyz_mm=grid.world_xyz_mm(index_zyx))
