"""The plan of a series of time points, before any voxel is sampled: its field of view and its lesions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from longilesion.evaluation.exam import Fate
from longilesion.voi import occupied_box
from training.synthesis.anatomy import anatomy_growth
from training.synthesis.changes import Site, merging, random_lesion, splitting, with_history
from training.synthesis.deformation import Growth, Mapped
from training.synthesis.host import at_border
from training.synthesis.lesions import UNMARKED, Lesion, Tissue
from training.synthesis.lifenet import lifenet_lesions
from training.synthesis.real_shapes import RealShapes
from training.synthesis.settings import SynthesisSettings
from training.synthesis.shape_library import ShapeLibrary
from training.synthesis.sites import is_deep, lesion_type_of, organ_at
from training.synthesis.sources import RealLesion, Source

# Largest distance of a cut-out's lesions from its centre.
_NEAR_MM = 55.0
# Width of the tissue around a real lesion that tells where it is.
_AROUND_MM = 10.0
# What is seen around an organ: enough to register the scans by the body's surface and the organs near by.
_ORGAN_MARGIN_MM = 40.0
_FATES: tuple[Fate, ...] = ("persists", "new", "gone")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShownLesion:
    """A real lesion; it persists, changed by `growth` at the second time point and by `later_growths` after that."""

    lesion_id: int
    lesion_type: str
    real: RealLesion
    growth: Mapped
    is_marked_before: bool
    later_growths: tuple[Mapped, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """The field of view of a series, in mm from the volume's first voxel, and its real and painted lesions.

    `coarseness` scales the voxels, 1 for those of a clinical scan. Around an `organ`, its masks come with the scans.
    """

    is_whole: bool
    middle_zyx_mm: Float[np.ndarray, "3"]
    side_zyx_mm: Float[np.ndarray, "3"]
    coarseness: float
    shown: tuple[ShownLesion, ...]
    lesions: tuple[Lesion, ...]
    organ: str | None = None

    def between(self, before: int, after: int) -> Scene:
        """The scene of two of the time points: that of a pair."""
        return replace(
            self,
            shown=tuple(replace(one, is_marked_before=one.is_marked_before or before > 0) for one in self.shown),
            lesions=tuple(
                replace(
                    lesion,
                    baseline=lesion.at(before),
                    followup=lesion.at(after),
                    later=(),
                    is_marked_before=lesion.is_marked_before or before > 0,
                )
                for lesion in self.lesions
                if lesion.at(before) or lesion.at(after)
            ),
        )


def random_scene(
    source: Source,
    generator: np.random.Generator,
    *,
    shapes: Sequence[Source],
    library: ShapeLibrary | None = None,
    settings: SynthesisSettings,
    whole: bool,
    times: int = 2,
    organ: str | None = None,
) -> Scene:
    """Draws the scene of a series: the whole volume, or a cut-out around a real or a painted lesion.

    A cut-out around a painted lesion marks no real one: those in it count as not outlined. Of a whole volume, an
    `organ` selects the part around the organ of that mask.
    """
    anchor = None if whole or settings.generator == "lifenet" else _random_real(source, generator, settings)
    real = source.lesions if whole or anchor is not None else ()
    shown = tuple(
        _shown(source, lesion, number, generator, settings, times=times) for number, lesion in enumerate(real, start=1)
    )
    if settings.generator == "lifenet":
        drawn = lifenet_lesions(source, generator, settings.lifenet)
        apart = [lesion for lesion in drawn if _is_apart(lesion, _real_places(source), 0.0)]
        lesions = [_renumbered(lesion, len(shown)) for lesion in apart]
        if times > 2:
            # Beyond the size that has been found room for, it would grow into vessels.
            lesions = [
                with_history(each, generator, settings, times=times, largest_mm=each.largest_mm) for each in lesions
            ]
    else:
        near = None if whole else _middle(source, anchor, generator, settings)
        outlined = tuple(lesion for other in shapes for lesion in other.lesions)
        real_shapes = RealShapes(outlined=outlined, of_file=library, organs=tuple(source.organs))
        lesions = list(
            _general_lesions(source, generator, settings, near=near, shown=shown, real_shapes=real_shapes, times=times)
        )
    lesions = _with_mask_errors(lesions, source, generator, settings, first_id=1 + _last_id(shown, lesions))
    if organ is not None:
        middle, side, coarseness = _around_organ(source, organ)
    elif whole:
        middle, side, coarseness = _everything(source)
    else:
        middle, side, coarseness = _cut_out(source, anchor, lesions, generator, settings)
    return Scene(
        is_whole=whole,
        middle_zyx_mm=middle,
        side_zyx_mm=side,
        coarseness=coarseness,
        shown=shown,
        lesions=tuple(lesions),
        organ=organ,
    )


def _general_lesions(
    source: Source,
    generator: np.random.Generator,
    settings: SynthesisSettings,
    *,
    near: Float[np.ndarray, "3"] | None,
    shown: Sequence[ShownLesion],
    real_shapes: RealShapes,
    times: int,
) -> Iterator[Lesion]:
    """Lesions at random sites, near a point if one is given, that collide with no other, painted or real."""
    taken = _real_places(source)
    shares = np.array([settings.fates.persists, settings.fates.new, settings.fates.gone])
    next_id = 1 + _last_id(shown, ())
    fewest, most = settings.whole_attempts if near is None else settings.attempts
    for _ in range(int(generator.integers(fewest, most + 1))):
        is_marked = generator.random() >= settings.distractor_share
        lesion = random_lesion(
            generator,
            random_site(source, generator, settings, near=near),
            lesion_id=next_id if is_marked else UNMARKED,
            fate=_FATES[int(generator.choice(3, p=shares / shares.sum()))],
            real_shapes=real_shapes,
            settings=settings,
        )
        lesion = _at_border(lesion, source, generator, settings)
        group = _developed(lesion, generator, settings) if is_marked else (lesion,)
        if times > 2:
            # A lesion that has taken in another one stays, so that the other one has a place to be in.
            stays = len(group) > 1
            group = tuple(with_history(each, generator, settings, times=times, stays=stays) for each in group)
        gap_mm = float(generator.uniform(1.0, 8.0))
        if all(_is_apart(each, taken, gap_mm) for each in group):
            taken += [(each.centre_zyx_mm, each.reach_mm) for each in group]
            next_id += len(group) if is_marked else 0
            yield from group


def _at_border(lesion: Lesion, source: Source, generator: np.random.Generator, settings: SynthesisSettings) -> Lesion:
    """The lesion, or a share of those in lung and in soft tissue at the pleura or below a capsule."""
    shares = {"lung": settings.lung.at_pleura, "soft": settings.soft.subcapsular}
    # A generator of its own, so that everything else is drawn as without these shares.
    (own,) = generator.spawn(1)
    if own.random() >= shares.get(lesion.tissue, 0.0):
        return lesion
    return at_border(source, lesion, inset=float(own.uniform(0.1, 0.8)))


def _developed(lesion: Lesion, generator: np.random.Generator, settings: SynthesisSettings) -> tuple[Lesion, ...]:
    """A lesion, which may split or merge with a second one."""
    if lesion.baseline and lesion.followup:
        kind = generator.random()
        if kind < settings.merging_share:
            return merging(lesion, generator, other_id=lesion.lesion_id + 1)
        if kind < settings.merging_share + settings.splitting_share:
            return (splitting(lesion, generator),)
    return (lesion,)


def _real_places(source: Source) -> list[tuple[NDArray[np.floating], float]]:
    """Positions and reach of all of the volume's own lesions."""
    return [(lesion.centre_zyx_mm, lesion.radius_mm) for lesion in source.lesions]


