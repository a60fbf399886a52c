"""A series of time points: a source imaged several times, whole or in a cut-out, with lesions that have a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from longilesion.case import lesion_regions
from longilesion.geometry import Grid
from training.synthesis.acquisition import Acquisition, random_acquisitions
from training.synthesis.deformation import random_motion
from training.synthesis.lesions import UNMARKED
from training.synthesis.rendering import Exposure, Frame, label_of, rendered, seen_mask
from training.synthesis.scene import Scene
from training.synthesis.settings import SynthesisSettings
from training.synthesis.sliding import find_lungs
from training.synthesis.sources import FEWEST_VOXELS, Source


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImagedScene:
    """A scene, and its acquired scans and grids by time point; frames of different scans are unrelated."""

    scene: Scene
    images: tuple[Exposure, ...]
    grids: tuple[Grid, ...]


def imaged_scene(
    source: Source,
    scene: Scene,
    generator: np.random.Generator,
    *,
    settings: SynthesisSettings,
    times: int,
    device: torch.device,
) -> ImagedScene:
    """Images a scene so many times, with random protocols and motions.

    In a series of more than two, a lesion that is not as planned in every scan is erased from all maps; in a pair, this
    is done where its facts are found.
    """
    protocols = random_acquisitions(generator, settings.protocol_changes, coarseness=scene.coarseness, times=times)
    images = tuple(
        _image(source, scene, protocol, generator, device, settings, time=time)
        for time, protocol in enumerate(protocols)
    )
    grids = tuple(_grid(image, generator) for image in images)
    if times > 2:
        _erase_unplanned(scene, images)
    return ImagedScene(scene=scene, images=images, grids=grids)


def _image(
    source: Source,
    scene: Scene,
    acquisition: Acquisition,
    generator: np.random.Generator,
    device: torch.device,
    settings: SynthesisSettings,
    *,
    time: int,
) -> Exposure:
    """The scan at a time point; the first one shows the source's own anatomy, with the reader's errors in its map."""
    frame = _frame(scene, acquisition, generator)
    motion = None
    if time:
        motion = random_motion(
            generator,
            settings.motion,
            centre_zyx_mm=frame.middle_zyx_mm,
            half_zyx_mm=frame.half_zyx_mm,
            lungs_mm=source.lungs_mm,
            growths=tuple((shown.growth, *shown.later_growths)[time - 1] for shown in scene.shown),
            lungs=find_lungs(source) if settings.motion.breathing_mm else None,
        )
    image = rendered(source, frame, motion, acquisition, device=device, repeats_ends=scene.is_whole)
    for shown in scene.shown:
        if time or shown.is_marked_before:
            image.outline(shown.real, shown.lesion_id, source=source)
    for lesion in scene.lesions:
        parts = lesion.at(time)
        image.insert(lesion, parts, lesion.true_id if time else label_of(lesion), generator)
        if time and lesion.scar_hu and not parts:
            image.insert_scar(lesion)
    organ = None if scene.organ is None else seen_mask(source.organs[scene.organ], image.view, source)
    return replace(image.developed(), organ=organ)


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


def _erase_unplanned(scene: Scene, images: Sequence[Exposure]) -> None:
    """Erases lesions that are cut or too small in some scan, and those that have merged into them."""
    regions = [lesion_regions(image.ids) for image in images]
    wrong = {
        lesion_id
        for lesion_id, planned in _planned(scene, len(images)).items()
        if planned != tuple(lesion_id in found and found[lesion_id].voxels >= FEWEST_VOXELS for found in regions)
    }
    wrong |= {lesion.lesion_id for lesion in scene.lesions if lesion.true_id in wrong}
    for image, found in zip(images, regions, strict=True):
        for lesion_id in wrong & found.keys():
            part = image.ids[found[lesion_id].box]
            part[part == lesion_id] = UNMARKED


def _planned(scene: Scene, times: int) -> Mapping[int, tuple[bool, ...]]:
    """By lesion id, whether it is to be outlined at each time point."""
    planned = {shown.lesion_id: (shown.is_marked_before, *[True] * (times - 1)) for shown in scene.shown}
    for lesion in scene.lesions:
        if lesion.lesion_id != UNMARKED:
            is_there = [bool(lesion.at(time)) for time in range(times)]
            planned[lesion.lesion_id] = (is_there[0] and lesion.is_marked_before, *is_there[1:])
    return planned
