"""Local alignment: the position of the lesion's neighbourhood in the follow-up scan, and the zoom of its VOIs.

Clicks are often off by more than the lesion's size; two lattices centred on them would show different anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Complex64, Float, Float32

from longilesion.case import Baseline, Case, Click, EarlierVisit, LesionPrompt, LesionRegion, Scan
from longilesion.config import AlignmentSettings, ModelSettings, SearchStep, VoiSettings
from longilesion.geometry import Grid, Triple, triple
from longilesion.voi import Placement, sample_shown

# Added to each window's variance (values from 0 to 1): noise of up to 20 HU in soft tissue is not compared.
_NOISE_VARIANCE = 0.002
# With a lower deviation in all windows the template is a single HU value.
_LEAST_DEVIATION = 0.001
# The similarity of a position counts less, the less of the template it compares; below the least share, not at all.
_OVERLAP_EXPONENT = 0.5
_LEAST_OVERLAP = 0.1
# A lesion of unknown extent is taken to span this much.
_TYPICAL_EXTENT_MM = 24.0
# Positions at least this far from the best one are other positions.
_APART_MM = 10.0
# An earlier time point is not shown at a position that is less similar to the baseline's.
_LEAST_SIMILARITY = 0.4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """The best position of a search: its shift from the start, and the evidence for it.

    Both are those of the widest neighbourhood, in the first step: `similarity` is the correlation at the best position,
    `margin` by how much its score exceeds those of positions at least 10 mm away, 0 where there are none.
    """

    shift_xyz_mm: Float[np.ndarray, "3"]
    similarity: float
    margin: float


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
    order = np.abs(np.linalg.inv(_directions(grid)) @ _directions(prior.scan.grid)).round()
    extent: Float[np.ndarray, "3"] = (order @ extent_xyz_mm)[::-1]
    return extent


def best_match(
    baseline: Scan,
    followup: Scan,
    *,
    centres_xyz_mm: tuple[Triple, Triple],
    extent_mm: float,
    settings: AlignmentSettings,
) -> Match | None:
    """The position near the expected one whose neighbourhood is most similar to that of the lesion in the baseline.

    The lesion between the two `centres_xyz_mm` (baseline, follow-up) spans `extent_mm`, 0 where unknown. Each step
    searches around the position of the previous one. None where there is nothing to compare: the baseline's
    neighbourhood has a single HU value, or the follow-up scan shows none of it.
    """
    _, grid = followup.grid.lps_view(followup.hu)
    radius_mm = (extent_mm or _TYPICAL_EXTENT_MM) / 2
    shift_xyz_mm = np.zeros(3)
    evidence: tuple[float, float] | None = None
    for step in settings.steps:
        half_mm = step.template_radius_mm / 2
        template_mm = half_mm + float(np.clip(radius_mm, half_mm, 3 * half_mm))
        template_radius, search_radius = (
            round(length_mm / step.spacing_mm) for length_mm in (template_mm, step.search_radius_mm)
        )
        template = _neighbourhood(baseline, centres_xyz_mm[0], step.spacing_mm, radius=template_radius)
        template = template.weighted(radius_mm / step.spacing_mm, step, lesion_weight=settings.lesion_weight)
        expected = triple(np.add(centres_xyz_mm[1], shift_xyz_mm))
        searched = _neighbourhood(followup, expected, step.spacing_mm, radius=template_radius + search_radius)
        compared = _compared(searched, template, settings.windows_hu)
        if compared is None:
            return None
        correlation, overlap = compared
        distance = np.linalg.norm(np.indices(correlation.shape) - search_radius, axis=0)
        score = correlation * overlap**_OVERLAP_EXPONENT
        score -= step.distance_penalty * (distance / max(search_radius, 1)) ** 2
        best = np.unravel_index(int(np.where(overlap >= _LEAST_OVERLAP, score, -np.inf).argmax()), score.shape)
        offset_zyx = (_peak(score, best) - search_radius) * step.spacing_mm
        shift_xyz_mm = shift_xyz_mm + _directions(grid) @ offset_zyx[::-1]
        if evidence is None:
            evidence = float(correlation[best]), _margin(score, best, _APART_MM / step.spacing_mm)
    if evidence is None:
        return None
    return Match(shift_xyz_mm=shift_xyz_mm, similarity=evidence[0], margin=evidence[1])


def _directions(grid: Grid) -> Float[np.ndarray, "3 3"]:
    """Unit vectors of the x, y and z axes as columns."""
    columns = grid.world_from_voxel[:3, :3]
    return np.asarray(columns / np.linalg.norm(columns, axis=0))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Neighbourhood:
    """Hounsfield units on a cube, and each voxel's weight: 0 where the scan does not show it."""

    hu: Float32[np.ndarray, "n n n"]
    weights: Float32[np.ndarray, "n n n"]

    def weighted(self, radius: float, step: SearchStep, *, lesion_weight: float) -> _Neighbourhood:
        """The same with the lesion's weight within that radius (voxels), and weights that fall beyond it."""
        distance = np.linalg.norm(np.indices(self.hu.shape) - self.hu.shape[0] // 2, axis=0)
        weights = self.weights * np.where(distance < radius, lesion_weight, 1.0)
        if step.falloff_mm is not None:
            beyond_mm = np.maximum(distance - radius, 0.0) * step.spacing_mm
            weights *= np.exp(-0.5 * (beyond_mm / step.falloff_mm) ** 2)
        return _Neighbourhood(hu=self.hu, weights=weights.astype(np.float32))


def _neighbourhood(scan: Scan, centre_xyz_mm: Triple, spacing_mm: float, *, radius: int) -> _Neighbourhood:
    _, grid = scan.grid.lps_view(scan.hu)
    step = spacing_mm / np.array(grid.spacing_zyx_mm)
    side = 2 * radius + 1
    start = np.array(grid.index_zyx(centre_xyz_mm)) - radius * step
    lattice = grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=(side, side, side))
    hu, shown = sample_shown(scan, lattice)
    return _Neighbourhood(hu=hu, weights=shown.astype(np.float32))


