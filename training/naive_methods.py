"""Naive methods to outline lesions in a follow-up scan, as a lower reference for networks."""

from __future__ import annotations

import cc3d
import numpy as np
from jaxtyping import Bool, Float, UInt16
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, uniform_filter

from longilesion.case import Baseline, Case, LesionPrompt
from longilesion.geometry import Box, box_slices
from longilesion.prompts import complete_prompts

# Region growing stops at this multiple of the baseline lesion's radius, and here where the radius is unknown.
_REACH = 1.5
_UNKNOWN_RADIUS_MM = 12.0
_DEVIATIONS = 2.0


def paste_baseline(case: Case) -> UInt16[np.ndarray, "z y x"]:
    """Moves each outlined lesion by the vector from its baseline click to its follow-up click."""
    ids = np.zeros(case.followups["primary"].hu.shape, np.uint16)
    for prompt in complete_prompts(case).lesions:
        prior = _outlined(case, prompt)
        if prior is not None and prior.lesions is not None and prompt.baseline is not None:
            window, offsets_zyx_mm = _neighbourhood(case, prompt, _radius_mm(prior, prompt) * 3)
            spacing = np.array(prior.scan.grid.spacing_zyx_mm)
            start = np.array(prior.scan.grid.index_zyx(prompt.baseline.point_xyz_mm))
            positions = offsets_zyx_mm / spacing[:, None, None, None] + start[:, None, None, None]
            mask = (prior.lesions.ids == prompt.lesion_id).astype(np.float32)
            ids[window][map_coordinates(mask, positions, order=1) > 0.5] = prompt.lesion_id
    return ids


def grow_region(case: Case) -> UInt16[np.ndarray, "z y x"]:
    """Grows from the follow-up click over voxels with the HU of the baseline lesion (as those at the click if new)."""
    scan = case.followups["primary"]
    ids = np.zeros(scan.hu.shape, np.uint16)
    for prompt in complete_prompts(case).lesions:
        prior = _outlined(case, prompt)
        radius = _UNKNOWN_RADIUS_MM if prior is None else _radius_mm(prior, prompt)
        window, offsets_zyx_mm = _neighbourhood(case, prompt, radius * _REACH)
        distance = np.linalg.norm(offsets_zyx_mm, axis=0)
        smooth = uniform_filter(scan.hu[window].astype(np.float32), 3)
        near = distance <= max(4.0, float(distance.min()))
        sample = smooth[near] if prior is None or prior.lesions is None else _lesion_hu(prior, prompt)
        alike = np.abs(smooth - sample.mean()) <= _DEVIATIONS * max(float(sample.std()), 10.0)
        regions = cc3d.connected_components(alike & (distance <= radius * _REACH), connectivity=6)
        seeds = np.unique(regions[near & (regions > 0)])
        grown = np.isin(regions, seeds[seeds > 0])
        ids[window][grown] = prompt.lesion_id
    return ids


def _outlined(case: Case, prompt: LesionPrompt) -> Baseline | None:
    prior = None if prompt.baseline is None else case.baselines.get(prompt.baseline.scan_name)
    return prior if prior is not None and prompt.lesion_id in prior.regions else None


def _radius_mm(prior: Baseline, prompt: LesionPrompt) -> float:
    volume_ml = prior.regions[prompt.lesion_id].voxels * prior.scan.grid.voxel_volume_ml
    return float((3 * volume_ml * 1000 / (4 * np.pi)) ** (1 / 3))


def _lesion_hu(prior: Baseline, prompt: LesionPrompt) -> NDArray[np.float32]:
    box = prior.regions[prompt.lesion_id].box
    inside: Bool[np.ndarray, "z y x"] = (
        prior.lesions.ids[box] == prompt.lesion_id if prior.lesions else np.ones(1, bool)
    )
    return np.asarray(uniform_filter(prior.scan.hu[box].astype(np.float32), 3)[inside])


def _neighbourhood(case: Case, prompt: LesionPrompt, reach_mm: float) -> tuple[Box, Float[np.ndarray, "3 z y x"]]:
    """The window of the follow-up scan around the click, and its voxels' offsets from the click."""
    grid = case.followups["primary"].grid
    click, spacing = np.array(grid.index_zyx(prompt.followup.point_xyz_mm)), np.array(grid.spacing_zyx_mm)
    low = np.clip(np.floor(click - reach_mm / spacing), 0, np.array(grid.shape_zyx) - 1).astype(int)
    high = np.clip(np.ceil(click + reach_mm / spacing) + 1, low + 1, grid.shape_zyx).astype(int)
    box = box_slices(low, high)
    indices: NDArray[np.int64] = np.mgrid[box]
    offsets = indices - click[:, None, None, None]
    return box, offsets * spacing[:, None, None, None]
