"""A longitudinal pair: a cut-out of a source seen twice, with lesions, their clicks and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy.ndimage import center_of_mass, gaussian_filter1d
from torch import Tensor

from longilesion.case import AIR_HU, Baseline, Case, Click, ClickPair, LesionMap, Scan
from longilesion.geometry import Grid, Triple
from training.synthesis.acquisition import Acquisition, acquired, enhanced, random_acquisition
from training.synthesis.deformation import Growth, deformed, sampled
from training.synthesis.lesions import FATES, UNMARKED, Fate, Lesion, Tissue, click_error_mm, paint, random_lesion
from training.synthesis.sources import Source, Tumour

TUMOUR_ID = 1
# A lesion of fewer voxels is no lesion in either scan.
_FEWEST_VOXELS = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionFact:
    """What is true of one lesion: its fate, whether it is a real tumour, its diameter (equivalent sphere)."""

    fate: Fate
    real: bool
    diameter_mm: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticPair:
    """A case, the follow-up's true lesion map, and the facts by lesion id; every lesion with a fact has its clicks."""

    case: Case
    truth: LesionMap
    facts: Mapping[int, LesionFact]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Image:
    """One time point while it is painted."""

    grid: Grid
    points_zyx_mm: Float32[Tensor, "z y x 3"]
    hu: Float32[Tensor, "z y x"]
    ids: np.ndarray
    acquisition: Acquisition


def synthetic_pair(source: Source, generator: np.random.Generator, *, shapes: Sequence[Source]) -> SyntheticPair:
    """Draws a pair around a real tumour of the source or around a painted lesion.

    The real tumours of `shapes` lend their shapes to painted lesions. Frames of the two scans are unrelated.
    """
    tumour = source.tumour if generator.random() < 0.5 else None
    lesions = _random_lesions(source, generator, shapes=shapes, tumour=tumour)
    anchor = lesions[0].center_zyx_mm if tumour is None else tumour.center_zyx_mm
    extent = _extent_mm(lesions[0]) if tumour is None else tumour.extent_mm
    zoom = float(np.clip(extent / 50.0, 0.8, 3.0))
    lesions = [replace(lesion, center_zyx_mm=lesion.center_zyx_mm - anchor) for lesion in lesions]
    side = np.array([110.0, 120.0, 120.0]) * zoom + 40.0
    growth = None if tumour is None else _growth(tumour, generator)
    coarseness = max(1.0, 0.8 * zoom)
    images = [
        _render(source, anchor, side, generator, coarseness=coarseness, moves=moves, growth=growth, tumour=tumour)
        for moves in (False, True)
    ]
    for image, is_followup in zip(images, (False, True), strict=True):
        for lesion in lesions:
            appearance = lesion.followup if is_followup else lesion.baseline
            if appearance is not None:
                paint(
                    image.hu,
                    image.ids,
                    points_zyx_mm=image.points_zyx_mm,
                    lesion=lesion,
                    appearance=appearance,
                    generator=generator,
                )
    return _assembled(images[0], images[1], lesions, generator)


def _random_lesions(
    source: Source, generator: np.random.Generator, *, shapes: Sequence[Source], tumour: Tumour | None
) -> list[Lesion]:
    """Lesions near the tumour, or near a random site where there is none; at least one in that case."""
    real_shapes = tuple(other.tumour.shape for other in shapes if other.tumour is not None)
    first = _site(source, generator, None)[1] if tumour is None else tumour.center_zyx_mm
    taken = [] if tumour is None else [(first, tumour.radius_mm)]
    lesions: list[Lesion] = []
    for attempt in range(int(generator.integers(3, 9))):
        tissue, center = _site(source, generator, first)
        lesion = random_lesion(
            generator,
            lesion_id=TUMOUR_ID + 1 + attempt if generator.random() < 0.85 else UNMARKED,
            fate=FATES[int(generator.choice(3, p=[0.42, 0.28, 0.30]))],
            tissue=tissue,
            center_zyx_mm=center.astype(float),
            real_shapes=real_shapes,
        )
        radius = max(part.radius_mm for part in (lesion.baseline, lesion.followup) if part is not None)
        gap = generator.uniform(1.0, 8.0)
        if all(np.linalg.norm(center - other) > 1.2 * (radius + other_radius) + gap for other, other_radius in taken):
            taken.append((center, radius))
            lesions.append(lesion)
    return lesions


