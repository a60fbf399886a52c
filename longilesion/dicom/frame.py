"""The CT images of a DICOM file: one, or one per frame of an enhanced multi-frame file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float64
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from longilesion.dicom.damage import refused_if_damaged
from longilesion.errors import InputError
from longilesion.geometry import Triple, triple

# Those of CT; an image of another kind that is not placed in the patient, such as a dose report, is passed over.
_CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
# Of the orientation, whose numbers are rounded.
_TOLERANCE = 1e-2
# Bytes; the longest attribute of a CT image but for its pixels is a sequence, which is read in any case.
_LONGEST_VALUE = 1024
_RESCALING, _CONTENT = "PixelValueTransformationSequence", "FrameContentSequence"
# Beside the keywords of attributes.
_NATIVE = "native pixels"
_NEEDED = ("SOPInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
# Of the acquisition first: a study can be reopened, and a series derived later.
_DATES = ("AcquisitionDate", "AcquisitionDateTime", "SeriesDate", "StudyDate", "ContentDate")
_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "PatientIdentityRemoved", *_DATES),
    "AcquisitionTime",
    *("Modality", "ImageType", "SeriesDescription", "SeriesNumber", "AcquisitionNumber"),
    *("TemporalPositionIdentifier", "ConvolutionKernel", "LossyImageCompression", "RescaleType"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PixelRepresentation", "BitsAllocated"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NativePixels:
    """Where in a file its pixels begin, in bytes, and their type, if they are not compressed."""

    offset: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Header:
    """What the frames of one file share.

    `padding` are the lowest and the highest stored value of pixels outside the field of view. `native` is None for
    pixels that have to be decoded.
    """

    path: Path
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    patient_id: str
    is_deidentified: bool
    date: str
    series_number: str
    description: str
    image_type: tuple[str, ...]
    kernel: str
    rows: int
    columns: int
    samples: int
    is_lossy: bool
    acquisition_time: str
    padding: tuple[int, int] | None
    native: NativePixels | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One CT image. `number` is its place in its file, from 0; `rescale` the slope and the intercept to HU.

    The columns of `axes` are unit vectors along a row (x), along a column (y), and normal to both.
    """

    header: Header
    number: int
    position_xyz_mm: Triple
    axes: Float64[np.ndarray, "3 3"]
    spacing_yx_mm: tuple[float, float]
    rescale: tuple[float, float]
    rescale_type: str
    acquisition: str
    temporal_position: str

    @property
    def depth_mm(self) -> float:
        """The place of the image along its normal."""
        return float(self.axes[:, 2] @ self.position_xyz_mm)


