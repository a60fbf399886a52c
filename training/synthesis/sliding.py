"""Sliding of the lungs along the chest wall and the mediastinum while a patient breathes.

Tissue below the lungs moves with the diaphragm, the chest wall stays, and the lungs move along their border: the
displacement's tangential component jumps there, the normal one does not, so that there are neither gaps nor overlaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import cc3d
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from longilesion.geometry import box_slices
from training.synthesis.anatomy import averaged
from training.synthesis.sources import Source

_SPACING_MM = 3.0
_AIR_HU, _EMPTY_HU = -400.0, -940.0
# Vessels that are thinner than twice this move with the lung.
_VESSEL_MM = 6.0
# Within the lungs' outline in axial slices, the diaphragm moves from this distance on, fully so after the second.
_STILL_MM, _FULL_MM = 6.0, 26.0
# Distance from the border within which the lung's motion turns along it.
_TURN_MM = 25.0
# Length of a step along the border.
_STEP_MM = 2.0
# How far beyond its box a scan may show the lungs after rotation, bending and breathing.
_NEAR_MM = 45.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lungs:
    """Lattices around a volume's lungs: `depths_mm` below their border, and how far tissue follows the diaphragm.

    `following` is 0 in the chest wall and 1 inside the lungs and below them. Positions are z, y, x in mm from the
    volume's first voxel.
    """

    depths_mm: Float32[Tensor, "z y x"]
    following: Float32[Tensor, "z y x"]
    middle_zyx_mm: Float[np.ndarray, "3"]
    spacing_zyx_mm: Float[np.ndarray, "3"]

    def looked_up(
        self, fields: Float32[Tensor, "n z y x"], points_zyx_mm: Float32[Tensor, "a b c 3"]
    ) -> Float32[Tensor, "n a b c"]:
        """Fields of the lattice at points; beyond it, those at its border."""
        device = points_zyx_mm.device
        half = (np.array(self.depths_mm.shape) - 1) / 2 * self.spacing_zyx_mm
        middle, half_mm = (
            torch.from_numpy(values.astype(np.float32)).to(device) for values in (self.middle_zyx_mm, half)
        )
        scaled = (points_zyx_mm - middle) / half_mm
        values = grid_sample(fields.to(device)[None], scaled.flip(-1)[None], align_corners=True, padding_mode="border")
        found: Float32[Tensor, "n a b c"] = values[0]
        return found

    def near(self, centre_zyx_mm: Float[np.ndarray, "3"], half_zyx_mm: Float[np.ndarray, "3"]) -> Lungs:
        """The lattices near a box around a centre."""
        count = np.array(self.depths_mm.shape)
        middle = (centre_zyx_mm - self.middle_zyx_mm) / self.spacing_zyx_mm + (count - 1) / 2
        reach = (half_zyx_mm + _NEAR_MM) / self.spacing_zyx_mm
        start = np.floor(middle - reach).astype(int).clip(0, count - 2)
        stop = np.ceil(middle + reach).astype(int).clip(start + 2, count)
        box = box_slices(start, stop)
        return Lungs(
            depths_mm=self.depths_mm[box],
            following=self.following[box],
            middle_zyx_mm=self.middle_zyx_mm + ((start + stop - 1) / 2 - (count - 1) / 2) * self.spacing_zyx_mm,
            spacing_zyx_mm=self.spacing_zyx_mm,
        )

    def coarse_points_zyx_mm(self) -> Float32[Tensor, "z y x 3"]:
        """Points of a lattice of about half as many along each axis, between the same ends."""
        half = (np.array(self.depths_mm.shape) - 1) / 2 * self.spacing_zyx_mm
        axes = [
            torch.linspace(low, high, count // 2 + 2)
            for low, high, count in zip(
                (self.middle_zyx_mm - half).tolist(),
                (self.middle_zyx_mm + half).tolist(),
                self.depths_mm.shape,
                strict=True,
            )
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sliding:
    """The motion of lungs along their border, beside what they share with the tissue around them."""

    lungs: Lungs
    slip_zyx_mm: Float32[Tensor, "3 z y x"]

    def following(self, points_zyx_mm: Float32[Tensor, "a b c 3"]) -> Float32[Tensor, "a b c"]:
        """The share of the diaphragm's motion at points."""
        return self.lungs.looked_up(self.lungs.following[None], points_zyx_mm)[0]

    def slid(self, points_zyx_mm: Float32[Tensor, "a b c 3"]) -> Float32[Tensor, "a b c 3"]:
        """The points, those in the lungs moved along the lungs' border."""
        found = self.lungs.looked_up(torch.cat((self.lungs.depths_mm[None], self.slip_zyx_mm)), points_zyx_mm)
        moved: Float32[Tensor, "a b c 3"] = points_zyx_mm + found[1:].movedim(0, -1) * (found[0] > 0)[..., None]
        return moved


