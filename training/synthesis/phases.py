"""Synthetic exams of the liver: one anatomy with lesions, in one to four contrast phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32

from longilesion.case import AIR_HU, LesionMap, Scan
from longilesion.diagnosis_settings import PHASES, Phase
from longilesion.geometry import Grid, triple
from training.synthesis.acquisition import Acquisition, acquired, random_acquisition
from training.synthesis.deformation import Breathing, Motion, random_motion, sampled
from training.synthesis.exam_settings import ExamSettings
from training.synthesis.kinetics import Levels, drawn_levels
from training.synthesis.lesion_painting import PlacedLesion, placed_lesion
from training.synthesis.liver_host import LiverHost
from training.synthesis.liver_lesions import LiverLesion, drawn_lesions
from training.synthesis.real_shapes import RealShape
from training.synthesis.sources import FEWEST_VOXELS

# The motion of the diaphragm fades over this distance.
_BREATH_MM = 250.0
# A phase is further away from the venous one than this only along z; more would leave the host's margin.
_MOST_BREATH_MM = 8.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticExam:
    """The phases of an exam in order of time; the organ of the venous one is the liver.

    `truth` is on the voxels of the venous phase, `lesions` by its ids; `levels` are the tissues' HU.
    """

    phases: Mapping[Phase, Scan]
    truth: LesionMap
    lesions: Mapping[int, LiverLesion]
    levels: Levels


def synthetic_exam(
    host: LiverHost,
    generator: np.random.Generator,
    settings: ExamSettings,
    *,
    shapes: Sequence[RealShape] = (),
) -> SyntheticExam:
    """Draws an exam: lesions, phases, their contrast, misregistration and acquisition."""
    levels = drawn_levels(generator)
    drawn = drawn_lesions(host.source, generator, settings, shapes=shapes)
    placed = [each for each in (placed_lesion(lesion, host) for lesion in drawn) if each.mask.sum() >= FEWEST_VOXELS]
    phases = drawn_phases(generator, settings)
    protocol = replace(
        random_acquisition(generator, coarseness=1.0), noise_hu=float(generator.uniform(*settings.noise_hu))
    )
    grid = _grid(host)
    scans = {}
    for phase in phases:
        hu = torch.from_numpy(phase_hu(host, placed, phase, levels))
        if phase == "venous":
            seen = hu[host.frame]
            organ = host.liver[host.frame]
        else:
            seen = _moved(hu, host, _motion(host, generator, settings))
            organ = None
        image = acquired(seen, _exposed(protocol, generator, settings))
        scans[phase] = Scan(hu=image, grid=grid, organ=organ)
    ids = np.zeros(host.hu.shape, np.uint16)
    for each in placed:
        ids[each.window][each.mask] = each.lesion.lesion_id
    return SyntheticExam(
        phases=scans,
        truth=LesionMap(ids=np.ascontiguousarray(ids[host.frame]), grid=grid),
        lesions={each.lesion.lesion_id: each.lesion for each in placed},
        levels=levels,
    )


def _exposed(protocol: Acquisition, generator: np.random.Generator, settings: ExamSettings) -> Acquisition:
    """A phase's acquisition: the exam's protocol, with noise of its own and of about the same strength."""
    return replace(
        protocol,
        noise_hu=protocol.noise_hu * float(generator.uniform(*settings.noise_factor)),
        noise_seed=int(generator.integers(2**62)),
    )


def drawn_phases(generator: np.random.Generator, settings: ExamSettings) -> tuple[Phase, ...]:
    """Draws which phases are there, in order of time."""
    missing = settings.missing.model_dump()
    return tuple(phase for phase in PHASES if generator.random() >= missing.get(phase, 0.0))


def phase_hu(
    host: LiverHost, placed: Sequence[PlacedLesion], phase: Phase, levels: Levels
) -> Float32[np.ndarray, "z y x"]:
    """The host in a phase, with its lesions: without motion and noise, on the host's whole lattice."""
    hu = enhanced_host(host, phase, levels)
    for lesion in placed:
        lesion.paint(hu, host, phase, levels)
    return hu


def enhanced_host(host: LiverHost, phase: Phase, levels: Levels) -> Float32[np.ndarray, "z y x"]:
    """The host in a phase: each tissue's level is exchanged, its structure stays."""
    hu = host.hu.copy()
    blood = np.minimum(host.shares["vein"], 1.0)
    for tissue, share in host.shares.items():
        change = levels[tissue][phase] - host.levels[tissue]
        # What is vessel in the liver is no parenchyma.
        hu += np.float32(change) * (share * (1 - blood) if tissue == "liver" else share)
    return hu


def _motion(host: LiverHost, generator: np.random.Generator, settings: ExamSettings) -> Motion:
    spacing = host.source.spacing_zyx_mm.astype(float)
    liver_mm = [(side.start * step, side.stop * step) for side, step in zip(host.frame, spacing.tolist(), strict=True)]
    first, last = np.array(liver_mm).T
    moved = random_motion(
        generator,
        settings.motion,
        centre_zyx_mm=(first + last) / 2,
        half_zyx_mm=(last - first) / 2,
        lungs_mm=None,
        growths=(),
    )
    depth = float(np.clip(generator.normal(0.0, settings.breathing_mm), -_MOST_BREATH_MM, _MOST_BREATH_MM))
    breath = Breathing(amplitude_mm=depth, diaphragm_mm=float(last[0]), height_mm=_BREATH_MM)
    return replace(moved, breathing=breath)


def _moved(hu: Float32[torch.Tensor, "z y x"], host: LiverHost, motion: Motion) -> Float32[torch.Tensor, "a b c"]:
    """A phase as seen after a motion; beyond the host its border is repeated."""
    spacing = host.source.spacing_zyx_mm.astype(float)
    axes = [
        torch.arange(side.start, side.stop, dtype=torch.float32) * step
        for side, step in zip(host.frame, spacing.tolist(), strict=True)
    ]
    middle = torch.from_numpy(((np.array(hu.shape) - 1) / 2 * spacing).astype(np.float32))
    offsets = motion.mapped((axes[0], axes[1], axes[2])) - middle
    return sampled(hu - AIR_HU, torch.maximum(torch.minimum(offsets, middle), -middle), spacing) + AIR_HU


def _grid(host: LiverHost) -> Grid:
    z, y, x = (side.stop - side.start for side in host.frame)
    return Grid.from_spacing((z, y, x), triple(host.source.spacing_zyx_mm.astype(float).round(6)))
