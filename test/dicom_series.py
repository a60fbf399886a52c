"""Writes scans as series of DICOM files, with what real archives do to them."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from longilesion.case import Scan
from longilesion.geometry import Grid

ORIGIN = datetime.datetime(2020, 1, 31, 12, 0, 0)


def of_patient(**changed: Any) -> dict[str, Any]:
    """The attributes that all files of a patient's visit have in common."""
    return {
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "PatientBirthDate": "19500101",
        "PatientSex": "F",
        "StudyInstanceUID": generate_uid(),
        "StudyID": "1",
        "StudyDate": "20200131",
        "StudyTime": "120000",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "FrameOfReferenceUID": generate_uid(),
        "PositionReferenceIndicator": "",
        "SeriesInstanceUID": generate_uid(),
        "SeriesNumber": 2,
        "SeriesDescription": "CT body",
        "AcquisitionNumber": 1,
        "AcquisitionDate": "20200131",
        "Modality": "CT",
        "Manufacturer": "none",
        "BodyPartExamined": "CHEST",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "KVP": "120",
        **changed,
    }


def write_series(
    folder: Path,
    scan: Scan,
    *,
    visit: dict[str, Any] | None = None,
    left_out: Sequence[int] = (),
    shift_xyz_mm: Callable[[int], Sequence[float]] = lambda index: (0, 0, 0),
    slope: float = 1.0,
    intercept: float = -1024.0,
    syntax: UID = ExplicitVRLittleEndian,
    first_name: int = 0,
    changed: Callable[[int, Dataset], None] = lambda index, dataset: None,
) -> dict[str, Any]:
    """Writes one file per slice, in names that say nothing of their order; returns the attributes of the visit."""
    folder.mkdir(parents=True, exist_ok=True)
    visit = visit or of_patient()
    names = np.random.default_rng(0).permutation(len(scan.hu))
    for index, plane in enumerate(scan.hu):
        if index in left_out:
            continue
        dataset = _empty(CTImageStorage)
        for name, value in visit.items():
            setattr(dataset, name, value)
        dataset.InstanceNumber = index + 1
        place(dataset, scan.grid, index, shift_xyz_mm(index))
        store(dataset, plane[None], slope, intercept)
        changed(index, dataset)
        if syntax != ExplicitVRLittleEndian:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(folder / f"{first_name + names[index]:04d}", enforce_file_format=True)
    return visit


def write_multiframe(path: Path, scan: Scan, *, visit: dict[str, Any] | None = None) -> dict[str, Any]:
    """Writes an enhanced CT file, with its frames in reverse order and a slope of their own each."""
    visit = visit or of_patient()
    dataset = _empty(EnhancedCTImageStorage)
    for name, value in visit.items():
        setattr(dataset, name, value)
    dataset.NumberOfFrames = len(scan.hu)
    shared = Dataset()
    shared.PixelMeasuresSequence = [_measures(scan.grid)]
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = _orientation(scan.grid)
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames, stored = [], []
    for index in reversed(range(len(scan.hu))):
        slope = 2.0 if index % 2 else 1.0
        own = Dataset()
        own.PlanePositionSequence = [Dataset()]
        own.PlanePositionSequence[0].ImagePositionPatient = list(scan.grid.world_xyz_mm((index, 0, 0)))
        values = Dataset()
        values.RescaleIntercept, values.RescaleSlope, values.RescaleType = "-1024", str(slope), "HU"
        own.PixelValueTransformationSequence = [values]
        content = Dataset()
        content.FrameAcquisitionNumber, content.StackID, content.InStackPositionNumber = 1, "1", index + 1
        own.FrameContentSequence = [content]
        frames.append(own)
        stored.append((scan.hu[index].astype(float) + 1024) / slope)
    dataset.PerFrameFunctionalGroupsSequence = frames
    store(dataset, np.stack(stored), 1.0, 0.0)
    del dataset.RescaleSlope, dataset.RescaleIntercept
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return visit


def place(dataset: Dataset, grid: Grid, index: int, shift_xyz_mm: Sequence[float] = (0, 0, 0)) -> None:
    """Gives an image the position and orientation of a slice of a grid."""
    position = np.add(grid.world_xyz_mm((index, 0, 0)), shift_xyz_mm)
    dataset.ImagePositionPatient = [f"{value:.9g}" for value in position]
    dataset.ImageOrientationPatient = [f"{value:.9g}" for value in _orientation(grid)]
    dataset.PixelSpacing = _measures(grid).PixelSpacing
    dataset.SliceThickness = f"{grid.spacing_zyx_mm[0]:.6g}"


def store(dataset: Dataset, hu: np.ndarray, slope: float, intercept: float) -> None:
    """Stores Hounsfield units as unsigned values of 16 bits."""
    stored = np.rint((hu.astype(float) - intercept) / slope).clip(0, 65535).astype(np.uint16)
    _, dataset.Rows, dataset.Columns = hu.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = str(slope), str(intercept), "HU"
    dataset.PixelData = stored.tobytes()


def _empty(sop_class: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    return dataset


def _measures(grid: Grid) -> Dataset:
    z, y, x = grid.spacing_zyx_mm
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [f"{y:.9g}", f"{x:.9g}"], f"{z:.6g}"
    return measures


def _orientation(grid: Grid) -> list[float]:
    return [*grid.directions[:, 0].tolist(), *grid.directions[:, 1].tolist()]
