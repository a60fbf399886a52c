from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from longilesion.alignment import place_vois
from longilesion.case import AIR_HU, Baseline, Case, Click, LesionMap, LesionPrompt, Scan
from longilesion.config import AlignmentSettings, ModelSettings, VoiSettings
from longilesion.geometry import Grid
from longilesion.images import read_scan
from longilesion.prompts import complete_prompts
from test.phantoms import PlannedLesion, View, torso_case
from test.unit.builders import model_settings

SETTINGS = ModelSettings.model_validate(
    model_settings().model_dump()
    | {
        "voi": VoiSettings(shape_zyx=(40, 80, 80), spacing_zyx_mm=(2.5, 1.25, 1.25), zoom_min=0.7).model_dump(),
        "alignment": AlignmentSettings().model_dump(),
    }
)
LESIONS = (
    PlannedLesion(lesion_id=1, fate="persists", organ="mesentery", radius_mm=10.0),
    PlannedLesion(lesion_id=2, fate="gone", organ="liver", radius_mm=9.0),
    PlannedLesion(lesion_id=3, fate="new", organ="mesentery", radius_mm=9.0),
)
MIDDLE = {"baseline": np.array((0.0, 0.0, 1200.0)), "followup": np.array((30.0, -20.0, -700.0))}
SEEN = {"heights_mm": (-180.0, 40.0), "spacing_zyx_mm": (3.0, 2.5, 2.5)}


def rigid_case(**followup):
    """The same torso in both scans, but for noise, its place in the world, and how the follow-up scan was taken."""
    baseline = View(**SEEN, middle_xyz_mm=tuple(MIDDLE["baseline"]))
    later = View(**(SEEN | {"middle_xyz_mm": tuple(MIDDLE["followup"])} | followup))
    return torso_case(
        5, lesions=LESIONS, baselines=[baseline], followups=[later], motion_mm=0.0, click_error_mm=0.0
    ).case


def moved_click(prompt, shift_xyz_mm):
    point = np.add(prompt.followup.point_xyz_mm, shift_xyz_mm)
    return replace(prompt, followup=replace(prompt.followup, point_xyz_mm=tuple(point.tolist())))


@pytest.mark.parametrize(
    "followup",
    [
        pytest.param({}, id="the same scanner"),
        pytest.param({"direction": np.diag([-1.0, -1.0, 1.0])}, id="stored from right and back"),
        pytest.param({"direction": np.diag([1.0, 1.0, -1.0])}, id="stored from top to bottom"),
        pytest.param({"direction": np.eye(3)[:, [2, 0, 1]], "spacing_zyx_mm": (2.5, 3.0, 2.5)}, id="sagittal slices"),
        pytest.param({"spacing_zyx_mm": (5.0, 1.8, 1.8)}, id="thick slices"),
        pytest.param({"direction": Rotation.from_euler("x", 4, degrees=True).as_matrix()}, id="tilted by 4 degrees"),
    ],
)
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (9.0, -11.0, 14.0)])
def test_noisy_click_is_brought_back_to_the_lesions_place(followup, shift):
    case = rigid_case(**followup)
    for prompt in complete_prompts(case).lesions:
        placement = place_vois(case, moved_click(prompt, shift), SETTINGS)
        expected = np.array(placement.baseline_xyz_mm) - MIDDLE["baseline"] + MIDDLE["followup"]
        assert np.linalg.norm(placement.followup_xyz_mm - expected) < 2.0
        assert placement.similarity > 0.3


def test_baseline_lattice_lies_on_the_outline_and_not_on_the_click():
    case = rigid_case()
    prompt = complete_prompts(case).lesions[0]
    region = case.baselines["primary"].regions[1]
    placement = place_vois(case, prompt, SETTINGS)
    assert placement.baseline_xyz_mm == pytest.approx(
        case.baselines["primary"].scan.grid.world_xyz_mm(region.centre_zyx)
    )


