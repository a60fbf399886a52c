"""The solids of a phantom: ellipsoids, tubes and a layered trunk.

They are defined in the phantom's own frame: LPS mm (x, y, z), with the centre of the body as the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float32

from longilesion.geometry import Triple, triple

Window: TypeAlias = tuple[slice, slice, slice]
Field: TypeAlias = Float32[np.ndarray, "z y x"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Coordinates of voxels in the phantom's frame."""

    x: Field
    y: Field
    z: Field

    def part(self, window: Window) -> Points:
        """The points of some of the voxels, as views."""
        return Points(x=self.x[window], y=self.y[window], z=self.z[window])


@runtime_checkable
class Solid(Protocol):
    """A part of the body. Each layer is painted from its depth below the surface inwards."""

    @property
    def layers(self) -> tuple[tuple[float, float], ...]:
        """Pairs of depth in mm and Hounsfield units."""

    @property
    def box_xyz_mm(self) -> tuple[Triple, Triple] | None:
        """The lowest and highest corner of its bounding box; None where that is most of the body."""

    def distance_mm(self, points: Points) -> Field:
        """The approximate signed distance to the surface, negative inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipsoid:
    """An ellipsoid whose surface may be lumpy (up to that share of the radius), with the wall's depths as layers."""

    centre_xyz_mm: Triple
    radii_xyz_mm: Triple
    layers: tuple[tuple[float, float], ...]
    lumpiness: float = 0.0

    @property
    def box_xyz_mm(self) -> tuple[Triple, Triple]:
        """The lowest and highest corner."""
        reach = np.array(self.radii_xyz_mm) * (1 + self.lumpiness)
        return triple(self.centre_xyz_mm - reach), triple(self.centre_xyz_mm + reach)

    def distance_mm(self, points: Points) -> Field:
        """Exact to first order at the surface."""
        x, y, z = self.centre_xyz_mm
        a, b, c = self.radii_xyz_mm
        u, v, w = (points.x - x) / a, (points.y - y) / b, (points.z - z) / c
        radius = np.sqrt(u * u + v * v + w * w)
        slope = np.sqrt((u / a) ** 2 + (v / b) ** 2 + (w / c) ** 2) + np.float32(1e-6)
        distance: Field = (radius - 1) * radius / slope
        if self.lumpiness:
            # The phases depend on the position, so that no two lesions have the same lumps.
            lumps = np.sin(4 * u + 3 * v + x) + np.sin(4 * v - 3 * w + y) + np.sin(4 * w + 3 * u + z)
            distance += lumps * np.float32(self.lumpiness * min(a, b, c) / 3)
        return distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Tube:
    """A straight piece of a vessel, airway or bone with round ends, which may taper."""

    start_xyz_mm: Triple
    stop_xyz_mm: Triple
    radii_mm: tuple[float, float]
    layers: tuple[tuple[float, float], ...]

    @property
    def box_xyz_mm(self) -> tuple[Triple, Triple]:
        """The lowest and highest corner."""
        ends = np.array([self.start_xyz_mm, self.stop_xyz_mm])
        reach = max(self.radii_mm)
        return triple(ends.min(axis=0) - reach), triple(ends.max(axis=0) + reach)

    def distance_mm(self, points: Points) -> Field:
        """Exact except for the taper."""
        along = np.subtract(self.stop_xyz_mm, self.start_xyz_mm)
        x, y, z = (
            values - start for values, start in zip((points.x, points.y, points.z), self.start_xyz_mm, strict=True)
        )
        unit_x, unit_y, unit_z = (along / max(float(along @ along), 1e-6)).tolist()
        share = np.clip(x * unit_x + y * unit_y + z * unit_z, 0, 1)
        for values, length in zip((x, y, z), along.tolist(), strict=True):
            values -= share * length
        first, last = self.radii_mm
        distance: Field = np.sqrt(x * x + y * y + z * z) - (first + (last - first) * share)
        return distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """The body: a column along z with a rounded, nearly elliptic section, which changes with the height."""

    heights_mm: tuple[float, ...]
    half_widths_mm: tuple[float, ...]
    half_depths_mm: tuple[float, ...]
    layers: tuple[tuple[float, float], ...]

    @property
    def box_xyz_mm(self) -> None:
        """It fills most of the scan."""
        return

    def distance_mm(self, points: Points) -> Field:
        """Exact on the surface, with the exact slope where the body is shallowest."""
        width = np.interp(points.z, self.heights_mm, self.half_widths_mm).astype(np.float32)
        depth = np.interp(points.z, self.heights_mm, self.half_depths_mm).astype(np.float32)
        u, v = (points.x / width) ** 2, (points.y / depth) ** 2
        # An ellipse would have the factor 2.
        radius = np.sqrt(np.sqrt(u * u + v * v + np.float32(1.2) * (u * v)))
        return np.asarray((radius - 1) * depth)

    def surface_xyz_mm(self, angle: float, height_mm: float, *, depth_mm: float) -> Triple:
        """The point below the surface at a height, in the direction of an angle from the left towards the back."""
        width = float(np.interp(height_mm, self.heights_mm, self.half_widths_mm)) - depth_mm
        depth = float(np.interp(height_mm, self.heights_mm, self.half_depths_mm)) - depth_mm
        u, v = np.cos(angle) ** 2, np.sin(angle) ** 2
        radius = (u * u + v * v + 1.2 * u * v) ** -0.25
        return float(width * radius * np.cos(angle)), float(depth * radius * np.sin(angle)), height_mm