@lru_cache(maxsize=16)
def find_lungs(source: Source) -> Lungs | None:
    """The lungs of a source, None where it has none; cached by its identity."""
    own_mm = source.spacing_zyx_mm.astype(float)
    blocks = np.floor(_SPACING_MM / own_mm + 0.1).astype(int).clip(1, source.hu.shape)
    hu = averaged(source.hu, blocks)
    spacing = blocks * own_mm
    mask = _lung_mask(hu)
    if not mask.any():
        return None
    margin = np.ceil(4 * _VESSEL_MM / spacing).astype(int)
    (found,) = find_objects(mask.astype(np.uint8))
    start = np.maximum([side.start for side in found] - margin, 0)
    stop = np.minimum([side.stop for side in found] + margin, mask.shape)
    mask = mask[box_slices(start, stop)]
    wide = distance_transform_edt(~mask, sampling=spacing) <= _VESSEL_MM
    mask |= distance_transform_edt(np.pad(wide, 1, mode="edge"), sampling=spacing)[1:-1, 1:-1, 1:-1] > _VESSEL_MM
    depths = distance_transform_edt(mask, sampling=spacing) - distance_transform_edt(~mask, sampling=spacing)
    return Lungs(
        depths_mm=torch.from_numpy(gaussian_filter(depths, 0.8).astype(np.float32)),
        following=torch.from_numpy(_following(mask, spacing)),
        middle_zyx_mm=(start * blocks + (blocks * mask.shape - 1) / 2) * own_mm,
        spacing_zyx_mm=spacing,
    )


def sliding(lungs: Lungs, shift_mm: Callable[[Tensor], Tensor]) -> Sliding:
    """The sliding of lungs where the diaphragm's motion shifts tissue along z by that much, by height.

    The lungs follow the shift in full. What the tissue around them does not follow is turned along their border, and
    integrated in steps, so that no point of the lungs leaves them.
    """
    points = lungs.coarse_points_zyx_mm()
    smooth = gaussian_filter(lungs.depths_mm.numpy(), 1.0)
    normals = np.stack(np.gradient(smooth, *lungs.spacing_zyx_mm.tolist()))
    normals /= np.maximum(np.linalg.norm(normals, axis=0), 1e-3)
    normal = torch.from_numpy(normals.astype(np.float32))
    turning = (1 - lungs.depths_mm / _TURN_MM).clamp(0, 1)
    velocity = -turning * normal[0] * normal
    velocity[0] += 1
    velocity *= 1 - lungs.following
    largest_mm = float(shift_mm(points[..., 0]).abs().max())
    steps = max(int(np.ceil(largest_mm / _STEP_MM)), 1)
    moved = points
    for _ in range(steps):
        shift = lungs.looked_up(velocity, moved) * shift_mm(moved[..., 0]) / steps
        moved = moved + shift.movedim(0, -1)
    slip = (moved - points).movedim(-1, 0)[None]
    shape = tuple(lungs.depths_mm.shape)
    return Sliding(lungs=lungs, slip_zyx_mm=interpolate(slip, size=shape, mode="trilinear", align_corners=True)[0])


def _lung_mask(hu: Float32[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Connected air-filled tissue; the air around the patient and in the bowel has no density."""
    parts = cc3d.dust(cc3d.connected_components(hu < _AIR_HU, connectivity=6), threshold=2000, connectivity=6)
    kept = [label for label in np.unique(parts)[1:] if np.median(hu[parts == label]) > _EMPTY_HU]
    return np.asarray(np.isin(parts, kept))


def _following(
    lungs: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]
) -> Float32[np.ndarray, "z y x"]:
    """From 0 at the outline of what lies in or below the lungs to 1 inside it."""
    below = np.logical_or.accumulate(lungs[::-1], axis=0)[::-1]
    depths = [distance_transform_edt(np.pad(section, 1), sampling=spacing_zyx_mm[1:])[1:-1, 1:-1] for section in below]
    share = ((np.stack(depths) - _STILL_MM) / (_FULL_MM - _STILL_MM)).clip(0, 1)
    return np.asarray(gaussian_filter(share, 1.0), np.float32)
