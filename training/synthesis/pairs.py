"""A longitudinal pair: a source imaged twice, whole or in a cut-out, with lesions, clicks and ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from longilesion.case import Baseline, Case, LesionMap, Scan
from longilesion.geometry import Grid
from training.synthesis.acquisition import Acquisition, random_acquisitions
from training.synthesis.deformation import random_motion
from training.synthesis.rendering import Exposure, Frame, label_of, rendered
from training.synthesis.scene import Scene, random_scene
from training.synthesis.settings import SynthesisSettings
from training.synthesis.sliding import find_lungs
from training.synthesis.sources import Source
from training.synthesis.truth import SyntheticFact, facts_and_clicks

_CPU = torch.device("cpu")
_DEFAULTS = SynthesisSettings()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticPair:
    """A case, the follow-up's true lesion map, and the facts by lesion id; every lesion with a fact has its clicks."""

    case: Case
    truth: LesionMap
    facts: Mapping[int, SyntheticFact]


def synthetic_pair(
    source: Source,
    generator: np.random.Generator,
    *,
    shapes: Sequence[Source],
    settings: SynthesisSettings = _DEFAULTS,
    whole: bool = False,
    device: torch.device = _CPU,
) -> SyntheticPair:
    """Draws a pair: two scans of the whole source, or a cut-out around one of its lesions for training.

    Painted lesions take shapes from the real lesions of `shapes`. Frames of the two scans are unrelated. The pair
    depends on the generator alone, on every device except for rounding.
    """
    scene = random_scene(source, generator, shapes=shapes, settings=settings, whole=whole)
    protocols = random_acquisitions(generator, settings.protocol_changes, coarseness=scene.coarseness)
    images = (
        _baseline(source, scene, protocols[0], generator, device),
        _followup(source, scene, protocols[1], generator, device, settings),
    )
    grids = _grid(images[0], generator), _grid(images[1], generator)
    facts, clicks = facts_and_clicks(scene, images, grids, generator)
    prior, scan = (Scan(hu=image.hu, grid=grid) for image, grid in zip(images, grids, strict=True))
    case = Case(
        baselines={"primary": Baseline.of(prior, LesionMap(ids=images[0].ids, grid=prior.grid))},
        followups={"primary": scan},
        clicks=clicks,
    )
    return SyntheticPair(case=case, truth=LesionMap(ids=images[1].ids, grid=scan.grid), facts=facts)


def _baseline(
    source: Source, scene: Scene, acquisition: Acquisition, generator: np.random.Generator, device: torch.device
) -> Exposure:
    image = rendered(
        source, _frame(scene, acquisition, generator), None, acquisition, device=device, repeats_ends=scene.is_whole
    )
    for shown in scene.shown:
        if shown.is_marked_before:
            image.outline(shown.real, shown.lesion_id, source=source)
    for lesion in scene.lesions:
        image.insert(lesion, lesion.baseline, label_of(lesion), generator)
    return image.developed()


def _followup(
    source: Source,
    scene: Scene,
    acquisition: Acquisition,
    generator: np.random.Generator,
    device: torch.device,
    settings: SynthesisSettings,
) -> Exposure:
    frame = _frame(scene, acquisition, generator)
    motion = random_motion(
        generator,
        settings.motion,
        centre_zyx_mm=frame.middle_zyx_mm,
        half_zyx_mm=frame.half_zyx_mm,
        lungs_mm=source.lungs_mm,
        growths=tuple(shown.growth for shown in scene.shown),
        lungs=find_lungs(source) if settings.motion.breathing_mm else None,
    )
    image = rendered(source, frame, motion, acquisition, device=device, repeats_ends=scene.is_whole)
    for shown in scene.shown:
        image.outline(shown.real, shown.lesion_id, source=source)
    for lesion in scene.lesions:
        image.insert(lesion, lesion.followup, lesion.true_id, generator)
        if lesion.scar_hu:
            image.insert_scar(lesion)
    return image.developed()


def _frame(scene: Scene, acquisition: Acquisition, generator: np.random.Generator) -> Frame:
    spacing = np.array(acquisition.spacing_zyx_mm)
    z, y, x = np.maximum(np.round(scene.side_zyx_mm / spacing), 8).astype(int).tolist()
    shift = generator.uniform(-0.5, 0.5, 3) * spacing
    return Frame(
        shape_zyx=(z, y, x), spacing_zyx_mm=acquisition.spacing_zyx_mm, middle_zyx_mm=scene.middle_zyx_mm + shift
    )


def _grid(image: Exposure, generator: np.random.Generator) -> Grid:
    origin_zyx_mm = generator.uniform(-500, 500, 3) - image.view.frame.half_zyx_mm
    return Grid.from_spacing(
        image.view.frame.shape_zyx, image.view.frame.spacing_zyx_mm, origin_xyz_mm=origin_zyx_mm[::-1].copy()
    )
