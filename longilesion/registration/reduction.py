"""Reduced scans: small isotropic copies with a mask of the patient's body, for registration.

A copy lies on a lattice along the scan's own axes in LPS order. Its local frame is x, y, z in mm from the lattice's
first voxel, so that registration does not depend on world coordinates, which two scans of a patient need not
share.
"""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.ndimage import binary_erosion, binary_fill_holes, binary_opening, label, map_coordinates

from longilesion.case import AIR_HU, PADDING_HU, Scan
from longilesion.geometry import ZYX, Grid
from longilesion.voi import occupied_box, sample_scan

# Voxels above it belong to the body, the table or objects on it.
BODY_HU = -300
# The median of a lung exceeds the scan's air by this much, within limits: emphysema may be as low as -965, and noise
# that is cut off at -1024 raises air to about -980.
_LUNG_ABOVE_AIR_HU = 20
_LEAST_LUNG_HU = (-975, -955)
_AIR_SHARE = 0.05
# Radius of the opening that removes the table, its cover and tubes.
_THIN_MM = 8.0
# Spacing of the lattice on which the body is segmented.
_BODY_SPACING_MM = 8.0
# Margin of air around the body.
_MARGIN_MM = 15.0
# The share of the intensity range for air to lung; the rest is for soft tissue and bone.
_LUNG_SHARE = 0.375


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReducedScan:
    """Hounsfield units, the scanner's field of view and the patient's body in it, on an isotropic lattice."""

    hu: Float32[np.ndarray, "z y x"]
    shown: Bool[np.ndarray, "z y x"]
    body: Bool[np.ndarray, "z y x"]
    grid: Grid

    @property
    def spacing_mm(self) -> float:
        """Distance of neighbouring voxels, the same along all axes."""
        return self.grid.spacing_zyx_mm[0]

    @property
    def intensities(self) -> Float32[np.ndarray, "z y x"]:
        """Normalised intensities: 0 for air and outside the body, 1 for bone, most of the range for soft tissue."""
        lung = (np.clip(self.hu, -1000.0, -200.0) + 1000.0) / 800.0
        tissue = (np.clip(self.hu, -200.0, 300.0) + 200.0) / 500.0
        return np.where(self.body, _LUNG_SHARE * lung + (1 - _LUNG_SHARE) * tissue, 0.0).astype(np.float32)

    @property
    def local_from_world(self) -> Float64[np.ndarray, "4 4"]:
        """The matrix from homogeneous world points to the local frame."""
        scale = np.diag([self.spacing_mm] * 3 + [1.0])
        return np.asarray(scale @ np.linalg.inv(self.grid.world_from_voxel))

    def at(
        self, values: Float32[np.ndarray, "z y x"], local_xyz_mm: Float64[np.ndarray, "n 3"]
    ) -> Float64[np.ndarray, "n"]:
        """Lattice values at points of the local frame, by linear interpolation; border values beyond the lattice."""
        places = local_xyz_mm[:, ::-1].T / self.spacing_mm
        return np.asarray(map_coordinates(values, places, order=1, mode="nearest", output=np.float64))

    def vectors_at(
        self, vectors: Float32[np.ndarray, "z y x 3"], local_xyz_mm: Float64[np.ndarray, "n 3"]
    ) -> Float64[np.ndarray, "n 3"]:
        """The same for a field of vectors."""
        return np.stack([self.at(component, local_xyz_mm) for component in np.moveaxis(vectors, -1, 0)], axis=1)


def reduce_scan(scan: Scan, spacing_mm: float) -> ReducedScan:
    """Averages a scan onto an isotropic lattice and crops it to the body with a margin; without a body, all counts."""
    hu, grid = _sampled(scan, spacing_mm)
    shown = _shown(scan, grid)
    coarse_hu, _ = _sampled(_as_scan(hu, grid), _BODY_SPACING_MM)
    scale = _BODY_SPACING_MM / spacing_mm
    coarse_body = _body(coarse_hu, _on_lattice(shown, coarse_hu.shape, 1 / scale))
    body = _on_lattice(coarse_body, hu.shape, scale) & shown
    if not body.any():
        body = shown
    margin = round(_MARGIN_MM / spacing_mm)
    z, y, x = (
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, length in zip(occupied_box(body), body.shape, strict=True)
    )
    return ReducedScan(
        hu=hu[z, y, x],
        shown=shown[z, y, x],
        body=body[z, y, x],
        grid=grid.window((z.start, y.start, x.start), (z.stop, y.stop, x.stop)),
    )