def _site(
    source: Source, generator: np.random.Generator, near: Float[np.ndarray, "3"] | None
) -> tuple[Tissue, Float32[np.ndarray, "3"]]:
    """A random site, within 55 mm of a point where one is given; soft tissue twice as often as lung, fat rarely."""
    weights = {"soft": 0.65, "lung": 0.25, "fat": 0.1}
    found: dict[Tissue, np.ndarray] = {}
    for tissue, positions in source.sites.items():
        inside = positions if near is None else positions[np.linalg.norm(positions - near, axis=1) < 55.0]
        if len(inside):
            found[tissue] = inside
    if not found:
        found = dict(source.sites)
    names = list(found)
    share = np.array([weights[name] for name in names])
    chosen = names[int(generator.choice(len(names), p=share / share.sum()))]
    positions = found[chosen]
    jitter = generator.uniform(-2, 2, 3).astype(np.float32)
    return chosen, positions[int(generator.integers(len(positions)))] + jitter


def _render(
    source: Source,
    anchor_mm: Float[np.ndarray, "3"],
    side_mm: Float[np.ndarray, "3"],
    generator: np.random.Generator,
    *,
    coarseness: float,
    moves: bool,
    growth: Growth | None,
    tumour: Tumour | None,
) -> _Image:
    """Samples one time point of the source, contrast included, before lesions and noise."""
    acquisition = random_acquisition(generator, coarseness=coarseness)
    spacing = np.array(acquisition.spacing_zyx_mm)
    z, y, x = np.maximum(np.round(side_mm / spacing), 8).astype(int).tolist()
    middle = (np.array([z, y, x]) - 1) / 2 + generator.uniform(-0.5, 0.5, 3)
    axes = [
        torch.from_numpy(((np.arange(count) - center) * step).astype(np.float32))
        for count, center, step in zip((z, y, x), middle, spacing, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    if moves:
        amplitude = float(generator.uniform(0.3, 3.0))
        points = deformed(points, generator, rotation_deg=6.0, amplitude_mm=amplitude, growth=growth)
    window, offset = _window(source, anchor_mm, side_mm)
    hu = source.hu[window].astype(np.float32) - AIR_HU
    own = float(source.spacing_zyx_mm[0])
    if spacing[0] > own:
        # A thick slice averages over its thickness.
        hu = gaussian_filter1d(hu, np.sqrt(spacing[0] ** 2 - own**2) / 2.355 / own, axis=0, truncate=2.5)
    local = points - torch.from_numpy(offset.astype(np.float32))
    image = sampled(torch.from_numpy(hu), local, source.spacing_zyx_mm) + AIR_HU
    ids = np.zeros((z, y, x), np.uint16)
    if tumour is not None:
        mask = torch.from_numpy(tumour.mask[window].astype(np.float32))
        ids[(sampled(mask, local, source.spacing_zyx_mm) > 0.5).numpy()] = TUMOUR_ID
    origin_zyx = generator.uniform(-500, 500, 3) - middle * spacing
    grid = Grid.from_spacing((z, y, x), spacing, origin_xyz_mm=origin_zyx[::-1])
    return _Image(
        grid=grid,
        points_zyx_mm=points,
        hu=enhanced(image, acquisition, generator),
        ids=ids,
        acquisition=acquisition,
    )


def _window(
    source: Source, anchor_mm: Float[np.ndarray, "3"], side_mm: Float[np.ndarray, "3"]
) -> tuple[tuple[slice, slice, slice], Float[np.ndarray, "3"]]:
    """The part of the source around the anchor, with a margin for motion, and its middle relative to the anchor."""
    half = side_mm / 2 + 15.0
    shape = np.array(source.hu.shape)
    start = np.clip(np.floor((anchor_mm - half) / source.spacing_zyx_mm), 0, shape - 2).astype(int)
    stop = np.clip(np.ceil((anchor_mm + half) / source.spacing_zyx_mm), start + 2, shape).astype(int)
    middle = (start + stop - 1) / 2 * source.spacing_zyx_mm
    z, y, x = (slice(low, high) for low, high in zip(start.tolist(), stop.tolist(), strict=True))
    return (z, y, x), middle - anchor_mm


def _assembled(
    baseline: _Image, followup: _Image, lesions: Sequence[Lesion], generator: np.random.Generator
) -> SyntheticPair:
    clicks, facts = [], {}
    centers = {lesion.lesion_id: lesion.center_zyx_mm for lesion in lesions if lesion.lesion_id != UNMARKED}
    if (baseline.ids == TUMOUR_ID).any():
        centers[TUMOUR_ID] = np.zeros(3)
    for lesion_id, center in centers.items():
        before, after = baseline.ids == lesion_id, followup.ids == lesion_id
        fate = _fate(int(before.sum()), int(after.sum()))
        if fate is None:
            baseline.ids[before] = 0
            followup.ids[after] = 0
            continue
        was = center_of_mass(before) if fate != "new" else _nearest_voxel(baseline, center)
        now = center_of_mass(after) if fate != "gone" else _nearest_voxel(followup, center)
        error = click_error_mm(generator) * (0.2 if fate == "new" and generator.random() < 0.5 else 1.0)
        spread = 3.0 if fate == "new" else 0.5
        clicks.append(
            ClickPair(
                lesion_id=lesion_id,
                baseline=_click(baseline.grid, was, generator.normal(0, spread, 3)),
                followup=_click(followup.grid, now, error),
            )
        )
        larger, grid = (before, baseline.grid) if fate == "gone" else (after, followup.grid)
        volume_mm3 = float(larger.sum()) * grid.voxel_volume_ml * 1000
        facts[lesion_id] = LesionFact(
            fate=fate, real=lesion_id == TUMOUR_ID, diameter_mm=(6 * volume_mm3 / np.pi) ** (1 / 3)
        )
    prior = Scan(hu=acquired(baseline.hu, baseline.acquisition, generator), grid=baseline.grid)
    scan = Scan(hu=acquired(followup.hu, followup.acquisition, generator), grid=followup.grid)
    case = Case(
        baselines={"primary": Baseline.of(prior, LesionMap(ids=baseline.ids, grid=baseline.grid))},
        followups={"primary": scan},
        clicks=tuple(clicks),
    )
    return SyntheticPair(case=case, truth=LesionMap(ids=followup.ids, grid=followup.grid), facts=facts)


def _fate(before: int, after: int) -> Fate | None:
    if before >= _FEWEST_VOXELS and after >= _FEWEST_VOXELS:
        return "persists"
    if before == 0 and after >= _FEWEST_VOXELS:
        return "new"
    if before >= _FEWEST_VOXELS and after == 0:
        return "gone"
    return None


def _click(grid: Grid, index_zyx: Sequence[float], error_zyx_mm: Float[np.ndarray, "3"]) -> Click:
    moved = grid.clamped(np.asarray(index_zyx) + error_zyx_mm / np.array(grid.spacing_zyx_mm))
    return Click(scan_name="primary", point_xyz_mm=grid.world_xyz_mm(moved))


def _nearest_voxel(image: _Image, center_mm: Float[np.ndarray, "3"]) -> Triple:
    coarse = image.points_zyx_mm[::2, ::2, ::2]
    distance = (coarse - torch.from_numpy(center_mm.astype(np.float32))).pow(2).sum(-1)
    z, y, x = np.unravel_index(int(distance.argmin()), distance.shape)
    return 2.0 * z, 2.0 * y, 2.0 * x


def _growth(tumour: Tumour, generator: np.random.Generator) -> Growth:
    factor = float(np.exp(generator.uniform(np.log(0.6), np.log(1.4))))
    return Growth(center_zyx_mm=np.zeros(3, np.float32), factor=factor, reach_mm=1.6 * tumour.radius_mm)


def _extent_mm(lesion: Lesion) -> float:
    return 2.4 * max(part.radius_mm for part in (lesion.baseline, lesion.followup) if part is not None)
