"""Scans and lesion maps from and to image files, with the geometry of the file's header."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Int16, UInt16
from numpy.typing import NDArray

from longilesion.case import AIR_HU, HIGHEST_ID, HIGHEST_PADDING_HU, PADDING_HU, Identity, LesionMap, Scan
from longilesion.dicom.files import is_dicom
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.hounsfield import IntensitySample, implausibility
from longilesion.image_file import ImageFile
from longilesion.itk_file import METAIMAGE_SUFFIXES, NRRD_SUFFIXES, itk_reason, open_itk, write_itk

NIFTI_SUFFIXES = (".nii", ".nii.gz")
READABLE = (*METAIMAGE_SUFFIXES, *NIFTI_SUFFIXES, *NRRD_SUFFIXES)
WRITABLE = (".mha", *NIFTI_SUFFIXES, *NRRD_SUFFIXES)

Implausible: TypeAlias = Literal["refuse", "warn"]

# First bytes of file types that are often given by mistake.
_SIGNATURES = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"NRRD": "an NRRD image",
    b"ObjectType": "a MetaImage",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a Git LFS pointer to the file, not the file",
    b"<": "a web page or XML",
    b"{": "JSON",
}

_log = logging.getLogger(__name__)


def read_scan(path: str | Path, *, series: str | None = None, implausible: Implausible = "refuse") -> Scan:
    """Reads a CT volume of any integer or floating-point type; values below air become air, or padding.

    `series` is the number or UID of one of several DICOM series.

    Raises InputError for anything but a complete 3D volume of finite scalars on a regular grid. Values that cannot be
    Hounsfield units raise InputError as well, or, with "warn", are logged as a warning.
    """
    path = Path(path)
    image = _opened(path, series)
    sample = IntensitySample(image.grid.shape_zyx)
    hu = _hounsfield(sample.taken(image.planes()), image)
    finding = implausibility(sample)
    if finding is not None and implausible == "refuse":
        raise InputError(f"{path}: {finding}")
    if finding is not None:
        _log.warning("%s: %s", path, finding)
    return Scan(hu=hu, grid=image.grid, identity=image.identity)


def read_lesion_map(
    path: Path, *, like: Grid | None = None, of: str = "its scan", identity: Identity | None = None
) -> LesionMap:
    """Reads a label map for the image with the grid `like` (`of` names it in messages); the map gets that grid.

    DICOM SEG and RTSTRUCT need `like`, and are compared with the frame of reference of the scan's `identity`. Without
    `like`, the map has the grid of its own file. Raises InputError where the file is no volume of lesion ids,
    or its voxels are not those of `like`.
    """
    if path.exists() and is_dicom(path):
        if like is None:
            raise InputError(f"{path}: DICOM, read only on the voxels of its scan; expected another image file")
        frame = "" if identity is None else identity.frame_of_reference_uid
        lesions: LesionMap = _dicom_module(path).read_lesions(path, like, frame)
        return lesions
    image = _opened(path)
    grid = image.grid
    if like is not None and grid.shape_zyx != like.shape_zyx:
        raise InputError(f"{path}: mask of {_size(grid)} voxels; expected {_size(like)}, the size of {of}")
    # Below half a voxel, nearest-neighbour resampling would change nothing: the header was merely rounded.
    if like is not None and not grid.matches(like, tolerance_mm=min(like.spacing_zyx_mm) / 2):
        raise InputError(
            f"{path}: mask with another origin, spacing or direction than {of}: {_place(grid)}; expected {_place(like)}"
        )
    return LesionMap(ids=_lesion_ids(image), grid=like or grid, candidates=image.candidates)


def write_lesion_map(path: Path, lesion_map: LesionMap, *, like: Path | ImageFile, description: str = "") -> None:
    """Writes a lesion map with the header geometry of the image `like`, in the format of the path's suffix.

    `description` is a text of up to 79 letters for the header.

    It is bit-identical from MetaImage or NRRD to .mha, and from NIfTI to NIfTI, where sform and qform are copied; other
    pairs of formats round it to their own precision. It is copied from the file because a grid holds the product
    of spacing and direction, which cannot be taken apart exactly.
    """
    check_writable_format(path)
    scan = open_image(like) if isinstance(like, Path) else like
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        try:
            write_itk(
                path, lesion_map.compact_ids, like=scan, candidates=lesion_map.candidates, description=description
            )
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be written ({itk_reason(error)})") from error
        return
    from longilesion.nifti import write_nifti

    try:
        write_nifti(path, lesion_map.compact_ids, like=scan, candidates=lesion_map.candidates, description=description)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_lesion_map(path: Path, *, written: LesionMap) -> None:
    """Raises InputError unless a file holds the lesion map that was written to it: geometry, voxels, candidates."""
    image = open_image(path)
    if not image.grid.matches(written.grid, tolerance_mm=min(written.grid.spacing_zyx_mm) / 2):
        raise InputError(f"{path}: {_place(image.grid)}; expected the map's {_place(written.grid)}")
    if image.candidates != written.candidates:
        raise InputError(f"{path}: candidates {image.candidates}; expected the map's {written.candidates}")
    # Slice by slice: a second volume would double the memory.
    if not all(np.array_equal(plane, ids) for plane, ids in zip(image.planes(), written.ids, strict=True)):
        raise InputError(f"{path}: other voxels than the map's; expected all of them")


def check_writable_format(path: Path) -> None:
    """Raises InputError where a path's suffix is not that of a format in which lesion maps can be written."""
    if not path.name.lower().endswith(WRITABLE):
        raise InputError(f"{path}: unknown image format; expected one of {', '.join(WRITABLE)}")


