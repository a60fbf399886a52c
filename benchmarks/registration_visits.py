"""What differs between two visits of a patient besides position and lesions: tissue, noise, kernel, field of view.

The anatomy stays known: tissue changes in place, and another kernel is a second reconstruction of one acquisition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from longilesion.case import AIR_HU
from longilesion.errors import InputError
from longilesion.geometry import box_slices
from training.synthesis.deformation import SmoothField
from training.synthesis.settings import MotionSettings
from training.synthesis.solids import Window
from training.synthesis.sources import Source

FieldOfView: TypeAlias = Literal["whole", "box", "round"]

MODERATE = MotionSettings(rotation_deg=8.0, deformation_mm=(1.0, 4.0), breathing_mm=12.0)
HARD = MotionSettings(rotation_deg=18.0, deformation_mm=(3.0, 8.0), breathing_mm=20.0)
DEEP_BREATHS = MotionSettings(rotation_deg=8.0, deformation_mm=(1.0, 4.0), breathing_mm=30.0)
# The names' endings of two reconstructions of one acquisition.
KERNELS = ("_soft", "_sharp")

# Voxels of less are lung or air, voxels of more are bone: what changes is in between.
_LUNG_HU, _BODY_HU, _BONE_HU = -500.0, -300.0, 250.0
# Of lung, the share of the density that is left in emphysema, or after a deeper breath.
_EMPHYSEMA = (0.5, 0.9)
_CONSOLIDATION_MM = (15.0, 50.0)
_EFFUSION_HU, _CONSOLIDATION_HU = (0.0, 25.0), (-400.0, 50.0)
# Gas, fluid, faeces and fat.
_CONTENTS_HU = ((-950.0, -700.0), (0.0, 30.0), (-100.0, 120.0), (-120.0, -80.0))
_CONTENTS_MM = (8.0, 28.0)
# Standard deviation of a smooth change of all soft tissue: contrast, oedema, fat in the liver.
_REGIONAL_HU = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """How the two visits of a pair differ.

    `shortest_mm` is the shortest part of the body in a scan, or in the overlap of two; `noise_hu` the range of one
    scan's noise where it is a scan of low dose; `weight` the range of the body's width in the second visit over that in
    the first.
    """

    motion: MotionSettings = MODERATE
    shortest_mm: float = 110.0
    field_of_view: FieldOfView = "whole"
    changes_tissue: bool = True
    noise_hu: tuple[float, float] | None = None
    weight: tuple[float, float] = (1.0, 1.0)


VISITS: Mapping[str, Visits] = {
    "moderate motion": Visits(changes_tissue=False),
    "low dose": Visits(shortest_mm=80.0, noise_hu=(25.0, 80.0)),
    "deep breaths": Visits(motion=DEEP_BREATHS, weight=(0.95, 1.05)),
    "a part of the body": Visits(field_of_view="box", weight=(0.97, 1.03)),
    "round field of view": Visits(field_of_view="round", shortest_mm=80.0),
    "large motion": Visits(motion=HARD, shortest_mm=60.0),
}


def kernel_twins(names: Sequence[str]) -> dict[str, str]:
    """The other reconstruction of each volume whose acquisition was reconstructed with two kernels, by name."""
    soft, sharp = KERNELS
    twins = {}
    for name in names:
        if name.endswith(soft) and (other := name.removesuffix(soft) + sharp) in names:
            twins |= {name: other, other: name}
    return twins


def later_source(source: Source, generator: np.random.Generator, visits: Visits, *, twin: Source | None) -> Source:
    """The patient's volume at the second visit, before any motion.

    Raises InputError where the voxels of the `twin`, the other reconstruction, are not the volume's.
    """
    later = source
    if twin is not None:
        if twin.hu.shape != source.hu.shape or not np.allclose(twin.spacing_zyx_mm, source.spacing_zyx_mm, atol=1e-3):
            raise InputError(
                f"{twin.name}: {twin.hu.shape} voxels; expected the {source.hu.shape} of {source.name}, reconstructed "
                "from the same acquisition"
            )
        later = replace(source, hu=twin.hu)
    return _with_changed_tissue(later, generator) if visits.changes_tissue else later


def _with_changed_tissue(source: Source, generator: np.random.Generator) -> Source:
    """The volume with other lungs, other contents of the bowel and other intensities of soft tissue."""
    hu = source.hu.astype(np.float32)
    _change_soft_tissue(hu, generator)
    for window, weight in _balls(source, ("soft", "fat"), int(generator.integers(4, 16)), generator):
        low, high = _CONTENTS_HU[int(generator.integers(len(_CONTENTS_HU)))]
        value, grain = generator.uniform(low, high), generator.uniform(0.0, 40.0)
        part = hu[window]
        inside = weight * ((part > _BODY_HU) & (part < _BONE_HU))
        part += inside * (value + grain * generator.normal(size=part.shape) - part)
    if "lung" in source.sites:
        _change_lungs(source, hu, generator)
    return replace(source, hu=np.clip(np.rint(hu), AIR_HU, 3071).astype(np.int16))


def _change_soft_tissue(hu: Float32[np.ndarray, "z y x"], generator: np.random.Generator) -> None:
    controls = SmoothField.random(generator, components=1, controls_zyx=(5, 6, 6)).controls
    field = SmoothField(controls=controls * float(generator.uniform(0.0, _REGIONAL_HU)))
    z, y, x = (torch.linspace(-1.0, 1.0, length) for length in hu.shape)
    for number, position in enumerate(z):
        plane = hu[number]
        tissue = (plane > -20.0) & (plane < _BONE_HU)
        plane += tissue * field.at((position[None], y, x))[0, 0].numpy()


def _change_lungs(source: Source, hu: Float32[np.ndarray, "z y x"], generator: np.random.Generator) -> None:
    """Other aeration of the lungs, and half of the time fluid behind them or consolidated parts."""
    lung = _lungs(source)
    hu[lung] = (hu[lung] - AIR_HU) * generator.uniform(*_EMPHYSEMA) + AIR_HU
    kind = generator.random()
    if kind < 0.25:
        # Fluid gathers at the patient's back.
        backs = np.nonzero(lung.any(axis=(0, 2)))[0]
        level = round(float(np.quantile(backs, generator.uniform(0.7, 0.95))))
        behind = hu[:, level:]
        behind[lung[:, level:]] = generator.uniform(*_EFFUSION_HU)
    elif kind < 0.5:
        for window, weight in _balls(
            source, ("lung",), int(generator.integers(1, 4)), generator, radii_mm=(15.0, 50.0)
        ):
            value = generator.uniform(*_CONSOLIDATION_HU)
            part = hu[window]
            part += weight * lung[window] * np.maximum(value - part, 0.0)


def _lungs(source: Source) -> Bool[np.ndarray, "z y x"]:
    """Voxels of the lungs, as far as the sites of lesions in lung reach."""
    lung = np.zeros(source.hu.shape, bool)
    sites = source.sites["lung"] / source.spacing_zyx_mm
    low, high = sites.min(axis=0).astype(int), np.ceil(sites.max(axis=0)).astype(int) + 1
    box = box_slices(low, high)
    lung[box] = source.hu[box] < _LUNG_HU
    return lung


def _balls(
    source: Source,
    tissues: Sequence[str],
    count: int,
    generator: np.random.Generator,
    *,
    radii_mm: tuple[float, float] = _CONTENTS_MM,
) -> Iterator[tuple[Window, Float[np.ndarray, "z y x"]]]:
    """Balls in some tissues, below the lungs unless in them: the window of each, and its voxels' weights."""
    sites = np.concatenate([source.sites[tissue] for tissue in tissues if tissue in source.sites] or [np.zeros((0, 3))])
    if source.lungs_mm is not None and "lung" not in tissues:
        sites = sites[sites[:, 0] < source.lungs_mm[0]]
    for _ in range(count if len(sites) else 0):
        centre = sites[int(generator.integers(len(sites)))] / source.spacing_zyx_mm
        reach = generator.uniform(*radii_mm) * generator.uniform(0.6, 1.0, 3) / source.spacing_zyx_mm
        low = np.clip(np.floor(centre - 1.3 * reach), 0, source.hu.shape).astype(int)
        high = np.clip(np.ceil(centre + 1.3 * reach) + 1, 0, source.hu.shape).astype(int)
        axes = np.ogrid[box_slices(low, high)]
        distance = np.sqrt(
            sum(((axis - middle) / half) ** 2 for axis, middle, half in zip(axes, centre, reach, strict=True))
        )
        yield box_slices(low, high), np.clip((1.2 - distance) / 0.3, 0.0, 1.0)
