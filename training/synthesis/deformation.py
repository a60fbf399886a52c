"""Where the voxels of a second scan lie in the first one's anatomy: rigid motion, breathing, growth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Growth:
    """A neighbourhood grown by `factor` (below 1: shrunk) around a centre; the effect fades over `reach_mm`."""

    center_zyx_mm: Float32[np.ndarray, "3"]
    factor: float
    reach_mm: float


def deformed(
    points_zyx_mm: Float32[Tensor, "z y x 3"],
    generator: np.random.Generator,
    *,
    rotation_deg: float,
    amplitude_mm: float,
    growth: Growth | None,
) -> Float32[Tensor, "z y x 3"]:
    """Maps points of the second scan to the anatomy of the first; points are relative to the cut-out's middle.

    Rotations are drawn up to `rotation_deg` about each axis; the smooth part has that standard deviation in mm, and
    half as much again along z, as breathing does.
    """
    turn = Rotation.from_euler("zyx", generator.uniform(-rotation_deg, rotation_deg, 3), degrees=True).as_matrix()
    moved = points_zyx_mm @ torch.from_numpy(turn.astype(np.float32))
    moved += _smooth_field(points_zyx_mm.shape[:3], generator) * torch.tensor([1.5, 1.0, 1.0]) * amplitude_mm
    if growth is not None:
        offset = moved - torch.from_numpy(growth.center_zyx_mm)
        fade = torch.exp(-(offset**2).sum(-1, keepdim=True) / growth.reach_mm**2)
        moved += offset * fade * (1 / growth.factor - 1)
    return moved


def _smooth_field(shape: torch.Size, generator: np.random.Generator) -> Float32[Tensor, "z y x 3"]:
    """A random vector field of unit deviation that varies over about a third of the volume."""
    control = torch.from_numpy(generator.normal(size=(1, 3, 5, 6, 6)).astype(np.float32))
    fine = torch.nn.functional.interpolate(control, scale_factor=4, mode="trilinear", align_corners=True)
    smooth = torch.nn.functional.avg_pool3d(fine, 5, stride=1, padding=2, count_include_pad=False)
    field = torch.nn.functional.interpolate(smooth, size=tuple(shape), mode="trilinear", align_corners=True)
    return field[0].permute(1, 2, 3, 0) / smooth.std()


def sampled(
    volume: Float32[Tensor, "z y x"], points_zyx_mm: Float32[Tensor, "a b c 3"], spacing_zyx_mm: NDArray[np.floating]
) -> Float32[Tensor, "a b c"]:
    """Linear interpolation of a volume, whose middle is the origin, at points; zero beyond it."""
    half_mm = (np.array(volume.shape) - 1) / 2 * spacing_zyx_mm
    scaled = points_zyx_mm / torch.from_numpy(np.maximum(half_mm, 1e-3).astype(np.float32))
    values = torch.nn.functional.grid_sample(volume[None, None], scaled.flip(-1)[None], align_corners=True)
    return values[0, 0]
