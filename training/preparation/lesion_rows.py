"""The lesion table of a patient of Longitudinal-CT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from longilesion.csv_table import CellError, Row, read_table
from longilesion.evaluation.exam import Fate
from longilesion.evaluation.lesion_table import challenge_lesion_id, challenge_row
from training.preparation.patient import LesionRow, LesionTable
from training.preparation.record import LeftOut, LesionRecord

COLUMNS = (
    "lesion_id",
    "cog_bl",
    "cog_fu",
    "cog_backpropagated",
    "cog_propagated",
    "img_id_bl",
    "img_id_fu",
    "lesion_type",
    "topology_class",
    "merged_into",
    "target_lesion",
    "use_for_challenge",
    "linking_unclear",
)


def read_lesion_rows(path: Path, *, keep_unclear: bool) -> LesionTable:
    """Reads a patient's lesions, and those excluded by the table itself.

    Raises InputError where the file is no table or lacks a column.
    """
    lines, nameless = lines_by_lesion(read_table(path, columns=COLUMNS))
    read = [_lesion(lesion_id, same, keep_unclear=keep_unclear) for lesion_id, same in lines.items()]
    return LesionTable(
        rows=tuple(lesion for lesion in read if isinstance(lesion, LesionRow)),
        left_out=(*nameless, *(lesion for lesion in read if isinstance(lesion, LesionRecord))),
        warnings=tuple(
            f"{path.name}: line {line.line}: lesion {lesion_id} a second time, in the same words"
            for lesion_id, (first, *others) in lines.items()
            for line in others
            if line.cells == first.cells
        ),
    )


def lines_by_lesion(lines: Iterable[Row]) -> tuple[dict[int, list[Row]], list[LesionRecord]]:
    """The lines of a table by lesion id, and records of those without one."""
    found: dict[int, list[Row]] = {}
    nameless = []
    for line in lines:
        try:
            found.setdefault(challenge_lesion_id(line), []).append(line)
        except CellError as error:
            nameless.append(LesionRecord(lesion_id=None, left_out=unreadable(line, error)))
    return found, nameless


def unreadable(line: Row, error: CellError) -> LeftOut:
    """The reason to leave out a lesion whose line cannot be read."""
    return LeftOut(reason="unreadable line of the table", detail=f"line {line.line}: {error}")


def _lesion(lesion_id: int, lines: Sequence[Row], *, keep_unclear: bool) -> LesionRow | LesionRecord:
    """The lesion that its lines describe; of two different lines neither is used."""
    first = lines[0]
    if any(line.cells != first.cells for line in lines):
        named = ", ".join(str(line.line) for line in lines)
        return _refused(lesion_id, LeftOut(reason="different lines of the table", detail=f"lines {named}"))
    try:
        row = _row(first)
        is_used, is_unclear = first.boolean("use_for_challenge"), first.boolean("linking_unclear")
    except CellError as error:
        return _refused(lesion_id, unreadable(first, error))
    if is_used is False:
        return _refused(lesion_id, LeftOut(reason="not used in the challenge", is_error=False), fate=row.fate)
    if is_unclear and not keep_unclear:
        return _refused(lesion_id, LeftOut(reason="linking unclear", is_error=False), fate=row.fate)
    return row


def _row(line: Row) -> LesionRow:
    said = challenge_row(line)
    before = "cog_backpropagated" if said.fate == "new" else "cog_bl"
    return LesionRow(
        lesion_id=said.lesion_id,
        fate=said.fate,
        merged_into=said.merged_into,
        lesion_type=said.lesion_type,
        is_target=said.is_target,
        baseline_image=line.whole("img_id_bl"),
        followup_image=line.whole("img_id_fu"),
        baseline_xyz=line.point(before),
        # As at test time: the position propagated by registration, and only without it the true centre.
        followup_xyz=line.point("cog_propagated") or line.point("cog_fu"),
    )


def _refused(lesion_id: int, left_out: LeftOut, *, fate: Fate | None = None) -> LesionRecord:
    return LesionRecord(lesion_id=lesion_id, fate=fate, left_out=left_out)
