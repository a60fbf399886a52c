"""The tissue that a lesion lies in: an organ, a lung, a bone, a muscle, a compartment of fat.

A lesion is painted inside it alone. It is found in the source's anatomy, so that it is the same in both scans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cc3d
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from longilesion.geometry import box_slices
from training.synthesis.anatomy import averaged
from training.synthesis.deformation import sampled
from training.synthesis.lesions import Lesion, Tissue
from training.synthesis.sites import organ_at
from training.synthesis.sources import Source

# The lattice's spacing, and the most voxels along its sides.
_SPACING_MM, _MOST = 1.5, 34
_SMOOTHING_MM = 1.0
# Depths are limited to this; a lesion at the border has its centre no deeper than the second.
_FAR_MM, _DEEPEST_MM = 16.0, 12.0
# What is found around the lesion.
_MARGIN_MM = 5.0
# Soft tissue without a mask: largest difference of its HU, and half the width of bridges to neighbours of similar HU.
_SPREAD_HU, _BRIDGE_MM = 45.0, 2.0
# How far from a lesion's own place a place at the border is looked for.
_SEARCH_MM = 40.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Host:
    """Depths below a tissue's border, negative outside, on a lattice around `middle_zyx_mm` in the source's frame."""

    depths_mm: Float32[Tensor, "z y x"]
    middle_zyx_mm: Float[np.ndarray, "3"]
    spacing_zyx_mm: Float[np.ndarray, "3"]

    def depth_mm(self, points_zyx_mm: Float32[Tensor, "a b c 3"]) -> Float32[Tensor, "a b c"]:
        """The depth at points; far outside beyond the lattice."""
        device = points_zyx_mm.device
        offsets = points_zyx_mm - torch.from_numpy(self.middle_zyx_mm.astype(np.float32)).to(device)
        return sampled(self.depths_mm.to(device) + _FAR_MM, offsets, self.spacing_zyx_mm) - _FAR_MM

    def way_out(self, point_zyx_mm: Float[np.ndarray, "3"]) -> tuple[Float[np.ndarray, "3"], float] | None:
        """The direction and distance of the nearest point outside; None where the lattice has none."""
        outside = np.argwhere(self.depths_mm.numpy() < 0)
        if not len(outside):
            return None
        first = self.middle_zyx_mm - (np.array(self.depths_mm.shape) - 1) / 2 * self.spacing_zyx_mm
        ways = first + outside * self.spacing_zyx_mm - point_zyx_mm
        distances = np.linalg.norm(ways, axis=1)
        nearest = int(distances.argmin())
        return ways[nearest] / max(float(distances[nearest]), 1e-6), float(distances[nearest])


@lru_cache(maxsize=64)
def host_of(source: Source, lesion: Lesion) -> Host:
    """The tissue around a lesion, in both scans; cached by their identity."""
    reach_mm = lesion.painted_reach_mm(lesion.parts)
    return _host(source, lesion.tissue, lesion.centre_zyx_mm, reach_mm=reach_mm + _MARGIN_MM)


def at_border(source: Source, lesion: Lesion, *, inset: float) -> Lesion:
    """The lesion with its centre so many radii inside the tissue's border, at the nearest such place."""
    host = _host(source, lesion.tissue, lesion.centre_zyx_mm, reach_mm=_SEARCH_MM)
    radius_mm = max(part.radius_mm for part in lesion.parts)
    depths = host.depths_mm.numpy()
    sought = min(inset * radius_mm, _DEEPEST_MM)
    places = np.argwhere(np.abs(depths - sought) < 0.6 * float(host.spacing_zyx_mm.max()))
    if not len(places):
        return lesion
    offsets = (places - (np.array(depths.shape) - 1) / 2) * host.spacing_zyx_mm + host.middle_zyx_mm
    nearest = np.linalg.norm(offsets - lesion.centre_zyx_mm, axis=1).argmin()
    return replace(lesion, centre_zyx_mm=offsets[nearest])


