from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from longilesion import local_search
from longilesion.alignment import place_vois
from longilesion.case import AIR_HU, PADDING_HU, Baseline, Case, Click, EarlierVisit, LesionMap, LesionPrompt, Scan
from longilesion.config import AlignmentSettings, ModelSettings, SearchStep, VoiSettings
from longilesion.geometry import Grid
from longilesion.images import read_scan
from longilesion.local_search import best_match
from longilesion.prompts import complete_prompts
from test.phantoms import PlannedLesion, View, torso_case
from test.unit.builders import dual_encoder, model_settings

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


@cache
def same_scanner_case():
    """The same torso, scanned in the same way at both time points."""
    return rigid_case()


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
def test_noisy_click_is_brought_back_to_the_lesions_place(followup):
    case = rigid_case(**followup)
    for shift, prompt in product(((0.0, 0.0, 0.0), (9.0, -11.0, 14.0)), complete_prompts(case).lesions):
        placement = place_vois(case, moved_click(prompt, shift), SETTINGS)
        expected = np.array(placement.baseline_xyz_mm) - MIDDLE["baseline"] + MIDDLE["followup"]
        assert np.linalg.norm(placement.followup_xyz_mm - expected) < 2.0, shift
        assert placement.similarity > 0.3, shift


def test_baseline_lattice_lies_on_the_outline_and_not_on_the_click():
    case = same_scanner_case()
    prompt = complete_prompts(case).lesions[0]
    region = case.baselines["primary"].regions[1]
    placement = place_vois(case, prompt, SETTINGS)
    assert placement.baseline_xyz_mm == pytest.approx(
        case.baselines["primary"].scan.grid.world_xyz_mm(region.centre_zyx)
    )


def test_by_clicks_each_lattice_lies_on_its_click_and_similarity_is_measured_there():
    case = same_scanner_case()
    prompt = complete_prompts(case).lesions[0]
    earlier = [EarlierVisit(baselines=case.baselines, clicks=clicks) for clicks in ({1: prompt.baseline}, {})]
    case = replace(case, earlier=tuple(earlier))
    network = dual_encoder(fusion="iterative", baseline_reconstruction=False)
    by_clicks = SETTINGS.model_copy(update={"alignment": AlignmentSettings(method="clicks"), "network": network})
    similarities = []
    for shift in ((0.0, 0.0, 0.0), (9.0, -31.0, 14.0)):
        moved = moved_click(prompt, shift)
        placement = place_vois(case, moved, by_clicks)
        assert placement.followup_xyz_mm == moved.followup.point_xyz_mm
        assert placement.baseline_xyz_mm == prompt.baseline.point_xyz_mm
        similarities.append(placement.similarity)
    assert similarities[0] > 0.6
    assert similarities[1] < similarities[0] - 0.1
    # Earlier time points lie on their clicks as well; what has none lies on its outline.
    by_click, by_outline = placement.earlier
    assert by_click == prompt.baseline
    region = case.baselines["primary"].regions[1]
    outline = case.baselines["primary"].scan.grid.world_xyz_mm(region.centre_zyx)
    assert by_outline.point_xyz_mm == pytest.approx(outline)


@pytest.mark.parametrize("zoom", [0.7, 1.0])
def test_new_lesion_is_placed_by_its_followup_click(zoom):
    case = same_scanner_case()
    prompt = moved_click(complete_prompts(case).lesions[2], (9.0, -11.0, 14.0))
    voi = SETTINGS.voi.model_copy(update={"unoutlined_zoom": zoom, "zoom_min": 0.7})
    placement = place_vois(case, prompt, SETTINGS.model_copy(update={"voi": voi}))
    assert placement.followup_xyz_mm == pytest.approx(prompt.followup.point_xyz_mm)
    assert placement.zoom == zoom


def test_lesion_without_any_map_is_placed_by_its_baseline_click():
    case = same_scanner_case()
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


SIDE = 48
GRID = Grid.from_spacing((SIDE, SIDE, SIDE), (2.0, 2.0, 2.0))
NEAR = AlignmentSettings(
    steps=(
        SearchStep(
            spacing_mm=4.0, template_radius_mm=20.0, falloff_mm=12.0, search_radius_mm=24.0, distance_penalty=0.05
        ),
        SearchStep(spacing_mm=2.0, template_radius_mm=12.0, falloff_mm=6.0, search_radius_mm=6.0),
    )
)


def tissue(seed, mean_hu, deviation_hu):
    """Structures of about 8 mm, on twice the side."""
    noise = np.random.default_rng(seed).normal(size=(2 * SIDE,) * 3)
    smooth = gaussian_filter(noise, 2.0)
    return mean_hu + deviation_hu * smooth / smooth.std()


def seen(hu, start_zyx, padding=None):
    """The part of a volume that begins there, rounded; with padding where that is so in the part."""
    part = hu[tuple(slice(first, first + SIDE) for first in start_zyx)].round().astype(np.int16)
    return Scan(hu=part if padding is None else np.where(padding, PADDING_HU, part).astype(np.int16), grid=GRID)


