"""New lesions: the candidates of a detector that no known lesion explains, with ids of their own in the label maps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, UInt16
from scipy.ndimage import distance_transform_edt

from longilesion.case import HIGHEST_ID, NEAR_MM, SCAN_NAMES, Case, LesionMap, Scan, ScanName
from longilesion.detection import Candidate, Prior, find_candidates
from longilesion.ensemble import Ensemble
from longilesion.errors import InputError
from longilesion.geometry import Grid, Triple, box_slices
from longilesion.labelling import Labels
from longilesion.registered import registered_lesions
from longilesion.registration.reduction import reduce_scan
from longilesion.registration.register import SPACING_MM
from longilesion.registration.result import Registration
from longilesion.sliding import Progress, Region

Register: TypeAlias = Callable[[Scan, Scan], Registration]

# A candidate up to this distance from a known outline belongs to it; registration is no more accurate.
_EXPLAINED_MM = 5.0
# The share of a voxel from which a registered outline counts: a small lesion fills no thick slice.
_LEAST_SHARE = 0.1
# The label of all candidates in a binary map, so that it does not mix them with the known lesions.
_BINARY_CANDIDATE = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Search:
    """A search for lesions that nobody clicked; `progress` is told how many windows of a scan are done, and of all."""

    detector: Ensemble
    progress: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewLesion:
    """A candidate with its id, and the follow-up scan that it lies in."""

    lesion_id: int
    scan_name: ScanName
    candidate: Candidate


def find_new_lesions(
    case: Case,
    maps: Mapping[ScanName, LesionMap],
    places_xyz_mm: Mapping[ScanName, Sequence[Triple]],
    search: Search,
    *,
    register: Register,
    labels: Labels,
) -> tuple[dict[ScanName, LesionMap], tuple[NewLesion, ...]]:
    """Searches every follow-up scan, and writes the candidates that no known lesion explains into its map.

    A candidate is explained where it lies in or near an outline of the map, a place of a known lesion, or the
    registered outline of a lesion of the baseline, even if that is gone. The others get the ids after the highest one
    of the case, best score first; in a binary map all of them get the label 2. Raises InputError where there are not
    enough ids.
    """
    found: list[tuple[ScanName, Candidate]] = []
    for name in SCAN_NAMES:
        if name in case.followups:
            new = _unexplained(case, name, maps[name], places_xyz_mm.get(name, ()), search, register)
            found += [(name, candidate) for candidate in new]
    # Sorting is stable: of equal scores, the first scan's come first.
    found.sort(key=lambda item: -item[1].score)
    highest = _highest_id(case)
    if highest + len(found) > HIGHEST_ID:
        raise InputError(
            f"{len(found)} candidates after lesion {highest}, the highest id; expected ids up to {HIGHEST_ID}: "
            "give the lesions lower ids"
        )
    lesions = tuple(
        NewLesion(lesion_id=number, scan_name=name, candidate=candidate)
        for number, (name, candidate) in enumerate(found, highest + 1)
    )
    return {name: _with_new(maps[name], name, lesions, labels) for name in maps}, lesions


def _unexplained(
    case: Case, name: ScanName, known: LesionMap, places_xyz_mm: Sequence[Triple], search: Search, register: Register
) -> list[Candidate]:
    followup = case.followups[name]
    registered = [
        Prior(baseline=baseline, registration=register(baseline.scan, followup)) for baseline in case.baselines.values()
    ]
    # Body centres alone make no two scans correspond.
    priors = [prior for prior in registered if prior.registration.stage != "body centres"]
    if len(priors) < len(registered):
        _log.info("the %s follow-up scan is searched without a baseline that cannot be registered with it", name)
    reduced = registered[0].registration.followup if registered else reduce_scan(followup, SPACING_MM)
    body = Region(mask=reduced.body, grid=reduced.grid)
    candidates = find_candidates(followup, priors, search.detector, body=body, progress=search.progress)
    view, lps = known.grid.lps_view(known.ids)
    new: list[Candidate] = []
    for candidate in candidates:
        # Two candidates of one scan may meet in a voxel that both outline in part: it belongs to the better one.
        free = _without(candidate, new)
        if free.mask.any() and not _is_explained(free, view, lps, priors, places_xyz_mm):
            new.append(free)
    _log.info("%s follow-up scan: %d candidates, %d of them no known lesion", name, len(candidates), len(new))
    return new


def _without(candidate: Candidate, others: Iterable[Candidate]) -> Candidate:
    mask = candidate.mask.copy()
    own = np.array(candidate.start_zyx)
    for other in others:
        low = np.maximum(own, other.start_zyx)
        high = np.minimum(own + mask.shape, np.add(other.start_zyx, other.mask.shape))
        if (low < high).all():
            mask[box_slices(low - own, high - own)] &= ~other.mask[
                box_slices(low - other.start_zyx, high - other.start_zyx)
            ]
    return replace(candidate, mask=mask)


def _is_explained(
    candidate: Candidate,
    ids: UInt16[np.ndarray, "z y x"],
    lps: Grid,
    priors: Sequence[Prior],
    places_xyz_mm: Sequence[Triple],
) -> bool:
    if any(_distance_mm(candidate, place) <= NEAR_MM for place in places_xyz_mm):
        return True
    reach = np.ceil(_EXPLAINED_MM / np.array(lps.spacing_zyx_mm)).astype(int)
    start = np.maximum(np.array(candidate.start_zyx) - reach, 0)
    stop = np.minimum(np.add(candidate.start_zyx, candidate.mask.shape) + reach, lps.shape_zyx)
    known = ids[box_slices(start, stop)] != 0
    near = lps.window(tuple(start.tolist()), tuple(stop.tolist()))
    for prior in priors:
        known |= registered_lesions(prior.baseline, prior.registration, near) >= _LEAST_SHARE
    if not known.any():
        return False
    inner = box_slices(candidate.start_zyx - start, candidate.start_zyx - start + candidate.mask.shape)
    distances = distance_transform_edt(~known, sampling=lps.spacing_zyx_mm)[inner]
    return bool(distances[candidate.mask].min() <= _EXPLAINED_MM)


def _distance_mm(candidate: Candidate, point_xyz_mm: Triple) -> float:
    """The distance of a point from the nearest voxel's centre."""
    offsets: Float[np.ndarray, "n 3"] = np.argwhere(candidate.mask) - np.array(candidate.grid.index_zyx(point_xyz_mm))
    return float(np.linalg.norm(offsets * np.array(candidate.grid.spacing_zyx_mm), axis=1).min())


def _highest_id(case: Case) -> int:
    """The highest id of a lesion that is clicked or outlined, at any time point."""
    outlined = {lesion_id for baseline in case.baselines.values() for lesion_id in baseline.regions}
    earlier = {lesion_id for visit in case.earlier for lesion_id in visit.lesion_ids}
    return max({pair.lesion_id for pair in case.clicks} | outlined | earlier, default=0)


def _with_new(known: LesionMap, name: ScanName, lesions: Sequence[NewLesion], labels: Labels) -> LesionMap:
    own = [lesion for lesion in lesions if lesion.scan_name == name]
    if not own:
        return known
    ids = known.ids.copy()
    view, _ = known.grid.lps_view(ids)
    written = set()
    for lesion in own:
        label = _BINARY_CANDIDATE if labels == "binary" else lesion.lesion_id
        view[lesion.candidate.box][lesion.candidate.mask] = label
        written.add(label)
    return replace(known, ids=ids, candidates=tuple(sorted(written)))