def _is_apart(lesion: Lesion, taken: Sequence[tuple[NDArray[np.floating], float]], gap_mm: float) -> bool:
    return all(
        np.linalg.norm(lesion.centre_zyx_mm - centre) > 1.2 * (lesion.reach_mm + reach_mm) + gap_mm
        for centre, reach_mm in taken
    )


def random_site(
    source: Source,
    generator: np.random.Generator,
    settings: SynthesisSettings,
    *,
    near: Float[np.ndarray, "3"] | None,
) -> Site:
    """A random site, within 55 mm of a point if one is given and there is a site."""
    found: dict[Tissue, np.ndarray] = {}
    for tissue, positions in source.sites.items():
        inside = positions if near is None else positions[np.linalg.norm(positions - near, axis=1) < _NEAR_MM]
        if len(inside) and getattr(settings.tissues, tissue):
            found[tissue] = inside
    if not found:
        found = dict(source.sites)
    names = list(found)
    shares = np.array([max(getattr(settings.tissues, name), 1e-6) for name in names])
    tissue = names[int(generator.choice(len(names), p=shares / shares.sum()))]
    positions = found[tissue]
    if tissue == "soft" and source.organs and generator.random() < settings.organ_share:
        positions = _in_organs(source, positions, settings)
    position = positions[int(generator.integers(len(positions)))] + generator.uniform(-2, 2, 3).astype(np.float32)
    organ = organ_at(source.organs, source.spacing_zyx_mm, position)
    return Site(
        tissue=tissue,
        lesion_type=lesion_type_of(tissue, organ),
        centre_zyx_mm=position.astype(float),
        organ=organ,
        is_deep=not settings.node_share or tissue != "fat" or is_deep(source.hu, source.spacing_zyx_mm, position),
    )


