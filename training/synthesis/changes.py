"""Appearance and changes of a synthetic lesion: stable, growing, shrinking, new, gone, back, merging, splitting."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from longilesion.evaluation.exam import Fate
from training.synthesis.characters import Kind, bone_kind, lung_kind, node_kind, soft_kind
from training.synthesis.lesions import Appearance, Lesion, Tissue
from training.synthesis.real_shapes import RealShape, RealShapes
from training.synthesis.settings import ChangeShares, SynthesisSettings
from training.synthesis.shapes import Shape, blended, random_shape

_NODE = "Lymph node"
# The smallest radius that is drawn; the largest by tissue.
_SMALLEST_DRAWN_MM = 4.0
_LARGEST_MM = {"soft": 30.0, "lung": 22.0, "fat": 22.0, "bone": 20.0}
_LARGEST_NODE_MM = 16.0
# The smallest radius after shrinking or splitting, and of a real lesion's own size.
_SMALLEST_MM = 3.5
# Deviation of the logarithm of the radius from a real lesion's own: 12 % of the volume each way.
_SIZE_DEVIATION = 0.04
# Ranges of the radius against that before.
_CHANGES = {"stays": (0.93, 1.07), "grows": (1.07, 1.7), "shrinks": (0.45, 0.93)}
# Deviation of the change of the mean HU after the second time point.
_LATER_CHANGE_HU = 5.0
# A smaller lesion does not split.
_SPLIT_FROM_MM = 9.0
# Deviation of the change of the mean HU between the scans in a lesion of a kind.
_KIND_CHANGE_HU = 5.0
# A wider border, as a share of the radius, would leave nothing of a lesion.
_WIDEST_EDGE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """The site of a lesion: the tissue, the organ by its mask, the challenge's lesion type there, and the centre.

    Fat that is not `is_deep` lies below the skin.
    """

    tissue: Tissue
    lesion_type: str
    centre_zyx_mm: Float[np.ndarray, "3"]
    organ: str | None = None
    is_deep: bool = True


def random_lesion(
    generator: np.random.Generator,
    site: Site,
    *,
    lesion_id: int,
    fate: Fate,
    real_shapes: RealShapes,
    settings: SynthesisSettings,
) -> Lesion:
    """Draws a lesion of 8 to 60 mm and its change."""
    is_node = site.tissue == "fat" and generator.random() < settings.node_share and site.is_deep
    largest_mm = _LARGEST_NODE_MM if is_node else _LARGEST_MM[site.tissue]
    fitting = real_shapes.fitting(site.tissue, organ=site.organ, is_node=is_node)
    is_real = bool(fitting) and generator.random() < settings.real_shape_share
    real = fitting[int(generator.integers(len(fitting)))] if is_real else None
    shape = _shape(generator, is_node=is_node) if real is None else real.shape
    mean_hu, core_hu = _mean_hu(site.tissue, generator, is_node=is_node)
    first = Appearance(
        shape=shape,
        radius_mm=_radius_mm(real, generator, settings, largest_mm=largest_mm),
        mean_hu=mean_hu,
        core_hu=core_hu,
        shift_zyx_mm=np.zeros(3),
    )
    second = _evolved(first, site.tissue, generator, settings.changes, is_node=is_node)
    scars = fate == "gone" and generator.random() < settings.scar_share
    lesion = Lesion(
        lesion_id=lesion_id,
        true_id=lesion_id,
        lesion_type=_NODE if is_node else site.lesion_type,
        tissue=site.tissue,
        centre_zyx_mm=site.centre_zyx_mm,
        rotation=Rotation.random(rng=generator).as_matrix(),
        edge_mm=float(generator.uniform(0.3, 1.2 if site.tissue != "soft" else 2.0)),
        texture_hu=float(generator.uniform(0, 15)),
        kept_structure=float(generator.uniform(0, 0.4)),
        baseline=() if fate == "new" else (first,),
        followup=() if fate == "gone" else (second,),
        scar_hu=_scar_hu(site.tissue, generator) if scars else 0.0,
    )
    # A generator of its own, so that everything else is drawn as without kinds.
    (own,) = generator.spawn(1)
    kind = _kind(lesion, own, settings, radius_mm=first.radius_mm, is_node=is_node)
    return lesion if kind is None else _of_kind(lesion, kind, own)


def with_history(
    lesion: Lesion,
    generator: np.random.Generator,
    settings: SynthesisSettings,
    *,
    times: int,
    stays: bool = False,
    largest_mm: float | None = None,
) -> Lesion:
    """A lesion of a pair in a series of so many time points.

    A new one appears at any of them; others change, vanish unless it `stays`, and come back. Without `largest_mm` the
    radius is limited to that of a pair's largest lesion of the tissue.
    """
    if lesion.true_id != lesion.lesion_id:
        # It has merged into another one, and is part of that from then on.
        return lesion
    scans = [lesion.baseline, lesion.followup]
    if not lesion.baseline:
        scans[1:1] = [()] * int(generator.integers(times - 1))
    limit_mm = _LARGEST_MM[lesion.tissue] * _CHANGES["grows"][1] if largest_mm is None else largest_mm
    while len(scans) < times:
        seen = next(parts for parts in reversed(scans) if parts)
        if scans[-1]:
            is_there = stays or generator.random() >= settings.series.vanishing_share
        else:
            is_there = generator.random() < settings.series.returning_share
        now = tuple(_later(part, lesion, generator, settings, limit_mm=limit_mm) for part in seen) if is_there else ()
        scans.append(now)
    baseline, followup, *later = scans
    return replace(lesion, baseline=baseline, followup=followup, later=tuple(later))


def _later(
    part: Appearance, lesion: Lesion, generator: np.random.Generator, settings: SynthesisSettings, *, limit_mm: float
) -> Appearance:
    now = _evolved(part, lesion.tissue, generator, settings.changes, is_node=lesion.lesion_type == _NODE)
    # Changes of density in a pair, one after the other, would end anywhere.
    mean_hu = part.mean_hu + float(generator.normal(0.0, _LATER_CHANGE_HU))
    return replace(now, radius_mm=min(now.radius_mm, max(limit_mm, part.radius_mm)), mean_hu=mean_hu)


def _radius_mm(
    real: RealShape | None, generator: np.random.Generator, settings: SynthesisSettings, *, largest_mm: float
) -> float:
    """A random radius, or about that of the real lesion, within the tissue's limits."""
    drawn_mm = float(np.exp(generator.uniform(np.log(_SMALLEST_DRAWN_MM), np.log(largest_mm))))
    if real is None or not settings.real_size_share or generator.random() >= settings.real_size_share:
        return drawn_mm
    own_mm = real.radius_mm * float(np.exp(generator.normal(0.0, _SIZE_DEVIATION)))
    return float(np.clip(own_mm, _SMALLEST_MM, largest_mm))


