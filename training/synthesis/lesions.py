"""Synthetic lesions: their appearance in each of two or more scans.

Positions are z, y, x in mm from the first voxel of the source's volume.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from training.synthesis.characters import PLAIN, Character
from training.synthesis.shapes import Shape

Tissue: TypeAlias = Literal["soft", "lung", "fat", "bone"]

UNMARKED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Appearance:
    """One part of a lesion in one scan: its radius, its place relative to the lesion's centre, and its mean HU.

    The mean HU is relative to the tissue around it in soft tissue, and absolute in lung, fat and bone. `core_hu` is
    added in the middle.
    """

    shape: Shape
    radius_mm: float
    mean_hu: float
    core_hu: float
    shift_zyx_mm: Float[np.ndarray, "3"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesion:
    """One lesion at two time points or, with `later`, more; absent where it has no parts, split where it has two.

    `lesion_id` is `UNMARKED` for a distractor that is not outlined; `true_id` is the id of its voxels in the follow-up:
    its own, or that of the lesion it merged into. `lesion_type` is one of the challenge's. `scar_hu` is the mean HU
    of a healed lesion's remains, relative to the surroundings. A lesion that is not `is_marked_before` is missing in
    the baseline's mask; one that is not `is_painted` is marked there, but no lesion.
    """

    lesion_id: int
    true_id: int
    lesion_type: str
    tissue: Tissue
    centre_zyx_mm: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    edge_mm: float
    texture_hu: float
    kept_structure: float
    baseline: tuple[Appearance, ...]
    followup: tuple[Appearance, ...]
    scar_hu: float = 0.0
    is_marked_before: bool = True
    is_painted: bool = True
    later: tuple[tuple[Appearance, ...], ...] = ()
    character: Character = PLAIN

    def at(self, time: int) -> tuple[Appearance, ...]:
        """The parts at a time point, 0 for the baseline."""
        scans = (self.baseline, self.followup, *self.later)
        return scans[time] if time < len(scans) else ()

    @property
    def parts(self) -> tuple[Appearance, ...]:
        """The parts at all time points."""
        return tuple(part for scan in (self.baseline, self.followup, *self.later) for part in scan)

    @property
    def largest_mm(self) -> float:
        """The radius of its largest part."""
        return max(part.radius_mm for part in self.parts)

    @property
    def reach_mm(self) -> float:
        """The distance from the centre to the far side of its farthest part, as if its parts were balls."""
        return max(part.radius_mm + float(np.linalg.norm(part.shift_zyx_mm)) for part in self.parts)

    def painted_reach_mm(self, parts: tuple[Appearance, ...]) -> float:
        """The distance from the centre to the farthest point of some of its parts, with their strands."""
        strands = 0.0 if self.character.spicules is None else 1.0 + float(self.character.spicules.reaches.max())
        return max(
            part.radius_mm * max(part.shape.farthest, strands) + float(np.linalg.norm(part.shift_zyx_mm))
            for part in parts
        )