def found_shift(baseline, followup, place_zyx):
    point = GRID.world_xyz_mm(place_zyx)
    match = best_match(baseline, followup, centres_xyz_mm=(point, point), extent_mm=12.0, settings=NEAR)
    return match, None if match is None else match.shift_xyz_mm[::-1] / 2.0


shifts = st.tuples(*(st.integers(-8, 8) for _ in range(3)))


@pytest.mark.parametrize(
    ("mean_hu", "deviation_hu"),
    [pytest.param(-850.0, 60.0, id="lung"), pytest.param(-90.0, 40.0, id="fat"), pytest.param(50.0, 40.0, id="liver")],
)
@given(shift=shifts, seed=st.integers(0, 1000))
@settings(max_examples=4)
def test_each_tissue_is_aligned_by_its_own_structure(mean_hu, deviation_hu, shift, seed):
    hu = tissue(seed, mean_hu, deviation_hu)
    start = (SIDE // 2,) * 3
    match, shift_voxels = found_shift(seen(hu, start), seen(hu, np.subtract(start, shift)), (SIDE / 2,) * 3)
    assert shift_voxels == pytest.approx(shift, abs=0.5)
    assert match.similarity > 0.5
    assert match.margin > 0.1


@given(shift=shifts, seed=st.integers(0, 1000), depth=st.integers(6, 12))
@settings(max_examples=4)
def test_what_a_scan_does_not_show_has_no_influence(shift, seed, depth):
    """Near the last slice of both scans, one of which has a round field of view."""
    hu = tissue(seed, 50.0, 40.0)
    start = np.array((8, SIDE // 2, SIDE // 2))
    place = depth + 2.0, SIDE / 2, SIDE / 2
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    round_field = np.broadcast_to(np.hypot(y - 6, x + 5) > 20, (SIDE,) * 3)
    before, after = seen(hu, start, round_field), seen(hu, start - np.array(shift))
    _, shift_voxels = found_shift(before, after, place)
    assert shift_voxels == pytest.approx(shift, abs=1.0)


def test_nothing_to_compare_gives_no_match():
    hu = tissue(0, 50.0, 40.0)
    everywhere = np.ones((SIDE,) * 3, bool)
    scan, unseen = seen(hu, (0, 0, 0)), seen(hu, (0, 0, 0), everywhere)
    for pair in ((scan, unseen), (unseen, scan)):
        assert found_shift(*pair, (SIDE / 2,) * 3) == (None, None)


def test_repeated_structure_has_a_small_margin():
    hu = tissue(1, 50.0, 40.0)
    repeated = np.tile(hu[:8, :8, :8], (16, 16, 16))
    (unique, _), (alike, _) = (
        found_shift(seen(volume, (0, 0, 0)), seen(volume, (0, 0, 0)), (SIDE / 2,) * 3) for volume in (hu, repeated)
    )
    assert alike.margin < 0.05 < unique.margin


def test_correlation_equals_the_one_written_out():
    """The weighted correlation of what both cubes show, position by position, by its definition."""
    generator = np.random.default_rng(2)
    hu = generator.uniform(-1100, 300, (9, 9, 9)).astype(np.float32), generator.uniform(-1100, 300, (5, 5, 5))
    weights = (generator.random((9, 9, 9)) > 0.2).astype(np.float32), generator.random((5, 5, 5)).astype(np.float32)
    searched, template = (
        local_search._Neighbourhood(hu=values.astype(np.float32), weights=weight)
        for values, weight in zip(hu, weights, strict=True)
    )
    windows = ((-1000.0, -200.0), (-150.0, 250.0))
    correlation, overlap = local_search._compared(searched, template, windows)
    for position in np.ndindex(5, 5, 5):
        window = tuple(slice(first, first + 5) for first in position)
        weight = weights[0][window] * weights[1]
        total, deviations = 0.0, 0.0
        for low, high in windows:
            before, after = (
                np.clip((values - low) / (high - low), 0.0, 1.0).astype(np.float64) for values in (hu[1], hu[0][window])
            )
            deviation = np.sqrt(np.cov(before.ravel(), aweights=weights[1].ravel(), ddof=0))
            covariance = np.cov(before.ravel(), after.ravel(), aweights=weight.ravel(), ddof=0)
            spread = np.sqrt((covariance[0, 0] + 0.002) * (covariance[1, 1] + 0.002))
            total += deviation * covariance[0, 1] / spread
            deviations += deviation
        assert correlation[position] == pytest.approx(total / deviations, abs=1e-4)
        assert overlap[position] == pytest.approx(weight.sum() / weights[1].sum(), abs=1e-4)


def test_settings_of_earlier_bundles_are_one_step_and_one_window():
    flat = {"spacing_mm": 2.5, "template_radius_mm": 20.0, "search_radius_mm": 40.0, "distance_penalty": 0.1}
    read = AlignmentSettings.model_validate({**flat, "clip_hu": [-150.0, 250.0]})
    assert read == AlignmentSettings(windows_hu=((-150.0, 250.0),), steps=(SearchStep(**flat),), lesion_weight=1.0)
    assert AlignmentSettings.model_validate(read.model_dump()) == read
    with pytest.raises(ValueError, match="steps"):
        AlignmentSettings.model_validate({"clip_hu": [-150.0, 250.0], "lesion_weight": 0.5})
