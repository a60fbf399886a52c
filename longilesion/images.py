"""Scans and lesion maps from and to image files, with the geometry of the file's header."""

from __future__ import annotations

import gzip
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk
from jaxtyping import Int16, UInt16
from numpy.typing import NDArray

from longilesion.case import AIR_HU, LesionMap, Scan
from longilesion.errors import InputError
from longilesion.geometry import Grid

READABLE = (".mha", ".mhd", ".nii", ".nii.gz", ".nrrd", ".tif", ".tiff")
WRITABLE = (".mha", ".nii", ".nii.gz", ".nrrd")

# How far an entry of the direction matrix may lie from the nearest rotation or reflection.
DIRECTION_TOLERANCE = 1e-2

Voxels: TypeAlias = NDArray[Any]

# ITK would print its warnings (metadata it does not know, say) to stderr, where a line means trouble with the case.
sitk.ProcessObject.SetGlobalWarningDisplay(False)
# ITK's NIfTI reader refuses the slightest shear. It shall pass all, and `_direction` judges.
os.environ.setdefault("ITK_NIFTI_SFORM_PERMISSIVE", "ON")


def read_scan(path: Path) -> Scan:
    """Reads a CT volume of any integer or floating-point type; values below air (padding) become air.

    Raises InputError for anything but a complete 3D volume of single finite values on an orthonormal grid.
    """
    reader = _opened(path)
    grid = _grid(reader, path)
    image = _read(reader, path)
    # The view is valid only as long as `image` lives.
    return Scan(hu=_hounsfield(sitk.GetArrayViewFromImage(image), path), grid=grid)


def read_lesion_map(path: Path, *, like: Grid | None = None, of: str = "its scan") -> LesionMap:
    """Reads the lesion ids that belong to what has the grid `like` (`of`, for messages), which the map takes over.

    Without `like`, the map has the grid of its own file. Raises InputError where the file is not a volume of ids, or
    its voxels are not those of `like`.
    """
    reader = _opened(path)
    grid = _grid(reader, path)
    if like is not None and grid.shape_zyx != like.shape_zyx:
        raise InputError(f"{path}: mask of {_size(grid)} voxels; expected {_size(like)}, the size of {of}")
    # Below half a voxel, looking up the nearest voxel would change nothing: the header was merely rounded.
    if like is not None and not grid.matches(like, tolerance_mm=min(like.spacing_zyx_mm) / 2):
        raise InputError(
            f"{path}: mask with another origin, spacing or direction than {of}: {_place(grid)}; expected {_place(like)}"
        )
    image = _read(reader, path)
    return LesionMap(ids=_lesion_ids(sitk.GetArrayViewFromImage(image), path), grid=like or grid)


def write_lesion_map(path: Path, lesion_map: LesionMap, *, like: Path) -> None:
    """Writes a lesion map with the header geometry of the image `like`, in the format of the path's suffix.

    In a .mha the geometry is equal to the last bit; the other formats round it to their own precision. It is copied
    from the file because a grid holds the product of spacing and direction, which cannot be taken apart exactly.
    """
    check_writable_format(path)
    header = _opened(like)
    image = sitk.GetImageFromArray(lesion_map.compact_ids)
    image.SetOrigin(header.GetOrigin())
    image.SetSpacing(header.GetSpacing())
    image.SetDirection(header.GetDirection())
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be written ({_reason(error)})") from error


def check_lesion_map(path: Path, *, written: LesionMap) -> None:
    """Raises InputError unless a file holds the lesion map that was written to it: its place, and each voxel."""
    found = read_lesion_map(path, like=written.grid, of="the map")
    if not np.array_equal(found.ids, written.ids):
        raise InputError(f"{path}: other voxels than the map's; expected all of them")


def check_writable_format(path: Path) -> None:
    """Raises InputError where a path's suffix names no format that lesion maps are written in."""
    if not path.name.lower().endswith(WRITABLE):
        raise InputError(f"{path}: unknown image format; expected one of {', '.join(WRITABLE)}")


def _opened(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header of a complete 3D volume with one real value per voxel."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected an image")
    if not path.name.lower().endswith(READABLE):
        raise InputError(f"{path}: unknown image format; expected one of {', '.join(READABLE)}")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: unreadable image ({_reason(error)}); expected a 3D volume") from error
    if reader.GetDimension() != 3:
        raise InputError(f"{path}: {reader.GetDimension()}D image; expected a 3D volume")
    if reader.GetNumberOfComponents() != 1:
        found = f"{reader.GetNumberOfComponents()} values per voxel (RGB, vector or complex)"
        raise InputError(f"{path}: {found}; expected one")
    if min(reader.GetSize()) < 1:
        raise InputError(f"{path}: image without voxels; expected a 3D volume")
    if not _is_complete(reader, path):
        raise InputError(f"{path}: truncated image; expected a complete file")
    return reader


