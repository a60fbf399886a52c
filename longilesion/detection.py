"""Detection: a network slid over an organ, or the whole body, of a follow-up scan, and the lesions that it outlines.

Windows of the network's own lattice overlap and are averaged with Gaussian weights, as in nnU-Net (Isensee et al.,
2021). The registered baseline is the network's prior. One slab of windows is in memory at a time, and the probabilities
of the region that is searched, in 16 bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TypeAlias

import cc3d
import numpy as np
from jaxtyping import Bool, Float32, Integer, UInt16

from longilesion.case import Baseline, Scan
from longilesion.components import connected_components
from longilesion.config import DetectionSettings, VoiSettings
from longilesion.diameter import axial_diameter_mm
from longilesion.ensemble import Ensemble
from longilesion.geometry import ZYX, Box, Grid, Triple, box_slices, voxel_index
from longilesion.prediction import lesion_threads, predict_pairs
from longilesion.registered import sample_registered, sample_share
from longilesion.registration.result import Registration
from longilesion.timing import Stopwatch
from longilesion.voi import VoiPair, occupied_box, sample_back

# Called with the number of windows that are done, and of all.
Progress: TypeAlias = Callable[[int, int], None]
# Samples a window of a region.
Sample: TypeAlias = Callable[[Box], VoiPair]

# What is searched around the organ's box, as context.
_MARGIN_MM = 10.0
# The deviation of a window's weights, as a share of its length.
_SIGMA_SHARE = 1 / 8
# A probability of 1 in the map of probabilities.
_ONE = np.iinfo(np.uint16).max
_SLICES_AT_A_TIME = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """A baseline and its registration with the follow-up scan that is searched."""

    baseline: Baseline
    registration: Registration

    def shows(self, followup_xyz_mm: Triple) -> bool:
        """Whether a point of the follow-up lies in the baseline scan."""
        grid = self.baseline.scan.grid
        (point,) = self.registration.baseline_xyz_mm(np.array([followup_xyz_mm]))
        return grid.contains(grid.index_zyx(point))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """The voxels that are searched, on a lattice along the follow-up's axes in LPS order."""

    mask: Bool[np.ndarray, "z y x"]
    grid: Grid


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """The outline of a lesion that a network has found, in the box that begins at `start_zyx` of the LPS view.

    `score` is its highest probability, as in nnDetection (Baumgartner et al., 2021): a mean would fall with the blur of
    the outline, and so with the lesion's size. `grid` is that of the box.
    """

    start_zyx: ZYX
    mask: Bool[np.ndarray, "z y x"]
    grid: Grid
    score: float

    @property
    def box(self) -> Box:
        """The box as an index of the scan's LPS view."""
        return box_slices(self.start_zyx, np.add(self.start_zyx, self.mask.shape))

    @property
    def volume_ml(self) -> float:
        """The volume of the outline's voxels."""
        return float(self.mask.sum()) * self.grid.voxel_volume_ml

    @property
    def diameter_mm(self) -> float:
        """The longest axial diameter."""
        return axial_diameter_mm(self.mask, self.grid)

    @property
    def centre_xyz_mm(self) -> Triple:
        """The centre of gravity."""
        return self.grid.world_xyz_mm(np.argwhere(self.mask).mean(axis=0))


def find_candidates(
    followup: Scan, priors: Sequence[Prior], detector: Ensemble, *, body: Region, progress: Progress | None = None
) -> list[Candidate]:
    """The lesions that a detector finds in a follow-up scan's organ, or in the body without one; best score first.

    `body` is the mask of the body on a coarse lattice. Of a detector with several lattices, the members of the heaviest
    group search. A window's prior is the first that shows its middle.
    """
    group = detector.groups[0]
    settings = group[0].settings
    if followup.organ is None:
        source, grid = body.mask, body.grid
        if any("organ_mask" in member.settings.encoding.followup_channels for member in group):
            _log.warning(
                "%s: looks at an organ, and no mask is given; the body is taken for it, expect false candidates",
                detector.name,
            )
    else:
        source, grid = followup.grid.lps_view(followup.organ)
    region = region_of(source, grid, settings.voi)
    if region is None:
        return []
    probability = slide(followup, priors, detector, region, progress=progress)
    return candidates_in(probability, region.grid, followup, settings.detection)


