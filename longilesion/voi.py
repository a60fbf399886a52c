"""Volumes of interest: sampling a lattice around a lesion from the original scan, and resampling probabilities back.

A lattice runs along the scan's own axes (viewed in LPS order), so sampling is separable: one small matrix per axis,
which interpolates where the lattice is finer than the scan and averages where it is coarser. No intensities are changed
here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from numpy.typing import NDArray

from longilesion.case import (
    AIR_HU,
    HIGHEST_PADDING_HU,
    Baseline,
    Case,
    Click,
    EarlierVisit,
    LesionPrediction,
    LesionPrompt,
    Scan,
)
from longilesion.config import VoiSettings
from longilesion.geometry import ZYX, Box, Grid, Triple, box_slices

# Enough for efficient matrix products, few enough to read few slices of the scan at once.
_SLICES_AT_A_TIME = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """The position of a lesion's two lattices: corresponding centres, and a factor on the lattice's spacing.

    `similarity` is the correlation of the two neighbourhoods there; None where there was nothing to compare.
    `earlier` are the corresponding centres at the case's time points before the baseline, None where there is none;
    empty where the network does not see them.
    """

    followup_xyz_mm: Triple
    baseline_xyz_mm: Triple | None
    zoom: float
    similarity: float | None = None
    earlier: tuple[Click | None, ...] = ()

    def zoomed(self, factor: float) -> Placement:
        """The same place with lattices that are this many times as wide."""
        return replace(self, zoom=factor * self.zoom)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Voi:
    """Hounsfield units on a lattice, with the click as a fractional lattice index (which may lie outside).

    `click_confidence` is the confidence of a propagated click, 1 for a given one. In a search for lesions, `is_clicked`
    is false: the click is the lattice's middle and means nothing. `organ` is the share of each voxel inside the scan's
    organ mask.
    """

    hu: Float32[np.ndarray, "z y x"]
    grid: Grid
    click_zyx: Triple
    click_confidence: float = 1.0
    is_clicked: bool = True
    organ: Float32[np.ndarray, "z y x"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EarlierVoi:
    """The lattice of one lesion at a time point before the baseline; masks as those of a `VoiPair`."""

    voi: Voi
    mask: Float32[np.ndarray, "z y x"] | None
    others: Float32[np.ndarray, "z y x"] | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VoiPair:
    """The two time points' lattices of one lesion, and those of earlier ones that show it, oldest first.

    `baseline_mask` is the share of each lattice voxel inside the lesion, `baseline_others` inside other marked ones.
    """

    followup: Voi
    baseline: Voi | None
    baseline_mask: Float32[np.ndarray, "z y x"] | None
    baseline_others: Float32[np.ndarray, "z y x"] | None
    earlier: tuple[EarlierVoi, ...] = ()


def lattice_around(grid: Grid, centre_xyz_mm: Triple, settings: VoiSettings, *, zoom: float) -> Grid:
    """The lattice along the axes of `grid` whose middle is the given point."""
    step = np.array(settings.spacing_zyx_mm) * zoom / np.array(grid.spacing_zyx_mm)
    start = np.array(grid.index_zyx(centre_xyz_mm)) - step * (np.array(settings.shape_zyx) - 1) / 2
    return grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=settings.shape_zyx)


def sample_voi_pair(case: Case, prompt: LesionPrompt, placement: Placement, settings: VoiSettings) -> VoiPair:
    """Samples both time points of a lesion at a placement, and the earlier ones that have a place in it.

    The baseline is None where the case has no baseline scan for the prompt, its masks None where it has no lesion map.
    """
    followup = _sample_voi(
        case.followups[prompt.followup.scan_name],
        prompt.followup.point_xyz_mm,
        placement.followup_xyz_mm,
        settings=settings,
        zoom=placement.zoom,
        confidence=prompt.confidence,
    )
    if prompt.baseline is None or placement.baseline_xyz_mm is None:
        return VoiPair(followup=followup, baseline=None, baseline_mask=None, baseline_others=None)
    prior = case.baselines[prompt.baseline.scan_name]
    baseline = _sample_voi(
        prior.scan, prompt.baseline.point_xyz_mm, placement.baseline_xyz_mm, settings=settings, zoom=placement.zoom
    )
    mask, others = _sample_lesions(prior, prompt.lesion_id, baseline.grid)
    earlier = tuple(
        _sample_earlier(visit, prompt.lesion_id, centre, settings=settings, zoom=placement.zoom)
        for visit, centre in zip(case.earlier, placement.earlier, strict=bool(placement.earlier))
        if centre is not None
    )
    return VoiPair(followup=followup, baseline=baseline, baseline_mask=mask, baseline_others=others, earlier=earlier)


def paste_probability(prediction: LesionPrediction, grid: Grid) -> tuple[Float32[np.ndarray, "z y x"], Box]:
    """Samples a prediction's probability at the voxels of `grid`, as `sample_back`."""
    return sample_back(prediction.probability, prediction.grid, grid)


