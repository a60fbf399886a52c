"""Complete prompts: every lesion that is clicked or outlined gets a place to look for it in a follow-up scan.

A missing follow-up click is the baseline click moved along with the body: by the vector from the body's centre in the
baseline scan to its centre in the follow-up scan. So the two scans need no common origin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cc3d
import numpy as np

from longilesion.case import Case, Click, ClickPair, LesionPrompt, Scan, ScanName
from longilesion.geometry import Triple

BODY_HU = -300
# Bodies are measured on every n-th voxel, about this far apart.
BODY_SPACING_MM = 8.0

# Confidence of a propagated click. At most the upper one, where both scans show the same length of the body: the less
# alike the lengths, the less do the two centres correspond. The lower one also where the click had to be moved to the
# scan's border, or into a scan of another name.
PROPAGATED_CONFIDENCE = (0.2, 0.5)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Where the patient lies in a scan: the centre of mass, and the length along the patient's axis."""

    center_xyz_mm: Triple
    length_mm: float


def complete_prompts(case: Case) -> tuple[LesionPrompt, ...]:
    """Gives each lesion of a case a follow-up click, and a baseline click where the baseline shows it; sorted by id.

    Lesions are those with clicks and those outlined in a baseline map. Where only the outline says where a lesion was,
    its centre is the baseline click. A lesion that nothing places is logged as a warning and left out.
    """
    # Measured once per scan (scans are compared by identity), and only where a click must be mapped.
    measured = cache(measure_body)
    pairs = {pair.lesion_id: pair for pair in case.clicks}
    outlined = {lesion_id for baseline in case.baselines.values() for lesion_id in baseline.regions}
    prompts = []
    for lesion_id in sorted(pairs.keys() | outlined):
        pair = pairs.get(lesion_id, ClickPair(lesion_id=lesion_id, baseline=None, followup=None))
        baseline = _baseline_click(case, pair)
        if pair.followup is not None:
            prompts.append(
                LesionPrompt(
                    lesion_id=lesion_id, followup=pair.followup, baseline=baseline, propagated=False, confidence=1.0
                )
            )
        elif baseline is not None:
            prompts.append(_propagated(case, lesion_id, baseline, measured))
        else:
            _log.warning("lesion %d: no follow-up click and no baseline scan that shows it; it is left out", lesion_id)
    return tuple(prompts)


def measure_body(scan: Scan) -> Body:
    """Measures the largest connected part of a scan above -300 HU; the whole scan where there is none.

    Holes (lungs, bowel) do not matter, nor does the table, which is thin or apart.
    """
    hu, grid = scan.grid.lps_view(scan.hu)
    step = np.maximum(1, (BODY_SPACING_MM / np.array(grid.spacing_zyx_mm)).astype(int))
    z, y, x = step.tolist()
    dense = np.ascontiguousarray(hu[::z, ::y, ::x] > BODY_HU)
    if not dense.any():
        dense[:] = True
    indices = np.argwhere(cc3d.largest_k(dense, k=1, connectivity=6)) * step
    return Body(
        center_xyz_mm=grid.world_xyz_mm(indices.mean(axis=0)),
        length_mm=float((np.ptp(indices[:, 0]) + z) * grid.spacing_zyx_mm[0]),
    )


def _baseline_click(case: Case, pair: ClickPair) -> Click | None:
    """The lesion's baseline click if its scan is there, else the centre of its outline, else none."""
    if pair.baseline is not None and pair.baseline.scan_name in case.baselines:
        return pair.baseline
    outlines = [
        (baseline.regions[pair.lesion_id], name)
        for name, baseline in case.baselines.items()
        if pair.lesion_id in baseline.regions
    ]
    if not outlines:
        return None
    region, name = max(outlines, key=lambda outline: outline[0].voxels)
    center = case.baselines[name].scan.grid.world_xyz_mm(region.center_zyx)
    return Click(scan_name=name, point_xyz_mm=center)


def _propagated(case: Case, lesion_id: int, baseline: Click, measured: Callable[[Scan], Body]) -> LesionPrompt:
    """The prompt whose follow-up click is the baseline click moved by the vector between the two body centres.

    It lies in the follow-up scan of the same name if there is one, and on its border if the move leaves it.
    """
    name: ScanName = baseline.scan_name if baseline.scan_name in case.followups else next(iter(case.followups))
    followup = case.followups[name]
    bodies = measured(case.baselines[baseline.scan_name].scan), measured(followup)
    index = followup.grid.index_zyx(
        np.array(baseline.point_xyz_mm) + bodies[1].center_xyz_mm - np.array(bodies[0].center_xyz_mm)
    )
    inside = followup.grid.contains(index)
    point = followup.grid.world_xyz_mm(index if inside else followup.grid.clamped(index))
    shorter, longer = sorted(body.length_mm for body in bodies)
    low, high = PROPAGATED_CONFIDENCE
    return LesionPrompt(
        lesion_id=lesion_id,
        followup=Click(scan_name=name, point_xyz_mm=point, clamped=not inside),
        baseline=baseline,
        propagated=True,
        confidence=max(low, high * shorter / longer) if inside and name == baseline.scan_name else low,
    )
