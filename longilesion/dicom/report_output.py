"""The response to therapy as a DICOM structured report (TID 1500): measures of each lesion, sums, RECIST's response."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

import longilesion
from longilesion.case import Absence
from longilesion.dicom.decisions import Reading
from longilesion.dicom.segmentation_output import EQUIPMENT, segment_label
from longilesion.dicom.tracking import Tracking
from longilesion.errors import InputError
from longilesion.response import Course, Measured

_SERIES_NUMBER = 901
# For what no standard has a code.
_SCHEME = "99LONGILESION"
_PRESENCE = Code("presence", _SCHEME, "Lesion found at this time point")
_STATEMENT = Code("statement", _SCHEME, "Statement on use")
_RESEARCH_ONLY = Code("research", _SCHEME, "Research use only, not confirmed by a reader")
_REVIEWED = Code("reviewed", _SCHEME, "Research use only, reviewed by a reader")
_DECISION = Code("decision", _SCHEME, "Decision of the reader")
_SUM_BASELINE = Code("sum-baseline", _SCHEME, "Sum of diameters of target lesions, baseline")
_SUM_FOLLOWUP = Code("sum-followup", _SCHEME, "Sum of diameters of target lesions, follow-up")
_OVERALL = Code("overall", _SCHEME, "Overall response (RECIST 1.1)")
_ABSENCES: Mapping[Absence, Code] = {
    "gone": codes.SCT.Absent,
    "outside": Code("outside", _SCHEME, "Outside the scan, not assessed"),
    "merged": Code("merged", _SCHEME, "In the outline of another lesion"),
    "not outlined": Code("not-outlined", _SCHEME, "Probably there, but not outlined"),
}
_OVERALL_VALUES = {
    "CR": "Complete response",
    "PR": "Partial response",
    "SD": "Stable disease",
    "PD": "Progressive disease",
    "non-CR/non-PD": "Neither complete response nor progressive disease",
    "NE": "Not evaluable",
}
_OF_TARGETS = {
    "CR": codes.DCM.TargetLesionCompleteResponse,
    "PR": codes.DCM.TargetLesionPartialResponse,
    "SD": codes.DCM.TargetLesionStableDisease,
    "PD": codes.DCM.TargetLesionProgressiveDisease,
}


def make_report(
    lesion_ids: Sequence[int],
    measured: Mapping[int, Measured],
    course: Course | None,
    *,
    absences: Mapping[int, Absence],
    tracking: Mapping[int, Tracking],
    segmentation: Dataset | None,
    images: Sequence[Dataset],
    description: str,
    reading: Reading | None = None,
) -> hd.sr.Comprehensive3DSR:
    """The report on all lesions that were looked for; of those that are not `measured`, `absences` has why.

    The response is that of the last visit of the `course`. `segmentation` has a segment for each measured lesion, and
    may have some for candidates. `reading` is None where no person has reviewed them.
    """
    decisions = {} if reading is None else reading.decisions
    statement = _REVIEWED if reading is not None and reading.is_complete else _RESEARCH_ONLY
    groups: list[hd.sr.MeasurementsAndQualitativeEvaluations | hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations]
    groups = [
        _lesion(
            tracking[lesion_id],
            measured.get(lesion_id),
            absences.get(lesion_id, "gone"),
            segment,
            segmentation,
            images,
            decision=decisions.get(lesion_id),
        )
        for lesion_id, segment in zip(lesion_ids, _segments(lesion_ids, segmentation), strict=True)
    ]
    if course is not None:
        groups.append(_response(course, images, statement))
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(),
            name="longilesion",
            manufacturer_name="longilesion",
            model_name=f"longilesion {longilesion.__version__}",
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_person_context=None if reading is None else _person(reading.person_name),
            observer_device_context=observer,
        ),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    dataset = hd.sr.Comprehensive3DSR(
        evidence=[*images, *([] if segmentation is None else [segmentation])],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=EQUIPMENT["manufacturer"],
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=description,
    )
    dataset.ManufacturerModelName = EQUIPMENT["manufacturer_model_name"]
    dataset.SoftwareVersions = EQUIPMENT["software_versions"]
    dataset.DeviceSerialNumber = EQUIPMENT["device_serial_number"]
    dataset.CompletionFlagDescription = statement.meaning
    dataset.CodingSchemeIdentificationSequence = [_scheme()]
    return dataset


def check_report(path: Path, *, lesions: int) -> None:
    """Raises InputError unless a file is a report on that many lesions, as highdicom reads it."""
    content = hd.sr.MeasurementReport.from_sequence([hd.sr.srread(path)], is_root=True)
    groups = [*content.get_volumetric_roi_measurement_groups(), *content.get_image_measurement_groups()]
    found = sum(group.finding_type is not None for group in groups)
    if found != lesions:
        raise InputError(f"{path}: report on {found} lesions; expected {lesions}")


def _segments(lesion_ids: Sequence[int], segmentation: Dataset | None) -> Iterable[int | None]:
    """The numbers of the lesions' segments; None where there is none."""
    described = [] if segmentation is None else segmentation.SegmentSequence
    numbers = {str(each.SegmentLabel): int(each.SegmentNumber) for each in described}
    return (numbers.get(segment_label(lesion_id)) for lesion_id in lesion_ids)


