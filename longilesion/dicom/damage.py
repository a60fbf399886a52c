"""What pydicom and highdicom raise of a damaged file, as one line for users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.errors import InvalidDicomError

from longilesion.dicom.privacy import without_names
from longilesion.errors import InputError

# Parsers meet a damaged file where they happen to be: at its end, at an attribute that is missing or no number, ...
_RAISED = (InvalidDicomError, ArithmeticError, AttributeError, EOFError, LookupError, OSError, TypeError, ValueError)


@contextmanager
def refused_if_damaged(path: Path, expected: str = "a complete one") -> Iterator[None]:
    """Turns what reading a file raises into InputError, without the values of its attributes; silences warnings."""
    try:
        with without_names():
            yield
    except (*_RAISED, NotImplementedError) as error:
        raise InputError(f"{path}: damaged DICOM file ({type(error).__name__}); expected {expected}") from error
