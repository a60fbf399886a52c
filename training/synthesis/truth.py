"""Ground truth and clicks of a pair, once its scans are painted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

    def centre_zyx(self, lesion_id: int) -> tuple[float, ...]:
        box = self.regions[lesion_id].box
        inside = center_of_mass(self.ids[box] == lesion_id)
        return tuple(side.start + float(index) for side, index in zip(box, inside, strict=True))

    def diameter_mm(self, lesion_id: int) -> float:
        volume_mm3 = self.regions[lesion_id].voxels * self.grid.voxel_volume_ml * 1000
        return float((6 * volume_mm3 / np.pi) ** (1 / 3))

    def erase(self, lesion_id: int) -> None:
        if lesion_id in self.regions:
            part = self.ids[self.regions[lesion_id].box]
            part[part == lesion_id] = 0


def facts_and_clicks(
    scene: Scene, images: tuple[Exposure, Exposure], grids: tuple[Grid, Grid], generator: np.random.Generator
) -> tuple[dict[int, SyntheticFact], tuple[ClickPair, ...]]:
    """The facts by lesion id, and the clicks of each lesion.

    A lesion that differs from the plan, as it has too few voxels or lies outside one of the scans, is erased from the
    maps.
    """
    before, after = (
        _Map(exposure=image, grid=grid, regions=lesion_regions(image.ids))
        for image, grid in zip(images, grids, strict=True)
    )
    facts: dict[int, SyntheticFact] = {}
    clicks = []
    # A lesion comes after the one that it merged into.
    for planned in sorted(_planned(scene), key=lambda one: one.fate == "merged"):
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
        clicks.append(_clicks(planned, before, after, generator))
    hosts = {fact.true_id for fact in facts.values() if fact.fate == "merged"}
    facts.update({lesion_id: replace(fact, fate="merged") for lesion_id, fact in facts.items() if lesion_id in hosts})
    return facts, tuple(clicks)


def click_error_mm(generator: np.random.Generator) -> Float[np.ndarray, "3"]:
    """The error of a propagated click (z, y, x), from the published quantiles in voxels of 0.775 x 0.775 x 3 mm.

    The tail beyond the 97th percentile is cut: such clicks lie in another part of the body.
    """
    voxels = np.interp(
        generator.uniform(0, 0.97), [0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0], [0, 1.2, 3.7, 11.1, 23.1, 34, 45]
    )
    direction = generator.normal(size=3)
    return np.asarray(voxels * direction / np.linalg.norm(direction) * np.array([3.0, 0.775, 0.775]))


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


def _clicks(planned: _Planned, before: _Map, after: _Map, generator: np.random.Generator) -> ClickPair:
    lesion_id, is_new = planned.lesion_id, planned.fate == "new"
    was = before.exposure.view.nearest_voxel(planned.place_zyx_mm) if is_new else before.centre_zyx(lesion_id)
    is_there = planned.fate in ("persists", "new")
    now = after.centre_zyx(lesion_id) if is_there else after.exposure.view.nearest_voxel(planned.place_zyx_mm)
    error = click_error_mm(generator) * (0.2 if is_new and generator.random() < 0.5 else 1.0)
    return ClickPair(
        lesion_id=lesion_id,
        baseline=_click(before.grid, was, generator.normal(0, 3.0 if is_new else 0.5, 3)),
        followup=_click(after.grid, now, error),
    )


def _click(grid: Grid, index_zyx: Sequence[float] | Triple, error_zyx_mm: Float[np.ndarray, "3"]) -> Click:
    moved = grid.clamped(np.asarray(index_zyx) + error_zyx_mm / np.array(grid.spacing_zyx_mm))
    return Click(scan_name="primary", point_xyz_mm=grid.world_xyz_mm(moved))