def merging(lesion: Lesion, generator: np.random.Generator, *, other_id: int) -> tuple[Lesion, Lesion]:
    """A persisting lesion and a second one beside it, with one outline in the follow-up, with the first's id.

    Both grow towards each other until they overlap.
    """
    (first,), (later,) = lesion.baseline, lesion.followup
    second = replace(
        first,
        shape=_shape(generator, is_node=lesion.lesion_type == _NODE),
        radius_mm=max(first.radius_mm * float(generator.uniform(0.6, 1.0)), 4.0),
    )
    direction = _direction(generator)
    apart_mm = float(generator.uniform(1.2, 1.4)) * (first.radius_mm + second.radius_mm)
    growth = float(generator.uniform(1.1, 1.5))
    radii_mm = first.radius_mm * growth, second.radius_mm * growth
    # With this overlap even lumpy lesions touch.
    closer_mm = max(apart_mm - float(generator.uniform(0.65, 0.8)) * sum(radii_mm), 0.0) / 2
    followup = (
        replace(later, radius_mm=radii_mm[0], shift_zyx_mm=direction * closer_mm),
        replace(later, shape=second.shape, radius_mm=radii_mm[1], shift_zyx_mm=direction * (apart_mm - closer_mm)),
    )
    other = replace(
        lesion,
        lesion_id=other_id,
        true_id=lesion.lesion_id,
        centre_zyx_mm=lesion.centre_zyx_mm + direction * apart_mm,
        baseline=(second,),
        followup=(),
    )
    return replace(lesion, followup=followup), other


def splitting(lesion: Lesion, generator: np.random.Generator) -> Lesion:
    """A persisting lesion that splits into two parts with a gap between them; a small one is unchanged."""
    (first,), (later,) = lesion.baseline, lesion.followup
    if first.radius_mm < _SPLIT_FROM_MM:
        return lesion
    direction = _direction(generator)
    parts = []
    for side in (-1.0, 1.0):
        radius_mm = max(first.radius_mm * float(generator.uniform(0.4, 0.55)), _SMALLEST_MM)
        shift = side * direction * first.radius_mm * float(generator.uniform(0.65, 0.8))
        parts.append(replace(later, shape=random_shape(generator), radius_mm=radius_mm, shift_zyx_mm=shift))
    return replace(lesion, followup=tuple(parts))


