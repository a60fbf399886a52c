"""Local alignment: the position of the lesion's neighbourhood in the follow-up scan, and the zoom of its VOIs.

Clicks are often off by more than the lesion's size; two lattices centred on them would show different anatomy.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from longilesion.case import Baseline, Case, Click, EarlierVisit, LesionPrompt, LesionRegion
from longilesion.config import AlignmentSettings, ModelSettings, VoiSettings
from longilesion.geometry import triple
from longilesion.local_search import best_match
from longilesion.voi import Placement

# An earlier time point is not shown at a position that is less similar to the baseline's.
_LEAST_SIMILARITY = 0.4


def place_vois(case: Case, prompt: LesionPrompt, settings: ModelSettings) -> Placement:
    """Chooses the centres and the zoom of a lesion's two lattices.

    The baseline lattice is centred on the lesion's outline (on the click where there is none); the follow-up lattice on
    the most similar position near the follow-up click. The offset of the baseline click from the outline's centre is
    assumed for the follow-up click as well, unless the baseline click lies outside the outline. For a lesion that the
    baseline's map lacks, the follow-up lattice stays on its click, and the baseline lattice moves instead. Centres at
    the time points before the baseline are found where the network sees these.

    With the method "clicks", each lattice is centred on its click (Promptable LongiSeg, section 3.2).
    """
    if prompt.baseline is None or prompt.baseline.scan_name not in case.baselines:
        return Placement(
            followup_xyz_mm=prompt.followup.point_xyz_mm,
            baseline_xyz_mm=None,
            zoom=_zoom(0.0, prompt.confidence, settings.voi),
        )
    prior = case.baselines[prompt.baseline.scan_name]
    region = prior.regions.get(prompt.lesion_id)
    click = np.array(prompt.baseline.point_xyz_mm)
    by_clicks = settings.alignment.method == "clicks"
    alignment = _without_search(settings.alignment) if by_clicks else settings.alignment
    centre = click if region is None or by_clicks else np.array(prior.scan.grid.world_xyz_mm(region.centre_zyx))
    extent = np.zeros(3) if region is None else extent_zyx_mm(prior, region)
    is_on_lesion = region is None or prompt.lesion_id in prior.lesions_at(prompt.baseline.point_xyz_mm)
    expected = np.array(prompt.followup.point_xyz_mm) + (centre - click if is_on_lesion else 0.0)
    match = best_match(
        prior.scan,
        case.followups[prompt.followup.scan_name],
        centres_xyz_mm=(triple(centre), triple(expected)),
        extent_mm=float(extent.max()),
        settings=alignment,
    )
    shift_xyz_mm = np.zeros(3) if match is None else match.shift_xyz_mm
    # A new lesion is clicked in the follow-up; its baseline click is propagated backwards. A large one does not look
    # like what was there before, so that the most similar position lies beside it.
    is_new = prior.lacks(prompt.lesion_id) and not prompt.propagated
    lattice_mm = np.array(settings.voi.shape_zyx) * np.array(settings.voi.spacing_zyx_mm)
    baseline_xyz_mm = triple(centre - shift_xyz_mm if is_new else centre)
    return Placement(
        followup_xyz_mm=triple(expected if is_new else expected + shift_xyz_mm),
        baseline_xyz_mm=baseline_xyz_mm,
        zoom=_zoom(float((extent / lattice_mm).max()), prompt.confidence, settings.voi),
        similarity=None if match is None else match.similarity,
        earlier=tuple(
            _earlier_centre(
                visit,
                case,
                prompt.lesion_id,
                at=replace(prompt.baseline, point_xyz_mm=baseline_xyz_mm),
                extent_mm=float(extent.max()),
                settings=alignment,
            )
            for visit in case.earlier
            if settings.network.uses_earlier
        ),
    )


def _without_search(settings: AlignmentSettings) -> AlignmentSettings:
    """Settings of which the similarity alone is measured, at the expected position."""
    widest = settings.steps[0].model_copy(update={"search_radius_mm": 0.0})
    return settings.model_copy(update={"steps": (widest,)})


def _earlier_centre(
    visit: EarlierVisit, case: Case, lesion_id: int, *, at: Click, extent_mm: float, settings: AlignmentSettings
) -> Click | None:
    """The position at an earlier time point that corresponds to the centre of the baseline's lattice.

    It is the centre of the lesion's outline there. Without one it is the most similar position near the lesion's click,
    or near where the nearest lesion that both time points show lets it be expected; None where there is neither, or
    nothing similar. With the method "clicks", it is the click.
    """
    click = visit.clicks.get(lesion_id)
    if settings.method == "clicks" and click is not None and click.scan_name in visit.baselines:
        return click
    position = visit.position(lesion_id)
    if position is not None and lesion_id in visit.baselines[position.scan_name].regions:
        return position
    expected = position or _expected(visit, EarlierVisit.of(case), at)
    if expected is None:
        return None
    match = best_match(
        case.baselines[at.scan_name].scan,
        visit.baselines[expected.scan_name].scan,
        centres_xyz_mm=(at.point_xyz_mm, expected.point_xyz_mm),
        extent_mm=extent_mm,
        settings=settings,
    )
    if match is None or match.similarity < _LEAST_SIMILARITY:
        return None
    return replace(expected, point_xyz_mm=triple(np.add(expected.point_xyz_mm, match.shift_xyz_mm)))


def _expected(visit: EarlierVisit, baseline: EarlierVisit, at: Click) -> Click | None:
    """Where the nearest lesion of the same scan that both time points show lets a point of the baseline be expected."""
    both = [(baseline.position(lesion_id), visit.position(lesion_id)) for lesion_id in visit.lesion_ids]
    shown = [
        (now, then) for now, then in both if now is not None and then is not None and now.scan_name == at.scan_name
    ]
    if not shown:
        return None
    offsets = [np.subtract(at.point_xyz_mm, now.point_xyz_mm) for now, _ in shown]
    nearest = int(np.linalg.norm(offsets, axis=1).argmin())
    then = shown[nearest][1]
    return replace(then, point_xyz_mm=triple(np.add(then.point_xyz_mm, offsets[nearest])))


def _zoom(share: float, confidence: float, settings: VoiSettings) -> float:
    """Zoom at which a lesion spanning `share` of the lattice spans `lesion_fraction`, within limits.

    A share of 0 is unknown. The zoom grows as the click's confidence falls.
    """
    wanted = share / settings.lesion_fraction if share else settings.unoutlined_zoom
    wider = 1.0 + (1.0 - confidence) * (settings.unsure_zoom - 1.0)
    return float(np.clip(np.clip(wanted, settings.zoom_min, settings.zoom_max) * wider, None, settings.zoom_max))


def extent_zyx_mm(prior: Baseline, region: LesionRegion) -> Float[np.ndarray, "3"]:
    """Size of a lesion's box along the lattice's axes."""
    extent_xyz_mm = np.subtract(region.stop_zyx, region.start_zyx)[::-1] * prior.scan.grid.spacing_zyx_mm[::-1]
    _, grid = prior.scan.grid.lps_view(prior.scan.hu)
    # The outline's box is in file order; the lattice runs along the same axes in LPS order.
    order = np.abs(np.linalg.inv(grid.directions) @ prior.scan.grid.directions).round()
    extent: Float[np.ndarray, "3"] = (order @ extent_xyz_mm)[::-1]
    return extent
