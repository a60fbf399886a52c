"""`longilesion segment`: outlines for people with image files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from longilesion.cli.case_files import check_outputs, read_case
from longilesion.config import Device, Precision
from longilesion.errors import InputError
from longilesion.files import check_writable, written_together
from longilesion.images import check_writable_format, write_lesion_map
from longilesion.labeling import Labels
from longilesion.startup import lasting_imports

if TYPE_CHECKING:
    from longilesion.pipeline import LesionOutcome

SHIPPED_MODEL = Path(__file__).parents[2] / "model"


def segment(
    *,
    followup: Path,
    output: Path,
    baseline: Path | None = None,
    lesions: Path | None = None,
    baseline_clicks: Path | None = None,
    followup_clicks: Path | None = None,
    model: Path = SHIPPED_MODEL,
    device: Device = "auto",
    precision: Precision = "auto",
    labels: Labels = "lesion_ids",
    refine_clicks: bool = False,
    report: Path | None = None,
) -> None:
    """Outline the lesions of a baseline scan in a follow-up scan.

    Scans and masks are .nii.gz, .nii, .mha or .nrrd files. The mask, clicks or both tell which lesions to look for and
    where: without clicks, the centre of each lesion in the mask is its baseline click; without a follow-up click, the
    baseline click is propagated. Clicks are JSON files as on Grand Challenge, with the lesion's id as name and the
    x, y, z voxel index in their scan as point: {"points": [{"name": "7", "point": [212.5, 301.0, 48.0]}]}

    Args:
        followup: Scan to outline the lesions in.
        output: Lesion map to write, with the follow-up scan's geometry, in the format of its suffix.
        baseline: Earlier scan of the same patient.
        lesions: Lesions outlined in the baseline scan; the value of a voxel is the lesion's id, 0 is none.
        baseline_clicks: A point on each lesion in the baseline scan.
        followup_clicks: A point on or near each lesion in the follow-up scan.
        model: Folder with the model's settings and weights.
        device: Where the networks run; auto takes a GPU if there is one.
        precision: Number format of the networks; auto takes the fastest that the device has.
        labels: Whether a lesion's voxels hold its id or 1.
        refine_clicks: Let registration move follow-up clicks that it contradicts confidently.
        report: JSON file for a report of the run.
    """
    outputs = [output, *([] if report is None else [report])]
    check_outputs(outputs, inputs=(followup, baseline, lesions, baseline_clicks, followup_clicks))
    check_writable_format(output)
    for path in outputs:
        check_writable(path.parent)
    if lesions is None and baseline_clicks is None and followup_clicks is None:
        raise InputError("nothing to look for; expected --lesions, --baseline-clicks or --followup-clicks")
    # Only now: torch takes a second to load, and --help, or an option that is wrong, does not need it.
    with lasting_imports():
        from longilesion.ensemble import load_ensemble
        from longilesion.pipeline import segment_case
        from longilesion.report import make_report, write_report

    console = Console()
    # The spinner shows in a terminal only.
    with console.status("loading the model") as status:
        started = time.perf_counter()
        ensemble = load_ensemble(model, device=device, precision=precision)
        loaded = time.perf_counter()
        status.update("reading the scans")
        case = read_case(followup, baseline, lesions, baseline_clicks=baseline_clicks, followup_clicks=followup_clicks)
        read = time.perf_counter()
        status.update("outlining the lesions")
        segmentation = segment_case(case, ensemble, labels=labels, refine_clicks=refine_clicks)
        segmented = time.perf_counter()
        with written_together([output]) as (temporary,):
            write_lesion_map(temporary, segmentation.maps["primary"], like=followup)
        seconds = {"load": loaded - started, "read": read - loaded, "write": time.perf_counter() - segmented}
        if report is not None:
            write_report(report, make_report(case, segmentation, seconds=seconds))
    console.print(lesion_table(segmentation.lesions))


def lesion_table(lesions: Sequence[LesionOutcome]) -> Table:
    """A row per lesion: its id, volume before and after, the change, and what there is to say."""
    table = Table("lesion", "before (ml)", "after (ml)", "change", "note")
    for column in table.columns[:4]:
        column.justify = "right"
    for outcome in lesions:
        before, after = outcome.volume_baseline_ml, outcome.volume_followup_ml
        table.add_row(
            str(outcome.prompt.lesion_id),
            "-" if before is None else f"{before:.2f}",
            f"{after:.2f}",
            _change(before, after),
            outcome.note,
        )
    return table


def _change(before: float | None, after: float) -> str:
    if before:
        return f"{after / before - 1:+.0%}"
    return "new" if before == 0 and after > 0 else "-"
