"""Sources of synthetic pairs: a folder of CT volumes, or phantoms where there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cc3d
import numpy as np
from jaxtyping import Bool, Float, Float32, Int16, UInt16
from scipy.ndimage import center_of_mass

from longilesion.case import AIR_HU, lesion_regions
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.images import read_lesion_map, read_scan
from training.synthesis.lesions import Tissue
from training.synthesis.painting import Pose, outline, paint
from training.synthesis.phantom import random_anatomy
from training.synthesis.shapes import Shape, shape_of_mask, sphere_radius_mm
from training.synthesis.sites import lesion_sites
from training.synthesis.solids import Window

# Smaller components are artefacts of contouring.
FEWEST_VOXELS = 10
# Files beside a volume that are no organ masks.
_NO_ORGANS = ("ct", "lesions")
# The phantom's organs in painting order: a later one covers those before it.
_PHANTOM_ORGANS = ("right lung", "left lung", "spleen", "stomach", "liver", "right kidney", "left kidney")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealLesion:
    """A real lesion outlined by an expert; `mask` covers its box of the volume.

    Positions are z, y, x in mm from the volume's first voxel; `extent_mm` is the longest side of the box.
    """

    mask: Bool[np.ndarray, "z y x"]
    box: Window
    centre_zyx_mm: Float[np.ndarray, "3"]
    radius_mm: float
    extent_mm: float
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """One volume in LPS order, on which pairs are painted, with the masks of its organs and its real lesions."""

    name: str
    hu: Int16[np.ndarray, "z y x"]
    spacing_zyx_mm: Float32[np.ndarray, "3"]
    sites: Mapping[Tissue, Float32[np.ndarray, "n 3"]]
    organs: Mapping[str, Bool[np.ndarray, "z y x"]] = field(default_factory=dict)
    lesions: tuple[RealLesion, ...] = ()

    @property
    def lungs_mm(self) -> tuple[float, float] | None:
        """The extent of the lungs along z without outliers; None where there are none."""
        if "lung" not in self.sites:
            return None
        low, high = np.quantile(self.sites["lung"][:, 0], (0.02, 0.98))
        return float(low), float(high)


def find_volumes(folder: Path) -> list[str]:
    """The names of the volumes in a folder, sorted; raises InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with a subfolder per CT volume")
    names = sorted(path.parent.name for path in folder.glob("*/ct.nii.gz"))
    if not names:
        raise InputError(f"{folder}: no <volume>/ct.nii.gz; expected a folder with one subfolder per CT volume")
    return names


def volumes_with(organ: str, data: Path) -> list[str]:
    """The volumes of a folder that have an organ's mask, sorted; raises InputError where none has."""
    places = (f"{organ}.nii.gz", f"organs/{organ}.nii.gz")
    names = [name for name in find_volumes(data) if any((data / name / place).is_file() for place in places)]
    if not names:
        raise InputError(f"{data}: no <volume>/organs/{organ}.nii.gz; expected the organ's mask beside some volumes")
    return names


def load_sources(folder: Path, names: Sequence[str]) -> tuple[Source, ...]:
    """Reads `<folder>/<name>/ct.nii.gz`, and beside it `lesions.nii.gz` and organs' masks where there are any.

    A mask is `organs/<organ>.nii.gz` or any other `<organ>.nii.gz`. Raises InputError where the folder has no such
    volume, or where a mask's grid is not the volume's.
    """
    missing = [name for name in names if not (folder / name / "ct.nii.gz").is_file()]
    if missing:
        raise InputError(f"{folder}: no {missing[0]}/ct.nii.gz; expected one such file for each of {', '.join(names)}")
    return tuple(_load(folder / name) for name in names)


def phantom_sources(seeds: Iterable[int]) -> tuple[Source, ...]:
    """One random torso per seed, from the neck to the hips, with its organs."""
    grid = Grid.from_spacing((140, 150, 220), (4.0, 2.0, 2.0))
    return tuple(_phantom(seed, grid) for seed in seeds)


def source_of(name: str, hu: Int16[np.ndarray, "z y x"], grid: Grid) -> Source:
    """A source without masks."""
    view, lps = grid.lps_view(hu)
    spacing = np.array(lps.spacing_zyx_mm, np.float32)
    hu = np.ascontiguousarray(np.maximum(view, AIR_HU))
    return Source(name=name, hu=hu, spacing_zyx_mm=spacing, sites=lesion_sites(hu, spacing))


def real_lesions(ids: UInt16[np.ndarray, "z y x"], spacing_zyx_mm: Float32[np.ndarray, "3"]) -> tuple[RealLesion, ...]:
    """The lesions of a map, largest first: its labels, or the connected components (26 neighbours) of a single one."""
    regions = lesion_regions(ids)
    if len(regions) == 1:
        ids = cc3d.connected_components(ids, connectivity=26, out_dtype=np.uint16)
        regions = lesion_regions(ids)
    found = [
        _real_lesion(ids[region.box] == lesion_id, region.box, spacing_zyx_mm)
        for lesion_id, region in regions.items()
        if region.voxels >= FEWEST_VOXELS
    ]
    return tuple(sorted(found, key=lambda lesion: -lesion.radius_mm))


def _load(folder: Path) -> Source:
    scan = read_scan(folder / "ct.nii.gz")
    source = source_of(folder.name, scan.hu, scan.grid)
    organs = {}
    for path in sorted([*folder.glob("*.nii.gz"), *folder.glob("organs/*.nii.gz")]):
        name = path.name.removesuffix(".nii.gz")
        if name not in _NO_ORGANS:
            organs[name] = _read_ids(path, scan.grid) > 0
    lesions: tuple[RealLesion, ...] = ()
    if (folder / "lesions.nii.gz").is_file():
        lesions = real_lesions(_read_ids(folder / "lesions.nii.gz", scan.grid), source.spacing_zyx_mm)
    return replace(source, organs=organs, lesions=lesions)


def _read_ids(path: Path, grid: Grid) -> UInt16[np.ndarray, "z y x"]:
    lesions = read_lesion_map(path, like=grid)
    ids, _ = lesions.grid.lps_view(lesions.ids)
    return np.ascontiguousarray(ids)


def _phantom(seed: int, grid: Grid) -> Source:
    generator = np.random.default_rng(seed)
    anatomy = random_anatomy(generator)
    pose = Pose(middle_xyz_mm=grid.centre_xyz_mm, waves=anatomy.waves)
    scan = paint(anatomy.solids, grid, pose, generator=generator, noise_hu=12.0)
    organs: dict[str, Bool[np.ndarray, "z y x"]] = {}
    for name in _PHANTOM_ORGANS:
        window, mask = outline(anatomy.organs[name], grid, pose)
        for before in organs.values():
            before[window] &= ~mask
        organs[name] = np.zeros(grid.shape_zyx, bool)
        organs[name][window] = mask
    return replace(source_of(f"phantom_{seed}", scan.hu, grid), organs=organs)


def _real_lesion(mask: Bool[np.ndarray, "z y x"], box: Window, spacing_zyx_mm: Float32[np.ndarray, "3"]) -> RealLesion:
    start = np.array([side.start for side in box])
    return RealLesion(
        mask=mask,
        box=box,
        centre_zyx_mm=(np.array(center_of_mass(mask)) + start) * spacing_zyx_mm,
        radius_mm=sphere_radius_mm(mask, spacing_zyx_mm),
        extent_mm=float((np.array(mask.shape) * spacing_zyx_mm).max()),
        shape=shape_of_mask(mask, spacing_zyx_mm),
    )
