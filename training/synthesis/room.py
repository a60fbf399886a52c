"""Free space for a lesion in an organ: between vessels, ducts, cavities and other lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cc3d
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int16
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch.nn.functional import avg_pool3d

from training.synthesis.lesions import Tissue
from training.synthesis.settings import LifenetSettings
from training.synthesis.sources import Source

# The scan's voxels are averaged to about this spacing, and then smoothed, to separate vessels from noise.
_SPACING_MM, _SMOOTHING_MM = 2.0, 1.2
# Tissue without a mask: reach around a site, and largest difference of its HU from the site's.
_REACH_MM = 60.0
_SPREAD_HU: Mapping[Tissue, float] = {"soft": 40.0, "lung": 120.0, "fat": 35.0, "bone": 150.0}
# Half the width of connections that are too narrow to join neighbours of similar HU.
_BRIDGE_MM = 3.0
_SITES = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """The free part of an organ on a lattice; positions are z, y, x in mm from the volume's first voxel.

    `order` lists the free voxels of the organ without lesions by `depths_mm`, their distance to what is not free.
    """

    free: Bool[np.ndarray, "z y x"]
    first_zyx_mm: Float[np.ndarray, "3"]
    spacing_zyx_mm: Float[np.ndarray, "3"]
    order: Int[np.ndarray, " n"]
    depths_mm: Float[np.ndarray, " n"]
    tissue: Tissue
    median_hu: float

    def random_place(self, generator: np.random.Generator, *, depth_mm: float) -> Float[np.ndarray, "3"] | None:
        """A random position of at least that depth; None where there is none."""
        deep = int(np.searchsorted(self.depths_mm, depth_mm))
        if deep == len(self.order):
            return None
        voxel = np.unravel_index(self.order[generator.integers(deep, len(self.order))], self.free.shape)
        return np.asarray(self.first_zyx_mm + (voxel + generator.uniform(-0.5, 0.5, 3)) * self.spacing_zyx_mm)

    def voxels_near(self, centre_zyx_mm: Float[np.ndarray, "3"], *, reach_mm: float) -> Int[np.ndarray, "a b c 3"]:
        """The indices of all voxels in a cube around a position; they may lie outside the lattice."""
        middle, reach = (centre_zyx_mm - self.first_zyx_mm) / self.spacing_zyx_mm, reach_mm / self.spacing_zyx_mm
        low, high = np.floor(middle - reach).astype(int), np.ceil(middle + reach).astype(int) + 1
        ranges = [np.arange(start, stop) for start, stop in zip(low.tolist(), high.tolist(), strict=True)]
        return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1)

    def is_free(self, voxels: Int[np.ndarray, "n 3"]) -> bool:
        """Whether all voxels are free, and inside the lattice."""
        is_inside = bool(((voxels >= 0) & (voxels < self.free.shape)).all())
        return is_inside and bool(self.free[tuple(voxels.T)].all())

    def without(self, taken: Sequence[Int[np.ndarray, "_ 3"]]) -> Room:
        """The remaining room."""
        free = self.free.copy()
        for voxels in taken:
            free[tuple(voxels.T)] = False
        return replace(self, free=free)


def find_room(source: Source, generator: np.random.Generator, settings: LifenetSettings) -> Room | None:
    """The room in a source's organs, or else in tissue around a random site; None where there is neither.

    HU alone do not distinguish an organ from its neighbours, so lesions of a source without masks lie in connected
    tissue of similar HU, without an organ's name.
    """
    if any(name in source.organs for name in settings.organs):
        return _organ_room(source, settings)
    sites = source.sites.get(settings.tissue_without_mask, np.empty((0, 3), np.float32))
    for _ in range(min(_SITES, len(sites))):
        room = _tissue_room(source, sites[int(generator.integers(len(sites)))].astype(float), settings)
        if room is not None:
            return room
    return None


@lru_cache(maxsize=16)
def _organ_room(source: Source, settings: LifenetSettings) -> Room | None:
    """The room in an organ, cached by the identity of the source."""
    mask = np.any([source.organs[name] for name in settings.organs if name in source.organs], axis=0)
    if not mask.any():
        return None
    lines = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    start, stop = np.array([line[0] for line in lines]), np.array([line[-1] + 1 for line in lines])
    z, y, x = (slice(*ends) for ends in zip(start.tolist(), stop.tolist(), strict=True))
    blocks = _blocks(source, stop - start)
    share = _averaged(mask[z, y, x], blocks)
    hu = _averaged(np.where(mask[z, y, x], source.hu[z, y, x], 0), blocks)
    # Smoothing and averaging use the organ's voxels alone, so that its border is no outlier.
    spacing = blocks * source.spacing_zyx_mm.astype(float)
    blur = _SMOOTHING_MM / spacing
    smooth = gaussian_filter(hu, blur) / np.maximum(gaussian_filter(share, blur), 1e-3)
    median_hu = float(np.median(smooth[share > 0.5]))
    tissue: Tissue = "lung" if median_hu < -500 else "fat" if median_hu < -40 else "soft"
    return _room(smooth, share > 0.5, _first_mm(source, start, blocks), spacing, tissue=tissue, settings=settings)


def _tissue_room(source: Source, site_zyx_mm: Float[np.ndarray, "3"], settings: LifenetSettings) -> Room | None:
    start = np.floor((site_zyx_mm - _REACH_MM) / source.spacing_zyx_mm).astype(int).clip(0)
    stop = np.ceil((site_zyx_mm + _REACH_MM) / source.spacing_zyx_mm).astype(int).clip(start + 1, source.hu.shape)
    z, y, x = (slice(*ends) for ends in zip(start.tolist(), stop.tolist(), strict=True))
    blocks = _blocks(source, stop - start)
    spacing = blocks * source.spacing_zyx_mm.astype(float)
    smooth = gaussian_filter(_averaged(source.hu[z, y, x], blocks), _SMOOTHING_MM / spacing)
    first_mm = _first_mm(source, start, blocks)
    site = np.round((site_zyx_mm - first_mm) / spacing).astype(int).clip(0, np.array(smooth.shape) - 1)
    tissue = settings.tissue_without_mask
    alike = np.abs(smooth - smooth[tuple(site)]) < _SPREAD_HU[tissue]
    cores = cc3d.connected_components(distance_transform_edt(alike, sampling=spacing) > _BRIDGE_MM, connectivity=6)
    core = cores == cores[tuple(site)]
    if cores[tuple(site)] == 0:
        return None
    mask = distance_transform_edt(~core, sampling=spacing) <= _BRIDGE_MM
    return _room(smooth, mask, first_mm, spacing, tissue=tissue, settings=settings)


def _room(
    smooth_hu: Float[np.ndarray, "z y x"],
    mask: Bool[np.ndarray, "z y x"],
    first_zyx_mm: Float[np.ndarray, "3"],
    spacing_zyx_mm: Float[np.ndarray, "3"],
    *,
    tissue: Tissue,
    settings: LifenetSettings,
) -> Room:
    """The part of a mask that is neither brighter (vessels) nor darker (bile ducts, cavities) than most of it."""
    values = smooth_hu[mask]
    median = float(np.median(values))
    deviation = 1.4826 * float(np.median(np.abs(values - median)))
    outliers = mask & (np.abs(smooth_hu - median) > max(settings.outlier_deviations * deviation, settings.outlier_hu))
    voxels = max(int(settings.outlier_ml * 1000 / float(np.prod(spacing_zyx_mm))), 1)
    free = mask & ~cc3d.dust(outliers, threshold=voxels, connectivity=26)
    # The lattice ends where the organ does.
    depth_mm = distance_transform_edt(np.pad(free, 1), sampling=spacing_zyx_mm)[1:-1, 1:-1, 1:-1].ravel()
    inside = np.flatnonzero(free.ravel())
    order = inside[np.argsort(depth_mm[inside], kind="stable")]
    return Room(
        free=free,
        first_zyx_mm=first_zyx_mm,
        spacing_zyx_mm=spacing_zyx_mm,
        order=order,
        depths_mm=depth_mm[order],
        tissue=tissue,
        median_hu=median,
    )


def _blocks(source: Source, shape_zyx: Int[np.ndarray, "3"]) -> Int[np.ndarray, "3"]:
    """The number of voxels to average along each axis."""
    return np.floor(_SPACING_MM / source.spacing_zyx_mm + 0.1).astype(int).clip(1, shape_zyx)


def _averaged(
    volume: Bool[np.ndarray, "z y x"] | Int16[np.ndarray, "z y x"], blocks: Int[np.ndarray, "3"]
) -> Float32[np.ndarray, "a b c"]:
    voxels = torch.from_numpy(volume.astype(np.float32))[None]
    return np.asarray(avg_pool3d(voxels, tuple(blocks.tolist()), ceil_mode=True)[0].numpy())


def _first_mm(source: Source, start: Int[np.ndarray, "3"], blocks: Int[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """The position of the first block's centre."""
    return np.asarray((start + (blocks - 1) / 2) * source.spacing_zyx_mm)
