"""A scan as the page shows it: in the order of NIfTI's axes, whole with joined voxels, or a part with its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int16, Int64, Shaped, UInt16

from longilesion.case import Scan
from longilesion.display import joined_grid, joined_hu, joining_factors
from longilesion.geometry import ZYX, Box, Grid, Triple, box_slices, voxel_index
from longilesion.nifti import nifti_bytes
from longilesion.review.runs import Runs, runs_of

# For a browser on the same machine: compressed little, and fast.
_LEVEL = 1
# What is shown of a lesion's neighbourhood beyond its voxels.
_MARGIN_MM = 30.0


def ras_view(voxels: Shaped[np.ndarray, "z y x"], grid: Grid) -> tuple[Shaped[np.ndarray, "a b c"], Grid]:
    """A view of an array, and its grid, whose x, y, z axes run closest to right-left in NIfTI's sense: R, A, S."""
    view, lps = grid.lps_view(voxels)
    _, y, x = view.shape
    return view[:, ::-1, ::-1], lps.lattice(start_zyx=(0, y - 1, x - 1), step_zyx=(1, -1, -1), shape_zyx=lps.shape_zyx)


class RasVolume:
    """A scan with its axes towards right, anterior and superior; voxel (z, y, x) has the index x + X * (y + Y * z).

    Points are those of the library, in LPS mm.
    """

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self._hu, self.grid = ras_view(scan.hu, scan.grid)
        self.factors = joining_factors(self.grid)
        self.shown_grid = joined_grid(self.grid, self.factors)

    @cached_property
    def nifti(self) -> bytes:
        """The whole scan with joined voxels, as a gzipped NIfTI file."""
        hu: Int16[np.ndarray, "z y x"] = self._hu
        if max(self.factors) > 1:
            hu = joined_hu(hu, self.factors)
        return nifti_bytes(hu, self.shown_grid, level=_LEVEL)

    def part_nifti(self, box: Box) -> bytes:
        """The same of a part, with its own voxels and intensities."""
        start, stop = ([getattr(side, end) for side in box] for end in ("start", "stop"))
        window = self.grid.window(voxel_index(start), voxel_index(stop))
        return nifti_bytes(np.ascontiguousarray(self._hu[box]), window, level=_LEVEL)

    def lesions(self, ids: UInt16[np.ndarray, "z y x"], boxes: Sequence[Box]) -> dict[int, Int64[np.ndarray, " n"]]:
        """The indices of the voxels of each lesion in a map of the scan, by id; nothing is sought outside the boxes."""
        view, _ = ras_view(ids, self.scan.grid)
        parts = [np.empty(0, np.int64)]
        for box in boxes:
            inside = np.argwhere(view[box]) + [side.start for side in box]
            parts.append(np.ravel_multi_index(tuple(inside.T), self.grid.shape_zyx).astype(np.int64))
        indices = np.unique(np.concatenate(parts))
        found = view[self.positions(indices)]
        return {int(lesion_id): indices[found == lesion_id] for lesion_id in np.unique(found)}

    def positions(self, indices: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " n"], ...]:
        """Where these voxels are in a `ras_view` of the scan's shape."""
        return np.unravel_index(indices, self.grid.shape_zyx)

    def shown_runs(self, indices: Int64[np.ndarray, " n"]) -> Runs:
        """The joined voxels that hold any of these voxels."""
        joined = np.stack(self.positions(indices), axis=1) // self.factors
        shape = self.shown_grid.shape_zyx
        inside = joined[(joined < shape).all(axis=1)]
        return runs_of(np.ravel_multi_index(tuple(inside.T), shape))

    def mask(self, indices: Int64[np.ndarray, " n"]) -> tuple[Bool[np.ndarray, "a b c"], Grid]:
        """A set of voxels, of which there are some, in its bounding box, and the box's grid."""
        found = np.stack(self.positions(indices), axis=1)
        start, stop = found.min(axis=0), found.max(axis=0) + 1
        mask = np.zeros(stop - start, np.bool_)
        mask[tuple((found - start).T)] = True
        return mask, self.grid.window(voxel_index(start), voxel_index(stop))

    def place_xyz_mm(self, indices: Int64[np.ndarray, " n"]) -> Triple:
        """The voxel of a set that is nearest to its centre of gravity."""
        found = np.stack(self.positions(indices), axis=1)
        nearest = found[np.linalg.norm(found - found.mean(axis=0), axis=1).argmin()]
        return self.grid.world_xyz_mm(nearest)

    def box_of(self, lattice: Grid) -> Box:
        """The voxels that a lattice along the scan's axes covers."""
        corners = [
            self.grid.index_zyx(lattice.world_xyz_mm(np.array(corner))) for corner in _corners(lattice.shape_zyx)
        ]
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        # Half a step of the lattice, and a voxel for what is rounded.
        reach = np.ceil(np.divide(lattice.spacing_zyx_mm, self.grid.spacing_zyx_mm)) + 1
        return self._clipped(np.floor(low - reach), np.ceil(high + reach) + 1)

    def box_around(self, point_xyz_mm: Triple, indices: Int64[np.ndarray, " n"]) -> Box:
        """The neighbourhood of a point and a lesion's voxels, as shown while somebody draws."""
        centre = np.array(self.grid.index_zyx(point_xyz_mm))
        found = np.stack([*np.stack(self.positions(indices), axis=1), centre])
        reach = np.ceil(_MARGIN_MM / np.array(self.grid.spacing_zyx_mm))
        return self._clipped(np.floor(found.min(axis=0) - reach), np.ceil(found.max(axis=0) + reach) + 1)

    def _clipped(self, start: Float[np.ndarray, "3"], stop: Float[np.ndarray, "3"]) -> Box:
        low = np.clip(start, 0, np.array(self.grid.shape_zyx) - 1)
        return box_slices(low, np.clip(stop, low + 1, self.grid.shape_zyx))


def _corners(shape_zyx: ZYX) -> list[tuple[int, ...]]:
    last = np.array(shape_zyx) - 1
    return [tuple((last * np.array(corner)).tolist()) for corner in np.ndindex(2, 2, 2)]
