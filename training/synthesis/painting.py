"""Painting of solids into a scan: the phantom's position, the voxels' values, their noise.

A pose maps the phantom's points to a scan's world, so that one anatomy is imaged twice, moved and bent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int16
from scipy.ndimage import gaussian_filter

from longilesion.case import AIR_HU, Scan
from longilesion.geometry import Grid, Triple, box_slices, triple
from training.synthesis.solids import Field, Points, Solid, Window

# Voxels that are painted at a time: large enough to make NumPy's overhead negligible, small enough for a few MB.
_CHUNK_VOXELS = 1_000_000
# Thicker slices are averaged over several positions, as a scanner averages over their thickness.
_SAMPLE_MM = 2.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Waves:
    """A smooth displacement: a sum of sines, of which each row gives the amplitude, wave vector (in 1/mm) and phase."""

    amplitudes_xyz_mm: Float[np.ndarray, "n 3"]
    vectors_xyz: Float[np.ndarray, "n 3"]
    phases: Float[np.ndarray, " n"]

    @classmethod
    def random(
        cls, generator: np.random.Generator, *, count: int, amplitude_mm: float, lengths_mm: tuple[float, float]
    ) -> Waves:
        """Waves in random directions that displace by about `amplitude_mm`."""
        directions = generator.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        return cls(
            amplitudes_xyz_mm=generator.normal(0, amplitude_mm / np.sqrt(1.5 * count), (count, 3)),
            vectors_xyz=directions / generator.uniform(*lengths_mm, (count, 1)),
            phases=generator.uniform(0, 2 * np.pi, count),
        )

    def joined(self, other: Waves) -> Waves:
        """The sum of both displacements."""
        return Waves(
            amplitudes_xyz_mm=np.concatenate((self.amplitudes_xyz_mm, other.amplitudes_xyz_mm)),
            vectors_xyz=np.concatenate((self.vectors_xyz, other.vectors_xyz)),
            phases=np.concatenate((self.phases, other.phases)),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pose:
    """The phantom's pose in a scan: world position of its centre, and displacement of its points."""

    middle_xyz_mm: Triple
    waves: Waves

    @property
    def reach_mm(self) -> float:
        """The largest displacement of a point along an axis."""
        return float(np.abs(self.waves.amplitudes_xyz_mm).sum(axis=0).max(initial=0.0))

    def points(self, grid: Grid, window: Window, *, shift_zyx: Triple = (0.0, 0.0, 0.0)) -> Points:
        """The phantom's points at voxels of a grid, all of them moved by a part of a voxel."""
        matrix = grid.world_from_voxel
        index_zyx = [
            (np.arange(axis.start, axis.stop) + moved).reshape([-1 if other == number else 1 for other in range(3)])
            for number, (axis, moved) in enumerate(zip(window, shift_zyx, strict=True))
        ]
        x, y, z = (
            sum(
                (matrix[row, 2 - axis] * index_zyx[axis] for axis in range(3)), matrix[row, 3] - self.middle_xyz_mm[row]
            )
            for row in range(3)
        )
        return self._displaced(*(np.asarray(values, np.float32) for values in (x, y, z)))

    def world_xyz_mm(self, point_xyz_mm: Triple) -> Triple:
        """The world position of a point of the phantom."""
        world = np.array(point_xyz_mm)
        for _ in range(30):
            here = self._displaced(*(np.full((1, 1, 1), value, np.float32) for value in world))
            world = world + point_xyz_mm - [here.x.item(), here.y.item(), here.z.item()]
        return triple(world + self.middle_xyz_mm)

    def window(self, solid: Solid, grid: Grid) -> Window:
        """The window of a grid that contains the solid; empty where it lies outside."""
        box = solid.box_xyz_mm
        if box is None:
            return box_slices((0, 0, 0), grid.shape_zyx)
        low, high = np.array(box[0]) - self.reach_mm, np.array(box[1]) + self.reach_mm
        middle = np.array(grid.index_zyx((low + high) / 2 + self.middle_xyz_mm))
        half = (np.abs(np.linalg.inv(grid.world_from_voxel[:3, :3])) @ ((high - low) / 2))[::-1]
        first = np.clip(np.floor(middle - half) - 1, 0, grid.shape_zyx).astype(int)
        last = np.clip(np.ceil(middle + half) + 2, first, grid.shape_zyx).astype(int)
        return box_slices(first, last)

    def _displaced(self, x: Field, y: Field, z: Field) -> Points:
        moved = [np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32) for _ in range(3)]
        for amplitude, vector, phase in zip(
            self.waves.amplitudes_xyz_mm, 2 * np.pi * self.waves.vectors_xyz, self.waves.phases, strict=True
        ):
            along = [values * np.float32(part) for values, part in zip((x, y, z), vector, strict=True)]
            wave = np.sin(along[0] + along[1] + (along[2] + np.float32(phase)))
            for total, size in zip(moved, amplitude.tolist(), strict=True):
                total += wave * np.float32(size)
        return Points(x=moved[0] + x, y=moved[1] + y, z=moved[2] + z)


