"""MetaImage (.mha, .mhd) and NRRD files, read and written by ITK, except the voxels of a MetaImage.

ITK raises no error for a damaged compressed MetaImage: it only writes to stderr, and returns what decompression left in
memory. So these voxels are read here.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from jaxtyping import UInt8, UInt16

from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.image_file import (
    CANDIDATES_ENTRY,
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

METAIMAGE_SUFFIXES = (".mha", ".mhd")
NRRD_SUFFIXES = (".nrrd",)

_DTYPES: Mapping[int, str] = {
    sitk.sitkInt8: "i1",
    sitk.sitkUInt8: "u1",
    sitk.sitkInt16: "i2",
    sitk.sitkUInt16: "u2",
    sitk.sitkInt32: "i4",
    sitk.sitkUInt32: "u4",
    sitk.sitkInt64: "i8",
    sitk.sitkUInt64: "u8",
    sitk.sitkFloat32: "f4",
    sitk.sitkFloat64: "f8",
}
# The header is text; its last entry names the file with the voxels, or LOCAL.
_LAST_ENTRY = "ElementDataFile"
_LONGEST_HEADER = 1 << 20
_NEEDED_ENTRIES = {"NDims", "DimSize", "ElementType"}


def open_itk(path: Path) -> ImageFile:
    """Reads the header; raises InputError for anything but a 3D volume of real values on a CT grid."""
    is_metaimage = _is_metaimage(path)
    if is_metaimage:
        # ITK would write to stderr about a damaged header.
        _metaimage_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO" if is_metaimage else "NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: unreadable image ({itk_reason(error)}); expected a 3D volume") from error
    x, y, z = volume_size_xyz(path, reader.GetSize())
    if reader.GetPixelID() not in _DTYPES:
        found = f"{reader.GetNumberOfComponents()} values per voxel (RGB, vector or complex)"
        raise InputError(f"{path}: {found}; expected one")
    dimension = reader.GetDimension()
    spacing, origin = reader.GetSpacing()[:3], reader.GetOrigin()[:3]
    direction = np.array(reader.GetDirection()).reshape(dimension, dimension)[:3, :3]
    if not min(spacing) > 0:
        raise InputError(f"{path}: spacing {spacing}; expected numbers over 0")
    grid = Grid.from_spacing((z, y, x), spacing[::-1], origin_xyz_mm=origin, direction=direction)
    check_geometry(path, grid.world_from_voxel)
    dtype = np.dtype(_DTYPES[reader.GetPixelID()])
    candidates = reader.GetMetaData(CANDIDATES_ENTRY) if reader.HasMetaDataKey(CANDIDATES_ENTRY) else ""
    return ImageFile(
        path=path,
        grid=grid,
        spacing_xyz_mm=tuple(spacing),
        origin_xyz_mm=tuple(origin),
        direction=tuple(direction.ravel().tolist()),
        planes=_voxels_of_metaimage(path, grid, dtype) if is_metaimage else partial(_nrrd_planes, reader, path, grid),
        candidates=candidates_of(candidates),
    )


def write_itk(
    path: Path,
    ids: UInt8[np.ndarray, "z y x"] | UInt16[np.ndarray, "z y x"],
    *,
    like: ImageFile,
    candidates: Sequence[int] = (),
    description: str = "",
) -> None:
    """Writes a label map with the geometry of its scan's file; raises RuntimeError where writing fails.

    The ids of candidates, and a description, are entries of the header, if there are any.
    """
    image = sitk.GetImageFromArray(ids)
    image.SetSpacing(like.spacing_xyz_mm)
    image.SetOrigin(like.origin_xyz_mm)
    image.SetDirection(like.direction)
    if candidates:
        image.SetMetaData(CANDIDATES_ENTRY, candidates_text(candidates))
    if description:
        image.SetMetaData("Comment", description)
    # With the suffix .MHA in capitals, ITK would write a header without voxels.
    written = path.with_name(path.stem + path.suffix.lower())
    try:
        sitk.WriteImage(image, str(written), useCompression=True)
        written.replace(path)
    finally:
        if written != path:
            # What a write that failed has left.
            written.unlink(missing_ok=True)


def voxel_file(path: Path) -> Path:
    """The file with an image's voxels: that of a MetaImage's header, any other image itself; raises InputError."""
    return _source(path, _metaimage_header(path)[0]) if _is_metaimage(path) else path


def itk_reason(error: RuntimeError) -> str:
    """The last line of ITK's message, without its marker and the file's address in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR:").removeprefix("ITK ERROR:").strip() if lines else "no reason given"


