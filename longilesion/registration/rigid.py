"""The rigid motion of the patient between two scans, by mutual information (Mattes), coarse to fine."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float64

from longilesion.registration.coarse import Shift
from longilesion.registration.frames import to_itk
from longilesion.registration.reduction import ReducedScan

# Strong smoothing and long steps at first, so that rotations of up to 20 degrees are found.
_SHRINKING = (4, 3, 2)
_SMOOTHING_VOXELS = (3.0, 1.5, 0.7)
_STRIDE_MM = (8.0, 0.05)
_SAMPLED_SHARE = 0.2
_SEED = 1
_BINS = 32
_STEPS = 100
# Along each axis; fewer are too few to smooth and to shrink.
_FEWEST_VOXELS = 8
# Larger rotations or translations are implausible: the optimiser has diverged.
_GREATEST_TURN_DEG = 35.0
_GREATEST_SHIFT_MM = 80.0


def find_rigid(baseline: ReducedScan, followup: ReducedScan, shift: Shift) -> Float64[np.ndarray, "4 4"] | None:
    """The motion (homogeneous, x, y, z) from the baseline's local frame to the follow-up's, begun at a shift.

    None where the scans are too thin for it, or where the optimiser diverged.
    """
    if min(*baseline.hu.shape, *followup.hu.shape) < _FEWEST_VOXELS:
        return None
    centre = np.argwhere(baseline.body).mean(axis=0)[::-1] * baseline.spacing_mm
    motion = sitk.Euler3DTransform()
    motion.SetCenter(centre.tolist())
    motion.SetTranslation(shift.xyz_mm.tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(_SAMPLED_SHARE, _SEED)
    # Sampled within the body and a rim of air, so that its outline contributes.
    method.SetMetricFixedMask(_with_rim(baseline, 2))
    method.SetMetricMovingMask(_with_rim(followup, 4))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=_STRIDE_MM[0], minStep=_STRIDE_MM[1], numberOfIterations=_STEPS, relaxationFactor=0.5
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(_SHRINKING)
    method.SetSmoothingSigmasPerLevel(_SMOOTHING_VOXELS)
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetInitialTransform(motion, inPlace=True)
    try:
        method.Execute(to_itk(baseline.intensities, baseline), to_itk(followup.intensities, followup))
    except RuntimeError:
        # ITK fails where the bodies do not overlap enough, or one of them has a single intensity.
        return None
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(motion.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(motion.TransformPoint(centre.tolist())) - matrix[:3, :3] @ centre
    moved = matrix[:3, :3] @ centre + matrix[:3, 3] - centre - shift.xyz_mm
    turn_deg = np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
    is_sane = turn_deg <= _GREATEST_TURN_DEG and float(np.linalg.norm(moved)) <= _GREATEST_SHIFT_MM
    return matrix if is_sane else None


def _with_rim(scan: ReducedScan, voxels: int) -> sitk.Image:
    """The body with some air around it in each slice, within the field of view."""
    rim = sitk.BinaryDilate(to_itk(scan.body.astype(np.uint8), scan), (voxels, voxels, 0))
    shown: sitk.Image = sitk.And(rim, to_itk(scan.shown.astype(np.uint8), scan))
    return shown
