"""Files of cut-outs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longilesion.case import Baseline, Case, Click, ClickPair, EarlierVisit, LesionMap, LesionPrompt, Scan, ScanName
from longilesion.errors import InputError
from longilesion.files import check_archive, written_together
from longilesion.geometry import Grid, triple
from longilesion.voi import Placement
from training.cutout import CutOut

# Exceptions that NumPy or the archive's reader raises for a damaged file.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile)


class DamagedCutOutError(InputError):
    """A cut-out's file that cannot be read."""


def write_cut_out(path: Path, lesion: CutOut) -> None:
    """Writes a cut-out to an .npz file, whose parts carry checksums; raises InputError where that is impossible."""
    prompt, placement = lesion.prompt, lesion.placement
    followup = lesion.case.followups[prompt.followup.scan_name]
    arrays: dict[str, NDArray[Any]] = {
        "followup_hu": followup.hu,
        "followup_grid": followup.grid.world_from_voxel,
        "truth": lesion.truth.compact_ids,
    }
    for prior in lesion.case.baselines.values():
        arrays |= _arrays(prior, "baseline")
    for number, visit in enumerate(lesion.case.earlier):
        for prior in visit.baselines.values():
            arrays |= _arrays(prior, f"earlier{number}")
    facts = {
        "lesion_id": prompt.lesion_id,
        "true_id": lesion.true_id,
        "fate": lesion.fate,
        "followup_click": _listed(prompt.followup),
        "baseline_click": None if prompt.baseline is None else _listed(prompt.baseline),
        "propagated": prompt.propagated,
        "confidence": prompt.confidence,
        "followup_xyz_mm": placement.followup_xyz_mm,
        "baseline_xyz_mm": placement.baseline_xyz_mm,
        "zoom": placement.zoom,
        "similarity": placement.similarity,
        "earlier": [_listed(centre) for centre in placement.earlier if centre is not None],
        "earlier_clicks": [
            None if click is None else _listed(click)
            for click in (visit.clicks.get(prompt.lesion_id) for visit in lesion.case.earlier)
        ],
    }
    with written_together({path: check_archive}) as (temporary,), temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, facts=np.array(json.dumps(facts)), **arrays)


def read_cut_out(path: Path) -> CutOut:
    """Reads a cut-out; raises DamagedCutOutError for an incomplete or damaged file."""
    try:
        # Reading a member verifies its checksum.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        return _assembled(arrays, json.loads(str(arrays["facts"])))
    except _DAMAGE as error:
        raise DamagedCutOutError(f"{path}: {error}; expected a cut-out, delete it and it is made again") from error


def _assembled(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> CutOut:
    followup = _scan(arrays["followup_hu"], arrays["followup_grid"])
    followup_click = _click(facts["followup_click"])
    baseline_click = None if facts["baseline_click"] is None else _click(facts["baseline_click"])
    baselines: dict[ScanName, Baseline] = {}
    if "baseline_hu" in arrays and baseline_click is not None:
        baselines[baseline_click.scan_name] = _baseline(arrays, "baseline")
    lesion_id = int(facts["lesion_id"])
    centres = tuple(_click(listed) for listed in facts["earlier"])
    earlier = tuple(
        EarlierVisit(
            baselines={centre.scan_name: _baseline(arrays, f"earlier{number}")},
            clicks={} if click is None else {lesion_id: _click(click)},
        )
        for number, (centre, click) in enumerate(zip(centres, facts["earlier_clicks"], strict=True))
    )
    return CutOut(
        case=Case(
            baselines=baselines,
            followups={followup_click.scan_name: followup},
            clicks=(ClickPair(lesion_id=lesion_id, baseline=baseline_click, followup=followup_click),),
            earlier=earlier,
        ),
        prompt=LesionPrompt(
            lesion_id=lesion_id,
            followup=followup_click,
            baseline=baseline_click,
            propagated=bool(facts["propagated"]),
            confidence=float(facts["confidence"]),
        ),
        placement=Placement(
            followup_xyz_mm=triple(facts["followup_xyz_mm"]),
            baseline_xyz_mm=None if facts["baseline_xyz_mm"] is None else triple(facts["baseline_xyz_mm"]),
            zoom=float(facts["zoom"]),
            similarity=facts["similarity"],
            earlier=centres,
        ),
        truth=LesionMap(ids=arrays["truth"].astype(np.uint16), grid=followup.grid),
        true_id=facts["true_id"],
        fate=facts["fate"],
    )


def _arrays(prior: Baseline, name: str) -> dict[str, NDArray[Any]]:
    """The voxels and the grid of a baseline, for a file."""
    arrays: dict[str, NDArray[Any]] = {f"{name}_hu": prior.scan.hu, f"{name}_grid": prior.scan.grid.world_from_voxel}
    if prior.lesions is not None:
        arrays[f"{name}_ids"] = prior.lesions.compact_ids
    return arrays


def _baseline(arrays: Mapping[str, NDArray[Any]], name: str) -> Baseline:
    scan = _scan(arrays[f"{name}_hu"], arrays[f"{name}_grid"])
    ids = arrays.get(f"{name}_ids")
    return Baseline.of(scan, None if ids is None else LesionMap(ids=ids.astype(np.uint16), grid=scan.grid))


def _scan(hu: NDArray[Any], matrix: NDArray[Any]) -> Scan:
    z, y, x = hu.shape
    return Scan(hu=hu, grid=Grid(shape_zyx=(z, y, x), world_from_voxel=matrix))


def _listed(click: Click) -> list[Any]:
    return [click.scan_name, *click.point_xyz_mm, click.clamped]


def _click(listed: list[Any]) -> Click:
    name, x, y, z, clamped = listed
    return Click(scan_name=name, point_xyz_mm=(x, y, z), clamped=clamped)
