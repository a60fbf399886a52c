"""`longilesion segment`: outlines for people with image files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longilesion.case import Baseline, Case, Scan, ScanName
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.ensemble import Device, Precision, load_ensemble
from longilesion.errors import InputError
from longilesion.files import check_writable, written_together
from longilesion.images import check_writable_format, read_lesion_map, read_scan, write_lesion_map
from longilesion.labeling import Labels
from longilesion.pipeline import LesionOutcome, segment_case
from longilesion.report import make_report, write_report

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
    report: Path | None = None,
) -> None:
    """Outline the lesions of a baseline scan in a follow-up scan.

    Scans and masks are .nii.gz, .nii, .mha or .nrrd files. The mask, clicks or both tell which lesions to look for and
    where: without clicks, the centre of each lesion in the mask is its baseline click; without a follow-up click, the
    baseline click is carried over. Clicks are JSON files as on Grand Challenge, with the lesion's id as name and the
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
        report: JSON file for a report of the run.
    """
    inputs = (followup, baseline, lesions, baseline_clicks, followup_clicks)
    if any(path is not None and path.resolve() == output.resolve() for path in inputs):
        raise InputError(f"{output}: is one of the inputs; expected another file to write to")
    check_writable_format(output)
    for path in (output, report):
        if path is not None:
            check_writable(path.parent)
    console = Console()
    # The spinner shows in a terminal only.
    with console.status("loading the model") as status:
        started = time.perf_counter()
        ensemble = load_ensemble(model, device=device, precision=precision)
        loaded = time.perf_counter()
        status.update("reading the scans")
        case = _read_case(followup, baseline, lesions, baseline_clicks=baseline_clicks, followup_clicks=followup_clicks)
        read = time.perf_counter()
        status.update("outlining the lesions")
        segmentation = segment_case(case, ensemble, labels=labels)
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


def _read_case(
    followup: Path,
    baseline: Path | None,
    lesions: Path | None,
    *,
    baseline_clicks: Path | None,
    followup_clicks: Path | None,
) -> Case:
    """Reads a case of one scan per time point, which the library calls primary."""
    if lesions is None and baseline_clicks is None and followup_clicks is None:
        raise InputError("nothing to look for; expected --lesions, --baseline-clicks or --followup-clicks")
    for option, path in (("lesions", lesions), ("baseline-clicks", baseline_clicks)):
        if path is not None and baseline is None:
            raise InputError(f"{path}: --{option} without its scan; expected --baseline too")
    scan = read_scan(followup)
    baselines: dict[ScanName, Baseline] = {}
    if baseline is not None:
        prior = read_scan(baseline)
        outlined = None if lesions is None else read_lesion_map(lesions, like=prior.grid)
        baselines["primary"] = Baseline.of(prior, outlined)
    clicks = read_click_pairs(
        baseline=[] if baseline_clicks is None else [_click_file(baseline_clicks, baselines["primary"].scan)],
        followup=[] if followup_clicks is None else [_click_file(followup_clicks, scan)],
    )
    return Case(baselines=baselines, followups={"primary": scan}, clicks=clicks)


def _click_file(path: Path, scan: Scan) -> ClickFile:
    return ClickFile(path=path, scan_name="primary", grid=scan.grid)


def _change(before: float | None, after: float) -> str:
    if before:
        return f"{after / before - 1:+.0%}"
    return "new" if before == 0 and after > 0 else "-"
