"""Painting of a lesion into a scan, and of its outline into the map."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt16
from torch import Tensor

from training.synthesis.lesions import Appearance, Lesion, Tissue
from training.synthesis.shapes import signed_distance_mm

# Parts of a lesion blend over this distance.
_JOINT_MM = 1.5
# A healed lesion's remains are smaller than it was, and blurred.
_SCAR_SIZE, _SCAR_EDGE_MM = 0.75, 3.0


def paint(
    hu: Float32[Tensor, "z y x"],
    ids: UInt16[np.ndarray, "z y x"],
    *,
    points_zyx_mm: Float32[Tensor, "z y x 3"],
    lesion: Lesion,
    parts: tuple[Appearance, ...],
    label: int,
    generator: np.random.Generator,
) -> None:
    """Paints a lesion's parts, in place, into an image whose voxels lie at those points of the anatomy.

    The outline is written into the map with that label, unless it is 0.
    """
    distances = torch.stack([_distance_mm(part, lesion, points_zyx_mm) for part in parts])
    distance = distances[0] if len(parts) == 1 else -_JOINT_MM * torch.logsumexp(-distances / _JOINT_MM, 0)
    share = torch.sigmoid(-distance / (lesion.edge_mm / 2)) * _room(hu, lesion.tissue)
    if lesion.is_painted:
        near = torch.softmax(-distances / _JOINT_MM, 0)
        mean_hu = sum((weight * part.mean_hu for weight, part in zip(near, parts, strict=True)), hu.new_zeros(()))
        depth = sum(
            (
                weight * part.core_hu * (-own / (0.7 * part.radius_mm)).clamp(0, 1)
                for weight, own, part in zip(near, distances, parts, strict=True)
            ),
            hu.new_zeros(()),
        )
        inside = mean_hu + depth + lesion.texture_hu * _texture(hu, generator)
        if lesion.tissue == "soft":
            level = _level_hu(hu, distance)
            inside = inside + level + lesion.kept_structure * (hu - level).clamp(-60, 60)
        hu.copy_(hu * (1 - share) + share * inside)
    if label:
        ids[_to_numpy((distance < 0) & (share > 0.4))] = label


def paint_scar(hu: Float32[Tensor, "z y x"], *, points_zyx_mm: Float32[Tensor, "z y x 3"], lesion: Lesion) -> None:
    """Paints the remains of a healed lesion, in place."""
    for part in lesion.baseline:
        distance = _distance_mm(part, lesion, points_zyx_mm) + (1 - _SCAR_SIZE) * part.radius_mm
        hu += lesion.scar_hu * torch.sigmoid(-distance / (_SCAR_EDGE_MM / 2)) * _room(hu, lesion.tissue)


def _distance_mm(
    part: Appearance, lesion: Lesion, points_zyx_mm: Float32[Tensor, "z y x 3"]
) -> Float32[Tensor, "z y x"]:
    centre = (lesion.centre_zyx_mm + part.shift_zyx_mm).astype(np.float32)
    offsets = points_zyx_mm - torch.from_numpy(centre).to(points_zyx_mm.device)
    return signed_distance_mm(part.shape, offsets, radius_mm=part.radius_mm, rotation=lesion.rotation)


def _level_hu(hu: Float32[Tensor, "z y x"], distance: Float32[Tensor, "z y x"]) -> float:
    """The mean HU of the soft tissue around a lesion."""
    shell = hu[(distance > 0) & (distance < 5)]
    # Beside bowel gas or bone the shell's median is not that of tissue.
    return min(max(float((shell if len(shell) else hu).median()), 0.0), 180.0)


def _texture(hu: Float32[Tensor, "z y x"], generator: np.random.Generator) -> Float32[Tensor, "z y x"]:
    grain = torch.from_numpy(generator.normal(size=(1, 1, 4, 6, 6)).astype(np.float32)).to(hu.device)
    return torch.nn.functional.interpolate(grain, size=tuple(hu.shape), mode="trilinear", align_corners=True)[0, 0]


def _room(hu: Float32[Tensor, "z y x"], tissue: Tissue) -> Float32[Tensor, "z y x"]:
    """Where a lesion may lie: bone lesions in bone only, others not in cortical bone, nor outside the lungs in air."""
    if tissue == "bone":
        # Marrow contains fat, whose gaps smoothing closes.
        smooth = torch.nn.functional.avg_pool3d(
            hu.clamp(-100, 400)[None, None], (3, 5, 5), 1, (1, 2, 2), count_include_pad=False
        )
        return ((smooth[0, 0] - 60) / 60).clamp(0, 1)
    free = ((500 - hu) / 200).clamp(0, 1)
    return free if tissue == "lung" else free * ((hu + 300) / 100).clamp(0, 1)


def _to_numpy(mask: Tensor) -> Bool[np.ndarray, "z y x"]:
    return np.asarray(mask.cpu().numpy())
