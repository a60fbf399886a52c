"""A patient's liver lesions drawn at random: types, sizes, places, shapes, and how each part of them enhances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from scipy.spatial.transform import Rotation

from longilesion.diagnosis_settings import LESION_TYPES, LesionType, Phase
from training.synthesis.exam_settings import ExamSettings
from training.synthesis.kinetics import LesionKind, Part, Range, drawn_hu
from training.synthesis.lesion_kinds import kinds_of
from training.synthesis.real_shapes import RealShape
from training.synthesis.room import Room, find_room
from training.synthesis.shapes import REACH, Shape, random_shape, signed_distance_mm
from training.synthesis.sources import Source

# Places tried for a lesion before it is made smaller, by how much, and how often.
_PLACES, _SMALLER, _SIZES = 12, 0.85, 5
# Types that come beside others.
_BESIDE: tuple[LesionType, ...] = ("cyst", "haemangioma", "calcification")
_BESIDE_COMMON = 0.7
# Kinds whose surface is at least so uneven have shapes of real lesions.
_UNEVEN = 0.2
_TEXTURE_GRAIN = 9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnPart:
    """A part of a lesion: its HU by phase, as the table says relative to what, and the depths it lies between.

    `field` is the unevenness of its depths, on the cube of the lesion's shape.
    """

    part: Part
    hu: Mapping[Phase, float]
    begins: float
    ends: Mapping[Phase, float]
    field: Float32[np.ndarray, "n n n"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiverLesion:
    """A lesion of a kind; its centre is in mm from the lattice's first voxel."""

    lesion_id: int
    kind: LesionKind
    shape: Shape
    centre_zyx_mm: Float[np.ndarray, "3"]
    rotation: Float[np.ndarray, "3 3"]
    radius_mm: float
    edge_mm: float
    parts: tuple[DrawnPart, ...]
    texture_hu: Float32[np.ndarray, "n n n"]


def drawn_lesions(
    liver: Source,
    generator: np.random.Generator,
    settings: ExamSettings,
    *,
    shapes: Sequence[RealShape] = (),
) -> tuple[LiverLesion, ...]:
    """Draws a patient's lesions, numbered from 1; fewer than planned where the liver is full, none in some patients.

    Most lesions are of one type, and of one of LiFE-Net's size classes; a part of the patients has a second type.
    """
    planned = planned_lesions(generator, settings)
    room = find_room(liver, generator, settings.sizes) if planned else None
    lesions: list[LiverLesion] = []
    for lesion_type, class_radius_mm in planned:
        if room is None:
            break
        kinds = kinds_of(lesion_type)
        weights = np.array([kind.share for kind in kinds])
        kind = kinds[int(generator.choice(len(kinds), p=weights / weights.sum()))]
        shape = _shape(kind, generator, settings, shapes)
        rotation = Rotation.random(random_state=generator).as_matrix()
        placed = _placed(
            shape, room, generator, radius_mm=class_radius_mm * generator.uniform(*kind.size), rotation=rotation
        )
        if placed is None:
            continue
        centre, radius_mm, taken = placed
        room = room.without([taken])
        lesions.append(
            LiverLesion(
                lesion_id=len(lesions) + 1,
                kind=kind,
                shape=shape,
                centre_zyx_mm=centre,
                rotation=rotation,
                radius_mm=radius_mm,
                edge_mm=_within(kind.edge_mm, generator),
                parts=tuple(_part(part, generator) for part in kind.parts),
                texture_hu=_field(_TEXTURE_GRAIN, _within(kind.texture_hu, generator), generator),
            )
        )
    return tuple(lesions)


def planned_lesions(generator: np.random.Generator, settings: ExamSettings) -> list[tuple[LesionType, float]]:
    """Draws the types of a patient's lesions, and the radii of their size classes; none in a healthy patient."""
    if generator.random() < settings.healthy_share:
        return []
    sizes = settings.sizes.sizes
    weights = np.array([size.probability for size in sizes])
    size = sizes[int(generator.choice(len(sizes), p=weights / weights.sum()))]
    count = min(int(generator.integers(size.count[0], size.count[1] + 1)), settings.most_lesions)
    types = settings.types or LESION_TYPES
    dominant = types[int(generator.integers(len(types)))]
    planned = [(dominant, size.radius_mm)] * count
    others = [each for each in types if each != dominant]
    if others and count < settings.most_lesions and generator.random() < settings.second_share:
        common = [each for each in others if each in _BESIDE]
        chosen = common if common and generator.random() < _BESIDE_COMMON else others
        second = chosen[int(generator.integers(len(chosen)))]
        more = int(generator.integers(1, min(2, settings.most_lesions - count) + 1))
        planned += [(second, sizes[int(generator.integers(len(sizes)))].radius_mm) for _ in range(more)]
    return planned


def _shape(
    kind: LesionKind, generator: np.random.Generator, settings: ExamSettings, shapes: Sequence[RealShape]
) -> Shape:
    if shapes and kind.lumpiness >= _UNEVEN and generator.random() < settings.real_shape_share:
        return shapes[int(generator.integers(len(shapes)))].shape
    return random_shape(generator, lumpiness=kind.lumpiness, elongation=kind.elongation)


def _placed(
    shape: Shape, room: Room, generator: np.random.Generator, *, radius_mm: float, rotation: Float[np.ndarray, "3 3"]
) -> tuple[Float[np.ndarray, "3"], float, Int[np.ndarray, "n 3"]] | None:
    """A centre, the radius that has room there, and the voxels of the room that it takes."""
    for _ in range(_SIZES):
        inner_mm = max(-float(shape.distance.min()) * radius_mm, 0.0)
        for _ in range(_PLACES):
            centre = room.random_place(generator, depth_mm=0.8 * inner_mm)
            if centre is None:
                break
            voxels = room.voxels_near(centre, reach_mm=radius_mm * REACH)
            offsets = torch.from_numpy((room.first_zyx_mm + voxels * room.spacing_zyx_mm - centre).astype(np.float32))
            distance = signed_distance_mm(shape, offsets, radius_mm=radius_mm, rotation=rotation)
            covered: Bool[np.ndarray, "z y x"] = distance.numpy() < 1.0
            taken = np.asarray(voxels[covered])
            if room.is_free(taken):
                return centre, radius_mm, taken
        radius_mm *= _SMALLER
    return None


def _part(part: Part, generator: np.random.Generator) -> DrawnPart:
    return DrawnPart(
        part=part,
        hu=drawn_hu(part.hu, generator),
        begins=_within(part.begins, generator),
        ends=drawn_hu(part.ends, generator),
        field=_field(part.grain, _within(part.unevenness, generator), generator),
    )


def _field(grain: int, deviation: float, generator: np.random.Generator) -> Float32[np.ndarray, "n n n"]:
    """Random values of that deviation on a lesion's cube, so many along its diameter."""
    count = round(grain * REACH)
    return generator.normal(0.0, deviation, (count,) * 3).astype(np.float32)


def _within(limits: Range, generator: np.random.Generator) -> float:
    return float(generator.uniform(*limits))