def region_of(mask: Bool[np.ndarray, "z y x"], grid: Grid, voi: VoiSettings) -> Region | None:
    """The lattice over the box of a mask (in LPS order) with a margin, of a window's length at least; None if empty."""
    box = occupied_box(mask)
    low, high = (np.array([getattr(side, end) for side in box], float) for end in ("start", "stop"))
    if (low == high).any():
        return None
    step = np.array(voi.spacing_zyx_mm) / grid.spacing_zyx_mm
    length = (high - low) / step + 2 * _MARGIN_MM / np.array(voi.spacing_zyx_mm)
    z, y, x = np.maximum(np.ceil(length), voi.shape_zyx).astype(int).tolist()
    start = (low + high - 1) / 2 - step * (np.array((z, y, x)) - 1) / 2
    lattice = grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=(z, y, x))
    inside = np.empty(lattice.shape_zyx, np.bool_)
    for first in range(0, z, _SLICES_AT_A_TIME):
        last = min(first + _SLICES_AT_A_TIME, z)
        inside[first:last] = sample_share(mask, grid, lattice.window((first, 0, 0), (last, y, x))) >= 0.5
    return Region(mask=inside, grid=lattice)


def slide(
    followup: Scan, priors: Sequence[Prior], detector: Ensemble, region: Region, *, progress: Progress | None = None
) -> UInt16[np.ndarray, "z y x"]:
    """The weighted mean probability (times 65535) over the windows that cover a voxel of the region; 0 outside it."""
    return slide_over(region, partial(_sample, followup, priors, region), detector, progress=progress)


def slide_over(
    region: Region, sample: Sample, detector: Ensemble, *, progress: Progress | None = None
) -> UInt16[np.ndarray, "z y x"]:
    """The same of windows that `sample` gives."""
    group = detector.groups[0]
    settings = group[0].settings
    shape, count = settings.voi.shape_zyx, detector.batch_size(settings)
    starts_zyx = [
        window_starts(length, window, settings.detection.overlap)
        for length, window in zip(region.grid.shape_zyx, shape, strict=True)
    ]
    weights = [_window_weights(window) for window in shape]
    weight = weights[0][:, None, None] * weights[1][:, None] * weights[2]
    # Windows without a voxel of the region are left out: none of its voxels lies in them. So the sum of the weights is
    # the product of the sums along the axes.
    sums = [
        _weight_sum(length, starts, own)
        for length, starts, own in zip(region.grid.shape_zyx, starts_zyx, weights, strict=True)
    ]
    windows = {
        z: [
            box
            for y, x in product(*starts_zyx[1:])
            if region.mask[box := box_slices((z, y, x), np.add((z, y, x), shape))].any()
        ]
        for z in starts_zyx[0]
    }
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
            for box, (outline, _, _) in zip(batch, predict_pairs(pairs, group, detector, watch), strict=True):
                slab[:, box[1], box[2]] += outline * weight
            done += len(batch)
            if progress is not None:
                progress(done, total)
        last = starts_zyx[0][number + 1] if number + 1 < len(windows) else region.grid.shape_zyx[0]
        finished = slab[: last - first]
        finished /= sums[0][first:last, None, None] * sums[1][:, None]
        finished /= sums[2]
        finished *= _ONE
        np.copyto(probability[first:last], np.rint(finished), where=region.mask[first:last], casting="unsafe")
        slab[: first - last] = slab[last - first :].copy()
        slab[first - last :] = 0
    return probability