@pytest.mark.parametrize("zoom", [0.7, 1.0])
def test_new_lesion_is_placed_by_its_followup_click(zoom):
    case = rigid_case()
    prompt = moved_click(complete_prompts(case).lesions[2], (9.0, -11.0, 14.0))
    voi = SETTINGS.voi.model_copy(update={"unoutlined_zoom": zoom, "zoom_min": 0.7})
    placement = place_vois(case, prompt, SETTINGS.model_copy(update={"voi": voi}))
    assert placement.followup_xyz_mm == pytest.approx(prompt.followup.point_xyz_mm)
    assert placement.zoom == zoom


def test_lesion_without_any_map_is_placed_by_its_baseline_click():
    case = rigid_case()
    prior = case.baselines["primary"]
    case = replace(case, baselines={"primary": Baseline.of(prior.scan, None)})
    prompt = complete_prompts(case).lesions[0]
    placement = place_vois(case, moved_click(prompt, (9.0, -11.0, 14.0)), SETTINGS)
    assert placement.baseline_xyz_mm == pytest.approx(prompt.baseline.point_xyz_mm)
    assert np.linalg.norm(np.subtract(placement.followup_xyz_mm, prompt.followup.point_xyz_mm)) < 2


def homogeneous(hu, shape=(40, 60, 60)):
    return Scan(hu=np.full(shape, hu, np.int16), grid=Grid.from_spacing(shape, (2.5, 2.0, 2.0)))


def prompt_in(followup, baseline=None):
    return LesionPrompt(
        lesion_id=1,
        followup=Click(scan_name="primary", point_xyz_mm=followup),
        baseline=None if baseline is None else Click(scan_name="primary", point_xyz_mm=baseline),
        propagated=False,
        confidence=1.0,
    )


def test_without_a_baseline_the_lattice_lies_on_the_click_unzoomed():
    case = Case(baselines={}, followups={"primary": homogeneous(40)}, clicks=())
    for baseline in (None, (1.0, 2.0, 3.0)):
        placement = place_vois(case, prompt_in((10.0, 20.0, 30.0), baseline), SETTINGS)
        assert placement.followup_xyz_mm == (10.0, 20.0, 30.0)
        assert placement.baseline_xyz_mm is None
        assert placement.similarity is None
        assert placement.zoom == 1.0


@pytest.mark.parametrize("hu", [AIR_HU, 40])
def test_featureless_neighbourhood_gives_no_shift(hu):
    scan = homogeneous(hu)
    middle = scan.grid.centre_xyz_mm
    case = Case(baselines={"primary": Baseline.of(scan, None)}, followups={"primary": scan}, clicks=())
    placement = place_vois(case, prompt_in(middle, middle), SETTINGS)
    assert placement.followup_xyz_mm == pytest.approx(middle)
    assert placement.similarity is None


def test_featureless_followup_gives_no_shift():
    noise = np.random.default_rng(0).integers(-200, 200, (40, 60, 60)).astype(np.int16)
    scan = Scan(hu=noise, grid=homogeneous(0).grid)
    middle = scan.grid.centre_xyz_mm
    case = Case(baselines={"primary": Baseline.of(scan, None)}, followups={"primary": homogeneous(40)}, clicks=())
    placement = place_vois(case, prompt_in(middle, middle), SETTINGS)
    assert placement.followup_xyz_mm == pytest.approx(middle, abs=0.01)


