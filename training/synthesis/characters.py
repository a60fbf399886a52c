"""The character of a lesion, the same in both scans: strands around it, a core inside it, uneven density.

Lengths are shares of the radius in that scan, so that the character grows and shrinks with the lesion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from training.synthesis.settings import BoneKinds, LungKinds, NodeKinds, SoftKinds
from training.synthesis.shapes import Shape, random_shape

# Uneven density varies over a cube of so many points along each axis, as wide as the cube of a shape.
_MOTTLE_POINTS = 14
# Smaller lesions are not necrotic.
_NECROTIC_FROM_MM = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Core:
    """The inner part of a lesion; where it has no shape of its own, it follows the lesion's surface.

    `size` is its radius and `shift_zyx` its centre, as shares of the lesion's radius. `hu` is relative to the tissue
    around in soft tissue, else absolute.
    """

    size: float
    hu: float
    edge_mm: float
    shape: Shape | None = None
    shift_zyx: Float[np.ndarray, "3"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spicules:
    """Strands that radiate from a lesion's centre and taper; their reach is that beyond the surface of its sphere.

    With `pleural_tag` there is another one to the nearest point of the tissue's border. They are not outlined.
    """

    directions_zyx: Float[np.ndarray, "n 3"]
    reaches: Float[np.ndarray, " n"]
    widths_mm: Float[np.ndarray, " n"]
    hu: float
    pleural_tag: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Character:
    """What a lesion has beside its mean HU; `bulge_mm` is its largest extent beyond the tissue that it lies in."""

    core: Core | None = None
    spicules: Spicules | None = None
    mottle_hu: Float32[np.ndarray, "n n n"] | None = None
    bulge_mm: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kind:
    """A character, and what it asks of the lesion: its mean HU and its border's width, None where they stay."""

    character: Character
    mean_hu: float | None = None
    edge_mm: float | None = None


PLAIN = Character()


def lung_kind(generator: np.random.Generator, kinds: LungKinds) -> Kind | None:
    """Draws a spiculated, part-solid or cavitating nodule, or none of them."""
    match _drawn((kinds.spiculated, kinds.part_solid, kinds.ground_glass, kinds.cavitating), generator):
        case 0:
            return Kind(character=Character(spicules=_spicules(generator)), mean_hu=float(generator.normal(20, 25)))
        case 1:
            # The solid part is often not in the middle.
            solid = Core(
                size=float(generator.uniform(0.35, 0.65)),
                hu=float(generator.normal(15, 25)),
                edge_mm=float(generator.uniform(0.8, 2.0)),
                shape=random_shape(generator, lumpiness=0.35, elongation=0.3),
                shift_zyx=generator.uniform(-0.2, 0.2, 3),
            )
            spicules = _spicules(generator) if generator.random() < 0.3 else None
            return _ground_glass(generator, Character(core=solid, spicules=spicules))
        case 2:
            return _ground_glass(generator, PLAIN)
        case 3:
            cavity = Core(
                size=float(generator.uniform(0.35, 0.75)),
                hu=float(generator.uniform(-980, -850)),
                edge_mm=float(generator.uniform(0.5, 1.2)),
                shape=random_shape(generator, lumpiness=0.3),
                shift_zyx=generator.uniform(-0.12, 0.12, 3),
            )
            return Kind(character=Character(core=cavity), mean_hu=float(generator.normal(20, 25)))
    return None


