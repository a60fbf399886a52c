"""Lesion shapes as signed distances on a small cube: lumpy ellipsoids, and real tumours.

A shape's volume is roughly that of a sphere of radius 1, centred in a cube that reaches to +-`REACH`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, distance_transform_edt, gaussian_filter, map_coordinates

REACH = 2.4
_SIDE = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """Signed distance to the surface, negative inside, in units of the equivalent sphere's radius."""

    distance: Float32[torch.Tensor, "n n n"]

    @property
    def farthest(self) -> float:
        """The distance of its farthest point from the cube's centre, in the same units."""
        inside = torch.nonzero(self.distance < 0) - (len(self.distance) - 1) / 2
        if not len(inside):
            return 0.0
        return float(inside.norm(dim=1).max()) * 2 * REACH / (len(self.distance) - 1)


def random_shape(generator: np.random.Generator, *, lumpiness: float = 0.25, elongation: float = 0.2) -> Shape:
    """An ellipsoid with an irregular surface.

    The surface deviates by up to `lumpiness` of the radius; `elongation` is the standard deviation of the semi-axes'
    logarithms (0.2 gives ratios of about 1:2).
    """
    axis = np.linspace(-REACH, REACH, _SIDE)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    ratios = np.exp(generator.normal(0.0, elongation, 3))
    ratios /= np.prod(ratios) ** (1 / 3)
    radius = np.sqrt((z / ratios[0]) ** 2 + (y / ratios[1]) ** 2 + (x / ratios[2]) ** 2)
    lumps = gaussian_filter(generator.normal(size=radius.shape), generator.uniform(2.0, 5.0))
    lumps *= generator.uniform(0.0, lumpiness) / lumps.std()
    return _normalised(radius + lumps < 1.0)


def shape_of_mask(mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float32[np.ndarray, "3"]) -> Shape:
    """The shape of a segmented lesion, with the mask's volume; what lies beyond `REACH` of its radii is cut off."""
    spacing = spacing_zyx_mm.astype(float)
    radius_mm = sphere_radius_mm(mask, spacing_zyx_mm)
    # Distances interpolate better than the mask itself, whose thin parts vanish between the cube's points.
    padded = np.pad(mask, 1)
    distance_mm = distance_transform_edt(~padded, sampling=spacing) - distance_transform_edt(padded, sampling=spacing)
    axis = np.linspace(-REACH, REACH, _SIDE) * radius_mm
    places = np.stack(np.meshgrid(*(axis / step for step in spacing), indexing="ij"))
    places += (np.array(center_of_mass(padded)))[:, None, None, None]
    nearest = np.clip(places, 0, np.array(padded.shape)[:, None, None, None] - 1)
    beyond_mm = np.linalg.norm((places - nearest) * spacing[:, None, None, None], axis=0)
    distance = (map_coordinates(distance_mm, nearest, order=1) + beyond_mm) / radius_mm
    # Interpolation takes some volume from thin and from small lesions: the surface moves to where it is right.
    count = round(4 / 3 * np.pi / (2 * REACH / (_SIDE - 1)) ** 3)
    distance -= np.partition(distance.ravel(), count)[count]
    return Shape(distance=torch.from_numpy(distance.astype(np.float32)))


def sphere_radius_mm(mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float32[np.ndarray, "3"]) -> float:
    """The radius of the sphere of a mask's volume."""
    return float((3 * float(mask.sum()) * float(np.prod(spacing_zyx_mm)) / (4 * np.pi)) ** (1 / 3))


def blended(first: Shape, second: Shape, weight: float) -> Shape:
    """A shape interpolated between two shapes."""
    return Shape(distance=(1 - weight) * first.distance + weight * second.distance)


def signed_distance_mm(
    shape: Shape,
    offsets_zyx_mm: Float32[torch.Tensor, "z y x 3"],
    *,
    radius_mm: float,
    rotation: NDArray[np.float64],
) -> Float32[torch.Tensor, "z y x"]:
    """Signed distance at offsets from the lesion's centre, for a lesion turned by `rotation` and of that radius."""
    device = offsets_zyx_mm.device
    turned = offsets_zyx_mm @ torch.from_numpy(rotation.astype(np.float32)).to(device) / (radius_mm * REACH)
    sampled = torch.nn.functional.grid_sample(
        shape.distance.to(device)[None, None], turned.flip(-1)[None], align_corners=True, padding_mode="border"
    )
    # Outside the cube the border's value is too small; the distance to the cube is added.
    beyond = (turned.abs() - 1).clamp(min=0).norm(dim=-1) * REACH
    distance: Float32[torch.Tensor, "z y x"] = (sampled[0, 0] + beyond) * radius_mm
    return distance


def _normalised(mask: NDArray[np.bool_]) -> Shape:
    unit = 2 * REACH / (_SIDE - 1)
    distance = (distance_transform_edt(~mask) - distance_transform_edt(mask)) * unit
    distance = gaussian_filter(distance.astype(np.float32), 0.7)
    volume = float((distance < 0).sum()) * unit**3
    radius = max((3 * volume / (4 * np.pi)) ** (1 / 3), 0.2)
    return Shape(distance=torch.from_numpy(distance / np.float32(radius)))
