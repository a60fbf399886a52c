"""NIfTI-1 and NIfTI-2 files, compressed or not: geometry, voxels, and writing label maps that match them.

A NIfTI header has up to two forms of its geometry. As in the standard and in nibabel, the sform takes precedence where
its code is not 0, then the qform, then the voxel sizes alone. Contradictions between them are reported as remarks.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase, BufferedReader, BytesIO, FileIO
from logging import Logger, NullHandler
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64, Shaped, UInt8, UInt16
from nibabel.nifti1 import Nifti1Extension, Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.image_file import (
    CANDIDATES_ENTRY,
    GZIP_MAGIC,
    ImageFile,
    InflatedStream,
    Plane,
    candidates_of,
    candidates_text,
    check_geometry,
    check_length,
    read_planes,
    volume_size_xyz,
)

SUFFIXES = (".nii", ".nii.gz")

Header: TypeAlias = Any  # nibabel has no types

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# By the three lowest bits of xyzt_units. Many programs leave them 0, "unknown", and mean millimetres.
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_UNIT_NAMES = {1: "metre", 3: "micrometre"}
# The header fields of the geometry.
_GEOMETRY = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
# Largest distance, in voxels, between the positions of a voxel by two forms that is not reported.
_TOLERANCE_VOXELS = 0.1
_SCANNER = 1
# Of gzip's compression.
_LEVEL = 6
# A header extension of plain text.
_COMMENT = 6
_CANDIDATES = re.compile(rf"{CANDIDATES_ENTRY} = ([0-9 ]+)".encode())

# Discards nibabel's messages: the header fields that it corrects affect neither the voxels' values nor their positions.
_silent = Logger(f"{__name__}.header")
_silent.addHandler(NullHandler())


def open_nifti(path: Path) -> ImageFile:
    """Reads the header; raises InputError for anything but a 3D volume of real values on a CT grid."""
    stored = _stored_header(path)
    header = stored.copy()
    try:
        header.check_fix(logger=_silent, error_level=40)
        x, y, z = volume_size_xyz(path, header.get_data_shape())
        world_from_voxel = _world_from_voxel(header, path)
        slope, intercept = header.get_slope_inter()
        offset = max(int(header["vox_offset"]), header.single_vox_offset)
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: impossible NIfTI header ({error}); expected a valid one") from error
    unit = int(header["xyzt_units"]) % 8
    remark = f", by its unit, the {_UNIT_NAMES[unit]} (xyzt_units {unit}; the mm is 2)" if unit in _UNIT_NAMES else ""
    check_geometry(path, world_from_voxel, remark=remark)
    dtype = header.get_data_dtype()
    if dtype.names is not None or dtype.kind == "c":
        raise InputError(f"{path}: several values per voxel (RGB, vector or complex); expected one")
    check_length(
        path,
        voxel_bytes=offset + x * y * z * dtype.itemsize,
        file_bytes=path.stat().st_size,
        is_compressed=_is_gzip(path),
    )
    grid = Grid(shape_zyx=(z, y, x), world_from_voxel=world_from_voxel)
    spacing = _spacing_xyz_mm(header, world_from_voxel)
    return ImageFile(
        path=path,
        grid=grid,
        spacing_xyz_mm=tuple(spacing.tolist()),
        origin_xyz_mm=tuple(world_from_voxel[:3, 3].tolist()),
        direction=tuple((world_from_voxel[:3, :3] / spacing).ravel().tolist()),
        planes=partial(
            _planes, path, grid, dtype=dtype, offset=offset, scaling=None if slope is None else (slope, intercept)
        ),
        nifti=stored,
        remarks=tuple(_remarks(header)),
        candidates=_candidates(path, header, offset),
    )


def write_nifti(
    path: Path,
    ids: UInt8[np.ndarray, "z y x"] | UInt16[np.ndarray, "z y x"],
    *,
    like: ImageFile,
    candidates: Sequence[int] = (),
    description: str = "",
) -> None:
    """Writes a label map; sform and qform are bit-identical to those of its scan where that is a NIfTI file.

    The ids of candidates are a header extension, if there are any; a description is in `descrip`. Raises OSError where
    writing fails.
    """
    header = (Nifti1Header if like.nifti is None else type(like.nifti))()
    header.set_data_shape(ids.shape[::-1])
    header.set_data_dtype(ids.dtype)
    header.set_slope_inter(1, 0)
    header["descrip"] = description.encode()
    if like.nifti is None:
        _set_geometry(header, like.grid)
    else:
        for field in _GEOMETRY:
            header[field] = like.nifti[field]
    if candidates:
        text = f"{CANDIDATES_ENTRY} = {candidates_text(candidates)}"
        header.extensions.append(Nifti1Extension(_COMMENT, text.encode()))
    with path.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            _write_compressed(file, header, ids)
        else:
            _write(file, header, ids)


def nifti_bytes(values: Shaped[np.ndarray, "z y x"], grid: Grid, *, level: int = _LEVEL) -> bytes:
    """A gzipped NIfTI-1 file of a volume, in memory; a lower level of compression is faster."""
    header = Nifti1Header()
    header.set_data_shape(values.shape[::-1])
    header.set_data_dtype(values.dtype)
    header.set_slope_inter(1, 0)
    _set_geometry(header, grid)
    content = BytesIO()
    _write_compressed(content, header, values, level=level)
    return content.getvalue()


def _write_compressed(file: Any, header: Header, values: NDArray[Any], *, level: int = _LEVEL) -> None:
    # Without a file name and a time, so that equal volumes give identical files.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=file, mtime=0) as compressed:
        _write(compressed, header, values)


def _write(file: Any, header: Header, ids: NDArray[Any]) -> None:
    header.write_to(file)
    for plane in ids:
        file.write(np.ascontiguousarray(plane, header.get_data_dtype()).tobytes())


def _set_geometry(header: Header, grid: Grid) -> None:
    """Sets sform and qform to a grid, or the sform alone where the qform, which is orthogonal, cannot represent it."""
    affine = _LPS_FROM_RAS @ grid.world_from_voxel
    header.set_xyzt_units("mm")
    header.set_qform(affine, _SCANNER)
    header.set_sform(affine, _SCANNER)
    if _distance_voxels(grid, _LPS_FROM_RAS @ header.get_qform()) > _TOLERANCE_VOXELS:
        header["qform_code"] = 0


def _stored_header(path: Path) -> Header:
    with _damage_named(path), _opened(path) as file:
        block = _read(file, Nifti2Header.template_dtype.itemsize)
    kinds: tuple[Header, ...] = (Nifti1Header, Nifti2Header)
    for kind in kinds:
        length = kind.template_dtype.itemsize
        if len(block) >= length and kind.may_contain_header(block[:length]):
            return kind(block[:length], check=False)
    raise InputError(f"{path}: unreadable image, no NIfTI header; expected a 3D volume")


def _candidates(path: Path, header: Header, offset: int) -> tuple[int, ...]:
    """The ids of candidates in an extension, which lies between the header and the voxels."""
    if offset == header.single_vox_offset:
        return ()
    with _damage_named(path), _opened(path) as file:
        found = _CANDIDATES.search(_read(file, offset))
    return () if found is None else candidates_of(found[1].decode())


def _world_from_voxel(header: Header, path: Path) -> Float64[np.ndarray, "4 4"]:
    unit = int(header["xyzt_units"]) % 8
    if unit not in _MM_PER_UNIT:
        raise InputError(f"{path}: unknown spatial unit {unit} in xyzt_units; expected 2, which is the mm")
    affine = np.asarray(header.get_best_affine(), np.float64)
    world_from_voxel = _LPS_FROM_RAS @ affine
    world_from_voxel[:3] *= _MM_PER_UNIT[unit]
    return world_from_voxel


def _spacing_xyz_mm(header: Header, world_from_voxel: Float64[np.ndarray, "4 4"]) -> Float64[np.ndarray, "3"]:
    """The voxels' sizes by the matrix; those of pixdim, without rounding errors, where both agree."""
    spacing = np.linalg.norm(world_from_voxel[:3, :3], axis=0)
    said = header["pixdim"][1:4].astype(np.float64) * _MM_PER_UNIT[int(header["xyzt_units"]) % 8]
    return np.asarray(np.where(np.isclose(said, spacing, rtol=1e-6, atol=0), said, spacing))


