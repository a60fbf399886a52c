"""Longitudinal-CT, the challenge's training data: its files by patient, and its patients as cases.

All naming schemes are read: `<id>_BL_img_00.nii.gz`, the earlier `<id>_BL_img_BL_img_00.nii.gz`, and release 2, whose
data_split.json names the patients of its splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from longilesion.errors import InputError
from training.preparation.assembly import made_patient, read_outlines
from training.preparation.click_check import click_differences
from training.preparation.lesion_rows import read_lesion_rows
from training.preparation.memory import memory_bytes
from training.preparation.patient import (
    TIME_POINTS,
    DataSource,
    ImageFiles,
    Job,
    Made,
    PatientFiles,
    TimePoint,
)
from training.preparation.record import ImageRecord, LeftOut, Record
from training.preparation.released_splits import read_released_splits
from training.preparation.selection import EdgeRule

INPUTS, TARGETS, SPLITS = "inputsTr", "targetsTr", "data_split.json"
LICENCE = "Longitudinal-CT, CC BY-NC 4.0"

_IMAGE = re.compile(
    r"(?P<patient>.+?)_(?P<time>BL|FU)_(?P<kind>img|mask)(_(BL|FU)_img)?_(?P<number>[0-9]{2})\.(nii\.gz|nii|mha)"
)
_CLICKS = re.compile(r"(?P<patient>.+?)_(?P<time>BL|FU)(_img)?(_(BL|FU)_img)?_(?P<number>[0-9]{2})\.json")
_TIME_POINTS: Mapping[str, TimePoint] = {"BL": "baseline", "FU": "followup"}
_NAMES = {time_point: name for name, time_point in _TIME_POINTS.items()}


@dataclass(slots=True, kw_only=True, eq=False)
class _Found:
    """The files of a patient while the folders are listed."""

    table: Path | None = None
    images: dict[tuple[TimePoint, str, int], list[Path]]
    clicks: dict[tuple[TimePoint, int], Path]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Patient:
    """The files of a patient; `images` holds all files found, by time point, kind and number."""

    name: str
    table: Path
    images: Mapping[tuple[TimePoint, str, int], list[Path]]
    clicks: Mapping[tuple[TimePoint, int], Path]


def find_longitudinal_ct(root: Path, *, edge: EdgeRule, keep_unclear: bool) -> DataSource:
    """Finds the patients; raises InputError where the folder lacks the layout of the challenge's training data."""
    folder = root / INPUTS
    if not folder.is_dir():
        raise InputError(f"{root}: no folder {INPUTS}; expected Longitudinal-CT with {INPUTS} and {TARGETS}")
    found = _listed(root)
    if not found:
        raise InputError(f"{folder}: no patients; expected <id>.csv and <id>_BL_img_00.nii.gz")
    released, warnings = read_released_splits(root / SPLITS, found.keys())
    jobs, left_out = [], []
    for name, files in sorted(found.items()):
        if files.table is None:
            why = LeftOut(reason="no lesion table", detail=f"expected {INPUTS}/{name}.csv")
            left_out.append(Record(name=name, patient=name, left_out=why))
            continue
        patient = _Patient(name=name, table=files.table, images=files.images, clicks=files.clicks)
        scans = [path for (_, kind, _), paths in files.images.items() if kind == "img" for path in paths]
        make = partial(_made, patient, edge=edge, keep_unclear=keep_unclear)
        jobs.append(Job(name=name, patient=name, memory_bytes=memory_bytes(scans), make=make))
    return DataSource(
        kind="longitudinal-ct",
        place=str(root),
        jobs=tuple(jobs),
        arguments={"root": str(root.resolve()), "edge": edge, "keep_unclear": keep_unclear},
        released=released,
        left_out=tuple(left_out),
        warnings=warnings,
    )


def _listed(root: Path) -> dict[str, _Found]:
    """The files of both folders by patient."""
    found: dict[str, _Found] = {}

    def of(patient: str) -> _Found:
        return found.setdefault(patient, _Found(images={}, clicks={}))

    for folder in (root / INPUTS, root / TARGETS):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix == ".csv":
                of(path.stem).table = path
            elif match := _IMAGE.fullmatch(path.name):
                key = (_TIME_POINTS[match["time"]], match["kind"], int(match["number"]))
                of(match["patient"]).images.setdefault(key, []).append(path)
            elif match := _CLICKS.fullmatch(path.name):
                of(match["patient"]).clicks[_TIME_POINTS[match["time"]], int(match["number"])] = path
    return found


def _made(patient: _Patient, *, edge: EdgeRule, keep_unclear: bool) -> Made:
    table = read_lesion_rows(patient.table, keep_unclear=keep_unclear)
    files = _patient_files(patient)
    outlines = read_outlines(files)
    warnings = tuple(click_differences(patient.clicks, table, outlines))
    return made_patient(files, table, outlines, edge=edge, warnings=warnings)


def _patient_files(patient: _Patient) -> PatientFiles:
    """The images that have their masks; raises InputError where the first image of a time point is not among them."""
    for paths in patient.images.values():
        if len(paths) > 1:
            raise InputError(f"{paths[1]}: the same image as {paths[0].name}; expected one of them")
    images: dict[TimePoint, dict[int, ImageFiles]] = {time_point: {} for time_point in TIME_POINTS}
    left_out = []
    for time_point, number in sorted({(time_point, number) for time_point, _, number in patient.images}):
        parts = {
            kind: patient.images[time_point, kind, number][0]
            for kind in ("img", "mask")
            if (time_point, kind, number) in patient.images
        }
        if len(parts) == 2:
            images[time_point][number] = ImageFiles(image=parts["img"], mask=parts["mask"])
            continue
        (present,) = parts.values()
        reason = "image without its mask" if "img" in parts else "mask without its image"
        left_out.append(ImageRecord(file=present.name, left_out=LeftOut(reason=reason)))
    for time_point in TIME_POINTS:
        if 0 not in images[time_point]:
            name = f"{patient.name}_{_NAMES[time_point]}"
            raise InputError(f"{patient.table.parent}: no {name}_img_00 with its {name}_mask_00; expected both")
    return PatientFiles(patient=patient.name, case_id=patient.name, images=images, left_out=tuple(left_out))
