"""Longitudinal cases of a drawn torso: scans of two time points, lesions with their fates, clicks and the truth.

The same person is painted twice, moved and bent by a few millimetres, with independent noise. Everything follows from
the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from longilesion.case import Baseline, Case, Click, ClickPair, LesionMap, Scan, ScanName
from longilesion.geometry import Grid, Triple, triple
from training.synthesis.painting import Pose, Waves, outline, paint
from training.synthesis.phantom import Anatomy, random_anatomy
from training.synthesis.solids import Ellipsoid

Fate: TypeAlias = Literal["persists", "grows", "shrinks", "gone", "new", "merged"]

# HU of a lesion against the organ around it, in Hounsfield units.
CONTRAST_HU: Mapping[str, float] = {
    "liver": -60.0,
    "spleen": -70.0,
    "left kidney": -110.0,
    "right lung": 900.0,
    "left lung": 900.0,
    "mesentery": 155.0,
}
GROWTH: Mapping[Fate, float] = {"persists": 1.03, "grows": 1.45, "shrinks": 0.62, "new": 1.0, "merged": 1.6}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLesion:
    """A lesion before it has a place; `height_mm` fixes that along the body. Merging lesions follow each other."""

    lesion_id: int
    fate: Fate
    organ: str
    radius_mm: float
    height_mm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """What one scan shows of the torso (from -300 to 300 mm), its voxels, and where in its world the middle lies."""

    name: ScanName = "primary"
    heights_mm: tuple[float, float] = (-160.0, 200.0)
    spacing_zyx_mm: Triple = (4.0, 2.5, 2.5)
    width_xy_mm: tuple[float, float] = (384.0, 264.0)
    middle_xyz_mm: Triple = (0.0, 0.0, 0.0)
    direction: np.ndarray | None = None

    @property
    def grid(self) -> Grid:
        """The voxels."""
        direction = np.eye(3) if self.direction is None else self.direction
        low, high = self.heights_mm
        extent_xyz = np.abs(direction).round().T @ [*self.width_xy_mm, high - low]
        spacing_xyz = np.array(self.spacing_zyx_mm)[::-1]
        count_xyz = np.round(extent_xyz / spacing_xyz).astype(int)
        centre = np.add(self.middle_xyz_mm, (0.0, 0.0, (low + high) / 2))
        origin = centre - direction @ (spacing_xyz * (count_xyz - 1) / 2)
        x, y, z = count_xyz.tolist()
        return Grid.from_spacing((z, y, x), self.spacing_zyx_mm, origin_xyz_mm=origin, direction=direction)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhantomCase:
    """A case, the true lesion map of each follow-up scan, and what became of each lesion.

    `truth_ids` holds each present lesion's id in the truth: lesions that merged share the lower one.
    """

    case: Case
    truth: Mapping[ScanName, LesionMap]
    fates: Mapping[int, Fate]
    truth_ids: Mapping[int, int]


LESIONS = (
    PlannedLesion(lesion_id=1, fate="persists", organ="liver", radius_mm=12.0),
    PlannedLesion(lesion_id=2, fate="grows", organ="right lung", radius_mm=7.0),
    PlannedLesion(lesion_id=3, fate="shrinks", organ="mesentery", radius_mm=14.0),
    PlannedLesion(lesion_id=4, fate="gone", organ="left lung", radius_mm=6.0),
    PlannedLesion(lesion_id=5, fate="new", organ="liver", radius_mm=9.0),
    PlannedLesion(lesion_id=6, fate="merged", organ="mesentery", radius_mm=9.0),
    PlannedLesion(lesion_id=7, fate="merged", organ="mesentery", radius_mm=8.0),
    PlannedLesion(lesion_id=8, fate="persists", organ="left lung", radius_mm=5.0),
)
BASELINE = View()
# Thicker slices, smaller pixels, another place in the world: as from another scanner.
FOLLOWUP = View(heights_mm=(-168.0, 192.0), spacing_zyx_mm=(5.0, 2.2, 2.2), middle_xyz_mm=(12.0, -20.0, -640.0))


def torso_case(
    seed: int,
    *,
    lesions: Sequence[PlannedLesion] = LESIONS,
    baselines: Sequence[View] = (BASELINE,),
    followups: Sequence[View] = (FOLLOWUP,),
    noise_hu: float = 10.0,
    motion_mm: float = 3.0,
    click_error_mm: float = 4.0,
) -> PhantomCase:
    """Draws a person with the planned lesions, seen in the given views.

    A lesion is marked and clicked in the first view of each time point that shows its centre. Raises ValueError where
    a lesion finds no place.
    """
    generator = np.random.default_rng(seed)
    anatomy = random_anatomy(generator)
    motion = Waves.random(generator, count=4, amplitude_mm=motion_mm, lengths_mm=(150.0, 350.0))
    before, after = _placed(anatomy, lesions, generator, baselines, followups)
    fates = {plan.lesion_id: plan.fate for plan in lesions}
    earlier = _time_point(anatomy, anatomy.waves, baselines, before, generator, noise_hu)
    later = _time_point(anatomy, anatomy.waves.joined(motion), followups, after, generator, noise_hu)
    truth_ids = _truth_ids(lesions)
    truth = {shown.name: _renamed(shown.lesions, truth_ids) for shown in later}
    clicks = []
    for plan in lesions:
        centre = (before | after)[plan.lesion_id].centre_xyz_mm
        # The outline is known in the baseline; everything else is propagated by registration, and noisy.
        first_error = 3.0 if plan.fate == "new" else 0.0
        clicks.append(
            ClickPair(
                lesion_id=plan.lesion_id,
                baseline=_click(earlier, centre, generator.normal(0, 1, 3) * first_error),
                followup=_click(later, centre, generator.normal(0, 1, 3) * click_error_mm),
            )
        )
    case = Case(
        baselines={shown.name: Baseline.of(shown.scan, shown.lesions) for shown in earlier},
        followups={shown.name: shown.scan for shown in later},
        clicks=tuple(clicks),
    )
    return PhantomCase(case=case, truth=truth, fates=fates, truth_ids=truth_ids)


def cycled_lesions(count: int) -> tuple[PlannedLesion, ...]:
    """Any number of lesions of all fates, in all organs."""
    return tuple(replace(LESIONS[number % len(LESIONS)], lesion_id=number + 1) for number in range(count))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shown:
    """One view of a time point, painted."""

    name: ScanName
    scan: Scan
    lesions: LesionMap
    pose: Pose


def _time_point(
    anatomy: Anatomy,
    waves: Waves,
    views: Sequence[View],
    lesions: Mapping[int, Ellipsoid],
    generator: np.random.Generator,
    noise_hu: float,
) -> list[_Shown]:
    shown: list[_Shown] = []
    marked: set[int] = set()
    for view in views:
        pose, grid = Pose(middle_xyz_mm=view.middle_xyz_mm, waves=waves), view.grid
        scan = paint([*anatomy.solids, *lesions.values()], grid, pose, generator=generator, noise_hu=noise_hu)
        ids = np.zeros(grid.shape_zyx, np.uint16)
        for lesion_id, solid in lesions.items():
            if lesion_id not in marked and grid.contains(grid.index_zyx(pose.world_xyz_mm(solid.centre_xyz_mm))):
                window, inside = outline(solid, grid, pose)
                ids[window][inside] = lesion_id
                marked.add(lesion_id)
        shown.append(_Shown(name=view.name, scan=scan, lesions=LesionMap(ids=ids, grid=grid), pose=pose))
    return shown


def _placed(
    anatomy: Anatomy,
    plans: Sequence[PlannedLesion],
    generator: np.random.Generator,
    baselines: Sequence[View],
    followups: Sequence[View],
) -> tuple[dict[int, Ellipsoid], dict[int, Ellipsoid]]:
    """The lesions of both time points, apart from each other and well inside a view of each."""
    taken: list[tuple[np.ndarray, float]] = []
    before: dict[int, Ellipsoid] = {}
    after: dict[int, Ellipsoid] = {}
    partner: PlannedLesion | None = None
    for plan in plans:
        radius = plan.radius_mm * max(1.0, GROWTH.get(plan.fate, 1.0))
        if plan.fate == "merged" and partner is not None:
            gap = partner.radius_mm + plan.radius_mm + 5.0
            centre = np.add(before[partner.lesion_id].centre_xyz_mm, (gap, 0.0, 0.0))
            partner = None
        else:
            centre = _free_place(anatomy.organs[plan.organ], plan, radius, generator, taken, (baselines, followups))
            partner = plan if plan.fate == "merged" else None
        taken.append((centre, radius))
        hu = anatomy.organs[plan.organ].layers[0][1] + CONTRAST_HU[plan.organ]
        shape = generator.uniform(0.85, 1.15, 3)
        first = Ellipsoid(
            centre_xyz_mm=triple(centre),
            radii_xyz_mm=triple(plan.radius_mm * shape),
            layers=((0.0, hu), (plan.radius_mm / 2, hu - 12.0)),
            lumpiness=0.18,
        )
        if plan.fate != "new":
            before[plan.lesion_id] = first
        if plan.fate != "gone":
            after[plan.lesion_id] = replace(first, radii_xyz_mm=triple(plan.radius_mm * GROWTH[plan.fate] * shape))
    return before, after


def _free_place(
    organ: Ellipsoid,
    plan: PlannedLesion,
    radius: float,
    generator: np.random.Generator,
    taken: Sequence[tuple[np.ndarray, float]],
    time_points: tuple[Sequence[View], Sequence[View]],
) -> np.ndarray:
    # Two merging lesions lie along x; the place of the first leaves room for the second.
    room = 3.0 * radius if plan.fate == "merged" else radius
    for _ in range(2000):
        offset = generator.uniform(-0.6, 0.6, 3)
        if "lung" in plan.organ:
            # Below its middle a lung is full of heart and diaphragm.
            offset[2] = abs(offset[2])
        centre = np.array(organ.centre_xyz_mm) + offset * np.array(organ.radii_xyz_mm)
        if plan.height_mm is not None:
            centre[2] = plan.height_mm
        low, high = centre[2] - radius - 8.0, centre[2] + radius + 8.0
        shown = all(
            any(view.heights_mm[0] <= low and high <= view.heights_mm[1] for view in views) for views in time_points
        )
        if shown and all(np.linalg.norm(centre - other) > room + other_room + 12.0 for other, other_room in taken):
            return centre
    raise ValueError(f"lesion {plan.lesion_id} finds no place in the {plan.organ} that the views show")


def _truth_ids(plans: Sequence[PlannedLesion]) -> dict[int, int]:
    merged = [plan.lesion_id for plan in plans if plan.fate == "merged"]
    ids = {plan.lesion_id: plan.lesion_id for plan in plans if plan.fate != "gone"}
    for first, second in zip(merged[::2], merged[1::2], strict=True):
        ids[max(first, second)] = min(first, second)
    return ids


def _renamed(lesions: LesionMap, truth_ids: Mapping[int, int]) -> LesionMap:
    ids = lesions.ids.copy()
    for lesion_id, truth_id in truth_ids.items():
        ids[lesions.ids == lesion_id] = truth_id
    return LesionMap(ids=ids, grid=lesions.grid)


def _click(shown: Sequence[_Shown], centre_xyz_mm: Triple, error_xyz_mm: np.ndarray) -> Click:
    for part in shown:
        grid, world = part.scan.grid, part.pose.world_xyz_mm(centre_xyz_mm)
        if grid.contains(grid.index_zyx(world)):
            moved = grid.clamped(grid.index_zyx(np.add(world, error_xyz_mm)))
            return Click(scan_name=part.name, point_xyz_mm=grid.world_xyz_mm(moved))
    raise ValueError(f"no scan shows the point {centre_xyz_mm}")
