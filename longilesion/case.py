"""Types that pass through the library: scans, lesion maps, clicks, prompts, predictions. No input or output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Int16, UInt8, UInt16

from longilesion.geometry import ZYX, Grid, Triple

ScanName: TypeAlias = Literal["primary", "secondary"]

SCAN_NAMES: tuple[ScanName, ...] = ("primary", "secondary")
AIR_HU = -1024
# A click that was propagated with less confidence is more likely wrong than right.
LOW_CONFIDENCE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scan:
    """A CT volume in Hounsfield units; padding beyond the scanner's field of view is air."""

    hu: Int16[np.ndarray, "z y x"]
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionMap:
    """A label map: each voxel holds a lesion id, 0 where there is none."""

    ids: UInt16[np.ndarray, "z y x"]
    grid: Grid

    @property
    def compact_ids(self) -> UInt8[np.ndarray, "z y x"] | UInt16[np.ndarray, "z y x"]:
        """The ids for a file: 8 bit where they fit."""
        fits = self.ids.max(initial=0) <= np.iinfo(np.uint8).max
        return self.ids.astype(np.uint8) if fits else self.ids


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionRegion:
    """Where one lesion lies in a lesion map: the half-open box of its voxels, and their number."""

    start_zyx: ZYX
    stop_zyx: ZYX
    voxels: int

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The box as an array index."""
        z, y, x = (slice(*ends) for ends in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x

    @property
    def center_zyx(self) -> Triple:
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
        """Finds the lesions' regions in one pass over the map."""
        return cls(scan=scan, lesions=lesions, regions={} if lesions is None else lesion_regions(lesions.ids))


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """A point in one of a time point's scans, in that scan's own LPS frame.

    `clamped` says that the point that was read lay outside the scan and was moved to its border.
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
    """A lesion to look for: where to look in the follow-up, and where it was in the baseline if that is known.

    `propagated` says that the follow-up click was computed and not given, `refined` that it was given and corrected.
    `confidence` is the probability that a computed click lies near the lesion's place; it is 1 for a given one.
    """

    lesion_id: int
    followup: Click
    baseline: Click | None
    propagated: bool
    confidence: float
    refined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideLesion:
    """A lesion of the baseline that no follow-up scan shows; `confidence` is the probability that this is so."""

    lesion_id: int
    baseline: Click
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One patient: the scans of two time points by name, and the lesions' clicks."""

    baselines: Mapping[ScanName, Baseline]
    followups: Mapping[ScanName, Scan]
    clicks: tuple[ClickPair, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionPrediction:
    """What the networks say of one lesion: a probability per voxel of a lattice, and one that it is there at all.

    `presence` is None where the networks do not judge it; the outline alone then says whether the lesion is there.
    """

    prompt: LesionPrompt
    probability: Float32[np.ndarray, "z y x"]
    presence: float | None
    grid: Grid

    def is_gone(self, presence_threshold: float) -> bool:
        """Whether the networks say that it is not there any more."""
        return self.presence is not None and self.presence < presence_threshold


def lesion_regions(ids: UInt16[np.ndarray, "z y x"]) -> dict[int, LesionRegion]:
    """Where each lesion of a map lies, by id; one pass over the volume, then only over the few voxels of lesions."""
    voxels = np.flatnonzero(ids != 0)
    order = ids.ravel()[voxels].argsort(kind="stable")
    lesion_ids, first, counts = np.unique(ids.ravel()[voxels[order]], return_index=True, return_counts=True)
    indices_zyx = np.stack(np.unravel_index(voxels[order], ids.shape))
    low, high = (bound.reduceat(indices_zyx, first, axis=1).T.tolist() for bound in (np.minimum, np.maximum))
    return {
        lesion_id: LesionRegion(start_zyx=tuple(start), stop_zyx=(z + 1, y + 1, x + 1), voxels=count)
        for lesion_id, start, (z, y, x), count in zip(lesion_ids.tolist(), low, high, counts.tolist(), strict=True)
    }
