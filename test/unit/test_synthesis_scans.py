from dataclasses import replace

import numpy as np
import pytest
import torch

from longilesion.case import AIR_HU
from test.unit.synthetic import block
from training.synthesis.acquisition import Acquisition, acquired, enhanced, random_acquisition, random_acquisitions
from training.synthesis.deformation import Axes, Breathing, Growth, Motion, SmoothField, lattice, random_motion
from training.synthesis.rendering import Frame, TimePoint, rendered
from training.synthesis.settings import MotionSettings, ProtocolChanges

CPU = torch.device("cpu")
STEP_MM, HALF_MM = 4.0, 72.0
LINE = torch.arange(-HALF_MM, HALF_MM + 1, STEP_MM)
AXES: Axes = (LINE, LINE, LINE)
POINTS = lattice(AXES)
RELATIVE: Axes = tuple(torch.linspace(-1, 1, count) for count in block().hu.shape)


# ------------------------------------------------------------------------------------------------------ deformation


def motion(seed: int, *, rotation_deg: float = 0.0, amplitude_mm: float = 0.0, growth: Growth | None = None) -> Motion:
    return random_motion(
        np.random.default_rng(seed),
        MotionSettings(rotation_deg=rotation_deg, deformation_mm=(amplitude_mm, amplitude_mm)),
        centre_zyx_mm=np.zeros(3),
        half_zyx_mm=np.full(3, HALF_MM),
        lungs_mm=None,
        growths=() if growth is None else (growth.mapped,),
    )


def test_no_motion_leaves_every_point_in_place() -> None:
    torch.testing.assert_close(motion(0).mapped(AXES), POINTS)


def test_patient_turns_around_the_middle() -> None:
    quarter = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    turned = Motion(centre_zyx_mm=np.array([5.0, 10.0, 20.0]), half_zyx_mm=np.ones(3), rotation=quarter)
    point = turned.mapped((torch.tensor([5.0]), torch.tensor([13.0]), torch.tensor([20.0])))
    torch.testing.assert_close(point[0, 0, 0], torch.tensor([5.0, 10.0, 23.0]))


@pytest.mark.parametrize("factor", [None, 0.6, 1.4])
def test_deformation_never_folds_the_anatomy(factor: float | None) -> None:
    growth = None if factor is None else Growth(centre_zyx_mm=np.zeros(3), factor=factor, reach_mm=24.0)
    for seed in range(6):
        moved = motion(seed, rotation_deg=6.0, amplitude_mm=3.0, growth=growth).mapped(AXES).numpy()
        jacobian = np.stack(np.gradient(moved, STEP_MM, axis=(0, 1, 2)), axis=-1)
        assert np.linalg.det(jacobian).min() > 0.05


def test_deformation_moves_points_by_about_its_amplitude() -> None:
    moved = [motion(seed, amplitude_mm=2.0).mapped(AXES) - POINTS for seed in range(6)]
    z, y, x = torch.stack(moved).flatten(0, 3).std(0).tolist()
    assert x == pytest.approx(2.0, rel=0.3)
    assert y == pytest.approx(2.0, rel=0.3)
    assert z == pytest.approx(3.0, rel=0.3)


def test_grown_neighbourhood_shows_the_old_one_magnified() -> None:
    growth = Growth(centre_zyx_mm=np.zeros(3), factor=1.25, reach_mm=30.0)
    moved = motion(0, growth=growth).mapped(AXES)
    middle = len(LINE) // 2
    assert float(moved[middle, middle, middle + 1, 2]) == pytest.approx(4.0 / 1.25, rel=0.05)
    torch.testing.assert_close(moved[0, 0, 0], POINTS[0, 0, 0], atol=0.01, rtol=0)


def test_smooth_field_is_linear_between_its_controls() -> None:
    field = SmoothField(controls=torch.tensor([0.0, 10.0, 0.0]).expand(1, 2, 2, 3).contiguous())
    axis = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.8, 1.0])
    values = field.at((torch.zeros(1), torch.zeros(1), axis))[0, 0, 0]
    torch.testing.assert_close(values, torch.tensor([0.0, 0.0, 5.0, 10.0, 2.0, 0.0]))


def test_deep_breath_lowers_the_diaphragm_but_neither_the_apex_nor_the_pelvis() -> None:
    breath = Breathing(amplitude_mm=12.0, diaphragm_mm=300.0, height_mm=200.0)
    heights = torch.tensor([50.0, 100.0, 300.0, 400.0, 500.0, 600.0]).reshape(-1, 1, 1)
    expected = torch.tensor([0.0, 0.0, 12.0, 6.0, 0.0, 0.0]).reshape(-1, 1, 1)
    torch.testing.assert_close(breath.shift_mm(heights), expected, atol=1e-4, rtol=0)
    # Lung that is 6 % longer weighs 6 % less per volume.
    assert breath.lung_density == pytest.approx(1 / 1.06)


# -------------------------------------------------------------------------------------------------------- rendering


def time_point(*, slab_voxels: int, breathing: Breathing | None = None, repeats_ends: bool = False) -> TimePoint:
    source = block()
    frame = Frame(shape_zyx=(52, 60, 64), spacing_zyx_mm=(3.5, 3.0, 2.8), middle_zyx_mm=np.array([90.0, 91.0, 88.0]))
    moves = replace(
        motion(3, rotation_deg=6.0, amplitude_mm=2.0), centre_zyx_mm=frame.middle_zyx_mm, breathing=breathing
    )
    protocol = random_acquisition(np.random.default_rng(2), coarseness=1.0)
    return rendered(source, frame, moves, protocol, device=CPU, slab_voxels=slab_voxels, repeats_ends=repeats_ends)


