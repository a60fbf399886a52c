"""Local alignment: the position of the lesion's neighbourhood in the follow-up scan, and the zoom of its VOIs.

Clicks are often off by more than the lesion's size; two lattices centred on them would show different anatomy.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

from longilesion.case import Baseline, Case, LesionPrompt, LesionRegion, Scan
from longilesion.config import AlignmentSettings, ModelSettings, VoiSettings
from longilesion.geometry import Grid, Triple, triple
from longilesion.voi import Placement, sample_scan


def place_vois(case: Case, prompt: LesionPrompt, settings: ModelSettings) -> Placement:
    """Chooses the centres and the zoom of a lesion's two lattices.

    The baseline lattice is centred on the lesion's outline (on the click where there is none); the follow-up lattice on
    the most similar position near the follow-up click. The offset of the baseline click from the outline's centre is
    assumed for the follow-up click as well, unless the baseline click lies outside the outline. For a lesion that the
    baseline's map lacks, the follow-up lattice stays on its click, and the baseline lattice moves instead.
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
    centre = click if region is None else np.array(prior.scan.grid.world_xyz_mm(region.centre_zyx))
    extent = np.zeros(3) if region is None else extent_zyx_mm(prior, region)
    is_on_lesion = region is None or prompt.lesion_id in prior.lesions_at(prompt.baseline.point_xyz_mm)
    expected = np.array(prompt.followup.point_xyz_mm) + (centre - click if is_on_lesion else 0.0)
    shift, similarity = best_shift(
        prior.scan,
        case.followups[prompt.followup.scan_name],
        centres_xyz_mm=(triple(centre), triple(expected)),
        extent_mm=float(extent.max()),
        settings=settings.alignment,
    )
    # A new lesion is clicked in the follow-up; its baseline click is propagated backwards. A large one does not look
    # like what was there before, so that the most similar position lies beside it.
    is_new = region is None and prior.lesions is not None and not prompt.propagated
    lattice_mm = np.array(settings.voi.shape_zyx) * np.array(settings.voi.spacing_zyx_mm)
    return Placement(
        followup_xyz_mm=triple(expected if is_new else expected + shift),
        baseline_xyz_mm=triple(centre - shift if is_new else centre),
        zoom=_zoom(float((extent / lattice_mm).max()), prompt.confidence, settings.voi),
        similarity=similarity,
    )


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


def best_shift(
    baseline: Scan,
    followup: Scan,
    *,
    centres_xyz_mm: tuple[Triple, Triple],
    extent_mm: float,
    settings: AlignmentSettings,
) -> tuple[Float[np.ndarray, "3"], float | None]:
    """The translation (x, y, z in mm) of the follow-up centre that maximises correlation minus a distance penalty.

    The lesion between the two `centres_xyz_mm` (baseline, follow-up) spans `extent_mm`. Also returns the correlation
    there; None, with no translation, where the baseline shows a single HU value.
    """
    template_mm = float(np.clip(extent_mm / 2 + 10.0, settings.template_radius_mm, 2 * settings.template_radius_mm))
    template_radius = round(template_mm / settings.spacing_mm)
    search_radius = round(settings.search_radius_mm / settings.spacing_mm)
    template = _neighbourhood(baseline, centres_xyz_mm[0], radius=template_radius, settings=settings)
    searched = _neighbourhood(followup, centres_xyz_mm[1], radius=template_radius + search_radius, settings=settings)
    correlation = _correlation(searched, template)
    if correlation is None:
        return np.zeros(3), None
    distance = np.linalg.norm(np.indices(correlation.shape) - search_radius, axis=0)
    score = correlation - settings.distance_penalty * (distance / max(search_radius, 1)) ** 2
    best = np.unravel_index(int(score.argmax()), score.shape)
    offset_zyx = (_peak(score, best) - search_radius) * settings.spacing_mm
    _, grid = followup.grid.lps_view(followup.hu)
    return np.asarray(_directions(grid) @ offset_zyx[::-1]), float(correlation[best])


def _directions(grid: Grid) -> Float[np.ndarray, "3 3"]:
    """Unit vectors of the x, y and z axes as columns."""
    columns = grid.world_from_voxel[:3, :3]
    return np.asarray(columns / np.linalg.norm(columns, axis=0))


def _neighbourhood(
    scan: Scan, centre_xyz_mm: Triple, *, radius: int, settings: AlignmentSettings
) -> Float32[np.ndarray, "n n n"]:
    _, grid = scan.grid.lps_view(scan.hu)
    step = settings.spacing_mm / np.array(grid.spacing_zyx_mm)
    side = 2 * radius + 1
    start = np.array(grid.index_zyx(centre_xyz_mm)) - radius * step
    lattice = grid.lattice(start_zyx=start, step_zyx=step, shape_zyx=(side, side, side))
    return np.asarray(np.clip(sample_scan(scan, lattice), *settings.clip_hu))


def _correlation(
    searched: Float32[np.ndarray, "m m m"], template: Float32[np.ndarray, "n n n"]
) -> Float[np.ndarray, "k k k"] | None:
    """Normalised cross-correlation wherever the template lies wholly inside; None for a flat template."""
    centred = template - template.mean(dtype=np.float64)
    energy = float(np.sqrt((centred**2).sum()))
    if energy < 1.0:
        return None
    side, count = template.shape[0], template.size
    searched = searched.astype(np.float64)
    product = _products(searched, centred)
    mean = _box_sums(searched, side) / count
    spread = np.sqrt(np.maximum(_box_sums(searched**2, side) - count * mean**2, 1.0))
    return np.asarray(product / (energy * spread))


def _products(searched: Float[np.ndarray, "m m m"], template: Float[np.ndarray, "n n n"]) -> Float[np.ndarray, "k k k"]:
    """The sum of products wherever the template lies wholly inside, by Fourier transform."""
    # No padding is needed: only positions outside the result wrap around. Sizes that are multiples of four have small
    # prime factors and are fast to transform.
    axes = (0, 1, 2)
    size = (-(-searched.shape[0] // 4) * 4,) * 3
    spectrum = np.fft.rfftn(searched, size, axes) * np.fft.rfftn(template, size, axes).conj()
    inside = slice(0, searched.shape[0] - template.shape[0] + 1)
    return np.fft.irfftn(spectrum, size, axes)[inside, inside, inside]


def _box_sums(volume: Float[np.ndarray, "m m m"], side: int) -> Float[np.ndarray, "k k k"]:
    """The sums over all cubes of a side."""
    length = volume.shape[0]
    shape = (length - side + 1, length)
    # Row k is 1 from column k to k + side - 1, else 0.
    window = np.tri(*shape, side - 1) - np.tri(*shape, -1)
    return np.tensordot(window, window @ (volume @ window.T), axes=1)


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
