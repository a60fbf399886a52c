"""Painting of a lesion into a scan, and of its outline into the map."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt16
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample, interpolate

from training.synthesis.characters import Core, Spicules
from training.synthesis.host import Host
from training.synthesis.lesions import Appearance, Lesion, Tissue
from training.synthesis.noise import Noise
from training.synthesis.shapes import REACH, signed_distance_mm

# Parts of a lesion blend over this distance.
_JOINT_MM = 1.5
# A healed lesion's remains are smaller than it was, and blurred.
_SCAR_SIZE, _SCAR_EDGE_MM = 0.75, 3.0
# Its strands, and how much denser they are than the rest of it.
_SCAR_STRAND_MM, _SCAR_STRAND = 1.5, 2.0
# The border of a tissue is blurred by the lattice that it is found on.
_HOST_EDGE_MM = 1.5
# From this height on, a bulge covers the border.
_BULGE_FROM_MM = 0.5
# The HU of tissue without air, by which air is replaced in ground glass.
_DENSE_HU = 40.0
# Strands are as thin as this share of their width at their tips.
_TIP = 0.3


def paint(
    hu: Float32[Tensor, "z y x"],
    ids: UInt16[np.ndarray, "z y x"],
    *,
    points_zyx_mm: Float32[Tensor, "z y x 3"],
    host: Host,
    noise: Noise,
    lesion: Lesion,
    parts: tuple[Appearance, ...],
    label: int,
    generator: np.random.Generator,
) -> None:
    """Paints a lesion's parts, in place, into an image whose voxels lie at those points of the anatomy.

    It lies in its host tissue, but for a bulge, and has the scan's noise: in soft tissue that of the voxels themselves.
    The outline is written into the map with that label, unless it is 0.
    """
    distances = torch.stack([_distance_mm(part, lesion, points_zyx_mm) for part in parts])
    distance = distances[0] if len(parts) == 1 else -_JOINT_MM * torch.logsumexp(-distances / _JOINT_MM, 0)
    depth = host.depth_mm(points_zyx_mm)
    body = torch.sigmoid(-distance / (lesion.edge_mm / 2)) * _room(hu, lesion.tissue)
    # Voxels that are part chest wall and part lung are filled: the air in them is replaced, the wall is not.
    inside = _covered(depth + (_HOST_EDGE_MM / 2 if lesion.tissue == "lung" else 0.0))
    # A bulge is highest in the middle and ends at the lesion's border.
    bulge_mm = (-0.6 * distance).clamp(0, lesion.character.bulge_mm)
    share = body * torch.maximum(inside, _covered(depth + bulge_mm))
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
        if lesion.tissue == "soft":
            level = _level_hu(hu, around, low=0.0, high=180.0)
            smooth, grain = noise.kept(hu)
            # Where the tissue ends, its HU mix with those beyond, which are no structure of its own.
            structure = (smooth - level).clamp(-60, 60) * (depth / 2).clamp(0, 1)
            change = target + (lesion.kept_structure - 1) * structure + smooth + grain - hu
            target = target + level
        else:
            # A generator of its own, so that everything else is drawn alike whatever the size of the box.
            (own,) = generator.spawn(1)
            grain = noise.drawn(hu.shape, own).to(hu.device)
            if lesion.tissue == "lung":
                # Air is replaced by fluid or cells, so that vessels stay visible in ground glass.
                level = _level_hu(hu, around, low=-1000.0, high=-600.0)
                filled = ((target - level) / (_DENSE_HU - level)).clamp(min=0)
                change = filled * (_DENSE_HU - hu + grain)
            else:
                change = target + grain - hu
        # Under a bulge and in it, the lesion replaces the tissue and what lies beyond, border included.
        replaced = (bulge_mm / _BULGE_FROM_MM).clamp(0, 1) * ((3 - depth) / 2).clamp(0, 1)
        painted = share * (change + replaced * (target + grain - hu - change))
        spicules = lesion.character.spicules
        if spicules is not None:
            for part in parts:
                strands = inside * _spicules(spicules, part, lesion, host, points_zyx_mm)
                painted = torch.maximum(painted, strands * (spicules.hu - hu).clamp(min=0))
        hu += painted
    if label:
        ids[_to_numpy((distance < 0) & (share > 0.4))] = label


def paint_scar(
    hu: Float32[Tensor, "z y x"], *, points_zyx_mm: Float32[Tensor, "z y x 3"], host: Host, lesion: Lesion
) -> None:
    """Paints the remains of a healed lesion, in place: a faint patch, in lung and fat with strands through it."""
    room = _room(hu, lesion.tissue) * _covered(host.depth_mm(points_zyx_mm))
    for part in lesion.baseline:
        distance = _distance_mm(part, lesion, points_zyx_mm) + (1 - _SCAR_SIZE) * part.radius_mm
        change = lesion.scar_hu * torch.sigmoid(-distance / (_SCAR_EDGE_MM / 2))
        if lesion.tissue in ("lung", "fat"):
            axes = np.concatenate((lesion.rotation, -lesion.rotation))
            strands = _strands(
                _offsets_mm(part, lesion, points_zyx_mm),
                axes,
                np.full(len(axes), _SCAR_SIZE * part.radius_mm),
                np.full(len(axes), _SCAR_STRAND_MM),
                inner_mm=0.0,
            )
            change = change + _SCAR_STRAND * lesion.scar_hu * strands
        hu += change * room


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


def _spicules(
    spicules: Spicules, part: Appearance, lesion: Lesion, host: Host, points_zyx_mm: Float32[Tensor, "z y x 3"]
) -> Float32[Tensor, "z y x"]:
    """The share of each voxel that a part's strands fill."""
    directions = spicules.directions_zyx
    lengths, widths_mm = part.radius_mm * (1 + spicules.reaches), spicules.widths_mm
    out = host.way_out(lesion.centre_zyx_mm + part.shift_zyx_mm) if spicules.pleural_tag else None
    if out is not None and out[1] < REACH * part.radius_mm:
        directions = np.append(directions, out[0][None], axis=0)
        lengths, widths_mm = np.append(lengths, out[1]), np.append(widths_mm, widths_mm.max())
    offsets = _offsets_mm(part, lesion, points_zyx_mm)
    return _strands(offsets, directions, lengths, widths_mm, inner_mm=part.radius_mm)


