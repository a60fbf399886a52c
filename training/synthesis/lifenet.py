"""LiFE-Net's lesions (section 2.2, appendices B and C): deformed ellipsoids in an organ, between its vessels.

The paper builds on Hu et al. (CVPR 2023), whose lesions lower the HU of an organ and keep its structure. Where the
paper leaves something open, a docstring calls the decision a choice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import zoom

from longilesion.evaluation.measures import Outline, largest_axial_diameter_mm
from longilesion.geometry import Grid
from training.synthesis.lesions import Appearance, Lesion
from training.synthesis.room import Room, find_room
from training.synthesis.settings import LifenetSettings, LifenetSize
from training.synthesis.shapes import REACH, shape_of_mask, signed_distance_mm
from training.synthesis.sites import lesion_type_of, organ_at
from training.synthesis.sources import Source

Change = Literal["stable", "growing", "shrinking"]

CHANGES: tuple[Change, ...] = ("stable", "growing", "shrinking")
# Draws of one lesion, and places tried for each, before the organ counts as full.
_DRAWS, _PLACES = 10, 5
# An ellipsoid is deformed in a box of twice its semi-axes to each side, by a grid of so many points along each axis.
_BOX, _POINTS = 2.0, 3
_SIDE = 41
# Cubic splines through the grid's values, along one axis.
_SPLINES = zoom(np.eye(_POINTS), (_SIDE / _POINTS, 1), order=3, mode="nearest")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """The plan of a lesion before it is drawn; `change` is that of a lesion in both scans."""

    size: LifenetSize
    in_baseline: bool
    in_followup: bool
    change: Change


def lifenet_lesions(source: Source, generator: np.random.Generator, settings: LifenetSettings) -> list[Lesion]:
    """Draws an exam's lesions, numbered from 1; none where it is healthy, fewer than planned where the organ is full.

    They lie in the organs of the settings, or in tissue around a random site where the source has no such mask.
    """
    planned = planned_exam(generator, settings)
    room = find_room(source, generator, settings) if planned else None
    lesions: list[Lesion] = []
    for plan in planned:
        drawn = None if room is None else _placed(plan, room, generator, settings)
        if drawn is not None:
            lesion, room = drawn
            masks = {name: mask for name, mask in source.organs.items() if name in settings.organs}
            organ = organ_at(masks, source.spacing_zyx_mm, lesion.centre_zyx_mm.astype(np.float32))
            number = len(lesions) + 1
            kind = lesion_type_of(lesion.tissue, organ)
            lesions.append(replace(lesion, lesion_id=number, true_id=number, lesion_type=kind))
    return lesions


def planned_exam(generator: np.random.Generator, settings: LifenetSettings) -> list[Plan]:
    """Draws the number of an exam's lesions by class, the scans that contain them, and their changes.

    An exam has lesions of one class, or of each where it mixes them. The change is drawn for the exam; where that is
    the mix of stability and growth, each lesion stays or grows with equal chance (a choice).
    """
    if generator.random() < settings.healthy_share:
        return []
    chosen = _drawn([size.probability for size in settings.sizes], generator)
    sizes = settings.sizes if chosen == len(settings.sizes) else (settings.sizes[chosen],)
    exam_change = _drawn([settings.stable_share, settings.growing_share, settings.shrinking_share], generator)
    plans = []
    for size in sizes:
        for _ in range(int(generator.integers(size.count[0], size.count[1] + 1))):
            seen = _drawn([settings.only_followup_share, settings.only_baseline_share], generator)
            change = CHANGES[exam_change if exam_change < len(CHANGES) else int(generator.integers(2))]
            plans.append(Plan(size=size, in_baseline=seen != 0, in_followup=seen != 1, change=change))
    return plans


def drawn_parts(
    plan: Plan, generator: np.random.Generator, settings: LifenetSettings
) -> tuple[tuple[Appearance, ...], tuple[Appearance, ...]] | None:
    """Draws a lesion's appearance in the baseline and in the follow-up; None where its diameter in a scan is too small.

    A lesion that grows or shrinks is an ellipsoid with other semi-axes, deformed anew; a stable one keeps its
    shape. The mean HU, relative to the tissue around, is the same in both scans (a choice).
    """
    semi_axes_mm = plan.size.radius_mm * generator.uniform(*settings.axis_factor, 3)
    mean_hu = _contrast_hu(float(semi_axes_mm.mean()), generator, settings) * (1 if settings.brighter else -1)
    outlines = [deformed_ellipsoid(semi_axes_mm, plan.size.elastic_sigma, generator, settings)]
    way_zyx_mm = np.zeros(3)
    if plan.in_baseline and plan.in_followup:
        if plan.change != "stable":
            factors = generator.uniform(*(settings.growth if plan.change == "growing" else settings.shrinkage), 3)
            changed_mm = semi_axes_mm * factors
            outlines.append(deformed_ellipsoid(changed_mm, plan.size.elastic_sigma, generator, settings))
        direction = generator.normal(size=3)
        way_zyx_mm = generator.uniform(*settings.shift_mm) * direction / np.linalg.norm(direction)
    if min(largest_axial_diameter_mm(outline) for outline in outlines) < settings.smallest_diameter_mm:
        return None
    first = _appearance(outlines[0], mean_hu)
    second = first if len(outlines) == 1 else _appearance(outlines[1], mean_hu)
    second = replace(second, shift_zyx_mm=way_zyx_mm)
    return (first,) if plan.in_baseline else (), (second,) if plan.in_followup else ()


def deformed_ellipsoid(
    semi_axes_zyx_mm: Float[np.ndarray, "3"],
    elastic_sigma: tuple[float, float],
    generator: np.random.Generator,
    settings: LifenetSettings,
) -> Outline:
    """An ellipsoid whose surroundings are displaced by a random grid that splines interpolate.

    The deviation of the grid's displacements is drawn from the class's range; its unit is read as the voxels of the
    paper's resampled images, so that its millimetres differ between the axes.
    """
    spacing_mm = 2 * _BOX * semi_axes_zyx_mm / (_SIDE - 1)
    sigma_mm = generator.uniform(*elastic_sigma) * np.array(settings.elastic_voxel_zyx_mm)
    places = np.stack(np.meshgrid(*[np.linspace(-_BOX, _BOX, _SIDE)] * 3, indexing="ij"))
    for axis in range(3):
        coarse = generator.normal(0.0, sigma_mm[axis] / semi_axes_zyx_mm[axis], (_POINTS,) * 3)
        places[axis] += np.einsum("zc,yb,xa,cba->zyx", _SPLINES, _SPLINES, _SPLINES, coarse, optimize=True)
    grid = Grid.from_spacing((_SIDE,) * 3, spacing_mm)
    return Outline(mask=np.linalg.norm(places, axis=0) < 1, start_zyx=(0, 0, 0), grid=grid)


def _placed(
    plan: Plan, room: Room, generator: np.random.Generator, settings: LifenetSettings
) -> tuple[Lesion, Room] | None:
    """A lesion without collision, without id, and the remaining room."""
    for _ in range(_DRAWS):
        drawn = drawn_parts(plan, generator, settings)
        if drawn is None:
            continue
        # The largest ball in a lesion lies near its centre, so positions nearer to a border need not be tried.
        inner_mm = max(-float(part.shape.distance.min()) * part.radius_mm for part in chain(*drawn))
        for _ in range(_PLACES):
            centre = room.random_place(generator, depth_mm=0.8 * inner_mm)
            if centre is None:
                break
            taken = [_covered(part, centre, room, settings) for part in chain(*drawn)]
            if all(room.is_free(voxels) for voxels in taken):
                return _lesion(drawn, centre, room, generator, settings), room.without(taken)
    return None


def _covered(
    part: Appearance, centre_zyx_mm: Float[np.ndarray, "3"], room: Room, settings: LifenetSettings
) -> Int[np.ndarray, "n 3"]:
    """The voxels of a lesion, and of the gap around it."""
    middle_mm = centre_zyx_mm + part.shift_zyx_mm
    voxels = room.voxels_near(middle_mm, reach_mm=part.radius_mm * REACH + settings.gap_mm)
    offsets_mm = room.first_zyx_mm + voxels * room.spacing_zyx_mm - middle_mm
    offsets = torch.from_numpy(offsets_mm.astype(np.float32))
    distance = signed_distance_mm(part.shape, offsets, radius_mm=part.radius_mm, rotation=np.eye(3))
    covered: Bool[np.ndarray, "z y x"] = distance.numpy() < settings.gap_mm
    return np.asarray(voxels[covered])


def _lesion(
    parts: tuple[tuple[Appearance, ...], tuple[Appearance, ...]],
    centre_zyx_mm: Float[np.ndarray, "3"],
    room: Room,
    generator: np.random.Generator,
    settings: LifenetSettings,
) -> Lesion:
    # Outside soft tissue, the mean HU is absolute.
    level = 0.0 if room.tissue == "soft" else room.median_hu
    baseline, followup = (tuple(replace(part, mean_hu=level + part.mean_hu) for part in scan) for scan in parts)
    return Lesion(
        lesion_id=0,
        true_id=0,
        lesion_type="unclear",
        tissue=room.tissue,
        centre_zyx_mm=centre_zyx_mm,
        rotation=np.eye(3),
        edge_mm=float(generator.uniform(*settings.edge_mm)),
        texture_hu=float(generator.uniform(*settings.texture_hu)),
        # The organ's own structure is kept, lowered by the contrast.
        kept_structure=1.0,
        baseline=baseline,
        followup=followup,
    )


def _appearance(outline: Outline, mean_hu: float) -> Appearance:
    volume_mm3 = float(outline.mask.sum()) * outline.grid.voxel_volume_ml * 1000
    return Appearance(
        shape=shape_of_mask(outline.mask, np.array(outline.grid.spacing_zyx_mm, np.float32)),
        radius_mm=(3 * volume_mm3 / (4 * np.pi)) ** (1 / 3),
        mean_hu=mean_hu,
        core_hu=0.0,
        shift_zyx_mm=np.zeros(3),
    )


def _contrast_hu(radius_mm: float, generator: np.random.Generator, settings: LifenetSettings) -> float:
    """The mean difference to the surrounding tissue: from the upper part of the range if small, the lower if large.

    The paper gives no formula. The choice is a triangular distribution over the range; its mode moves from the upper
    end, for the radius of the smallest class, to the lower end, for that of the largest.
    """
    low, high = settings.contrast_hu
    radii = [size.radius_mm for size in settings.sizes]
    mode = float(np.interp(radius_mm, [min(radii), max(radii) + 1e-6], [high, low]))
    return float(generator.triangular(low, mode, high)) if low < high else low


def _drawn(shares: list[float], generator: np.random.Generator) -> int:
    """The index of a randomly drawn share, or the number of shares for the remainder to 1."""
    return int(np.searchsorted(np.cumsum(shares), generator.random(), side="right"))
