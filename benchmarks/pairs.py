"""The measured case: a torso scanned twice, with lesions near its middle, which shorter scans also contain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from longilesion.case import Baseline, Case, Click, LesionMap, Scan
from longilesion.geometry import Grid, Triple
from longilesion.shipped import SOCKETS_FILE
from test.phantoms import Fate, PlannedLesion, View, torso_case

# Organs with lesions, and heights in the body with room for them.
_SITES = (
    ("liver", -25.0),
    ("right lung", 78.0),
    ("mesentery", -80.0),
    ("left lung", 78.0),
    ("spleen", 15.0),
    ("liver", 20.0),
    ("right lung", 50.0),
    ("left lung", 50.0),
)
_RADII_MM = (6.0, 10.0, 8.0, 5.0, 7.0)
_FATES: tuple[Fate, ...] = ("persists", "grows", "shrinks")
WIDTH_MM = 384.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSize:
    """Size of both scans of a pair, which are 384 mm wide, and the number of its lesions."""

    slices: int
    spacing_zyx_mm: Triple
    lesions: int

    @property
    def view(self) -> View:
        """The scan in the phantom's terms."""
        half = self.slices * self.spacing_zyx_mm[0] / 2
        return View(heights_mm=(-half, half), spacing_zyx_mm=self.spacing_zyx_mm, width_xy_mm=(WIDTH_MM, WIDTH_MM))


def torso_pair(size: PairSize, *, seed: int = 0) -> Case:
    """Draws a person and scans them twice. All lesions are present in both scans, and differ in size and organ."""
    plans = [
        PlannedLesion(
            lesion_id=number + 1,
            fate=_FATES[number % len(_FATES)],
            organ=_SITES[number % len(_SITES)][0],
            radius_mm=_RADII_MM[number % len(_RADII_MM)],
            height_mm=_SITES[number % len(_SITES)][1],
        )
        for number in range(size.lesions)
    ]
    return torso_case(seed, lesions=plans, baselines=(size.view,), followups=(size.view,)).case


def first_lesions(case: Case, count: int) -> Case:
    """The same case with only the first lesions marked and clicked."""
    prior = case.baselines["primary"]
    ids = np.where(prior.lesions.ids <= count, prior.lesions.ids, 0)
    lesions = LesionMap(ids=ids.astype(np.uint16, copy=False), grid=prior.scan.grid)
    return replace(case, baselines={"primary": Baseline.of(prior.scan, lesions)}, clicks=case.clicks[:count])


def middle_slices(case: Case, count: int) -> Case:
    """The same case cut to the slices in the middle of its scans."""
    prior = case.baselines["primary"]
    start = (prior.scan.grid.shape_zyx[0] - count) // 2
    kept = slice(start, start + count)

    def cut(scan: Scan) -> Scan:
        _, y, x = scan.grid.shape_zyx
        return Scan(hu=scan.hu[kept].copy(), grid=scan.grid.window((start, 0, 0), (start + count, y, x)))

    baseline = cut(prior.scan)
    lesions = LesionMap(ids=prior.lesions.ids[kept].copy(), grid=baseline.grid)
    return replace(
        case,
        baselines={"primary": Baseline.of(baseline, lesions)},
        followups={"primary": cut(case.followups["primary"])},
    )


def write_case(folder: Path, case: Case) -> None:
    """Writes the case in Grand Challenge's layout, with compressed images."""
    places = json.loads(SOCKETS_FILE.read_text())["inputs"]
    prior, followup = case.baselines["primary"], case.followups["primary"]
    for slug, voxels, grid in (
        ("primary-baseline-ct", prior.scan.hu, prior.scan.grid),
        ("primary-baseline-ct-tumor-lesion-seg", prior.lesions.ids.astype(np.uint8), prior.scan.grid),
        ("primary-followup-ct", followup.hu, followup.grid),
    ):
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(grid.spacing_zyx_mm[::-1])
        image.SetOrigin(grid.world_xyz_mm((0, 0, 0)))
        path = folder / places[slug] / "image.mha"
        path.parent.mkdir(parents=True)
        sitk.WriteImage(image, str(path), useCompression=True)
    for time_point, grid in (("baseline", prior.scan.grid), ("followup", followup.grid)):
        points = _points({pair.lesion_id: getattr(pair, time_point) for pair in case.clicks}, grid)
        (folder / places[f"primary-{time_point}-lesion-clicks"]).write_text(json.dumps({"points": points}))


def _points(clicks: Mapping[int, Click], grid: Grid) -> list[dict[str, object]]:
    return [
        {"name": str(lesion_id), "point": grid.index_zyx(click.point_xyz_mm)[::-1]}
        for lesion_id, click in clicks.items()
    ]
