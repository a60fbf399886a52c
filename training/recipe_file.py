"""Reading of recipes of any kind: TOML files, each of which may extend another."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from longilesion.errors import InputError
from longilesion.settings import Settings

_Recipe = TypeVar("_Recipe", bound=Settings)


def recipe_of(path: Path, kind: type[_Recipe]) -> _Recipe:
    """Reads a recipe of a kind, on top of the one that `extends` names; raises InputError.

    The error names the first wrong entry. `extends` is a path relative to the recipe's folder. Tables are merged, other
    entries replaced.
    """
    try:
        own = tomllib.loads(path.read_text())
        base = own.pop("extends", None)
        return kind.model_validate(own if base is None else _merged(_read_base(path, base), own))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(": ".join(filter(None, (str(path), where, first["msg"])))) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a TOML recipe") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected a TOML recipe") from error


def _read_base(path: Path, name: object) -> dict[str, Any]:
    """The entries of a recipe that another one extends, which extends none itself."""
    if not isinstance(name, str):
        raise InputError(f"{path}: extends = {name!r}; expected the name of a recipe's file")
    base = path.parent / name
    try:
        entries = tomllib.loads(base.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: extends = {name!r}: {reason}; expected a TOML recipe") from error
    if "extends" in entries:
        raise InputError(f"{path}: {base} extends {entries['extends']!r}; expected a recipe that extends none")
    return entries


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a recipe on top of another's, table by table."""
    merged = dict(base)
    for name, value in own.items():
        before = base.get(name)
        merged[name] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
