"""An opened image file: its geometry, and its voxels slice by slice."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase, RawIOBase
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from longilesion.case import Identity
from longilesion.errors import InputError
from longilesion.geometry import ZYX, Grid

# Largest deviation of an entry of the direction matrix from the nearest rotation or reflection.
DIRECTION_TOLERANCE = 1e-2
# Plausible spacing of CT voxels along an axis, in mm; anything else is in another unit.
LEAST_SPACING_MM, MOST_SPACING_MM = 0.01, 100.0
# Entry of a lesion map's header with the ids of candidates, separated by spaces.
CANDIDATES_ENTRY = "LesionCandidates"
GZIP_MAGIC = b"\x1f\x8b"
# Greatest compression ratio of the deflate algorithm.
MOST_COMPRESSION = 1032
# Small, as the unused rest is copied at each read.
_PACKED_BYTES = 1 << 17
# Lets zlib detect its own format and gzip's.
_ZLIB_OR_GZIP = 47

Plane: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageFile:
    """A 3D volume with one real value per voxel, whose header has been read.

    `spacing_xyz_mm`, `origin_xyz_mm` and `direction` (by rows) are the geometry as ITK describes one, in LPS. `nifti`
    is the header of a NIfTI file. `planes` gives the slices along the last axis, each of y and x. `remarks` are
    warnings about inconsistencies of the header. `candidates` are the ids that a lesion map's header marks as such.
    `identity` is that of a DICOM series.
    """

    path: Path
    grid: Grid
    spacing_xyz_mm: tuple[float, ...]
    origin_xyz_mm: tuple[float, ...]
    direction: tuple[float, ...]
    planes: Callable[[], Iterator[Plane]]
    nifti: Any = None
    remarks: tuple[str, ...] = ()
    candidates: tuple[int, ...] = ()
    identity: Identity | None = None


class InflatedStream(RawIOBase):
    """The content of a zlib stream, or of a gzip file with one or more members; raises zlib.error for damaged data.

    Python's gzip module is slower, as it decompresses a few kilobytes at a time.
    """

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._inflater = zlib.decompressobj(_ZLIB_OR_GZIP)

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Unpacks up to the buffer's length; 0 at the end, also at one that comes early."""
        content = b""
        while not content:
            if self._inflater.eof:
                packed = self._inflater.unused_data + self._file.read(_PACKED_BYTES)
                if not packed.startswith(GZIP_MAGIC):
                    break
                self._inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
            else:
                packed = self._inflater.unconsumed_tail or self._file.read(_PACKED_BYTES)
            content = self._inflater.decompress(packed, len(buffer))
            if not packed and not content:
                break
        buffer[: len(content)] = content
        return len(content)


def candidates_text(candidates: Sequence[int]) -> str:
    """The value of the entry `CANDIDATES_ENTRY` for these ids."""
    return " ".join(map(str, candidates))


def candidates_of(text: str) -> tuple[int, ...]:
    """The ids in such a value; none in a value of another kind, which is another program's."""
    words = text.split()
    return tuple(map(int, words)) if all(word.isascii() and word.isdigit() for word in words) else ()


def check_geometry(path: Path, world_from_voxel: Float64[np.ndarray, "4 4"], *, remark: str = "") -> None:
    """Raises InputError for a geometry that is no regular grid of CT voxels; `remark` is appended on their size."""
    columns = world_from_voxel[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if not np.isfinite(world_from_voxel).all() or not spacing.all():
        raise InputError(
            f"{path}: spacing {_numbers(spacing)}, origin {_numbers(world_from_voxel[:3, 3])}; expected finite, over 0"
        )
    if spacing.min() < LEAST_SPACING_MM or spacing.max() > MOST_SPACING_MM:
        expected = f"{LEAST_SPACING_MM:g} to {MOST_SPACING_MM:g} mm"
        raise InputError(
            f"{path}: voxels of {_numbers(spacing, ' x ')} mm{remark}; expected {expected} along each axis"
        )
    direction = columns / spacing
    left, _, right = np.linalg.svd(direction)
    # The nearest orthonormal matrix: the polar decomposition without its stretch.
    deviation = float(np.abs(direction - left @ right).max())
    if deviation > DIRECTION_TOLERANCE:
        raise InputError(
            f"{path}: sheared axes, its direction matrix is off orthonormal by {deviation:.2g}; expected at most "
            f"{DIRECTION_TOLERANCE:g}: resample it to a grid with right angles, or convert it from DICOM with a "
            "correction for gantry tilt"
        )


def volume_size_xyz(path: Path, size: Sequence[int]) -> tuple[int, int, int]:
    """The numbers of voxels along x, y and z; raises InputError for anything but one 3D volume that has voxels."""
    if len(size) < 3:
        raise InputError(f"{path}: {len(size)}D image; expected a 3D volume")
    if min(size) < 1:
        raise InputError(f"{path}: image without voxels; expected a 3D volume")
    if any(length > 1 for length in size[3:]):
        found = f"of {size[3]} time points" if len(size) == 4 else f"of {' x '.join(map(str, size))} voxels"
        raise InputError(f"{path}: {len(size)}D image {found}; expected a 3D volume, one of them in a file of its own")
    x, y, z = (int(length) for length in size[:3])
    return x, y, z


def check_length(path: Path, *, voxel_bytes: int, file_bytes: int, is_compressed: bool) -> None:
    """Raises InputError where a file is too short for its voxels, before any memory is taken for them."""
    if voxel_bytes > file_bytes * (MOST_COMPRESSION if is_compressed else 1):
        raise InputError(
            f"{path}: truncated image of {file_bytes} bytes for {voxel_bytes} bytes of voxels; expected a complete file"
        )


def read_planes(
    stream: BufferedIOBase | RawIOBase, path: Path, *, dtype: np.dtype[Any], shape_zyx: ZYX
) -> Iterator[Plane]:
    """Reads slice after slice; raises InputError where the stream ends early.

    Damage that decompression finds is raised as the decompressor does (EOFError, OSError, zlib.error).
    """
    slices, *plane_shape = shape_zyx
    for index in range(slices):
        plane = np.empty(plane_shape, dtype)
        bytes_left = memoryview(plane.data).cast("B")
        while bytes_left:
            count = stream.readinto(bytes_left)
            if not count:
                raise InputError(f"{path}: truncated image, {index} of {slices} slices; expected a complete file")
            bytes_left = bytes_left[count:]
        if index == slices - 1:
            # The checksum of a compressed stream follows its last byte, and is compared when that is read.
            stream.read(1)
        yield plane


def _numbers(values: NDArray[np.float64], separator: str = ", ") -> str:
    return separator.join(f"{value:.6g}" for value in values)