def sample_back(
    values: Float32[np.ndarray, "z y x"], lattice: Grid, grid: Grid
) -> tuple[Float32[np.ndarray, "a b c"], Box]:
    """Samples the values of a lattice at the voxels of `grid` (in LPS order) that it covers.

    Returns the samples and the window of `grid` that they fill; the window is empty where the two do not meet.
    """
    first, step = grid.axis_steps(lattice)
    last = first + step * (np.array(lattice.shape_zyx) - 1)
    shape = np.array(grid.shape_zyx)
    start = np.clip(np.ceil(first - step / 2), 0, shape).astype(int)
    stop = np.maximum(start, np.clip(np.floor(last + step / 2) + 1, 0, shape).astype(int))
    z, y, x = (stop - start).tolist()
    sampled = resample(values, start_zyx=(start - first) / step, step_zyx=1 / step, shape_zyx=(z, y, x))
    return sampled, box_slices(start, stop)


def resample(
    volume: NDArray[np.generic],
    *,
    start_zyx: NDArray[np.float64],
    step_zyx: NDArray[np.float64],
    shape_zyx: ZYX,
    fill: float = 0.0,
) -> Float32[np.ndarray, "z y x"]:
    """Samples an array at the fractional indices `start + k * step` (step over 0); beyond its voxels lies `fill`.

    Linear interpolation, averaged over the step where that exceeds a voxel, so nothing is skipped. `fill`, where it is
    not 0, is also the lowest value: padding counts as air.
    """
    window = sampled_window(start_zyx, step_zyx, shape_zyx=shape_zyx, extent_zyx=volume.shape)
    along_z, along_y, along_x = (
        _axis_weights(start_zyx[axis], step_zyx[axis], count=shape_zyx[axis], window=window[axis]) for axis in range(3)
    )
    sampled = np.zeros(shape_zyx, np.float32)
    # A few slices at a time: each needs only those around it, and the whole window would take too much memory.
    for first in range(0, shape_zyx[0], _SLICES_AT_A_TIME):
        rows = slice(first, first + _SLICES_AT_A_TIME)
        needed = occupied_box(along_z[rows])[1]
        values = volume[window][needed].astype(np.float32)
        if fill:
            values -= fill
            np.maximum(values, 0.0, out=values)
        values = np.tensordot(along_z[rows, needed], values, axes=1)
        sampled[rows] = along_y @ (values @ along_x.T)
    if fill:
        sampled += fill
    return sampled


