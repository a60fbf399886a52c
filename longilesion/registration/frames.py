"""Conversion of reduced scans to ITK images in their local frames."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from jaxtyping import Shaped

from longilesion.registration.reduction import ReducedScan


def to_itk(voxels: Shaped[np.ndarray, "z y x"], scan: ReducedScan) -> sitk.Image:
    """Voxels of a reduced scan's lattice; the world of the image is the local frame."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((scan.spacing_mm,) * 3)
    return image
