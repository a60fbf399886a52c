"""More than two time points: each is outlined with what those before it say of every lesion. No input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt16

from longilesion.case import (
    NEAR_MM,
    Baseline,
    Case,
    Click,
    ClickPair,
    EarlierVisit,
    LesionMap,
    LesionPrompt,
    Scan,
    lesion_regions,
)
from longilesion.ensemble import Ensemble
from longilesion.pipeline import LesionOutcome, Segmentation, segment_case

if TYPE_CHECKING:
    from longilesion.new_lesions import Search

# A lesion that comes back, and of which this share lies in another one's outline, is part of that one.
_PART = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimePoint:
    """One time point of a patient that has been gone through.

    `visit` is what later time points are told of it: its scan and outlines, and where each lesion that was looked for
    is, also of those that are gone. `outcomes` are empty for the first one, whose outlines were given. The candidates
    of `lesions` are those that a search has found here; they are followed as all others from then on.
    """

    visit: EarlierVisit
    lesions: LesionMap
    outcomes: tuple[LesionOutcome, ...] = ()
    left_out: tuple[int, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def given(cls, baseline: Baseline, clicks: Mapping[int, Click] | None = None) -> TimePoint:
        """The first time point: a scan with its outlines."""
        grid = baseline.scan.grid
        lesions = baseline.lesions or LesionMap(ids=np.zeros(grid.shape_zyx, np.uint16), grid=grid)
        return cls(visit=EarlierVisit(baselines={"primary": baseline}, clicks=dict(clicks or {})), lesions=lesions)


def time_points(case: Case, segmentation: Segmentation) -> list[TimePoint]:
    """The baseline of a case, if there is one, and its follow-up, both as time points; of the primary scans alone."""
    found = []
    prior = case.baselines.get("primary")
    if prior is not None:
        clicks = {pair.lesion_id: pair.baseline for pair in case.clicks if pair.baseline is not None}
        found.append(TimePoint.given(prior, clicks))
    found.append(_joined(case.followups["primary"], [segmentation]))
    return found


def next_time_point(
    before: Sequence[EarlierVisit],
    scan: Scan,
    ensemble: Ensemble,
    *,
    clicks: Mapping[int, Click] | None = None,
    search: Search | None = None,
) -> TimePoint:
    """Outlines in a scan every lesion of the time points `before` it, in the order in which these were gone through.

    The baseline of a lesion is the last time point at which it has an outline, so that one that was gone may come back
    and is then compared with what it last looked like. Lesions of `clicks` that are not known are new. A `search` is
    compared with the last time point.
    """
    given = dict(clicks or {})
    source = _sources(before)
    last = len(before) - 1
    new = [lesion_id for lesion_id in given if lesion_id not in source]
    groups = {last: list(new)}
    for lesion_id, place in source.items():
        groups.setdefault(place, []).append(lesion_id)
    found = {
        place: segment_case(
            _case(before, place, lesion_ids, scan, given), ensemble, search=search if place == last else None
        )
        for place, lesion_ids in sorted(groups.items(), reverse=True)
        if lesion_ids or (search is not None and place == last)
    }
    return _joined(scan, [segmentation for _, segmentation in sorted(found.items(), reverse=True)])


def _sources(before: Sequence[EarlierVisit]) -> dict[int, int]:
    """The time point that tells most of each lesion: the last one that outlines it, or else that clicks it."""
    source: dict[int, int] = {}
    for place, visit in enumerate(before):
        for lesion_id in visit.clicks:
            is_outlined = lesion_id in source and lesion_id in before[source[lesion_id]].baselines["primary"].regions
            if not is_outlined:
                source[lesion_id] = place
        for lesion_id in visit.baselines["primary"].regions:
            source[lesion_id] = place
    return source


def _case(
    before: Sequence[EarlierVisit], place: int, lesion_ids: Sequence[int], scan: Scan, given: Mapping[int, Click]
) -> Case:
    """The lesions whose baseline is one time point, as a case of that and the scan."""
    visit = before[place]
    prior = visit.baselines["primary"]
    # Others of this time point have a later baseline; they are not looked for twice.
    if prior.lesions is not None and set(prior.regions) - set(lesion_ids):
        kept = np.where(np.isin(prior.lesions.ids, lesion_ids), prior.lesions.ids, np.uint16(0))
        prior = Baseline.of(prior.scan, LesionMap(ids=kept, grid=prior.lesions.grid))
    pairs = [
        ClickPair(
            lesion_id=lesion_id,
            baseline=None if lesion_id in prior.regions else visit.clicks.get(lesion_id),
            followup=given.get(lesion_id),
        )
        for lesion_id in sorted(lesion_ids)
    ]
    return Case(
        baselines={"primary": prior},
        followups={"primary": scan},
        clicks=tuple(pair for pair in pairs if pair.baseline is not None or pair.followup is not None),
        earlier=tuple(before[:place]),
    )


def _joined(scan: Scan, parts: Sequence[Segmentation]) -> TimePoint:
    """One time point of several segmentations, those with the latest baseline first: theirs is the outline in doubt."""
    ids = np.zeros(scan.grid.shape_zyx, np.uint16)
    outcomes: list[LesionOutcome] = []
    candidates: dict[int, UInt16[np.ndarray, "z y x"]] = {}
    for part in parts:
        own = part.maps["primary"].ids
        searched = {lesion.lesion_id for lesion in part.candidates}
        candidates |= dict.fromkeys(searched, own)
        regions = lesion_regions(own)
        for outcome in part.lesions:
            lesion_id = outcome.prompt.lesion_id
            outcomes.append(outcome if lesion_id not in regions else _painted(ids, own, outcome, scan))
    places = [outcome.place_xyz_mm for outcome in outcomes if outcome.place_xyz_mm is not None]
    kept = [lesion_id for lesion_id, own in candidates.items() if _is_free(ids, own, lesion_id, scan, places)]
    for lesion_id in kept:
        ids[candidates[lesion_id] == lesion_id] = lesion_id
    lesions = LesionMap(ids=ids, grid=scan.grid, candidates=tuple(sorted(kept)))
    seconds: dict[str, float] = {}
    for part in parts:
        for stage, spent in part.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    # A lesion outside the scan has no place here; what is known of it is from before.
    clicks = {
        outcome.prompt.lesion_id: Click(scan_name="primary", point_xyz_mm=outcome.place_xyz_mm)
        for outcome in outcomes
        if isinstance(outcome.prompt, LesionPrompt) and outcome.place_xyz_mm is not None
    }
    return TimePoint(
        visit=EarlierVisit(baselines={"primary": Baseline.of(scan, lesions)}, clicks=clicks),
        outcomes=tuple(sorted(outcomes, key=lambda outcome: outcome.prompt.lesion_id)),
        lesions=lesions,
        left_out=tuple(sorted({lesion_id for part in parts for lesion_id in part.left_out})),
        seconds=seconds,
    )


def _painted(
    ids: UInt16[np.ndarray, "z y x"], own: UInt16[np.ndarray, "z y x"], outcome: LesionOutcome, scan: Scan
) -> LesionOutcome:
    """Paints a lesion where no other is; one that lies mostly in another's outline is part of that."""
    lesion_id = outcome.prompt.lesion_id
    mask = own == lesion_id
    taken = ids[mask]
    others = taken[taken != 0]
    if len(others) >= _PART * len(taken):
        other = int(np.bincount(others).argmax())
        return replace(
            outcome,
            volume_followup_ml=0.0,
            merged_into=other,
            note="; ".join(filter(None, [outcome.note, f"in the outline of lesion {other}"])),
        )
    ids[mask & (ids == 0)] = lesion_id
    volume = float(np.count_nonzero(taken == 0)) * scan.grid.voxel_volume_ml
    return replace(outcome, volume_followup_ml=volume)


def _is_free(
    ids: UInt16[np.ndarray, "z y x"],
    own: UInt16[np.ndarray, "z y x"],
    lesion_id: int,
    scan: Scan,
    places_xyz_mm: Sequence[tuple[float, float, float]],
) -> bool:
    """Whether a candidate lies neither in a known lesion's outline nor at its place."""
    mask = own == lesion_id
    if ids[mask].any():
        return False
    centre = np.argwhere(mask).mean(axis=0)
    world = scan.grid.world_xyz_mm(centre)
    return all(float(np.linalg.norm(np.subtract(world, place))) > NEAR_MM for place in places_xyz_mm)
