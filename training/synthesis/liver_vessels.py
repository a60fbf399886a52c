"""Vessels drawn into a liver whose own ones cannot be seen, as in a scan without contrast medium."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32

from longilesion.geometry import Triple, box_slices, triple
from longilesion.voi import occupied_box
from training.synthesis.phantom import vessel_tree
from training.synthesis.solids import Ellipsoid, Points

# The roots of the portal and the hepatic veins, in shares of the liver's half extent from its middle (left, posterior,
# superior), their radius, and their branchings.
_ROOTS: tuple[tuple[Triple, float], ...] = (((0.25, 0.1, -0.25), 6.0), ((0.3, 0.45, 0.6), 5.0))
_GENERATIONS = 3


def drawn_vessels(
    liver: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float[np.ndarray, "3"], generator: np.random.Generator
) -> Float32[np.ndarray, "z y x"]:
    """The share of each of the liver's voxels that lies in a random tree of vessels."""
    box = occupied_box(liver)
    start, stop = (np.array([getattr(side, end) for side in box]) for end in ("start", "stop"))
    middle, half = (start + stop - 1) / 2, (stop - start) / 2 * spacing_zyx_mm
    organ = Ellipsoid(centre_xyz_mm=(0.0, 0.0, 0.0), radii_xyz_mm=triple(half[::-1]), layers=((0.0, 0.0),))
    share = np.zeros(liver.shape, np.float32)
    width_mm = float(spacing_zyx_mm.min())
    for place, radius_mm in _ROOTS:
        root = triple(np.array(place) * half[::-1])
        for tube in vessel_tree(organ, root, generator, radius_mm=radius_mm, hu=0.0, generations=_GENERATIONS):
            low, high = (np.array(corner)[::-1] / spacing_zyx_mm + middle for corner in tube.box_xyz_mm)
            first = np.clip(np.floor(low) - 1, 0, liver.shape).astype(int)
            last = np.clip(np.ceil(high) + 2, first, liver.shape).astype(int)
            window = box_slices(first, last)
            axes = [
                ((np.arange(side.start, side.stop) - centre) * step).astype(np.float32)
                for side, centre, step in zip(window, middle, spacing_zyx_mm, strict=True)
            ]
            z, y, x = np.meshgrid(*axes, indexing="ij")
            filled = np.clip(0.5 - tube.distance_mm(Points(x=x, y=y, z=z)) / width_mm, 0, 1)
            share[window] = np.maximum(share[window], filled)
    return np.asarray(share * liver)
