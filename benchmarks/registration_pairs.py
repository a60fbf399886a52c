"""Pairs with a known deformation: one volume rendered twice, like two examinations of a patient.

Between the two the patient is rotated, bent and breathes; lesions appear, grow and disappear; slices, noise, contrast,
coverage, world position and storage of the voxels differ; arms and tables are visible or not. What else differs is
described by `Visits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int16
from scipy.spatial.transform import Rotation

from benchmarks.registration_visits import VISITS, Visits, later_source
from longilesion.case import PADDING_HU, Scan
from longilesion.geometry import Grid
from training.synthesis.acquisition import Acquisition, random_acquisitions
from training.synthesis.deformation import Growth, Mapped, Motion, random_motion
from training.synthesis.rendering import Frame, TimePoint, label_of, rendered
from training.synthesis.scene import Scene, random_scene
from training.synthesis.settings import ProtocolChanges, SynthesisSettings
from training.synthesis.sources import Source

Coverage: TypeAlias = Literal["same", "shorter follow-up", "shorter baseline", "overlapping"]

COVERAGES: tuple[Coverage, ...] = ("same", "shorter follow-up", "shorter baseline", "overlapping")
# Points of a pair in the body outside the lungs, and in the lungs.
POINTS = (60, 30)

_SYNTHESIS = SynthesisSettings(scar_share=0.3)
_CPU = torch.device("cpu")
_BODY_HU = -300
# A scan that shows a part of the volume may have moved by this much.
_MARGIN_MM = 80.0
# How far an inserted table lies below the body, its thickness, and where arms lie beside the body.
_TABLE_MM = (4.0, 30.0)
_TABLE_THICKNESS_MM = (2.0, 12.0)
_ARM_RADIUS_MM = (32.0, 45.0)
# Half the sides of a scan of a part of the body, and the radius of a round field of view over half the longer side.
_BOX_HALF_MM = (60.0, 120.0)
_ROUND_SHARE = (0.5, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegistrationPair:
    """Two scans, points of the baseline's body, and their positions in the follow-up.

    `is_shown` is whether a point lies in the follow-up's field of view, `is_lesion` whether it is a lesion's centre,
    `is_lung` whether it was drawn in the lungs.
    """

    name: str
    coverage: Coverage
    baseline: Scan
    followup: Scan
    baseline_xyz_mm: Float[np.ndarray, "n 3"]
    followup_xyz_mm: Float[np.ndarray, "n 3"]
    is_shown: Bool[np.ndarray, "n"]
    is_lesion: Bool[np.ndarray, "n"]
    is_lung: Bool[np.ndarray, "n"]


def registration_pair(
    source: Source,
    generator: np.random.Generator,
    *,
    coverage: Coverage,
    visits: Visits = VISITS["moderate motion"],
    twin: Source | None = None,
) -> RegistrationPair:
    """Draws two scans of a volume; where it is too short for different coverage, both cover all of it.

    The second is a scan of the `twin`, if there is one: the same acquisition, reconstructed with another kernel.
    """
    later = later_source(source, generator, visits, twin=twin)
    scene = random_scene(source, generator, shapes=(), settings=_SYNTHESIS, whole=True)
    protocols = random_acquisitions(generator, ProtocolChanges(), coarseness=scene.coarseness)
    if visits.noise_hu is not None:
        noisy = replace(protocols[1], noise_hu=float(generator.uniform(*visits.noise_hu)))
        protocols = (protocols[0], noisy) if generator.random() < 0.5 else (noisy, protocols[0])
    heights = _heights(float(scene.side_zyx_mm[0]), coverage, visits.shortest_mm, generator)
    frames = [_frame(scene, protocol, height, generator) for protocol, height in zip(protocols, heights, strict=True)]
    if visits.field_of_view == "box":
        frames = _boxes(frames, source, generator)
    motion = random_motion(
        generator,
        visits.motion,
        centre_zyx_mm=scene.middle_zyx_mm,
        half_zyx_mm=scene.side_zyx_mm / 2,
        lungs_mm=source.lungs_mm,
        growths=(*(shown.growth for shown in scene.shown), *_weight(scene, visits, generator)),
    )
    grids = []
    scans = []
    shown = []
    for frame, moved, protocol, seen in zip(frames, (None, motion), protocols, (source, later), strict=True):
        image = _painted(seen, scene, frame, moved, protocol, is_later=moved is not None, generator=generator)
        hu = image.developed().hu
        if visits.field_of_view == "round":
            _hide_corners(hu, frame, generator)
        shown.append(hu)
        grids.append(_world(frame, generator))
        scans.append(_stored(hu, grids[-1], generator))
    places, is_lesion, is_lung = _places(source, scene, frames[0], generator)
    is_seen = _is_shown(shown[0], _indices(places, frames[0]))
    places, is_lesion, is_lung = places[is_seen], is_lesion[is_seen], is_lung[is_seen]
    indices = [_indices(places, frames[0]), _indices(_moved(motion, places), frames[1])]
    return RegistrationPair(
        name=source.name,
        coverage=coverage,
        baseline=scans[0],
        followup=scans[1],
        baseline_xyz_mm=np.array([grids[0].world_xyz_mm(index) for index in indices[0]]),
        followup_xyz_mm=np.array([grids[1].world_xyz_mm(index) for index in indices[1]]),
        is_shown=_is_shown(shown[1], indices[1]),
        is_lesion=is_lesion,
        is_lung=is_lung,
    )


def _heights(
    length_mm: float, coverage: Coverage, shortest_mm: float, generator: np.random.Generator
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Start and end of the two scans along the volume."""
    whole = (0.0, length_mm)
    if length_mm < 1.5 * shortest_mm or coverage == "same":
        return whole, whole
    if coverage == "overlapping":
        shared = float(generator.uniform(shortest_mm, 0.8 * length_mm))
        upper = (float(generator.uniform(0.0, 0.5)) * (length_mm - shared), length_mm)
        lower = (0.0, min(upper[0] + shared, length_mm))
        return (upper, lower) if generator.random() < 0.5 else (lower, upper)
    part = float(generator.uniform(shortest_mm, 0.75 * length_mm))
    start = float(generator.uniform(0.0, length_mm - part))
    shorter = (start, start + part)
    return (whole, shorter) if coverage == "shorter follow-up" else (shorter, whole)