def reduce_further(scan: ReducedScan, spacing_mm: float) -> ReducedScan:
    """A still coarser copy of a reduced scan."""
    hu, grid = _sampled(_as_scan(scan.hu, scan.grid), spacing_mm)
    shown, body = (_on_lattice(mask, hu.shape, scan.spacing_mm / spacing_mm) for mask in (scan.shown, scan.body))
    return ReducedScan(hu=hu, shown=shown, body=body, grid=grid)


def _as_scan(hu: Float32[np.ndarray, "z y x"], grid: Grid) -> Scan:
    return Scan(hu=np.rint(hu).astype(np.int16), grid=grid)


def _sampled(scan: Scan, spacing_mm: float) -> tuple[Float32[np.ndarray, "z y x"], Grid]:
    _, grid = scan.grid.lps_view(scan.hu)
    step = spacing_mm / np.array(grid.spacing_zyx_mm)
    z, y, x = np.maximum(1, np.round(np.array(grid.shape_zyx) / step)).astype(int).tolist()
    start = (np.array(grid.shape_zyx) - 1) / 2 - step * (np.array((z, y, x)) - 1) / 2
    lattice = grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=(z, y, x))
    return sample_scan(scan, lattice), lattice


def _shown(scan: Scan, lattice: Grid) -> Bool[np.ndarray, "z y x"]:
    """Whether the scan's voxel nearest to each of a lattice's lies in the field of view; all do where none does."""
    hu, grid = scan.grid.lps_view(scan.hu)
    start, step = grid.axis_steps(lattice)
    nearest = [
        np.clip(np.rint(start[axis] + step[axis] * np.arange(length)), 0, grid.shape_zyx[axis] - 1).astype(int)
        for axis, length in enumerate(lattice.shape_zyx)
    ]
    shown = np.asarray(hu[np.ix_(*nearest)] > PADDING_HU)
    return shown if shown.any() else ~shown


def _body(hu: Float32[np.ndarray, "z y x"], shown: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """The largest component of tissue and lungs after opening, with holes in slices (bowel) filled."""
    dense = (hu > BODY_HU) & shown
    # With its lungs, as an opening removes a thin chest wall, and a lung that the field of view cuts is no hole.
    sparse = ~dense & shown
    air_hu = np.quantile(hu[sparse], _AIR_SHARE) if sparse.any() else AIR_HU
    least_hu = float(np.clip(air_hu + _LUNG_ABOVE_AIR_HU, *_LEAST_LUNG_HU))
    solid = dense | np.stack([_lungs(*each, least_hu) for each in zip(hu, sparse, shown, strict=True)])
    reach = round(_THIN_MM / _BODY_SPACING_MM)
    # The body continues beyond the first and the last slice.
    longer = np.pad(solid, ((reach, reach), (0, 0), (0, 0)), mode="edge")
    thick = binary_opening(longer, iterations=reach)[reach:-reach]
    if not thick.any():
        thick = solid
    body = cc3d.largest_k(np.ascontiguousarray(thick), k=1, connectivity=6) > 0
    return np.asarray(np.stack([binary_fill_holes(plane) for plane in body]) & shown)


def _lungs(
    hu: Float32[np.ndarray, "y x"],
    sparse: Bool[np.ndarray, "y x"],
    shown: Bool[np.ndarray, "y x"],
    least_hu: float,
) -> Bool[np.ndarray, "y x"]:
    """Those connected parts of a slice's voxels without tissue whose inner voxels have a median above a limit."""
    regions, count = label(sparse)
    # At the rim of a region, voxels average tissue and air.
    inner = np.where(binary_erosion(sparse | ~shown, np.ones((3, 3)), border_value=1), regions, 0)
    numbers = np.flatnonzero(np.bincount(inner.ravel(), minlength=count + 1)[1:]) + 1
    return np.asarray(np.isin(regions, [each for each in numbers if np.median(hu[inner == each]) > least_hu]))


def _on_lattice(mask: Bool[np.ndarray, "z y x"], shape_zyx: ZYX, scale: float) -> Bool[np.ndarray, "a b c"]:
    """A mask resampled (nearest) to a concentric lattice; `scale` is the mask's spacing over the lattice's."""
    nearest = [
        np.clip(np.rint((np.arange(length) - (length - 1) / 2) / scale + (own - 1) / 2), 0, own - 1).astype(int)
        for length, own in zip(shape_zyx, mask.shape, strict=True)
    ]
    return mask[np.ix_(*nearest)]


def transformed(
    matrix: Float64[np.ndarray, "4 4"], points_xyz_mm: Float64[np.ndarray, "n 3"]
) -> Float64[np.ndarray, "n 3"]:
    """Points moved by a homogeneous matrix."""
    return np.asarray(points_xyz_mm @ matrix[:3, :3].T + matrix[:3, 3])
