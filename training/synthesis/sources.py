"""Where synthetic pairs come from: a folder of CT volumes, or phantoms where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int16, UInt16
from scipy.ndimage import center_of_mass

from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.images import read_lesion_map, read_scan
from training.synthesis.lesions import Tissue
from training.synthesis.phantom import torso
from training.synthesis.shapes import Shape, shape_of_mask
from training.synthesis.sites import lesion_sites


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tumour:
    """A real tumour outlined by an expert; positions are z, y, x in mm from the volume's first voxel."""

    mask: UInt16[np.ndarray, "z y x"]
    center_zyx_mm: Float[np.ndarray, "3"]
    radius_mm: float
    extent_mm: float
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """One volume in LPS order, on which pairs are painted."""

    name: str
    hu: Int16[np.ndarray, "z y x"]
    spacing_zyx_mm: Float32[np.ndarray, "3"]
    sites: Mapping[Tissue, Float32[np.ndarray, "n 3"]]
    tumour: Tumour | None


def load_sources(folder: Path, names: Sequence[str]) -> tuple[Source, ...]:
    """Reads `<folder>/<name>/ct.nii.gz`, and `lesions.nii.gz` beside it where there is one.

    Raises InputError where the folder has no such volume.
    """
    missing = [name for name in names if not (folder / name / "ct.nii.gz").is_file()]
    if missing:
        raise InputError(f"{folder}: no {missing[0]}/ct.nii.gz; expected one such file for each of {', '.join(names)}")
    return tuple(_load(folder / name) for name in names)


def phantom_sources(seeds: Iterable[int]) -> tuple[Source, ...]:
    """One random torso per seed, from the neck to the hips."""
    grid = Grid.from_spacing((140, 150, 220), (4.0, 2.0, 2.0))
    return tuple(source_of(f"phantom_{seed}", torso(np.random.default_rng(seed), grid=grid).hu, grid) for seed in seeds)


def source_of(name: str, hu: Int16[np.ndarray, "z y x"], grid: Grid) -> Source:
    """A source without a real tumour."""
    view, lps = grid.lps_view(hu)
    spacing = np.array(lps.spacing_zyx_mm, np.float32)
    hu = np.ascontiguousarray(view)
    return Source(name=name, hu=hu, spacing_zyx_mm=spacing, sites=lesion_sites(hu, spacing), tumour=None)


def _load(folder: Path) -> Source:
    scan = read_scan(folder / "ct.nii.gz")
    source = source_of(folder.name, scan.hu, scan.grid)
    if not (folder / "lesions.nii.gz").is_file():
        return source
    lesions = read_lesion_map(folder / "lesions.nii.gz", like=scan.grid)
    ids, _ = lesions.grid.lps_view(lesions.ids)
    return replace(source, tumour=_tumour(ids > 0, source.spacing_zyx_mm))


def _tumour(mask: Bool[np.ndarray, "z y x"], spacing_zyx_mm: Float32[np.ndarray, "3"]) -> Tumour:
    volume_mm3 = float(mask.sum()) * float(np.prod(spacing_zyx_mm))
    spans = np.array([np.ptp(hits) + 1 for hits in np.nonzero(mask)])
    return Tumour(
        mask=mask.astype(np.uint16),
        center_zyx_mm=np.array(center_of_mass(mask)) * spacing_zyx_mm,
        radius_mm=(3 * volume_mm3 / (4 * np.pi)) ** (1 / 3),
        extent_mm=float((spans * spacing_zyx_mm).max()),
        shape=shape_of_mask(mask, spacing_zyx_mm),
    )
