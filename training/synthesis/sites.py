"""Possible sites of lesions in a volume, and the challenge's lesion types there."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cc3d
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int16
from numpy.typing import NDArray
from scipy.ndimage import (
    binary_closing,
    binary_dilation,
    binary_erosion,
    binary_fill_holes,
    mean,
    median,
    uniform_filter,
    uniform_filter1d,
)
from torch.nn.functional import avg_pool2d

from training.synthesis.lesions import Tissue

_STEP_MM = 4.0
_TYPES_BY_TISSUE: Mapping[Tissue, str] = {
    "soft": "unclear",
    "lung": "Lung",
    "fat": "Soft tissue / Skin",
    "bone": "Skeleton",
}
# Blood with contrast: range of its HU, deviation within 12 mm, fewest voxels of 4 mm, and reach from there to the wall.
_BLOOD_HU, _EVEN_HU, _FEWEST_EVEN, _BLOOD_REACH = (150.0, 450.0), 30.0, 20, 3
# Rays from a position in fat, and the share of them that has to meet soft tissue.
_RAYS, _RAY_MM, _RAY_STEP_MM = 24, 200.0, 2.0
_SOLID_HU, _THICKER_THAN_SKIN_MM, _DEEP_SHARE = -20, 8.0, 0.9
# Words in the names of organs, as in TotalSegmentator and others.
_TYPES_BY_WORD = {
    "adrenal": "Adrenals",
    "brain": "CNS",
    "spinal_cord": "CNS",
    "heart": "Heart",
    "kidney": "Kidney",
    "liver": "Liver",
    "lung": "Lung",
    "spleen": "Spleen",
    "lymph": "Lymph node",
    "muscle": "Soft tissue / Skin",
    "bone": "Skeleton",
    "vertebra": "Skeleton",
}


def lesion_sites(
    hu: Int16[np.ndarray, "z y x"], spacing_zyx_mm: Float32[np.ndarray, "3"]
) -> Mapping[Tissue, Float32[np.ndarray, "n 3"]]:
    """Positions (z, y, x in mm from the first voxel) in soft tissue, lung, fat and bone, on a grid of about 4 mm."""
    stride = np.maximum(np.round(_STEP_MM / spacing_zyx_mm), 1).astype(int)
    coarse = hu[:: stride[0], :: stride[1], :: stride[2]].astype(np.float32)
    body = np.stack([binary_fill_holes(binary_erosion(section > -300)) for section in coarse]).astype(bool)
    smooth = uniform_filter(coarse, 3)
    masks: dict[Tissue, np.ndarray] = {
        "soft": body & (smooth > -10) & (smooth < 220) & (coarse > -40) & (coarse < 250),
        # Lung contains tissue; the bowel's gas none, except its wall.
        "lung": _parts_over(coarse, binary_erosion(body & (smooth < -600)), median, over_hu=-930.0),
        "fat": body & (smooth > -130) & (smooth < -60),
        "bone": body & _marrow(coarse, smooth) & ~_blood(hu, stride),
    }
    positions = {tissue: np.argwhere(mask) * stride * spacing_zyx_mm for tissue, mask in masks.items()}
    return {tissue: found.astype(np.float32) for tissue, found in positions.items() if len(found) > 50}


def organ_at(
    organs: Mapping[str, Bool[np.ndarray, "z y x"]],
    spacing_zyx_mm: Float32[np.ndarray, "3"],
    position_zyx_mm: Float32[np.ndarray, "3"],
) -> str | None:
    """The organ at a position, or None."""
    z, y, x = np.round(position_zyx_mm / spacing_zyx_mm).astype(int).tolist()
    for name, mask in organs.items():
        if all(0 <= index < length for index, length in zip((z, y, x), mask.shape, strict=True)) and mask[z, y, x]:
            return name
    return None


def lesion_type_of(tissue: Tissue, organ: str | None) -> str:
    """The challenge's lesion type there; organs that it does not name belong to its type for all others."""
    if organ is None or tissue != "soft":
        return _TYPES_BY_TISSUE[tissue]
    return next((known for word, known in _TYPES_BY_WORD.items() if word in organ.lower()), "Others")


