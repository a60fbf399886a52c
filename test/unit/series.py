"""Patients seen several times: the same anatomy in frames of their own, with balls as lesions; a data set of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from longilesion.case import Baseline, Case, Click, ClickPair, EarlierVisit, LesionMap, Scan
from longilesion.config import ModelSettings
from longilesion.evaluation.exam import LesionFact
from longilesion.geometry import Grid, Triple
from longilesion.network_settings import DualEncoderSettings
from test.unit.builders import LESION_HU, ball, click, dual_encoder, model_settings
from training.preparation.case_folder import write_case
from training.preparation.folds import make_folds
from training.preparation.patient import CaseContent
from training.preparation.prepared import (
    CASES_FOLDER,
    DATASET_FILE,
    FOLDS_FILE,
    CaseEntry,
    DatasetFile,
    PreparedData,
    read_prepared,
    write_json,
)

ITERATIVE: DualEncoderSettings = dual_encoder(fusion="iterative", baseline_reconstruction=False)
MODEL: ModelSettings = model_settings(shape_zyx=(8, 16, 16), spacing_zyx_mm=(6.0, 3.0, 3.0), network=ITERATIVE)
SHAPE_ZYX, SPACING_ZYX_MM = (24, 40, 40), (5.0, 3.0, 3.0)
# Offsets from the first voxel, x, y, z in mm.
MIDDLE, BESIDE = (60.0, 57.0, 60.0), (84.0, 75.0, 70.0)


@cache
def anatomy(seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (40 + 1500 * gaussian_filter(generator.normal(size=SHAPE_ZYX), 2.5)).astype(np.int16)


def frame(number: int) -> Grid:
    """The grid of a time point: the same voxels, elsewhere in the world."""
    return Grid.from_spacing(SHAPE_ZYX, SPACING_ZYX_MM, origin_xyz_mm=(70.0 * number, -30.0 * number, 11.0 * number))


def at(number: int, offset_xyz_mm: Triple, error_xyz_mm: Triple = (0.0, 0.0, 0.0)) -> Click:
    """A click at a time point on what lies at that offset in the anatomy."""
    origin = frame(number).world_xyz_mm((0, 0, 0))
    x, y, z = np.add(np.add(origin, offset_xyz_mm), error_xyz_mm).tolist()
    return click((x, y, z))


def seen(number: int, lesions: Mapping[int, Triple], *, seed: int = 0, radius_mm: float = 7.0) -> Baseline:
    """The anatomy at a time point, with lesions at those offsets outlined."""
    grid, hu, ids = frame(number), anatomy(seed).copy(), np.zeros(SHAPE_ZYX, np.uint16)
    for lesion_id, offset in lesions.items():
        inside = ball(grid, at(number, offset).point_xyz_mm, radius_mm)
        hu[inside], ids[inside] = LESION_HU, lesion_id
    return Baseline.of(Scan(hu=hu, grid=grid), LesionMap(ids=ids, grid=grid))


def visit(number: int, lesions: Mapping[int, Triple], clicks: Mapping[int, Click] | None = None) -> EarlierVisit:
    return EarlierVisit(baselines={"primary": seen(number, lesions)}, clicks=clicks or {})


def pair_at(
    number: int, lesions: Mapping[int, Triple], *, earlier: Sequence[EarlierVisit] = (), radius_mm: float = 7.0
) -> Case:
    """Two consecutive time points with the same lesions, clicked in both."""
    return Case(
        baselines={"primary": seen(number, lesions, radius_mm=radius_mm)},
        followups={"primary": seen(number + 1, lesions, radius_mm=radius_mm + 1).scan},
        clicks=tuple(
            ClickPair(lesion_id=lesion_id, baseline=at(number, offset), followup=at(number + 1, offset))
            for lesion_id, offset in lesions.items()
        ),
        earlier=tuple(earlier),
    )


def write_series_data(folder: Path, previous: Mapping[str, str | None] | None = None) -> PreparedData:
    """Two patients, each seen four times; `previous` replaces the cases before some."""
    entries = []
    for patient in ("ann", "bob"):
        before = None
        for step in range(3):
            case = pair_at(step, {1: MIDDLE, 2: BESIDE}, radius_mm=6.0 + step)
            truth = seen(step + 1, {1: MIDDLE, 2: BESIDE}, radius_mm=7.0 + step).lesions
            assert truth is not None
            case_id = f"{patient}_{step + 1}"
            content = CaseContent(
                case_id=case_id,
                patient=patient,
                case=case,
                truth={"primary": truth},
                facts={number: LesionFact(fate="persists", true_id=number) for number in (1, 2)},
            )
            (folder / CASES_FOLDER).mkdir(parents=True, exist_ok=True)
            write_case(content, folder / CASES_FOLDER / case_id)
            entries.append(CaseEntry(case_id=case_id, patient=patient, lesions=2, previous=before))
            before = case_id
    write_json(folder / FOLDS_FILE, make_folds({"ann", "bob"}, folds=2, seed=0))
    replaced = tuple(
        entry.model_copy(update={"previous": (previous or {}).get(entry.case_id, entry.previous)}) for entry in entries
    )
    write_json(
        folder / DATASET_FILE,
        DatasetFile(name="series", source="test", is_complete=True, cases=replaced, arguments={}),
    )
    return read_prepared(folder)


def without_outline(of: EarlierVisit, lesion_id: int) -> EarlierVisit:
    """The visit with a lesion's outline left out; its voxels stay."""
    prior = of.baselines["primary"]
    assert prior.lesions is not None
    ids = np.where(prior.lesions.ids == lesion_id, 0, prior.lesions.ids).astype(np.uint16)
    hidden = Baseline.of(prior.scan, LesionMap(ids=ids, grid=prior.lesions.grid))
    return replace(of, baselines={"primary": hidden})
