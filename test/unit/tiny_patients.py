"""Patients of a few voxels in the layout of Longitudinal-CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from longilesion.case import LesionMap, Scan
from longilesion.geometry import Grid
from test.longitudinal_ct import COLUMNS, Image, Patient
from test.unit.case_folders import lesion_ids, soft_tissue

SHAPE_ZYX = (8, 16, 20)
BEFORE = Grid.from_spacing(SHAPE_ZYX, (3.0, 0.75, 0.75), origin_xyz_mm=(-20.0, 10.0, 100.0))
AFTER = Grid.from_spacing(SHAPE_ZYX, (3.0, 0.8, 0.8), origin_xyz_mm=(7.0, 3.0, -900.0))
# Corners (z, y, x) of the lesions' cubes.
CORNERS = {1: (2, 4, 4), 2: (2, 10, 4), 3: (4, 4, 10), 4: (4, 10, 10)}


def image(lesions: Sequence[int] | Mapping[int, Sequence[int]], grid: Grid = BEFORE) -> Image:
    """Soft tissue with lesions of 2 x 2 x 2 voxels, at the corners given or at their usual ones."""
    corners = lesions if isinstance(lesions, dict) else {lesion_id: CORNERS[lesion_id] for lesion_id in lesions}
    hu = soft_tissue(SHAPE_ZYX) + np.arange(SHAPE_ZYX[0], dtype=np.int16)[:, None, None]
    return Image(scan=Scan(hu=hu, grid=grid), lesions=LesionMap(ids=lesion_ids(corners, SHAPE_ZYX), grid=grid))


def row(lesion_id: int, topology: str = "UNCHANGED", **cells: object) -> dict[str, Any]:
    """A line of the table; unless said otherwise, of a lesion in the first image of both time points."""
    z, y, x = CORNERS[lesion_id]
    centre = f"{x + 0.5} {y + 0.5} {z + 0.5}"
    return {
        **dict.fromkeys(COLUMNS, ""),
        "lesion_id": lesion_id,
        "cog_bl": "" if topology == "NEWLYAPPEARING" else centre,
        "cog_fu": "" if topology == "DISAPPEARING" else centre,
        "cog_backpropagated": "6 7 3" if topology == "NEWLYAPPEARING" else "",
        "cog_propagated": "" if topology == "NEWLYAPPEARING" else f"{x + 1.25} {y} {z}",
        "img_id_bl": 0,
        "img_id_fu": 0,
        "lesion_type": "Liver",
        "topology_class": topology,
        "target_lesion": False,
        "use_for_challenge": True,
        "linking_unclear": False,
        **cells,
    }


def patient(
    rows: Sequence[dict[str, Any]],
    *,
    before: Sequence[int] = (1,),
    after: Sequence[int] = (1,),
    more_before: Mapping[int, Sequence[int]] | None = None,
    more_after: Mapping[int, Sequence[int]] | None = None,
) -> Patient:
    """A patient with the lesions of `before` and `after` in the first images, and perhaps more images."""
    return Patient(
        baseline={0: image(before), **{number: image(ids) for number, ids in (more_before or {}).items()}},
        followup={0: image(after, AFTER), **{number: image(ids, AFTER) for number, ids in (more_after or {}).items()}},
        rows=dict(enumerate(rows)),
    )
