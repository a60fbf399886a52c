"""Fingerprints of files: hashes of their contents, without dates."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from longilesion.errors import InputError


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
