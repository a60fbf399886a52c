"""Errors of the baseline's outlines, as readers and detectors make them (LiFE-Net, section 3.1), before encoding."""

from __future__ import annotations

from dataclasses import replace

import cc3d
import numpy as np
from jaxtyping import Bool, Float32
from scipy.ndimage import grey_dilation, grey_erosion

from longilesion.voi import EarlierVoi, Voi, VoiPair, occupied_box, resample
from training.recipe import MaskErrorSettings

# Semi-axes of a lesion that is none: as small as lesions are marked, as large as most of them are.
_SPURIOUS_RADII_MM = (3.0, 15.0)
_SPURIOUS_ELONGATION = 1.5
# Number of positions tried for it.
_ATTEMPTS = 8


def with_mask_errors(pair: VoiPair, settings: MaskErrorSettings, generator: np.random.Generator) -> VoiPair:
    """The pair with random errors in the masks of the baseline, and of each earlier time point apart.

    Scans and clicks are unchanged. A false lesion is marked only where there is none, and omitted where a few tries
    find no free position.
    """
    errors = (settings.missing_share, settings.resized_share, settings.shifted_voxels, settings.spurious_share)
    if not any(errors) or pair.baseline is None:
        return pair
    outlined = EarlierVoi(voi=pair.baseline, mask=pair.baseline_mask, others=pair.baseline_others)
    baseline = _with_errors(outlined, settings, generator)
    earlier = tuple(_with_errors(past, settings, generator) for past in pair.earlier)
    return replace(pair, baseline_mask=baseline.mask, baseline_others=baseline.others, earlier=earlier)


def _with_errors(outlined: EarlierVoi, settings: MaskErrorSettings, generator: np.random.Generator) -> EarlierVoi:
    mask, others = outlined.mask, outlined.others
    if mask is None or others is None:
        return outlined
    if not outlined.voi.is_clicked:
        return replace(outlined, mask=_with_detection_errors(mask, outlined.voi, settings, generator))
    # Everything is drawn in any case, so that one error's share does not change the other draws.
    shift = generator.uniform(-1, 1, 3) * settings.shifted_voxels
    resized, missing, spurious = generator.random(3) < (
        settings.resized_share,
        settings.missing_share,
        settings.spurious_share,
    )
    voxels = int(generator.integers(1, settings.resized_voxels + 1)) * (1 if generator.random() < 0.5 else -1)
    if shift.any():
        mask, others = _shifted(mask, shift), _shifted(others, shift)
    if resized:
        mask = _resized(mask, voxels)
        # A voxel belongs to one lesion.
        others = np.minimum(others, 1 - mask)
    if spurious:
        others = others + _spurious_lesions(mask + others, outlined.voi, settings, generator)
    if missing:
        mask = np.zeros_like(mask)
    return replace(outlined, mask=mask, others=others)


def _with_detection_errors(
    mask: Float32[np.ndarray, "z y x"], voi: Voi, settings: MaskErrorSettings, generator: np.random.Generator
) -> Float32[np.ndarray, "z y x"]:
    """The mask of all lesions as a detector gives it: each may be missing, and there may be false ones in the organ."""
    shift = generator.uniform(-1, 1, 3) * settings.shifted_voxels
    resized, spurious = generator.random(2) < (settings.resized_share, settings.spurious_share)
    voxels = int(generator.integers(1, settings.resized_voxels + 1)) * (1 if generator.random() < 0.5 else -1)
    parts, count = cc3d.connected_components(mask > 0, connectivity=26, return_N=True)
    is_missing = np.concatenate([[False], generator.random(count) < settings.missing_share])
    mask = np.where(is_missing[parts], np.float32(0), mask)
    if shift.any():
        mask = _shifted(mask, shift)
    if resized:
        mask = _resized(mask, voxels)
    return mask + _spurious_lesions(mask, voi, settings, generator) if spurious else mask


def _spurious_lesions(
    occupied: Float32[np.ndarray, "z y x"], voi: Voi, settings: MaskErrorSettings, generator: np.random.Generator
) -> Float32[np.ndarray, "z y x"]:
    """Lesions that are none, as many as are drawn and find a free position."""
    most = settings.spurious_lesions
    added = np.zeros_like(occupied)
    for _ in range(int(generator.integers(1, most + 1)) if most > 1 else 1):
        added = added + _spurious_lesion(occupied + added, voi, generator)
    return added


def _shifted(mask: Float32[np.ndarray, "z y x"], shift_voxels: np.ndarray) -> Float32[np.ndarray, "z y x"]:
    z, y, x = mask.shape
    return resample(mask, start_zyx=-shift_voxels, step_zyx=np.ones(3), shape_zyx=(z, y, x))


def _resized(mask: Float32[np.ndarray, "z y x"], voxels: int) -> Float32[np.ndarray, "z y x"]:
    """The mask dilated by that many voxels, or eroded where negative, but never to nothing."""
    if not mask.any():
        return mask
    # Only voxels near the lesion can change.
    box = tuple(
        slice(max(0, along.start - abs(voxels) - 1), along.stop + abs(voxels) + 1) for along in occupied_box(mask)
    )
    change = grey_dilation if voxels > 0 else grey_erosion
    for reach in range(abs(voxels), 0, -1):
        changed = change(mask[box], footprint=_voxel_ball(reach), mode="nearest")
        if changed.max() > 0.5 or voxels > 0:
            resized = mask.copy()
            resized[box] = changed
            return resized
    return mask


def _voxel_ball(radius_voxels: int) -> Bool[np.ndarray, "side side side"]:
    axis = np.arange(-radius_voxels, radius_voxels + 1)
    return axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 <= radius_voxels**2


def _spurious_lesion(
    occupied: Float32[np.ndarray, "z y x"], voi: Voi, generator: np.random.Generator
) -> Float32[np.ndarray, "z y x"]:
    """An ellipsoid in the lattice, around a place in the organ if one is known, that touches no marked voxel.

    It is empty where a few tries fail.
    """
    spacing = np.array(voi.grid.spacing_zyx_mm)
    inside = np.empty((0, 3), int) if voi.organ is None else np.argwhere(voi.organ > 0.5)
    for _ in range(_ATTEMPTS):
        radius = np.exp(generator.uniform(*np.log(_SPURIOUS_RADII_MM)))
        radii_voxels = radius * _SPURIOUS_ELONGATION ** generator.uniform(-0.5, 0.5, 3) / spacing
        centre = generator.uniform(0, np.array(occupied.shape) - 1)
        if len(inside):
            centre = inside[int(generator.integers(len(inside)))] + generator.uniform(-0.5, 0.5, 3)
        z, y, x = (
            ((np.arange(size) - middle) / length) ** 2
            for size, middle, length in zip(occupied.shape, centre, radii_voxels, strict=True)
        )
        distance = np.sqrt(z[:, None, None] + y[:, None] + x)
        # Falls from 1 to 0 over about a voxel, like masks sampled on a lattice.
        share: Float32[np.ndarray, "z y x"] = np.clip(0.5 + (1 - distance) * radii_voxels.mean(), 0, 1)
        share = share.astype(np.float32)
        if share.max() > 0.5 and not occupied[share > 0].any():
            return share
    return np.zeros_like(occupied)
