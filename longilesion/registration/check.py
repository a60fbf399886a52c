"""Quality of a registration: the overlap of both scans, their local similarity there, and the Jacobian determinant."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.ndimage import gaussian_filter, map_coordinates, minimum_filter

from longilesion.registration.frames import resampled
from longilesion.registration.reduction import ReducedScan

# Deviation of the neighbourhood whose intensities are correlated.
_SIMILARITY_SIGMA_MM = 12.0
# The share that interpolation gives where everything is shown, but for rounding.
_ALL_SHOWN = 0.999
# Below this deviation of intensities the correlation is not defined.
_LEAST_CONTRAST = 0.01


def shown_voxels(
    before: ReducedScan, after: ReducedScan, motion: Float64[np.ndarray, "4 4"], *, margin_mm: float = 0.0
) -> Bool[np.ndarray, "z y x"]:
    """The mask of a scan's voxels that are in the body and are mapped into the other scan's field of view.

    Those within the margin of the end of a field of view, along an axis, are left out. At the ends of its own lattice a
    scan has no margin: there are no voxels beyond them, whereas padding has values.
    """
    reach = 2 * round(margin_mm / before.spacing_mm) + 1
    own = minimum_filter(before.shown, reach, mode="nearest")
    other = minimum_filter(after.shown, reach, mode="constant", cval=0)
    # Below 1 where not all of the voxels that a place lies between are shown.
    mapped = resampled(other.astype(np.float32), after, before, motion)
    return np.asarray(before.body & own & (mapped > _ALL_SHOWN))


def local_similarity(
    scan: ReducedScan, other: Float32[np.ndarray, "z y x"], shown: Bool[np.ndarray, "z y x"]
) -> tuple[Float32[np.ndarray, "z y x"], float]:
    """The local correlation of two scans' intensities where `shown`, and its mean there; 0 elsewhere."""
    sigma = _SIMILARITY_SIGMA_MM / scan.spacing_mm
    intensities = scan.intensities

    def smoothed(values: Float32[np.ndarray, "z y x"]) -> Float32[np.ndarray, "z y x"]:
        return np.asarray(gaussian_filter(values * shown, sigma, mode="constant", truncate=2.5))

    weight = np.maximum(smoothed(np.ones_like(intensities)), 1e-3)
    means = smoothed(intensities) / weight, smoothed(other) / weight
    variances = smoothed(intensities**2) / weight - means[0] ** 2, smoothed(other**2) / weight - means[1] ** 2
    spread = np.sqrt(np.maximum(variances[0], 0) * np.maximum(variances[1], 0)) + _LEAST_CONTRAST**2
    correlation = (smoothed(intensities * other) / weight - means[0] * means[1]) / spread * shown
    overall = float(correlation[shown].mean()) if shown.any() else 0.0
    return correlation.astype(np.float32), overall


def displaced(
    intensities: Float32[np.ndarray, "z y x"], field: Float32[np.ndarray, "z y x 3"], spacing_mm: float
) -> Float32[np.ndarray, "z y x"]:
    """Intensities resampled by displacements (x, y, z, mm); 0 beyond the lattice."""
    places = np.indices(intensities.shape, dtype=np.float32) + np.moveaxis(field[..., ::-1], -1, 0) / np.float32(
        spacing_mm
    )
    return np.asarray(map_coordinates(intensities, places, order=1, mode="constant", output=np.float32))


def jacobian_determinant(field: Float32[np.ndarray, "z y x 3"], spacing_mm: float) -> Float32[np.ndarray, "z y x"]:
    """The determinant of the Jacobian of `point + field(point)`."""
    along_zyx = [np.gradient(field, spacing_mm, axis=axis) for axis in range(3)]
    jacobian = np.stack(along_zyx[::-1], axis=-1) + np.eye(3, dtype=np.float32)
    return np.asarray(np.linalg.det(jacobian), np.float32)
