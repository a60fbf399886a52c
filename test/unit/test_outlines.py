"""Masks with stray parts, masks of one value, and an id for each component."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from longilesion.case import Baseline, ClickPair, LesionMap, Scan
from longilesion.components import connected_components, distances_mm, lesion_voxels
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.outlines import match_clicks, read_baseline
from test.unit.builders import ball, click
from test.unit.case_folders import write_image

GRID = Grid.from_spacing((40, 60, 70), (3.0, 1.5, 1.5))
SCAN = Scan(hu=np.full(GRID.shape_zyx, 40, np.int16), grid=GRID)
# Middles (x, y, z in mm) and radii, the largest last.
BALLS = {1: ((20.0, 20.0, 20.0), 6.0), 2: ((80.0, 60.0, 60.0), 8.0), 3: ((30.0, 70.0, 90.0), 10.0)}


def balls(lesions: Mapping[int, tuple[tuple[float, float, float], float]] = BALLS) -> NDArray[np.uint16]:
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    for number, (middle, radius) in lesions.items():
        ids[ball(GRID, middle, radius)] = number
    return ids


def baseline_of(ids: NDArray[np.uint16]) -> Baseline:
    return Baseline.of(SCAN, LesionMap(ids=ids, grid=GRID))


def read(path: Path, ids: NDArray[np.uint16], *, split_components: bool = False) -> Baseline:
    write_image(path, ids, spacing_xyz_mm=GRID.spacing_zyx_mm[::-1])
    return read_baseline(SCAN, path, split_components=split_components)


@pytest.mark.parametrize("seed", range(5))
def test_stray_voxels_far_from_a_lesion_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    clean = baseline_of(balls())
    ids = balls()
    while True:
        z, y, x = (int(generator.integers(size)) for size in GRID.shape_zyx)
        point = GRID.world_xyz_mm((z, y, x))
        if all(np.linalg.norm(np.subtract(point, middle)) > radius + 15 for middle, radius in BALLS.values()):
            break
    ids[z, y, x] = 2
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path / "lesions.nii.gz", ids)
    region, expected = found.regions[2], clean.regions[2]
    assert (region.start_zyx, region.stop_zyx, region.voxels) == (
        expected.start_zyx,
        expected.stop_zyx,
        expected.voxels,
    )
    assert found.lesions is not None
    np.testing.assert_array_equal(found.lesions.ids, balls())
    (record,) = caplog.records
    inside = np.argwhere(balls() == 2) * GRID.spacing_zyx_mm
    away = np.linalg.norm(inside - np.multiply((z, y, x), GRID.spacing_zyx_mm), axis=1).min()
    for text in ("lesions.nii.gz", "lesion 2", "1 voxel", f"{away:.0f} mm away"):
        assert text in record.getMessage()


def test_part_near_a_lesion_counts_for_its_volume_and_not_for_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ids = balls()
    clean = baseline_of(ids).regions[3]
    # 7.5 mm to the right of the ball.
    ids[30, 46:48, 31:33] = 3
    with caplog.at_level(logging.WARNING):
        region = read(tmp_path / "lesions.nii.gz", ids).regions[3]
    assert (region.start_zyx, region.stop_zyx) == (clean.start_zyx, clean.stop_zyx)
    assert region.voxels == clean.voxels + 4
    assert region.stray == ()
    assert caplog.records == []


def test_lesion_that_hangs_together_by_a_corner_is_one() -> None:
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    ids[10:14, 10:14, 10:14] = ids[14:16, 14:16, 14:16] = 5
    region = baseline_of(ids).regions[5]
    assert (region.start_zyx, region.stop_zyx, region.voxels) == ((10, 10, 10), (16, 16, 16), 72)


@pytest.mark.parametrize("corner", [(0, 0, 0), (4, 0, 7)])
def test_distances_to_a_lesion_at_the_scans_first_voxels_where_tiny_numbers_count_as_zero(
    corner: tuple[int, int, int],
) -> None:
    # As the commands of training have it.
    main = np.indices((2, 40, 40)).reshape(3, -1) + np.array(corner)[:, None]
    parts = [np.array([[9], [9], [9]]), np.array([[3, 12], [60, 3], [60, 3]])]
    expected = [cdist(part.T * (3.0, 1.0, 1.5), main.T * (3.0, 1.0, 1.5)).min() for part in parts]
    torch.set_flush_denormal(True)
    try:
        assert distances_mm(parts, main, (3.0, 1.0, 1.5)) == pytest.approx(expected)
    finally:
        torch.set_flush_denormal(False)


def test_map_without_stray_parts_is_left_as_it_is() -> None:
    lesions = LesionMap(ids=balls(), grid=GRID)
    assert Baseline.of(SCAN, lesions).lesions is lesions


def test_components_are_those_of_the_whole_volume_whatever_their_shape() -> None:
    import cc3d

    generator = np.random.default_rng(3)
    for share in (0.02, 0.1, 0.3):
        mask = generator.random((9, 12, 15)) < share
        labels, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
        components = connected_components(np.stack(np.nonzero(mask)))
        expected = {frozenset(map(tuple, np.argwhere(labels == label).tolist())) for label in range(1, count + 1)}
        assert {frozenset(map(tuple, part.T.tolist())) for part in components} == expected
        sizes = [part.shape[1] for part in components]
        assert sizes == sorted(sizes, reverse=True)


def test_lesion_voxels_are_found_by_id() -> None:
    ids = balls()
    for number, voxels in lesion_voxels(ids).items():
        np.testing.assert_array_equal(voxels.T, np.argwhere(ids == number))
    assert lesion_voxels(np.zeros(GRID.shape_zyx, np.uint16)) == {}


def test_mask_of_one_value_is_said_with_the_way_to_split_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path / "mask.nii.gz", np.minimum(balls(), 1))
    (record,) = caplog.records
    assert "one id, 3 separate components" in record.getMessage()
    assert "--split-components" in record.getMessage()
    assert found.regions[1].centre_zyx == pytest.approx(baseline_of(balls()).regions[3].centre_zyx)


@pytest.mark.parametrize("value", [1, 300])
def test_split_components_have_ids_from_the_largest_to_the_smallest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: int
) -> None:
    ids = balls()
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path / "mask.nii.gz", np.where(ids > 0, value, 0).astype(np.uint16), split_components=True)
    assert caplog.records == []
    assert found.lesions is not None
    np.testing.assert_array_equal(found.lesions.ids, np.array([0, 3, 2, 1], np.uint16)[ids])
    assert set(found.regions) == {1, 2, 3}


def test_touching_lesions_of_different_ids_are_split_apart(tmp_path: Path) -> None:
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    ids[5:10, 5:10, 5:10], ids[10:13, 5:10, 5:10] = 8, 2
    assert {n: region.voxels for n, region in read(tmp_path / "m.mha", ids, split_components=True).regions.items()} == {
        1: 125,
        2: 75,
    }


def test_more_components_than_ids_are_refused(tmp_path: Path) -> None:
    shape = (82, 82, 82)
    grid = Grid.from_spacing(shape, (1.0, 1.0, 1.0))
    ids = np.zeros(shape, np.uint16)
    ids[::2, ::2, ::2] = 1
    # A lesion along three edges leaves no empty plane: the others are found in one box, which is quick.
    ids[:, 0, 0] = ids[0, :, 0] = ids[0, 0, :] = 1
    write_image(tmp_path / "mask.mha", ids, spacing_xyz_mm=(1, 1, 1))
    scan = Scan(hu=np.zeros(shape, np.int16), grid=grid)
    with pytest.raises(InputError, match=r"mask\.mha: 68801 components; expected at most 65535"):
        read_baseline(scan, tmp_path / "mask.mha", split_components=True)


def pair(lesion_id: int, baseline: tuple[float, float, float] | None) -> ClickPair:
    followup = click((float(lesion_id), 0.0, 0.0))
    return ClickPair(lesion_id=lesion_id, baseline=None if baseline is None else click(baseline), followup=followup)


def test_clicks_take_the_ids_of_the_components_they_lie_in_and_new_ones_the_next() -> None:
    middle = {number: BALLS[number][0] for number in BALLS}
    clicks = (pair(2, middle[3]), pair(3, middle[1]), pair(7, middle[2]), pair(1, (5.0, 80.0, 5.0)), pair(9, None))
    matched = match_clicks(clicks, baseline_of(balls()))
    # The follow-up click tells which pair it was.
    assert {each.lesion_id: each.followup and each.followup.point_xyz_mm[0] for each in matched} == {
        3: 2.0,
        1: 3.0,
        2: 7.0,
        4: 1.0,
        9: 9.0,
    }


def test_followup_clicks_alone_keep_their_ids() -> None:
    clicks = (pair(1, None), pair(3, None))
    assert match_clicks(clicks, baseline_of(balls())) == clicks


def test_two_clicks_in_one_component_are_refused() -> None:
    x, y, z = BALLS[2][0]
    with pytest.raises(InputError, match="lesions 4 and 6: clicked in or near one component"):
        match_clicks((pair(4, (x, y, z)), pair(6, (x + 2, y, z))), baseline_of(balls()))
