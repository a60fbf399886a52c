"""What the commands share: reading a case from single files, and keeping outputs apart from inputs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from longilesion.case import Baseline, Case, Scan, ScanName
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.errors import InputError
from longilesion.images import read_lesion_map, read_scan

_log = logging.getLogger(__name__)


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
) -> Case:
    """Reads a case of one scan per time point, which the library calls primary."""
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
    if lesions is not None and not clicks and not baselines["primary"].regions:
        _log.warning("%s: no lesion to look for, every voxel is 0 and there is no click", lesions)
    return Case(baselines=baselines, followups={"primary": scan}, clicks=clicks)


def _click_file(path: Path, scan: Scan) -> ClickFile:
    return ClickFile(path=path, scan_name="primary", grid=scan.grid)
