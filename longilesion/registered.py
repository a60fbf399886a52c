"""Sampling of a registered pair: both time points on one lattice of the follow-up, for a search without clicks.

The follow-up is sampled along its own axes as for a lesion with a click; the baseline is resampled through the
registration, straight from its native voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from longilesion.case import AIR_HU, HIGHEST_PADDING_HU, Baseline, Scan
from longilesion.geometry import Box, Grid, box_slices, triple
from longilesion.registration.result import Registration
from longilesion.voi import Voi, VoiPair, occupied_box, resample, sample_scan

# Distance of the points at which the mapping is computed: that of the displacements themselves.
_MAPPED_MM = 5.0


def sample_registered(
    followup: Scan, prior: Baseline | None, registration: Registration | None, lattice: Grid
) -> VoiPair:
    """Both time points on a lattice along the follow-up's axes (in LPS order), whose voxels correspond.

    `baseline_mask` is the share of each voxel inside any outlined lesion, `baseline_others` zero. Of the baseline,
    linear interpolation is used, after averaging where its voxels are smaller than the lattice's; beyond it lies air.
    It is None without a prior or a registration, or where it shows nothing of the lattice. Its organ mask is the
    follow-up's where the baseline has none. Both lattices are the follow-up's, with the click, which means nothing, in
    the middle.
    """
    organ = None if followup.organ is None else sample_share(followup.organ, followup.grid, lattice)
    after = _searched(sample_scan(followup, lattice), lattice, organ)
    there = None
    if prior is not None and registration is not None:
        there = _Correspondence.of(lattice, prior.scan.grid, registration)
    if prior is None or there is None:
        return VoiPair(followup=after, baseline=None, baseline_mask=None, baseline_others=None)
    scan = prior.scan
    before_organ = organ if scan.organ is None else there.sampled_share(scan.organ)
    mask = None if prior.lesions is None else there.sampled_share(prior.lesions.ids)
    return VoiPair(
        followup=after,
        baseline=_searched(there.sampled(scan.hu, fill=AIR_HU), lattice, before_organ),
        baseline_mask=mask,
        baseline_others=None if mask is None else np.zeros_like(mask),
    )


def registered_lesions(prior: Baseline, registration: Registration, lattice: Grid) -> Float32[np.ndarray, "z y x"]:
    """The share of each voxel of a lattice of the follow-up inside any of the baseline's outlined lesions."""
    there = None if prior.lesions is None else _Correspondence.of(lattice, prior.scan.grid, registration)
    if there is None or prior.lesions is None:
        return np.zeros(lattice.shape_zyx, np.float32)
    return there.sampled_share(prior.lesions.ids)


def sample_moved(
    scan: Scan, registration: Registration, lattice: Grid
) -> tuple[Float32[np.ndarray, "z y x"], Bool[np.ndarray, "z y x"]] | None:
    """A baseline's Hounsfield units on a lattice of the follow-up, and which of its voxels the baseline shows.

    Beyond it, and in padding, lies air; None where it shows nothing of the lattice.
    """
    there = _Correspondence.of(lattice, scan.grid, registration)
    if there is None:
        return None
    shown = there.sampled_share(scan.hu > HIGHEST_PADDING_HU) >= 0.5
    return (there.sampled(scan.hu, fill=AIR_HU), shown) if shown.any() else None


