"""JSON files, validated as they are read."""

from __future__ import annotations

from pathlib import Path
from types import GenericAlias
from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from longilesion.errors import InputError, LongilesionError, first_error
from longilesion.text_files import read_text

_Content = TypeVar("_Content")


def read_json(
    path: Path, kind: type[_Content] | GenericAlias, *, expected: str, failure: type[LongilesionError] = InputError
) -> _Content:
    """Reads a file as a model, or as any other type that pydantic can validate, such as dict[str, int].

    Raises `failure` with the first invalid entry, its location, and what was expected.
    """
    try:
        text = read_text(path, expected=expected)
    except InputError as error:
        raise failure(str(error)) from error
    try:
        return TypeAdapter(cast("type[_Content]", kind)).validate_json(text)
    except ValidationError as error:
        raise failure(f"{path}: {first_error(error)}; expected {expected}") from error
