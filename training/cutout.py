"""Cut-outs: one lesion's neighbourhood in both time points, placed, with its ground truth; and their files.

A cut-out of a case is a case, so samples of it equal samples of the whole scans.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longilesion.alignment import place_vois
from longilesion.case import (
    Baseline,
    Case,
    Click,
    ClickPair,
    EarlierVisit,
    LesionMap,
    LesionPrompt,
    Scan,
    ScanName,
)
from longilesion.config import ModelSettings
from longilesion.errors import InputError
from longilesion.evaluation.exam import Fate, LesionFact
from longilesion.files import check_archive, written_together
from longilesion.geometry import Box, Grid, Triple, box_slices, triple
from longilesion.prompts import complete_prompts
from longilesion.voi import Placement, lattice_around, sampled_window
from training.recipe import JitterSettings

# Exceptions that NumPy or the archive's reader raises for a damaged file.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile)
# Margin in voxels of the scan around what sampling reads, against rounding.
_MARGIN_VOXELS = 3
# The jitter of a placement is limited to this number of standard deviations along an axis.
GREATEST_SHIFT = 3.0


class DamagedCutOutError(InputError):
    """A cut-out's file that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutOut:
    """A lesion as the library places it, and its ground truth.

    `truth` holds the follow-up's true ids; `true_id` is the lesion's own, or that of the lesion it merged into; None
    where it is gone. Scans, maps and truth may be whole or cut to the region that training can read; what is cut has
    only those earlier time points at which the lesion has a position.
    """

    case: Case
    prompt: LesionPrompt
    placement: Placement
    truth: LesionMap
    true_id: int | None
    fate: Fate


def placed_lesions(
    case: Case, truth: Mapping[ScanName, LesionMap], facts: Mapping[int, LesionFact], settings: ModelSettings
) -> Iterator[CutOut]:
    """Every lesion of a case with a position in a follow-up scan, on the whole scans."""
    for prompt in complete_prompts(case).lesions:
        fact = facts.get(prompt.lesion_id)
        if fact is None or fact.fate is None:
            continue
        scan = prompt.followup.scan_name
        yield CutOut(
            case=case,
            prompt=prompt,
            placement=place_vois(case, prompt, settings),
            truth=truth[scan] if scan in truth else _nothing(case.followups[scan]),
            true_id=fact.true_id,
            fate=fact.fate,
        )


def cut(whole: CutOut, settings: ModelSettings, jitters: Sequence[JitterSettings]) -> CutOut:
    """The region of a lesion that inference reads, and training with any of the `jitters`."""
    placement, prompt = whole.placement, whole.prompt
    followup = whole.case.followups[prompt.followup.scan_name]
    centres = [placement.followup_xyz_mm, prompt.followup.point_xyz_mm]
    box = _box(followup, centres, placement, settings, jitters)
    baselines: dict[ScanName, Baseline] = {}
    if prompt.baseline is not None and placement.baseline_xyz_mm is not None:
        prior = whole.case.baselines[prompt.baseline.scan_name]
        around = _box(prior.scan, [placement.baseline_xyz_mm], placement, settings, jitters)
        baselines[prompt.baseline.scan_name] = _cut_baseline(prior, around)
    earlier, centres_before = [], []
    for visit, centre in zip(whole.case.earlier, placement.earlier, strict=bool(placement.earlier)):
        if centre is None:
            continue
        prior = visit.baselines[centre.scan_name]
        around = _box(prior.scan, [centre.point_xyz_mm], placement, settings, jitters)
        click = visit.clicks.get(prompt.lesion_id)
        earlier.append(
            EarlierVisit(
                baselines={centre.scan_name: _cut_baseline(prior, around)},
                clicks={} if click is None else {prompt.lesion_id: click},
            )
        )
        centres_before.append(centre)
    case = Case(
        baselines=baselines,
        followups={prompt.followup.scan_name: _cut_scan(followup, box)},
        clicks=(ClickPair(lesion_id=prompt.lesion_id, baseline=prompt.baseline, followup=prompt.followup),),
        earlier=tuple(earlier),
    )
    placement = replace(placement, earlier=tuple(centres_before))
    return replace(whole, case=case, placement=placement, truth=_cut_map(whole.truth, box))


def with_latest(lesion: CutOut, times: int) -> CutOut:
    """The cut-out with only the latest of its time points before the baseline."""
    first = max(len(lesion.case.earlier) - times, 0)
    return replace(
        lesion,
        case=replace(lesion.case, earlier=lesion.case.earlier[first:]),
        placement=replace(lesion.placement, earlier=lesion.placement.earlier[first:]),
    )


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


def _box(
    scan: Scan,
    centres_xyz_mm: list[Triple],
    placement: Placement,
    settings: ModelSettings,
    jitters: Sequence[JitterSettings],
) -> Box:
    """The voxels, in the scan's own order, that a lattice around any of the centres can reach; at least one."""
    _, lps = scan.grid.lps_view(scan.hu)
    lattices = [
        (settings.voi, placement.zoom, 0.0, (0.0, 0.0, 0.0)),
        *(
            (voi, placement.zoom * jitter.zoom_factor, jitter.shift_mm, jitter.reach_voxels(voi.shape_zyx))
            for jitter in jitters
            for voi in [jitter.lattice(settings.voi)]
        ),
    ]
    corners: list[Triple] = []
    for centre, (voi, zoom, shift_mm, reach_voxels) in product(centres_xyz_mm, lattices):
        start, step = lps.axis_steps(lattice_around(lps, centre, voi, zoom=zoom))
        reach = GREATEST_SHIFT * shift_mm / np.array(lps.spacing_zyx_mm) + reach_voxels * step
        window = sampled_window(
            start - reach,
            step + 2 * reach / (np.array(voi.shape_zyx) - 1),
            shape_zyx=voi.shape_zyx,
            extent_zyx=lps.shape_zyx,
        )
        ends = [part.start for part in window], [part.stop - 1 for part in window]
        corners += [scan.grid.index_zyx(lps.world_xyz_mm(end)) for end in ends]
    found = np.array(corners)
    shape_zyx = np.array(scan.grid.shape_zyx)
    low = np.clip(np.rint(found.min(axis=0)) - _MARGIN_VOXELS, 0, shape_zyx - 1).astype(int)
    high = np.clip(np.rint(found.max(axis=0)) + _MARGIN_VOXELS + 1, low + 1, shape_zyx).astype(int)
    return box_slices(low, high)


def _cut_baseline(prior: Baseline, box: Box) -> Baseline:
    return Baseline.of(_cut_scan(prior.scan, box), None if prior.lesions is None else _cut_map(prior.lesions, box))


def _cut_scan(scan: Scan, box: Box) -> Scan:
    return Scan(hu=np.ascontiguousarray(scan.hu[box]), grid=_cut_grid(scan.grid, box))


def _cut_map(lesions: LesionMap, box: Box) -> LesionMap:
    return LesionMap(ids=np.ascontiguousarray(lesions.ids[box]), grid=_cut_grid(lesions.grid, box))


def _cut_grid(grid: Grid, box: Box) -> Grid:
    z, y, x = box
    return grid.window((z.start, y.start, x.start), (z.stop, y.stop, x.stop))


def _nothing(scan: Scan) -> LesionMap:
    return LesionMap(ids=np.zeros(scan.hu.shape, np.uint16), grid=scan.grid)


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