def _host(source: Source, tissue: Tissue, centre_zyx_mm: Float[np.ndarray, "3"], *, reach_mm: float) -> Host:
    own_mm = source.spacing_zyx_mm.astype(float)
    blocks = np.floor(max(_SPACING_MM, 2 * reach_mm / _MOST) / own_mm + 0.1).astype(int).clip(1)
    start = np.floor((centre_zyx_mm - reach_mm) / own_mm).astype(int).clip(0, np.array(source.hu.shape) - 1)
    stop = np.ceil((centre_zyx_mm + reach_mm) / own_mm).astype(int).clip(start + 1, source.hu.shape)
    blocks = np.minimum(blocks, stop - start)
    box = box_slices(start, stop)
    hu = averaged(source.hu[box], blocks)
    spacing = blocks * own_mm
    middle = (start + (blocks * hu.shape - 1) / 2) * own_mm
    centre = np.round((centre_zyx_mm - middle) / spacing + (np.array(hu.shape) - 1) / 2).astype(int)
    organ = organ_at(source.organs, source.spacing_zyx_mm, centre_zyx_mm.astype(np.float32))
    if tissue == "soft" and organ is not None:
        mask = averaged(source.organs[organ][box], blocks) > 0.5
    else:
        smooth = gaussian_filter(hu, _SMOOTHING_MM / spacing)
        mask = _tissue(smooth, tissue, spacing, centre=centre.clip(0, np.array(hu.shape) - 1))
    return Host(depths_mm=torch.from_numpy(_depths(mask, spacing)), middle_zyx_mm=middle, spacing_zyx_mm=spacing)


def _tissue(
    hu: Float32[np.ndarray, "z y x"], tissue: Tissue, spacing_zyx_mm: Float[np.ndarray, "3"], *, centre: np.ndarray
) -> Bool[np.ndarray, "z y x"]:
    """The connected tissue at the lattice's centre, with the vessels in it."""
    if tissue == "lung":
        return _connected(_closed(hu < -400, 5.0, spacing_zyx_mm), centre, spacing_zyx_mm)
    if tissue == "fat":
        fat = (hu > -190) & (hu < -25)
        return _connected(_closed(fat, 3.0, spacing_zyx_mm) & (hu > -190), centre, spacing_zyx_mm)
    if tissue == "bone":
        return _connected(_closed(hu > 130, 4.0, spacing_zyx_mm), centre, spacing_zyx_mm)
    near = _distances(_ball_index(hu.shape, centre), spacing_zyx_mm) < 3.0
    level = float(np.clip(np.median(hu[near]), 0.0, 200.0))
    alike = np.abs(hu - level) < _SPREAD_HU
    core = distance_transform_edt(alike, sampling=spacing_zyx_mm) > _BRIDGE_MM
    if not core.any():
        return _connected(alike, centre, spacing_zyx_mm)
    core = _connected(core, centre, spacing_zyx_mm)
    region = _distances(core, spacing_zyx_mm) <= _BRIDGE_MM
    return np.asarray(_closed(region, 3.0, spacing_zyx_mm) & (hu > level / 2 - 50) & (hu < 300))


def _connected(
    mask: Bool[np.ndarray, "z y x"], centre: np.ndarray, spacing_zyx_mm: Float[np.ndarray, "3"]
) -> Bool[np.ndarray, "z y x"]:
    """The part of a mask that is connected to its voxel nearest to the centre."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        return mask
    nearest = voxels[np.linalg.norm((voxels - centre) * spacing_zyx_mm, axis=1).argmin()]
    parts = cc3d.connected_components(mask, connectivity=6)
    return np.asarray(parts == parts[tuple(nearest)])


def _closed(
    mask: Bool[np.ndarray, "z y x"], radius_mm: float, spacing_zyx_mm: Float[np.ndarray, "3"]
) -> Bool[np.ndarray, "z y x"]:
    """The mask with gaps narrower than twice the radius closed."""
    wide = _distances(mask, spacing_zyx_mm) <= radius_mm
    closed: Bool[np.ndarray, "z y x"] = mask | (wide & (_distances(~wide, spacing_zyx_mm) > radius_mm))
    return closed


def _distances(mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]) -> Float[np.ndarray, "z y x"]:
    """Distances to the nearest voxel of a mask; infinite where it is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(distance_transform_edt(~mask, sampling=spacing_zyx_mm))


def _ball_index(shape: tuple[int, ...], centre: np.ndarray) -> Bool[np.ndarray, "z y x"]:
    mask = np.zeros(shape, bool)
    mask[tuple(centre)] = True
    return mask


def _depths(mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]) -> Float32[np.ndarray, "z y x"]:
    """Signed distances to the mask's border, which lies between its voxels and the others, positive inside."""
    inside, outside = _distances(~mask, spacing_zyx_mm), _distances(mask, spacing_zyx_mm)
    half = float(spacing_zyx_mm.min()) / 2
    depths = np.where(mask, inside - half, half - outside).clip(-_FAR_MM, _FAR_MM)
    return np.asarray(gaussian_filter(depths.astype(np.float32), 0.6))
