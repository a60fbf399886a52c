"""Selection of a patient's lesions: those with consistent table, outlines and points are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from longilesion.geometry import Grid, Triple
from training.preparation.patient import TIME_NAMES, LesionRow, LesionTable, Outlines, TimePoint
from training.preparation.record import LeftOut, LesionRecord

# Treatment of a point at the edge of its scan: leave out the lesion, leave out the patient, or keep it.
EdgeRule: TypeAlias = Literal["lesion", "patient", "keep"]

# From the centre of a border voxel inwards; points outside are at the edge, too.
_EDGE_VOXELS = 0.5
_AT_EDGE = "point at the edge of its scan"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLesion:
    """A lesion that is kept; `true_id` is the id of its voxels in the follow-up, None where it is gone."""

    row: LesionRow
    true_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The lesions of a patient that are kept and left out; `patient` is the reason for leaving out all of them."""

    kept: tuple[KeptLesion, ...]
    left_out: tuple[LesionRecord, ...]
    patient: LeftOut | None = None


def select_lesions(table: LesionTable, outlines: Outlines, *, edge: EdgeRule) -> Selection:
    """Compares a table with the outlines, and keeps the lesions for which they agree."""
    rows = {row.lesion_id: _with_images(row, outlines) for row in table.rows}
    kept: dict[int, KeptLesion] = {}
    left_out = list(table.left_out)
    for row in rows.values():
        true_id = _true_id(row, rows, outlines)
        why = next(_mismatches(row, true_id, outlines), None) or (None if edge == "keep" else _edge(row, outlines))
        if why is None:
            kept[row.lesion_id] = KeptLesion(row=row, true_id=true_id)
        else:
            left_out.append(LesionRecord(lesion_id=row.lesion_id, fate=row.fate, left_out=why))
    unused = {record.lesion_id for record in left_out} - {None}
    for lesion in [lesion for lesion in kept.values() if lesion.true_id in unused]:
        why = LeftOut(reason="merged into a lesion that is left out", detail=f"{lesion.true_id}", is_error=False)
        left_out.append(LesionRecord(lesion_id=lesion.row.lesion_id, fate=lesion.row.fate, left_out=why))
        del kept[lesion.row.lesion_id]
    hosts = {lesion.true_id for lesion in kept.values()}
    left_out += _strays(outlines, known={*rows, *unused, *hosts})
    return Selection(
        kept=tuple(kept[lesion_id] for lesion_id in sorted(kept)),
        left_out=tuple(left_out),
        patient=_patient_at_edge(left_out) if edge == "patient" else None,
    )


def _patient_at_edge(left_out: Iterable[LesionRecord]) -> LeftOut | None:
    for record in left_out:
        if record.left_out is not None and record.left_out.reason == _AT_EDGE:
            detail = f"lesion {record.lesion_id}, {record.left_out.detail}"
            return LeftOut(reason=_AT_EDGE, detail=detail, is_error=False)
    return None


def images_with(lesion_id: int, outlines: Outlines, time_point: TimePoint) -> list[int]:
    """The numbers of the images of a time point in which a lesion has voxels."""
    return [number for number, image in outlines[time_point].items() if lesion_id in image.regions]


def _with_images(row: LesionRow, outlines: Outlines) -> LesionRow:
    """The row, with the only image of a time point where the row names none."""
    only = {time_point: next(iter(images)) if len(images) == 1 else None for time_point, images in outlines.items()}
    return replace(
        row,
        baseline_image=only["baseline"] if row.baseline_image is None else row.baseline_image,
        followup_image=only["followup"] if row.followup_image is None else row.followup_image,
    )


def _true_id(row: LesionRow, rows: Mapping[int, LesionRow], outlines: Outlines) -> int | None:
    """The id of the lesion's voxels in the follow-up; of a merged one, that of the last in its chain."""
    if row.fate == "gone":
        return None
    host, seen = row, {row.lesion_id}
    while host.fate == "merged" and host.merged_into is not None and host.merged_into not in seen:
        seen.add(host.merged_into)
        if host.merged_into not in rows:
            return host.merged_into
        host = rows[host.merged_into]
    return host.lesion_id