def _strands(
    offsets_mm: Float32[Tensor, "z y x 3"],
    directions_zyx: Float[np.ndarray, "n 3"],
    lengths_mm: Float[np.ndarray, " n"],
    widths_mm: Float[np.ndarray, " n"],
    *,
    inner_mm: float,
) -> Float32[Tensor, "z y x"]:
    """The share of each voxel filled by strands that radiate from the origin and taper beyond `inner_mm`."""
    voxel_mm = float((offsets_mm[:, :, 1:] - offsets_mm[:, :, :-1]).norm(dim=-1).mean())
    near = offsets_mm.norm(dim=-1) < float(lengths_mm.max()) + 2 * voxel_mm
    offsets = offsets_mm[near]
    filled = torch.zeros(len(offsets), device=offsets.device)
    for direction, length, width_mm in zip(directions_zyx, lengths_mm.tolist(), widths_mm.tolist(), strict=True):
        unit = torch.from_numpy(direction.astype(np.float32)).to(offsets.device)
        along = (offsets @ unit).clamp(0, length)
        across = (offsets - along[:, None] * unit).norm(dim=-1)
        beyond = ((along - inner_mm) / max(length - inner_mm, 0.1)).clamp(0, 1)
        width = width_mm * (1 - (1 - _TIP) * beyond)
        # A strand thinner than a voxel fills a part of it.
        seen = width.clamp(min=0.7 * voxel_mm)
        filled = torch.maximum(filled, (width / seen) * torch.exp(-((across / seen) ** 2)))
    result = torch.zeros_like(offsets_mm[..., 0])
    result[near] = filled
    return result


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
