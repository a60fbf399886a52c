"""Reading exams and predictions from their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from longilesion.case import SCAN_NAMES, LesionMap, lesion_regions
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.evaluation.exam import BaselineLesion, Exam, FollowupClick, Prediction
from longilesion.evaluation.folders import ExamFiles, PredictionFiles
from longilesion.evaluation.lesion_table import completed_facts, read_lesion_table
from longilesion.evaluation.measures import Outline, axial_diameters
from longilesion.images import read_lesion_map
from longilesion.json_file import read_json
from longilesion.report import RunReport


def read_exam(files: ExamFiles) -> tuple[Exam, list[str]]:
    """Reads an exam's ground truth; also returns warnings about contradictions in it."""
    truth = {scan: read_lesion_map(path) for scan, path in files.truth.items()}
    baseline = _read_baseline(files.baselines) if files.baselines else None
    clicks = _read_clicks(files.clicks, truth)
    facts, warnings = completed_facts(
        {} if files.table is None else read_lesion_table(files.table),
        source=str(files.table),
        true_ids={lesion_id for lesions in truth.values() for lesion_id in lesion_regions(lesions.ids)},
        baseline_ids=None if baseline is None else baseline.keys(),
        clicked_ids=clicks.keys(),
    )
    return Exam(name=files.name, truth=truth, facts=facts, baseline=baseline, clicks=clicks), warnings


def read_prediction(files: PredictionFiles, exam: Exam) -> Prediction:
    """Reads predicted maps, which must have the grids of the true ones, and the run reports beside them."""
    lesions = [lesion for path in files.reports for lesion in _read_report(path).lesions]
    return Prediction(
        maps={
            scan: read_lesion_map(files.maps[scan], like=truth.grid, of="the truth")
            for scan, truth in exam.truth.items()
            if scan in files.maps
        },
        presence={lesion.id: lesion.presence for lesion in lesions if lesion.presence is not None},
        merged_into={lesion.id: lesion.merged_into for lesion in lesions if lesion.merged_into is not None},
    )


def measured_baseline(lesions: LesionMap) -> dict[int, BaselineLesion]:
    """Measures the lesions of a baseline map."""
    regions = lesion_regions(lesions.ids)
    diameters = {each: axial_diameters(Outline.of(lesions, [each], [region])) for each, region in regions.items()}
    return {
        lesion_id: BaselineLesion(
            volume_ml=region.voxels * lesions.grid.voxel_volume_ml,
            diameter_mm=diameters[lesion_id].longest_mm,
            short_mm=diameters[lesion_id].perpendicular_mm,
        )
        for lesion_id, region in regions.items()
    }


def _read_baseline(paths: Sequence[Path]) -> dict[int, BaselineLesion]:
    """Measures the lesions of baseline maps; one that is in several is measured where it is largest."""
    found: dict[int, BaselineLesion] = {}
    for path in paths:
        for lesion_id, lesion in measured_baseline(read_lesion_map(path)).items():
            if lesion_id not in found or found[lesion_id].volume_ml < lesion.volume_ml:
                found[lesion_id] = lesion
    return found


def _read_clicks(paths: Mapping[str, Path], truth: Mapping[str, LesionMap]) -> dict[int, FollowupClick]:
    """The follow-up's clicks by lesion id."""
    known = {scan: path for scan, path in paths.items() if scan in truth}
    # Points without names are numbered over the lists of both scans of a case; the challenge's data have names.
    lists = [known] if known.keys() <= set(SCAN_NAMES) else [{scan: path} for scan, path in known.items()]
    clicks: dict[int, FollowupClick] = {}
    for together in lists:
        scan_of = dict(zip(SCAN_NAMES, together, strict=False))
        files = [
            ClickFile(path=together[scan], scan_name=name, grid=truth[scan].grid) for name, scan in scan_of.items()
        ]
        for pair in read_click_pairs(baseline=[], followup=files):
            if pair.followup is not None:
                scan = scan_of[pair.followup.scan_name]
                clicks.setdefault(pair.lesion_id, FollowupClick(scan=scan, point_xyz_mm=pair.followup.point_xyz_mm))
    return clicks


def _read_report(path: Path) -> RunReport:
    return read_json(path, RunReport, expected="a run report of this version, as process.py --report writes it")
