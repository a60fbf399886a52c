"""The splits that a data set was released with."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from longilesion.errors import InputError
from longilesion.json_file import read_json

_EXPECTED = "splits by name, each a list of patients"


def read_released_splits(path: Path, patients: Collection[str]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Reads the patients of each split by its name, and those missing in the data; empty where there is no file.

    The file is a JSON object from names to lists of patients, at any depth, or from patients to names.
    """
    if not path.is_file():
        return {}, ()
    content = read_json(path, dict[str, Any], expected=_EXPECTED)
    splits = {
        name: tuple(sorted({_patient(text, patients) for text in texts})) for name, texts in _by_name(content).items()
    }
    if not any(splits.values()):
        raise InputError(f"{path}: no lists of patients; expected {_EXPECTED}")
    missing = [
        f"{path.name}: {patient}, of the split {name}, is not in the data"
        for name, ids in splits.items()
        for patient in ids
        if patient not in patients
    ]
    return splits, tuple(missing)


def patients_for_testing(released: Mapping[str, Collection[str]]) -> set[str]:
    """The patients of the released test splits."""
    return {patient for name, ids in released.items() if name.lower().startswith("test") for patient in ids}


def _by_name(content: dict[str, Any]) -> dict[str, list[str]]:
    while len(content) == 1 and isinstance(next(iter(content.values())), dict):
        # Wrapped in another object.
        content = next(iter(content.values()))
    if all(isinstance(value, str) for value in content.values()):
        splits: dict[str, list[str]] = {}
        for patient, name in content.items():
            splits.setdefault(name, []).append(patient)
        return splits
    return {name: list(_texts(value)) for name, value in content.items() if isinstance(value, dict | list)}


def _texts(value: Any) -> Iterator[str]:
    """All texts in lists, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    for part in value if isinstance(value, list) else ():
        if isinstance(part, str):
            yield part
        else:
            yield from _texts(part)


def _patient(text: str, patients: Collection[str]) -> str:
    """The patient of a text: its name, or that of a file or image."""
    name = text.rpartition("/")[2].partition(".")[0]
    stem = re.sub(r"_(BL|FU)(_.*)?$", "", name)
    return next((option for option in (text, name, stem) if option in patients), text)
