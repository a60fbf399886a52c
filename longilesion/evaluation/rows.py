"""Rows of values as CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows, whose nested values become columns with joined names; lists are joined to text."""
    flat = [_flat(row) for row in rows]
    found = dict.fromkeys(heading for row in flat for heading in row)
    # A group of values that is None in some rows appears there as one column with the group's name, which is left out.
    headings = [heading for heading in found if not any(other.startswith(f"{heading}_") for other in found)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, headings, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(flat)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values flattened under joined names, lists joined to text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}_")
        else:
            flat[prefix + name] = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return flat
