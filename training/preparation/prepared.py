"""A prepared data set: its cases and its folds, read back from the folder that `training.prepare` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict

from longilesion.case import Case, EarlierVisit, Scan, ScanName
from longilesion.errors import InputError
from longilesion.files import valid, written_together
from longilesion.geometry import Grid
from longilesion.grand_challenge import read_case
from longilesion.images import read_lesion_map
from longilesion.json_file import read_json
from training.preparation.folds import Folds

DATASET_FILE = "dataset.json"
FOLDS_FILE = "folds.json"
CASES_FOLDER = "cases"
# In a case folder, the masks of the organ that its scans are cut out around: <scan>/<organ>.nii.gz.
ORGANS_FOLDER = "organs"

_WRITTEN = "what python -m training.prepare writes"


class CaseEntry(BaseModel):
    """A case in dataset.json; `previous` is the case whose follow-up is its baseline, with the same lesion ids."""

    model_config = ConfigDict(frozen=True)

    case_id: str
    patient: str
    lesions: int
    previous: str | None = None


class DatasetFile(BaseModel):
    """The contents of dataset.json; `cases` is empty until the preparation is complete.

    `arguments` determine the contents: another preparation into the same folder needs the same ones.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    name: str
    source: str
    licence: str | None = None
    is_complete: bool = False
    cases: tuple[CaseEntry, ...] = ()
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedCase:
    """A case and its folder, with the input in Grand Challenge's layout and the ground truth.

    `earlier` are the cases before it in its series, oldest first: their baselines are time points before its own.
    """

    case_id: str
    patient: str
    folder: Path
    earlier: tuple[PreparedCase, ...] = ()

    @property
    def input(self) -> Path:
        """The input's folder."""
        return self.folder / "input"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedData:
    """A prepared data set."""

    folder: Path
    name: str
    cases: tuple[PreparedCase, ...]
    folds: Folds

    def split(self, fold: int | None) -> tuple[tuple[PreparedCase, ...], tuple[PreparedCase, ...]]:
        """The training and validation cases of a fold, or of the 80/20 split for None.

        All cases of a patient are on the same side. Raises InputError where there is no such fold.
        """
        try:
            split = self.folds.split(fold)
        except InputError as error:
            raise InputError(f"{self.folder / FOLDS_FILE}: {error}") from error
        train, validation = (
            tuple(case for case in self.cases if case.patient in part.ids) for part in (split.train, split.validation)
        )
        return train, validation


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a prepared data set, complete or not."""
    return (folder / DATASET_FILE).is_file()


def read_prepared(folder: Path) -> PreparedData:
    """Reads a prepared data set; raises InputError where it is incomplete, damaged or missing."""
    dataset = read_dataset_file(folder)
    if not dataset.is_complete:
        raise InputError(f"{folder / DATASET_FILE}: preparation has not ended; expected it complete, run it again")
    folds = read_json(folder / FOLDS_FILE, Folds, expected=_WRITTEN)
    cases = _cases(folder, dataset)
    for case in cases:
        if not case.folder.is_dir():
            raise InputError(f"{case.folder}: no such folder; expected it, as {DATASET_FILE} names the case")
    unknown = set(folds.patients) - {case.patient for case in cases}
    if unknown:
        raise InputError(f"{folder / FOLDS_FILE}: patient {min(unknown)} has no case; expected one in {DATASET_FILE}")
    return PreparedData(folder=folder, name=dataset.name, cases=cases, folds=folds)


def read_prepared_case(case: PreparedCase, *, with_earlier: bool) -> tuple[Case, dict[ScanName, Path]]:
    """Reads a case's input as `grand_challenge.read_case`, on request with the time points before its baseline."""
    scans, followup_files = read_case(case.input)
    if with_earlier:
        visits = tuple(EarlierVisit.of(read_case(before.input)[0]) for before in case.earlier)
        scans = replace(scans, earlier=visits)
    return scans, followup_files


def read_prepared_exam(case: PreparedCase) -> Case:
    """Reads an exam's input, with the organ masks of its scans; raises InputError where a scan has none."""
    scans, _ = read_case(case.input)
    return replace(
        scans,
        baselines={
            name: replace(baseline, scan=_with_organ(baseline.scan, case, f"{name}-baseline-ct"))
            for name, baseline in scans.baselines.items()
        },
        followups={name: _with_organ(scan, case, f"{name}-followup-ct") for name, scan in scans.followups.items()},
    )


def read_organ(case: PreparedCase, slug: str, grid: Grid) -> Bool[np.ndarray, "z y x"]:
    """The organ mask of one of an exam's scans; raises InputError where it is missing or empty."""
    place = case.folder / ORGANS_FOLDER / slug
    masks = [read_lesion_map(path, like=grid).ids > 0 for path in sorted(place.glob("*.nii.gz"))]
    if not any(mask.any() for mask in masks):
        raise InputError(
            f"{place}: no organ mask; expected <organ>.nii.gz, as training.prepare synthetic --organ writes"
        )
    return np.asarray(np.any(masks, axis=0))


def _with_organ(scan: Scan, case: PreparedCase, slug: str) -> Scan:
    return replace(scan, organ=read_organ(case, slug, scan.grid))


def _cases(folder: Path, dataset: DatasetFile) -> tuple[PreparedCase, ...]:
    """The cases, each with those before it; raises InputError for a previous case that cannot be one."""
    bare = {
        entry.case_id: PreparedCase(
            case_id=entry.case_id, patient=entry.patient, folder=folder / CASES_FOLDER / entry.case_id
        )
        for entry in dataset.cases
    }
    previous = {entry.case_id: entry.previous for entry in dataset.cases}
    cases = []
    for case in bare.values():
        chain = [case]
        while (name := previous[chain[0].case_id]) is not None:
            before = bare.get(name)
            if before is None or before.patient != case.patient or before in chain:
                raise InputError(
                    f"{folder / DATASET_FILE}: {name} before {chain[0].case_id}; "
                    f"expected an earlier case of {case.patient}"
                )
            chain.insert(0, before)
        cases.append(replace(case, earlier=tuple(chain[:-1])))
    return tuple(cases)


def read_dataset_file(folder: Path) -> DatasetFile:
    """Reads dataset.json; raises InputError where it is missing or damaged."""
    return read_json(folder / DATASET_FILE, DatasetFile, expected=_WRITTEN)


def write_json(path: Path, model: BaseModel) -> None:
    """Writes a file of a prepared data set, completely or not at all."""
    with written_together({path: valid(type(model))}) as (temporary,):
        temporary.write_text(
            json.dumps(model.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
