"""Cut-outs: what is sampled from them is what would be sampled from the whole scans."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from longilesion.case import Baseline, Case, Click, ClickPair, LesionMap, Scan
from longilesion.errors import InputError
from longilesion.evaluation.exam import LesionFact
from longilesion.geometry import Grid
from test.unit.builders import ball, dual_encoder, model_settings
from training.cutout import CutOut, DamagedCutOutError, cut, placed_lesions, read_cut_out, write_cut_out
from training.recipe import JitterSettings
from training.samples import is_seen, sample_lesion

MODEL = model_settings(shape_zyx=(16, 24, 24), spacing_zyx_mm=(3.0, 2.0, 2.0), network=dual_encoder())
JITTER = JitterSettings(
    shift_mm=3.0, unaligned_share=0.5, zoom_factor=1.3, click_voxels=2.0, shift_voxels=2.0, centre_share=0.3
)
TILTED = Rotation.from_euler("xz", (8.0, 5.0), degrees=True).as_matrix()


def scans(direction: np.ndarray, click_xyz_mm: tuple[float, float, float]) -> tuple[Case, dict]:
    """Two noisy blocks in file orders of their own, with lesion 300 that persists and lesion 2 that is gone."""
    generator = np.random.default_rng(5)
    grids = [
        Grid.from_spacing((60, 96, 90), (2.5, 1.4, 1.5), origin_xyz_mm=(40.0, -7.0, 900.0), direction=direction),
        Grid.from_spacing((40, 80, 110), (4.0, 1.7, 1.3), origin_xyz_mm=(-300.0, 12.0, 3.0)),
    ]
    centres = [np.array(grid.centre_xyz_mm) for grid in grids]
    ids = [np.zeros(grid.shape_zyx, np.uint16) for grid in grids]
    for number, (grid, centre) in enumerate(zip(grids, centres, strict=True)):
        ids[number][ball(grid, tuple((centre + np.array([6.0, 0.0, 0.0])).tolist()), 11.0)] = 300
    ids[0][ball(grids[0], tuple((centres[0] - np.array([22.0, 0.0, 0.0])).tolist()), 7.0)] = 2
    prior, now = (
        Scan(hu=(generator.normal(40, 20, grid.shape_zyx) + 70 * (marked > 0)).astype(np.int16), grid=grid)
        for marked, grid in zip(ids, grids, strict=True)
    )
    clicks = tuple(
        ClickPair(
            lesion_id=lesion_id,
            baseline=Click(scan_name="primary", point_xyz_mm=tuple((centres[0] + offset).tolist())),
            followup=Click(scan_name="primary", point_xyz_mm=tuple((centres[1] + offset + click_xyz_mm).tolist())),
        )
        for lesion_id, offset in ((300, np.array([6.0, 0.0, 0.0])), (2, np.array([-22.0, 0.0, 0.0])))
    )
    case = Case(
        baselines={"primary": Baseline.of(prior, LesionMap(ids=ids[0], grid=grids[0]))},
        followups={"primary": now},
        clicks=clicks,
    )
    return case, {"primary": LesionMap(ids=ids[1], grid=grids[1])}


def lesions(direction: np.ndarray, click_xyz_mm: tuple[float, float, float] = (5.0, -4.0, 6.0)) -> list[CutOut]:
    case, truth = scans(direction, click_xyz_mm)
    facts = {300: LesionFact(fate="persists", true_id=300), 2: LesionFact(fate="gone", true_id=None)}
    return list(placed_lesions(case, truth, facts, MODEL))


ORIENTATIONS = {"as is": np.eye(3), "flipped": np.diag([-1.0, 1.0, -1.0]), "tilted": TILTED}


@pytest.mark.parametrize("direction", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_sample_of_a_cut_out_is_that_of_the_whole_scans(direction: np.ndarray) -> None:
    compared = 0
    for whole in lesions(direction):
        part = cut(whole, MODEL, (JITTER,))
        assert part.case.followups["primary"].hu.size < whole.case.followups["primary"].hu.size
        for seed in range(6):
            one, two = (sample_lesion(lesion, MODEL, JITTER, np.random.default_rng(seed)) for lesion in (whole, part))
            assert (one is None) == (two is None)
            if one is None or two is None:
                continue
            np.testing.assert_array_equal(two.pair.followup.hu, one.pair.followup.hu)
            np.testing.assert_array_equal(two.pair.baseline.hu, one.pair.baseline.hu)
            np.testing.assert_allclose(two.pair.baseline_mask, one.pair.baseline_mask, atol=1e-6)
            np.testing.assert_allclose(two.pair.baseline_others, one.pair.baseline_others, atol=1e-6)
            np.testing.assert_array_equal(two.target, one.target)
            np.testing.assert_allclose(two.pair.followup.click_zyx, one.pair.followup.click_zyx, atol=1e-6)
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("direction", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_cut_out_read_back_is_the_one_that_was_written(direction: np.ndarray, tmp_path: Path) -> None:
    for number, whole in enumerate(lesions(direction)):
        part = cut(whole, MODEL, (JITTER,))
        write_cut_out(tmp_path / f"{number}.npz", part)
        back = read_cut_out(tmp_path / f"{number}.npz")
        assert back.prompt == part.prompt
        assert asdict(back.placement) == asdict(part.placement)
        assert (back.true_id, back.fate) == (part.true_id, part.fate)
        for scan in ("followups", "baselines"):
            one, two = (getattr(lesion.case, scan)["primary"] for lesion in (part, back))
            one, two = (each.scan if isinstance(each, Baseline) else each for each in (one, two))
            np.testing.assert_array_equal(one.hu, two.hu)
            np.testing.assert_array_equal(one.grid.world_from_voxel, two.grid.world_from_voxel)
        np.testing.assert_array_equal(back.truth.ids, part.truth.ids)
        np.testing.assert_array_equal(
            back.case.baselines["primary"].lesions.ids, part.case.baselines["primary"].lesions.ids
        )


def test_lesion_at_the_scans_corner_is_cut_out_up_to_the_corner() -> None:
    case, truth = scans(np.eye(3), (0.0, 0.0, 0.0))
    corner = case.followups["primary"].grid.world_xyz_mm((0, 0, 0))
    pair = replace(case.clicks[0], baseline=None, followup=Click(scan_name="primary", point_xyz_mm=corner))
    case = Case(baselines={}, followups=case.followups, clicks=(pair,))
    (whole,) = placed_lesions(case, truth, {300: LesionFact(fate="gone", true_id=None)}, MODEL)
    part = cut(whole, MODEL, (JITTER,))
    one, two = (sample_lesion(lesion, MODEL, JITTER, np.random.default_rng(0)) for lesion in (whole, part))
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(two.pair.followup.hu, one.pair.followup.hu)


def test_click_far_outside_its_scan_still_gives_a_cut_out() -> None:
    (whole,) = [lesion for lesion in lesions(np.eye(3), (2000.0, 0.0, 0.0)) if lesion.true_id is not None]
    part = cut(whole, MODEL, (JITTER,))
    assert min(part.case.followups["primary"].hu.shape) >= 1
    assert not is_seen(part, MODEL, JITTER)


def test_lesions_without_a_known_fate_are_not_learnt_from() -> None:
    case, truth = scans(np.eye(3), (0.0, 0.0, 0.0))
    facts = {300: LesionFact(fate=None, true_id=300)}
    assert list(placed_lesions(case, truth, facts, MODEL)) == []


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "another file", "missing"])
def test_damaged_file_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "3.npz"
    write_cut_out(path, cut(lesions(np.eye(3))[0], MODEL, (JITTER,)))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "one bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "another file":
        np.savez(path, something=np.zeros(3))
    else:
        path.unlink()
    with pytest.raises(DamagedCutOutError) as caught:
        read_cut_out(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_left_where_a_cut_out_cannot_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    with pytest.raises(InputError):
        write_cut_out(blocked / "3.npz", cut(lesions(np.eye(3))[0], MODEL, (JITTER,)))
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]
