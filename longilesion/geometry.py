"""Voxel grids in patient space: the only module that converts axis order, and voxels to millimetres.

Arrays are indexed z, y, x; world points are x, y, z in LPS millimetres (left, posterior, superior are positive).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import ArrayLike, NDArray

ZYX: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[slice, slice, slice]
Triple: TypeAlias = tuple[float, float, float]
Voxel = TypeVar("Voxel", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grid:
    """A regular voxel grid.

    `world_from_voxel` maps homogeneous x, y, z voxel indices (0 at a voxel's centre) to LPS millimetres.
    """

    shape_zyx: ZYX
    world_from_voxel: Float64[np.ndarray, "4 4"]

    @classmethod
    def from_spacing(
        cls,
        shape_zyx: ZYX,
        spacing_zyx_mm: ArrayLike,
        *,
        origin_xyz_mm: ArrayLike = (0.0, 0.0, 0.0),
        direction: ArrayLike | None = None,
    ) -> Grid:
        """Builds a grid as ITK describes one: the columns of `direction` are the world directions of x, y and z."""
        matrix = np.eye(4)
        columns = np.eye(3) if direction is None else np.asarray(direction, float).reshape(3, 3)
        matrix[:3, :3] = columns * np.asarray(spacing_zyx_mm, float)[::-1]
        matrix[:3, 3] = np.asarray(origin_xyz_mm, float)
        return cls(shape_zyx=shape_zyx, world_from_voxel=matrix)

    @property
    def spacing_zyx_mm(self) -> Triple:
        """Distance between neighbouring voxel centres along each array axis."""
        x, y, z = np.linalg.norm(self.world_from_voxel[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def directions(self) -> NDArray[np.float64]:
        """Unit vectors of the x, y and z axes as the columns of a 3 x 3 matrix."""
        columns = self.world_from_voxel[:3, :3]
        return np.asarray(columns / np.linalg.norm(columns, axis=0))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel."""
        return float(np.prod(self.spacing_zyx_mm)) / 1000.0

    @property
    def centre_xyz_mm(self) -> Triple:
        """World position of the grid's middle."""
        return self.world_xyz_mm((np.array(self.shape_zyx) - 1) / 2)

    def world_xyz_mm(self, index_zyx: ArrayLike) -> Triple:
        """World position of a (fractional) voxel index."""
        x, y, z = self.world_from_voxel[:3, :3] @ np.asarray(index_zyx, float)[::-1] + self.world_from_voxel[:3, 3]
        return float(x), float(y), float(z)

    def index_zyx(self, point_xyz_mm: ArrayLike) -> Triple:
        """Fractional voxel index of a world position; may lie outside the grid."""
        offset = np.asarray(point_xyz_mm, float) - self.world_from_voxel[:3, 3]
        x, y, z = np.linalg.solve(self.world_from_voxel[:3, :3], offset)
        return float(z), float(y), float(x)

    def contains(self, index_zyx: ArrayLike) -> bool:
        """Whether a fractional index lies within the volume that the voxels cover (half a voxel past their centres)."""
        index = np.asarray(index_zyx, float)
        return bool(np.all(index >= -0.5) and np.all(index <= np.array(self.shape_zyx) - 0.5))

    def clamped(self, index_zyx: ArrayLike) -> Triple:
        """The nearest fractional index between the first and last voxel centres."""
        z, y, x = np.clip(np.asarray(index_zyx, float), 0.0, np.array(self.shape_zyx) - 1.0)
        return float(z), float(y), float(x)

    def lattice(self, *, start_zyx: ArrayLike, step_zyx: ArrayLike, shape_zyx: ZYX) -> Grid:
        """A grid along the same axes whose voxel k lies at this grid's fractional index `start + k * step`."""
        scale = np.diag([*np.asarray(step_zyx, float)[::-1], 1.0])
        scale[:3, 3] = np.asarray(start_zyx, float)[::-1]
        return Grid(shape_zyx=shape_zyx, world_from_voxel=self.world_from_voxel @ scale)

    def window(self, start_zyx: ZYX, stop_zyx: ZYX) -> Grid:
        """The part of this grid that the array slice `start:stop` covers."""
        z, y, x = (stop - start for start, stop in zip(start_zyx, stop_zyx, strict=True))
        return self.lattice(start_zyx=start_zyx, step_zyx=(1, 1, 1), shape_zyx=(z, y, x))

    def axis_steps(self, other: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The indices (z, y, x) in this grid of the voxels of `other`, a lattice along its axes: `start + k * step`.

        Raises ValueError where the axes of the two grids are not parallel.
        """
        relative = np.linalg.solve(self.world_from_voxel, other.world_from_voxel)
        step = np.diag(relative)[:3]
        if not np.allclose(relative[:3, :3], np.diag(step), atol=1e-4 * float(np.abs(step).max())):
            raise ValueError("the two grids have different axes")
        return relative[:3, 3][::-1].copy(), step[::-1].copy()

    def lps_view(self, voxels: NDArray[Voxel]) -> tuple[NDArray[Voxel], Grid]:
        """A view of the array, and its grid, whose z, y, x axes run closest to superior, posterior and left.

        Only permutes and flips axes, so writing to the view writes to the array.
        """
        towards = np.abs(self.world_from_voxel[:3, :3] / np.linalg.norm(self.world_from_voxel[:3, :3], axis=0))
        source_xyz = _best_permutation(towards)
        swap = np.zeros((4, 4))
        swap[3, 3] = 1.0
        flips = []
        for target, source in enumerate(source_xyz):
            flipped = bool(self.world_from_voxel[target, source] < 0)
            swap[source, target] = -1.0 if flipped else 1.0
            swap[source, 3] = self.shape_zyx[2 - source] - 1 if flipped else 0
            flips.append(slice(None, None, -1 if flipped else 1))
        view = voxels.transpose([2 - source for source in source_xyz[::-1]])[tuple(flips[::-1])]
        z, y, x = view.shape
        return view, Grid(shape_zyx=(z, y, x), world_from_voxel=self.world_from_voxel @ swap)

    def matches(self, other: Grid, *, tolerance_mm: float = 0.01) -> bool:
        """Whether both grids have the same voxels: equal shape, and corners within the tolerance of each other."""
        if self.shape_zyx != other.shape_zyx:
            return False
        far = np.array(self.shape_zyx) - 1
        corners = [far * np.array(mask) for mask in np.ndindex(2, 2, 2)]
        return all(
            np.linalg.norm(np.subtract(self.world_xyz_mm(corner), other.world_xyz_mm(corner))) <= tolerance_mm
            for corner in corners
        )


def box_slices(start_zyx: ArrayLike, stop_zyx: ArrayLike) -> Box:
    """A half-open box of whole voxels as an array index."""
    z, y, x = (slice(start, stop) for start, stop in np.stack([start_zyx, stop_zyx], axis=1).astype(int).tolist())
    return z, y, x


def triple(values: Sequence[float] | Float[np.ndarray, "3"]) -> Triple:
    """Three numbers as a tuple of floats."""
    first, second, third = (float(value) for value in values)
    return first, second, third


def voxel_index(index_zyx: ArrayLike) -> ZYX:
    """An array of three whole numbers as a tuple."""
    z, y, x = np.asarray(index_zyx).astype(int).tolist()
    return z, y, x


def _best_permutation(towards: NDArray[np.float64]) -> tuple[int, int, int]:
    """For each world axis the voxel axis closest to it, each voxel axis used once."""
    permutations = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    return max(permutations, key=lambda axes: float(sum(towards[world, axis] for world, axis in enumerate(axes))))
