import json

import cc3d
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from longilesion.case import AIR_HU
from longilesion.geometry import Grid
from longilesion.grand_challenge import read_case
from longilesion.images import read_lesion_map
from test.phantom_folders import write_grand_challenge_case, write_truth
from test.phantoms import PlannedLesion, View, torso_case
from training.synthesis.painting import Pose, Waves, outline
from training.synthesis.phantom import torso
from training.synthesis.solids import Ellipsoid

SMALL_SEEN = {"heights_mm": (70.0, 190.0), "spacing_zyx_mm": (6.0, 5.0, 5.0)}
SMALL = View(**SMALL_SEEN)
LUNGS_ONLY = {"baselines": [SMALL], "followups": [SMALL]}
LUNG = (PlannedLesion(lesion_id=300, fate="persists", organ="right lung", radius_mm=12.0),)


def voxels_of(phantom, lesion_id):
    """Voxels of a lesion in the baseline, and in the truth under its own id."""
    region = phantom.case.baselines["primary"].regions.get(lesion_id)
    return 0 if region is None else region.voxels, int((phantom.truth["primary"].ids == lesion_id).sum())


def test_lesions_meet_their_fates(phantom):
    before, after = zip(*(voxels_of(phantom, lesion_id) for lesion_id in range(1, 9)), strict=True)
    ratio = np.divide(after, before, out=np.zeros(8), where=np.array(before) > 0)
    # The follow-up scan's voxels are about as large as the baseline's.
    assert 0.8 < ratio[0] < 1.3
    assert ratio[1] > 1.8
    assert ratio[2] < 0.5
    assert phantom.fates[4] == "gone"
    assert after[3] == 0
    assert phantom.fates[5] == "new"
    assert before[4] == 0
    assert after[4] > 0


def test_merged_lesions_are_one_piece_under_the_lower_id(phantom):
    assert voxels_of(phantom, 7)[1] == 0
    assert phantom.truth_ids[7] == phantom.truth_ids[6] == 6
    assert cc3d.connected_components(phantom.truth["primary"].ids == 6).max() == 1
    assert min(voxels_of(phantom, 6)[0], voxels_of(phantom, 7)[0]) > 0


def test_the_seed_decides_everything():
    one, two, other = (torso_case(seed, lesions=LUNG, baselines=[SMALL], followups=[SMALL]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.case.followups["primary"].hu, two.case.followups["primary"].hu)
    assert one.case.clicks == two.case.clicks
    assert (one.case.followups["primary"].hu != other.case.followups["primary"].hu).any()


def test_noise_differs_between_the_time_points():
    still = torso_case(1, lesions=(), baselines=[SMALL], followups=[SMALL], motion_mm=0.0, noise_hu=10.0).case
    difference = still.baselines["primary"].scan.hu.astype(float) - still.followups["primary"].hu
    body = still.baselines["primary"].scan.hu > -300
    assert np.std(difference[body]) == pytest.approx(10.0 * np.sqrt(2), rel=0.1)


def test_folder_reads_as_the_case_it_was_written_from(tmp_path):
    tilted = View(**SMALL_SEEN, direction=Rotation.from_euler("xz", (8, 5), degrees=True).as_matrix())
    phantom = torso_case(3, lesions=LUNG, baselines=[tilted], followups=[SMALL])
    write_grand_challenge_case(phantom, tmp_path / "input", manifest_key="interface")
    write_truth(phantom, tmp_path / "truth")
    case, files = read_case(tmp_path / "input")
    for was, read in (
        (phantom.case.baselines["primary"].scan, case.baselines["primary"].scan),
        (phantom.case.followups["primary"], case.followups["primary"]),
    ):
        np.testing.assert_array_equal(was.hu, read.hu)
        assert was.grid.matches(read.grid, tolerance_mm=1e-6)
    for was, read in zip(phantom.case.clicks, case.clicks, strict=True):
        assert read.lesion_id == was.lesion_id
        assert read.followup.point_xyz_mm == pytest.approx(was.followup.point_xyz_mm, abs=0.01)
    path = tmp_path / "truth" / "images" / "primary-followup-ct-tumor-lesion-seg" / "output.mha"
    truth = read_lesion_map(path, like=case.followups["primary"].grid)
    np.testing.assert_array_equal(truth.ids, phantom.truth["primary"].ids)
    assert json.loads((tmp_path / "truth" / "lesions.json").read_text())["300"]["truth_id"] == 300
    assert files["primary"].suffix == ".mha"


def test_lesion_without_room_is_refused():
    with pytest.raises(ValueError, match="no place in the liver"):
        torso_case(0, lesions=[PlannedLesion(lesion_id=1, fate="persists", organ="liver", radius_mm=9.0)], **LUNGS_ONLY)


def test_torso_fills_its_scan_with_body_lungs_and_bone():
    scan = torso(np.random.default_rng(0), grid=Grid.from_spacing((40, 64, 96), (8.0, 6.0, 4.0)))
    assert 0.25 < (scan.hu > -300).mean() < 0.7
    assert 0.03 < ((scan.hu > -950) & (scan.hu < -700)).mean() < 0.25
    assert (scan.hu > 300).any()
    assert scan.hu[0, 0, 0] < -950
    assert scan.hu.min() >= AIR_HU


def test_solid_is_outlined_where_the_pose_puts_it():
    ball = Ellipsoid(centre_xyz_mm=(10.0, -5.0, 20.0), radii_xyz_mm=(9.0, 9.0, 9.0), layers=((0.0, 0.0),))
    waves = Waves.random(np.random.default_rng(0), count=4, amplitude_mm=4.0, lengths_mm=(90.0, 250.0))
    pose = Pose(middle_xyz_mm=(100.0, 50.0, -900.0), waves=waves)
    direction = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix()
    grid = Grid.from_spacing((60, 80, 80), (1.5, 1.0, 1.0), origin_xyz_mm=(90.0, 0.0, -960.0), direction=direction)
    window, inside = outline(ball, grid, pose)
    mask = np.zeros(grid.shape_zyx, bool)
    mask[window] = inside
    centre = grid.world_xyz_mm(np.argwhere(mask).mean(axis=0))
    assert centre == pytest.approx(pose.world_xyz_mm(ball.centre_xyz_mm), abs=0.6)
    assert mask.sum() * grid.voxel_volume_ml == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=0.2)
