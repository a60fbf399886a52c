"""What is known of an exam's lesions: from a table beside the maps, and from the maps where there is none.

Two tables are read: `lesions.json`, {"7": {"fate": "merged", "truth_id": 6, "type": "Liver"}, ...}, and the CSV of the
challenge's training data (columns lesion_id, topology_class, merged_into, lesion_type, target_lesion).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from longilesion.click_files import HIGHEST_ID
from longilesion.errors import InputError, first_error
from longilesion.evaluation.exam import Fate, LesionFact

# The sample cases tell apart how a persisting lesion's size changed.
_FATES: Mapping[str, Fate] = {
    **{fate: "persists" for fate in ("persists", "grows", "shrinks", "UNCHANGED")},
    **{fate: "new" for fate in ("new", "NEWLYAPPEARING")},
    **{fate: "gone" for fate in ("gone", "DISAPPEARING")},
    **{fate: "merged" for fate in ("merged", "MERGING")},
}

LesionId: TypeAlias = Annotated[int, Field(ge=1, le=HIGHEST_ID)]


class _Entry(BaseModel):
    """A lesion in lesions.json."""

    fate: Literal["persists", "grows", "shrinks", "new", "gone", "merged"]
    truth_id: LesionId | None = None
    type: str | None = None
    is_target: bool | None = None


def read_lesion_table(path: Path) -> dict[int, LesionFact]:
    """Reads a table of either kind, by its suffix; raises InputError for anything else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', 'no text')}; expected a table of lesions") from error
    return _from_json(path, text) if path.suffix.lower() == ".json" else _from_csv(path, text)


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
    there is no baseline (`baseline_ids` None), a lesion in the follow-up has the fate that the table says, or none.
    """
    hosts = {fact.true_id for lesion_id, fact in table.items() if fact.fate == "merged" and fact.true_id != lesion_id}
    facts, warnings = {}, []
    for lesion_id in sorted({*table, *true_ids, *(baseline_ids or ()), *clicked_ids}):
        said = _with_last_host(lesion_id, table, true_ids)
        fate = _fate_in_maps(lesion_id, said, true_ids=true_ids, baseline_ids=baseline_ids)
        true_id = lesion_id if lesion_id in true_ids else None
        if said.fate == "merged" and lesion_id not in true_ids and said.true_id in true_ids:
            fate, true_id = "merged", said.true_id
        elif lesion_id in true_ids and (lesion_id in hosts or (said.fate == "merged" and said.true_id == lesion_id)):
            fate = "merged"
        if said.fate not in (None, fate) and not (fate == "merged" and said.fate in ("persists", "new")):
            warnings.append(_contradiction(source, lesion_id, said, fate, true_ids=true_ids, baseline_ids=baseline_ids))
        facts[lesion_id] = replace(said, fate=fate, true_id=true_id)
    return facts, warnings


def _with_last_host(lesion_id: int, table: Mapping[int, LesionFact], true_ids: Collection[int]) -> LesionFact:
    """What the table says of a lesion; where its host has itself merged into another, that one is the host."""
    said = table.get(lesion_id, LesionFact(fate=None, true_id=None))
    host, seen = said.true_id, {lesion_id}
    while host is not None and host not in true_ids and host not in seen and host in table:
        seen.add(host)
        host = table[host].true_id if table[host].fate == "merged" else None
    return replace(said, true_id=host) if host in true_ids else said


def _fate_in_maps(
    lesion_id: int, said: LesionFact, *, true_ids: Collection[int], baseline_ids: Collection[int] | None
) -> Fate | None:
    if lesion_id not in true_ids:
        return "gone"
    if baseline_ids is None:
        return said.fate if said.fate in ("persists", "new") else None
    return "persists" if lesion_id in baseline_ids else "new"


def _contradiction(
    source: str,
    lesion_id: int,
    said: LesionFact,
    fate: Fate | None,
    *,
    true_ids: Collection[int],
    baseline_ids: Collection[int] | None,
) -> str:
    """What the table says, what the maps show, and what the lesion is taken for."""
    into = f" into {said.true_id}" if said.fate == "merged" and said.true_id != lesion_id else ""
    shown = ["has voxels in the truth" if lesion_id in true_ids else "has no voxels in the truth"]
    if into and said.true_id not in true_ids:
        shown.append(f"nor has {said.true_id}")
    if baseline_ids is not None and lesion_id in true_ids:
        shown.append("has some in the baseline" if lesion_id in baseline_ids else "has none in the baseline")
    taken = "without a known fate" if fate is None else f"as '{fate}'"
    return f"{source}: lesion {lesion_id} is '{said.fate}{into}' there, but {', '.join(shown)}; taken {taken}"


def _from_json(path: Path, text: str) -> dict[int, LesionFact]:
    try:
        entries = TypeAdapter(dict[LesionId, _Entry]).validate_json(text)
    except ValidationError as error:
        raise InputError(
            f'{path}: {first_error(error)}; expected {{lesion id: {{"fate": ..., "truth_id": ...}}}}'
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


def _from_csv(path: Path, text: str) -> dict[int, LesionFact]:
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(text.partition("\n")[0], delimiters=",;\t")
    except csv.Error:
        dialect = csv.excel
    rows = csv.DictReader(io.StringIO(text), dialect=dialect)
    if not {"lesion_id", "topology_class"} <= {name.strip() for name in rows.fieldnames or ()}:
        found = ", ".join(rows.fieldnames or ()) or "nothing"
        raise InputError(f"{path}: columns {found}; expected lesion_id and topology_class among them")
    facts: dict[int, LesionFact] = {}
    for row in rows:
        cells = {(name or "").strip(): _cell(cell) for name, cell in row.items() if isinstance(cell, str)}
        lesion_id, fact = _row(f"{path}: line {rows.line_num}", cells)
        if lesion_id in facts:
            raise InputError(f"{path}: line {rows.line_num}: lesion {lesion_id} a second time; expected one line each")
        facts[lesion_id] = fact
    return facts


def _cell(text: str) -> str:
    """A cell's text; what pandas writes for no number is none."""
    return "" if text.strip().lower() == "nan" else text.strip()


def _row(place: str, cells: Mapping[str, str]) -> tuple[int, LesionFact]:
    name, topology = cells.get("lesion_id", ""), cells.get("topology_class", "")
    lesion_id, fate = _lesion_id(name), _FATES.get(topology.upper())
    into = cells.get("merged_into", "")
    host = _lesion_id(into)
    if lesion_id is None or fate is None or (fate == "merged" and into and host is None):
        raise InputError(
            f"{place}: lesion {name!r} of class {topology!r}, merged into {into!r}; "
            f"expected ids from 1 to {HIGHEST_ID}, and DISAPPEARING, MERGING, NEWLYAPPEARING or UNCHANGED"
        )
    return lesion_id, LesionFact(
        fate=fate,
        true_id=None if fate == "gone" else host if fate == "merged" and host is not None else lesion_id,
        lesion_type=cells.get("lesion_type") or None,
        is_target=_boolean(cells.get("target_lesion", "")),
    )


def _lesion_id(cell: str) -> int | None:
    """A lesion id, also as spreadsheets write it (7.0)."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return int(number) if number.is_integer() and 1 <= number <= HIGHEST_ID else None


def _boolean(cell: str) -> bool | None:
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(cell.lower())
