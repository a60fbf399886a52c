"""What somebody knows of lesions and no outline tells: their organs, which are lymph nodes, and the targets."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from longilesion.csv_table import CellError, Row, read_headed_table
from longilesion.errors import InputError
from longilesion.response import Lesion

_log = logging.getLogger(__name__)

_COLUMNS = ("lesion", "organ", "node", "target")
NO_FACTS: Mapping[int, Lesion] = MappingProxyType({})


def read_lesion_facts(path: Path | None) -> Mapping[int, Lesion]:
    """Reads a table with the columns lesion (its id) and organ, node (yes or no) or target (yes or no), by id.

    Empty cells say nothing; without a table nothing is known. Raises InputError where it is no such table, or has a
    lesion twice.
    """
    if path is None:
        return NO_FACTS
    headings, rows = read_headed_table(path)
    expected = f"expected {_COLUMNS[0]} and any of {', '.join(_COLUMNS[1:])}"
    unknown = [name for name in headings if name not in _COLUMNS]
    if unknown:
        raise InputError(f"{path}: column {unknown[0]}; {expected}")
    if _COLUMNS[0] not in headings or len(headings) < 2:
        raise InputError(f"{path}: columns {', '.join(headings) or 'none'}; {expected}")
    facts: dict[int, Lesion] = {}
    for row in rows:
        try:
            lesion = _lesion(row)
        except CellError as error:
            raise InputError(f"{path}: line {row.line}: {error}") from error
        if lesion.lesion_id in facts:
            raise InputError(f"{path}: line {row.line}: lesion {lesion.lesion_id} a second time; expected each once")
        facts[lesion.lesion_id] = lesion
    return facts


def lesions_of(lesion_ids: Iterable[int], facts: Mapping[int, Lesion]) -> list[Lesion]:
    """The lesions of those ids, with what is known of them."""
    return [facts.get(lesion_id, Lesion(lesion_id=lesion_id)) for lesion_id in sorted(lesion_ids)]


def undecided(lesion_ids: Collection[int], facts: Mapping[int, Lesion]) -> tuple[str, ...]:
    """What nothing tells of the lesions, so that the response cannot take it into account."""
    without_organ = [
        each.lesion_id for each in lesions_of(lesion_ids, facts) if each.organ is None and not each.is_node
    ]
    without_row = sorted(set(lesion_ids) - set(facts))
    said = []
    if without_organ:
        said.append(f"{_of('organs', without_organ, facts)} not known: more than two targets may be of one organ")
    if without_row:
        said.append(
            f"{_of('lymph nodes', without_row, facts)} not known: lesions are measured by their longest axial diameter"
        )
    return (
        *said,
        "whether the growth of non-target lesions and whether new lesions are unequivocal is for a reader to judge",
    )


def warn_of_strangers(path: Path | None, facts: Mapping[int, Lesion], lesion_ids: Collection[int]) -> None:
    """Warns of rows whose lesion nobody has outlined or clicked: the id may be a wrong one."""
    strangers = sorted(set(facts) - set(lesion_ids))
    if strangers:
        _log.warning(
            "%s: lesions %s are neither outlined nor clicked; expected the ids of lesions that are",
            path,
            ", ".join(map(str, strangers)),
        )


def _of(what: str, lesion_ids: Collection[int], facts: Mapping[int, Lesion]) -> str:
    if not facts:
        return f"{what} are"
    return f"{what} among lesions {', '.join(map(str, lesion_ids))} are"


def _lesion(row: Row) -> Lesion:
    lesion_id = row.lesion_id("lesion")
    if lesion_id is None:
        raise CellError("no lesion; expected its id")
    return Lesion(
        lesion_id=lesion_id,
        organ=row.text("organ").lower() or None,
        is_node=row.boolean("node") or False,
        is_target=row.boolean("target"),
    )