def test_scan_is_the_same_whatever_the_size_of_its_slabs() -> None:
    whole, slabs = (time_point(slab_voxels=size).developed(slab_voxels=size) for size in (10**9, 20_000))
    # Sums of matrix products may round differently.
    assert np.abs(whole.hu.astype(int) - slabs.hu).max() <= 1
    assert (whole.hu != slabs.hu).mean() < 0.01


def test_empty_lungs_have_higher_hu() -> None:
    before, after = (
        time_point(slab_voxels=10**9, breathing=Breathing(amplitude_mm=depth, diaphragm_mm=-900.0, height_mm=100.0)).hu
        for depth in (0.0, -20.0)
    )
    lung = (before > -900) & (before < -800)
    # 80 % of the volume: (-850 + 1024) / 0.8 - 1024.
    assert float((after - before)[lung].median()) == pytest.approx(174 / 0.8 - 174, abs=4)
    torch.testing.assert_close(after[before > 0], before[before > 0])


def test_body_goes_on_beyond_the_ends_of_a_whole_volume() -> None:
    cut, repeated = (time_point(slab_voxels=10**9, repeats_ends=repeats).hu for repeats in (False, True))
    assert (cut[0] < -900).float().mean() > (repeated[0] < -900).float().mean() + 0.1


def test_place_is_found_in_the_moved_scan() -> None:
    view = time_point(slab_voxels=10**9).view
    for place in ([80.0, 95.0, 60.0], [120.0, 70.0, 130.0]):
        z, y, x = (int(index) for index in view.nearest_voxel(np.array(place)))
        shown = view.points((slice(z, z + 1), slice(y, y + 1), slice(x, x + 1)))[0, 0, 0].numpy()
        assert np.linalg.norm(shown - place) < 3.0


# ------------------------------------------------------------------------------------------------------ acquisition


PLAIN = Acquisition(
    spacing_zyx_mm=(2.0, 1.0, 1.0),
    enhancement_hu=0.0,
    regional_hu=None,
    noise_hu=0.0,
    noise_grain_voxels=0.5,
    noise_seed=0,
    sharpness=0.0,
    offset_hu=0.0,
)


def test_protocols_vary() -> None:
    generator = np.random.default_rng(0)
    drawn = [random_acquisition(generator, coarseness=1.0) for _ in range(200)]
    assert {protocol.spacing_zyx_mm[0] for protocol in drawn} >= {1.5, 2.0, 3.0, 5.0}
    assert 0.2 < np.mean([protocol.enhancement_hu == 0 for protocol in drawn]) < 0.6
    assert np.ptp([protocol.enhancement_hu for protocol in drawn]) > 100
    assert np.std([protocol.noise_hu for protocol in drawn]) > 4
    assert np.std([protocol.sharpness for protocol in drawn]) > 0.3
    assert np.std([protocol.spacing_zyx_mm[1] for protocol in drawn]) > 0.1


def test_what_does_not_change_between_two_scans_is_shared_but_never_the_noise() -> None:
    off = ProtocolChanges(contrast=False, dose=False, kernel=False, slices=False)
    before, after = random_acquisitions(np.random.default_rng(0), off, coarseness=1.0)
    assert before.noise_seed != after.noise_seed
    for name in ("spacing_zyx_mm", "enhancement_hu", "regional_hu", "noise_hu", "noise_grain_voxels", "sharpness"):
        assert getattr(before, name) is getattr(after, name)


def test_plain_protocol_changes_nothing() -> None:
    hu = torch.from_numpy(block().hu.astype(np.float32))
    torch.testing.assert_close(enhanced(hu, PLAIN, RELATIVE), hu)
    np.testing.assert_array_equal(acquired(hu, PLAIN), block().hu.clip(AIR_HU))


def test_contrast_brightens_blood_but_neither_air_nor_fat_nor_bone() -> None:
    hu = torch.tensor([-900.0, -100.0, 170.0, 900.0]).reshape(1, 1, 4)
    one = torch.zeros(1)
    result = enhanced(hu, replace(PLAIN, enhancement_hu=60.0), (one, one, torch.zeros(4)))
    torch.testing.assert_close(result - hu, torch.tensor([0.0, 0.0, 60.0, 0.0]).reshape(1, 1, 4))


@pytest.mark.parametrize("grain", [0.3, 0.6, 1.1])
def test_noise_has_the_protocols_strength_and_offset(grain: float) -> None:
    protocol = replace(PLAIN, noise_hu=20.0, noise_grain_voxels=grain, offset_hu=7.0)
    image = acquired(torch.full((20, 60, 60), 50.0), protocol)
    assert image.std() == pytest.approx(20.0, rel=0.05)
    assert image.mean() == pytest.approx(57.0, abs=1.5)


def test_coarse_grain_makes_neighbours_alike() -> None:
    def likeness(grain: float) -> float:
        image = acquired(torch.zeros(10, 80, 80), replace(PLAIN, noise_hu=50.0, noise_grain_voxels=grain)).astype(float)
        return float(np.corrcoef(image[..., 1:].ravel(), image[..., :-1].ravel())[0, 1])

    # A Gaussian of deviation s gives neighbours the correlation exp(-1 / (4 s^2)).
    assert likeness(1.1) == pytest.approx(np.exp(-1 / (4 * 1.1**2)), abs=0.06)
    assert likeness(0.3) < 0.15


@pytest.mark.parametrize(("sharpness", "steeper"), [(0.6, True), (-0.6, False)])
def test_kernel_sharpens_or_blurs_edges(sharpness: float, steeper: bool) -> None:
    edge = torch.zeros(3, 8, 8)
    edge[:, :, 4:] = 100
    step = np.diff(acquired(edge, replace(PLAIN, sharpness=sharpness))[1, 4])[3]
    assert step > 100 if steeper else step < 100
