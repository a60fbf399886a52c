"""Which files are DICOM, told by their first bytes; needs no other package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from longilesion.errors import InputError

# First bytes of files without DICOM's preamble: the groups that a data set can begin with.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
_SUFFIXES = (".dcm", ".ima", ".dicom")


def is_dicom(path: Path) -> bool:
    """Whether a path is a DICOM file, or a folder with one in it or in the folders below."""
    return next(dicom_files(path), None) is not None


def dicom_files(path: Path) -> Iterator[Path]:
    """The DICOM files of a folder and those below it, in the order of their names; a file itself, if it is one."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file() and _begins_as_dicom(file):
            yield file


def _begins_as_dicom(file: Path) -> bool:
    """Whether a file has DICOM's preamble, or begins as a data set without one and is named as DICOM files are."""
    try:
        with file.open("rb") as opened:
            start = opened.read(132)
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; expected a file that can be read") from error
    return start[128:] == b"DICM" or (start[:2] in _FIRST_GROUPS and file.suffix.lower() in _SUFFIXES)
