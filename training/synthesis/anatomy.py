"""A real lesion grown or shrunk together with the anatomy around it.

Anatomy-informed deformation (Kovacs et al., MICCAI 2023), as in LesionLocator's synthetic baselines, which Promptable
LongiSeg is pretrained on (section 2.2): tissue moves along the gradient of the smoothed lesion mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int16
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample

from longilesion.geometry import box_slices
from training.synthesis.solids import Window

# Largest number of voxels along the lesion's longest side on the lattice of the field.
_LONGEST_VOXELS = 28
# No entry of a step's derivative exceeds this, so that no step folds; a fold needs 1.
_STEEPEST = 0.25
# The smallest share of its volume to which tissue is compressed: beside bone, steps add up.
_LEAST_SHARE = 0.08
_STEPS = 40
# The mask is smoothed by this share of its radius, but not by less than a few voxels.
_SMOOTHING, _LEAST_SMOOTHING_MM = 0.4, 2.0
_BONE_HU = 250.0
# Bone's surroundings move with it over this distance.
_BONE_REACH_MM = 4.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnatomyGrowth:
    """A displacement on a lattice around `middle_zyx_mm`, zero outside it; same interface as `deformation.Growth`.

    `volume_factor` is the factor of the lesion's volume that was reached: bone around it can prevent the target.
    """

    middle_zyx_mm: Float[np.ndarray, "3"]
    spacing_zyx_mm: Float[np.ndarray, "3"]
    displacement_zyx_mm: Float32[Tensor, "3 z y x"]
    volume_factor: float

    def mapped(self, points_zyx_mm: Float32[Tensor, "z y x 3"]) -> Float32[Tensor, "z y x 3"]:
        """Positions in the original anatomy of points of the scan with the changed lesion."""
        device = points_zyx_mm.device
        field = self.displacement_zyx_mm.to(device)
        middle = torch.from_numpy(self.middle_zyx_mm.astype(np.float32)).to(device)
        scaled = (points_zyx_mm - middle) / _half_mm(field.shape[1:], self.spacing_zyx_mm).to(device)
        return points_zyx_mm + grid_sample(field[None], scaled.flip(-1)[None], align_corners=True)[0].permute(
            1, 2, 3, 0
        )


def anatomy_growth(
    hu: Int16[np.ndarray, "z y x"],
    spacing_zyx_mm: Float32[np.ndarray, "3"],
    *,
    mask: Bool[np.ndarray, "a b c"],
    box: Window,
    volume_factor: float,
) -> AnatomyGrowth:
    """Finds the field that multiplies the volume of a lesion, whose mask covers a box of its scan.

    Positions are in mm from the scan's first voxel. The mobility is highest in air and lung, lower in fat, lowest in
    soft tissue; bone outside the lesion does not move, so that a lesion in bone keeps its size. The field consists of
    small steps, each along the gradient of the lesion as changed by the previous steps: neither a step nor the whole
    folds. It fades over about the lesion's own radius.
    """
    spacing = spacing_zyx_mm.astype(float)
    radius_mm = (3 * float(mask.sum()) * float(np.prod(spacing)) / (4 * np.pi)) ** (1 / 3)
    longest_mm = float((np.array(mask.shape) * spacing).max())
    smoothing_mm = max(_SMOOTHING * radius_mm, _LEAST_SMOOTHING_MM)
    margin_mm = 3 * smoothing_mm + longest_mm / 2 * max(volume_factor ** (1 / 3) - 1, 0.0)
    margin = np.ceil(margin_mm / spacing).astype(int)
    start, stop = np.array([side.start for side in box]), np.array([side.stop for side in box])
    low, high = np.maximum(start - margin, 0), np.minimum(stop + margin, hu.shape)
    lesion = np.pad(mask, np.stack([start - low, high - stop], axis=1).tolist())
    # Voxels are averaged, not resampled, to about the spacing that the lesion needs.
    blocks = np.floor(longest_mm / _LONGEST_VOXELS / spacing).astype(int).clip(1, high - low)
    share, mean_hu = (averaged(part, blocks) for part in (lesion, hu[box_slices(low, high)]))
    lattice = blocks * spacing
    mobility = _mobility(mean_hu, share, lattice, smoothing_mm=smoothing_mm)
    displacement, reached = _grown(share, mobility, lattice, smoothing_mm=smoothing_mm, volume_factor=volume_factor)
    return AnatomyGrowth(
        middle_zyx_mm=low * spacing + (blocks * share.shape - 1) / 2 * spacing,
        spacing_zyx_mm=lattice,
        displacement_zyx_mm=displacement,
        volume_factor=reached,
    )


def _grown(
    lesion: Float32[np.ndarray, "z y x"],
    mobility: Float32[np.ndarray, "z y x"],
    spacing_zyx_mm: Float[np.ndarray, "3"],
    *,
    smoothing_mm: float,
    volume_factor: float,
) -> tuple[Float32[Tensor, "3 z y x"], float]:
    """The displacement, and the volume factor reached."""
    half_mm = _half_mm(lesion.shape, spacing_zyx_mm)
    fixed = torch.from_numpy(np.stack([lesion, mobility]))
    axes = [torch.linspace(-half, half, count) for half, count in zip(half_mm.tolist(), lesion.shape, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    displacement = torch.zeros_like(places)
    before = float(lesion.sum())
    for _ in range(_STEPS):
        now, free = _looked_up(fixed, places + displacement, half_mm).numpy()
        missing = volume_factor * before - float(now.sum())
        smooth = gaussian_filter(now, smoothing_mm / spacing_zyx_mm)
        direction = np.stack(_gradient(smooth, spacing_zyx_mm)) * free
        # To first order, a step moves the soft border of the lesion by as much volume as this, per unit of amplitude.
        gain = float((np.stack(_gradient(now, spacing_zyx_mm)) * direction).sum())
        if abs(missing) < 0.003 * before or gain <= 0:
            break
        steepest = max(float(np.abs(_gradient(part, spacing_zyx_mm)).max()) for part in direction)
        amplitude = float(np.clip(missing / gain, -_STEEPEST / steepest, _STEEPEST / steepest))
        step = torch.from_numpy((amplitude * direction).astype(np.float32))
        moved = step + _looked_up(displacement, places + step, half_mm)
        derivative = np.array([_gradient(part, spacing_zyx_mm) for part in moved.numpy()])
        if np.linalg.det(np.moveaxis(derivative, (0, 1), (-2, -1)) + np.eye(3)).min() < _LEAST_SHARE:
            break
        displacement = moved
    # With stiff surroundings the steps end here before the target factor is reached.
    reached = float(_looked_up(fixed[:1], places + displacement, half_mm).sum()) / before
    return displacement, reached


def _mobility(
    hu: Float32[np.ndarray, "z y x"],
    lesion: Float32[np.ndarray, "z y x"],
    spacing_zyx_mm: Float[np.ndarray, "3"],
    *,
    smoothing_mm: float,
) -> Float32[np.ndarray, "z y x"]:
    """Mobility of tissue, from 0 (bone) to 1 (air)."""
    yielding = np.interp(hu, [-700, -300, -100, 0], [1.0, 0.9, 0.7, 0.45])
    smooth = gaussian_filter(yielding, smoothing_mm / 2 / spacing_zyx_mm)
    bone = (hu > _BONE_HU) & (lesion < 0.5)
    if bone.any():
        smooth *= np.clip(distance_transform_edt(~bone, sampling=spacing_zyx_mm) / _BONE_REACH_MM, 0, 1)
    return np.asarray(smooth, np.float32)


def averaged(
    volume: Bool[np.ndarray, "z y x"] | Int16[np.ndarray, "z y x"], blocks: np.ndarray
) -> Float32[np.ndarray, "a b c"]:
    """Means of blocks of voxels; incomplete blocks at the end are left out."""
    return np.asarray(avg_pool3d(torch.from_numpy(volume.astype(np.float32))[None], tuple(blocks.tolist()))[0].numpy())


def _gradient(
    volume: Float32[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "z y x"], ...]:
    """Derivatives along z, y, x."""
    return tuple(np.gradient(volume, *spacing_zyx_mm.tolist()))


def _half_mm(shape_zyx: tuple[int, ...], spacing_zyx_mm: Float[np.ndarray, "3"]) -> Float32[Tensor, "3"]:
    """Distances from the lattice's centre to the centres of its outermost voxels."""
    return torch.from_numpy(((np.array(shape_zyx) - 1) / 2 * spacing_zyx_mm).astype(np.float32)).clamp(min=1e-3)


def _looked_up(
    channels: Float32[Tensor, "n z y x"], places_zyx_mm: Float32[Tensor, "3 z y x"], half_mm: Float32[Tensor, "3"]
) -> Float32[Tensor, "n z y x"]:
    """Linear interpolation at positions in mm from the lattice's centre; outside, the value at the border."""
    scaled = (places_zyx_mm / half_mm[:, None, None, None]).permute(1, 2, 3, 0).flip(-1)
    return grid_sample(channels[None], scaled[None], align_corners=True, padding_mode="border")[0]
