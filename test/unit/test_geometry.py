import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from longilesion.geometry import Grid

OBLIQUE = Rotation.from_euler("xyz", (12.0, -7.0, 30.0), degrees=True).as_matrix()


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1.0, -1.0, 1.0]), OBLIQUE, OBLIQUE[:, [2, 0, 1]]])
def test_world_positions_are_those_of_itk(direction):
    image = sitk.Image(5, 6, 7, sitk.sitkInt16)
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-120.0, 45.0, -1422.0))
    image.SetDirection(direction.ravel().tolist())
    grid = Grid.from_spacing(
        (7, 6, 5), (3.0, 0.8, 0.7), origin_xyz_mm=(-120.0, 45.0, -1422.0), direction=image.GetDirection()
    )
    expected = image.TransformContinuousIndexToPhysicalPoint((4.3, 10.9, -2.0))
    assert grid.world_xyz_mm((-2.0, 10.9, 4.3)) == pytest.approx(expected)
    assert grid.index_zyx(expected) == pytest.approx((-2.0, 10.9, 4.3))


def test_supine_scan_of_the_usual_kind_is_its_own_lps_view():
    array = np.zeros((3, 4, 5), np.int16)
    view, lps = Grid.from_spacing((3, 4, 5), (3.0, 0.8, 0.8)).lps_view(array)
    assert view.shape == array.shape
    assert view.strides == array.strides
    assert lps.spacing_zyx_mm == pytest.approx((3.0, 0.8, 0.8))


def test_scan_read_from_an_ras_file_is_flipped_to_lps():
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    grid = Grid.from_spacing((3, 4, 5), (3.0, 1.0, 1.0), direction=np.diag([-1.0, -1.0, 1.0]))
    view, lps = grid.lps_view(array)
    np.testing.assert_array_equal(view, array[:, ::-1, ::-1])
    assert lps.world_xyz_mm((0, 0, 0)) == pytest.approx((-4.0, -3.0, 0.0))


def test_sagittal_slices_are_turned_to_axial_ones():
    # Voxel x runs to the back, y upwards, z to the left.
    direction = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    grid = Grid.from_spacing((3, 4, 5), (3.0, 1.0, 2.0), direction=direction)
    view, lps = grid.lps_view(np.zeros((3, 4, 5), np.int16))
    assert view.shape == (4, 5, 3)
    assert lps.spacing_zyx_mm == pytest.approx((1.0, 2.0, 3.0))


def test_gantry_tilt_of_45_degrees_still_uses_each_axis_once():
    direction = Rotation.from_euler("x", 45.0, degrees=True).as_matrix()
    view, lps = Grid.from_spacing((3, 4, 5), (2.0, 1.0, 1.0), direction=direction).lps_view(np.zeros((3, 4, 5)))
    assert sorted(view.shape) == [3, 4, 5]
    assert np.linalg.matrix_rank(lps.world_from_voxel) == 4


def test_grids_of_other_size_do_not_match():
    assert not Grid.from_spacing((3, 4, 5), (1, 1, 1)).matches(Grid.from_spacing((3, 4, 6), (1, 1, 1)))


def test_rotation_is_a_mismatch_even_where_the_origin_is_the_same():
    straight = Grid.from_spacing((10, 100, 100), (3.0, 1.0, 1.0))
    turn = Rotation.from_euler("z", 0.1, degrees=True).as_matrix()
    turned = Grid.from_spacing((10, 100, 100), (3.0, 1.0, 1.0), direction=turn)
    assert not straight.matches(turned, tolerance_mm=0.1)
    assert straight.matches(turned, tolerance_mm=0.3)


def test_click_half_a_voxel_beyond_the_last_centre_is_in_the_scan():
    grid = Grid.from_spacing((10, 10, 10), (1.0, 1.0, 1.0))
    assert grid.contains((9.5, -0.5, 0.0))
    assert not grid.contains((9.6, 0.0, 0.0))
    assert grid.clamped((10.9, -3.0, 4.2)) == (9.0, 0.0, 4.2)
