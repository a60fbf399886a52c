"""From a segmentation to the response to therapy between its baseline and its follow-up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from longilesion.case import Case, LesionMap, OutsideLesion, lesion_regions
from longilesion.diameter import axial_diameters
from longilesion.lesion_facts import NO_FACTS, lesions_of
from longilesion.pipeline import LesionOutcome, Segmentation
from longilesion.response import Assessment, Course, Lesion, Measured, Visit, assess


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseResponse:
    """A case's lesions at both visits, and the response.

    `followup` is None where its maps are binary, which tell no lesions apart; `course` then, too, and where the
    baseline outlines no lesion.
    """

    baseline: Mapping[int, Measured]
    followup: Mapping[int, Measured] | None
    course: Course | None

    @property
    def assessment(self) -> Assessment | None:
        """That of the follow-up."""
        return None if self.course is None else self.course.assessments[0]


def case_response(case: Case, segmentation: Segmentation, facts: Mapping[int, Lesion] = NO_FACTS) -> CaseResponse:
    """Measures all outlines of a case, and compares them by RECIST 1.1, with what is known of the lesions besides.

    Lesions that a search has found and nobody has confirmed are not among them. A lesion in two scans of a visit is
    measured where it is larger.
    """
    priors = [prior.lesions for prior in case.baselines.values() if prior.lesions is not None]
    baseline = measured_lesions(priors)
    if segmentation.labels == "binary":
        return CaseResponse(baseline=baseline, followup=None, course=None)
    found = {outcome.prompt.lesion_id: outcome for outcome in segmentation.lesions}
    followup = {
        lesion_id: with_uncertainty(measured, found[lesion_id])
        for lesion_id, measured in measured_lesions(segmentation.maps.values()).items()
        if lesion_id in found
    }
    if not baseline:
        return CaseResponse(baseline=baseline, followup=followup, course=None)
    outside = {lesion_id for lesion_id, outcome in found.items() if isinstance(outcome.prompt, OutsideLesion)}
    visits = (
        Visit(measured=baseline),
        Visit(
            measured=followup,
            part_of={
                lesion_id: outcome.merged_into
                for lesion_id, outcome in found.items()
                if outcome.merged_into is not None
            },
            # What is outlined in the baseline and was not looked for, too.
            not_assessed={*outside, *segmentation.left_out, *(baseline.keys() - found.keys())},
        ),
    )
    lesions = lesions_of({*baseline, *followup, *found}, facts)
    slices_mm = (prior.grid.lps_view(prior.ids)[1].spacing_zyx_mm[0] for prior in priors)
    course = assess(lesions, visits, slice_mm=float(max(slices_mm)))
    return CaseResponse(baseline=baseline, followup=followup, course=course)


def with_uncertainty(measured: Measured, outcome: LesionOutcome | None) -> Measured:
    """The measures with the intervals of their lesion's outline, where there are any."""
    known = None if outcome is None else outcome.uncertainty
    if known is None:
        return measured
    return replace(measured, error_mm=known.diameter_mm, volume_factor=known.volume_factor)


def measured_lesions(maps: Iterable[LesionMap]) -> dict[int, Measured]:
    """Diameters and volumes of the lesions of a visit's maps; one in two maps is measured where it is larger."""
    found: dict[int, Measured] = {}
    for lesions in maps:
        for lesion_id, region in lesion_regions(lesions.ids).items():
            window = lesions.grid.window(region.start_zyx, region.stop_zyx)
            diameters = axial_diameters(lesions.ids[region.box] == lesion_id, window)
            measured = Measured(
                longest_mm=diameters.longest_mm,
                short_mm=diameters.perpendicular_mm,
                volume_ml=region.voxels * lesions.grid.voxel_volume_ml,
            )
            if lesion_id not in found or found[lesion_id].volume_ml < measured.volume_ml:
                found[lesion_id] = measured
    return found
