"""Clicks as the challenge gives them: exact in one scan, propagated to the other with the published error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial

import numpy as np
from jaxtyping import Float
from scipy.interpolate import BSpline, make_interp_spline
from scipy.special import ndtri

from longilesion.case import Click, ClickPair
from longilesion.evaluation.exam import LesionFact
from longilesion.geometry import Grid

# The challenge gives its click errors in voxels of this size: quantiles over all types of lesions, and some medians.
CHALLENGE_VOXEL_ZYX_MM = (3.0, 0.775, 0.775)
CLICK_ERROR_VOXELS: Mapping[float, float] = {0.5: 3.7, 0.75: 11.1, 0.9: 23.1, 0.95: 34.0, 0.99: 79.7}
MEDIAN_ERROR_VOXELS: Mapping[str, float] = {"Liver": 7.9, "Soft tissue / Skin": 6.6, "Adrenals": 7.3, "Lung": 1.7}

# Errors that are drawn before the click is moved to the scan's border.
_ATTEMPTS = 50


def challenge_clicks(
    exact: ClickPair, fact: LesionFact, *, grids: tuple[Grid, Grid], is_whole: bool, generator: np.random.Generator
) -> ClickPair:
    """A lesion's clicks with errors, from the exact ones; the grids are the baseline's and the follow-up's.

    The click is exact in the scan where the lesion was outlined first, and propagated to the other one: forwards, or
    backwards where the lesion is new.
    """
    propagated = partial(_propagated, lesion_type=fact.lesion_type, is_whole=is_whole, generator=generator)
    if fact.fate == "new":
        return replace(exact, baseline=propagated(exact.baseline, grid=grids[0]))
    return replace(exact, followup=propagated(exact.followup, grid=grids[1]))


def click_error_voxels(generator: np.random.Generator, lesion_type: str | None = None) -> float:
    """The length of a propagated click's error, in the challenge's voxels.

    It is log-normal between the published quantiles, and beyond them as between the outermost two. For a type whose
    median is published, that one counts; the quantiles from the 90th percentile on are those of all types.
    """
    return float(np.exp(_log_voxels(lesion_type)(generator.normal())))


def click_error_mm(generator: np.random.Generator, voxels: float) -> Float[np.ndarray, "3"]:
    """An error (z, y, x) of that length in the challenge's voxels; its direction in mm is uniform."""
    direction = generator.normal(size=3)
    return np.asarray(voxels * direction / np.linalg.norm(direction / CHALLENGE_VOXEL_ZYX_MM))


def _propagated(
    exact: Click | None, *, lesion_type: str | None, grid: Grid, is_whole: bool, generator: np.random.Generator
) -> Click | None:
    """The click with an error that does not lead out of the scan.

    In a whole scan the error's length is kept and another direction is tried, so that lengths are distributed as
    published; where none leads to a voxel, the click lies on the border. In a cut-out another error is drawn: beyond
    it there is nothing to see, and training cannot use a lesion that its lattice does not reach.
    """
    if exact is None:
        return None
    start = np.array(grid.index_zyx(exact.point_xyz_mm))
    voxels = click_error_voxels(generator, lesion_type)
    for _ in range(_ATTEMPTS):
        moved = start + click_error_mm(generator, voxels) / np.array(grid.spacing_zyx_mm)
        if grid.contains(moved):
            break
        if not is_whole:
            voxels = click_error_voxels(generator, lesion_type)
    return replace(exact, point_xyz_mm=grid.world_xyz_mm(grid.clamped(moved)))


@cache
def _log_voxels(lesion_type: str | None) -> BSpline:
    """The logarithm of the error as a function of a standard normal deviate."""
    quantiles = dict(CLICK_ERROR_VOXELS)
    if lesion_type is not None and lesion_type in MEDIAN_ERROR_VOXELS:
        quantiles[0.5] = MEDIAN_ERROR_VOXELS[lesion_type]
        # That of all types says nothing of one whose median differs so much.
        del quantiles[0.75]
    return make_interp_spline(ndtri(list(quantiles)), np.log(list(quantiles.values())), k=1)