def soft_kind(generator: np.random.Generator, kinds: SoftKinds, *, radius_mm: float) -> Kind | None:
    """Draws a lesion with an enhancing rim, a necrotic core (if it is large) or a fuzzy border, or none of them."""
    fuzzy = float(generator.uniform(3.0, 7.0)) if generator.random() < kinds.fuzzy else None
    bulge_mm = float(generator.uniform(0.0, 3.0))
    match _drawn((kinds.rim, kinds.necrotic), generator):
        case 0:
            inside = Core(
                size=float(generator.uniform(0.65, 0.85)),
                hu=float(generator.uniform(-80, -30)),
                edge_mm=float(generator.uniform(1.5, 3.5)),
            )
            rim_hu = float(generator.uniform(10, 55))
            return Kind(character=Character(core=inside, bulge_mm=bulge_mm), mean_hu=rim_hu, edge_mm=fuzzy)
        case 1 if radius_mm >= _NECROTIC_FROM_MM:
            necrosis = Core(
                size=float(generator.uniform(0.4, 0.7)),
                hu=float(generator.uniform(-95, -55)),
                edge_mm=float(generator.uniform(2.0, 5.0)),
                shape=random_shape(generator, lumpiness=0.4, elongation=0.3),
                shift_zyx=generator.uniform(-0.15, 0.15, 3),
            )
            darker_hu = float(generator.uniform(-45, -18))
            return Kind(character=Character(core=necrosis, bulge_mm=bulge_mm), mean_hu=darker_hu, edge_mm=fuzzy)
    return None if fuzzy is None else Kind(character=Character(bulge_mm=bulge_mm), edge_mm=fuzzy)


def bone_kind(generator: np.random.Generator, kinds: BoneKinds) -> Kind | None:
    """Draws a lytic lesion with eroded cortex, an unevenly sclerotic or a mixed one, or none of them."""
    match _drawn((kinds.lytic, kinds.sclerotic, kinds.mixed), generator):
        case 0:
            character = Character(bulge_mm=float(generator.uniform(1.0, 4.0)), mottle_hu=_mottle(generator, 12.0))
            return Kind(
                character=character,
                mean_hu=float(generator.uniform(30, 90)),
                edge_mm=float(generator.uniform(0.8, 2.5)),
            )
        case 1:
            mean_hu = float(generator.uniform(350, 1000))
            character = Character(mottle_hu=_mottle(generator, float(generator.uniform(0.1, 0.25)) * mean_hu))
            return Kind(character=character, mean_hu=mean_hu, edge_mm=float(generator.uniform(2.0, 6.0)))
        case 2:
            character = Character(
                bulge_mm=float(generator.uniform(0.0, 2.0)),
                mottle_hu=_mottle(generator, float(generator.uniform(150, 300))),
            )
            return Kind(
                character=character,
                mean_hu=float(generator.uniform(150, 350)),
                edge_mm=float(generator.uniform(1.5, 4.0)),
            )
    return None


def node_kind(generator: np.random.Generator, kinds: NodeKinds) -> Kind | None:
    """Draws a lymph node with a fatty hilum, or none."""
    if generator.random() >= kinds.hilum:
        return None
    direction = generator.normal(size=3)
    hilum = Core(
        size=float(generator.uniform(0.3, 0.5)),
        hu=float(generator.uniform(-90, -30)),
        edge_mm=float(generator.uniform(1.0, 2.5)),
        shape=random_shape(generator, lumpiness=0.2, elongation=0.35),
        shift_zyx=direction / np.linalg.norm(direction) * generator.uniform(0.2, 0.6),
    )
    return Kind(character=Character(core=hilum))


def _ground_glass(generator: np.random.Generator, character: Character) -> Kind:
    return Kind(
        character=character,
        mean_hu=float(generator.uniform(-700, -400)),
        edge_mm=float(generator.uniform(1.5, 4.0)),
    )


def _spicules(generator: np.random.Generator) -> Spicules:
    count = int(generator.integers(30, 70))
    directions = generator.normal(size=(count, 3))
    return Spicules(
        directions_zyx=directions / np.linalg.norm(directions, axis=1, keepdims=True),
        reaches=generator.uniform(0.25, 1.0, count),
        widths_mm=generator.uniform(0.6, 1.6, count),
        hu=float(generator.uniform(-150, 30)),
        pleural_tag=bool(generator.random() < 0.5),
    )


def _mottle(generator: np.random.Generator, deviation_hu: float) -> Float32[np.ndarray, "n n n"]:
    values = generator.normal(0.0, deviation_hu, (_MOTTLE_POINTS,) * 3)
    return values.astype(np.float32)


def _drawn(shares: tuple[float, ...], generator: np.random.Generator) -> int:
    """The index of a randomly drawn share, or their number for the remainder to 1."""
    return int(np.searchsorted(np.cumsum(shares), generator.random(), side="right"))
