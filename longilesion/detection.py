"""Detection: a network slid over an organ, or the whole body, of a follow-up scan, and the lesions that it outlines.

The registered baseline is the network's prior.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cc3d
import numpy as np
from jaxtyping import Bool, Integer, UInt16

from longilesion.case import Baseline, Scan
from longilesion.components import connected_components
from longilesion.config import DetectionSettings
from longilesion.diameter import axial_diameter_mm
from longilesion.ensemble import Ensemble
from longilesion.geometry import ZYX, Box, Grid, Triple, box_slices, voxel_index
from longilesion.registered import sample_registered
from longilesion.registration.result import Registration
from longilesion.sliding import ONE, Progress, Region, region_of, slide_over
from longilesion.voi import VoiPair, occupied_box, sample_back

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """A baseline and its registration with the follow-up scan that is searched."""

    baseline: Baseline
    registration: Registration

    def shows(self, followup_xyz_mm: Triple) -> bool:
        """Whether a point of the follow-up lies in the baseline scan."""
        grid = self.baseline.scan.grid
        (point,) = self.registration.baseline_xyz_mm(np.array([followup_xyz_mm]))
        return grid.contains(grid.index_zyx(point))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """The outline of a lesion that a network has found, in the box that begins at `start_zyx` of the LPS view.

    `score` is its highest probability, as in nnDetection (Baumgartner et al., 2021): a mean would fall with the blur of
    the outline, and so with the lesion's size. `grid` is that of the box.
    """

    start_zyx: ZYX
    mask: Bool[np.ndarray, "z y x"]
    grid: Grid
    score: float

    @property
    def box(self) -> Box:
        """The box as an index of the scan's LPS view."""
        return box_slices(self.start_zyx, np.add(self.start_zyx, self.mask.shape))

    @property
    def volume_ml(self) -> float:
        """The volume of the outline's voxels."""
        return float(self.mask.sum()) * self.grid.voxel_volume_ml

    @property
    def diameter_mm(self) -> float:
        """The longest axial diameter."""
        return axial_diameter_mm(self.mask, self.grid)

    @property
    def centre_xyz_mm(self) -> Triple:
        """The centre of gravity."""
        return self.grid.world_xyz_mm(np.argwhere(self.mask).mean(axis=0))


def find_candidates(
    followup: Scan, priors: Sequence[Prior], detector: Ensemble, *, body: Region, progress: Progress | None = None
) -> list[Candidate]:
    """The lesions that a detector finds in a follow-up scan's organ, or in the body without one; best score first.

    `body` is the mask of the body on a coarse lattice. Of a detector with several lattices, the members of the heaviest
    group search. A window's prior is the first that shows its middle.
    """
    group = detector.groups[0]
    settings = group[0].settings
    if followup.organ is None:
        source, grid = body.mask, body.grid
        if any("organ_mask" in member.settings.encoding.followup_channels for member in group):
            _log.warning(
                "%s: looks at an organ, and no mask is given; the body is taken for it, expect false candidates",
                detector.name,
            )
    else:
        source, grid = followup.grid.lps_view(followup.organ)
    region = region_of(source, grid, settings.voi)
    if region is None:
        return []
    probability = slide(followup, priors, detector, region, progress=progress)
    return candidates_in(probability, region.grid, followup, settings.detection)


def slide(
    followup: Scan, priors: Sequence[Prior], detector: Ensemble, region: Region, *, progress: Progress | None = None
) -> UInt16[np.ndarray, "z y x"]:
    """The probabilities of `slide_over` for windows of the registered pair."""
    return slide_over(region, partial(_sample, followup, priors, region), detector, progress=progress)


def candidates_in(
    probability: UInt16[np.ndarray, "z y x"], lattice: Grid, followup: Scan, settings: DetectionSettings
) -> list[Candidate]:
    """The components of what reaches the threshold, outlined on the scan's voxels from the probabilities there.

    Those smaller than the least diameter, and what lies outside the scan's organ, are left out.
    """
    level = settings.threshold * ONE
    voxels = np.stack(np.nonzero(probability >= level))
    if not voxels.size:
        return []
    found = [
        candidate
        for component in connected_components(voxels)
        if (candidate := _outlined(component, probability, lattice, followup, level)) is not None
        and candidate.diameter_mm >= settings.least_diameter_mm
    ]
    return sorted(found, key=lambda candidate: -candidate.score)


def _outlined(
    component: Integer[np.ndarray, "3 n"],
    probability: UInt16[np.ndarray, "z y x"],
    lattice: Grid,
    followup: Scan,
    level: float,
) -> Candidate | None:
    """A component's outline on the scan's voxels, without other components; None where nothing is left of it."""
    _, lps = followup.grid.lps_view(followup.hu)
    # A voxel of the scan averages lattice voxels up to `reach` away.
    reach = 2 * np.maximum(1, np.ceil(np.divide(lps.spacing_zyx_mm, lattice.spacing_zyx_mm))).astype(int)
    low = np.maximum(component.min(axis=1) - reach, 0)
    high = np.minimum(component.max(axis=1) + 1 + reach, lattice.shape_zyx)
    start, stop = voxel_index(low), voxel_index(high)
    near = probability[box_slices(start, stop)]
    others = near >= level
    others[tuple(component - low[:, None])] = False
    values, window = sample_back(np.where(others, 0, near).astype(np.float32), lattice.window(start, stop), lps)
    mask = values >= level
    if followup.organ is not None:
        mask &= followup.grid.lps_view(followup.organ)[0][window]
    if not mask.any():
        return None
    mask = np.asarray(cc3d.largest_k(np.ascontiguousarray(mask), k=1, connectivity=26) > 0)
    box = occupied_box(mask)
    first = voxel_index([outer.start + inner.start for outer, inner in zip(window, box, strict=True)])
    mask = mask[box]
    return Candidate(
        start_zyx=first,
        mask=mask,
        grid=lps.window(first, voxel_index(np.add(first, mask.shape))),
        score=float(probability[tuple(component)].max()) / ONE,
    )


def _sample(followup: Scan, priors: Sequence[Prior], region: Region, box: Box) -> VoiPair:
    """One window; the region is the organ where the scan has none."""
    z, y, x = box
    lattice = region.grid.window((z.start, y.start, x.start), (z.stop, y.stop, x.stop))
    prior = next((prior for prior in priors if prior.shows(lattice.centre_xyz_mm)), priors[0] if priors else None)
    pair = sample_registered(
        followup, None if prior is None else prior.baseline, None if prior is None else prior.registration, lattice
    )
    if followup.organ is not None:
        return pair
    organ = region.mask[box].astype(np.float32)
    baseline = None if pair.baseline is None else replace(pair.baseline, organ=organ)
    return replace(pair, followup=replace(pair.followup, organ=organ), baseline=baseline)
