"""Data types of the library: scans, lesion maps, clicks, prompts, predictions. No input or output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Int16, Integer, UInt8, UInt16

from longilesion.components import connected_components, distances_mm, lesion_voxels
from longilesion.geometry import ZYX, Box, Grid, Triple, box_slices

ScanName: TypeAlias = Literal["primary", "secondary"]
# Why a lesion that was looked for has no outline of its own.
Absence: TypeAlias = Literal["gone", "outside", "merged", "not outlined"]

SCAN_NAMES: tuple[ScanName, ...] = ("primary", "secondary")
AIR_HU = -1024
# Voxels outside the scanner's field of view: what is at or below the limit in a file has this value in a scan.
PADDING_HU = -2048
HIGHEST_PADDING_HU = -1500
# The highest value of a 16-bit voxel.
HIGHEST_ID = 65535
# A propagated click of lower confidence is to be looked at: a wrong one that nobody looks at does more harm than a
# right one that somebody does.
LOW_CONFIDENCE = 0.6
# Stray parts and clicks up to this distance from a lesion's outline are taken to belong to it.
NEAR_MM = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose scan a DICOM series is, and of when; texts are empty where it does not say."""

    patient_id: str
    is_deidentified: bool
    date: date | None
    frame_of_reference_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scan:
    """A CT volume in Hounsfield units from AIR_HU up; voxels outside the scanner's field of view are PADDING_HU.

    `organ` is the mask of the organs to which a search for lesions is confined, None where there is none; `identity` is
    that of a DICOM series.
    """

    hu: Int16[np.ndarray, "z y x"]
    grid: Grid
    organ: Bool[np.ndarray, "z y x"] | None = None
    identity: Identity | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionMap:
    """A label map: each voxel holds a lesion id, 0 where there is none.

    `candidates` are the ids of those lesions that a search has found and nobody has confirmed, in ascending order.
    """

    ids: UInt16[np.ndarray, "z y x"]
    grid: Grid
    candidates: tuple[int, ...] = ()

    @property
    def compact_ids(self) -> UInt8[np.ndarray, "z y x"] | UInt16[np.ndarray, "z y x"]:
        """The ids for a file, as 8 bits where they fit."""
        fits = self.ids.max(initial=0) <= np.iinfo(np.uint8).max
        return self.ids.astype(np.uint8) if fits else self.ids


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayPart:
    """A part of a lesion that does not touch its main component, and the distance to that."""

    voxels: int
    distance_mm: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionRegion:
    """The region of one lesion in a lesion map: the half-open box of its voxels, and their number.

    Of an outlined lesion of the baseline, the box is that of the largest component. `voxels` counts the parts within
    10 mm of that, too; those that are farther away are in `stray`, the largest first, and are ignored.
    """

    start_zyx: ZYX
    stop_zyx: ZYX
    voxels: int
    stray: tuple[StrayPart, ...] = ()

    @property
    def box(self) -> Box:
        """The box as an array index."""
        return box_slices(self.start_zyx, self.stop_zyx)

    @property
    def centre_zyx(self) -> Triple:
        """The middle of the box, as a fractional voxel index."""
        z, y, x = ((start + stop - 1) / 2 for start, stop in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """A baseline scan, with the map of its outlined lesions where there is one, and each lesion's region by id."""

    scan: Scan
    lesions: LesionMap | None
    regions: Mapping[int, LesionRegion]

    @classmethod
    def of(cls, scan: Scan, lesions: LesionMap | None) -> Baseline:
        """Finds the lesions' regions in one pass over the map, and leaves stray parts out of the map."""
        if lesions is None:
            return cls(scan=scan, lesions=None, regions={})
        regions, kept = {}, {}
        for lesion_id, voxels in lesion_voxels(lesions.ids).items():
            regions[lesion_id], kept[lesion_id] = _main_region(voxels, lesions.grid)
        if any(region.stray for region in regions.values()):
            lesions = LesionMap(ids=np.zeros_like(lesions.ids), grid=lesions.grid)
            for lesion_id, voxels in kept.items():
                lesions.ids[tuple(voxels)] = lesion_id
        return cls(scan=scan, lesions=lesions, regions=regions)

    def lesions_near(self, point_xyz_mm: Triple, radius_mm: float) -> dict[int, float]:
        """The outlined lesions within a radius of a point, by id, with the distance to the nearest voxel's centre."""
        if self.lesions is None:
            return {}
        grid = self.lesions.grid
        centre = np.array(grid.index_zyx(point_xyz_mm))
        reach = radius_mm / np.array(grid.spacing_zyx_mm)
        low = np.clip(np.ceil(centre - reach), 0, grid.shape_zyx).astype(int)
        high = np.clip(np.floor(centre + reach) + 1, low, grid.shape_zyx).astype(int)
        nearby = self.lesions.ids[box_slices(low, high)]
        voxels = np.argwhere(nearby)
        distances = np.linalg.norm((voxels + low - centre) * grid.spacing_zyx_mm, axis=1)
        near: dict[int, float] = {}
        for lesion_id, distance in zip(nearby[tuple(voxels.T)].tolist(), distances.tolist(), strict=True):
            if distance <= min(radius_mm, near.get(lesion_id, radius_mm)):
                near[lesion_id] = distance
        return near

    def lacks(self, lesion_id: int) -> bool:
        """Whether there is a lesion map without the lesion: it is new, and its baseline click was propagated."""
        return self.lesions is not None and lesion_id not in self.regions

    def lesions_at(self, point_xyz_mm: Triple) -> dict[int, float]:
        """The lesions in whose outline a point lies, or no farther off than a voxel, with the distance."""
        return self.lesions_near(point_xyz_mm, float(np.linalg.norm(self.scan.grid.spacing_zyx_mm)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """A point in one of a time point's scans, in that scan's own LPS frame.

    `clamped` is true where the point in the file was outside the scan and was moved to its border.
    """

    scan_name: ScanName
    point_xyz_mm: Triple
    clamped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickPair:
    """The clicks of one lesion as they were read; either may be missing."""

    lesion_id: int
    baseline: Click | None
    followup: Click | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionPrompt:
    """A lesion to segment: its click in the follow-up, and in the baseline if that is known.

    `propagated` is true for a follow-up click that was computed, `refined` for one that was given and corrected.
    `confidence` is the probability that a computed click lies near the lesion's position; it is 1 for a given one.
    `baseline_corrected` is true where the given baseline click lies outside the lesion's outline and was replaced by
    its centre.
    """

    lesion_id: int
    followup: Click
    baseline: Click | None
    propagated: bool
    confidence: float
    refined: bool = False
    baseline_corrected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideLesion:
    """A lesion of the baseline outside all follow-up scans; `confidence` is the probability that this is so."""

    lesion_id: int
    baseline: Click
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EarlierVisit:
    """A time point before the baseline: its scans with their outlines by name, and the lesions' clicks by id.

    A lesion has the same id as in the baseline; it may be outlined without a click, or clicked without an outline.
    """

    baselines: Mapping[ScanName, Baseline]
    clicks: Mapping[int, Click]

    @classmethod
    def of(cls, case: Case) -> EarlierVisit:
        """The baseline of a case, as a time point before the next case's."""
        clicks = {pair.lesion_id: pair.baseline for pair in case.clicks if pair.baseline is not None}
        return cls(baselines=case.baselines, clicks=clicks)

    @property
    def lesion_ids(self) -> set[int]:
        """The lesions that are outlined or clicked."""
        return {*self.clicks, *(lesion_id for prior in self.baselines.values() for lesion_id in prior.regions)}

    def position(self, lesion_id: int) -> Click | None:
        """The centre of a lesion's outline, or else its click; None where the lesion is unknown."""
        for name, prior in self.baselines.items():
            region = prior.regions.get(lesion_id)
            if region is not None:
                return Click(scan_name=name, point_xyz_mm=prior.scan.grid.world_xyz_mm(region.centre_zyx))
        return self.click(lesion_id)

    def click(self, lesion_id: int) -> Click | None:
        """The lesion's click; None where it has none, or one in a scan that is not there."""
        click = self.clicks.get(lesion_id)
        return click if click is not None and click.scan_name in self.baselines else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One patient: the scans of two time points by name, and the lesions' clicks.

    `earlier` are time points before the baseline, oldest first.
    """

    baselines: Mapping[ScanName, Baseline]
    followups: Mapping[ScanName, Scan]
    clicks: tuple[ClickPair, ...]
    earlier: tuple[EarlierVisit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionPrediction:
    """The networks' prediction for one lesion: a probability per voxel of a lattice, and one of its presence.

    `presence` is None where the networks do not predict it; then the lesion is present where its outline is not empty.
    `deviation` is that of the probability among networks and views, None where it is not known.
    """

    prompt: LesionPrompt
    probability: Float32[np.ndarray, "z y x"]
    presence: float | None
    grid: Grid
    deviation: Float32[np.ndarray, "z y x"] | None = None

    def is_gone(self, presence_threshold: float) -> bool:
        """Whether the predicted presence is below the threshold."""
        return self.presence is not None and self.presence < presence_threshold


def lesion_regions(ids: UInt16[np.ndarray, "z y x"]) -> dict[int, LesionRegion]:
    """The region of each lesion of a map, by id; one pass over the volume, then only over the voxels of lesions."""
    return {lesion_id: _region(voxels) for lesion_id, voxels in lesion_voxels(ids).items()}


def _region(voxels: Integer[np.ndarray, "3 n"]) -> LesionRegion:
    start, (z, y, x) = voxels.min(axis=1).tolist(), voxels.max(axis=1).tolist()
    return LesionRegion(start_zyx=tuple(start), stop_zyx=(z + 1, y + 1, x + 1), voxels=voxels.shape[1])


def _main_region(voxels: Integer[np.ndarray, "3 n"], grid: Grid) -> tuple[LesionRegion, Integer[np.ndarray, "3 m"]]:
    """The region of a lesion's largest component, and the voxels that count: its own, and those of parts near it."""
    main, *others = connected_components(voxels)
    region = _region(main)
    if not others:
        return region, main
    apart_mm = distances_mm(others, main, grid.spacing_zyx_mm).tolist()
    near = [part for part, distance in zip(others, apart_mm, strict=True) if distance <= NEAR_MM]
    kept = np.concatenate([main, *near], axis=1)
    stray = tuple(
        StrayPart(voxels=part.shape[1], distance_mm=distance)
        for part, distance in zip(others, apart_mm, strict=True)
        if distance > NEAR_MM
    )
    return replace(region, voxels=kept.shape[1], stray=stray), kept
