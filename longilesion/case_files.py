"""Functions shared by the commands: reading a case from single files, and checking outputs against inputs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from longilesion.case import Baseline, Case, Identity, ScanName
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.errors import InputError
from longilesion.images import read_scan
from longilesion.outlines import match_clicks, read_baseline

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesChoice:
    """The number or UID of the DICOM series to take, where a folder has several."""

    baseline: str | None = None
    followup: str | None = None


def check_identities(baseline: Path, before: Identity | None, followup: Path, after: Identity | None) -> None:
    """Raises InputError where two scans are of two patients, or the baseline was taken after the follow-up.

    Nothing is said of scans without this information; ids and dates are not repeated, as they are the patients'.
    """
    if before is None or after is None:
        return
    is_named = not (before.is_deidentified or after.is_deidentified)
    if is_named and before.patient_id != after.patient_id:
        raise InputError(
            f"{baseline} and {followup}: scans of two patients, by their PatientID; expected one patient's, or "
            "--same-patient if they are"
        )
    if before.date is not None and after.date is not None and before.date > after.date:
        raise InputError(
            f"{baseline}: taken {(before.date - after.date).days} days after {followup}; expected the earlier scan as "
            "the baseline, or --same-patient if ids and dates do not count"
        )


def check_outputs(outputs: Sequence[Path], *, inputs: Iterable[Path | None]) -> None:
    """Raises InputError where an output would overwrite an input or another output."""
    taken = {path.resolve() for path in inputs if path is not None}
    for number, output in enumerate(outputs):
        if output.resolve() in taken:
            raise InputError(f"{output}: is one of the inputs; expected another file to write to")
        if output.resolve() in [other.resolve() for other in outputs[:number]]:
            raise InputError(f"{output}: given twice; expected a file of its own for each output")


def read_case(
    followup: Path,
    baseline: Path | None,
    lesions: Path | None,
    *,
    baseline_clicks: Path | None,
    followup_clicks: Path | None,
    split_components: bool = False,
    series: SeriesChoice | None = None,
    same_patient: bool = False,
) -> Case:
    """Reads a case of one scan per time point, which the library calls primary.

    `split_components` gives each component of the mask its own id, and the clicks those of the components they lie in.
    `same_patient` accepts scans of DICOM files that contradict it by their ids or dates.
    """
    series = series or SeriesChoice()
    for option, path in (("lesions", lesions), ("baseline-clicks", baseline_clicks)):
        if path is not None and baseline is None:
            raise InputError(f"{path}: --{option} without its scan; expected --baseline too")
    if split_components and lesions is None:
        raise InputError("--split-components without a mask; expected --lesions too")
    scan = read_scan(followup, series=series.followup)
    baselines: dict[ScanName, Baseline] = {}
    before, after = [], []
    if baseline is not None:
        before_scan = read_scan(baseline, series=series.baseline)
        if not same_patient:
            check_identities(baseline, before_scan.identity, followup, scan.identity)
        prior = read_baseline(before_scan, lesions, split_components=split_components)
        baselines["primary"] = prior
        if baseline_clicks is not None:
            # With split components the clicks' names are ignored, so they cannot contradict the outlines.
            outlines = None if split_components else prior
            grid = prior.scan.grid
            before.append(ClickFile(path=baseline_clicks, scan_name="primary", grid=grid, prior=outlines))
    if followup_clicks is not None:
        after.append(ClickFile(path=followup_clicks, scan_name="primary", grid=scan.grid))
    clicks = read_click_pairs(baseline=before, followup=after, may_lack_points=False)
    if split_components:
        clicks = match_clicks(clicks, baselines["primary"])
    given = [str(path) for path in (lesions, baseline_clicks, followup_clicks) if path is not None]
    if given and not clicks and not any(prior.regions for prior in baselines.values()):
        _log.warning("%s: no lesion to look for, neither outlined nor clicked", ", ".join(given))
    return Case(baselines=baselines, followups={"primary": scan}, clicks=clicks)