def read_frames(path: Path) -> Iterator[Frame]:
    """The CT images of a file, without their pixels; none of a file of another kind, such as a segmentation.

    Raises InputError for a damaged file, and for an image that lacks what places it in space.
    """
    values = read_attributes(path)
    is_placed = "ImagePositionPatient" in values or "PerFrameFunctionalGroupsSequence" in values
    is_image = is_placed and "Rows" in values and values.get("Modality") != "SEG"
    # A CT image that is cut off before it says so must not be passed over.
    if not is_image and values["SOPClassUID"] not in _CT_CLASSES:
        return
    with refused_if_damaged(path):
        header = _header(path, values)
        shared = _only(values.get("SharedFunctionalGroupsSequence"))
        of_frames: Sequence[Dataset] = values.get("PerFrameFunctionalGroupsSequence") or [Dataset()]
        count = int(values.get("NumberOfFrames") or 1)
    if count != len(of_frames):
        found = f"{count} frames, but functional groups of {len(of_frames)}"
        raise InputError(f"{path}: {found}; expected an image file whose frames are all placed")
    for number, own in enumerate(of_frames):
        with refused_if_damaged(path):
            frame = _frame(header, number, [_attributes(own), shared, values])
        yield frame


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a file that `Frame`s are made of, by keyword; raises InputError for a damaged file."""
    with refused_if_damaged(path):
        values = _read(path)
    if not values["SOPClassUID"]:
        raise InputError(f"{path}: DICOM file without a SOPClassUID, cut off or damaged; expected a complete one")
    return values


def _read(path: Path) -> dict[str, Any]:
    # Longer values are left in the file: the pixels, of which only the place is wanted.
    dataset = pydicom.dcmread(path, defer_size=_LONGEST_VALUE, specific_tags=[*_TAGS, "PixelData"], force=True)
    pixels = dataset.get_item("PixelData", keep_deferred=True)
    if pixels is not None:
        del dataset.PixelData
    values = _attributes(dataset)
    values.setdefault("SOPClassUID", dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    values[_NATIVE] = _native(dataset, pixels)
    return values


def _native(dataset: Dataset, pixels: Any) -> NativePixels | None:
    """Where the pixels are, where they are 16-bit numbers, uncompressed, and all there."""
    is_native = dataset.file_meta.get("TransferSyntaxUID") in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
    if not is_native or not isinstance(pixels, RawDataElement) or dataset.get("BitsAllocated") != 16:
        return None
    count = int(dataset.get("NumberOfFrames") or 1) * int(dataset.get("SamplesPerPixel") or 1)
    length = 2 * count * int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0)
    if pixels.length != length:
        return None
    return NativePixels(offset=pixels.value_tell, dtype="<i2" if dataset.get("PixelRepresentation") else "<u2")


def _attributes(dataset: Dataset) -> dict[str, Any]:
    # Looked up in a data set, each of them would be found several times as slowly.
    return {element.keyword: element.value for element in dataset if element.value not in (None, "")}


def _header(path: Path, values: Mapping[str, Any]) -> Header:
    for name in _NEEDED:
        if not values.get(name):
            raise InputError(f"{path}: DICOM image without {name}; expected a complete header")
    patient_id = _text(values, "PatientID")
    low = values.get("PixelPaddingValue")
    limit = values.get("PixelPaddingRangeLimit", low)
    padding = None
    if isinstance(low, int) and isinstance(limit, int):
        padding = min(low, limit), max(low, limit)
    return Header(
        path=path,
        sop_instance_uid=_text(values, "SOPInstanceUID"),
        study_uid=_text(values, "StudyInstanceUID"),
        series_uid=_text(values, "SeriesInstanceUID"),
        frame_of_reference_uid=_text(values, "FrameOfReferenceUID"),
        modality=_text(values, "Modality"),
        patient_id=patient_id,
        is_deidentified=_text(values, "PatientIdentityRemoved").upper() == "YES" or not patient_id,
        date=next(filter(None, (_text(values, name)[:8] for name in _DATES)), ""),
        series_number=_text(values, "SeriesNumber"),
        description=_text(values, "SeriesDescription"),
        image_type=tuple(str(value).upper() for value in _list(values.get("ImageType"))),
        kernel="\\".join(map(str, _list(values.get("ConvolutionKernel")))),
        rows=int(values["Rows"]),
        columns=int(values["Columns"]),
        samples=int(values.get("SamplesPerPixel") or 1),
        is_lossy=_text(values, "LossyImageCompression") == "01",
        acquisition_time=_text(values, "AcquisitionDateTime") or _text(values, "AcquisitionTime"),
        padding=padding,
        native=values[_NATIVE],
    )


def _frame(header: Header, number: int, levels: Sequence[Mapping[str, Any]]) -> Frame:
    *_, of_file = levels
    position = _numbers(header, levels, "PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = _numbers(header, levels, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = _numbers(header, levels, "PixelMeasuresSequence", "PixelSpacing", 2)
    slope = float(_value(levels, _RESCALING, "RescaleSlope", 1.0))
    intercept = float(_value(levels, _RESCALING, "RescaleIntercept", 0.0))
    if not (isfinite(slope) and isfinite(intercept) and slope):
        found = f"RescaleSlope {slope:g}, RescaleIntercept {intercept:g}"
        raise InputError(f"{header.path}: {found}; expected numbers that give Hounsfield units")
    axes = _axes(header, orientation)
    if not min(spacing) > 0:
        raise InputError(f"{header.path}: PixelSpacing {spacing[0]:g}, {spacing[1]:g}; expected numbers over 0")
    return Frame(
        header=header,
        number=number,
        position_xyz_mm=triple(position),
        axes=axes,
        spacing_yx_mm=(spacing[0], spacing[1]),
        rescale=(slope, intercept),
        rescale_type=str(_value(levels, _RESCALING, "RescaleType", "")),
        # Of an enhanced file, or else of a file of one image.
        acquisition=str(_value(levels, _CONTENT, "FrameAcquisitionNumber", _text(of_file, "AcquisitionNumber"))),
        temporal_position=str(
            _value(levels, _CONTENT, "TemporalPositionIndex", _text(of_file, "TemporalPositionIdentifier"))
        ),
    )


def _axes(header: Header, orientation: Sequence[float]) -> Float64[np.ndarray, "3 3"]:
    """The axes of an image; raises InputError where a row and a column are not at a right angle."""
    rows, columns = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm((rows, columns), axis=1)
    if abs(lengths - 1).max() > _TOLERANCE or abs(float(rows @ columns)) > _TOLERANCE:
        numbers = ", ".join(f"{value:.6g}" for value in orientation)
        raise InputError(
            f"{header.path}: ImageOrientationPatient {numbers}; expected two unit vectors at a right angle"
        )
    rows = rows / lengths[0]
    normal = np.cross(rows, columns)
    normal /= np.linalg.norm(normal)
    return np.stack([rows, np.cross(normal, rows), normal], axis=1)


def _numbers(header: Header, levels: Sequence[Mapping[str, Any]], sequence: str, name: str, count: int) -> list[float]:
    """That many finite numbers of an attribute; raises InputError where there are others, or none."""
    values = _list(_value(levels, sequence, name))
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(isfinite, numbers)):
        found = f"{name} {values}" if values else f"no {name}"
        raise InputError(f"{header.path}: image with {found}; expected {count} numbers, which place it in the patient")
    return numbers


def _value(levels: Sequence[Mapping[str, Any]], sequence: str, name: str, default: Any = None) -> Any:
    """An attribute from the frame's own functional groups, those of all frames, or else the data set itself."""
    for level in levels:
        value = _only(level.get(sequence)).get(name, level.get(name))
        if value is not None:
            return value
    return default


def _only(items: Sequence[Dataset] | None) -> dict[str, Any]:
    return _attributes(items[0]) if items else {}


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _text(values: Mapping[str, Any], name: str) -> str:
    return str(values.get(name, "")).strip()
