"""The journal of a review: a line of JSON for every decision, on the disk before it is acknowledged.

It is only ever appended to. Its first line says what was reviewed. A last line without its end is that of a program
that was killed while it wrote it: nobody was told that the decision was kept, and it is cut off.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from longilesion.errors import InputError, first_error
from longilesion.files import check_writable, flush_names
from longilesion.review.decisions import Decision, Entry, Redo, Start, Undo

FILE_NAME = "journal.jsonl"

_log = logging.getLogger(__name__)

_start: TypeAdapter[Start] = TypeAdapter(Start)
_entry: TypeAdapter[Entry] = TypeAdapter(Entry)


class Journal:
    """An open journal, to which one program at a time appends; `entries` are all that it holds."""

    def __init__(self, folder: Path, start: Start, *, is_read_only: bool = False) -> None:
        """Opens the journal in a folder, or begins one with `start`.

        Raises InputError where it cannot be read or written, another program has it open, or it is of a review of
        something else. With `is_read_only` nothing is written, and a missing journal is an empty one.
        """
        self.path = folder / FILE_NAME
        self.start = start
        self.entries: list[Entry] = []
        self._file: int | None = None
        # Of its complete lines, in bytes.
        self._length = 0
        if is_read_only:
            if self.path.exists():
                self._read(_content(self.path))
            return
        check_writable(folder)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}; expected a journal that can be written to") from error
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def append(self, action: Decision | Undo | Redo, *, at: datetime, reader: str) -> Entry:
        """Adds a line; once this returns, it is on the disk. Raises InputError where it cannot be written."""
        entry = Entry(number=len(self.entries) + 1, at=at, reader=reader, action=action)
        self._write(entry)
        self.entries.append(entry)
        return entry

    def close(self) -> None:
        """Lets other programs open the journal."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"{self.path}: open in another review; expected to be the only one to write to it") from (
                error
            )
        self._length = self._read(_content(self.path))
        os.ftruncate(self._file, self._length)
        if not self._length:
            self._write(self.start)
            flush_names(self.path.parent)

    def _read(self, content: bytes) -> int:
        """Takes the entries of a journal's content, and returns the length of its complete lines."""
        *lines, torn = content.split(b"\n")
        if torn:
            _log.warning(
                "%s: the last line, of %d bytes, was torn by a program that ended while it wrote it; it is left out",
                self.path,
                len(torn),
            )
        try:
            if lines:
                start = _start.validate_json(lines[0])
                if len(lines) == 1 and start.fingerprint != self.start.fingerprint:
                    # Nothing was decided, so that another review may begin here.
                    return 0
                self._check(start)
                self.start = start
            self.entries = [_entry.validate_json(line) for line in lines[1:]]
        except ValidationError as error:
            raise InputError(f"{self.path}: damaged ({first_error(error)}); expected a journal of a review") from error
        if any(entry.number != number for number, entry in enumerate(self.entries, start=1)):
            raise InputError(f"{self.path}: lines are missing or out of order; expected all, as they were written")
        return len(content) - len(torn)

    def _check(self, start: Start) -> None:
        if start.fingerprint != self.start.fingerprint:
            raise InputError(
                f"{self.path}: of a review of other scans, masks or clicks, or with another model, options or version "
                f"({start.version}, now {self.start.version}); expected the same, or another --output"
            )

    def _write(self, record: BaseModel) -> None:
        if self._file is None:
            raise InputError(f"{self.path}: not open for writing; expected a review that is not --read-only")
        line = record.model_dump_json().encode() + b"\n"
        try:
            # Of a line that was neither written nor taken back.
            os.ftruncate(self._file, self._length)
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(0, f"only {written} of {len(line)} bytes fit")
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._length)
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); not kept; expected a disk with room"
            ) from error
        self._length += len(line)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a journal that can be read") from error
