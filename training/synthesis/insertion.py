"""Painting of a lesion into a scan, and of its outline into the map."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt16
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample, interpolate

from training.synthesis.characters import Core, Spicules
from training.synthesis.host import Host
from training.synthesis.lesions import Appearance, Lesion, Tissue
from training.synthesis.shapes import REACH, signed_distance_mm

# Parts of a lesion blend over this distance.
_JOINT_MM = 1.5
# A healed lesion's remains are smaller than it was, and blurred.
_SCAR_SIZE, _SCAR_EDGE_MM = 0.75, 3.0
# The border of a tissue is blurred by the lattice that it is found on.
_HOST_EDGE_MM = 1.5
# Differences from the smoothed scan that exceed its noise by more than this are anatomy.
_NOISE_FACTOR = 1.2
# Soft tissue, in which the noise is measured, in as many slices.
_NOISE_HU, _NOISE_SLICES = (0.0, 150.0), 8
# The HU of tissue without air, by which air is replaced in ground glass.
_DENSE_HU = 40.0
# Strands are as thin as this share of their width at their tips.
_TIP = 0.3
# 30 % of normally distributed values are smaller than this, in units of the deviation.
_NORMAL_P30 = 0.385


def paint(
    hu: Float32[Tensor, "z y x"],
    ids: UInt16[np.ndarray, "z y x"],
    *,
    points_zyx_mm: Float32[Tensor, "z y x 3"],
    host: Host,
    noise_hu: float,
    lesion: Lesion,
    parts: tuple[Appearance, ...],
    label: int,
    generator: np.random.Generator,
) -> None:
    """Paints a lesion's parts, in place, into an image whose voxels lie at those points of the anatomy.

    It lies in its host tissue, but for a bulge, and keeps the scan's noise, which has that deviation. The outline is
    written into the map with that label, unless it is 0.
    """
    distances = torch.stack([_distance_mm(part, lesion, points_zyx_mm) for part in parts])
    distance = distances[0] if len(parts) == 1 else -_JOINT_MM * torch.logsumexp(-distances / _JOINT_MM, 0)
    depth = host.depth_mm(points_zyx_mm)
    body = torch.sigmoid(-distance / (lesion.edge_mm / 2)) * _room(hu, lesion.tissue)
    inside = _covered(depth)
    # A bulge is highest in the middle and ends at the lesion's border.
    beyond = body * (_covered(depth + (-0.6 * distance).clamp(0, lesion.character.bulge_mm)) - inside)
    share = body * inside
    if lesion.is_painted:
        near = torch.softmax(-distances / _JOINT_MM, 0)
        target = sum(
            (
                weight * _target_hu(part, lesion, own, points_zyx_mm)
                for weight, own, part in zip(near, distances, parts, strict=True)
            ),
            hu.new_zeros(()),
        )
        target = target + lesion.texture_hu * _texture(hu, generator)
        around = (distance > 0) & (distance < 5) & (depth > 1)
        smooth, noise = _separated(hu, noise_hu)
        if lesion.tissue == "soft":
            level = _level_hu(hu, around, low=0.0, high=180.0)
            # Where the tissue ends, its HU mix with those beyond, which are no structure of its own.
            structure = (smooth - level).clamp(-60, 60) * (depth / 2).clamp(0, 1)
            change = target + (lesion.kept_structure - 1) * structure + smooth + noise - hu
            target = target + level
        elif lesion.tissue == "lung":
            # Air is replaced by fluid or cells, so that vessels stay visible in ground glass.
            level = _level_hu(hu, around, low=-1000.0, high=-600.0)
            filled = ((target - level) / (_DENSE_HU - level)).clamp(min=0)
            change = filled * (_DENSE_HU - hu + noise)
        else:
            change = target + noise - hu
        painted = share * change + beyond * (target + noise - hu)
        for part in parts:
            if lesion.character.spicules is not None:
                strands = _strands(lesion.character.spicules, part, lesion, host, points_zyx_mm)
                strand_change = (strands * inside) * (lesion.character.spicules.hu - hu).clamp(min=0)
                painted = torch.maximum(painted, strand_change)
        hu += painted
    if label:
        ids[_to_numpy((distance < 0) & (share + beyond > 0.4))] = label


def paint_scar(
    hu: Float32[Tensor, "z y x"], *, points_zyx_mm: Float32[Tensor, "z y x 3"], host: Host, lesion: Lesion
) -> None:
    """Paints the remains of a healed lesion, in place."""
    room = _room(hu, lesion.tissue) * _covered(host.depth_mm(points_zyx_mm))
    for part in lesion.baseline:
        distance = _distance_mm(part, lesion, points_zyx_mm) + (1 - _SCAR_SIZE) * part.radius_mm
        hu += lesion.scar_hu * torch.sigmoid(-distance / (_SCAR_EDGE_MM / 2)) * room


def _distance_mm(
    part: Appearance, lesion: Lesion, points_zyx_mm: Float32[Tensor, "z y x 3"]
) -> Float32[Tensor, "z y x"]:
    return signed_distance_mm(
        part.shape, _offsets_mm(part, lesion, points_zyx_mm), radius_mm=part.radius_mm, rotation=lesion.rotation
    )


def _offsets_mm(
    part: Appearance, lesion: Lesion, points_zyx_mm: Float32[Tensor, "z y x 3"]
) -> Float32[Tensor, "z y x 3"]:
    centre = (lesion.centre_zyx_mm + part.shift_zyx_mm).astype(np.float32)
    return points_zyx_mm - torch.from_numpy(centre).to(points_zyx_mm.device)


def _target_hu(
    part: Appearance,
    lesion: Lesion,
    distance: Float32[Tensor, "z y x"],
    points_zyx_mm: Float32[Tensor, "z y x 3"],
) -> Float32[Tensor, "z y x"]:
    """The HU of a part where it fills a voxel, without texture and noise; in soft tissue relative to that around."""
    target = part.mean_hu + part.core_hu * (-distance / (0.7 * part.radius_mm)).clamp(0, 1)
    character = lesion.character
    if character.mottle_hu is not None:
        offsets = _offsets_mm(part, lesion, points_zyx_mm) / (part.radius_mm * REACH)
        mottle = torch.from_numpy(character.mottle_hu).to(offsets.device)[None, None]
        target = target + grid_sample(mottle, offsets.flip(-1)[None], align_corners=True, padding_mode="border")[0, 0]
    if character.core is not None:
        weight = torch.sigmoid(
            -_core_distance_mm(character.core, part, lesion, distance, points_zyx_mm) / (character.core.edge_mm / 2)
        )
        target = target + weight * (character.core.hu - target)
    return target


def _core_distance_mm(
    core: Core,
    part: Appearance,
    lesion: Lesion,
    distance: Float32[Tensor, "z y x"],
    points_zyx_mm: Float32[Tensor, "z y x 3"],
) -> Float32[Tensor, "z y x"]:
    if core.shape is None:
        return distance + (1 - core.size) * part.radius_mm
    offsets = _offsets_mm(part, lesion, points_zyx_mm)
    if core.shift_zyx is not None:
        offsets = offsets - torch.from_numpy((core.shift_zyx * part.radius_mm).astype(np.float32)).to(offsets.device)
    return signed_distance_mm(core.shape, offsets, radius_mm=core.size * part.radius_mm, rotation=lesion.rotation)


def _strands(
    spicules: Spicules, part: Appearance, lesion: Lesion, host: Host, points_zyx_mm: Float32[Tensor, "z y x 3"]
) -> Float32[Tensor, "z y x"]:
    """The share of each voxel that strands fill."""
    offsets = _offsets_mm(part, lesion, points_zyx_mm)
    voxel_mm = float((points_zyx_mm[:, :, 1:] - points_zyx_mm[:, :, :-1]).norm(dim=-1).mean())
    lengths = (part.radius_mm * (1 + spicules.reaches)).tolist()
    ways = list(zip(spicules.directions_zyx, lengths, spicules.widths_mm.tolist(), strict=True))
    out = host.way_out(lesion.centre_zyx_mm + part.shift_zyx_mm) if spicules.pleural_tag else None
    if out is not None and out[1] < REACH * part.radius_mm:
        ways.append((out[0], out[1], float(spicules.widths_mm.max())))
    filled = torch.zeros_like(offsets[..., 0])
    for direction, length, width_mm in ways:
        unit = torch.from_numpy(direction.astype(np.float32)).to(offsets.device)
        along = (offsets @ unit).clamp(0, length)
        across = (offsets - along[..., None] * unit).norm(dim=-1)
        beyond = ((along - part.radius_mm) / max(length - part.radius_mm, 0.1)).clamp(0, 1)
        width = width_mm * (1 - (1 - _TIP) * beyond)
        # A strand thinner than a voxel fills a part of it.
        seen = width.clamp(min=0.7 * voxel_mm)
        filled = torch.maximum(filled, (width / seen) ** 1.5 * torch.exp(-((across / seen) ** 2)))
    return filled


def noise_deviation_hu(hu: Float32[Tensor, "z y x"]) -> float:
    """The deviation of a scan's noise in soft tissue, or in all of the scan where there is none."""
    slices = hu[:: max(len(hu) // _NOISE_SLICES, 1)]
    smooth = _smoothed(slices)
    rest = (slices - smooth).abs()
    low, high = _NOISE_HU
    among = rest[(smooth > low) & (smooth < high)]
    among = among if len(among) else rest.flatten()
    # Borders are outliers in the upper half.
    return float(torch.sort(among).values[int(0.3 * len(among))]) / _NORMAL_P30


def _separated(
    hu: Float32[Tensor, "z y x"], noise_hu: float
) -> tuple[Float32[Tensor, "z y x"], Float32[Tensor, "z y x"]]:
    """The scan smoothed within its slices, and its noise: what differs from that, reduced where anatomy adds to it."""
    smooth = _smoothed(hu)
    rest = hu - smooth
    local = _smoothed(rest**2).clamp(min=1e-6).sqrt()
    return smooth, rest * (_NOISE_FACTOR * noise_hu / local).clamp(max=1)


def _smoothed(hu: Float32[Tensor, "z y x"]) -> Float32[Tensor, "z y x"]:
    smooth = hu[None, None]
    for _ in range(2):
        smooth = avg_pool3d(smooth, (1, 5, 5), 1, (0, 2, 2), count_include_pad=False)
    return smooth[0, 0]


def _level_hu(hu: Float32[Tensor, "z y x"], around: Bool[Tensor, "z y x"], *, low: float, high: float) -> float:
    """The median HU of the tissue around a lesion, within limits for what lies beside gas or bone."""
    shell = hu[around]
    return min(max(float((shell if len(shell) else hu).median()), low), high)


def _texture(hu: Float32[Tensor, "z y x"], generator: np.random.Generator) -> Float32[Tensor, "z y x"]:
    grain = torch.from_numpy(generator.normal(size=(1, 1, 4, 6, 6)).astype(np.float32)).to(hu.device)
    return interpolate(grain, size=tuple(hu.shape), mode="trilinear", align_corners=True)[0, 0]


def _covered(depth_mm: Float32[Tensor, "z y x"]) -> Float32[Tensor, "z y x"]:
    """The share of each voxel that lies in a tissue, from the depth below its border."""
    return (0.5 + depth_mm / _HOST_EDGE_MM).clamp(0, 1)


def _room(hu: Float32[Tensor, "z y x"], tissue: Tissue) -> Float32[Tensor, "z y x"]:
    """Where a lesion may lie by HU: bone lesions in bone, others not in cortical bone, nor outside the lungs in air."""
    if tissue == "bone":
        # Marrow contains fat, whose gaps smoothing closes.
        smooth = avg_pool3d(hu.clamp(-100, 400)[None, None], (3, 5, 5), 1, (1, 2, 2), count_include_pad=False)
        return ((smooth[0, 0] - 60) / 60).clamp(0, 1)
    free = ((500 - hu) / 200).clamp(0, 1)
    return free if tissue == "lung" else free * ((hu + 300) / 100).clamp(0, 1)


def _to_numpy(mask: Tensor) -> Bool[np.ndarray, "z y x"]:
    return np.asarray(mask.cpu().numpy())
