"""Synthetic lesions: what they are, how they change between two scans, and how they are painted into an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt16
from scipy.spatial.transform import Rotation
from torch import Tensor

from training.synthesis.shapes import REACH, Shape, blended, random_shape, signed_distance_mm

Fate = Literal["persists", "new", "gone"]
Tissue = Literal["soft", "lung", "fat"]

FATES: tuple[Fate, ...] = ("persists", "new", "gone")
UNMARKED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Appearance:
    """A lesion in one scan: its radius, and its density against the tissue around it (absolute in lung and fat)."""

    shape: Shape
    radius_mm: float
    density_hu: float
    core_hu: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesion:
    """One lesion at two time points, absent where the appearance is None; centres are relative to the cut-out's middle.

    `lesion_id` is `UNMARKED` for a distractor that nobody outlined.
    """

    lesion_id: int
    tissue: Tissue
    center_zyx_mm: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    edge_mm: float
    texture_hu: float
    kept_structure: float
    baseline: Appearance | None
    followup: Appearance | None


def random_lesion(
    generator: np.random.Generator,
    *,
    lesion_id: int,
    fate: Fate,
    tissue: Tissue,
    center_zyx_mm: Float[np.ndarray, "3"],
    real_shapes: tuple[Shape, ...],
) -> Lesion:
    """Draws a lesion of 8 to 60 mm and its change: a third stays, the rest grows or shrinks."""
    radius = float(np.exp(generator.uniform(np.log(4.0), np.log(22.0 if tissue != "soft" else 30.0))))
    real = bool(real_shapes) and generator.random() < 0.4
    shape = real_shapes[int(generator.integers(len(real_shapes)))] if real else random_shape(generator)
    first = Appearance(
        shape=shape,
        radius_mm=radius,
        density_hu=_density_hu(tissue, generator),
        core_hu=float(generator.uniform(-30, 12)) * float(generator.random() < 0.4),
    )
    second = _evolved(first, tissue, generator)
    return Lesion(
        lesion_id=lesion_id,
        tissue=tissue,
        center_zyx_mm=center_zyx_mm,
        rotation=Rotation.random(rng=generator).as_matrix(),
        edge_mm=float(generator.uniform(0.3, 1.2 if tissue != "soft" else 2.0)),
        texture_hu=float(generator.uniform(0, 15)),
        kept_structure=float(generator.uniform(0, 0.4)),
        baseline=None if fate == "new" else first,
        followup=None if fate == "gone" else second,
    )


def paint(
    hu: Float32[Tensor, "z y x"],
    ids: UInt16[np.ndarray, "z y x"],
    *,
    points_zyx_mm: Float32[Tensor, "z y x 3"],
    lesion: Lesion,
    appearance: Appearance,
    generator: np.random.Generator,
) -> None:
    """Paints a lesion, in place, into an image whose voxels lie at those points of the anatomy, and into its map."""
    box = _box(points_zyx_mm, lesion.center_zyx_mm, reach_mm=appearance.radius_mm * REACH)
    if box is None:
        return
    offsets = points_zyx_mm[box] - torch.from_numpy(lesion.center_zyx_mm.astype(np.float32))
    distance = signed_distance_mm(appearance.shape, offsets, radius_mm=appearance.radius_mm, rotation=lesion.rotation)
    around = hu[box]
    share = torch.sigmoid(-distance / (lesion.edge_mm / 2)) * _room(around, lesion.tissue)
    shell = around[(distance > 0) & (distance < 5)]
    level = float((shell if len(shell) else around).median())
    if lesion.tissue == "soft":
        # Beside bowel gas or bone the shell's median is no tissue.
        level = min(max(level, 0.0), 180.0)
    base = level + appearance.density_hu if lesion.tissue == "soft" else appearance.density_hu
    core = appearance.core_hu * (-distance / (0.7 * appearance.radius_mm)).clamp(0, 1)
    grain = torch.from_numpy(generator.normal(size=(1, 1, 4, 6, 6)).astype(np.float32))
    texture = torch.nn.functional.interpolate(grain, size=tuple(around.shape), mode="trilinear", align_corners=True)[
        0, 0
    ]
    kept = lesion.kept_structure * (around - level).clamp(-60, 60) if lesion.tissue == "soft" else 0.0
    hu[box] = around * (1 - share) + share * (base + core + lesion.texture_hu * texture + kept)
    if lesion.lesion_id != UNMARKED:
        ids[box][((distance < 0) & (share > 0.4)).numpy()] = lesion.lesion_id


def click_error_mm(generator: np.random.Generator) -> Float[np.ndarray, "3"]:
    """The error of a propagated click (z, y, x), from the published quantiles in voxels of 0.775 x 0.775 x 3 mm.

    The tail beyond the 95th percentile is cut: such clicks point into another part of the body.
    """
    voxels = np.interp(
        generator.uniform(0, 0.97), [0, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0], [0, 1.2, 3.7, 11.1, 23.1, 34, 45]
    )
    direction = generator.normal(size=3)
    return np.asarray(voxels * direction / np.linalg.norm(direction) * np.array([3.0, 0.775, 0.775]))


def _density_hu(tissue: Tissue, generator: np.random.Generator) -> float:
    if tissue == "lung":
        return float(generator.normal(20, 35)) if generator.random() < 0.85 else float(generator.uniform(-500, -150))
    if tissue == "fat":
        return float(generator.normal(40, 25))
    return float(generator.uniform(18, 90) * generator.choice([-1.0, 1.0]))


def _evolved(first: Appearance, tissue: Tissue, generator: np.random.Generator) -> Appearance:
    low, high = [(0.93, 1.07), (1.07, 1.7), (0.45, 0.93)][int(generator.choice(3, p=[0.3, 0.35, 0.35]))]
    density = first.density_hu * generator.uniform(0.7, 1.2) + generator.normal(0, 5)
    if tissue == "soft":
        # Below this contrast not even an expert would find it again.
        density = float(np.sign(first.density_hu) * max(abs(density), 14.0))
    return Appearance(
        shape=blended(first.shape, random_shape(generator), float(generator.uniform(0, 0.35))),
        radius_mm=max(first.radius_mm * float(generator.uniform(low, high)), 3.5),
        density_hu=float(density),
        core_hu=first.core_hu,
    )


def _room(around: Float32[Tensor, "z y x"], tissue: Tissue) -> Float32[Tensor, "z y x"]:
    """Where a lesion may lie: not in dense bone, and outside the lungs not in air."""
    free = ((500 - around) / 200).clamp(0, 1)
    return free if tissue == "lung" else free * ((around + 300) / 100).clamp(0, 1)


def _box(
    points_zyx_mm: Float32[Tensor, "z y x 3"], center_zyx_mm: Float[np.ndarray, "3"], *, reach_mm: float
) -> tuple[slice, slice, slice] | None:
    """The part of the image around a lesion, found on every fourth voxel and widened by as much."""
    coarse = points_zyx_mm[::4, ::4, ::4]
    near = (coarse - torch.from_numpy(center_zyx_mm.astype(np.float32))).abs().amax(-1).numpy() < reach_mm + 6.0
    if not near.any():
        return None
    slices = []
    for axis in range(3):
        hits = np.flatnonzero(near.any(axis=tuple(other for other in range(3) if other != axis)))
        slices.append(slice(max(int(hits[0]) * 4 - 4, 0), int(hits[-1]) * 4 + 5))
    return slices[0], slices[1], slices[2]
