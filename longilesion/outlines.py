"""The lesions outlined in a baseline scan: reading their mask, splitting it into components, warning of stray parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from longilesion.case import HIGHEST_ID, NEAR_MM, Baseline, ClickPair, LesionMap, LesionRegion, Scan
from longilesion.components import connected_components, lesion_voxels
from longilesion.errors import InputError
from longilesion.images import read_lesion_map

# Volume of a ball of 4 mm diameter: a stray part of this size may be a lesion of its own.
_LESION_ML = 0.0335
_FEWEST_VOXELS = 4
_FEW_NAMES = 8

_log = logging.getLogger(__name__)


def read_baseline(scan: Scan, mask: Path | None, *, split_components: bool = False) -> Baseline:
    """A baseline scan with the lesions of a mask file, if there is one.

    Parts away from their lesion's main component are left out, and logged as a warning. `split_components` gives each
    component an id instead, the largest 1, regardless of the ids in the file. Raises InputError where the file is no
    mask of the scan, or has more components than there are ids.
    """
    if mask is None:
        return Baseline.of(scan, None)
    lesions = read_lesion_map(mask, like=scan.grid, identity=scan.identity)
    baseline = Baseline.of(scan, _split(lesions, mask) if split_components else lesions)
    stray = {lesion_id: region for lesion_id, region in baseline.regions.items() if region.stray}
    if stray:
        _log.warning("%s: %s", mask, _stray_parts(stray, baseline))
    return baseline


def match_clicks(clicks: tuple[ClickPair, ...], baseline: Baseline) -> tuple[ClickPair, ...]:
    """Gives clicks the ids of the components that their baseline clicks lie in or near.

    Others keep their ids where no component has them, else get the next free one. Where no lesion has a baseline
    click, the ids in the file are used. Raises InputError where one component has two clicks.
    """
    if all(pair.baseline is None for pair in clicks):
        return clicks
    matched: dict[int, ClickPair] = {}
    unmatched = []
    for pair in clicks:
        near = {} if pair.baseline is None else baseline.lesions_near(pair.baseline.point_xyz_mm, NEAR_MM)
        if not near:
            unmatched.append(pair)
            continue
        component = min(near, key=near.__getitem__)
        if component in matched:
            both = f"{matched[component].lesion_id} and {pair.lesion_id}"
            raise InputError(f"lesions {both}: clicked in or near one component; expected a component for each click")
        matched[component] = pair
    taken = set(baseline.regions)
    for pair in unmatched:
        lesion_id = pair.lesion_id if pair.lesion_id not in taken else max(taken) + 1
        if lesion_id > HIGHEST_ID:
            raise InputError(f"lesion {pair.lesion_id}: no id is left for it; expected at most {HIGHEST_ID} lesions")
        taken.add(lesion_id)
        matched[lesion_id] = pair
    return tuple(replace(matched[lesion_id], lesion_id=lesion_id) for lesion_id in sorted(matched))


def _split(lesions: LesionMap, path: Path) -> LesionMap:
    """The map with an id for each component, from 1, largest first; ties in the order of their voxels."""
    components = [part for voxels in lesion_voxels(lesions.ids).values() for part in connected_components(voxels)]
    if len(components) > HIGHEST_ID:
        raise InputError(f"{path}: {len(components)} components; expected at most {HIGHEST_ID}, one for each id")
    ids = np.zeros_like(lesions.ids)
    ordered = sorted(components, key=lambda part: (-part.shape[1], part[:, 0].tolist()))
    for number, part in enumerate(ordered, start=1):
        ids[tuple(part)] = number
    return LesionMap(ids=ids, grid=lesions.grid)


def _stray_parts(stray: Mapping[int, LesionRegion], baseline: Baseline) -> str:
    """A warning about lesions with stray parts."""
    voxel_ml = baseline.scan.grid.voxel_volume_ml
    separate = {lesion_id: 1 + _lesions_among(region, voxel_ml) for lesion_id, region in stray.items()}
    many = [lesion_id for lesion_id, count in separate.items() if count > 1]
    descriptions = [_described(lesion_id, region) for lesion_id, region in list(stray.items())[:_FEW_NAMES]]
    if len(stray) > _FEW_NAMES:
        descriptions.append(f"so have {len(stray) - _FEW_NAMES} more lesions")
    found = f"{'; '.join(descriptions)}; only the largest component and what lies within {NEAR_MM:g} mm of it counts"
    if not many:
        return found
    first = many[0]
    ids = (
        f"one id, {separate[first]} separate components" if len(baseline.regions) == 1 else "one id for several lesions"
    )
    return f"{ids}; --split-components gives each its own id; {found}"


def _lesions_among(region: LesionRegion, voxel_ml: float) -> int:
    return sum(part.voxels >= max(_FEWEST_VOXELS, _LESION_ML / voxel_ml) for part in region.stray)


def _described(lesion_id: int, region: LesionRegion) -> str:
    parts = region.stray
    if len(parts) == 1:
        voxels = f"{parts[0].voxels} voxel{'s' if parts[0].voxels > 1 else ''}"
        return f"lesion {lesion_id} has a stray part of {voxels}, {parts[0].distance_mm:.0f} mm away"
    distances = [part.distance_mm for part in parts]
    return (
        f"lesion {lesion_id} has {len(parts)} stray parts of {parts[-1].voxels} to {parts[0].voxels} voxels, "
        f"{min(distances):.0f} to {max(distances):.0f} mm away"
    )
