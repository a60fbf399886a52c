"""Measures of outlines, each in its bounding box: surface Dice, Hausdorff distance, largest axial diameter, centre."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from longilesion import diameter
from longilesion.case import LesionMap, LesionRegion
from longilesion.diameter import AxialDiameters
from longilesion.geometry import ZYX, Grid, Triple, box_slices

# A box that exceeds both limits is processed component by component.
SPARSE_VOXELS = 500_000
SPARSE_RATIO = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outline:
    """A lesion's mask in the box of its voxels, which begins at `start_zyx` of the scan with the grid `grid`."""

    mask: Bool[np.ndarray, "z y x"]
    start_zyx: ZYX
    grid: Grid

    @classmethod
    def of(cls, lesions: LesionMap, ids: Collection[int], regions: Collection[LesionRegion]) -> Outline:
        """Cuts the voxels of the lesions `ids`, which lie in `regions`, out of a map."""
        start = np.min([region.start_zyx for region in regions], axis=0).tolist()
        stop = np.max([region.stop_zyx for region in regions], axis=0).tolist()
        mask = np.isin(lesions.ids[box_slices(start, stop)], np.array(list(ids), lesions.ids.dtype))
        return cls(mask=mask, start_zyx=(start[0], start[1], start[2]), grid=lesions.grid)

    @property
    def stop_zyx(self) -> ZYX:
        """The end of the box."""
        z, y, x = np.add(self.start_zyx, self.mask.shape).tolist()
        return z, y, x


def surface_dice(truth: Outline, predicted: Outline, *, tolerance_mm: float) -> float:
    """The share of both surfaces, by area, that lies within the tolerance of the other (Nikolov et al., 2018)."""
    surfaces = [_surface(outline) for outline in (truth, predicted)]
    near = [
        float(areas[KDTree(other_mm).query(points_mm)[0] <= tolerance_mm].sum())
        for (points_mm, areas), (other_mm, _) in (surfaces, surfaces[::-1])
    ]
    return sum(near) / sum(float(areas.sum()) for _, areas in surfaces)


def hausdorff_95_mm(truth: Outline, predicted: Outline) -> float:
    """The larger of both directions' 95th percentile of distances between border voxels, as evalutils defines it.

    Only border voxels are used, so that the cost does not depend on the distance of the outlines.
    """
    borders = [_border_mm(outline) for outline in (truth, predicted)]
    return max(_percentile_95(KDTree(there).query(here)[0]) for here, there in (borders, borders[::-1]))


def axial_diameters(outline: Outline) -> AxialDiameters:
    """The longest distance across a lesion within a slice of near-axial orientation, and the one perpendicular to it.

    Their ends lie on the contour, half a voxel outside the outermost voxels' centres; both are 0 if it is empty.
    """
    return diameter.axial_diameters(outline.mask, outline.grid.window(outline.start_zyx, outline.stop_zyx))


def largest_axial_diameter_mm(outline: Outline) -> float:
    """The longest of `axial_diameters` (RECIST)."""
    return axial_diameters(outline).longest_mm


def centre_xyz_mm(outline: Outline) -> Triple:
    """The centre of gravity."""
    return outline.grid.world_xyz_mm(np.argwhere(outline.mask).mean(axis=0) + outline.start_zyx)


def _surface(outline: Outline) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """The elements of a surface: their positions, and their areas in mm2."""
    # Here, as MONAI's import takes longer than torch's, and whoever only reads exams does not need it.
    from monai.metrics.utils import get_mask_edges

    spacing = outline.grid.spacing_zyx_mm
    indices, areas = [], []
    for piece, start in _pieces(outline):
        mask = torch.from_numpy(np.pad(piece, 1))
        edges, _, edge_areas, _ = get_mask_edges(mask, mask, crop=False, spacing=spacing)
        # An element lies between eight voxels; that offset of half a voxel is the same in every outline, and left out.
        indices.append(np.argwhere(edges.numpy()) + start)
        areas.append(edge_areas[edges].numpy().astype(np.float64))
    return _points_mm(indices, spacing), np.concatenate(areas)


def _border_mm(outline: Outline) -> Float[np.ndarray, "n 3"]:
    """The positions of the voxels with a face outside the outline."""
    borders = [np.argwhere(piece & ~binary_erosion(piece)) + start for piece, start in _pieces(outline)]
    return _points_mm(borders, outline.grid.spacing_zyx_mm)


def _points_mm(indices_zyx: Sequence[NDArray[np.integer]], spacing_zyx_mm: Triple) -> Float[np.ndarray, "n 3"]:
    """Voxel indices in millimetres, with an offset of one voxel, for distances only.

    At 0, SciPy's tree would split between 0 and the next larger number, which is denormal; where a program flushes
    denormals to zero (`torch.set_flush_denormal`), building the tree would never end.
    """
    return np.asarray((np.concatenate(indices_zyx) + 1) * np.array(spacing_zyx_mm))


def _pieces(outline: Outline) -> list[tuple[Bool[np.ndarray, "z y x"], ZYX]]:
    """The outline's mask, or its components where its box is mostly empty, such as with a stray voxel far away."""
    if outline.mask.size <= SPARSE_VOXELS or outline.mask.size <= SPARSE_RATIO * outline.mask.sum():
        return [(outline.mask, outline.start_zyx)]
    components = cc3d.connected_components(outline.mask, connectivity=26)
    boxes = cc3d.statistics(components)["bounding_boxes"][1:]
    return [
        (components[box] == label, tuple(np.add(outline.start_zyx, [axis.start for axis in box]).tolist()))
        for label, box in enumerate(boxes, start=1)
    ]


def _percentile_95(distances_mm: Float[np.ndarray, " n"]) -> float:
    return float(np.sort(distances_mm)[int((len(distances_mm) - 1) * 0.95)])
