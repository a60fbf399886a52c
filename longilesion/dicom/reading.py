"""What a DICOM path holds: a scan, or lesions outlined on one."""

from __future__ import annotations

from pathlib import Path

from longilesion.case import LesionMap
from longilesion.dicom.files import dicom_files
from longilesion.dicom.frame import read_attributes
from longilesion.dicom.segmentation import read_segmentation
from longilesion.dicom.structure_set import read_structure_set
from longilesion.dicom.volume import open_dicom
from longilesion.errors import InputError
from longilesion.geometry import Grid

__all__ = ["find_lesions", "open_dicom", "read_lesions"]


def read_lesions(path: Path, like: Grid, frame_of_reference_uid: str = "") -> LesionMap:
    """The lesions of a SEG or RTSTRUCT on a scan's voxels; in a folder, of the one such file in it."""
    file, kind = find_lesions(path)
    return _READERS[kind](file, like, frame_of_reference_uid=frame_of_reference_uid)


def find_lesions(path: Path) -> tuple[Path, str]:
    """The one SEG or RTSTRUCT of a folder, or a file itself, and which of both it is.

    Raises InputError where there is none, or several.
    """
    found = {file: kind for file in dicom_files(path) if (kind := read_attributes(file).get("Modality")) in _READERS}
    if len(found) != 1:
        names = f": {', '.join(file.name for file in found)}" if found else ""
        raise InputError(f"{path}: {len(found)} segmentations or structure sets{names}; expected one SEG or RTSTRUCT")
    ((file, kind),) = found.items()
    return file, kind


_READERS = {"SEG": read_segmentation, "RTSTRUCT": read_structure_set}
