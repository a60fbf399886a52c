"""Organs around the liver that take up contrast medium, found by their HU, their places and their thickness."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy.ndimage import distance_transform_edt, maximum_filter1d

from training.synthesis.kinetics import Range, Tissue
from training.synthesis.sources import Source

# Bone and contrast medium in the bowel are brighter than this, and so is a kidney rarely.
_BONE_HU = 300.0
# Blood and kidneys are brighter than an enhanced liver by this; without contrast medium they have the second HU.
_BRIGHTER_HU, _UNENHANCED_HU = 12.0, (18.0, 44.0)
# Contrast medium in the bowel is brighter than blood in most scans.
_BOWEL_HU = 230.0
# The spleen is about as bright as the liver.
_ALIKE_HU = 28.0
# Masks are opened by these radii, with contrast medium and without it; smaller parts are left out.
_BLOOD_MM, _SPLEEN_MM, _UNENHANCED_MM = 1.6, 4.0, 5.0
_LEAST_KIDNEY_ML, _LEAST_SPLEEN_ML, _LEAST_BOWEL_ML = 12.0, 25.0, 15.0
# Bone's border is as bright as blood.
_BONE_REACH_MM = 2.0
# From the tip of a spinous process to the front of the vertebra, over the height of one and a half vertebrae.
_VERTEBRA_MM, _VERTEBRA_HEIGHT_MM = 80.0, 45.0
# Half the width, and the depth, of the space in front of the spine with the large vessels.
_STRIP_MM, _STRIP_DEPTH_MM = 38.0, 55.0
# The aorta reaches so far in front of the spine; kidneys and spleen lie that far beside it.
_AORTA_MM, _KIDNEY_MM, _SPLEEN_ASIDE_MM = 28.0, (28.0, 85.0), 55.0
# And so far in front of the vertebra's front, or behind it.
_BESIDE_MM = (-15.0, 40.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Places:
    """Positions relative to the spine in mm: to the left of its middle, and behind the vertebra's front."""

    left_mm: Float[np.ndarray, "z y x"]
    behind_mm: Float[np.ndarray, "z y x"]

    @property
    def vertebra(self) -> Bool[np.ndarray, "z y x"]:
        """A box around the vertebra and its arch."""
        aside = np.abs(self.left_mm)
        return np.asarray(((aside < 20) & (self.behind_mm > 2)) | ((aside < 28) & (self.behind_mm > 12)))

    @property
    def strip(self) -> Bool[np.ndarray, "z y x"]:
        """The space in front of the spine and beside it with the large vessels."""
        near = (self.behind_mm > -_STRIP_DEPTH_MM) & (self.behind_mm < 14)
        return np.asarray(near & (np.abs(self.left_mm) < _STRIP_MM))


def enhancing_organs(
    smooth_hu: Float32[np.ndarray, "z y x"], source: Source, *, level_hu: float, is_enhanced: bool
) -> dict[Tissue, Bool[np.ndarray, "z y x"]]:
    """The masks of arteries, veins, spleen and kidneys outside the liver, as far as they are found.

    `level_hu` is the liver's. They are guesses: what is missed keeps the scan's HU in all phases. Without contrast
    medium, there is no spleen among them.
    """
    spacing = source.spacing_zyx_mm.astype(float)
    bone = smooth_hu > _BONE_HU
    places = _places(bone, spacing)
    if places is None:
        return {}
    free = (_distances(source.organs["liver"], spacing) > 1.0) & (_distances(bone, spacing) > _BONE_REACH_MM)
    free &= ~places.vertebra
    low, high = (level_hu + _BRIGHTER_HU, _BONE_HU) if is_enhanced else _UNENHANCED_HU
    radius_mm = _BLOOD_MM if is_enhanced else _UNENHANCED_MM
    bright = _opened(free & (smooth_hu > low) & (smooth_hu < high), spacing, radius_mm)
    kidney = _beside(bright & ~places.strip, places, spacing, aside_mm=_KIDNEY_MM, least_ml=_LEAST_KIDNEY_ML)
    bowel = bright & ~places.strip & ~kidney & (smooth_hu > _BOWEL_HU)
    vessels = _without_bowel(bright & places.strip, bowel, spacing)
    is_artery = (places.left_mm > 0) & (places.behind_mm > -_AORTA_MM)
    organs: dict[Tissue, Bool[np.ndarray, "z y x"]] = {
        "artery": vessels & is_artery,
        "vein": vessels & ~is_artery,
        "kidney": kidney,
    }
    if is_enhanced:
        alike = free & (np.abs(smooth_hu - level_hu) < _ALIKE_HU) & (places.left_mm > _STRIP_MM) & ~organs["kidney"]
        alike = _opened(alike, spacing, _SPLEEN_MM)
        organs["spleen"] = _beside(
            alike, places, spacing, aside_mm=(_SPLEEN_ASIDE_MM, np.inf), least_ml=_LEAST_SPLEEN_ML
        )
    return {tissue: mask for tissue, mask in organs.items() if mask.any()}