def _frame(
    scene: Scene, protocol: Acquisition, heights_mm: tuple[float, float], generator: np.random.Generator
) -> Frame:
    """A scan's voxels, with some air around the body, not necessarily centred."""
    middle = scene.middle_zyx_mm.copy()
    middle[0] = sum(heights_mm) / 2
    middle[1:] += generator.uniform(-15.0, 15.0, 2)
    side = np.array([heights_mm[1] - heights_mm[0], *(scene.side_zyx_mm[1:] + generator.uniform(30.0, 90.0, 2))])
    spacing = protocol.spacing_zyx_mm
    z, y, x = np.maximum(np.round(side / np.array(spacing)), 8).astype(int).tolist()
    return Frame(shape_zyx=(z, y, x), spacing_zyx_mm=spacing, middle_zyx_mm=middle)


def _boxes(frames: Sequence[Frame], source: Source, generator: np.random.Generator) -> list[Frame]:
    """Both scans cropped, within the slices, to about the same part of the body, around a site of any tissue."""
    tissues = list(source.sites)
    sites = source.sites[tissues[int(generator.integers(len(tissues)))]]
    middle = sites[int(generator.integers(len(sites)))].astype(float)
    half = generator.uniform(*_BOX_HALF_MM, 2)
    boxes = []
    for frame in frames:
        low, high = frame.middle_zyx_mm - frame.half_zyx_mm, frame.middle_zyx_mm + frame.half_zyx_mm
        centre = middle[1:] + generator.uniform(-10.0, 10.0, 2)
        low[1:] = np.maximum(low[1:], centre - half)
        high[1:] = np.minimum(high[1:], centre + half)
        z, y, x = np.maximum(np.round((high - low) / frame.spacing_zyx_mm) + 1, 8).astype(int).tolist()
        boxes.append(replace(frame, shape_zyx=(z, y, x), middle_zyx_mm=(low + high) / 2))
    return boxes


