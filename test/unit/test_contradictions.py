"""Baseline clicks that contradict the outlines of their lesions, in every way that people get them wrong."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from longilesion.alignment import place_vois
from longilesion.case import Baseline, Case, ClickPair, LesionMap, Scan
from longilesion.click_files import ClickFile, read_click_pairs
from longilesion.geometry import Grid
from longilesion.prompts import complete_prompts
from test.unit.builders import click, model_settings, prompt, scan_with

GRID = Grid.from_spacing((60, 90, 80), (3.0, 2.0, 2.0), origin_xyz_mm=(-80.0, -95.0, 700.0))
# x, y, z voxels of the middles, of which no two coordinates of a lesion are alike.
MIDDLES = {3: (20, 70, 12), 8: (60, 25, 30), 11: (35, 40, 50), 12: (62, 66, 8), 40: (15, 22, 45)}


def outlined(middles: dict[int, tuple[float, float, float]] = MIDDLES, *, radius_mm: float = 7.0) -> Baseline:
    lesions = {number: (GRID.world_xyz_mm(middle[::-1]), radius_mm) for number, middle in middles.items()}
    return Baseline.of(*scan_with(lesions, GRID))


def read(tmp_path: Path, points: dict[int, tuple[float, ...]], prior: Baseline) -> tuple[ClickPair, ...]:
    path = tmp_path / "clicks.json"
    path.write_text(json.dumps({"points": [{"name": str(n), "point": list(point)} for n, point in points.items()]}))
    file = ClickFile(path=path, scan_name="primary", grid=prior.scan.grid, prior=prior)
    return read_click_pairs(baseline=[file], followup=[])


def case_with(clicks: tuple[ClickPair, ...], prior: Baseline) -> Case:
    with_followup = tuple(
        ClickPair(lesion_id=pair.lesion_id, baseline=pair.baseline, followup=click((0.0, 0.0, 800.0)))
        for pair in clicks
    )
    return Case(baselines={"primary": prior}, followups={"primary": prior.scan}, clicks=with_followup)


def rotated(step: int) -> dict[int, tuple[float, ...]]:
    ids = list(MIDDLES)
    return dict(zip(ids[step:] + ids[:step], MIDDLES.values(), strict=True))


def in_world(*, flip: bool) -> dict[int, tuple[float, ...]]:
    points = {number: np.array(GRID.world_xyz_mm(middle[::-1])) for number, middle in MIDDLES.items()}
    return {number: tuple(point * (-1, -1, 1) if flip else point) for number, point in points.items()}


@pytest.mark.parametrize(
    ("points", "guess"),
    [
        pytest.param(rotated(1), "rotated", id="names rotated by one"),
        pytest.param(rotated(3), "mixed up", id="names rotated by three"),
        pytest.param({n: middle[::-1] for n, middle in MIDDLES.items()}, "z, y, x order", id="z y x"),
        pytest.param(in_world(flip=False), "millimetres (LPS)", id="LPS"),
        pytest.param(in_world(flip=True), "millimetres (RAS)", id="RAS"),
    ],
)
def test_clicks_beside_their_outlines_are_one_warning_with_the_reason_and_the_outlines_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, points: dict[int, tuple[float, ...]], guess: str
) -> None:
    prior = outlined()
    with caplog.at_level(logging.WARNING):
        clicks = read(tmp_path, points, prior)
    (record,) = caplog.records
    assert "clicks.json" in record.getMessage()
    assert guess in record.getMessage()
    assert "5 of 5" in record.getMessage()
    for found in complete_prompts(case_with(clicks, prior)).lesions:
        assert found.baseline_corrected
        assert found.baseline is not None
        assert not found.baseline.clamped
        centre = GRID.world_xyz_mm(prior.regions[found.lesion_id].centre_zyx)
        assert found.baseline.point_xyz_mm == pytest.approx(centre)


@pytest.mark.parametrize("off_mm", [0.0, 3.0, 6.0])
def test_clicks_on_their_lesions_stay_and_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, off_mm: float
) -> None:
    prior = outlined()
    points = {number: (x + off_mm / 2.0, y, z) for number, (x, y, z) in MIDDLES.items()}
    with caplog.at_level(logging.WARNING):
        clicks = read(tmp_path, points, prior)
    assert caplog.records == []
    for found in complete_prompts(case_with(clicks, prior)).lesions:
        assert not found.baseline_corrected
        assert found.baseline is not None
        assert GRID.index_zyx(found.baseline.point_xyz_mm)[::-1] == pytest.approx(points[found.lesion_id])


def test_click_a_little_beside_its_outline_is_not_worth_a_warning_but_moves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prior = outlined()
    x, y, z = MIDDLES[8]
    with caplog.at_level(logging.WARNING):
        clicks = read(tmp_path, {8: (x + 7.5, y, z)}, prior)
    assert caplog.records == []
    found = next(each for each in complete_prompts(case_with(clicks, prior)).lesions if each.lesion_id == 8)
    assert found.baseline_corrected


def test_one_wrong_click_among_right_ones_is_said_without_a_guess(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prior = outlined()
    with caplog.at_level(logging.WARNING):
        read(tmp_path, {**MIDDLES, 11: (70.0, 80.0, 55.0)}, prior)
    (record,) = caplog.records
    assert "1 of 5" in record.getMessage()
    assert "lesion 11" in record.getMessage()
    assert "as if" not in record.getMessage()


def test_two_swapped_names_are_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(tmp_path, {**MIDDLES, 3: MIDDLES[40], 40: MIDDLES[3]}, outlined())
    (record,) = caplog.records
    assert "2 of 5" in record.getMessage()
    assert "mixed up" in record.getMessage()


def test_click_in_the_middle_of_a_ring_is_no_contradiction(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = outlined({3: (40, 45, 30)}, radius_mm=40.0)
    inner = outlined({3: (40, 45, 30)}, radius_mm=25.0)
    assert whole.lesions is not None
    assert inner.lesions is not None
    ring = LesionMap(ids=np.where(inner.lesions.ids > 0, 0, whole.lesions.ids).astype(np.uint16), grid=GRID)
    with caplog.at_level(logging.WARNING):
        read(tmp_path, {3: (40, 45, 30)}, Baseline.of(whole.scan, ring))
    assert caplog.records == []


def test_click_of_a_lesion_without_an_outline_counts_only_while_the_others_agree_with_theirs(tmp_path: Path) -> None:
    prior = outlined()
    new = {77: (70.0, 80.0, 55.0)}
    found = complete_prompts(case_with(read(tmp_path, {**MIDDLES, **new}, prior), prior)).lesions
    assert next(each for each in found if each.lesion_id == 77).baseline is not None
    found = complete_prompts(case_with(read(tmp_path, {**rotated(2), **new}, prior), prior)).lesions
    assert next(each for each in found if each.lesion_id == 77).baseline is None


def test_outline_in_the_secondary_baseline_has_the_word_over_a_click_in_the_primary_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    primary, secondary = outlined({3: MIDDLES[3]}), outlined({8: MIDDLES[8], 11: MIDDLES[11]})
    files = []
    for name, prior, points in (("primary", primary, {3: MIDDLES[3], 8: (5, 5, 5)}), ("secondary", secondary, {})):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"points": [{"name": str(n), "point": point} for n, point in points.items()]}))
        files.append(ClickFile(path=path, scan_name=name, grid=GRID, prior=prior))
    with caplog.at_level(logging.WARNING):
        clicks = read_click_pairs(baseline=files, followup=[])
    (record,) = caplog.records
    assert "primary.json" in record.getMessage()
    assert "lesion 8" in record.getMessage()
    case = case_with(clicks, primary)
    case = Case(baselines={"primary": primary, "secondary": secondary}, followups=case.followups, clicks=case.clicks)
    found = next(each for each in complete_prompts(case).lesions if each.lesion_id == 8)
    assert found.baseline is not None
    assert found.baseline.scan_name == "secondary"


def test_names_mixed_up_over_both_baseline_scans_are_one_warning_for_each_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    priors = {
        "primary": outlined({number: MIDDLES[number] for number in (3, 8, 11)}),
        "secondary": outlined({number: MIDDLES[number] for number in (12, 40)}),
    }
    names = {3: 8, 8: 12, 11: 40, 12: 3, 40: 11}
    files = []
    for name, prior in priors.items():
        points = {names[number]: MIDDLES[number] for number in prior.regions}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"points": [{"name": str(n), "point": point} for n, point in points.items()]}))
        files.append(ClickFile(path=path, scan_name=name, grid=GRID, prior=prior))
    with caplog.at_level(logging.WARNING):
        clicks = read_click_pairs(baseline=files, followup=[])
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    for message, name, count in zip(messages, priors, ("3 of 3", "2 of 2"), strict=True):
        assert f"{name}.json" in message
        assert count in message
        assert "mixed up" in message
    scans = {name: prior.scan for name, prior in priors.items()}
    with_followup = case_with(clicks, priors["primary"]).clicks
    for found in complete_prompts(Case(baselines=priors, followups=scans, clicks=with_followup)).lesions:
        assert found.baseline is not None
        assert found.lesion_id in priors[found.baseline.scan_name].regions


@pytest.mark.parametrize("beside_mm", [25.0, 60.0, 300.0])
def test_click_outside_the_outline_does_not_move_the_followup_lattice(beside_mm: float) -> None:
    prior = outlined({3: (40, 45, 30)})
    centre = GRID.world_xyz_mm(prior.regions[3].centre_zyx)
    case = Case(baselines={"primary": prior}, followups={"primary": prior.scan}, clicks=())
    beside = (centre[0] + beside_mm, centre[1], centre[2])
    right, wrong = (
        place_vois(case, prompt(3, centre, before), model_settings(spacing_zyx_mm=(3.0, 2.0, 2.0)))
        for before in (centre, beside)
    )
    assert wrong.followup_xyz_mm == pytest.approx(right.followup_xyz_mm)
    assert wrong.baseline_xyz_mm == pytest.approx(right.baseline_xyz_mm)


# ----------------------------------------------------------------------------------------- points outside a scan

SEEN = Grid.from_spacing((40, 200, 180), (4.0, 1.5, 1.5), origin_xyz_mm=(-135.0, -160.0, -400.0))


def followup_warning(tmp_path: Path, points: list[tuple[float, ...]], caplog: pytest.LogCaptureFixture) -> str:
    path = tmp_path / "after.json"
    path.write_text(json.dumps({"points": [{"name": str(n + 1), "point": list(p)} for n, p in enumerate(points)]}))
    with caplog.at_level(logging.WARNING):
        read_click_pairs(baseline=[], followup=[ClickFile(path=path, scan_name="primary", grid=SEEN)])
    (record,) = caplog.records
    return str(record.getMessage())


def test_followup_points_in_another_order_or_unit_are_one_warning_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = np.random.default_rng(2).uniform((100, 100, 5), (170, 190, 35), (6, 3))
    reversed_order = followup_warning(tmp_path, [tuple(point[::-1]) for point in points], caplog)
    assert "z, y, x order" in reversed_order
    assert "after.json" in reversed_order
    caplog.clear()
    world = [SEEN.world_xyz_mm(point[::-1]) for point in points]
    assert "LPS" in followup_warning(tmp_path, world, caplog)


def test_one_point_beyond_the_border_gets_no_guess(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = followup_warning(tmp_path, [(90, 90, 20), (30, 40, -1.5), (100, 120, 10)], caplog)
    assert "lesion 2 at 30, 40, -1.5" in said
    assert "as if" not in said


def test_scan_of_one_value_is_no_reason_to_stop() -> None:
    assert Baseline.of(Scan(hu=np.zeros(GRID.shape_zyx, np.int16), grid=GRID), None).lesions_near((0, 0, 0), 5.0) == {}
