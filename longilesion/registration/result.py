"""Result of a registration: the mapping from baseline to follow-up points, and its similarity and consistency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64
from scipy.ndimage import distance_transform_edt

from longilesion.registration.reduction import ReducedScan, transformed

# From best to worst.
Stage: TypeAlias = Literal["deformable", "rigid", "shift", "body centres"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Deformation:
    """Displacements (x, y, z, mm) at the voxels of both scans' lattices, found independently of each other."""

    forward: Float32[np.ndarray, "z y x 3"]
    backward: Float32[np.ndarray, "a b c 3"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Registration:
    """How two scans of a patient correspond, by the last registration step that succeeded (`stage`).

    `motion` maps the baseline's local frame to the follow-up's, after the deformation if there is one.
    `similarity` is the local correlation with the registered follow-up at the baseline's voxels, `overall_similarity`
    its mean over the part of the body that both show, `shift_correlation` that of the initial translation.
    """

    stage: Stage
    baseline: ReducedScan
    followup: ReducedScan
    motion: Float64[np.ndarray, "4 4"]
    deformation: Deformation | None
    similarity: Float32[np.ndarray, "z y x"]
    overall_similarity: float
    shift_correlation: float

    def followup_xyz_mm(self, baseline_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        """Maps points of the baseline's world to the follow-up's; they may lie outside the scan."""
        local = transformed(self.baseline.local_from_world, baseline_xyz_mm)
        return transformed(np.linalg.inv(self.followup.local_from_world), self._forward(local))

    def baseline_xyz_mm(self, followup_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        """Maps points of the follow-up's world to the baseline's: the inverse of `followup_xyz_mm`, up to its error."""
        local = transformed(self.followup.local_from_world, followup_xyz_mm)
        return transformed(np.linalg.inv(self.baseline.local_from_world), self._backward(local))

    def inverse_error_mm(self, baseline_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n"]:
        """Inverse consistency error: distance of a point from its image under forward and backward mapping."""
        if self.deformation is None:
            return np.zeros(len(baseline_xyz_mm))
        local = transformed(self.baseline.local_from_world, baseline_xyz_mm)
        return np.asarray(np.linalg.norm(self._backward(self._forward(local)) - local, axis=1))

    def unshown_mm(self, followup_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n"]:
        """Distance of points in the follow-up's padding from the field of view, to half a voxel; 0 for other points."""
        scan = self.followup
        if scan.shown.all():
            return np.zeros(len(followup_xyz_mm))
        # From the nearest shown voxel's face, not its centre.
        distance_mm = (distance_transform_edt(~scan.shown) - 0.5) * scan.spacing_mm
        local = transformed(scan.local_from_world, followup_xyz_mm)
        found_mm = scan.at(distance_mm.astype(np.float32), local)
        last = (np.array(scan.hu.shape[::-1]) - 1) * scan.spacing_mm
        beyond_mm = np.linalg.norm(local - np.clip(local, 0.0, last), axis=1)
        return np.where(found_mm > 0, found_mm + beyond_mm, 0.0)

    def similarity_at(self, baseline_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n"]:
        """The local correlation around points; 0 where the follow-up does not show them."""
        return self.baseline.at(self.similarity, transformed(self.baseline.local_from_world, baseline_xyz_mm))

    def _forward(self, local_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        if self.deformation is not None:
            local_xyz_mm = local_xyz_mm + self.baseline.vectors_at(self.deformation.forward, local_xyz_mm)
        return transformed(self.motion, local_xyz_mm)

    def _backward(self, local_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        if self.deformation is not None:
            local_xyz_mm = local_xyz_mm + self.followup.vectors_at(self.deformation.backward, local_xyz_mm)
        return transformed(np.linalg.inv(self.motion), local_xyz_mm)
