"""Reading text files in UTF-8 or UTF-16."""

from __future__ import annotations

import json
from pathlib import Path

from longilesion.errors import InputError


def read_text(path: Path, *, expected: str) -> str:
    """Reads UTF-8 or UTF-16, with or without a byte order mark; raises InputError, with what was `expected`."""
    try:
        content = path.read_bytes()
        # Detected by the zero bytes of the first characters, which are ASCII in tables as in JSON.
        return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected {expected}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text in UTF-8 or UTF-16; expected {expected}") from error
