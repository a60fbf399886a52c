"""JSON files, validated as they are read."""

from __future__ import annotations

from pathlib import Path
from types import GenericAlias
from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from longilesion.errors import InputError, first_error
from longilesion.text_files import read_text

_Content = TypeVar("_Content")


def read_json(path: Path, kind: type[_Content] | GenericAlias, *, expected: str) -> _Content:
    """Reads what a file holds as a model, or any other type that pydantic can validate, such as dict[str, int].

    Raises InputError with the first thing that is wrong and where, and with what was expected.
    """
    text = read_text(path, expected=expected)
    try:
        return TypeAdapter(cast("type[_Content]", kind)).validate_json(text)
    except ValidationError as error:
        raise InputError(f"{path}: {first_error(error)}; expected {expected}") from error
