"""The volumes in a folder of DICOM files, told apart by series, orientation, size and acquisition."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from longilesion.dicom.files import dicom_files
from longilesion.dicom.frame import Frame, Header, read_frames
from longilesion.errors import InputError

# Images nearer to each other than this have one position.
_SAME_POSITION_MM = 0.01
# Largest differences of the numbers in headers that are alike, of directions and relative ones of spacing.
_DIRECTION_TOLERANCE, _SPACING_TOLERANCE = 1e-3, 1e-3
# What tells the images of several volumes at one position apart, in the order of preference.
_SEPARATORS: tuple[tuple[str, Callable[[Frame], Any]], ...] = (
    ("acquisition", lambda frame: frame.acquisition),
    ("temporal position", lambda frame: frame.temporal_position),
    ("kernel", lambda frame: frame.header.kernel),
    ("image type", lambda frame: frame.header.image_type),
    ("time", lambda frame: frame.header.acquisition_time),
)

_DEPTH = attrgetter("depth_mm")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """The images of one volume, along their normal; `part` tells it from others of the same SeriesInstanceUID."""

    frames: tuple[Frame, ...]
    part: str = ""

    @property
    def header(self) -> Header:
        """That of the first image."""
        return self.frames[0].header

    @property
    def depths_mm(self) -> list[float]:
        """The places of the images along their normal."""
        return [frame.depth_mm for frame in self.frames]

    @property
    def is_volume(self) -> bool:
        """Whether it is a stack of grey images, and no localizer."""
        is_grey = self.header.samples == 1 and "LOCALIZER" not in self.header.image_type
        return is_grey and self.depths_mm[-1] - self.depths_mm[0] > _SAME_POSITION_MM

    def described(self) -> str:
        """What there is to choose by; no dates, and no names of people."""
        header = self.header
        depths = self.depths_mm
        count = len(self.frames)
        step = "" if count < 2 else f", {(depths[-1] - depths[0]) / (count - 1):.3g} mm apart"
        named = [
            f"{header.modality} series {header.series_number or '-'}",
            *([f"'{header.description}'"] if header.description else []),
            *([self.part] if self.part else []),
            f"{count} image{'s' if count > 1 else ''} of {header.columns} x {header.rows}{step}",
            *([f"kernel {header.kernel}"] if header.kernel else []),
            *(["localizer"] if "LOCALIZER" in header.image_type else []),
            header.series_uid,
        ]
        return ", ".join(named)


def find_series(path: Path) -> list[Series]:
    """All series of images in a folder and those below it, or in one file, in the order of their numbers.

    Raises InputError where there is none, and for a damaged file.
    """
    dicom = list(dicom_files(path))
    frames = [frame for file in dicom for frame in read_frames(file)]
    if not frames:
        found = f"{len(dicom)} DICOM files, none an image placed in a patient" if dicom else "no DICOM file"
        raise InputError(f"{path}: {found}; expected a CT series")
    return sorted(_told_apart(frames), key=_order)


def chosen_series(path: Path, choice: str | None = None) -> Series:
    """The CT volume of a folder or file, or the one that `choice` names by its number in the list or its UID.

    Raises InputError with the list of what there is where there is no volume, or several to choose from.
    """
    everything = find_series(path)
    of_ct = [series for series in everything if series.is_volume and series.header.modality == "CT"]
    if choice is not None:
        return _named(path, of_ct, choice)
    if not of_ct:
        found = "; ".join(series.described() for series in everything)
        raise InputError(f"{path}: no CT volume among {found}; expected images of CT, one above the other")
    if len(of_ct) > 1:
        raise InputError(
            f"{path}: {len(of_ct)} CT volumes; expected one, or the choice of one by its number or UID "
            f"(--baseline-series, --followup-series, or --series of a time point): {_listed(of_ct)}"
        )
    rest = [series for series in everything if series is not of_ct[0]]
    if rest:
        _log.info("%s: %d other series left aside: %s", path, len(rest), "; ".join(each.described() for each in rest))
    return of_ct[0]


def _named(path: Path, of_ct: Sequence[Series], choice: str) -> Series:
    if choice.isdecimal() and 1 <= int(choice) <= len(of_ct):
        return of_ct[int(choice) - 1]
    fitting = [series for series in of_ct if series.header.series_uid == choice]
    if len(fitting) == 1:
        return fitting[0]
    found = f"{len(fitting)} volumes" if fitting else "no CT volume"
    listed = _listed(of_ct) if of_ct else "none"
    raise InputError(f"{path}: {found} with the number or UID {choice}; expected one of {listed}")


def _listed(volumes: Sequence[Series]) -> str:
    return "; ".join(f"{number}: {series.described()}" for number, series in enumerate(volumes, start=1))


def shared_position(frames: Sequence[Frame]) -> tuple[Frame, Frame] | None:
    """Two images at one place along their normal, if there are any."""
    for first, second in pairwise(sorted(frames, key=_DEPTH)):
        if second.depth_mm - first.depth_mm < _SAME_POSITION_MM:
            return first, second
    return None


def _told_apart(frames: Sequence[Frame]) -> Iterator[Series]:
    """Series by UID, orientation, size and spacing; where images share a position, by acquisition and the like."""
    for group in _alike(frames):
        alike = _without_copies(group)
        if shared_position(alike) is None:
            yield Series(frames=tuple(sorted(alike, key=_DEPTH)))
            continue
        for name, value_of in _SEPARATORS:
            parts = {value: [frame for frame in alike if value_of(frame) == value] for value in map(value_of, alike)}
            if len(parts) > 1 and all(shared_position(part) is None for part in parts.values()):
                for value, part in parts.items():
                    text = "\\".join(value) if isinstance(value, tuple) else value
                    yield Series(frames=tuple(sorted(part, key=_DEPTH)), part=f"{name} {text or '-'}")
                break
        else:
            yield Series(frames=tuple(sorted(alike, key=_DEPTH)))


def _without_copies(frames: Sequence[Frame]) -> list[Frame]:
    """One of each image; files that hold the same one are equal in what identifies it."""
    unique: dict[tuple[str, int], Frame] = {}
    for frame in frames:
        unique.setdefault((frame.header.sop_instance_uid, frame.number), frame)
    copies = len(frames) - len(unique)
    if copies:
        _log.warning("%s: %d copies of images left out", frames[0].header.path.parent, copies)
    return list(unique.values())


def _alike(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The images by what all those of a volume have in common; headers round their numbers."""
    groups: dict[tuple[Any, ...], list[list[Frame]]] = {}
    for frame in frames:
        header = frame.header
        key = (header.series_uid, "LOCALIZER" in header.image_type, header.rows, header.columns, header.samples)
        similar = groups.setdefault(key, [])
        for group in similar:
            y, x = np.divide(group[0].spacing_yx_mm, frame.spacing_yx_mm) - 1
            is_parallel = abs(group[0].axes - frame.axes).max() <= _DIRECTION_TOLERANCE
            if is_parallel and max(abs(y), abs(x)) <= _SPACING_TOLERANCE:
                group.append(frame)
                break
        else:
            similar.append([frame])
    return [group for similar in groups.values() for group in similar]


def _order(series: Series) -> tuple[Any, ...]:
    number = series.header.series_number
    return int(number) if number.lstrip("-").isdecimal() else 0, series.header.series_uid, series.part