def _parts_over(
    coarse: Float32[np.ndarray, "z y x"],
    mask: Bool[np.ndarray, "z y x"],
    average: Callable[..., NDArray[np.floating]],
    *,
    over_hu: float,
) -> Bool[np.ndarray, "z y x"]:
    """The mask's connected parts with a mean HU above that."""
    labels = cc3d.connected_components(mask, connectivity=6)
    numbers = np.arange(int(labels.max()) + 1)
    is_kept = np.asarray(average(coarse, labels, numbers)) > over_hu
    is_kept[0] = False
    kept: Bool[np.ndarray, "z y x"] = is_kept[labels]
    return kept


def _marrow(coarse: Float32[np.ndarray, "z y x"], smooth: Float32[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Spongy bone: above 150 HU except gaps, and near a cortex, unlike bright vessels and kidneys."""
    bone = binary_closing(_parts_over(coarse, coarse > 150, mean, over_hu=250.0), np.ones((3, 3, 3)))
    near_cortex = uniform_filter((coarse > 350).astype(np.float32), 5) > 0.08
    inside: Bool[np.ndarray, "z y x"] = binary_erosion(bone) & near_cortex & (smooth > 100)
    return inside


def _blood(hu: Int16[np.ndarray, "z y x"], stride_zyx: Int[np.ndarray, "3"]) -> Bool[np.ndarray, "a b c"]:
    """The heart and large vessels with contrast; beside a vein that is as bright as cortex, they would pass for bone.

    Blood is even, marrow is not. Means within the slice suppress the noise.
    """
    z, y, x = stride_zyx.tolist()
    means = avg_pool2d(torch.from_numpy(hu[::z].astype(np.float32)), (y, x), ceil_mode=True).numpy()
    deviation = np.sqrt(np.maximum(uniform_filter(means**2, 3) - uniform_filter(means, 3) ** 2, 0))
    low, high = _BLOOD_HU
    even = (means > low) & (means < high) & (deviation < _EVEN_HU)
    blood: Bool[np.ndarray, "a b c"] = binary_dilation(
        cc3d.dust(even, threshold=_FEWEST_EVEN, connectivity=6), iterations=_BLOOD_REACH
    )
    return blood


def is_deep(
    hu: Int16[np.ndarray, "z y x"], spacing_zyx_mm: Float32[np.ndarray, "3"], position_zyx_mm: Float[np.ndarray, "3"]
) -> bool:
    """Whether muscle, organs or bone lie between a position in fat and the skin, as around lymph nodes.

    Of rays from there within the slice, most have to meet soft tissue that is thicker than skin.
    """
    z, y, x = np.round(position_zyx_mm / spacing_zyx_mm).astype(int)
    section = hu[min(max(z, 0), len(hu) - 1)]
    angles = np.linspace(0, 2 * np.pi, _RAYS, endpoint=False)
    lengths = np.arange(0, _RAY_MM, _RAY_STEP_MM)
    rows, columns = (
        np.round(start + np.outer(direction, lengths) / step).astype(int)
        for start, direction, step in zip((y, x), (np.sin(angles), np.cos(angles)), spacing_zyx_mm[1:], strict=True)
    )
    inside = (rows >= 0) & (rows < section.shape[0]) & (columns >= 0) & (columns < section.shape[1])
    solid = inside & (section[rows * inside, columns * inside] > _SOLID_HU)
    thick = uniform_filter1d(solid.astype(np.float32), round(_THICKER_THAN_SKIN_MM / _RAY_STEP_MM), axis=1) > 0.99
    return bool(np.mean(thick.any(axis=1)) > _DEEP_SHARE)
