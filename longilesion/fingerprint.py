"""Fingerprints: hashes of the contents of files, without dates, and of what a result depends on besides."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from longilesion.errors import InputError
from longilesion.itk_file import voxel_file


def file_fingerprint(path: Path) -> str:
    """A hash of a file's content; raises InputError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected files that can be read") from error


def folder_fingerprint(folder: Path) -> str:
    """A hash of the names and contents of all files in a folder and those below it; raises InputError."""
    found = hashlib.sha256()
    for path in sorted(Path(place) / name for place, _, names in os.walk(folder, followlinks=True) for name in names):
        found.update(f"{path.relative_to(folder).as_posix()}\0{file_fingerprint(path)}\n".encode())
    return found.hexdigest()


def fingerprint(*parts: object) -> str:
    """A hash of everything that a result depends on: texts, and the contents of files and folders (paths)."""
    found = hashlib.sha256()
    for part in parts:
        found.update(f"{_content(part) if isinstance(part, Path) else part}\n".encode())
    return found.hexdigest()


def _content(path: Path) -> str:
    if path.is_dir():
        return folder_fingerprint(path)
    # The voxels of some images lie in a file of their own.
    return " ".join(file_fingerprint(file) for file in sorted({path, voxel_file(path)}))
