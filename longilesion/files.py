"""Files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from longilesion.errors import InputError

_PREFIX = ".partial-"


@contextmanager
def written_together(paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Yields a temporary name beside each path; renames them all at the end, or removes them all on any failure.

    The folders are made where they are missing. Raises InputError where nothing can be written.
    """
    temporaries = tuple(path.with_name(_PREFIX + path.name) for path in paths)
    for path in paths:
        check_writable(path.parent)
        if path.is_dir():
            raise InputError(f"{path}: a folder; expected a file, or nothing, to write to")
    try:
        yield temporaries
        for temporary, path in zip(temporaries, paths, strict=True):
            temporary.replace(path)
    except OSError as error:
        raise InputError(f"{error.filename or paths[0]}: cannot be written ({error.strerror or error})") from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Makes the folder where it is missing, and raises InputError where no file can be made in it."""
    probe = folder / f"{_PREFIX}probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected a folder that can be written to") from error
