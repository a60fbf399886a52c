"""What is known of an exam's lesions: from a table beside the maps, and from the maps where there is none.

Two tables are read: `lesions.json`, {"7": {"fate": "merged", "truth_id": 6, "type": "Liver"}, ...}, and the CSV of the
challenge's training data (columns lesion_id, topology_class, merged_into, lesion_type, target_lesion).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from longilesion.errors import InputError
from longilesion.evaluation.exam import Fate, LesionFact

# The sample cases tell apart how a persisting lesion's size changed.
_FATES: Mapping[str, Fate] = {
    **{fate: "persists" for fate in ("persists", "grows", "shrinks", "UNCHANGED")},
    **{fate: "new" for fate in ("new", "NEWLYAPPEARING")},
    **{fate: "gone" for fate in ("gone", "DISAPPEARING")},
    **{fate: "merged" for fate in ("merged", "MERGING")},
}


class _Entry(BaseModel):
    """A lesion in lesions.json."""

    fate: Literal["persists", "grows", "shrinks", "new", "gone", "merged"]
    truth_id: int | None = None
    type: str | None = None
    is_target: bool | None = None


def read_lesion_table(path: Path) -> dict[int, LesionFact]:
    """Reads a table of either kind, by its suffix; raises InputError for anything else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', 'no text')}; expected a table of lesions") from error
    return _from_json(path, text) if path.suffix.lower() == ".json" else dict(_from_csv(path, text))


def completed_facts(
    table: Mapping[int, LesionFact],
    *,
    source: str,
    true_ids: Collection[int],
    baseline_ids: Collection[int] | None,
    clicked_ids: Collection[int],
) -> tuple[dict[int, LesionFact], list[str]]:
    """The facts of every lesion in a table, a map or a click, and what does not fit together; the maps decide.

    A lesion that the table lacks persists if it is in both maps, is new if only in the follow-up, else gone. Where
    there is no baseline (`baseline_ids` None), a lesion in the follow-up has no known fate.
    """
    warnings = []
    facts = {}
    hosts = {fact.true_id for fact in table.values() if fact.fate == "merged"}
    for lesion_id in sorted({*table, *true_ids, *(baseline_ids or ()), *clicked_ids}):
        fact = table.get(lesion_id)
        if fact is not None and fact.fate == "merged" and fact.true_id in true_ids:
            facts[lesion_id] = fact
            continue
        fate = _fate_in_maps(lesion_id, true_ids=true_ids, baseline_ids=baseline_ids)
        if fact is not None and lesion_id in true_ids and fact.fate in ("persists", "new"):
            fate = fact.fate
        elif lesion_id in hosts and lesion_id in true_ids:
            fate = "merged"
        elif fact is not None and fact.fate != fate:
            there = "has" if lesion_id in true_ids else "has no"
            warnings.append(
                f"{source}: lesion {lesion_id} is {fact.fate}, but {there} voxels in the truth; taken as such"
            )
        facts[lesion_id] = LesionFact(
            fate=fate,
            true_id=lesion_id if lesion_id in true_ids else None,
            lesion_type=None if fact is None else fact.lesion_type,
            is_target=None if fact is None else fact.is_target,
        )
    return facts, warnings


def _fate_in_maps(lesion_id: int, *, true_ids: Collection[int], baseline_ids: Collection[int] | None) -> Fate | None:
    if lesion_id not in true_ids:
        return "gone"
    if baseline_ids is None:
        return None
    return "persists" if lesion_id in baseline_ids else "new"


def _from_json(path: Path, text: str) -> dict[int, LesionFact]:
    try:
        entries = TypeAdapter(dict[int, _Entry]).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f'{path}: {where}: {first["msg"]}; expected {{lesion id: {{"fate": ..., "truth_id": ...}}}}'
        ) from error
    return {
        lesion_id: LesionFact(
            fate=_FATES[entry.fate],
            true_id=entry.truth_id,
            lesion_type=entry.type,
            is_target=entry.is_target,
        )
        for lesion_id, entry in entries.items()
    }


def _from_csv(path: Path, text: str) -> Iterator[tuple[int, LesionFact]]:
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(text.partition("\n")[0], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    rows = csv.DictReader(io.StringIO(text), dialect=dialect)
    needed = {"lesion_id", "topology_class"}
    if not needed <= {name.strip() for name in rows.fieldnames or ()}:
        found = ", ".join(rows.fieldnames or ()) or "nothing"
        raise InputError(f"{path}: columns {found}; expected lesion_id and topology_class among them")
    for number, row in enumerate(rows, start=2):
        cells = {(name or "").strip(): (cell or "").strip() for name, cell in row.items() if isinstance(cell, str)}
        lesion_id = _integer(cells["lesion_id"])
        fate = _FATES.get(cells["topology_class"].upper())
        if lesion_id is None or fate is None:
            raise InputError(
                f"{path}: line {number}: lesion {cells['lesion_id']!r} of class {cells['topology_class']!r}; "
                "expected an id, and DISAPPEARING, MERGING, NEWLYAPPEARING or UNCHANGED"
            )
        into = _integer(cells.get("merged_into", ""))
        yield (
            lesion_id,
            LesionFact(
                fate=fate,
                true_id=None if fate == "gone" else into if fate == "merged" and into is not None else lesion_id,
                lesion_type=cells.get("lesion_type") or None,
                is_target=_boolean(cells.get("target_lesion", "")),
            ),
        )


def _integer(cell: str) -> int | None:
    """A whole number, also as spreadsheets write them (7.0)."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return int(number) if number == int(number) else None


def _boolean(cell: str) -> bool | None:
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(cell.lower())