def _in_organs(source: Source, positions: NDArray[np.floating], settings: SynthesisSettings) -> NDArray[np.floating]:
    """The positions in the settings' organs; all of them where none is."""
    index = tuple(np.round(positions / source.spacing_zyx_mm).astype(int).T)
    names = settings.organs or tuple(source.organs)
    inside = [source.organs[name][index] for name in names if name in source.organs]
    chosen = positions[np.any(inside, axis=0)] if inside else positions[:0]
    return chosen if len(chosen) else positions


def _random_real(source: Source, generator: np.random.Generator, settings: SynthesisSettings) -> RealLesion | None:
    """The real lesion that a cut-out is drawn around, or None."""
    if generator.random() >= settings.real_share or not source.lesions:
        return None
    return source.lesions[int(generator.integers(len(source.lesions)))]


def _shown(
    source: Source,
    real: RealLesion,
    number: int,
    generator: np.random.Generator,
    settings: SynthesisSettings,
    *,
    times: int,
) -> ShownLesion:
    growth, *later = (_growth(source, real, generator, settings) for _ in range(times - 1))
    organ = organ_at(source.organs, source.spacing_zyx_mm, real.centre_zyx_mm.astype(np.float32))
    return ShownLesion(
        lesion_id=number,
        lesion_type=lesion_type_of(_tissue_around(source, real), organ),
        real=real,
        growth=growth,
        is_marked_before=bool(generator.random() >= settings.missing_outlines),
        later_growths=tuple(later),
    )


def _tissue_around(source: Source, real: RealLesion) -> Tissue:
    """Lung where most sites around a real lesion are in lung, else soft tissue."""
    reach_mm = real.extent_mm / 2 + _AROUND_MM
    around = {
        tissue: int((np.linalg.norm(places - real.centre_zyx_mm, axis=1) < reach_mm).sum())
        for tissue, places in source.sites.items()
    }
    return "lung" if around.get("lung", 0) > sum(around.values()) / 2 else "soft"


def _growth(source: Source, real: RealLesion, generator: np.random.Generator, settings: SynthesisSettings) -> Mapped:
    """A random change of a real lesion, from the volume's state on."""
    factor = float(np.exp(generator.uniform(np.log(0.6), np.log(1.4))))
    growth: Mapped = Growth(centre_zyx_mm=real.centre_zyx_mm, factor=factor, reach_mm=1.6 * real.radius_mm).mapped
    if generator.random() < settings.anatomy_share:
        growth = anatomy_growth(
            source.hu, source.spacing_zyx_mm, mask=real.mask, box=real.box, volume_factor=factor**3
        ).mapped
    return growth