def candidates_in(
    probability: UInt16[np.ndarray, "z y x"], lattice: Grid, followup: Scan, settings: DetectionSettings
) -> list[Candidate]:
    """The components of what reaches the threshold, outlined on the scan's voxels from the probabilities there.

    Those smaller than the least diameter, and what lies outside the scan's organ, are left out.
    """
    level = settings.threshold * _ONE
    voxels = np.stack(np.nonzero(probability >= level))
    if not voxels.size:
        return []
    found = [
        candidate
        for component in connected_components(voxels)
        if (candidate := _outlined(component, probability, lattice, followup, level)) is not None
        and candidate.diameter_mm >= settings.least_diameter_mm
    ]
    return sorted(found, key=lambda candidate: -candidate.score)


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """The first voxels of windows that cover a length evenly, with at least that overlap (nnU-Net)."""
    if length <= window:
        return [0]
    count = int(np.ceil((length - window) / (window * (1 - overlap)))) + 1
    return [round(start) for start in np.linspace(0, length - window, count).tolist()]


def _outlined(
    component: Integer[np.ndarray, "3 n"],
    probability: UInt16[np.ndarray, "z y x"],
    lattice: Grid,
    followup: Scan,
    level: float,
) -> Candidate | None:
    """A component's outline on the scan's voxels, without other components; None where nothing is left of it."""
    _, lps = followup.grid.lps_view(followup.hu)
    # A voxel of the scan averages lattice voxels up to `reach` away.
    reach = 2 * np.maximum(1, np.ceil(np.divide(lps.spacing_zyx_mm, lattice.spacing_zyx_mm))).astype(int)
    low = np.maximum(component.min(axis=1) - reach, 0)
    high = np.minimum(component.max(axis=1) + 1 + reach, lattice.shape_zyx)
    start, stop = voxel_index(low), voxel_index(high)
    near = probability[box_slices(start, stop)]
    others = near >= level
    others[tuple(component - low[:, None])] = False
    values, window = sample_back(np.where(others, 0, near).astype(np.float32), lattice.window(start, stop), lps)
    mask = values >= level
    if followup.organ is not None:
        mask &= followup.grid.lps_view(followup.organ)[0][window]
    if not mask.any():
        return None
    mask = np.asarray(cc3d.largest_k(np.ascontiguousarray(mask), k=1, connectivity=26) > 0)
    box = occupied_box(mask)
    first = voxel_index([outer.start + inner.start for outer, inner in zip(window, box, strict=True)])
    mask = mask[box]
    return Candidate(
        start_zyx=first,
        mask=mask,
        grid=lps.window(first, voxel_index(np.add(first, mask.shape))),
        score=float(probability[tuple(component)].max()) / _ONE,
    )


def _sample(followup: Scan, priors: Sequence[Prior], region: Region, box: Box) -> VoiPair:
    """One window; the region is the organ where the scan has none."""
    z, y, x = box
    lattice = region.grid.window((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
    prior = next((prior for prior in priors if prior.shows(lattice.centre_xyz_mm)), priors[0] if priors else None)
    pair = sample_registered(
        followup, None if prior is None else prior.baseline, None if prior is None else prior.registration, lattice
    )
    if followup.organ is not None:
        return pair
    organ = region.mask[box].astype(np.float32)
    baseline = None if pair.baseline is None else replace(pair.baseline, organ=organ)
    return replace(pair, followup=replace(pair.followup, organ=organ), baseline=baseline)


def _window_weights(length: int) -> Float32[np.ndarray, " n"]:
    """A Gaussian along a window, 1 in its middle."""
    distance = (np.arange(length) - (length - 1) / 2) / (length * _SIGMA_SHARE)
    return np.asarray(np.exp(-0.5 * distance**2), np.float32)


def _weight_sum(length: int, starts: Sequence[int], weights: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " m"]:
    total = np.zeros(length, np.float32)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total
