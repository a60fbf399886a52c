import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from longilesion.case import Case, Click, LesionPrompt, OutsideLesion, Scan
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.pipeline import LesionOutcome, Segmentation
from longilesion.report import RunReport, make_report, write_report
from test.unit.case_folders import SHAPE_ZYX, files_under, soft_tissue


def flipped_case() -> Case:
    grid = Grid.from_spacing(SHAPE_ZYX, (2.5, 0.8, 0.7), origin_xyz_mm=(90, -40, 700), direction=np.diag([-1, -1, 1]))
    return Case(baselines={}, followups={"secondary": Scan(hu=soft_tissue(), grid=grid)}, clicks=())


def segmentation(case: Case, *, probability: float = 0.9) -> Segmentation:
    click = Click(scan_name="secondary", point_xyz_mm=case.followups["secondary"].grid.world_xyz_mm((1.5, 2.25, 3.125)))
    prompt = LesionPrompt(lesion_id=4, followup=click, baseline=None, propagated=True, confidence=0.4)
    outcome = LesionOutcome(
        prompt=prompt,
        place_xyz_mm=prompt.followup.point_xyz_mm,
        presence=0.1,
        probability=probability,
        volume_baseline_ml=None,
        volume_followup_ml=0.0,
        note="not recognised in the follow-up",
    )
    seconds = {"propagate": 0.1, "sample": 0.2, "network": 0.3, "label": 0.4}
    return Segmentation(maps={}, lesions=(outcome,), left_out=(9,), seconds=seconds)


def test_click_is_reported_as_voxel_index_of_its_scan() -> None:
    case = flipped_case()
    (lesion,) = make_report(case, segmentation(case), seconds={}).lesions
    assert lesion.scan == "secondary"
    assert lesion.click == (3.125, 2.25, 1.5)


def test_lesion_without_outline_says_why() -> None:
    case = flipped_case()
    seen = segmentation(case)
    kinds = {
        "gone": {},
        "not outlined": {"is_present": True},
        "merged": {"merged_into": 2},
        None: {"volume_followup_ml": 1.0},
    }
    outcomes = tuple(replace(seen.lesions[0], **changed) for changed in kinds.values())
    lesions = make_report(case, replace(seen, lesions=outcomes), seconds={}).lesions
    assert [lesion.absence for lesion in lesions] == list(kinds)
    assert all(lesion.note == "not recognised in the follow-up" for lesion in lesions)


def test_lesion_outside_the_field_of_view_has_no_place_and_no_presence() -> None:
    case = flipped_case()
    lesion = OutsideLesion(lesion_id=5, baseline=Click(scan_name="primary", point_xyz_mm=(1, 2, 3)), confidence=0.9)
    outcome = LesionOutcome(
        prompt=lesion,
        place_xyz_mm=None,
        presence=None,
        probability=0.0,
        volume_baseline_ml=2.5,
        volume_followup_ml=0.0,
        note="outside the follow-up's field of view",
    )
    seen = segmentation(case)
    (_, row) = make_report(case, replace(seen, lesions=(*seen.lesions, outcome)), seconds={}).lesions
    assert (row.id, row.scan, row.click, row.click_xyz_mm, row.presence) == (5, None, None, None, None)
    assert row.absence == "outside"
    assert (row.propagated, row.refined, row.confidence) == (True, False, 0.9)
    assert row.volume_baseline_ml == 2.5


def test_corrected_click_is_reported_as_refined() -> None:
    case = flipped_case()
    seen = segmentation(case)
    (outcome,) = seen.lesions
    corrected = replace(outcome, prompt=replace(outcome.prompt, propagated=False, refined=True, confidence=1.0))
    (row,) = make_report(case, replace(seen, lesions=(corrected,)), seconds={}).lesions
    assert (row.propagated, row.refined, row.confidence) == (False, True, 1.0)


def test_lesion_that_nothing_places_is_reported_as_left_out() -> None:
    case = flipped_case()
    assert make_report(case, segmentation(case), seconds={}).left_out == [9]


def test_seconds_of_all_stages_are_there() -> None:
    case = flipped_case()
    report = make_report(case, segmentation(case), seconds={"read": 1.0, "write": 2.0})
    assert report.seconds == {
        "read": 1.0, "write": 2.0, "propagate": 0.1, "sample": 0.2, "network": 0.3, "label": 0.4
    }  # fmt: skip


def test_report_on_disk_is_valid_json(tmp_path: Path) -> None:
    case = flipped_case()
    report = make_report(case, segmentation(case), seconds={})
    write_report(tmp_path / "new" / "report.json", report)
    content = json.loads((tmp_path / "new" / "report.json").read_text())
    assert content["lesions"][0]["id"] == 4
    assert RunReport.model_validate(content) == report
    assert files_under(tmp_path) == ["new/report.json"]


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    case = flipped_case()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="can be written to"):
        write_report(tmp_path / "file" / "report.json", make_report(case, segmentation(case), seconds={}))
