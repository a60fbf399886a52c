"""Types of lesions that are outlined already, from one scan, which is taken for a venous phase."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from longilesion.case import LesionMap, Scan, lesion_regions
from longilesion.diagnosis.bundle import DiagnosisModel
from longilesion.diagnosis.exam import LiverExam
from longilesion.diagnosis.instances import type_probabilities
from longilesion.diagnosis.prediction import named
from longilesion.diagnosis.registration import register_phases
from longilesion.diagnosis.windows import slide_over_liver
from longilesion.diagnosis_settings import LesionType
from longilesion.voi import sample_back

# A lesion lies in the liver where at least this share of its voxels does.
_LEAST_SHARE = 0.5


def lesion_types(scan: Scan, lesions: LesionMap, model: DiagnosisModel) -> dict[int, Mapping[LesionType, float]]:
    """The probabilities of the types of a map's lesions that lie in the scan's organ, the liver, by id.

    They are those of the mean softmax of the semantic output over a lesion's outline. Raises InputError where the model
    does not take a venous phase.
    """
    assert scan.organ is not None
    ids, lps = scan.grid.lps_view(lesions.ids)
    liver, _ = scan.grid.lps_view(scan.organ)
    regions = lesion_regions(np.ascontiguousarray(ids))
    masks = {lesion_id: ids[region.box] == lesion_id for lesion_id, region in regions.items()}
    inside = [
        lesion_id for lesion_id, region in regions.items() if liver[region.box][masks[lesion_id]].mean() >= _LEAST_SHARE
    ]
    if not inside:
        return {}
    phases = register_phases(LiverExam(phases={"venous": scan}, reference="venous"), model.settings)
    semantic = slide_over_liver(phases, model).semantic
    types = {}
    for lesion_id in inside:
        region = regions[lesion_id]
        own = lps.window(region.start_zyx, region.stop_zyx)
        sampled = [sample_back(values, phases.region.grid, own) for values in semantic]
        classes = np.array([values[masks[lesion_id][window]].mean() for values, window in sampled], np.float32)
        types[lesion_id] = named(type_probabilities(classes), model.settings)
    return types
