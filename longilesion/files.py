"""Atomic writing of files: they appear complete or not at all."""

from __future__ import annotations

import filecmp
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel

from longilesion.errors import InputError, LongilesionError

# Reads a written file back; raises one of _DAMAGE where it is not complete.
Check: TypeAlias = Callable[[Path], object]
# Writes a file to the path that it is given.
Write: TypeAlias = Callable[[Path], object]
# How each file is written, and its check.
Files: TypeAlias = dict[Path, tuple[Write, Check]]

_PREFIX = ".partial-"
_PREVIOUS = ".previous-"
_DAMAGE = (OSError, EOFError, ValueError, LongilesionError, tarfile.TarError, zipfile.BadZipFile, zlib.error)


@contextmanager
def written_together(files: Mapping[Path, Check], *, without: Collection[Path] = ()) -> Iterator[tuple[Path, ...]]:
    """Yields a temporary path beside each path; on exit all files are replaced, or all are as they were before.

    Each is flushed to the disk and read back by its check before any is renamed. Files `without` which the result is,
    of an earlier one, are removed in the same step. Missing folders are created. Raises InputError where a file cannot
    be written, or is not complete.
    """
    temporaries = {path: path.with_name(_PREFIX + path.name) for path in files}
    check_replaceable(*files)
    try:
        yield tuple(temporaries.values())
        for path, temporary in temporaries.items():
            _read_back(temporary, files[path])
        _rename(temporaries, without)
    except (OSError, InputError) as error:
        message = str(error) if isinstance(error, InputError) else _unwritable(error, next(iter([*files, *without])))
        # Messages name the final files, as the user does not know the temporary ones.
        raise InputError(message.replace(f"{os.sep}{_PREFIX}", os.sep).removeprefix(_PREFIX)) from error
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_together(files: Files, *, without: Collection[Path] = ()) -> list[Path]:
    """Writes each file by a function of its own, as `written_together`, and returns all."""
    checks = {path: check for path, (_, check) in files.items()}
    with written_together(checks, without=without) as temporaries:
        for temporary, (write, _) in zip(temporaries, files.values(), strict=True):
            write(temporary)
    return list(files)


def check_replaceable(*paths: Path) -> None:
    """Creates missing folders; raises InputError where a path cannot be written or replaced."""
    for path in paths:
        check_writable(path.parent)
        temporary = path.with_name(_PREFIX + path.name)
        try:
            if path.exists() and not path.is_file():
                raise InputError(f"{path}: a folder or a device; expected a file, or nothing, to write to")
            # Left by a run that was killed.
            temporary.unlink(missing_ok=True)
            temporary.touch()
            temporary.unlink()
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def check_writable(folder: Path) -> None:
    """Creates the folder where it is missing; raises InputError where no file can be created in it."""
    probe = folder / f"{_PREFIX}probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; expected a folder that can be written to") from error


def flush_names(folder: Path) -> None:
    """Has the names of a folder's files on the disk, where the file system supports that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_text(path: Path) -> None:
    """Check for text files: the last line is complete."""
    if not path.read_text(encoding="utf-8").endswith("\n"):
        raise ValueError("the last line has no end")


def check_json(path: Path) -> None:
    """Check for any JSON file."""
    json.loads(path.read_bytes())


def valid(model: type[BaseModel]) -> Check:
    """The check for a JSON file that holds a pydantic model."""
    return lambda path: model.model_validate_json(path.read_bytes())


def check_archive(path: Path) -> None:
    """Check for ZIP archives, with a checksum for each member: also NumPy's .npz, PyTorch's checkpoints."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")


def check_tarball(path: Path) -> None:
    """Check for compressed tarballs; reading to the end compares the checksum."""
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            content = archive.extractfile(member)
            while content is not None and content.read(1 << 20):
                pass


def check_picture(path: Path) -> None:
    """Check for pictures of any format."""
    # Imported late: loaded already in programs that draw, and not needed by others.
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()


def check_copy(path: Path, *, of: Path) -> None:
    """Check for copies of a file."""
    if not filecmp.cmp(path, of, shallow=False):
        raise ValueError(f"another content than {of}")


def _read_back(path: Path, check: Check) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    try:
        check(path)
    except _DAMAGE as error:
        reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
        raise InputError(f"{path}: not complete once written ({reason}); expected a disk with room for it") from error


def _rename(temporaries: Mapping[Path, Path], without: Collection[Path]) -> None:
    """Renames all files or none: where one cannot be renamed or removed, the previous files are restored."""
    paths = [*temporaries, *without]
    # A single file is replaced atomically and needs no copy of the previous one.
    is_single = len(temporaries) == 1 and not without
    kept = {} if is_single else {path: path.with_name(_PREVIOUS + path.name) for path in paths}
    for previous in kept.values():
        previous.unlink(missing_ok=True)
    try:
        for path, temporary in temporaries.items():
            if path in kept and path.exists():
                path.replace(kept[path])
            temporary.replace(path)
        for path in without:
            if path.is_file():
                path.replace(kept[path])
    except BaseException:
        # Also on a signal; the exception goes on to the caller.
        _restore(kept, temporaries)
        raise
    for previous in kept.values():
        with suppress(OSError):
            previous.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        flush_names(folder)


def _restore(kept: Mapping[Path, Path], temporaries: Mapping[Path, Path]) -> None:
    """Puts previous files back, in place of those that have been renamed."""
    for path, previous in kept.items():
        if path in temporaries and not temporaries[path].exists():
            path.unlink(missing_ok=True)
        if previous.exists():
            previous.replace(path)


def _unwritable(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: cannot be written ({error.strerror or error})"