def _weight(scene: Scene, visits: Visits, generator: np.random.Generator) -> tuple[Mapped, ...]:
    """The change of the body's width; none where the visits have none."""
    low, high = visits.weight
    if low == high:
        return ()
    reach_mm = float(scene.side_zyx_mm.max())
    factor = float(generator.uniform(low, high))
    return (Growth(centre_zyx_mm=scene.middle_zyx_mm, factor=factor, reach_mm=reach_mm).mapped,)


def _hide_corners(hu: np.ndarray, frame: Frame, generator: np.random.Generator) -> None:
    """Leaves a round field of view in each slice."""
    _, row_mm, column_mm = frame.spacing_zyx_mm
    _, rows, columns = frame.shape_zyx
    y, x = (
        (np.arange(length) - (length - 1) / 2) * step - generator.uniform(-20.0, 20.0)
        for length, step in ((rows, row_mm), (columns, column_mm))
    )
    radius = float(generator.uniform(*_ROUND_SHARE)) * max(rows * row_mm, columns * column_mm) / 2
    hu[:, np.hypot(y[:, None], x) > radius] = PADDING_HU


def _indices(places_zyx_mm: Float[np.ndarray, "n 3"], frame: Frame) -> Float[np.ndarray, "n 3"]:
    """Fractional voxel indices of positions."""
    return np.asarray((places_zyx_mm - _first(frame)) / np.array(frame.spacing_zyx_mm))


def _is_shown(hu: Int16[np.ndarray, "z y x"], indices_zyx: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    """Whether the voxels at these indices are in the scan and within the scanner's field of view."""
    nearest = np.rint(indices_zyx).astype(int)
    inside = ((nearest >= 0) & (nearest < hu.shape)).all(axis=1)
    z, y, x = np.clip(nearest, 0, np.array(hu.shape) - 1).T
    return np.asarray(inside & (hu[z, y, x] > PADDING_HU))


def _painted(
    source: Source,
    scene: Scene,
    frame: Frame,
    motion: Motion | None,
    protocol: Acquisition,
    *,
    is_later: bool,
    generator: np.random.Generator,
) -> TimePoint:
    image = rendered(source, frame, motion, protocol, device=_CPU, repeats_ends=True, margin_mm=_MARGIN_MM)
    for lesion in scene.lesions:
        parts, label = (lesion.followup, lesion.true_id) if is_later else (lesion.baseline, label_of(lesion))
        image.insert(lesion, parts, label, generator)
        if is_later and lesion.scar_hu:
            image.insert_scar(lesion)
    _add_surroundings(image.hu.numpy(), frame, generator)
    return image


def _add_surroundings(hu: np.ndarray, frame: Frame, generator: np.random.Generator) -> None:
    """Paints a table below the body, and arms beside it, each in two thirds of the scans."""
    _, rows, columns = frame.shape_zyx
    _, row_mm, column_mm = frame.spacing_zyx_mm
    body = hu > _BODY_HU
    across = np.flatnonzero(body.any(axis=(0, 1)))
    along = np.flatnonzero(body.any(axis=(0, 2)))
    y, x = np.mgrid[:rows, :columns] * np.array([row_mm, column_mm])[:, None, None]
    middle_x = columns * column_mm / 2
    if generator.random() < 2 / 3 and len(along):
        top = (along[-1] + 1) * row_mm + float(generator.uniform(*_TABLE_MM))
        # Tables are shallow troughs.
        surface = top - 0.0006 * float(generator.uniform(0, 1)) * (x - middle_x) ** 2
        inside = (y > surface) & (y < surface + float(generator.uniform(*_TABLE_THICKNESS_MM)))
        plane = np.where(inside & (np.abs(x - middle_x) < 210), float(generator.uniform(-600, 300)), -1024)
        np.maximum(hu, plane.astype(hu.dtype), out=hu, where=~body)
    if generator.random() < 2 / 3 and len(across):
        radius = float(generator.uniform(*_ARM_RADIUS_MM))
        height_mm = float(np.mean(along)) * row_mm + float(generator.uniform(-40, 60))
        for side in (across[0] * column_mm - radius - 3, (across[-1] + 1) * column_mm + radius + 3):
            distance = np.hypot(y - height_mm, x - side)
            arm = np.select(
                [distance < 9, distance < 13, distance < radius - 8, distance < radius], [100, 900, 50, -90]
            )
            shown = (distance < radius)[None] & ~body
            np.copyto(hu, arm.astype(hu.dtype), where=shown)


def _world(frame: Frame, generator: np.random.Generator) -> Grid:
    """A random world position of the patient, mostly slightly rotated."""
    tilt = Rotation.from_euler("xyz", generator.normal(0, 2.0, 3), degrees=True).as_matrix()
    return Grid.from_spacing(
        frame.shape_zyx,
        frame.spacing_zyx_mm,
        origin_xyz_mm=generator.uniform(-1500, 1500, 3),
        direction=tilt,
    )


def _stored(hu: np.ndarray, grid: Grid, generator: np.random.Generator) -> Scan:
    """The same scan with each axis stored forwards or backwards."""
    flips = generator.random(3) < 0.5
    step = np.where(flips, -1, 1)
    start = np.where(flips, np.array(grid.shape_zyx) - 1, 0)
    z, y, x = (slice(None, None, int(each)) for each in step)
    stored = Grid(
        shape_zyx=grid.shape_zyx,
        world_from_voxel=grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=grid.shape_zyx).world_from_voxel,
    )
    return Scan(hu=np.ascontiguousarray(hu[z, y, x]), grid=stored)


