"""Measures of outlines, each in its own box: surface Dice, Hausdorff distance, largest axial diameter, centre."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from monai.metrics.surface_dice import compute_surface_dice
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree
from skimage.measure import regionprops

from longilesion.case import LesionMap, LesionRegion
from longilesion.geometry import ZYX, Grid, Triple


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
        box = tuple(slice(low, high) for low, high in zip(start, stop, strict=True))
        mask = np.isin(lesions.ids[box], np.array(list(ids), lesions.ids.dtype))
        return cls(mask=mask, start_zyx=(start[0], start[1], start[2]), grid=lesions.grid)

    @property
    def stop_zyx(self) -> ZYX:
        """The end of the box."""
        z, y, x = np.add(self.start_zyx, self.mask.shape).tolist()
        return z, y, x


def surface_dice(truth: Outline, predicted: Outline, *, tolerance_mm: float) -> float:
    """The share of both surfaces, by area, that lies within the tolerance of the other."""
    spacing = np.array(truth.grid.spacing_zyx_mm)
    apart = np.maximum(
        np.subtract(truth.start_zyx, predicted.stop_zyx), np.subtract(predicted.start_zyx, truth.stop_zyx)
    )
    # Boxes that far apart would only cost the space between them. A box's last voxel reaches half a voxel further.
    if (np.maximum(apart - 1, 0) * spacing).max() > tolerance_mm:
        return 0.0
    start = np.minimum(truth.start_zyx, predicted.start_zyx) - 1
    shape = np.maximum(truth.stop_zyx, predicted.stop_zyx) + 1 - start
    masks = []
    for outline in (predicted, truth):
        mask = np.zeros(shape, np.bool_)
        low = outline.start_zyx - start
        mask[tuple(slice(first, first + size) for first, size in zip(low, outline.mask.shape, strict=True))] = (
            outline.mask
        )
        masks.append(torch.from_numpy(mask)[None, None])
    with warnings.catch_warnings():
        # MONAI 1.6 calls a function of its own in a way that it says is outdated.
        warnings.simplefilter("ignore", FutureWarning)
        share = compute_surface_dice(
            y_pred=masks[0],
            y=masks[1],
            class_thresholds=[tolerance_mm],
            include_background=True,
            spacing=spacing.tolist(),
            use_subvoxels=True,
        )
    return float(share)


def hausdorff_95_mm(truth: Outline, predicted: Outline) -> float:
    """The larger of both directions' 95th percentile of distances between border voxels, as evalutils defines it.

    Only the border voxels are looked at, so that two outlines far apart cost no more than two near ones.
    """
    borders = [_border_mm(outline) for outline in (truth, predicted)]
    return max(_percentile_95(KDTree(there).query(here)[0]) for here, there in (borders, borders[::-1]))


def largest_axial_diameter_mm(outline: Outline) -> float:
    """The longest distance across a lesion in any slice closest to axial, as RECIST measures it; 0 where it is empty.

    Ends lie on the contour, half a voxel outside the outermost voxels' centres.
    """
    view, lps = outline.grid.window(outline.start_zyx, outline.stop_zyx).lps_view(outline.mask)
    _, step_y, step_x = lps.spacing_zyx_mm
    planes = [(_diagonal_mm(plane, step_y, step_x), plane) for plane in view if plane.any()]
    longest = 0.0
    # No lesion is longer than its rectangle's diagonal, so that few slices of a lesion have to be measured.
    for bound, plane in sorted(planes, key=lambda each: -each[0]):
        if bound <= longest:
            break
        (region,) = regionprops(plane.astype(np.uint8), spacing=(step_y, step_x))
        longest = max(longest, float(region.feret_diameter_max))
    return longest


def center_xyz_mm(outline: Outline) -> Triple:
    """The centre of gravity."""
    return outline.grid.world_xyz_mm(np.argwhere(outline.mask).mean(axis=0) + outline.start_zyx)


def _border_mm(outline: Outline) -> Float[np.ndarray, "n 3"]:
    border = outline.mask & ~binary_erosion(outline.mask)
    return np.asarray((np.argwhere(border) + outline.start_zyx) * np.array(outline.grid.spacing_zyx_mm))


def _percentile_95(distances_mm: Float[np.ndarray, " n"]) -> float:
    return float(np.sort(distances_mm)[int((len(distances_mm) - 1) * 0.95)])


def _diagonal_mm(plane: Bool[np.ndarray, "y x"], step_y: float, step_x: float) -> float:
    height, width = (np.ptp(np.flatnonzero(plane.any(axis=axis))) + 1 for axis in (1, 0))
    return float(np.hypot(height * step_y, width * step_x))