def sample_share(mask: Bool[np.ndarray, "z y x"], grid: Grid, lattice: Grid) -> Float32[np.ndarray, "a b c"]:
    """The share of each voxel inside a mask, for a lattice along the axes of the mask's grid in LPS order."""
    view, lps = grid.lps_view(mask)
    start, step = lps.axis_steps(lattice)
    return resample(view, start_zyx=start, step_zyx=step, shape_zyx=lattice.shape_zyx)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Correspondence:
    """The positions of a lattice's voxels in a baseline's LPS view (fractional voxel indices), and what to read there.

    `window` is the part of the baseline that those positions lie in, `step_zyx` the spacing, in its voxels, of the
    samples that are interpolated: over 1 where the lattice is coarser.
    """

    grid: Grid
    places_zyx: Float32[np.ndarray, "3 z y x"]
    window: Box
    step_zyx: Float64[np.ndarray, "3"]

    @classmethod
    def of(cls, lattice: Grid, baseline: Grid, registration: Registration) -> _Correspondence | None:
        """None where no voxel of the lattice lies in the baseline."""
        _, grid = baseline.lps_view(np.empty(baseline.shape_zyx, np.bool_))
        places = _places_zyx(lattice, grid, registration)
        extent = np.array(grid.shape_zyx)
        step = np.maximum(1.0, np.divide(lattice.spacing_zyx_mm, grid.spacing_zyx_mm))
        low, high = (bound(places, axis=(1, 2, 3)) for bound in (np.min, np.max))
        # A sample averages up to a step on either side; interpolation takes one more on each.
        start = np.clip(np.floor(low - 2 * step), 0, extent)
        stop = np.clip(np.ceil(high + 2 * step) + 1, start, extent)
        if (high < -0.5).any() or (low > extent - 0.5).any() or (start >= stop).any():
            return None
        return cls(grid=baseline, places_zyx=places, window=box_slices(start, stop), step_zyx=step)

    def sampled_share(self, mask: NDArray[np.generic]) -> Float32[np.ndarray, "z y x"]:
        """The share of each lattice voxel where the baseline's array is not 0."""
        view, _ = self.grid.lps_view(mask)
        inside = view[self.window] != 0
        # Lesions are small: most of the window is empty.
        box = occupied_box(inside)
        return self._interpolated(inside[box], [side.start + own.start for side, own in _pairs(self.window, box)], 0.0)

    def sampled(self, voxels: NDArray[np.generic], *, fill: float) -> Float32[np.ndarray, "z y x"]:
        """The values of the baseline's array at the lattice's voxels; `fill` is the lowest, and that beyond it."""
        view, _ = self.grid.lps_view(voxels)
        return self._interpolated(view[self.window], [side.start for side in self.window], fill)

    def _interpolated(
        self, voxels: NDArray[np.generic], start_zyx: list[int], fill: float
    ) -> Float32[np.ndarray, "z y x"]:
        if not voxels.size:
            return np.full(self.places_zyx.shape[1:], fill, np.float32)
        # One sample beyond each end, as an average reaches there.
        margin = np.where(self.step_zyx > 1, self.step_zyx, 0.0)
        z, y, x = np.ceil((np.array(voxels.shape) - 1 + 2 * margin) / self.step_zyx).astype(int) + 1
        averaged = resample(
            voxels, start_zyx=-margin, step_zyx=self.step_zyx, shape_zyx=(int(z), int(y), int(x)), fill=fill
        )
        places = np.empty_like(self.places_zyx)
        for axis in range(3):
            first = start_zyx[axis] - margin[axis]
            np.subtract(self.places_zyx[axis], first, out=places[axis])
            places[axis] /= self.step_zyx[axis]
        return np.asarray(
            map_coordinates(averaged, places, order=1, mode="grid-constant", cval=fill, output=np.float32)
        )


def _searched(hu: Float32[np.ndarray, "z y x"], lattice: Grid, organ: Float32[np.ndarray, "z y x"] | None) -> Voi:
    middle = triple((np.array(lattice.shape_zyx) - 1) / 2)
    return Voi(hu=hu, grid=lattice, click_zyx=middle, is_clicked=False, organ=organ)


def _places_zyx(lattice: Grid, baseline: Grid, registration: Registration) -> Float32[np.ndarray, "3 z y x"]:
    """The fractional indices in the baseline's grid of a lattice's voxels.

    The mapping is computed at points a few millimetres apart and interpolated between them.
    """
    shape = np.array(lattice.shape_zyx)
    counts = np.ceil((shape - 1) * np.array(lattice.spacing_zyx_mm) / _MAPPED_MM).astype(int) + 1
    along = [np.linspace(0, length - 1, count) for length, count in zip(shape, counts, strict=True)]
    indices_zyx = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 3)
    world = indices_zyx[:, ::-1] @ lattice.world_from_voxel[:3, :3].T + lattice.world_from_voxel[:3, 3]
    mapped = registration.baseline_xyz_mm(world) - baseline.world_from_voxel[:3, 3]
    found = np.linalg.solve(baseline.world_from_voxel[:3, :3], mapped.T)[::-1].reshape(3, *counts)
    return np.stack([_refined(each, lattice) for each in found])


def _refined(values: Float64[np.ndarray, "a b c"], lattice: Grid) -> Float32[np.ndarray, "z y x"]:
    """Values at evenly spaced points from the lattice's first to its last voxel, interpolated at all voxels."""
    for axis, length in enumerate(lattice.shape_zyx):
        last = values.shape[axis] - 1
        # A lattice of one slice has one point.
        at = np.linspace(0, last, length)
        low = np.minimum(np.floor(at).astype(int), max(last - 1, 0))
        share = (at - low).reshape([-1 if each == axis else 1 for each in range(3)])
        values = (1 - share) * values.take(low, axis=axis) + share * values.take(np.minimum(low + 1, last), axis=axis)
    return values.astype(np.float32)


def _pairs(outer: Box, inner: tuple[slice, ...]) -> list[tuple[slice, slice]]:
    return list(zip(outer, inner, strict=True))
