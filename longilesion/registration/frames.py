"""Reduced scans as ITK images in their local frames, and their resampling by a motion."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float32, Float64, Shaped

from longilesion.registration.reduction import ReducedScan


def to_itk(voxels: Shaped[np.ndarray, "z y x"], scan: ReducedScan) -> sitk.Image:
    """Voxels of a reduced scan's lattice; the world of the image is the local frame."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((scan.spacing_mm,) * 3)
    return image


def resampled(
    voxels: Float32[np.ndarray, "z y x"],
    moving: ReducedScan,
    fixed: ReducedScan,
    motion: Float64[np.ndarray, "4 4"],
) -> Float32[np.ndarray, "a b c"]:
    """Voxels of the moving scan's lattice on the fixed scan's, by the motion from that to it; 0 beyond the lattice."""
    rigid = sitk.AffineTransform(3)
    rigid.SetMatrix(motion[:3, :3].ravel().tolist())
    rigid.SetTranslation(motion[:3, 3].tolist())
    image = sitk.Resample(to_itk(voxels, moving), to_itk(fixed.hu, fixed), rigid, sitk.sitkLinear, 0.0)
    return sitk.GetArrayFromImage(image)
