"""Comparison of a data set's click lists with its lesion tables; the tables take precedence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.errors import InputError
from longilesion.geometry import Grid, Triple
from training.preparation.patient import LesionRow, LesionTable, Outlines, TimePoint

# One of the two may be rounded to whole voxels.
_TOLERANCE_VOXELS = 0.5 + 1e-3


def click_differences(
    clicks: Mapping[tuple[TimePoint, int], Path], table: LesionTable, outlines: Outlines
) -> Iterator[str]:
    """A line for each difference between click lists, by time point and image, and the table."""
    known = {row.lesion_id for row in table.rows} | {record.lesion_id for record in table.left_out}
    for (time_point, number), path in sorted(clicks.items()):
        image = outlines[time_point].get(number)
        if image is None:
            yield f"{path.name}: clicks in an image that cannot be used"
            continue
        try:
            clicked = _clicked(path, image.scan.grid)
        except InputError as error:
            yield str(error)
            continue
        for lesion_id in sorted(clicked.keys() - known):
            yield f"{path.name}: a click on lesion {lesion_id}, which is not in the table"
        for row in table.rows:
            named, said = _place(row, time_point)
            if named == number and said is not None:
                yield from _difference(path, row.lesion_id, clicked.get(row.lesion_id), said, grid=image.scan.grid)


def _clicked(path: Path, grid: Grid) -> dict[int, Triple]:
    """The list's points by lesion id, as voxel indices."""
    pairs = read_click_pairs(baseline=(), followup=[ClickFile(path=path, scan_name="primary", grid=grid)])
    return {pair.lesion_id: grid.index_zyx(pair.followup.point_xyz_mm) for pair in pairs if pair.followup is not None}


def _place(row: LesionRow, time_point: TimePoint) -> tuple[int | None, Triple | None]:
    if time_point == "baseline":
        return row.baseline_image, row.baseline_xyz
    return row.followup_image, row.followup_xyz


def _difference(
    path: Path, lesion_id: int, clicked_zyx: Triple | None, said_xyz: Triple, *, grid: Grid
) -> Iterator[str]:
    if clicked_zyx is None:
        yield f"{path.name}: no click on lesion {lesion_id}, of which the table says a point"
        return
    said_zyx = said_xyz[::-1]
    if not grid.contains(said_zyx):
        # The click has been moved to the border, too.
        said_zyx = grid.clamped(said_zyx)
    if np.abs(np.subtract(clicked_zyx, said_zyx)).max() > _TOLERANCE_VOXELS:
        found, expected = (" ".join(f"{value:.4g}" for value in point) for point in (clicked_zyx[::-1], said_xyz))
        yield f"{path.name}: lesion {lesion_id} is at {found}, in the table at {expected}"