def _places(bone: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]) -> _Places | None:
    """Positions relative to the spine; None where no bone is seen.

    Of the back half's bone, most is in the spine's arches; the tips of its processes are the farthest back.
    """
    _, y_mm, x_mm = (np.arange(count) * step for count, step in zip(bone.shape, spacing_zyx_mm, strict=True))
    back = bone & (y_mm > y_mm[-1] / 2)[None, :, None]
    if not back.any():
        return None
    counts = back.sum(axis=(0, 1)).astype(float)
    width = max(round(30.0 / spacing_zyx_mm[2]), 1)
    middle_mm = float(x_mm[np.convolve(counts, np.ones(width), mode="same").argmax()])
    near = back & (np.abs(x_mm - middle_mm) < 12)[None, None, :]
    tips_mm = np.where(near, y_mm[None, :, None], 0.0).max(axis=(1, 2))
    tips_mm = maximum_filter1d(tips_mm, max(round(_VERTEBRA_HEIGHT_MM / spacing_zyx_mm[0]), 1))
    behind = y_mm[None, :] - (tips_mm - _VERTEBRA_MM)[:, None]
    shape = bone.shape
    return _Places(
        left_mm=np.broadcast_to(x_mm - middle_mm, shape), behind_mm=np.broadcast_to(behind[:, :, None], shape)
    )


def _beside(
    mask: Bool[np.ndarray, "z y x"],
    places: _Places,
    spacing_zyx_mm: Float[np.ndarray, "3"],
    *,
    aside_mm: Range,
    least_ml: float,
) -> Bool[np.ndarray, "z y x"]:
    """The connected parts of a mask, of at least that volume, whose middle lies that far beside the spine."""
    kept = np.zeros(mask.shape, bool)
    for part, volume_ml in _parts(mask, spacing_zyx_mm):
        aside = abs(float(np.median(places.left_mm[part])))
        behind = float(np.median(places.behind_mm[part]))
        is_there = aside_mm[0] < aside < aside_mm[1] and _BESIDE_MM[0] < behind < _BESIDE_MM[1]
        if volume_ml > least_ml and is_there:
            kept |= part
    return kept


def _without_bowel(
    mask: Bool[np.ndarray, "z y x"], bowel: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]
) -> Bool[np.ndarray, "z y x"]:
    """The connected parts of a mask that do not go on in a large part of the bowel with contrast medium in it."""
    large = [part for part, volume_ml in _parts(bowel, spacing_zyx_mm) if volume_ml > _LEAST_BOWEL_ML]
    if not large:
        return mask
    touching = mask & (_distances(np.any(large, axis=0), spacing_zyx_mm) < 1.5 * float(spacing_zyx_mm[1:].max()))
    labels = cc3d.connected_components(mask, connectivity=6)
    return np.asarray(mask & ~np.isin(labels, np.unique(labels[touching])))


def _parts(
    mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]
) -> Iterator[tuple[Bool[np.ndarray, "z y x"], float]]:
    """The connected parts of at least 1 ml, with their volumes in ml."""
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000
    labels = cc3d.connected_components(cc3d.dust(mask, threshold=max(int(1 / voxel_ml), 1)), connectivity=6)
    for label in range(1, int(labels.max()) + 1):
        part = labels == label
        yield part, float(part.sum()) * voxel_ml


def _opened(
    mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"], radius_mm: float
) -> Bool[np.ndarray, "z y x"]:
    """The mask without what is thinner than twice the radius."""
    core = _distances(~mask, spacing_zyx_mm) > radius_mm
    return np.asarray(mask & (_distances(core, spacing_zyx_mm) <= radius_mm + 0.1))


def _distances(mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]) -> Float[np.ndarray, "z y x"]:
    """Distances to the nearest voxel of a mask; infinite where it is empty."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return np.asarray(distance_transform_edt(~mask, sampling=spacing_zyx_mm))
