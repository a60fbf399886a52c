"""Reduced scans as ITK images in their local frames, and their resampling by a motion."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float64, Shaped

from longilesion.registration.reduction import ReducedScan


def to_itk(voxels: Shaped[np.ndarray, "z y x"], scan: ReducedScan) -> sitk.Image:
    """Voxels of a reduced scan's lattice; the world of the image is the local frame."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((scan.spacing_mm,) * 3)
    return image


def resampled(
    voxels: Shaped[np.ndarray, "z y x"],
    moving: ReducedScan,
    fixed: ReducedScan,
    motion: Float64[np.ndarray, "4 4"],
    *,
    interpolator: int = sitk.sitkLinear,
) -> Shaped[np.ndarray, "a b c"]:
    """Voxels of the moving scan's lattice on the fixed scan's, by the motion from that to it; 0 beyond the lattice."""
    rigid = sitk.AffineTransform(3)
    rigid.SetMatrix(motion[:3, :3].ravel().tolist())
    rigid.SetTranslation(motion[:3, 3].tolist())
    onto = to_itk(fixed.hu, fixed)
    return sitk.GetArrayFromImage(sitk.Resample(to_itk(voxels, moving), onto, rigid, interpolator, 0.0))
