"""Fingerprint of the project's own code, on which a result depends."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

import longilesion
import training

_PACKAGES = {package.__name__: Path(*package.__path__) for package in (longilesion, training)}


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
