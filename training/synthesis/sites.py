"""Where in a volume a lesion may be painted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int16
from scipy.ndimage import binary_erosion, binary_fill_holes, uniform_filter

from training.synthesis.lesions import Tissue


def lesion_sites(
    hu: Int16[np.ndarray, "z y x"], spacing_zyx_mm: Float32[np.ndarray, "3"]
) -> Mapping[Tissue, Float32[np.ndarray, "n 3"]]:
    """Positions (z, y, x in mm from the first voxel) inside soft tissue, lung and fat, on a grid of about 4 mm."""
    stride = np.maximum(np.round(4.0 / spacing_zyx_mm), 1).astype(int)
    coarse = hu[:: stride[0], :: stride[1], :: stride[2]].astype(np.float32)
    body = np.stack([binary_fill_holes(binary_erosion(section > -300)) for section in coarse]).astype(bool)
    smooth = uniform_filter(coarse, 3)
    masks: dict[Tissue, np.ndarray] = {
        "soft": body & (smooth > -10) & (smooth < 220) & (coarse > -40) & (coarse < 250),
        "lung": binary_erosion(body & (smooth < -600)),
        "fat": body & (smooth > -130) & (smooth < -60),
    }
    positions = {tissue: np.argwhere(mask) * stride * spacing_zyx_mm for tissue, mask in masks.items()}
    return {tissue: found.astype(np.float32) for tissue, found in positions.items() if len(found) > 50}
