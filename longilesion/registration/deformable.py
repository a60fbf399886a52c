"""Deformable registration after the rigid motion, by Greedy: local correlation, diffeomorphic updates."""

from __future__ import annotations

import io

import numpy as np
import SimpleITK as sitk
from jaxtyping import Bool, Float32, Float64
from picsl_greedy import Greedy3D

from longilesion.registration.frames import resampled, to_itk
from longilesion.registration.reduction import ReducedScan

# Iterations at half and at full resolution; most of the displacement is found at the first.
_ITERATIONS = "40x10"
# Radius of the neighbourhood that is correlated, in voxels; vessels and organs' borders are thinner than larger ones.
_METRIC = "NCC 1x1x1"
# Smoothing of each update and of the whole field, in voxels.
_SMOOTHING = "3.0vox 1.5vox"
# Along each axis; fewer leave no neighbourhoods at half resolution.
_FEWEST_VOXELS = 16
_THREADS = 2
# Switches off the random noise that Greedy adds. Displacements are stored to a hundredth of a voxel.
_EXACT = "-noise 0 -wp 0.01"


def warped(moving: ReducedScan, fixed: ReducedScan, motion: Float64[np.ndarray, "4 4"]) -> Float32[np.ndarray, "z y x"]:
    """Intensities of one scan resampled at the fixed scan's voxels by the motion; 0 beyond it."""
    return resampled(moving.intensities, moving, fixed, motion)


def find_deformation(
    fixed: ReducedScan, moved_intensities: Float32[np.ndarray, "z y x"], shown: Bool[np.ndarray, "z y x"]
) -> Float32[np.ndarray, "z y x 3"] | None:
    """The displacement (x, y, z, mm) at the fixed scan's voxels that maximises local correlation with the moved scan.

    Only voxels that both scans show (`shown`) contribute; elsewhere it decays to zero. None where the scan is too thin
    or Greedy fails.
    """
    if min(fixed.hu.shape) < _FEWEST_VOXELS:
        return None
    greedy = Greedy3D()
    images = "-i fixed moving -gm shown -o field"
    command = f"{images} -m {_METRIC} -n {_ITERATIONS} -s {_SMOOTHING} {_EXACT} -float -threads {_THREADS} -V 0"
    try:
        greedy.execute(
            command,
            out=io.StringIO(),
            fixed=to_itk(fixed.intensities, fixed),
            moving=to_itk(moved_intensities, fixed),
            shown=to_itk(shown.astype(np.uint8), fixed),
            field=None,
        )
    except RuntimeError:
        return None
    field = sitk.GetArrayFromImage(greedy["field"]).astype(np.float32)
    return field if np.isfinite(field).all() else None
