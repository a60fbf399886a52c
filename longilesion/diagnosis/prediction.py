"""From registered phases to a diagnosis on their lattice: lesions with their types, and the patient's probabilities."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32

from longilesion.case import LesionMap
from longilesion.diagnosis.bundle import DiagnosisModel
from longilesion.diagnosis.exam import RegisteredPhases
from longilesion.diagnosis.findings import Diagnosis, TypedLesion
from longilesion.diagnosis.instances import Instance, merged_queries, semantic_components
from longilesion.diagnosis.windows import slide_over_liver
from longilesion.diagnosis_settings import DiagnosisSettings, LesionType
from longilesion.diameter import axial_diameter_mm
from longilesion.geometry import Grid, voxel_index
from longilesion.sliding import Progress

_log = logging.getLogger(__name__)


def predict_phases(phases: RegisteredPhases, model: DiagnosisModel, *, progress: Progress | None = None) -> Diagnosis:
    """Slides the network over the liver, and outlines lesions on the lattice of `phases.region`, best score first.

    A network with queries outlines what its queries find, one without the components of its semantic output. Lesions
    are cut off at the liver's border; those smaller than the settings' least diameter are left out.
    """
    settings, region = model.settings, phases.region
    outputs = slide_over_liver(phases, model, progress=progress)
    if settings.network.queries:
        instances = merged_queries(outputs.queries, region.mask, settings.threshold)
    else:
        instances = semantic_components(outputs, region.mask, settings.threshold)
    lesions, typed = _labelled(instances, region.grid, settings)
    return Diagnosis(
        lesions=lesions,
        typed=typed,
        patient=liver_max(outputs.semantic, region.mask, settings.types),
        by_volume=volume_shares(typed, settings.types),
    )


def liver_max(
    semantic: Float32[np.ndarray, "classes z y x"], liver: Bool[np.ndarray, "z y x"], types: Sequence[LesionType]
) -> dict[LesionType, float]:
    """LiverMax (section 2.2): the highest softmax of each type over the voxels inside the liver."""
    highest = semantic[1:].max(axis=(1, 2, 3), initial=0.0, where=liver)
    return dict(zip(types, highest.astype(float).tolist(), strict=True))


def volume_shares(typed: Sequence[TypedLesion], types: Sequence[LesionType]) -> dict[LesionType, float]:
    """Each type's share of the volume of all lesions, by their most probable types; 0 without lesions."""
    total = sum(lesion.volume_ml for lesion in typed)
    return {
        name: sum(lesion.volume_ml for lesion in typed if lesion.type == name) / total if total else 0.0
        for name in types
    }


def named(types: Float32[np.ndarray, " types"], settings: DiagnosisSettings) -> Mapping[LesionType, float]:
    """Probabilities by the names of their types."""
    return dict(zip(settings.types, types.astype(float).tolist(), strict=True))


def _labelled(
    instances: Sequence[Instance], grid: Grid, settings: DiagnosisSettings
) -> tuple[LesionMap, tuple[TypedLesion, ...]]:
    """Numbers the lesions that are large enough, and measures them."""
    ids = np.zeros(grid.shape_zyx, np.uint16)
    typed: list[TypedLesion] = []
    for instance in instances:
        own = grid.window(*(voxel_index([getattr(side, end) for side in instance.box]) for end in ("start", "stop")))
        diameter_mm = axial_diameter_mm(instance.mask, own)
        if diameter_mm < settings.least_diameter_mm:
            continue
        lesion_id = len(typed) + 1
        ids[instance.box][instance.mask] = lesion_id
        typed.append(
            TypedLesion(
                lesion_id=lesion_id,
                probabilities=named(instance.types, settings),
                score=instance.score,
                volume_ml=float(instance.mask.sum()) * own.voxel_volume_ml,
                diameter_mm=diameter_mm,
            )
        )
    _log.info("%d lesions, %d smaller than %g mm", len(typed), len(instances) - len(typed), settings.least_diameter_mm)
    found = tuple(lesion.lesion_id for lesion in typed)
    return LesionMap(ids=ids, grid=grid, candidates=found), tuple(typed)