def occupied_box(mask: Shaped[np.ndarray, "..."]) -> tuple[slice, ...]:
    """The smallest box that holds everything that is not zero, axis by axis; empty slices where all is zero."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        # What is cropped along one axis need not be searched along the next.
        rest = mask[tuple(box)]
        hits = np.flatnonzero(rest.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0))
    return tuple(box)


def sampled_window(
    start_zyx: NDArray[np.float64], step_zyx: NDArray[np.float64], *, shape_zyx: ZYX, extent_zyx: tuple[int, ...]
) -> Box:
    """The part of an array of size `extent_zyx` that `resample` reads."""
    # The kernel's half-width.
    width = 1 + _averaged_length(step_zyx) / 2
    extent = np.array(extent_zyx)
    low = np.clip(np.floor(start_zyx - width), 0, extent).astype(int)
    high = np.clip(np.ceil(start_zyx + step_zyx * (np.array(shape_zyx) - 1) + width) + 1, low, extent).astype(int)
    return box_slices(low, high)


def sample_scan(scan: Scan, lattice: Grid) -> Float32[np.ndarray, "z y x"]:
    """Hounsfield units of a scan on a lattice along its axes in LPS order; air beyond its field of view."""
    hu, grid = scan.grid.lps_view(scan.hu)
    start, step = grid.axis_steps(lattice)
    return resample(hu, start_zyx=start, step_zyx=step, shape_zyx=lattice.shape_zyx, fill=AIR_HU)


def sample_shown(scan: Scan, lattice: Grid) -> tuple[Float32[np.ndarray, "z y x"], Bool[np.ndarray, "z y x"]]:
    """Hounsfield units as `sample_scan`, but of what the scan shows alone, and where that is at least half of a voxel.

    Beyond the scan, and in padding, nothing is shown.
    """
    hu, grid = scan.grid.lps_view(scan.hu)
    start, step = grid.axis_steps(lattice)
    window = sampled_window(start, step, shape_zyx=lattice.shape_zyx, extent_zyx=hu.shape)
    offset = start - [side.start for side in window]
    near = hu[window]
    sampled, share = (
        resample(values, start_zyx=offset, step_zyx=step, shape_zyx=lattice.shape_zyx, fill=fill)
        for values, fill in ((near, AIR_HU), (near > HIGHEST_PADDING_HU, 0.0))
    )
    shown = share >= 0.5
    return np.where(shown, AIR_HU + (sampled - AIR_HU) / np.where(shown, share, 1), AIR_HU).astype(np.float32), shown


def _sample_voi(
    scan: Scan,
    click_xyz_mm: Triple,
    centre_xyz_mm: Triple,
    *,
    settings: VoiSettings,
    zoom: float,
    confidence: float = 1.0,
) -> Voi:
    _, grid = scan.grid.lps_view(scan.hu)
    lattice = lattice_around(grid, centre_xyz_mm, settings, zoom=zoom)
    return Voi(
        hu=sample_scan(scan, lattice),
        grid=lattice,
        click_zyx=lattice.index_zyx(click_xyz_mm),
        click_confidence=confidence,
    )


def _sample_earlier(
    visit: EarlierVisit, lesion_id: int, centre: Click, *, settings: VoiSettings, zoom: float
) -> EarlierVoi:
    """A lesion at an earlier time point; without a click in that scan, the lattice's centre is taken for one."""
    prior = visit.baselines[centre.scan_name]
    given = visit.click(lesion_id)
    click = centre if given is None or given.scan_name != centre.scan_name else given
    voi = _sample_voi(prior.scan, click.point_xyz_mm, centre.point_xyz_mm, settings=settings, zoom=zoom)
    mask, others = _sample_lesions(prior, lesion_id, voi.grid)
    return EarlierVoi(voi=voi, mask=mask, others=others)


def _sample_lesions(
    prior: Baseline, lesion_id: int, lattice: Grid
) -> tuple[Float32[np.ndarray, "z y x"], Float32[np.ndarray, "z y x"]] | tuple[None, None]:
    """The share of each lattice voxel inside the lesion, and inside any other one; None without a lesion map."""
    lesions = prior.lesions
    if lesions is None:
        return None, None
    ids, grid = lesions.grid.lps_view(lesions.ids)
    start, step = grid.axis_steps(lattice)
    window = sampled_window(start, step, shape_zyx=lattice.shape_zyx, extent_zyx=ids.shape)
    nearby = ids[window]
    # Lesions are small: most of the window is empty.
    box = occupied_box(nearby)
    nearby = nearby[box]
    offset = start - [outer.start + inner.start for outer, inner in zip(window, box, strict=True)]
    is_lesion = nearby == lesion_id
    is_other = (nearby != 0) & ~is_lesion
    mask, others = (
        resample(part, start_zyx=offset, step_zyx=step, shape_zyx=lattice.shape_zyx) for part in (is_lesion, is_other)
    )
    return mask, others


def _axis_weights(start: float, step: float, *, count: int, window: slice) -> Float32[np.ndarray, "count length"]:
    """Row k holds the weights of the window's voxels for the position `start + k * step`.

    Where the step exceeds a voxel a weight is the mean of the linear kernel over a length. With or without that mean
    the kernel is exact for ramps and its weights over all voxels sum to 1; what lies beyond the array counts as fill.
    """
    offsets = np.arange(window.start, window.stop) - (start + step * np.arange(count))[:, None]
    length = float(_averaged_length(np.array(step)))
    if length < 1e-3:
        weights = np.maximum(0.0, 1.0 - np.abs(offsets))
    else:
        ends = _linear_kernel_integral(offsets + length / 2), _linear_kernel_integral(offsets - length / 2)
        weights = (ends[0] - ends[1]) / length
    return np.asarray(weights, np.float32)


def _averaged_length(step: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many voxels to average over: none up to a step of one, the whole step from two, which preserves the mean."""
    return np.asarray(np.clip(np.minimum(step, 2 * (step - 1)), 0.0, None))


def _linear_kernel_integral(position: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integral of `max(0, 1 - |t|)` up to a position."""
    clipped = np.clip(position, -1.0, 1.0)
    return np.asarray(0.5 + clipped - 0.5 * clipped * np.abs(clipped))
