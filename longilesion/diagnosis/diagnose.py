"""A diagnosis of an exam, on the voxels of its reference scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, UInt16

from longilesion.case import LesionMap, lesion_regions
from longilesion.diagnosis.bundle import DiagnosisModel
from longilesion.diagnosis.exam import LiverExam, RegisteredPhases
from longilesion.diagnosis.findings import Diagnosis
from longilesion.diagnosis.prediction import predict_phases, volume_shares
from longilesion.diagnosis.registration import register_phases
from longilesion.diameter import axial_diameter_mm
from longilesion.geometry import Box, Grid, box_slices
from longilesion.sliding import Progress
from longilesion.voi import sample_back

# Share of a voxel from which a lesion of the lattice fills it.
_LEAST_SHARE = 0.5


def diagnose(exam: LiverExam, model: DiagnosisModel) -> Diagnosis:
    """Registers an exam's phases, finds the liver's lesions, and tells their types; on the reference scan's voxels."""
    return diagnose_registered(exam, register_phases(exam, model.settings), model)


def diagnose_registered(
    exam: LiverExam, phases: RegisteredPhases, model: DiagnosisModel, *, progress: Progress | None = None
) -> Diagnosis:
    """The same of phases that are registered already."""
    found = predict_phases(phases, model, progress=progress)
    return on_grid(found, exam.phases[exam.reference].grid)


def on_grid(found: Diagnosis, grid: Grid) -> Diagnosis:
    """A diagnosis of a lattice along a grid's axes, on its voxels; every lesion has at least one of them."""
    ids = np.zeros(grid.shape_zyx, np.uint16)
    view, lps = grid.lps_view(ids)
    _paste(found.lesions, view, lps)
    regions = lesion_regions(ids)
    typed = []
    for lesion in found.typed:
        region = regions[lesion.lesion_id]
        mask = ids[region.box] == lesion.lesion_id
        typed.append(
            replace(
                lesion,
                volume_ml=region.voxels * grid.voxel_volume_ml,
                diameter_mm=axial_diameter_mm(mask, grid.window(region.start_zyx, region.stop_zyx)),
            )
        )
    return Diagnosis(
        lesions=replace(found.lesions, ids=ids, grid=grid),
        typed=tuple(typed),
        patient=found.patient,
        by_volume=volume_shares(typed, list(found.by_volume)),
    )


def _paste(lesions: LesionMap, view: UInt16[np.ndarray, "z y x"], lps: Grid) -> None:
    """Writes each lesion where it fills half of a voxel; one that does so nowhere gets the voxel that it fills most."""
    shares = {lesion_id: _share(lesions, lesion_id, box, lps) for lesion_id, box in _boxes(lesions).items()}
    for lesion_id, (share, window) in shares.items():
        # At exactly half, a voxel belongs to the first.
        view[window][(share >= _LEAST_SHARE) & (view[window] == 0)] = lesion_id
    for lesion_id, (share, window) in shares.items():
        if (view[window] == lesion_id).any():
            continue
        counts: Mapping[int, int] = dict(zip(*np.unique(view, return_counts=True), strict=True))
        for place in np.argsort(-share, axis=None, kind="stable"):
            voxel = np.unravel_index(place, share.shape)
            owner = int(view[window][voxel])
            # Never the last voxel of another lesion.
            if owner == 0 or counts[owner] > 1:
                view[window][voxel] = lesion_id
                break


def _boxes(lesions: LesionMap) -> dict[int, Box]:
    return {lesion_id: region.box for lesion_id, region in lesion_regions(lesions.ids).items()}


def _share(lesions: LesionMap, lesion_id: int, box: Box, lps: Grid) -> tuple[Float32[np.ndarray, "z y x"], Box]:
    """The share of the grid's voxels in and around a lesion that it fills."""
    # A voxel of the grid averages lattice voxels up to `reach` away.
    reach = 2 * np.maximum(1, np.ceil(np.divide(lps.spacing_zyx_mm, lesions.grid.spacing_zyx_mm))).astype(int)
    low = np.maximum([side.start for side in box] - reach, 0)
    high = np.minimum([side.stop for side in box] + reach, lesions.grid.shape_zyx)
    near = box_slices(low, high)
    z, y, x = near
    mask = (lesions.ids[near] == lesion_id).astype(np.float32)
    return sample_back(mask, lesions.grid.window((z.start, y.start, x.start), (z.stop, y.stop, x.stop)), lps)
