"""Fingerprints of the inputs of a result: the files in a folder, the project's own code."""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import longilesion
import training
from longilesion.errors import InputError

_PACKAGES = {package.__name__: Path(*package.__path__) for package in (longilesion, training)}


def folder_fingerprint(folder: Path) -> str:
    """A hash of the names and contents of all files in a folder, without dates; raises InputError."""
    found = hashlib.sha256()
    try:
        paths = sorted(Path(place) / name for place, _, names in os.walk(folder, followlinks=True) for name in names)
        for path in paths:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            found.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror}; expected files that can be read") from error
    return found.hexdigest()


def code_fingerprint(module: str, *, without: Collection[str] = ()) -> str:
    """A hash of the code of a module and of all the project's modules that it imports, without comments.

    The modules in `without`, and modules imported only through them, are left out.
    """
    trees: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if path is None or name in trees or name in without:
            continue
        tree = ast.parse(path.read_bytes())
        trees[name] = ast.dump(tree)
        waiting += _imported(tree)
    return hashlib.sha256(repr(sorted(trees.items())).encode()).hexdigest()


def _source(name: str) -> Path | None:
    """The file of a module of the project's packages; None for any other name."""
    package, *parts = name.split(".")
    if package not in _PACKAGES or not parts:
        return None
    path = _PACKAGES[package].joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imported(tree: ast.AST) -> Iterator[str]:
    """The names that may be modules, wherever in the code they are imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
