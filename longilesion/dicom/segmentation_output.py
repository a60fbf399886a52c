"""Lesion maps as DICOM SEG: a segment per lesion, on the images of the scan's series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from jaxtyping import UInt16
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

import longilesion
from longilesion.case import LesionMap
from longilesion.dicom.damage import refused_if_damaged
from longilesion.dicom.decisions import Reading
from longilesion.dicom.segmentation import read_segmentation
from longilesion.dicom.series import Series
from longilesion.dicom.stack import Stack
from longilesion.dicom.tracking import Tracking
from longilesion.errors import InputError

_STATEMENT = "Research use only. Not a medical device; outlined by a program and not confirmed."
_REVIEWED = "Research use only. Not a medical device; outlined by a program and reviewed by a person."
# Of the equipment that makes a DICOM object.
EQUIPMENT: Mapping[str, Any] = {
    "manufacturer": "longilesion",
    "manufacturer_model_name": "longilesion",
    "software_versions": longilesion.__version__,
    "device_serial_number": longilesion.__version__,
}
_SERIES_NUMBER = 900
# By whether a person has drawn.
_KINDS = {
    False: hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
    True: hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
}


def source_images(series: Series) -> list[Dataset]:
    """The images of a series with all attributes but pixels: one for each image, or the multi-frame file.

    What an object made from them takes over of patient and study is made valid: what is missing or cannot be is empty.
    Raises InputError where an image has no frame of reference.
    """
    files = list(dict.fromkeys(frame.header.path for frame in series.frames))
    if 1 < len(files) < len(series.frames):
        raise InputError(
            f"{files[0].parent}: a volume in {len(files)} multi-frame files; expected one, or a file for each image, "
            "to write results in DICOM on"
        )
    return [_source(file) for file in files]


def _source(file: Path) -> Dataset:
    with refused_if_damaged(file):
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
        # Texts are read in the file's character set, and written in this one.
        dataset.decode()
    if not dataset.get("FrameOfReferenceUID"):
        raise InputError(f"{file}: image without FrameOfReferenceUID; expected one, which results in DICOM refer to")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for name, is_valid in _TAKEN_OVER.items():
        value = dataset.get(name)
        if value in (None, "") or not is_valid(value):
            setattr(dataset, name, None)
    return dataset


def _is(kind: Callable[[str], object]) -> Callable[[object], bool]:
    """Whether a value is one of a kind whose class refuses others."""

    def is_valid(value: object) -> bool:
        try:
            kind(str(value))
        except ValueError:
            return False
        return True

    return is_valid


def _any(value: object) -> bool:
    return True


# Attributes of patient and study that every object has, if only empty (type 2).
_TAKEN_OVER: Mapping[str, Callable[[object], bool]] = {
    "PatientID": _any,
    "PatientName": _any,
    "PatientBirthDate": _is(DA),
    "PatientSex": lambda value: value in ("M", "F", "O"),
    "StudyID": _any,
    "StudyDate": _is(DA),
    "StudyTime": _is(TM),
    "AccessionNumber": _any,
    "ReferringPhysicianName": _any,
}


def make_segmentation(
    series: Series,
    lesion_map: LesionMap,
    tracking: Mapping[int, Tracking],
    images: list[Dataset],
    *,
    description: str,
    reading: Reading | None = None,
) -> hd.seg.Segmentation | None:
    """The segmentation of a map on its series' images; None where the map is empty.

    A segment's number is not the lesion's id, as DICOM numbers segments from 1 on without gaps; its label has the id.
    Segments that a reader has drawn, at least in part, are semiautomatic.
    """
    found = [lesion_id for lesion_id in np.unique(lesion_map.ids).tolist() if lesion_id]
    if not found:
        return None
    lookup = np.zeros(int(lesion_map.ids.max()) + 1, np.uint16)
    lookup[found] = np.arange(1, len(found) + 1)
    algorithm = hd.AlgorithmIdentificationSequence(
        name="longilesion", family=codes.cid7162.ArtificialIntelligence, version=longilesion.__version__
    )
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment_label(lesion_id),
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=_KINDS[reading is not None and lesion_id in reading.drawn],
            algorithm_identification=algorithm,
            tracking_uid=tracking[lesion_id].uid,
            tracking_id=tracking[lesion_id].identifier,
        )
        for number, lesion_id in enumerate(found, start=1)
    ]
    dataset = hd.seg.Segmentation(
        source_images=images,
        pixel_array=lookup[_planes(series, lesion_map, int(images[0].get("NumberOfFrames") or 1))],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        content_label="LESIONS",
        content_description="Research use only",
        series_description=description,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        **EQUIPMENT,
    )
    dataset.ImageComments = _REVIEWED if reading is not None and reading.is_complete else _STATEMENT
    return dataset


def segment_label(lesion_id: int) -> str:
    """The label of a lesion's segment, from which its id is read."""
    return f"lesion {lesion_id}"


def check_segmentation(path: Path, *, written: LesionMap, is_exact: bool) -> None:
    """Raises InputError unless a file holds the lesions that were written to it, voxel for voxel where it can."""
    if not is_exact:
        if hd.seg.segread(path).number_of_segments != len(np.unique(written.ids[written.ids > 0])):
            raise InputError(f"{path}: other segments than the map's lesions; expected one each")
        return
    read = read_segmentation(path, written.grid)
    if not np.array_equal(read.ids, written.ids):
        raise InputError(f"{path}: other voxels than the map's; expected all of them")


def _planes(series: Series, lesion_map: LesionMap, frames: int) -> UInt16[np.ndarray, "n y x"]:
    """The map on the images, in the order of the files, or of all the `frames` of the one file."""
    stack = Stack.of(series)
    header = series.header
    planes = {}
    for each in stack.slices:
        depth = min(round(each.depth), len(lesion_map.ids) - 1)
        top, left = round(each.shift_yx[0]), round(each.shift_yx[1])
        plane = lesion_map.ids[depth, top : top + header.rows, left : left + header.columns]
        planes[each.frame.header.path, each.frame.number] = plane
    if frames == 1:
        return np.stack([planes[frame.header.path, frame.number] for frame in series.frames])
    # Also frames that belong to another volume.
    empty = np.zeros((header.rows, header.columns), np.uint16)
    return np.stack([planes.get((header.path, number), empty) for number in range(frames)])
