"""Lesions inserted into two real scans of a patient, at landmarks that correspond."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64

from benchmarks.pair_folder import PairFolder
from longilesion.case import PADDING_HU, Baseline, Case, Click, ClickPair, LesionMap, Scan, lesion_regions
from longilesion.evaluation.exam import Fate
from longilesion.evaluation.measures import Outline, centre_xyz_mm
from longilesion.geometry import box_slices, triple
from training.synthesis.acquisition import Acquisition
from training.synthesis.changes import Site, random_lesion
from training.synthesis.clicks import challenge_clicks
from training.synthesis.lesions import Appearance, Lesion, Tissue
from training.synthesis.pairs import SyntheticPair
from training.synthesis.real_shapes import RealShapes
from training.synthesis.rendering import Exposure, Frame, rendered
from training.synthesis.settings import SynthesisSettings
from training.synthesis.sites import lesion_type_of
from training.synthesis.sources import FEWEST_VOXELS, Source, source_of
from training.synthesis.truth import SyntheticFact

# In turn.
_FATES: tuple[Fate, ...] = ("persists", "new", "persists", "gone")
_GAP_MM = 3.0
_AROUND_MM = 12.0
_LUNG_HU = -400.0


def inserted_pair(
    folder: PairFolder,
    generator: np.random.Generator,
    *,
    lesions: int,
    shapes: RealShapes,
    settings: SynthesisSettings,
) -> SyntheticPair:
    """Both scans with up to that many lesions, of which half persist and a quarter each are new or gone.

    A lesion lies in the tissue around its landmark in the baseline, and clicks with the challenge's errors.
    """
    scans = tuple(_in_lps_order(scan) for scan in (folder.baseline, folder.followup))
    sources = tuple(source_of(f"scan {number}", scan.hu, scan.grid) for number, scan in enumerate(scans))
    planned = list(_planned(folder, scans, sources[0], generator, count=lesions, shapes=shapes, settings=settings))
    exposures = (
        _painted(sources[0], [(before, before.baseline) for before, _ in planned], generator),
        _painted(sources[1], [(after, after.followup) for _, after in planned], generator),
    )
    maps = tuple(LesionMap(ids=exposure.ids, grid=scan.grid) for exposure, scan in zip(exposures, scans, strict=True))
    facts, exact_clicks = _facts_and_clicks(folder, planned, maps)
    shown = tuple(_with_padding(exposure, scan) for exposure, scan in zip(exposures, scans, strict=True))
    grids = scans[0].grid, scans[1].grid
    case = Case(
        baselines={"primary": Baseline.of(shown[0], maps[0])},
        followups={"primary": shown[1]},
        clicks=tuple(
            challenge_clicks(exact, facts[exact.lesion_id], grids=grids, is_whole=True, generator=generator)
            for exact in exact_clicks
        ),
    )
    return SyntheticPair(case=case, truth=maps[1], facts=facts, exact_clicks=exact_clicks)


def _in_lps_order(scan: Scan) -> Scan:
    hu, grid = scan.grid.lps_view(scan.hu)
    return Scan(hu=np.ascontiguousarray(hu), grid=grid)


def _planned(
    folder: PairFolder,
    scans: tuple[Scan, ...],
    source: Source,
    generator: np.random.Generator,
    *,
    count: int,
    shapes: RealShapes,
    settings: SynthesisSettings,
) -> Iterator[tuple[Lesion, Lesion]]:
    """Lesions at random landmarks, apart from each other in both scans: each as placed in the one and in the other.

    The id is the landmark's number, counted from 1.
    """
    places = tuple(
        _places_zyx_mm(scan, points)
        for scan, points in zip(scans, (folder.baseline_xyz_mm, folder.followup_xyz_mm), strict=True)
    )
    taken: list[tuple[Lesion, Lesion]] = []
    for landmark in generator.permutation(len(places[0])).tolist():
        if len(taken) == count:
            return
        tissue = _tissue_around(source, places[0][landmark])
        before = random_lesion(
            generator,
            Site(tissue=tissue, lesion_type=lesion_type_of(tissue, None), centre_zyx_mm=places[0][landmark]),
            lesion_id=landmark + 1,
            fate=_FATES[len(taken) % len(_FATES)],
            real_shapes=shapes,
            settings=settings,
        )
        pair = before, replace(before, centre_zyx_mm=places[1][landmark])
        if all(_are_apart(one, other) for others in taken for one, other in zip(pair, others, strict=True)):
            taken.append(pair)
            yield pair


def _places_zyx_mm(scan: Scan, points_xyz_mm: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Points in mm from the scan's first voxel."""
    return np.array([scan.grid.index_zyx(triple(point)) for point in points_xyz_mm]) * scan.grid.spacing_zyx_mm


