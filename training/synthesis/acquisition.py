"""Simulated acquisition: kernel, noise and contrast phase, drawn for each time point.

Everything is determined by the protocol, slice by slice, so that a scan can be made in slabs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int16
from torch import Tensor

from longilesion.case import AIR_HU
from training.synthesis.deformation import Axes, SmoothField
from training.synthesis.settings import ProtocolChanges

# Noise of neighbouring slices is almost uncorrelated, as they are measured separately.
_GRAIN_Z_VOXELS = 0.3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Acquisition:
    """One scan's protocol.

    `enhancement_hu` is added to the brightest soft tissue and less to darker tissue, `regional_hu` is a smooth field
    added to soft tissue, `sharpness` blurs below 0 and sharpens above 0. Slice k's noise follows from `noise_seed` + k.
    """

    spacing_zyx_mm: tuple[float, float, float]
    enhancement_hu: float
    regional_hu: SmoothField | None
    noise_hu: float
    noise_grain_voxels: float
    noise_seed: int
    sharpness: float
    offset_hu: float


def random_acquisition(generator: np.random.Generator, *, coarseness: float) -> Acquisition:
    """Draws a protocol; `coarseness` scales the spacing of scans of wide regions, which need less detail."""
    in_plane = float(generator.uniform(0.8, 1.3)) * coarseness
    slices = float(generator.choice([1.5, 2.0, 2.5, 3.0, 4.0, 5.0], p=[0.1, 0.2, 0.2, 0.25, 0.1, 0.15]))
    enhancement_hu = float(generator.uniform(-50, 90)) * float(generator.random() < 0.6)
    regional_hu = None
    if generator.random() < 0.6:
        field = SmoothField.random(generator, components=1, controls_zyx=(4, 5, 5))
        regional_hu = SmoothField(controls=field.controls * float(generator.uniform(0, 15)))
    return Acquisition(
        spacing_zyx_mm=(max(slices, 2.0 * coarseness if coarseness > 1 else 0.0), in_plane, in_plane),
        enhancement_hu=enhancement_hu,
        regional_hu=regional_hu,
        noise_hu=float(generator.gamma(2.0, 6.0)),
        noise_grain_voxels=float(generator.uniform(0.3, 1.1)),
        noise_seed=int(generator.integers(2**62)),
        sharpness=float(generator.normal(0.0, 0.5)),
        offset_hu=float(generator.normal(0.0, 4.0)),
    )


def random_acquisitions(
    generator: np.random.Generator, changes: ProtocolChanges, *, coarseness: float, times: int = 2
) -> tuple[Acquisition, ...]:
    """Draws the protocols of all scans, which share everything that does not change, except the noise."""
    before, *later = (random_acquisition(generator, coarseness=coarseness) for _ in range(times))
    return before, *(_changed(before, after, changes) for after in later)


def _changed(before: Acquisition, after: Acquisition, changes: ProtocolChanges) -> Acquisition:
    """The later protocol, with the earlier one's values where nothing changes."""
    if not changes.contrast:
        after = replace(after, enhancement_hu=before.enhancement_hu, regional_hu=before.regional_hu)
    if not changes.dose:
        after = replace(after, noise_hu=before.noise_hu, noise_grain_voxels=before.noise_grain_voxels)
    if not changes.kernel:
        after = replace(after, sharpness=before.sharpness)
    if not changes.slices:
        after = replace(after, spacing_zyx_mm=before.spacing_zyx_mm)
    return after


def enhanced(hu: Float32[Tensor, "z y x"], acquisition: Acquisition, axes: Axes) -> Float32[Tensor, "z y x"]:
    """Tissue in another contrast phase; applied before lesions are painted.

    The axes hold the voxels' coordinates in the scan, which reaches from -1 to 1.
    """
    weight = ((hu - 20) / 150).clamp(0, 1) * ((700 - hu) / 300).clamp(0, 1)
    result = hu + acquisition.enhancement_hu * weight
    if acquisition.regional_hu is not None:
        tissue = ((hu + 20) / 40).clamp(0, 1) * ((250 - hu) / 50).clamp(0, 1)
        result += acquisition.regional_hu.at(axes)[0] * tissue
    return result


def acquired(
    hu: Float32[Tensor, "z y x"], acquisition: Acquisition, *, first_slice: int = 0
) -> Int16[np.ndarray, "z y x"]:
    """The slices as acquired, from that number on: kernel, noise, offset, rounding."""
    image = hu + acquisition.offset_hu
    if acquisition.sharpness:
        blurred = torch.nn.functional.avg_pool3d(hu[None, None], (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
        image += min(max(acquisition.sharpness, -0.9), 0.7) * (hu - blurred[0, 0])
    if acquisition.noise_hu:
        image += acquisition.noise_hu * _noise(image, acquisition, first_slice=first_slice)
    return image.round_().clamp_(AIR_HU, 3000).to(torch.int16).cpu().numpy()


def _noise(like: Float32[Tensor, "z y x"], acquisition: Acquisition, *, first_slice: int) -> Float32[Tensor, "z y x"]:
    """Correlated noise of unit deviation; drawn on the CPU, so that it is the same on every device."""
    across, along = _kernel(acquisition.noise_grain_voxels), _kernel(_GRAIN_Z_VOXELS)
    margin, reach = len(across) - 1, len(along) // 2
    count, rows, columns = like.shape
    white = torch.empty(rows + margin, columns + margin)
    source = torch.Generator()
    result = torch.zeros_like(like)
    # Slice by slice, so that the working set stays in the CPU's cache.
    for number in range(-reach, count + reach):
        white.normal_(generator=source.manual_seed(acquisition.noise_seed + first_slice + number))
        grain = _smeared(_smeared(white.to(like.device), across, axis=0), across, axis=1)
        for place, weight in enumerate(along, number - reach):
            if 0 <= place < count:
                result[place].add_(grain, alpha=weight)
    return result


def _smeared(image: Float32[Tensor, "a b"], kernel: tuple[float, ...], *, axis: int) -> Float32[Tensor, "c d"]:
    """The image convolved with a kernel along an axis, where the kernel fits completely."""
    length = image.shape[axis] - len(kernel) + 1
    result = image.narrow(axis, 0, length) * kernel[0]
    for start, weight in enumerate(kernel[1:], start=1):
        result.add_(image.narrow(axis, start, length), alpha=weight)
    return result


def _kernel(deviation_voxels: float) -> tuple[float, ...]:
    """A Gaussian kernel that preserves the deviation of white noise."""
    reach = int(2.5 * deviation_voxels + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation_voxels) ** 2)
    return tuple((weights / np.linalg.norm(weights)).tolist())