def _read(reader: sitk.ImageFileReader, path: Path) -> sitk.Image:
    try:
        with _quiet_libraries():
            image: sitk.Image = reader.Execute()
    except RuntimeError as error:
        # ITK's reason misleads here: of a truncated file it says that there is none.
        raise InputError(f"{path}: voxels cannot be read, truncated or damaged; expected a complete file") from error
    return image


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps the C++ libraries' own words off stderr: MetaIO prints its reason for a failure, which ITK then raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _is_complete(reader: sitk.ImageFileReader, path: Path) -> bool:
    """Whether a NIfTI or TIFF file is as long as its header says; ITK itself notices in the other formats.

    Of a truncated NIfTI it would return what was in memory, of a TIFF fewer slices.
    """
    name = path.name.lower()
    if name.endswith((".tif", ".tiff")):
        return _has_all_tiff_directories(path)
    if not name.endswith((".nii", ".nii.gz")):
        return True
    voxel_bytes = int(reader.GetMetaData("bitpix")) // 8
    expected = int(float(reader.GetMetaData("vox_offset"))) + voxel_bytes * int(np.prod(reader.GetSize()))
    if name.endswith(".nii") and not _is_gzip(path):
        return path.stat().st_size >= expected
    return _has_gzip_content(path, expected)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _has_gzip_content(path: Path, expected: int) -> bool:
    """Whether a gzip file unpacks to at least the expected number of bytes.

    Its last four bytes tell the length (modulo 2^32), which saves unpacking unless the file has several members.
    """
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        if struct.unpack("<I", file.read(4))[0] == expected % 2**32:
            return True
    try:
        with gzip.open(path) as unpacked:
            return unpacked.seek(expected) == expected
    except (EOFError, OSError):
        return False


def _has_all_tiff_directories(path: Path) -> bool:
    """Whether the chain of a TIFF's directories, one per slice, is unbroken."""
    with path.open("rb") as file:
        order, version = {b"II": "<", b"MM": ">"}.get(file.read(2), "<"), file.read(2)
        is_big = struct.unpack(order + "H", version)[0] == 43
        count, entry_bytes, offset = (order + "Q", 20, order + "Q") if is_big else (order + "H", 12, order + "I")
        position = 8 if is_big else 4
        while True:
            file.seek(position)
            field = file.read(struct.calcsize(offset))
            if len(field) < struct.calcsize(offset):
                return False
            directory = struct.unpack(offset, field)[0]
            if directory == 0:
                return True
            file.seek(directory)
            field = file.read(struct.calcsize(count))
            if len(field) < struct.calcsize(count):
                return False
            position = directory + len(field) + entry_bytes * struct.unpack(count, field)[0]


def _grid(reader: sitk.ImageFileReader, path: Path) -> Grid:
    x, y, z = reader.GetSize()
    geometry = (*reader.GetSpacing(), *reader.GetOrigin(), *reader.GetDirection())
    if not np.isfinite(geometry).all() or min(reader.GetSpacing()) <= 0:
        raise InputError(f"{path}: spacing {reader.GetSpacing()}, origin {reader.GetOrigin()}; expected finite, over 0")
    direction = _direction(reader)
    left, _, right = np.linalg.svd(direction)
    # The nearest orthonormal matrix: the polar decomposition without its stretch.
    nearest = left @ right
    deviation = float(np.abs(direction - nearest).max())
    if deviation > DIRECTION_TOLERANCE:
        raise InputError(
            f"{path}: direction matrix is off orthonormal by {deviation:.2g}; expected at most {DIRECTION_TOLERANCE:g}"
        )
    return Grid.from_spacing((z, y, x), reader.GetSpacing()[::-1], origin_xyz_mm=reader.GetOrigin(), direction=nearest)


def _direction(reader: sitk.ImageFileReader) -> NDArray[np.float64]:
    """The direction matrix as the file has it, also where ITK has already straightened a NIfTI's."""
    if reader.HasMetaDataKey("ITK_sform_corrected") and reader.GetMetaData("ITK_sform_corrected") == "YES":
        rows = [reader.GetMetaData(f"srow_{axis}").split()[:3] for axis in "xyz"]
        matrix = np.array(rows, dtype=np.float64)
        matrix /= np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)
        return matrix
    return np.array(reader.GetDirection(), dtype=np.float64).reshape(3, 3)


def _hounsfield(values: Voxels, path: Path) -> Int16[np.ndarray, "z y x"]:
    hu = np.empty(values.shape, np.int16)
    highest = np.iinfo(np.int16).max
    # Slice by slice, so that the temporary copies stay small.
    for target, plane in zip(hu, values, strict=True):
        if values.dtype == np.int16:
            np.maximum(plane, AIR_HU, out=target)
            continue
        exact = plane.astype(np.float64)
        if not np.isfinite(exact).all():
            raise InputError(f"{path}: NaN or infinite voxels; expected Hounsfield units")
        target[:] = np.clip(np.rint(exact), AIR_HU, highest)
    return hu


def _lesion_ids(values: Voxels, path: Path) -> UInt16[np.ndarray, "z y x"]:
    ids = np.zeros(values.shape, np.uint16)
    highest = np.iinfo(np.uint16).max
    for target, plane in zip(ids, values, strict=True):
        if not plane.any():
            # Most slices; as nothing is written to them, they take no memory.
            continue
        if np.issubdtype(plane.dtype, np.floating) and not (plane == np.rint(plane)).all():
            raise InputError(f"{path}: mask with fractional or NaN values; expected lesion ids")
        if plane.min() < 0 or plane.max() > highest:
            raise InputError(
                f"{path}: mask with values from {plane.min():g} to {plane.max():g}; expected 0 to {highest}"
            )
        target[:] = plane
    return ids


def _place(grid: Grid) -> str:
    """Where a grid lies, as ITK says it: of the direction, only the columns of the axes."""
    step_xyz = grid.spacing_zyx_mm[::-1]
    named = {
        "origin": grid.world_xyz_mm((0, 0, 0)),
        "spacing": step_xyz,
        "direction": (grid.world_from_voxel[:3, :3] / step_xyz).ravel(),
    }
    return ", ".join(f"{name} {' '.join(f'{number:.6g}' for number in numbers)}" for name, numbers in named.items())


def _size(grid: Grid) -> str:
    return " x ".join(str(length) for length in grid.shape_zyx[::-1])


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, without its marker and the file's address in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR:").removeprefix("ITK ERROR:").strip() if lines else "no reason given"
