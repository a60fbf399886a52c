"""Windows of a network, slid over a region of a scan and averaged with Gaussian weights, as in nnU-Net (Isensee, 2021).

One slab of windows is in memory at a time, and the probabilities of the region, in 16 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, UInt16

from longilesion.config import VoiSettings
from longilesion.diagnosis_settings import DiagnosisSettings
from longilesion.ensemble import Ensemble
from longilesion.geometry import ZYX, Box, Grid, box_slices
from longilesion.prediction import lesion_threads, predict_pairs
from longilesion.registered import sample_share
from longilesion.timing import Stopwatch
from longilesion.voi import VoiPair, occupied_box

# Called with the number of windows that are done, and of all.
Progress: TypeAlias = Callable[[int, int], None]
# Samples a window of a region.
Sample: TypeAlias = Callable[[Box], VoiPair]

# A probability of 1 in a map of probabilities.
ONE = np.iinfo(np.uint16).max

# What is searched around the organ's box, as context.
_MARGIN_MM = 10.0
# The deviation of a window's weights, as a share of its length.
_SIGMA_SHARE = 1 / 8
_SLICES_AT_A_TIME = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """The voxels that are searched, on a lattice along the follow-up's axes in LPS order."""

    mask: Bool[np.ndarray, "z y x"]
    grid: Grid


def region_of(mask: Bool[np.ndarray, "z y x"], grid: Grid, window: VoiSettings | DiagnosisSettings) -> Region | None:
    """The lattice over the box of a mask (in LPS order) with a margin, of a window's length at least; None if empty."""
    box = occupied_box(mask)
    low, high = (np.array([getattr(side, end) for side in box], float) for end in ("start", "stop"))
    if (low == high).any():
        return None
    step = np.array(window.spacing_zyx_mm) / grid.spacing_zyx_mm
    length = (high - low) / step + 2 * _MARGIN_MM / np.array(window.spacing_zyx_mm)
    z, y, x = np.maximum(np.ceil(length), window.shape_zyx).astype(int).tolist()
    start = (low + high - 1) / 2 - step * (np.array((z, y, x)) - 1) / 2
    lattice = grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=(z, y, x))
    inside = np.empty(lattice.shape_zyx, np.bool_)
    for first in range(0, z, _SLICES_AT_A_TIME):
        last = min(first + _SLICES_AT_A_TIME, z)
        inside[first:last] = sample_share(mask, grid, lattice.window((first, 0, 0), (last, y, x))) >= 0.5
    return Region(mask=inside, grid=lattice)


def slide_over(
    region: Region, sample: Sample, detector: Ensemble, *, progress: Progress | None = None
) -> UInt16[np.ndarray, "z y x"]:
    """The weighted mean probability (times 65535) over the windows that cover a voxel of the region; 0 outside it."""
    group = detector.groups[0]
    settings = group[0].settings
    shape, count = settings.voi.shape_zyx, detector.batch_size(settings)
    starts_zyx = _starts_zyx(region, shape, settings.detection.overlap)
    weights = [_axis_weights(window) for window in shape]
    weight = window_weights(shape)
    # Windows without a voxel of the region are left out: none of its voxels lies in them. So the sum of the weights is
    # the product of the sums along the axes.
    sums = [
        _weight_sum(length, starts, own)
        for length, starts, own in zip(region.grid.shape_zyx, starts_zyx, weights, strict=True)
    ]
    windows = _windows_of(region, shape, starts_zyx)
    total = sum(map(len, windows.values()))
    _log.info("%d windows of %d x %d x %d voxels to search", total, *shape)
    done = 0
    watch = Stopwatch()
    probability = np.zeros(region.grid.shape_zyx, np.uint16)
    slab = np.zeros((shape[0], *region.grid.shape_zyx[1:]), np.float32)
    for number, (first, boxes) in enumerate(windows.items()):
        for begun in range(0, len(boxes), count):
            batch = boxes[begun : begun + count]
            with lesion_threads() as pool:
                pairs = list(pool.map(sample, batch))
            for box, (outline, *_) in zip(batch, predict_pairs(pairs, group, detector, watch), strict=True):
                slab[:, box[1], box[2]] += outline * weight
            done += len(batch)
            if progress is not None:
                progress(done, total)
        last = starts_zyx[0][number + 1] if number + 1 < len(windows) else region.grid.shape_zyx[0]
        finished = slab[: last - first]
        finished /= sums[0][first:last, None, None] * sums[1][:, None]
        finished /= sums[2]
        finished *= ONE
        np.copyto(probability[first:last], np.rint(finished), where=region.mask[first:last], casting="unsafe")
        slab[: first - last] = slab[last - first :].copy()
        slab[first - last :] = 0
    return probability


def region_windows(region: Region, shape_zyx: ZYX, overlap: float) -> list[Box]:
    """The windows of a size that hold a voxel of the region."""
    windows = _windows_of(region, shape_zyx, _starts_zyx(region, shape_zyx, overlap))
    return [box for boxes in windows.values() for box in boxes]


def _windows_of(region: Region, shape_zyx: ZYX, starts_zyx: Sequence[Sequence[int]]) -> dict[int, list[Box]]:
    """The same, by their first slice."""
    return {
        z: [
            box
            for y, x in product(*starts_zyx[1:])
            if region.mask[box := box_slices((z, y, x), np.add((z, y, x), shape_zyx))].any()
        ]
        for z in starts_zyx[0]
    }


def _starts_zyx(region: Region, shape_zyx: ZYX, overlap: float) -> list[list[int]]:
    return [
        window_starts(length, window, overlap) for length, window in zip(region.grid.shape_zyx, shape_zyx, strict=True)
    ]


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """The first voxels of windows that cover a length evenly, with at least that overlap (nnU-Net)."""
    if length <= window:
        return [0]
    count = int(np.ceil((length - window) / (window * (1 - overlap)))) + 1
    return [round(start) for start in np.linspace(0, length - window, count).tolist()]


def window_weights(shape_zyx: ZYX) -> Float32[np.ndarray, "z y x"]:
    """A Gaussian in a window, 1 in its middle."""
    z, y, x = (_axis_weights(length) for length in shape_zyx)
    return np.asarray(z[:, None, None] * y[:, None] * x)


def _axis_weights(length: int) -> Float32[np.ndarray, " n"]:
    """A Gaussian along a window, 1 in its middle."""
    distance = (np.arange(length) - (length - 1) / 2) / (length * _SIGMA_SHARE)
    return np.asarray(np.exp(-0.5 * distance**2), np.float32)


def _weight_sum(length: int, starts: Sequence[int], weights: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " m"]:
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total