def _places(
    source: Source, scene: Scene, frame: Frame, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Centres of the baseline's lesions and points of the body, in mm from the volume's first voxel.

    Also returns which are lesions, and which were drawn in the lungs.
    """
    margin = np.array([5.0, 5.0, 5.0])
    low, high = frame.middle_zyx_mm - frame.half_zyx_mm + margin, frame.middle_zyx_mm + frame.half_zyx_mm - margin
    lesions = [lesion.centre_zyx_mm for lesion in scene.lesions if lesion.baseline]
    body = np.argwhere(source.hu[::2, ::4, ::4] > _BODY_HU) * [2, 4, 4] * source.spacing_zyx_mm
    body = body[((body > low) & (body < high)).all(axis=1)]
    chosen = body[generator.choice(len(body), min(POINTS[0], len(body)), replace=False)]
    lung = source.sites.get("lung", np.zeros((0, 3)))
    lung = lung[((lung > low) & (lung < high)).all(axis=1)]
    breathing = lung[generator.choice(len(lung), min(POINTS[1], len(lung)), replace=False)]
    middles = [place for place in lesions if ((place > low) & (place < high)).all()]
    places = np.array([*middles, *chosen, *breathing], float).reshape(-1, 3)
    number = np.arange(len(places))
    return places, number < len(middles), number >= len(middles) + len(chosen)


def _moved(motion: Motion, places_zyx_mm: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Positions of the first scan's anatomy in the second, by fixed-point iteration."""
    return np.array([_moved_place(motion, place) for place in places_zyx_mm])


def _moved_place(motion: Motion, place_zyx_mm: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    found = place_zyx_mm.copy()
    for _ in range(60):
        z, y, x = (torch.tensor([value], dtype=torch.float32) for value in found.tolist())
        error = motion.mapped((z, y, x)).numpy().reshape(3) - place_zyx_mm
        found = found - 0.7 * error
        if float(np.abs(error).max()) < 1e-3:
            break
    return found


def _first(frame: Frame) -> Float[np.ndarray, "3"]:
    return np.asarray(frame.middle_zyx_mm - frame.half_zyx_mm)