def _remarks(header: Header) -> Iterator[str]:
    """Contradictions of pixdim or the qform to the sform, or that the header has neither form."""
    if not int(header["sform_code"]):
        if not int(header["qform_code"]):
            yield "neither sform nor qform; its place, and which side is left, are a guess"
        return
    sform = header.get_sform()
    said, taken = np.abs(header["pixdim"][1:4].astype(np.float64)), np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(said, taken, rtol=0.01):
        sizes = [" x ".join(f"{length:.4g}" for length in lengths) for lengths in (said, taken)]
        yield f"voxels of {sizes[0]} by pixdim, {sizes[1]} by the sform; the sform is taken"
        return
    try:
        qform, _ = header.get_qform(coded=True)
    except (HeaderDataError, ValueError):
        yield "its qform is invalid; the sform is taken"
        return
    grid = Grid(shape_zyx=header.get_data_shape()[2::-1], world_from_voxel=sform)
    if qform is not None and (distance := _distance_voxels(grid, qform)) > _TOLERANCE_VOXELS:
        yield f"sform and qform place a voxel up to {distance:.1f} voxels apart; the sform is taken"


def _distance_voxels(grid: Grid, other: Float64[np.ndarray, "4 4"]) -> float:
    """The largest distance between a voxel's positions by two matrices, in multiples of the smallest spacing."""
    last_xyz = np.array(grid.shape_zyx[::-1]) - 1
    corners = np.array([[*(last_xyz * np.array(corner)), 1] for corner in np.ndindex(2, 2, 2)], np.float64)
    apart = corners @ (grid.world_from_voxel - other)[:3].T
    return float(np.linalg.norm(apart, axis=1).max() / max(min(grid.spacing_zyx_mm), 1e-12))


def _planes(
    path: Path, grid: Grid, *, dtype: np.dtype[Any], offset: int, scaling: tuple[float, float] | None
) -> Iterator[Plane]:
    with _damage_named(path), _opened(path) as file:
        _read(file, offset)
        for plane in read_planes(file, path, dtype=dtype, shape_zyx=grid.shape_zyx):
            yield plane if scaling in (None, (1.0, 0.0)) else plane.astype(np.float64) * scaling[0] + scaling[1]


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase | InflatedStream]:
    """The file's content, decompressed where it is compressed, regardless of its suffix."""
    with BufferedReader(FileIO(path), 1 << 20) as file:
        if _is_gzip(path):
            yield InflatedStream(file)
        else:
            yield file


def _read(stream: BufferedIOBase | InflatedStream, count: int) -> bytes:
    """`count` bytes, or fewer at the end of the stream."""
    content = b""
    while len(content) < count and (more := stream.read(count - len(content))):
        content += more
    return content


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except zlib.error as error:
        raise InputError(f"{path}: truncated or damaged image ({error}); expected a complete file") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; expected a file that can be read") from error


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == GZIP_MAGIC
