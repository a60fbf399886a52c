"""`longilesion register`: propagates lesions from a baseline to a follow-up scan, with a picture to verify it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from longilesion.case import LOW_CONFIDENCE, Click, LesionPrompt, OutsideLesion
from longilesion.case_files import check_outputs, read_case
from longilesion.cli.terminal import LOOK_AT_IT, console, line_table, note
from longilesion.click_files import point_list
from longilesion.errors import InputError
from longilesion.files import check_json, check_picture, check_replaceable, written_together
from longilesion.geometry import Grid
from longilesion.prompts import Prompts, complete_prompts

if TYPE_CHECKING:
    from longilesion.registration.result import Registration, Stage

STAGES: Mapping[Stage, str] = {
    "deformable": "deformable, the follow-up was moved, turned and bent",
    "rigid": "rigid, the follow-up was moved and turned, not bent",
    "shift": "shift, the follow-up was moved only",
    "body centres": "body centres, no likeness was found and the middles of both bodies were laid over each other",
}


def register(
    *,
    baseline: Path,
    followup: Path,
    output: Path,
    lesions: Path | None = None,
    baseline_clicks: Path | None = None,
    points: Path | None = None,
    split_components: bool = False,
) -> None:
    """Register two scans of a patient, propagate lesions from one to the other, and draw a picture to verify it.

    Scans and masks are .nii.gz, .nii, .mha or .nrrd files. A lesion's position is its baseline click, else the centre
    of its outline. Propagated points can be checked, corrected and given to `longilesion segment` as its
    --followup-clicks.

    Args:
        baseline: Earlier scan of the patient.
        followup: Scan to register with it.
        output: Picture to write (.png): planes of both scans side by side, as a checkerboard and in two colours.
        lesions: Lesions outlined in the baseline scan; the value of a voxel is the lesion's id, 0 is none.
        baseline_clicks: A point on each lesion in the baseline scan; JSON as on Grand Challenge, 3D Slicer's fiducials
            (.mrk.json) or a table (.csv).
        points: JSON file to write for the lesions' points in the follow-up scan, as on Grand Challenge.
        split_components: Give each connected component of --lesions its own id, the largest 1.
    """
    outputs = [output, *([] if points is None else [points])]
    check_outputs(outputs, inputs=(baseline, followup, lesions, baseline_clicks))
    if output.suffix.lower() != ".png":
        raise InputError(f"{output}: unknown picture format; expected .png")
    check_replaceable(*outputs)
    # Imported late, here and below: the libraries that register and draw take a second to load.
    from longilesion.registration.register import register_scans

    output_console = console(piped_width=120)
    # The spinner shows in a terminal only.
    with output_console.status("reading the scans") as status:
        case = read_case(
            followup,
            baseline,
            lesions,
            baseline_clicks=baseline_clicks,
            followup_clicks=None,
            split_components=split_components,
        )
        before, after = case.baselines["primary"].scan, case.followups["primary"]
        status.update("registering")
        # Registered once, for both the picture and the lesions.
        registered = cache(register_scans)
        registration = registered(before, after)
        prompts = complete_prompts(case, register=registered)
        status.update("drawing")
        from longilesion.registration.picture import draw_registration

        figure = draw_registration(registration, before, after, [*prompts.lesions, *prompts.outside])
        checks = dict(zip(outputs, (check_picture, check_json), strict=False))
        with written_together(checks) as (picture, *lists):
            figure.savefig(picture, format="png")
            for path in lists:
                clicks = {lesion.lesion_id: lesion.followup for lesion in prompts.lesions}
                path.write_text(json.dumps(point_list(clicks, after.grid), indent=1) + "\n", encoding="utf-8")
    if prompts.lesions or prompts.outside:
        output_console.print(lesion_table(prompts, before.grid, after.grid))
    output_console.print(summary(registration), highlight=False, soft_wrap=True)


def summary(registration: Registration) -> str:
    """The last registration step that succeeded, and the similarity, in a line."""
    return f"registration: {STAGES[registration.stage]}; overall similarity {registration.overall_similarity:.2f}"


def lesion_table(prompts: Prompts, baseline: Grid, followup: Grid) -> Table:
    """A row per lesion: its id, its position in both scans, the confidence, and a note."""
    places = "baseline (x, y, z voxel)", "follow-up (x, y, z voxel)"
    table = line_table("lesion", *places, "confidence", "note", numbers=("lesion", "confidence"))
    lesions: list[LesionPrompt | OutsideLesion] = [*prompts.lesions, *prompts.outside]
    for lesion in sorted(lesions, key=lambda each: each.lesion_id):
        table.add_row(
            str(lesion.lesion_id),
            "-" if lesion.baseline is None else _voxel(lesion.baseline, baseline),
            _followup_place(lesion, followup),
            f"{lesion.confidence:.2f}",
            note(LOOK_AT_IT if lesion.confidence < LOW_CONFIDENCE else ""),
        )
    return table


def _followup_place(lesion: LesionPrompt | OutsideLesion, grid: Grid) -> str:
    if isinstance(lesion, OutsideLesion):
        return "outside the follow-up's field of view"
    return _voxel(lesion.followup, grid)


def _voxel(click: Click, grid: Grid) -> str:
    return ", ".join(f"{index:.1f}" for index in grid.index_zyx(click.point_xyz_mm)[::-1])