def _is_metaimage(path: Path) -> bool:
    return path.name.lower().endswith(METAIMAGE_SUFFIXES)


def _nrrd_planes(reader: sitk.ImageFileReader, path: Path, grid: Grid) -> Iterator[Plane]:
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{path}: truncated or damaged image ({itk_reason(error)}); expected a complete file"
        ) from error
    # The view is valid only as long as `image` lives.
    yield from sitk.GetArrayViewFromImage(image).reshape(grid.shape_zyx)


def _voxels_of_metaimage(path: Path, grid: Grid, dtype: np.dtype[Any]) -> Callable[[], Iterator[Plane]]:
    """A reader for a MetaImage's voxels; raises InputError where the file is too short for all of them."""
    entries, header_bytes = _metaimage_header(path)
    source = _source(path, entries)
    if entries.get("BinaryData", "True").lower() != "true":
        raise InputError(f"{path}: voxels written as text; expected binary ones")
    is_compressed = entries.get("CompressedData", "").lower() == "true"
    order = entries.get("BinaryDataByteOrderMSB", entries.get("ElementByteOrderMSB", "")).lower()
    voxel_bytes = int(np.prod(grid.shape_zyx, dtype=object)) * dtype.itemsize
    file_bytes = source.stat().st_size
    skipped = header_bytes if source == path else int(entries.get("HeaderSize", 0))
    if skipped < 0:
        # The voxels are at the end of the file.
        skipped = max(file_bytes - voxel_bytes, 0)
    check_length(source, voxel_bytes=voxel_bytes, file_bytes=file_bytes - skipped, is_compressed=is_compressed)
    return partial(
        _metaimage_planes,
        source,
        grid,
        dtype=dtype.newbyteorder(">" if order == "true" else "<"),
        skipped=skipped,
        is_compressed=is_compressed,
    )


def _metaimage_planes(
    source: Path, grid: Grid, *, dtype: np.dtype[Any], skipped: int, is_compressed: bool
) -> Iterator[Plane]:
    try:
        with io.BufferedReader(io.FileIO(source), 1 << 20) as file:
            file.seek(skipped)
            stream = InflatedStream(file) if is_compressed else file
            yield from read_planes(stream, source, dtype=dtype, shape_zyx=grid.shape_zyx)
    except zlib.error as error:
        raise InputError(f"{source}: truncated or damaged image ({error}); expected a complete file") from error
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}; expected a file that can be read") from error


def _metaimage_header(path: Path) -> tuple[dict[str, str], int]:
    """The entries of a header, and its length in bytes."""
    entries: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < _LONGEST_HEADER and (line := file.readline(_LONGEST_HEADER)):
            key, _, value = line.partition(b"=")
            entries[key.strip().decode("latin-1")] = value.strip().decode(errors="surrogateescape")
            if key.strip() == _LAST_ENTRY.encode():
                break
        header_bytes = file.tell()
    if missing := sorted({*_NEEDED_ENTRIES, _LAST_ENTRY} - entries.keys()):
        raise InputError(f"{path}: unreadable image, a MetaImage without {', '.join(missing)}; expected a 3D volume")
    return entries, header_bytes


def _source(path: Path, entries: Mapping[str, str]) -> Path:
    """The file that holds a MetaImage's voxels."""
    return path if entries[_LAST_ENTRY].lower() == "local" else _data_file(path, entries)


def _data_file(path: Path, entries: Mapping[str, str]) -> Path:
    name = entries[_LAST_ENTRY]
    if not name or name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path}: voxels in {name or 'no file'}; expected them in one file")
    source = path.parent / name
    if not source.is_file():
        raise InputError(f"{path}: its voxels are missing; expected them in {source}")
    return source