def paint(solids: Sequence[Solid], grid: Grid, pose: Pose, *, generator: np.random.Generator, noise_hu: float) -> Scan:
    """A scan of solids, where later ones cover earlier ones, with noise of that deviation.

    The volume is painted in chunks of slices, so that it takes little more memory than the result.
    """
    hu = np.empty(grid.shape_zyx, np.int16)
    placed = [(solid, pose.window(solid, grid)) for solid in solids]
    edge_mm = max(1.0, min(grid.spacing_zyx_mm))
    shifts = list(_shifts(grid))
    for chunk in _chunks(grid):
        image = np.zeros(hu[chunk].shape, np.float32)
        for shift in shifts:
            points = pose.points(grid, chunk, shift_zyx=shift)
            image += _painted(placed, chunk, points, edge_mm=edge_mm)
        image /= len(shifts)
        image += noise_hu * _noise(image.shape, generator)
        hu[chunk] = _rounded(image)
    return Scan(hu=hu, grid=grid)


def outline(solid: Solid, grid: Grid, pose: Pose) -> tuple[Window, Bool[np.ndarray, "z y x"]]:
    """The voxels whose centres lie in a solid, in the window of the grid that contains them all."""
    window = pose.window(solid, grid)
    return window, solid.distance_mm(pose.points(grid, window)) < 0


def _painted(placed: Sequence[tuple[Solid, Window]], chunk: Window, points: Points, *, edge_mm: float) -> Field:
    image = np.full(points.x.shape, AIR_HU, np.float32)
    for solid, window in placed:
        z = slice(max(window[0].start, chunk[0].start), min(window[0].stop, chunk[0].stop))
        if z.start >= z.stop or window[1].start >= window[1].stop or window[2].start >= window[2].stop:
            continue
        box = (slice(z.start - chunk[0].start, z.stop - chunk[0].start), window[1], window[2])
        distance = solid.distance_mm(points.part(box))
        part = image[box]
        for depth, hu in solid.layers:
            # A voxel on the surface is half of each side.
            part += np.clip(np.float32(0.5 - depth / edge_mm) - distance / np.float32(edge_mm), 0, 1) * (hu - part)
    return image


def _chunks(grid: Grid) -> Iterator[Window]:
    z, y, x = grid.shape_zyx
    step = max(1, _CHUNK_VOXELS // (y * x))
    for start in range(0, z, step):
        yield slice(start, min(start + step, z)), slice(0, y), slice(0, x)


def _shifts(grid: Grid) -> Iterator[Triple]:
    """Sampling offsets along the longest side of a voxel."""
    axis = int(np.argmax(grid.spacing_zyx_mm))
    count = int(np.ceil(grid.spacing_zyx_mm[axis] / _SAMPLE_MM))
    for position in (np.arange(count) + 0.5) / count - 0.5:
        shift = np.zeros(3)
        shift[axis] = position
        yield triple(shift)


def _noise(shape: tuple[int, ...], generator: np.random.Generator) -> Field:
    """Noise of unit deviation with the grain of a soft-tissue kernel."""
    white = generator.standard_normal(shape, dtype=np.float32)
    grain = gaussian_filter(white, (0.0, 0.6, 0.6), truncate=2.5)
    return np.asarray(grain / max(float(grain.std()), 1e-6))


def _rounded(image: Field) -> Int16[np.ndarray, "z y x"]:
    rounded: Int16[np.ndarray, "z y x"] = np.clip(np.rint(image), AIR_HU, 3000).astype(np.int16)
    return rounded
