"""Lesions of a case, from the outlines and a user's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.ndimage import center_of_mass

from longilesion.case import SCAN_NAMES
from longilesion.csv_table import CellError, Row
from longilesion.evaluation.exam import FATES, Fate
from longilesion.geometry import Triple
from training.preparation.lesion_rows import unreadable
from training.preparation.patient import LesionRow, LesionTable, OutlinedImage, Outlines, TimePoint
from training.preparation.record import LesionRecord


def completed_rows(
    lines: Mapping[int, Sequence[Row]], nameless: Sequence[LesionRecord], outlines: Outlines
) -> LesionTable:
    """The lesions of a case: those of its table, completed from the outlines; without a table, all outlined ones."""
    outlined = {row.lesion_id: row for row in _outlined_rows(outlines)}
    if not lines and not nameless:
        return LesionTable(rows=tuple(outlined.values()))
    rows, left_out = [], list(nameless)
    for lesion_id, same in lines.items():
        try:
            rows.append(_completed(lesion_id, same, outlined.get(lesion_id), outlines))
        except CellError as error:
            left_out.append(LesionRecord(lesion_id=lesion_id, left_out=unreadable(same[0], error)))
    return LesionTable(rows=tuple(rows), left_out=tuple(left_out))


def _outlined_rows(outlines: Outlines) -> Iterator[LesionRow]:
    """A lesion in both time points persists, others are new or gone; their points are the centres of their outlines."""
    largest = {time_point: _largest(images) for time_point, images in outlines.items()}
    before, after = largest["baseline"], largest["followup"]
    for lesion_id in sorted(before.keys() | after.keys()):
        fate: Fate = "new" if lesion_id not in before else "persists" if lesion_id in after else "gone"
        yield LesionRow(
            lesion_id=lesion_id,
            fate=fate,
            baseline_image=before.get(lesion_id),
            followup_image=after[lesion_id] if lesion_id in after else _same_scan(before[lesion_id], outlines),
            baseline_xyz=_centre(lesion_id, before.get(lesion_id), outlines, "baseline"),
            followup_xyz=_centre(lesion_id, after.get(lesion_id), outlines, "followup"),
        )


def _largest(images: Mapping[int, OutlinedImage]) -> dict[int, int]:
    """The image with the most voxels of each lesion."""
    found: dict[int, int] = {}
    for number, image in images.items():
        for lesion_id, region in image.regions.items():
            if lesion_id not in found or images[found[lesion_id]].regions[lesion_id].voxels < region.voxels:
                found[lesion_id] = number
    return found


def _same_scan(number: int | None, outlines: Outlines) -> int:
    """The follow-up image of the same name as a baseline image, or else the primary one."""
    return number if number is not None and number in outlines["followup"] else 0


def _centre(lesion_id: int, number: int | None, outlines: Outlines, time_point: TimePoint) -> Triple | None:
    if number is None:
        return None
    image = outlines[time_point][number]
    region = image.regions[lesion_id]
    z, y, x = np.add(center_of_mass(image.lesions.ids[region.box] == lesion_id), region.start_zyx).tolist()
    return x, y, z


def _completed(lesion_id: int, lines: Sequence[Row], outlined: LesionRow | None, outlines: Outlines) -> LesionRow:
    """The row of a lesion; missing values of the table come from the outlines."""
    line = lines[0]
    if len(lines) > 1:
        raise CellError(f"lesion {lesion_id} a second time in line {lines[1].line}; expected one line each")
    fate = _fate(line) or (None if outlined is None else outlined.fate)
    if fate is None:
        raise CellError("no fate, and no outline that tells it")
    known = LesionRow(lesion_id=lesion_id, fate=fate) if outlined is None else replace(outlined, fate=fate)
    before, after = _image(line, "baseline_scan"), _image(line, "followup_scan")
    baseline_image = known.baseline_image if before is None else before
    followup_image = known.followup_image if after is None else after
    # A computed point belongs to the image that it was computed in.
    own = {
        "baseline": known.baseline_xyz if baseline_image == known.baseline_image else None,
        "followup": known.followup_xyz if followup_image == known.followup_image else None,
    }
    return replace(
        known,
        merged_into=line.lesion_id("merged_into"),
        lesion_type=line.text("lesion_type") or None,
        is_target=line.boolean("is_target"),
        baseline_image=0 if baseline_image is None else baseline_image,
        followup_image=_same_scan(baseline_image, outlines) if followup_image is None else followup_image,
        baseline_xyz=line.point("baseline_x", "baseline_y", "baseline_z") or own["baseline"],
        followup_xyz=line.point("followup_x", "followup_y", "followup_z") or own["followup"],
    )


def _fate(line: Row) -> Fate | None:
    text = line.text("fate").lower()
    for fate in FATES:
        if text == fate:
            return fate
    if text:
        raise CellError(f"fate {text!r}; expected one of {', '.join(FATES)}")
    return None


def _image(line: Row, column: str) -> int | None:
    text = line.text(column)
    for number, name in enumerate(SCAN_NAMES):
        if text == name:
            return number
    if text:
        raise CellError(f"{column} {text!r}; expected {' or '.join(SCAN_NAMES)}")
    return None
