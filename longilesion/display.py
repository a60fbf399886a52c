"""Scans as pages show them: intensities are rounded, and the voxels of large scans joined to fewer.

What is measured never comes from these.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int16, UInt16

from longilesion.geometry import ZYX, Grid

# Rounded to so many Hounsfield units, and clipped: files of a third of the size.
_STEP_HU = 4
_RANGE_HU = (-1024, 2048)
# Scans with more voxels are halved along their shorter voxels until they have fewer.
_MOST_VOXELS = 24_000_000


def joining_factors(grid: Grid) -> ZYX:
    """By how much the voxels of each axis are joined."""
    factors = [1, 1, 1]
    while np.prod([count // factor for count, factor in zip(grid.shape_zyx, factors, strict=True)]) > _MOST_VOXELS:
        steps_mm = np.array(grid.spacing_zyx_mm) * factors
        is_short = steps_mm < 1.5 * steps_mm.min()
        factors = [factor * (1 + short) for factor, short in zip(factors, is_short.tolist(), strict=True)]
    z, y, x = factors
    return z, y, x


def joined_grid(grid: Grid, factors: ZYX) -> Grid:
    """The grid of joined voxels."""
    z, y, x = (count // factor for count, factor in zip(grid.shape_zyx, factors, strict=True))
    return grid.lattice(start_zyx=(np.array(factors) - 1) / 2, step_zyx=factors, shape_zyx=(z, y, x))


def joined_hu(hu: Int16[np.ndarray, "z y x"], factors: ZYX) -> Int16[np.ndarray, "a b c"]:
    """The mean of each block, rounded and clipped."""
    means = _blocks(hu, factors).mean(axis=(1, 3, 5), dtype=np.float32)
    rounded = _STEP_HU * np.rint(np.clip(means, *_RANGE_HU) / _STEP_HU)
    return np.asarray(rounded, np.int16)


def joined_ids(ids: UInt16[np.ndarray, "z y x"], factors: ZYX) -> UInt16[np.ndarray, "a b c"]:
    """The highest id in each block, so that no lesion is lost."""
    return np.asarray(_blocks(ids, factors).max(axis=(1, 3, 5)), np.uint16)


def _blocks(values: np.ndarray, factors: ZYX) -> np.ndarray:
    """The voxels that are joined, along axes 1, 3 and 5; what is left over at the end is left out."""
    counts = [count // factor for count, factor in zip(values.shape, factors, strict=True)]
    whole = values[tuple(slice(0, count * factor) for count, factor in zip(counts, factors, strict=True))]
    return whole.reshape([size for pair in zip(counts, factors, strict=True) for size in pair])
