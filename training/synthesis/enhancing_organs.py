"""Organs around the liver that take up contrast medium, found in a scan with contrast by their HU and places."""

from __future__ import annotations

import cc3d
import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import binary_fill_holes, distance_transform_edt

from training.synthesis.kinetics import Tissue
from training.synthesis.sources import Source

# Blood and kidneys are brighter than the liver by this, and darker than bone and contrast medium in the bowel.
_BRIGHTER_HU, _BONE_HU = 12.0, 260.0
# The spleen is about as bright as the liver.
_ALIKE_HU = 28.0
# Masks are opened by these radii; smaller parts are left out.
_VESSEL_MM, _ORGAN_MM = 1.6, 4.0
_LEAST_VESSEL_ML, _LEAST_KIDNEY_ML, _LEAST_SPLEEN_ML = 0.5, 12.0, 25.0
# Bone's border is bright as blood.
_BONE_REACH_MM = 3.0
# Half the width of the strip in front of the spine with the large vessels, and its depth.
_STRIP_MM, _STRIP_DEPTH_MM = 40.0, 60.0


def enhancing_organs(
    smooth_hu: Float32[np.ndarray, "z y x"], source: Source, *, level_hu: float
) -> dict[Tissue, Bool[np.ndarray, "z y x"]]:
    """The masks of arteries, veins, spleen and kidneys outside the liver, as far as they are found.

    They are guesses from HU, place and thickness: what is missed keeps the scan's HU in all phases.
    """
    spacing = source.spacing_zyx_mm.astype(float)
    outside = _distances(source.organs["liver"], spacing) > 1.0
    bone = np.stack([binary_fill_holes(section) for section in smooth_hu > _BONE_HU])
    free = outside & (_distances(bone, spacing) > _BONE_REACH_MM)
    spine = _spine(bone, spacing)
    if spine is None:
        return {}
    middle_mm, front_mm = spine
    bright = _opened(free & (smooth_hu > level_hu + _BRIGHTER_HU) & (smooth_hu < _BONE_HU), spacing, _VESSEL_MM)
    voxel_ml = float(np.prod(spacing)) / 1000
    organs: dict[Tissue, Bool[np.ndarray, "z y x"]] = {}

    def add(tissue: Tissue, mask: Bool[np.ndarray, "z y x"]) -> None:
        organs[tissue] = organs.get(tissue, np.zeros(mask.shape, bool)) | mask

    def is_kidney(place_mm: Float[np.ndarray, "3"], volume_ml: float) -> bool:
        aside = abs(place_mm[2] - middle_mm)
        return volume_ml > _LEAST_KIDNEY_ML and 28.0 < aside < 110.0 and place_mm[1] > front_mm - 25.0

    strip = _strip(bright.shape, spacing, middle_mm=middle_mm, front_mm=front_mm)
    for part, place_mm, volume_ml in _parts(bright & ~strip, spacing):
        if is_kidney(place_mm, volume_ml):
            add("kidney", part)
    vessels = cc3d.dust(bright & strip, threshold=max(int(_LEAST_VESSEL_ML / voxel_ml), 1), connectivity=6)
    left = np.arange(bright.shape[2]) * spacing[2] > middle_mm
    behind = (np.arange(bright.shape[1]) * spacing[1] > front_mm - 28.0)[None, :, None]
    add("artery", vessels & left & behind)
    add("vein", vessels & ~(left & behind))
    alike = free & (np.abs(smooth_hu - level_hu) < _ALIKE_HU)
    beside = np.arange(alike.shape[2]) * spacing[2] > middle_mm + _STRIP_MM
    for part, _, volume_ml in _parts(_opened(alike & beside, spacing, _ORGAN_MM), spacing):
        if volume_ml > _LEAST_SPLEEN_ML:
            add("spleen", part)
    return {tissue: mask for tissue, mask in organs.items() if mask.any()}


def _spine(bone: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]) -> tuple[float, float] | None:
    """The position along x of the spine's middle, and along y of its front; None where there is no bone.

    The thickest bone is vertebral bodies.
    """
    depth_mm = distance_transform_edt(np.pad(bone, 1), sampling=spacing_zyx_mm)[1:-1, 1:-1, 1:-1]
    if depth_mm.max() < 4.0:
        return None
    thick = np.argwhere(depth_mm > 0.7 * depth_mm.max()) * spacing_zyx_mm
    middle_mm, centre_mm = float(np.median(thick[:, 2])), float(np.median(thick[:, 1]))
    return middle_mm, centre_mm - float(depth_mm.max()) - 2.0


def _strip(
    shape_zyx: tuple[int, ...], spacing_zyx_mm: Float[np.ndarray, "3"], *, middle_mm: float, front_mm: float
) -> Bool[np.ndarray, "z y x"]:
    """The region in front of the spine and at its sides with the large vessels."""
    y, x = (np.arange(shape_zyx[axis]) * spacing_zyx_mm[axis] for axis in (1, 2))
    rows = (y > front_mm - _STRIP_DEPTH_MM) & (y < front_mm + 14.0)
    return np.broadcast_to(rows[:, None] & (np.abs(x - middle_mm) < _STRIP_MM), shape_zyx)


def _parts(
    mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]
) -> list[tuple[Bool[np.ndarray, "z y x"], Float[np.ndarray, "3"], float]]:
    """Connected parts of at least 1 ml, with their places in mm and volumes in ml, largest first."""
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000
    labels = cc3d.dust(mask, threshold=max(int(1 / voxel_ml), 1), connectivity=6, in_place=False)
    labels = cc3d.connected_components(labels, connectivity=6)
    found = cc3d.statistics(labels)
    parts = [
        (labels == label, found["centroids"][label] * spacing_zyx_mm, float(found["voxel_counts"][label]) * voxel_ml)
        for label in range(1, len(found["voxel_counts"]))
    ]
    return sorted(parts, key=lambda part: -part[2])


def _opened(
    mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"], radius_mm: float
) -> Bool[np.ndarray, "z y x"]:
    """The mask without what is thinner than twice the radius."""
    core = _distances(~mask, spacing_zyx_mm) > radius_mm
    return mask & (_distances(core, spacing_zyx_mm) <= radius_mm + 0.1)


def _distances(mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]) -> Float[np.ndarray, "z y x"]:
    """Distances to the nearest voxel of a mask; infinite where it is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(distance_transform_edt(~mask, sampling=spacing_zyx_mm))