def open_image(path: Path, series: str | None = None) -> ImageFile:
    """Reads a header by the reader of its format; raises InputError for any but a 3D volume on a CT grid.

    `series` is the number or UID of one of several DICOM series.
    """
    if path.exists() and is_dicom(path):
        image: ImageFile = _dicom_module(path).open_dicom(path, series)
        return image
    if series is not None:
        raise InputError(f"{path}: no DICOM, so that series {series} cannot be chosen; expected DICOM files")
    _check_is_image(path)
    if not path.name.lower().endswith(NIFTI_SUFFIXES):
        return open_itk(path)
    # Imported late: nibabel takes a while to load, and no other format needs it.
    from longilesion.nifti import open_nifti

    return open_nifti(path)


def _opened(path: Path, series: str | None = None) -> ImageFile:
    image = open_image(path, series)
    for remark in image.remarks:
        _log.warning("%s: %s", path, remark)
    return image


def _check_is_image(path: Path) -> None:
    """Raises InputError, with what was found, where a path is no file of a supported format."""
    if path.is_dir():
        raise InputError(f"{path}: a folder without DICOM files; expected an image file, or DICOM")
    if not path.exists():
        raise InputError(f"{path}: no such file; expected an image")
    content = _content(path)
    if content == "an empty file":
        raise InputError(f"{path}: an empty file; expected an image")
    name = path.name.lower()
    if name.endswith((".hdr", ".img")):
        raise InputError(
            f"{path}: half of a pair of .hdr and .img; expected one file, .nii or .nii.gz: convert the pair"
        )
    if not name.endswith(READABLE):
        found = "unknown image format" if content is None else f"unknown image format, {content}"
        raise InputError(f"{path}: {found}; expected one of {', '.join(READABLE)}")
    fitting = {METAIMAGE_SUFFIXES: "a MetaImage", NIFTI_SUFFIXES: "a gzip file", NRRD_SUFFIXES: "an NRRD image"}
    if content not in (None, *(found for suffixes, found in fitting.items() if name.endswith(suffixes))):
        raise InputError(f"{path}: {content}, not the image that its suffix promises; expected a 3D volume")


def _content(path: Path) -> str | None:
    """The type of a file by its first bytes, where it is a known one other than a supported image."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file that can be read") from error
    if not start:
        return "an empty file"
    return next((name for signature, name in _SIGNATURES.items() if start.startswith(signature)), None)


def _dicom_module(path: Path) -> ModuleType:
    # Imported late, as the container does without pydicom.
    try:
        from longilesion.dicom import reading
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: DICOM, for which the package {error.name} is missing here; expected another image file"
        ) from error
    return reading


def _hounsfield(planes: Iterable[NDArray[Any]], image: ImageFile) -> Int16[np.ndarray, "z y x"]:
    hu = np.empty(image.grid.shape_zyx, np.int16)
    highest = np.iinfo(np.int16).max
    for target, plane in zip(hu, planes, strict=True):
        if plane.dtype == np.int16:
            np.maximum(plane, AIR_HU, out=target)
        else:
            exact = plane.astype(np.float64)
            if not np.isfinite(exact).all():
                raise InputError(f"{image.path}: NaN or infinite voxels; expected Hounsfield units")
            target[:] = np.clip(np.rint(exact), AIR_HU, highest)
        np.copyto(target, PADDING_HU, where=plane <= HIGHEST_PADDING_HU)
    return hu


def _lesion_ids(image: ImageFile) -> UInt16[np.ndarray, "z y x"]:
    ids = np.zeros(image.grid.shape_zyx, np.uint16)
    for target, plane in zip(ids, image.planes(), strict=True):
        if not plane.any():
            # Most slices are empty; pages of zeros that are never written take no memory.
            continue
        if np.issubdtype(plane.dtype, np.floating) and not (plane == np.rint(plane)).all():
            raise InputError(f"{image.path}: mask with fractional or NaN values; expected lesion ids")
        if plane.min() < 0 or plane.max() > HIGHEST_ID:
            raise InputError(
                f"{image.path}: mask with values from {plane.min():g} to {plane.max():g}; expected 0 to {HIGHEST_ID}"
            )
        target[:] = plane
    return ids


def _place(grid: Grid) -> str:
    """A grid's geometry in ITK's terms, for messages; of the direction, only the columns of the axes."""
    step_xyz = grid.spacing_zyx_mm[::-1]
    named = {
        "origin": grid.world_xyz_mm((0, 0, 0)),
        "spacing": step_xyz,
        "direction": (grid.world_from_voxel[:3, :3] / step_xyz).ravel(),
    }
    return ", ".join(f"{name} {' '.join(f'{number:.6g}' for number in numbers)}" for name, numbers in named.items())


def _size(grid: Grid) -> str:
    return " x ".join(str(length) for length in grid.shape_zyx[::-1])
