"""Facts of an exam's lesions: from a table beside the maps, and from the maps where there is none.

Two tables are read: `lesions.json`, {"7": {"fate": "merged", "truth_id": 6, "type": "Liver"}, ...}, and the CSV of the
challenge's training data (columns lesion_id, topology_class, merged_into, lesion_type, target_lesion).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, Field

from longilesion.case import HIGHEST_ID
from longilesion.csv_table import CellError, Row, read_table
from longilesion.errors import InputError
from longilesion.evaluation.exam import FATES, Fate, LesionFact
from longilesion.json_file import read_json

# The fates by their names in the challenge's data.
TOPOLOGIES: Mapping[str, Fate] = {
    "UNCHANGED": "persists",
    "NEWLYAPPEARING": "new",
    "DISAPPEARING": "gone",
    "MERGING": "merged",
}
# The sample cases distinguish how the size of a persisting lesion changed.
_FATES: Mapping[str, Fate] = {**{fate: fate for fate in FATES}, "grows": "persists", "shrinks": "persists"}

LesionId: TypeAlias = Annotated[int, Field(ge=1, le=HIGHEST_ID)]


class _Entry(BaseModel):
    """A lesion in lesions.json."""

    fate: Fate | Literal["grows", "shrinks"]
    truth_id: LesionId | None = None
    type: str | None = None
    is_target: bool | None = None


def read_lesion_table(path: Path) -> dict[int, LesionFact]:
    """Reads a table of either kind, by its suffix; raises InputError for anything else."""
    return _from_json(path) if path.suffix.lower() == ".json" else _from_csv(path)


def completed_facts(
    table: Mapping[int, LesionFact],
    *,
    source: str,
    true_ids: Collection[int],
    baseline_ids: Collection[int] | None,
    clicked_ids: Collection[int],
) -> tuple[dict[int, LesionFact], list[str]]:
    """The facts of every lesion in a table, a map or a click, and warnings of contradictions; maps take precedence.

    A lesion that the table lacks persists if it is in both maps, is new if only in the follow-up, else gone. Where
    there is no baseline (`baseline_ids` None), a lesion in the follow-up has its fate in the table, or none.
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
    """The table's facts of a lesion; where its host has itself merged into another, that one is the host."""
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
    """A warning: the fate by the table, the fate by the maps, and the fate that is used."""
    into = f" into {said.true_id}" if said.fate == "merged" and said.true_id != lesion_id else ""
    shown = ["has voxels in the truth" if lesion_id in true_ids else "has no voxels in the truth"]
    if into and said.true_id not in true_ids:
        shown.append(f"nor has {said.true_id}")
    if baseline_ids is not None and lesion_id in true_ids:
        shown.append("has some in the baseline" if lesion_id in baseline_ids else "has none in the baseline")
    taken = "without a known fate" if fate is None else f"as '{fate}'"
    return f"{source}: lesion {lesion_id} is '{said.fate}{into}' there, but {', '.join(shown)}; taken {taken}"


def _from_json(path: Path) -> dict[int, LesionFact]:
    expected = 'a table of lesions, {lesion id: {"fate": ..., "truth_id": ...}}'
    entries = read_json(path, dict[LesionId, _Entry], expected=expected)
    return {
        lesion_id: LesionFact(
            fate=_FATES[entry.fate],
            true_id=entry.truth_id,
            lesion_type=entry.type,
            is_target=entry.is_target,
        )
        for lesion_id, entry in entries.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeRow:
    """A line of the challenge's CSV; `merged_into` is None where the lesion has not merged."""

    lesion_id: int
    fate: Fate
    merged_into: int | None
    lesion_type: str | None
    is_target: bool | None


def challenge_lesion_id(row: Row) -> int:
    """The lesion id of a line; raises CellError where it has none."""
    lesion_id = row.lesion_id("lesion_id")
    if lesion_id is None:
        raise CellError("no lesion_id; expected one")
    return lesion_id


def challenge_row(row: Row) -> ChallengeRow:
    """Parses a line of the challenge's CSV; raises CellError for an invalid cell."""
    lesion_id, topology = challenge_lesion_id(row), row.text("topology_class")
    fate = TOPOLOGIES.get(topology.upper())
    if fate is None:
        raise CellError(f"topology_class {topology!r}; expected one of {', '.join(sorted(TOPOLOGIES))}")
    return ChallengeRow(
        lesion_id=lesion_id,
        fate=fate,
        merged_into=row.lesion_id("merged_into") if fate == "merged" else None,
        lesion_type=row.text("lesion_type") or None,
        is_target=row.boolean("target_lesion"),
    )


def _from_csv(path: Path) -> dict[int, LesionFact]:
    facts: dict[int, LesionFact] = {}
    for line in read_table(path, columns=("lesion_id", "topology_class")):
        try:
            row = challenge_row(line)
        except CellError as error:
            raise InputError(f"{path}: line {line.line}: {error}") from error
        if row.lesion_id in facts:
            raise InputError(f"{path}: line {line.line}: lesion {row.lesion_id} a second time; expected one line each")
        facts[row.lesion_id] = LesionFact(
            fate=row.fate,
            true_id=None if row.fate == "gone" else row.merged_into or row.lesion_id,
            lesion_type=row.lesion_type,
            is_target=row.is_target,
        )
    return facts