def _compared(
    searched: _Neighbourhood, template: _Neighbourhood, windows_hu: Sequence[tuple[float, float]]
) -> tuple[Float32[np.ndarray, "k k k"], Float32[np.ndarray, "k k k"]] | None:
    """The correlation at each position of the template, and the share of the template's weight that is shown there.

    It is the weighted correlation of what both show (Padfield, Masked Object Registration in the Fourier Domain, 2012),
    averaged over the windows, each of which counts by the deviation of the template's values in it. None for a template
    of a single value, or where the searched scan shows nothing.
    """
    total = float(template.weights.sum())
    if total == 0 or not searched.weights.any():
        return None
    sums = _Sums(searched_side=searched.hu.shape[0], template_side=template.hu.shape[0])
    shown, weights = sums.spectrum(searched.weights), sums.spectrum(template.weights)
    weight = np.maximum(sums.of(shown, weights), np.float32(1e-3 * total))
    correlation, deviations = np.zeros_like(weight), 0.0
    for low, high in windows_hu:
        before, after = ((np.clip(each.hu, low, high) - low) / (high - low) for each in (template, searched))
        # Centred, so that squares lose no digits.
        middle = (before * template.weights).sum() / total
        before, after = before - middle, (after - middle) * searched.weights
        deviation = float(np.sqrt((before**2 * template.weights).sum() / total))
        if deviation < _LEAST_DEVIATION:
            continue
        own, own_squared = sums.spectrum(before * template.weights), sums.spectrum(before**2 * template.weights)
        other, other_squared = sums.spectrum(after), sums.spectrum(after**2)
        means = sums.of(shown, own) / weight, sums.of(other, weights) / weight
        variances = (
            np.maximum(sums.of(shown, own_squared) / weight - means[0] ** 2, 0) + _NOISE_VARIANCE,
            np.maximum(sums.of(other_squared, weights) / weight - means[1] ** 2, 0) + _NOISE_VARIANCE,
        )
        covariance = sums.of(other, own) / weight - means[0] * means[1]
        correlation += deviation * covariance / np.sqrt(variances[0] * variances[1])
        deviations += deviation
    if deviations == 0:
        return None
    return correlation / np.float32(deviations), np.minimum(weight / np.float32(total), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """Sums of products at every position of a template inside the searched cube, by Fourier transform."""

    searched_side: int
    template_side: int

    @property
    def _size(self) -> tuple[int, int, int]:
        # No padding is needed: only positions outside the result wrap around. Sizes that are multiples of four have
        # small prime factors and are fast to transform.
        return (-(-self.searched_side // 4) * 4,) * 3

    def spectrum(self, values: Float32[np.ndarray, "n n n"]) -> Complex64[np.ndarray, "i j k"]:
        """The spectrum of a cube's values."""
        return np.fft.rfftn(values, self._size, axes=(0, 1, 2))

    def of(
        self, searched: Complex64[np.ndarray, "i j k"], template: Complex64[np.ndarray, "i j k"]
    ) -> Float32[np.ndarray, "p p p"]:
        """The sums of the products of both cubes' values."""
        inside = slice(0, self.searched_side - self.template_side + 1)
        return np.fft.irfftn(searched * template.conj(), self._size, axes=(0, 1, 2))[inside, inside, inside]


def _margin(score: Float32[np.ndarray, "k k k"], best: tuple[np.intp, ...], apart: float) -> float:
    """By how much the best score exceeds those at least so many samples away; 0 where there are none."""
    distance = np.linalg.norm(np.indices(score.shape) - np.reshape(best, (3, 1, 1, 1)), axis=0)
    others = score[distance >= apart]
    return float(score[best] - others.max()) if others.size else 0.0


def _peak(score: Float[np.ndarray, "k k k"], best: tuple[np.intp, ...]) -> Float[np.ndarray, "3"]:
    """The maximum's position between samples, by a parabola along each axis."""
    position = np.array(best, float)
    for axis in range(3):
        if 0 < best[axis] < score.shape[axis] - 1:
            below, middle, above = (score[tuple(np.add(best, np.eye(3, dtype=int)[axis] * k))] for k in (-1, 0, 1))
            curvature = below - 2 * middle + above
            if curvature < 0:
                position[axis] += 0.5 * (below - above) / curvature
    return position