def _mismatches(row: LesionRow, true_id: int | None, outlines: Outlines) -> Iterator[LeftOut]:
    """The contradictions between a lesion's row and its outlines."""
    numbers: dict[TimePoint, int | None] = {"followup": row.followup_image, "baseline": row.baseline_image}
    for time_point, number in numbers.items():
        if number not in outlines[time_point] and (time_point == "followup" or row.fate != "new"):
            detail = "the table names none of several" if number is None else f"image {number}"
            yield LeftOut(reason=f"{TIME_NAMES[time_point]} image missing", detail=detail)
    before = images_with(row.lesion_id, outlines, "baseline")
    if row.fate == "new" and before:
        yield LeftOut(reason="new, but outlined in the baseline")
    if row.fate != "new" and row.baseline_image not in before:
        yield LeftOut(reason="no voxels in the baseline mask", detail=_elsewhere(row.baseline_image, before))
    own = images_with(row.lesion_id, outlines, "followup")
    if row.fate == "gone":
        if own:
            yield LeftOut(reason="disappeared, but outlined in the follow-up", detail=_elsewhere(None, own))
        return
    if row.fate == "merged" and own and true_id != row.lesion_id:
        yield LeftOut(reason="merged into another lesion, but outlined in the follow-up", detail=f"into {true_id}")
    true = own if true_id == row.lesion_id or true_id is None else images_with(true_id, outlines, "followup")
    if row.fate == "merged" and not true:
        yield LeftOut(reason="merged into an unknown lesion", detail=f"{row.merged_into or 'none is named'}")
    if row.followup_image not in true:
        yield LeftOut(reason="no voxels in the follow-up mask", detail=_elsewhere(row.followup_image, true))


def _elsewhere(named: int | None, found: list[int]) -> str:
    where = f"in image {', '.join(map(str, found))}" if found else "in none"
    return where if named is None else f"of image {named}; {where}"


def _edge(row: LesionRow, outlines: Outlines) -> LeftOut | None:
    points: tuple[tuple[TimePoint, int | None, Triple | None], ...] = (
        ("followup", row.followup_image, row.followup_xyz),
        ("baseline", row.baseline_image, row.baseline_xyz),
    )
    for time_point, number, index_xyz in points:
        image = None if number is None else outlines[time_point].get(number)
        if image is not None and index_xyz is not None and is_at_edge(index_xyz, image.scan.grid):
            size = " x ".join(map(str, image.scan.grid.shape_zyx[::-1]))
            point = " ".join(f"{coordinate:g}" for coordinate in index_xyz)
            return LeftOut(reason=_AT_EDGE, detail=f"{TIME_NAMES[time_point]} {point} of {size} voxels", is_error=False)
    return None


def is_at_edge(index_xyz: Triple, grid: Grid) -> bool:
    """Whether a point lies outside a scan, or within half a voxel of its border voxels' centres."""
    last = np.array(grid.shape_zyx[::-1]) - 1
    index = np.array(index_xyz)
    return bool((index <= _EDGE_VOXELS).any() or (index >= last - _EDGE_VOXELS).any())


def _strays(outlines: Outlines, *, known: set[int | None]) -> Iterator[LesionRecord]:
    """Outlined lesions that are not in the table."""
    found: dict[int, list[str]] = {}
    for time_point, images in outlines.items():
        for number, image in images.items():
            for lesion_id in image.regions.keys() - known:
                found.setdefault(lesion_id, []).append(f"{TIME_NAMES[time_point]} image {number}")
    for lesion_id, where in sorted(found.items()):
        yield LesionRecord(
            lesion_id=lesion_id,
            left_out=LeftOut(reason="outlined, but not in the table", detail=", ".join(where)),
        )