def _tissue_around(source: Source, place_zyx_mm: Float64[np.ndarray, "3"]) -> Tissue:
    """The tissue of a lesion at a landmark, by the median HU around; a landmark in lung usually is a vessel."""
    reach = np.round(_AROUND_MM / source.spacing_zyx_mm).astype(int)
    middle = np.round(place_zyx_mm / source.spacing_zyx_mm).astype(int)
    around = source.hu[box_slices(np.maximum(middle - reach, 0), middle + reach + 1)]
    return "lung" if np.median(around) < _LUNG_HU else "soft"


def _are_apart(one: Lesion, other: Lesion) -> bool:
    distance_mm = float(np.linalg.norm(one.centre_zyx_mm - other.centre_zyx_mm))
    return distance_mm > 1.2 * (one.reach_mm + other.reach_mm) + _GAP_MM


def _painted(
    source: Source, lesions: list[tuple[Lesion, tuple[Appearance, ...]]], generator: np.random.Generator
) -> Exposure:
    """A scan as it is, but for the lesions in it."""
    spacing = triple(source.spacing_zyx_mm)
    shape_zyx = source.hu.shape
    frame = Frame(
        shape_zyx=shape_zyx,
        spacing_zyx_mm=spacing,
        middle_zyx_mm=(np.array(shape_zyx) - 1) / 2 * source.spacing_zyx_mm.astype(float),
    )
    unchanged = Acquisition(
        spacing_zyx_mm=spacing,
        enhancement_hu=0.0,
        regional_hu=None,
        noise_hu=0.0,
        noise_grain_voxels=0.5,
        noise_seed=0,
        sharpness=0.0,
        offset_hu=0.0,
    )
    image = rendered(source, frame, None, unchanged, device=torch.device("cpu"))
    for lesion, parts in lesions:
        image.insert(lesion, parts, lesion.lesion_id, generator)
    return image.developed()


def _with_padding(exposure: Exposure, scan: Scan) -> Scan:
    return Scan(hu=np.where(scan.hu == PADDING_HU, scan.hu, exposure.hu), grid=scan.grid)


def _facts_and_clicks(
    folder: PairFolder, planned: list[tuple[Lesion, Lesion]], maps: tuple[LesionMap, ...]
) -> tuple[dict[int, SyntheticFact], tuple[ClickPair, ...]]:
    """The facts by lesion id and the exact clicks; lesions of too few voxels are erased from the maps."""
    facts, clicks = {}, []
    regions = [lesion_regions(each.ids) for each in maps]
    points = folder.baseline_xyz_mm, folder.followup_xyz_mm
    for before, after in planned:
        lesion_id = before.lesion_id
        parts = before.baseline, after.followup
        found = [each.get(lesion_id) for each in regions]
        is_shown = [region is not None and region.voxels >= FEWEST_VOXELS for region in found]
        if is_shown != [bool(part) for part in parts]:
            for each in maps:
                each.ids[each.ids == lesion_id] = 0
            continue
        outlines = [
            None if region is None else Outline.of(each, [lesion_id], [region])
            for each, region in zip(maps, found, strict=True)
        ]
        volumes_mm3 = [
            0.0 if region is None else region.voxels * each.grid.voxel_volume_ml * 1000
            for each, region in zip(maps, found, strict=True)
        ]
        fate: Fate = "new" if not parts[0] else "gone" if not parts[1] else "persists"
        facts[lesion_id] = SyntheticFact(
            fate=fate,
            real=False,
            diameter_mm=float((6 * (volumes_mm3[1] or volumes_mm3[0]) / np.pi) ** (1 / 3)),
            true_id=None if fate == "gone" else lesion_id,
            lesion_type=before.lesion_type,
        )
        own = (
            triple(xyz_mm[lesion_id - 1]) if outline is None else centre_xyz_mm(outline)
            for outline, xyz_mm in zip(outlines, points, strict=True)
        )
        baseline, followup = (Click(scan_name="primary", point_xyz_mm=point) for point in own)
        clicks.append(ClickPair(lesion_id=lesion_id, baseline=baseline, followup=followup))
    return facts, tuple(clicks)
