import numpy as np
import pytest

from longilesion.case import Baseline, LesionMap, Scan
from longilesion.geometry import Grid

GRID = Grid.from_spacing((6, 8, 10), (3.0, 1.0, 1.0))


def baseline_of(lesions):
    ids = np.zeros(GRID.shape_zyx, np.uint16)
    for lesion_id, window in lesions.items():
        ids[window] = lesion_id
    scan = Scan(hu=np.zeros(GRID.shape_zyx, np.int16), grid=GRID)
    return Baseline.of(scan, LesionMap(ids=ids, grid=GRID))


def test_region_is_the_box_of_a_lesion():
    region = baseline_of({5: np.s_[1:3, 2:7, 4:5]}).regions[5]
    assert region.start_zyx == (1, 2, 4)
    assert region.stop_zyx == (3, 7, 5)
    assert region.voxels == 10
    assert region.centre_zyx == (1.5, 4.0, 4.0)


def test_ids_need_neither_be_small_nor_consecutive():
    regions = baseline_of({3: np.s_[0:1, 0:1, 0:1], 300: np.s_[2:4, 2:4, 2:4], 65535: np.s_[5:, 7:, 9:]}).regions
    assert {lesion_id: region.voxels for lesion_id, region in regions.items()} == {3: 1, 300: 8, 65535: 1}


def test_lesion_of_two_parts_has_the_region_of_the_larger():
    baseline = baseline_of({1: np.s_[3:5, 2:6, 2:6]})
    baseline.lesions.ids[0, 0, 9] = 1
    region = Baseline.of(baseline.scan, baseline.lesions).regions[1]
    assert (region.start_zyx, region.stop_zyx, region.centre_zyx) == ((3, 2, 2), (5, 6, 6), (3.5, 3.5, 3.5))


def test_empty_map_and_missing_map_have_no_regions():
    assert baseline_of({}).regions == {}
    assert Baseline.of(Scan(hu=np.zeros(GRID.shape_zyx, np.int16), grid=GRID), None).regions == {}


def test_nouns_cannot_be_changed():
    with pytest.raises(AttributeError):
        baseline_of({}).scan.grid = None
