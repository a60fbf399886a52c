"""Silence of the DICOM libraries, whose warnings repeat the values of attributes, and so names of patients."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("highdicom", "pydicom")


@contextmanager
def without_names() -> Iterator[None]:
    """Keeps warnings and messages of pydicom and highdicom to themselves; errors are raised as ever."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
