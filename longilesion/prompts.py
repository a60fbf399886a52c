"""Complete prompts: each clicked or outlined lesion gets a position in a follow-up scan, or is outside all of them.

A missing follow-up click is the baseline click propagated by registration (`longilesion.registration`), once per
pair of scans. Of several follow-up scans, the one that contains the lesion is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from longilesion.alignment import extent_zyx_mm
from longilesion.case import (
    LOW_CONFIDENCE,
    Baseline,
    Case,
    Click,
    ClickPair,
    LesionPrompt,
    OutsideLesion,
    Scan,
    ScanName,
)
from longilesion.contradictions import are_doubtful, is_elsewhere

if TYPE_CHECKING:
    from longilesion.registration.propagation import PropagatedPoint
    from longilesion.registration.result import Registration

# A given click is corrected where the propagated point has at least this confidence, and at least this distance to it.
REFINE_CONFIDENCE = 0.8
REFINE_DISTANCE_MM = 12.0
# Upper limit of the confidence for a lesion whose baseline click was moved to its scan's border.
_CLAMPED_CONFIDENCE = 0.3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The lesions to segment, and those outside all follow-up scans; both sorted by id."""

    lesions: tuple[LesionPrompt, ...]
    outside: tuple[OutsideLesion, ...]


def complete_prompts(
    case: Case,
    *,
    refine_clicks: bool = False,
    register: Callable[[Scan, Scan], Registration] | None = None,
) -> Prompts:
    """Gives each lesion of a case a follow-up click, and a baseline click where it is in the baseline scan.

    Lesions are those with clicks and those outlined in a baseline map. Where there is no baseline click, or it lies
    outside the outline, the outline's centre is the baseline click. Given follow-up clicks stay unchanged; with
    `refine_clicks`, those of lesions that the baseline's map does not lack are corrected where registration contradicts
    them with high confidence. A lesion without any usable click or outline is logged as a warning and left out.
    `register` defaults to `register_scans`.
    """
    pairs = {pair.lesion_id: pair for pair in case.clicks}
    outlined = {lesion_id for baseline in case.baselines.values() for lesion_id in baseline.regions}
    doubtful = _doubtful_scans(case)
    known = [
        replace(pair, baseline=_baseline_click(case, pair, doubtful))
        for pair in (
            pairs.get(lesion_id, ClickPair(lesion_id=lesion_id, baseline=None, followup=None))
            for lesion_id in sorted(pairs.keys() | outlined)
        )
    ]
    propagated = _propagated(
        case,
        [
            pair
            for pair in known
            if pair.baseline is not None
            and (
                pair.followup is None
                or (refine_clicks and not case.baselines[pair.baseline.scan_name].lacks(pair.lesion_id))
            )
        ],
        register,
    )
    lesions: list[LesionPrompt] = []
    outside: list[OutsideLesion] = []
    for pair in known:
        if pair.followup is not None:
            lesions.append(_given(pair, pair.followup, propagated.get(pair.lesion_id, {})))
        elif pair.baseline is None:
            _log.warning(
                "lesion %d: no follow-up click and no baseline scan that shows it; it is left out", pair.lesion_id
            )
        else:
            found = _placed(pair.lesion_id, pair.baseline, propagated[pair.lesion_id])
            if isinstance(found, OutsideLesion):
                outside.append(found)
            else:
                lesions.append(found)
    return Prompts(
        lesions=tuple(replace(lesion, baseline_corrected=_is_corrected(case, lesion, pairs)) for lesion in lesions),
        outside=tuple(outside),
    )


def _doubtful_scans(case: Case) -> set[ScanName]:
    """The baseline scans most of whose clicks contradict the outlines of their lesions."""
    elsewhere: dict[ScanName, list[bool]] = {name: [] for name in case.baselines}
    for pair in case.clicks:
        click = pair.baseline
        if click is None or click.scan_name not in elsewhere:
            continue
        if any(pair.lesion_id in baseline.regions for baseline in case.baselines.values()):
            prior = case.baselines[click.scan_name]
            elsewhere[click.scan_name].append(is_elsewhere(prior, pair.lesion_id, click.point_xyz_mm))
    return {name for name, clicks in elsewhere.items() if are_doubtful(clicks)}


def _baseline_click(case: Case, pair: ClickPair, doubtful: Collection[ScanName]) -> Click | None:
    """The lesion's baseline click if its scan is there and no outline contradicts it; else the outline's centre.

    A click that no outline confirms, in a doubtful scan, counts only where there is no other.
    """
    given = pair.baseline if pair.baseline is not None and pair.baseline.scan_name in case.baselines else None
    outlines = {
        name: baseline.regions[pair.lesion_id]
        for name, baseline in case.baselines.items()
        if pair.lesion_id in baseline.regions
    }
    if not outlines:
        is_trusted = given is None or given.scan_name not in doubtful or pair.followup is None
        return given if is_trusted else None
    name = max(outlines, key=lambda name: outlines[name].voxels)
    if given is not None and given.scan_name in outlines:
        if pair.lesion_id in case.baselines[given.scan_name].lesions_at(given.point_xyz_mm):
            return given
        name = given.scan_name
    centre = case.baselines[name].scan.grid.world_xyz_mm(outlines[name].centre_zyx)
    return Click(scan_name=name, point_xyz_mm=centre)


