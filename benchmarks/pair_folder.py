"""A folder with two real scans of a patient and expert landmark pairs, for validation.

The files are `baseline.nii.gz`, `followup.nii.gz` and `landmarks.json`; the landmarks are LPS points in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from longilesion.case import Scan
from longilesion.errors import InputError
from longilesion.geometry import Triple
from longilesion.images import read_scan
from longilesion.json_file import read_json

_EXPECTED = '"baseline_lps_mm" and "followup_lps_mm", lists of equal length of points [x, y, z]'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairFolder:
    """Two scans of a patient, and points in the baseline's and the follow-up's world that correspond."""

    baseline: Scan
    followup: Scan
    baseline_xyz_mm: Float64[np.ndarray, "n 3"]
    followup_xyz_mm: Float64[np.ndarray, "n 3"]


class _Landmarks(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    baseline_lps_mm: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...]
    followup_lps_mm: tuple[tuple[FiniteFloat, FiniteFloat, FiniteFloat], ...]

    @model_validator(mode="after")
    def _are_pairs(self) -> _Landmarks:
        before, after = len(self.baseline_lps_mm), len(self.followup_lps_mm)
        if before != after or not before:
            raise ValueError(f"{before} points in the baseline, {after} in the follow-up")
        return self


def read_pair(folder: Path) -> PairFolder:
    """Reads a pair; raises InputError where a file is missing or damaged, or a landmark lies outside its scan."""
    baseline, followup = read_scan(folder / "baseline.nii.gz"), read_scan(folder / "followup.nii.gz")
    path = folder / "landmarks.json"
    landmarks = read_json(path, _Landmarks, expected=_EXPECTED)
    return PairFolder(
        baseline=baseline,
        followup=followup,
        baseline_xyz_mm=_inside(landmarks.baseline_lps_mm, baseline, f"{path}: baseline_lps_mm"),
        followup_xyz_mm=_inside(landmarks.followup_lps_mm, followup, f"{path}: followup_lps_mm"),
    )


def _inside(points: Sequence[Triple], scan: Scan, source: str) -> Float64[np.ndarray, "n 3"]:
    for number, point in enumerate(points):
        if not scan.grid.contains(scan.grid.index_zyx(point)):
            raise InputError(f"{source}[{number}]: {list(point)} lies outside the scan; expected LPS mm within it")
    return np.array(points, np.float64)
