"""Planes through two registered scans, sampled from the original voxels for a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.ndimage import map_coordinates

from longilesion.case import PADDING_HU, Scan
from longilesion.registration.reduction import transformed
from longilesion.registration.result import Registration

# Spacing of a picture's pixels, rounded so that whole pixels fit the plane.
PIXEL_MM = 1.5
# A pixel is the mean of this many samples along each side, to reduce noise.
_SAMPLES = 2
# Piecewise linear grey scale, in which most greys are for soft tissue.
_INTENSITIES_HU, _INTENSITIES = (-1000.0, -800.0, -170.0, 260.0), (0.0, 0.16, 0.27, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A plane across one of the axes x, y, z: the axes along its width and height, and the labels of its sides."""

    name: str
    across: int
    right: int
    height: int
    left_right: tuple[str, str]
    bottom_top: tuple[str, str]

    @property
    def is_upright(self) -> bool:
        """Whether the axis along the height runs upwards."""
        return self.height == 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """The box that is drawn, in the baseline's local frame (x, y, z mm), and the point that all planes go through."""

    low_xyz_mm: Float64[np.ndarray, "3"]
    high_xyz_mm: Float64[np.ndarray, "3"]
    place_xyz_mm: Float64[np.ndarray, "3"]

    def extent_mm(self, view: View) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of a plane, as matplotlib takes them."""
        left, right = float(self.low_xyz_mm[view.right]), float(self.high_xyz_mm[view.right])
        ends = float(self.low_xyz_mm[view.height]), float(self.high_xyz_mm[view.height])
        bottom, top = ends if view.is_upright else ends[::-1]
        return left, right, bottom, top

    def size_mm(self, view: View) -> tuple[float, float]:
        """Width and height of a plane."""
        size = self.high_xyz_mm - self.low_xyz_mm
        return float(size[view.right]), float(size[view.height])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plane:
    """Greys from 0 to 1 of both scans at corresponding points, in rows from the top; NaN beyond a scan."""

    before: Float32[np.ndarray, "rows columns"]
    after: Float32[np.ndarray, "rows columns"]


def sample_plane(view: View, frame: Frame, registration: Registration, scans: tuple[Scan, Scan]) -> Plane:
    """Samples both scans on a plane, the follow-up at the registered points."""
    left, right, bottom, top = frame.extent_mm(view)
    columns, rows = (max(1, round(length / PIXEL_MM)) * _SAMPLES for length in frame.size_mm(view))
    points = np.empty((rows, columns, 3))
    points[..., view.across] = frame.place_xyz_mm[view.across]
    points[..., view.right] = left + (right - left) * (np.arange(columns) + 0.5) / columns
    points[..., view.height] = top + (bottom - top) * (np.arange(rows)[:, None] + 0.5) / rows
    world = transformed(np.linalg.inv(registration.baseline.local_from_world), points.reshape(-1, 3))
    before, after = (
        _pixels(_intensities(scan, at).reshape(rows, columns))
        for scan, at in zip(scans, (world, registration.followup_xyz_mm(world)), strict=True)
    )
    return Plane(before=before, after=after)


def _pixels(samples: Float32[np.ndarray, "a b"]) -> Float32[np.ndarray, "rows columns"]:
    rows, columns = (length // _SAMPLES for length in samples.shape)
    return np.asarray(samples.reshape(rows, _SAMPLES, columns, _SAMPLES).mean(axis=(1, 3)))


def _intensities(scan: Scan, points_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n"]:
    """Greys of a scan at points of its world, sampled from its own voxels; NaN beyond them."""
    index_zyx = transformed(np.linalg.inv(scan.grid.world_from_voxel), points_xyz_mm)[:, ::-1].T
    hu = map_coordinates(scan.hu, index_zyx, order=1, mode="nearest", output=np.float32)
    intensities = np.interp(hu, _INTENSITIES_HU, _INTENSITIES)
    return np.where(is_inside(scan, points_xyz_mm), intensities, np.nan).astype(np.float32)


def is_inside(scan: Scan, points_xyz_mm: Float64[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    """Whether points of a scan's world lie in its field of view."""
    index_zyx = transformed(np.linalg.inv(scan.grid.world_from_voxel), points_xyz_mm)[:, ::-1]
    inside = ((index_zyx >= -0.5) & (index_zyx <= np.array(scan.grid.shape_zyx) - 0.5)).all(axis=1)
    z, y, x = np.clip(np.rint(index_zyx), 0, np.array(scan.grid.shape_zyx) - 1).astype(int).T
    return np.asarray(inside & (scan.hu[z, y, x] > PADDING_HU))