def _is_corrected(case: Case, prompt: LesionPrompt, pairs: Mapping[int, ClickPair]) -> bool:
    """Whether the prompt's baseline click is an outline's centre, though another was given in a scan that is there."""
    pair = pairs.get(prompt.lesion_id)
    given = None if pair is None else pair.baseline
    if given is None or prompt.baseline is None:
        return False
    return given.scan_name in case.baselines and given != prompt.baseline


def _propagated(
    case: Case, pairs: list[ClickPair], register: Callable[[Scan, Scan], Registration] | None
) -> dict[int, dict[ScanName, PropagatedPoint]]:
    """Each lesion's propagated position in each follow-up scan, by id; every pair of scans is registered once."""
    propagated: dict[int, dict[ScanName, PropagatedPoint]] = {pair.lesion_id: {} for pair in pairs}
    if not pairs:
        return propagated
    # Imported late: the libraries of registration take long to load, and a case with clicks needs none of them.
    from longilesion.registration.propagation import propagate_points
    from longilesion.registration.register import register_scans

    for baseline_name, baseline in case.baselines.items():
        clicks = {
            pair.lesion_id: pair.baseline
            for pair in pairs
            if pair.baseline is not None and pair.baseline.scan_name == baseline_name
        }
        if not clicks:
            continue
        points = [click.point_xyz_mm for click in clicks.values()]
        extents = [_extent_mm(baseline, lesion_id) for lesion_id in clicks]
        for followup_name, followup in case.followups.items():
            registration = (register or register_scans)(baseline.scan, followup)
            _log.info(
                "registered the %s baseline with the %s follow-up scan: %s, similarity %.2f",
                baseline_name,
                followup_name,
                registration.stage,
                registration.overall_similarity,
            )
            found = propagate_points(registration, baseline.scan, followup, points, extents_mm=extents)
            for lesion_id, point in zip(clicks, found, strict=True):
                propagated[lesion_id][followup_name] = point
    return propagated


def _extent_mm(baseline: Baseline, lesion_id: int) -> float:
    """The longest side of a lesion's outline; 0 where it has none."""
    region = baseline.regions.get(lesion_id)
    return 0.0 if region is None else float(extent_zyx_mm(baseline, region).max())


def _placed(
    lesion_id: int, baseline: Click, propagated: Mapping[ScanName, PropagatedPoint]
) -> LesionPrompt | OutsideLesion:
    """The lesion in the scan of highest confidence, or outside all of them.

    Scans that do not show the lesion are ignored where a trusted registration places it inside another one.
    """
    shown = {name: point for name, point in propagated.items() if point.is_shown}
    absent = [point.trust for point in propagated.values() if not point.is_shown]
    sure_of_place = any(point.trust >= LOW_CONFIDENCE for point in shown.values())
    if not sure_of_place and max(absent, default=0.0) >= LOW_CONFIDENCE:
        return OutsideLesion(lesion_id=lesion_id, baseline=baseline, confidence=max(absent))
    name, point = max((shown or propagated).items(), key=lambda item: item[1].confidence)
    return LesionPrompt(
        lesion_id=lesion_id,
        followup=Click(scan_name=name, point_xyz_mm=point.point_xyz_mm, clamped=point.clamped),
        baseline=baseline,
        propagated=True,
        confidence=_confidence(baseline, point),
    )


def _confidence(baseline: Click, point: PropagatedPoint) -> float:
    if not point.is_shown:
        # A position clamped to the border is a guess.
        return 0.0
    # The position of a lesion that was clicked outside its scan is uncertain, regardless of the registration.
    return min(point.confidence, _CLAMPED_CONFIDENCE) if baseline.clamped else point.confidence


def _given(pair: ClickPair, followup: Click, propagated: Mapping[ScanName, PropagatedPoint]) -> LesionPrompt:
    """A lesion with a given follow-up click, corrected where the propagated point, if there is one, contradicts it."""
    point = propagated.get(followup.scan_name)
    is_refined = (
        point is not None
        and point.is_shown
        and point.confidence >= REFINE_CONFIDENCE
        and float(np.linalg.norm(np.subtract(point.point_xyz_mm, followup.point_xyz_mm))) > REFINE_DISTANCE_MM
    )
    if point is not None and is_refined:
        followup = Click(scan_name=followup.scan_name, point_xyz_mm=point.point_xyz_mm)
    return LesionPrompt(
        lesion_id=pair.lesion_id,
        followup=followup,
        baseline=pair.baseline,
        propagated=False,
        confidence=1.0,
        refined=is_refined,
    )
