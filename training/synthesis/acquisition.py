"""What the scanner and the contrast agent do to an image, drawn anew for each time point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int16
from scipy.ndimage import gaussian_filter
from torch import Tensor

from longilesion.case import AIR_HU


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """One scan's protocol.

    `enhancement_hu` is added to the brightest soft tissue and less to darker tissue, `regional_hu` is the deviation of
    a smooth field added to soft tissue, `sharpness` blurs below 0 and sharpens above 0.
    """

    spacing_zyx_mm: tuple[float, float, float]
    enhancement_hu: float
    regional_hu: float
    noise_hu: float
    noise_grain_voxels: float
    sharpness: float
    offset_hu: float


def random_acquisition(generator: np.random.Generator, *, coarseness: float) -> Acquisition:
    """Draws a protocol; `coarseness` scales the spacing of scans of wide regions, which need less detail."""
    in_plane = float(generator.uniform(0.8, 1.3)) * coarseness
    slices = float(generator.choice([1.5, 2.0, 2.5, 3.0, 4.0, 5.0], p=[0.1, 0.2, 0.2, 0.25, 0.1, 0.15]))
    return Acquisition(
        spacing_zyx_mm=(max(slices, 2.0 * coarseness if coarseness > 1 else 0.0), in_plane, in_plane),
        enhancement_hu=float(generator.uniform(-50, 90)) * float(generator.random() < 0.6),
        regional_hu=float(generator.uniform(0, 15)) * float(generator.random() < 0.6),
        noise_hu=float(generator.gamma(2.0, 6.0)),
        noise_grain_voxels=float(generator.uniform(0.3, 1.1)),
        sharpness=float(generator.normal(0.0, 0.5)),
        offset_hu=float(generator.normal(0.0, 4.0)),
    )


def enhanced(
    hu: Float32[Tensor, "z y x"], acquisition: Acquisition, generator: np.random.Generator
) -> Float32[Tensor, "z y x"]:
    """Tissue as another phase of contrast shows it; applied before lesions are painted."""
    weight = ((hu - 20) / 150).clamp(0, 1) * ((700 - hu) / 300).clamp(0, 1)
    result = hu + acquisition.enhancement_hu * weight
    if acquisition.regional_hu:
        control = torch.from_numpy(generator.normal(size=(1, 1, 4, 5, 5)).astype(np.float32))
        field = torch.nn.functional.interpolate(control, size=tuple(hu.shape), mode="trilinear", align_corners=True)[
            0, 0
        ]
        tissue = ((hu + 20) / 40).clamp(0, 1) * ((250 - hu) / 50).clamp(0, 1)
        result += acquisition.regional_hu * field * tissue
    return result


def acquired(
    hu: Float32[Tensor, "z y x"], acquisition: Acquisition, generator: np.random.Generator
) -> Int16[np.ndarray, "z y x"]:
    """The image that the scanner gives: kernel, noise, offset, rounding."""
    image = hu
    if acquisition.sharpness:
        blurred = torch.nn.functional.avg_pool3d(image[None, None], (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)[
            0, 0
        ]
        image = image + min(max(acquisition.sharpness, -0.9), 0.7) * (image - blurred)
    noise = torch.empty(hu.shape).normal_(generator=torch.Generator().manual_seed(int(generator.integers(2**31))))
    grain = gaussian_filter(
        noise.numpy(), (0.3, acquisition.noise_grain_voxels, acquisition.noise_grain_voxels), truncate=2.5
    )
    image = image + torch.from_numpy(grain * np.float32(acquisition.noise_hu / max(float(grain.std()), 1e-3)))
    return (image + acquisition.offset_hu).round().clamp(AIR_HU, 3000).to(torch.int16).numpy()