def _with_mask_errors(
    lesions: Sequence[Lesion],
    source: Source,
    generator: np.random.Generator,
    settings: SynthesisSettings,
    *,
    first_id: int,
) -> list[Lesion]:
    """The lesions with simulated reader errors in the baseline (LiFE-Net, section 3.1).

    Some persisting lesions are missed; some normal tissue is marked.
    """
    merged = {lesion.true_id for lesion in lesions if lesion.true_id != lesion.lesion_id}
    marked = []
    for lesion in lesions:
        can_be_missed = lesion.baseline and lesion.followup and lesion.lesion_id not in merged
        is_missed = bool(can_be_missed) and generator.random() < settings.missing_outlines
        marked.append(replace(lesion, is_marked_before=False) if is_missed else lesion)
    outlined = sum(bool(lesion.baseline) and lesion.lesion_id != UNMARKED for lesion in marked)
    share = settings.false_outlines
    for _ in range(int(generator.poisson(max(outlined, 1) * share / (1 - share))) if share else 0):
        centre = lesions[int(generator.integers(len(lesions)))].centre_zyx_mm if lesions else None
        site = random_site(source, generator, settings, near=centre)
        false = random_lesion(
            generator, site, lesion_id=first_id, fate="gone", real_shapes=RealShapes(), settings=settings
        )
        taken = [*_real_places(source), *((lesion.centre_zyx_mm, lesion.reach_mm) for lesion in marked)]
        if _is_apart(false, taken, 2.0):
            marked.append(replace(false, is_painted=False, scar_hu=0.0))
            first_id += 1
    return marked


def _middle(
    source: Source, anchor: RealLesion | None, generator: np.random.Generator, settings: SynthesisSettings
) -> Float[np.ndarray, "3"]:
    """The centre of a cut-out's lesions."""
    if anchor is not None:
        return anchor.centre_zyx_mm
    return random_site(source, generator, settings, near=None).centre_zyx_mm


def _everything(source: Source) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], float]:
    """A whole volume's centre, sides and coarseness; voxels much finer than the source's would only take memory."""
    spacing = source.spacing_zyx_mm.astype(float)
    shape = np.array(source.hu.shape)
    return (shape - 1) / 2 * spacing, shape * spacing, max(1.0, float(spacing[1:].mean()) / 1.3)


def _around_organ(source: Source, organ: str) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], float]:
    """The same of the part of a volume around an organ, as far as the volume reaches."""
    spacing = source.spacing_zyx_mm.astype(float)
    box = occupied_box(source.organs[organ])
    margin = np.ceil(_ORGAN_MARGIN_MM / spacing)
    first = np.maximum([side.start for side in box] - margin, 0)
    stop = np.minimum([side.stop for side in box] + margin, source.hu.shape)
    return (first + stop - 1) / 2 * spacing, (stop - first) * spacing, _everything(source)[2]


def _cut_out(
    source: Source,
    anchor: RealLesion | None,
    lesions: Sequence[Lesion],
    generator: np.random.Generator,
    settings: SynthesisSettings,
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], float]:
    """A cut-out's centre, sides and coarseness, from the extent of the lesion that it is drawn around."""
    if anchor is not None:
        middle, extent_mm = anchor.centre_zyx_mm, anchor.extent_mm
    elif lesions:
        lesion = lesions[0] if settings.generator == "general" else lesions[int(generator.integers(len(lesions)))]
        middle, extent_mm = lesion.centre_zyx_mm, 2.4 * lesion.largest_mm
    else:
        middle, extent_mm = random_site(source, generator, settings, near=None).centre_zyx_mm, 0.0
    zoom = float(np.clip(extent_mm / 50.0, 0.8, 3.0))
    return middle, np.array([110.0, 120.0, 120.0]) * zoom + 40.0, max(1.0, 0.8 * zoom)


def _renumbered(lesion: Lesion, shift: int) -> Lesion:
    if lesion.lesion_id == UNMARKED:
        return lesion
    return replace(lesion, lesion_id=lesion.lesion_id + shift, true_id=lesion.true_id + shift)


def _last_id(shown: Sequence[ShownLesion], lesions: Sequence[Lesion]) -> int:
    ids = [lesion.lesion_id for lesion in shown] + [lesion.lesion_id for lesion in lesions]
    return max(ids, default=UNMARKED)