def case_with_lesion(extent_xyz_mm, direction):
    """A lesion of that size in the world, in a scan stored along those axes."""
    columns = np.asarray(direction)
    extent_zyx = (np.abs(columns.T) @ extent_xyz_mm)[::-1]
    spacing = np.array((3.0, 2.0, 1.0))
    shape = (60, 90, 180)
    ids = np.zeros(shape, np.uint16)
    half = np.round(extent_zyx / spacing / 2).astype(int)
    window = tuple(slice(side // 2 - length, side // 2 + length) for side, length in zip(shape, half, strict=True))
    ids[window] = 1
    grid = Grid.from_spacing(shape, spacing, direction=columns)
    scan = Scan(hu=np.zeros(shape, np.int16), grid=grid)
    case = Case(
        baselines={"primary": Baseline.of(scan, LesionMap(ids=ids, grid=grid))}, followups={"primary": scan}, clicks=()
    )
    return case, prompt_in(grid.centre_xyz_mm, grid.centre_xyz_mm)


@pytest.mark.parametrize(
    "direction", [np.eye(3), np.diag([-1.0, 1.0, -1.0]), np.eye(3)[:, [2, 0, 1]], np.eye(3)[:, [0, 2, 1]]]
)
@pytest.mark.parametrize(("extent_xyz_mm", "zoom"), [((96, 24, 24), 1.92), ((24, 24, 96), 1.92), ((48, 60, 24), 1.2)])
def test_zoom_follows_the_lesions_extent_along_the_patients_axes(direction, extent_xyz_mm, zoom):
    """The lattice spans 100 mm along each axis, of which the lesion is to fill half."""
    case, prompt = case_with_lesion(np.array(extent_xyz_mm, float), direction)
    assert place_vois(case, prompt, SETTINGS).zoom == pytest.approx(zoom, rel=0.05)


def test_lattice_is_the_wider_the_less_sure_the_click_is_up_to_the_greatest_zoom():
    case = Case(baselines={}, followups={"primary": homogeneous(40)}, clicks=())
    voi = SETTINGS.voi.model_copy(update={"unsure_zoom": 1.5, "zoom_max": 1.4})
    settings = SETTINGS.model_copy(update={"voi": voi})
    zooms = [
        place_vois(case, replace(prompt_in((10.0, 20.0, 30.0)), confidence=confidence), settings).zoom
        for confidence in (1.0, 0.5, 0.0)
    ]
    assert zooms == pytest.approx([1.0, 1.25, 1.4])


def test_axis_on_which_the_lattice_is_short_decides_the_zoom():
    """A flat lattice needs more zoom for a tall lesion than for a wide one, however the scan is stored."""
    flat = SETTINGS.model_copy(
        update={"voi": VoiSettings(shape_zyx=(20, 80, 80), spacing_zyx_mm=(2.5, 1.25, 1.25), zoom_min=0.5)}
    )
    for direction in (np.eye(3), np.eye(3)[:, [2, 0, 1]]):
        zooms = [
            place_vois(*case_with_lesion(np.array(extent), direction), flat).zoom
            for extent in ((24.0, 24.0, 48.0), (48.0, 24.0, 24.0))
        ]
        assert zooms == pytest.approx([1.92, 0.96], rel=0.05)


def test_zoom_stays_within_its_limits():
    for extent, zoom in ((6.0, SETTINGS.voi.zoom_min), (176.0, SETTINGS.voi.zoom_max)):
        case, prompt = case_with_lesion(np.array((extent, 6.0, 6.0)), np.eye(3))
        assert place_vois(case, prompt, SETTINGS).zoom == pytest.approx(zoom)


def test_real_anatomy_is_found_again(real_ct):
    """A real scan, and a part of it with other noise in a frame of its own."""
    scan = read_scan(real_ct / "torso_acrin_042" / "ct.nii.gz")
    hu, lps = scan.grid.lps_view(scan.hu)
    start = (12, 20, 30)
    part = hu[start[0] :, start[1] :, start[2] :].astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 15, part.shape)
    later = Scan(hu=(part + noise).astype(np.int16), grid=Grid.from_spacing(part.shape, lps.spacing_zyx_mm))
    case = Case(baselines={"primary": Baseline.of(scan, None)}, followups={"primary": later}, clicks=())
    for share in ((0.3, 0.5, 0.3), (0.5, 0.4, 0.6), (0.7, 0.6, 0.4)):
        place = np.round(np.multiply(share, hu.shape))
        expected = later.grid.world_xyz_mm(place - start)
        prompt = prompt_in(expected, lps.world_xyz_mm(place))
        placement = place_vois(case, moved_click(prompt, (8.0, 12.0, -10.0)), SETTINGS)
        assert placement.followup_xyz_mm == pytest.approx(expected, abs=2.0)