def _lesion(
    tracking: Tracking,
    measured: Measured | None,
    absence: Absence,
    segment: int | None,
    segmentation: Dataset | None,
    images: Sequence[Dataset],
    *,
    decision: str | None,
) -> hd.sr.MeasurementsAndQualitativeEvaluations | hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    decided = [] if decision is None else [hd.sr.QualitativeEvaluation(_DECISION, _coded(decision))]
    identifier = hd.sr.TrackingIdentifier(uid=tracking.uid, identifier=tracking.identifier)
    algorithm = hd.sr.AlgorithmIdentification(name="longilesion", version=longilesion.__version__)
    if measured is None or segment is None or segmentation is None:
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=identifier,
            finding_type=codes.SCT.Lesion,
            algorithm_id=algorithm,
            qualitative_evaluations=[hd.sr.QualitativeEvaluation(_PRESENCE, _ABSENCES[absence]), *decided],
            source_images=[_source(images[0])],
        )
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=identifier,
        # Not by `from_segmentation`, which fails for a segmentation of one segment.
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=segment,
            source_series=hd.sr.SourceSeriesForSegmentation.from_source_image(images[0]),
        ),
        finding_type=codes.SCT.Lesion,
        algorithm_id=algorithm,
        measurements=[
            hd.sr.Measurement(
                name=codes.SCT.Volume,
                value=_rounded(measured.volume_ml),
                unit=codes.UCUM.CubicCentimeter,
                method=codes.DCM.SumOfSegmentedVoxelMethodForVolume,
                properties=_interval(
                    measured.volume_ml * (measured.volume_factor - 1),
                    measured.volume_ml * (1 - 1 / measured.volume_factor),
                ),
            ),
            *(
                hd.sr.Measurement(
                    name=name,
                    value=_rounded(length_mm),
                    unit=codes.UCUM.Millimeter,
                    properties=_interval(measured.error_mm, measured.error_mm),
                )
                for name, length_mm in (
                    (codes.SCT.LongAxis, measured.longest_mm),
                    (codes.SCT.ShortAxis, measured.short_mm),
                )
            ),
        ],
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(_PRESENCE, codes.SCT.Present), *decided],
    )


def _response(
    course: Course, images: Sequence[Dataset], statement: Code
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    now = course.assessments[-1]
    evaluations = [
        hd.sr.QualitativeEvaluation(codes.DCM.ResponseEvaluationMethod, codes.DCM.RECIST1Point1),
        hd.sr.QualitativeEvaluation(_OVERALL, Code(now.overall, _SCHEME, _OVERALL_VALUES[now.overall])),
        hd.sr.QualitativeEvaluation(_STATEMENT, statement),
    ]
    if now.targets in _OF_TARGETS:
        evaluations.append(hd.sr.QualitativeEvaluation(codes.DCM.CurrentResponse, _OF_TARGETS[now.targets]))
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier="response to therapy"),
        measurements=[
            hd.sr.Measurement(
                name=name,
                value=_rounded(each.mm),
                unit=codes.UCUM.Millimeter,
                properties=_interval(each.error_mm, each.error_mm),
            )
            for name, each in ((_SUM_BASELINE, course.baseline), (_SUM_FOLLOWUP, now.sum))
        ],
        qualitative_evaluations=evaluations,
        source_images=[_source(images[0])],
    )


def _interval(above: float, below: float) -> hd.sr.MeasurementProperties | None:
    """How far a 95 % interval reaches above and below the value (TID 310); None where it is not known."""
    if not (above or below):
        return None
    return hd.sr.MeasurementProperties(
        upper_measurement_uncertainty=_rounded(above), lower_measurement_uncertainty=_rounded(below)
    )


def _person(name: str) -> hd.sr.ObserverContext | None:
    if not name:
        return None
    return hd.sr.ObserverContext(
        observer_type=codes.DCM.Person,
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name=name),
    )


def _coded(decision: str) -> Code:
    return Code(decision.replace("_", "-"), _SCHEME, decision.replace("_", " ").capitalize())


def _scheme() -> Dataset:
    scheme = Dataset()
    scheme.CodingSchemeDesignator = _SCHEME
    scheme.CodingSchemeName = "Codes of longilesion"
    return scheme


def _source(image: Dataset) -> hd.sr.SourceImageForMeasurementGroup:
    return hd.sr.SourceImageForMeasurementGroup.from_source_image(image)


def _rounded(value: float) -> float:
    """Four significant digits: DICOM's decimal strings have sixteen characters."""
    return float(f"{value:.4g}")
