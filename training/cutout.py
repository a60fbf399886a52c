"""Cut-outs: one lesion's neighbourhood at all time points, placed, with its ground truth.

A cut-out of a case is a case, so samples of it equal samples of the whole scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from longilesion.alignment import place_vois
from longilesion.case import (
    Baseline,
    Case,
    ClickPair,
    EarlierVisit,
    LesionMap,
    LesionPrompt,
    Scan,
    ScanName,
)
from longilesion.config import ModelSettings
from longilesion.evaluation.exam import Fate, LesionFact
from longilesion.geometry import Box, Grid, Triple, box_slices
from longilesion.prompts import complete_prompts
from longilesion.voi import Placement, lattice_around, sampled_window
from training.recipe import JitterSettings

# Margin in voxels of the scan around what sampling reads, against rounding.
_MARGIN_VOXELS = 3
# The jitter of a placement is limited to this number of standard deviations along an axis.
GREATEST_SHIFT = 3.0


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
    cut_baseline = partial(_cut_baseline, placement=placement, settings=settings, jitters=jitters)
    baselines: dict[ScanName, Baseline] = {}
    if prompt.baseline is not None and placement.baseline_xyz_mm is not None:
        name = prompt.baseline.scan_name
        baselines[name] = cut_baseline(whole.case.baselines[name], placement.baseline_xyz_mm)
    shown = [
        (visit, centre)
        for visit, centre in zip(whole.case.earlier, placement.earlier, strict=bool(placement.earlier))
        if centre is not None
    ]
    case = Case(
        baselines=baselines,
        followups={prompt.followup.scan_name: _cut_scan(followup, box)},
        clicks=(ClickPair(lesion_id=prompt.lesion_id, baseline=prompt.baseline, followup=prompt.followup),),
        earlier=tuple(
            EarlierVisit(
                baselines={centre.scan_name: cut_baseline(visit.baselines[centre.scan_name], centre.point_xyz_mm)},
                clicks={of: click for of, click in visit.clicks.items() if of == prompt.lesion_id},
            )
            for visit, centre in shown
        ),
    )
    placement = replace(placement, earlier=tuple(centre for _, centre in shown))
    return replace(whole, case=case, placement=placement, truth=_cut_map(whole.truth, box))


def with_latest(lesion: CutOut, times: int) -> CutOut:
    """The cut-out with only the latest of its time points before the baseline."""
    first = max(len(lesion.case.earlier) - times, 0)
    return replace(
        lesion,
        case=replace(lesion.case, earlier=lesion.case.earlier[first:]),
        placement=replace(lesion.placement, earlier=lesion.placement.earlier[first:]),
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


def _cut_baseline(
    prior: Baseline,
    centre_xyz_mm: Triple,
    *,
    placement: Placement,
    settings: ModelSettings,
    jitters: Sequence[JitterSettings],
) -> Baseline:
    box = _box(prior.scan, [centre_xyz_mm], placement, settings, jitters)
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
