"""CT series as image files: Hounsfield units, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array

from longilesion.case import AIR_HU, HIGHEST_PADDING_HU, PADDING_HU, Identity
from longilesion.dicom.frame import Frame
from longilesion.dicom.series import Series, chosen_series
from longilesion.dicom.stack import Slice, Stack
from longilesion.errors import InputError
from longilesion.image_file import ImageFile, Plane, check_geometry

_LOWEST, _HIGHEST = np.iinfo(np.int16).min, np.iinfo(np.int16).max


def open_dicom(path: Path, choice: str | None = None) -> ImageFile:
    """A CT series of a folder, or of one multi-frame file; `choice` is its number in the list of series, or its UID.

    Raises InputError where there is no CT volume, or several and no choice, or its images make no regular grid.
    """
    series = chosen_series(path, choice)
    _check_units(series)
    stack = Stack.of(series)
    grid = stack.grid
    check_geometry(path, grid.world_from_voxel)
    remarks = list(stack.remarks)
    if series.header.is_lossy:
        remarks.append("compressed with loss of information; outlines and HU may be less exact")
    return ImageFile(
        path=path,
        grid=grid,
        spacing_xyz_mm=grid.spacing_zyx_mm[::-1],
        origin_xyz_mm=grid.world_xyz_mm((0, 0, 0)),
        direction=tuple(grid.directions.ravel().tolist()),
        planes=partial(_planes, stack),
        remarks=tuple(remarks),
        identity=identity_of(series),
    )


def identity_of(series: Series) -> Identity:
    """What a series says of its patient, and when."""
    header = series.header
    try:
        day = datetime.strptime(header.date, "%Y%m%d").date()
    except ValueError:
        day = None
    return Identity(
        patient_id=header.patient_id,
        is_deidentified=header.is_deidentified,
        date=day,
        frame_of_reference_uid=header.frame_of_reference_uid,
        series_uid=header.series_uid,
    )


def hounsfield(frame: Frame) -> Plane:
    """An image's Hounsfield units, as whole numbers where they are; padding outside the field of view is PADDING_HU.

    Raises InputError for pixels that are missing, damaged, or compressed in a way that no reader here knows.
    """
    stored = _stored(frame)
    slope, intercept = frame.rescale
    values: NDArray[Any]
    if slope == int(slope) and intercept == int(intercept):
        ends = np.array([stored.min(), stored.max()], np.int64) * int(slope) + int(intercept)
        if ends.min() >= _LOWEST and ends.max() <= _HIGHEST:
            # Modulo 2^16, on the way to a result that fits.
            values = stored.astype(np.int16)
            values *= np.int16(slope)
            values += np.int64(intercept).astype(np.int16)
        else:
            exact = stored.astype(np.int64) * int(slope) + int(intercept)
            values = np.clip(exact, _LOWEST, _HIGHEST).astype(np.int16)
    else:
        values = stored.astype(np.float64) * slope + intercept
    padding = frame.header.padding
    # Some headers name a value that tissue has, usually 0.
    if padding is not None and padding[1] * slope + intercept <= AIR_HU:
        values[(stored >= padding[0]) & (stored <= padding[1])] = PADDING_HU
    return values


def _stored(frame: Frame) -> NDArray[Any]:
    """An image's values as they are stored."""
    path = frame.header.path
    shape = frame.header.rows, frame.header.columns
    native = frame.header.native
    try:
        if native is not None:
            # As pydicom would, without parsing the file again.
            pixels = shape[0] * shape[1]
            read = np.fromfile(path, native.dtype, pixels, offset=native.offset + 2 * pixels * frame.number)
            if read.size == pixels:
                return read.reshape(shape)
        # pydicom keeps the values as they are stored (`raw`): it would convert the colours of pictures.
        stored = pixel_array(path, index=frame.number, raw=True)
    except (AttributeError, EOFError, LookupError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: pixels cannot be read ({reason}); expected a complete image") from error
    if stored.shape != shape:
        found = " x ".join(map(str, stored.shape))
        raise InputError(f"{path}: {found} pixels; expected {shape[0]} x {shape[1]}")
    return stored


def _planes(stack: Stack) -> Iterator[Plane]:
    if stack.is_regular:
        for each in stack.slices:
            yield hounsfield(each.frame)
        return
    z, y, x = stack.grid.shape_zyx
    kept: dict[int, NDArray[np.float32]] = {}
    for depth in range(z):
        used = list(stack.neighbours(depth))
        kept = {id(each): kept[id(each)] if id(each) in kept else _shifted(each, (y, x)) for each, _ in used}
        yield _mean([(kept[id(each)], weight) for each, weight in used])


def _shifted(each: Slice, shape_yx: tuple[int, int]) -> NDArray[np.float32]:
    """An image at its place in the grid's plane, padding around it, sampled linearly."""
    hu = hounsfield(each.frame).astype(np.float32)
    padded = np.full(shape_yx, PADDING_HU, np.float32)
    padded[: hu.shape[0], : hu.shape[1]] = hu
    if each.shift_yx == (0.0, 0.0):
        return padded
    # Imported late: it takes most of a second, and few series need it.
    from scipy import ndimage

    # Padding has no density: the mean is over the other pixels, and there is none where these are the minority.
    is_seen = (padded > HIGHEST_PADDING_HU).astype(np.float32)
    share = ndimage.shift(is_seen, each.shift_yx, order=1, mode="grid-constant")
    total = ndimage.shift(padded * is_seen, each.shift_yx, order=1, mode="grid-constant")
    return np.where(share >= 0.5, total / np.maximum(share, 0.5), np.float32(PADDING_HU))


def _mean(parts: list[tuple[NDArray[np.float32], float]]) -> Plane:
    """The weighted mean of two images; where one of them is padding, the other alone."""
    (first, _), *others = parts
    if not others:
        return first
    ((second, weight),) = others
    mixed = first + np.float32(weight) * (second - first)
    mixed = np.where(first <= HIGHEST_PADDING_HU, second, mixed)
    return np.where((second <= HIGHEST_PADDING_HU) & (first > HIGHEST_PADDING_HU), first, mixed)


def _check_units(series: Series) -> None:
    units = {frame.rescale_type.upper() for frame in series.frames} - {"", "HU", "US"}
    if units:
        raise InputError(
            f"{series.header.path}: pixels in {', '.join(sorted(units))} (RescaleType); expected Hounsfield units (HU)"
        )