def _shape(generator: np.random.Generator, *, is_node: bool) -> Shape:
    return random_shape(generator, lumpiness=0.08, elongation=0.25) if is_node else random_shape(generator)


def _mean_hu(tissue: Tissue, generator: np.random.Generator, *, is_node: bool) -> tuple[float, float]:
    """The mean HU, and the core's offset."""
    core_hu = float(generator.uniform(-30, 12)) * float(generator.random() < 0.4)
    if tissue == "lung":
        if generator.random() < 0.85:
            return float(generator.normal(20, 35)), core_hu
        # Ground glass, a third of it with a solid part.
        hazy_hu = float(generator.uniform(-500, -150))
        return hazy_hu, 30.0 - hazy_hu if generator.random() < 1 / 3 else core_hu
    if is_node:
        enhancement_hu = float(generator.uniform(0, 60)) * float(generator.random() < 0.6)
        return float(generator.uniform(20, 60)) + enhancement_hu, core_hu
    if tissue == "fat":
        return float(generator.normal(40, 25)), core_hu
    if tissue == "bone":
        is_lytic = generator.random() < 0.5
        return float(generator.uniform(40, 80) if is_lytic else generator.uniform(400, 900)), core_hu
    return float(generator.uniform(18, 90) * generator.choice([-1.0, 1.0])), core_hu


def _kind(
    lesion: Lesion, generator: np.random.Generator, settings: SynthesisSettings, *, radius_mm: float, is_node: bool
) -> Kind | None:
    if is_node:
        return node_kind(generator, settings.node)
    if lesion.tissue == "lung":
        return lung_kind(generator, settings.lung)
    if lesion.tissue == "bone":
        return bone_kind(generator, settings.bone)
    return soft_kind(generator, settings.soft, radius_mm=radius_mm) if lesion.tissue == "soft" else None


def _of_kind(lesion: Lesion, kind: Kind, generator: np.random.Generator) -> Lesion:
    """The lesion with a character; its mean HU differs little between the scans."""
    radius_mm = min(part.radius_mm for part in (*lesion.baseline, *lesion.followup))
    scans = []
    for parts in (lesion.baseline, lesion.followup):
        change_hu = float(generator.normal(0.0, _KIND_CHANGE_HU))
        mean_hu = None if kind.mean_hu is None else kind.mean_hu + change_hu
        # A core of its own takes the place of a darker or brighter middle.
        core_hu = 0.0 if kind.mean_hu is not None else None
        scans.append(
            tuple(
                replace(
                    part,
                    mean_hu=part.mean_hu if mean_hu is None else mean_hu,
                    core_hu=part.core_hu if core_hu is None else core_hu,
                )
                for part in parts
            )
        )
    baseline, followup = scans
    return replace(
        lesion,
        edge_mm=lesion.edge_mm if kind.edge_mm is None else min(kind.edge_mm, _WIDEST_EDGE * radius_mm),
        character=kind.character,
        baseline=baseline,
        followup=followup,
    )


def _evolved(
    first: Appearance, tissue: Tissue, generator: np.random.Generator, changes: ChangeShares, *, is_node: bool
) -> Appearance:
    shares = np.array([changes.stays, changes.grows, changes.shrinks])
    low, high = tuple(_CHANGES.values())[int(generator.choice(3, p=shares / shares.sum()))]
    mean_hu = first.mean_hu * float(generator.uniform(0.7, 1.2)) + float(generator.normal(0, 5))
    if tissue == "soft":
        # Below this contrast an expert could not identify it again.
        mean_hu = float(np.sign(first.mean_hu)) * max(abs(mean_hu), 14.0)
    return replace(
        first,
        shape=blended(first.shape, _shape(generator, is_node=is_node), float(generator.uniform(0, 0.35))),
        radius_mm=max(first.radius_mm * float(generator.uniform(low, high)), _SMALLEST_MM),
        mean_hu=mean_hu,
    )


def _scar_hu(tissue: Tissue, generator: np.random.Generator) -> float:
    """The HU of a healed lesion's remains: bands in lung, strands in fat, sclerosis in bone, else slight contrast."""
    low, high = {"soft": (6.0, 13.0), "lung": (80.0, 250.0), "fat": (25.0, 55.0), "bone": (80.0, 250.0)}[tissue]
    sign = float(generator.choice([-1.0, 1.0])) if tissue == "soft" else 1.0
    return sign * float(generator.uniform(low, high))


def _direction(generator: np.random.Generator) -> Float[np.ndarray, "3"]:
    vector = generator.normal(size=3)
    return np.asarray(vector / np.linalg.norm(vector))
