"""Exams for detectors: an organ in both time points, registered, on one lattice, with all lesions of the follow-up."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16
from numpy.typing import NDArray

from longilesion.case import Case, LesionMap, Scan, lesion_regions
from longilesion.config import VoiSettings
from longilesion.errors import InputError
from longilesion.evaluation.measures import Outline, largest_axial_diameter_mm
from longilesion.files import check_archive, written_together
from longilesion.geometry import Box, Grid
from longilesion.registered import sample_registered
from longilesion.registration.register import register_scans
from longilesion.sliding import Region, region_of
from longilesion.voi import Voi, VoiPair, occupied_box, resample

# Exceptions that NumPy or the archive's reader raises for a damaged file.
DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile)


class DamagedExamError(InputError):
    """An exam's file that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegisteredExam:
    """Both time points on a lattice of the follow-up, and the follow-up's lesions there.

    `true_mm` and `true_ml` are the diameters and volumes, by id, of all lesions of the follow-up in its own voxels;
    the smallest may have no voxel in `ids`.
    """

    pair: VoiPair
    ids: UInt16[np.ndarray, "z y x"]
    true_mm: Mapping[int, float]
    true_ml: Mapping[int, float]

    @property
    def region(self) -> Region:
        """What inference searches."""
        organ = self.pair.followup.organ
        mask = np.ones(self.ids.shape, np.bool_) if organ is None else organ >= 0.5
        return Region(mask=mask, grid=self.pair.followup.grid)

    def window(self, box: Box) -> VoiPair:
        """Both time points in a window of the lattice."""
        pair = self.pair
        return replace(
            pair,
            followup=_cropped(pair.followup, box),
            baseline=None if pair.baseline is None else _cropped(pair.baseline, box),
            baseline_mask=None if pair.baseline_mask is None else pair.baseline_mask[box],
            baseline_others=None if pair.baseline_others is None else pair.baseline_others[box],
        )


def registered_exam(case: Case, truth: LesionMap, voi: VoiSettings) -> RegisteredExam:
    """Registers an exam, whose follow-up has an organ mask, as in inference, and samples it around the organ."""
    followup = case.followups["primary"]
    prior = case.baselines.get("primary")
    lattice = organ_region(followup, voi).grid
    registration = None if prior is None else register_scans(prior.scan, followup)
    regions = lesion_regions(truth.ids)
    outlines = {lesion_id: Outline.of(truth, [lesion_id], [region]) for lesion_id, region in regions.items()}
    voxel_ml = truth.grid.voxel_volume_ml
    return RegisteredExam(
        pair=sample_registered(followup, prior, registration, lattice),
        ids=sampled_ids(truth, regions, lattice),
        true_mm={lesion_id: largest_axial_diameter_mm(outline) for lesion_id, outline in outlines.items()},
        true_ml={lesion_id: region.voxels * voxel_ml for lesion_id, region in regions.items()},
    )


def organ_region(scan: Scan, voi: VoiSettings) -> Region:
    """The region of a scan's organ that inference searches; raises InputError where the organ is missing or empty."""
    region = None if scan.organ is None else region_of(*scan.grid.lps_view(scan.organ), voi)
    if region is None:
        raise InputError("the follow-up's organ mask is missing or empty; expected an organ to search")
    return region


def write_exam(path: Path, exam: RegisteredExam, *, made_of: str) -> None:
    """Writes an exam to an .npz file with its fingerprint; raises InputError where that is impossible."""
    pair = exam.pair
    arrays: dict[str, NDArray[Any] | None] = {
        "followup_hu": pair.followup.hu,
        "followup_organ": pair.followup.organ,
        "baseline_hu": None if pair.baseline is None else pair.baseline.hu,
        "baseline_organ": None if pair.baseline is None else pair.baseline.organ,
        "baseline_mask": pair.baseline_mask,
        "grid": pair.followup.grid.world_from_voxel,
        "ids": exam.ids,
    }
    facts = {
        "made_of": made_of,
        "true_mm": {str(lesion_id): value for lesion_id, value in exam.true_mm.items()},
        "true_ml": {str(lesion_id): value for lesion_id, value in exam.true_ml.items()},
    }
    known = {name: array for name, array in arrays.items() if array is not None}
    with written_together({path: check_archive}) as (temporary,), temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, facts=np.array(json.dumps(facts)), **known)


def read_exam(path: Path) -> RegisteredExam:
    """Reads an exam; raises DamagedExamError for an incomplete or damaged file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        facts = json.loads(str(arrays["facts"]))
        grid = Grid(shape_zyx=arrays["followup_hu"].shape, world_from_voxel=arrays["grid"])
        mask = arrays.get("baseline_mask")
        return RegisteredExam(
            pair=VoiPair(
                followup=_voi(arrays["followup_hu"], arrays.get("followup_organ"), grid),
                baseline=_voi(arrays["baseline_hu"], arrays.get("baseline_organ"), grid)
                if "baseline_hu" in arrays
                else None,
                baseline_mask=mask,
                baseline_others=None if mask is None else np.zeros_like(mask),
            ),
            ids=arrays["ids"],
            true_mm={int(lesion_id): value for lesion_id, value in facts["true_mm"].items()},
            true_ml={int(lesion_id): value for lesion_id, value in facts["true_ml"].items()},
        )
    except DAMAGE as error:
        raise DamagedExamError(f"{path}: {error}; expected an exam, delete it and it is made again") from error


def fingerprint_of(path: Path) -> str | None:
    """The fingerprint in an exam's file; None where there is no file, or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            return str(json.loads(str(members["facts"]))["made_of"])
    except DAMAGE:
        return None


def sampled_ids(truth: LesionMap, regions: Iterable[int], lattice: Grid) -> UInt16[np.ndarray, "z y x"]:
    """The lesion that fills over half of each voxel of a lattice."""
    view, grid = truth.grid.lps_view(truth.ids)
    start, step = grid.axis_steps(lattice)
    ids = np.zeros(lattice.shape_zyx, np.uint16)
    for lesion_id in regions:
        box = occupied_box(view == lesion_id)
        offset = start - [side.start for side in box]
        share = resample(view[box] == lesion_id, start_zyx=offset, step_zyx=step, shape_zyx=lattice.shape_zyx)
        ids[share > 0.5] = lesion_id
    return ids


def _cropped(voi: Voi, window: Box) -> Voi:
    z, y, x = window
    grid = voi.grid.window((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
    return _voi(voi.hu[window], None if voi.organ is None else voi.organ[window], grid)


def _voi(hu: NDArray[np.float32], organ: NDArray[np.float32] | None, grid: Grid) -> Voi:
    """A lattice without a click, as `sample_registered` gives it."""
    z, y, x = (np.array(grid.shape_zyx) - 1) / 2
    return Voi(hu=hu, grid=grid, click_zyx=(float(z), float(y), float(x)), is_clicked=False, organ=organ)
