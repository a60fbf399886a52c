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
        return kind.model_validate(_entries(path, above=()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(": ".join(filter(None, (str(path), where, first["msg"])))) from error


def _entries(path: Path, *, above: tuple[Path, ...]) -> dict[str, Any]:
    """The entries of a recipe and of those that it extends; `above` are the recipes that extend it."""
    where = f"{above[-1]}: extends = {path.name!r}" if above else str(path)
    if path.resolve() in (each.resolve() for each in above):
        raise InputError(f"{where}, which extends {above[-1].name}; expected a recipe that does not extend itself")
    try:
        own = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{where}: {reason}; expected a TOML recipe") from error
    base = own.pop("extends", None)
    if base is None:
        return own
    if not isinstance(base, str):
        raise InputError(f"{path}: extends = {base!r}; expected the name of a recipe's file")
    return _merged(_entries(path.parent / base, above=(*above, path)), own)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a recipe on top of another's, table by table."""
    merged = dict(base)
    for name, value in own.items():
        before = base.get(name)
        merged[name] = _merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
