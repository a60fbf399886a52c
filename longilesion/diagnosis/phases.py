"""An exam from image files, one per phase, checked for what is given by mistake."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from longilesion.case import Scan
from longilesion.diagnosis.exam import LiverExam
from longilesion.diagnosis_settings import PHASES, Phase
from longilesion.errors import InputError
from longilesion.images import read_lesion_map, read_scan

# Which phase the others are registered to, and lesions are outlined on: the first of these that is there. The liver's
# tissue, and most lesions against it, differ most from blood-filled vessels in the venous phase, next in the delayed.
_REFERENCES: tuple[Phase, ...] = ("venous", "delayed", "arterial", "non_contrast")
# Names of phases in messages.
PHASE_NAMES: Mapping[Phase, str] = {
    "non_contrast": "non-contrast",
    "arterial": "arterial",
    "venous": "venous",
    "delayed": "delayed",
}

_log = logging.getLogger(__name__)


def read_phases(files: Mapping[Phase, Path], liver: Path | None = None) -> LiverExam:
    """Reads an exam's scans, and the mask of the liver on the voxels of its reference phase.

    That is the venous phase, or else the delayed, arterial or non-contrast one, with a warning. Without a mask there
    is a warning too. Raises InputError where there is no phase, where two phases are one file or have the same voxels,
    and where the mask is empty, or not on the reference's voxels.
    """
    if not files:
        raise InputError("no phase is given; expected one to four of them, the venous one among them")
    for (phase, path), (other, same) in combinations(files.items(), 2):
        if path.resolve() == same.resolve():
            raise InputError(
                f"{same}: given as {PHASE_NAMES[phase]} and as {PHASE_NAMES[other]} phase; expected a file of its own "
                "for each"
            )
    phases = {phase: read_scan(files[phase]) for phase in PHASES if phase in files}
    for phase, other in combinations(phases, 2):
        if np.array_equal(phases[phase].hu, phases[other].hu):
            raise InputError(
                f"{files[other]}: the {PHASE_NAMES[other]} phase has the voxels of the {PHASE_NAMES[phase]} one, "
                f"{files[phase]}; expected another scan"
            )
    reference = reference_of(files)
    warnings = []
    if reference != "venous":
        warnings.append(f"no venous phase; lesions are outlined on the {PHASE_NAMES[reference]} one instead")
    if liver is None:
        warnings.append("no mask of the liver; the whole body is searched, expect false findings outside the liver")
    else:
        phases[reference] = _with_liver(phases[reference], liver, reference)
    for warning in warnings:
        _log.warning("%s", warning)
    return LiverExam(phases=phases, reference=reference, warnings=tuple(warnings))


def reference_of(files: Mapping[Phase, Path]) -> Phase:
    """The phase that the others are registered to."""
    return next(phase for phase in _REFERENCES if phase in files)


def _with_liver(scan: Scan, path: Path, reference: Phase) -> Scan:
    mask = read_lesion_map(path, like=scan.grid, of=f"the {PHASE_NAMES[reference]} scan").ids != 0
    if not mask.any():
        raise InputError(f"{path}: an empty mask; expected the liver in the {PHASE_NAMES[reference]} scan")
    return replace(scan, organ=mask)
