from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from longilesion.config import EncodingSettings
from longilesion.encoding import encode
from longilesion.geometry import Grid, Triple
from longilesion.voi import Placement, Voi, VoiPair, sample_voi_pair
from test.unit.builders import case_of, click, model_settings, prompt, scan_with

SHAPE = (8, 10, 12)
CLICKED = EncodingSettings(
    followup_channels=("image", "click_heatmap"), baseline_channels=("image", "lesion_mask"), click_sigma_mm=4.0
)


def voi(hu: float | NDArray = 40.0, *, click_zyx: Triple = (4, 5, 6), spacing_zyx_mm: Triple = (1.0, 1.0, 1.0)) -> Voi:
    return Voi(
        hu=np.broadcast_to(np.asarray(hu, np.float32), SHAPE).copy(),
        grid=Grid.from_spacing(SHAPE, spacing_zyx_mm),
        click_zyx=click_zyx,
    )


def pair(
    followup: Voi | None = None,
    baseline: Voi | None = None,
    mask: NDArray[np.float32] | None = None,
    others: NDArray[np.float32] | None = None,
) -> VoiPair:
    return VoiPair(followup=followup or voi(), baseline=baseline, baseline_mask=mask, baseline_others=others)


def share(**voxels: float) -> NDArray[np.float32]:
    """A mask that is zero but for the named voxels of its first row: `x3=1.0`."""
    mask = np.zeros(SHAPE, np.float32)
    for name, value in voxels.items():
        mask[0, 0, int(name[1:])] = value
    return mask


def test_window_limits_become_0_and_1_and_what_lies_beyond_is_clipped() -> None:
    hu = np.zeros(SHAPE, np.float32)
    hu[0, 0, :6] = (-3024, -1000, -300, 50, 400, 3000)
    image = encode([pair(voi(hu))], EncodingSettings()).followup[0, 0]
    torch.testing.assert_close(image[0, 0, :6], torch.tensor([0, 0, 0.5, 0.75, 1, 1]))


@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(2.0, 600.0))
def test_z_scores_have_mean_0_and_deviation_1_in_each_voi_and_window(seed: int, spread: float) -> None:
    hu = np.random.default_rng(seed).normal(-200, spread, SHAPE).astype(np.float32)
    windows = ((-1000.0, 400.0), (-260.0, 240.0))
    settings = EncodingSettings(clip_hu=windows, z_score="voi")
    batch = encode([pair(voi(hu), voi(hu / 2))], settings)
    for image, scan in ((batch.followup[0, :2], hu), (batch.baseline[0, :2], hu / 2)):
        for found, (low, high) in zip(image.numpy(), windows, strict=True):
            clipped = np.clip(scan.astype(float), low, high)
            expected = (clipped - clipped.mean()) / max(clipped.std(), 1.0)
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_z_scores_of_a_single_value_are_0() -> None:
    assert encode([pair(voi(37.3))], EncodingSettings(z_score="voi")).followup.abs().max() < 1e-4


def test_z_scores_by_given_mean_and_deviation_are_clipped_first() -> None:
    hu = np.zeros(SHAPE, np.float32)
    hu[0, 0, :3] = (-3024, 90, 900)
    image = encode([pair(voi(hu))], EncodingSettings(z_score=(50.0, 80.0))).followup[0, 0]
    torch.testing.assert_close(image[0, 0, :3], torch.tensor([-1050 / 80, 0.5, 350 / 80]))


def test_each_window_is_an_image_channel_of_its_own() -> None:
    settings = EncodingSettings(clip_hu=((-1000.0, 400.0), (-160.0, 240.0)))
    batch = encode([pair(voi(40.0))], settings)
    assert batch.followup.shape == (1, 2, *SHAPE)
    torch.testing.assert_close(batch.followup[0, :2, 0, 0, 0], torch.tensor([1040 / 1400, 0.5]))


def test_heat_map_is_1_at_a_click_on_a_voxel() -> None:
    heat = encode([pair(voi(click_zyx=(2, 7, 3)))], CLICKED).followup[0, 1].numpy()
    assert heat[2, 7, 3] == 1.0
    assert np.unravel_index(heat.argmax(), SHAPE) == (2, 7, 3)


def test_heat_map_of_a_click_between_voxels_is_exact_to_the_fraction() -> None:
    heat = encode([pair(voi(click_zyx=(2.0, 7.0, 3.25)))], CLICKED).followup[0, 1]
    expected = torch.exp(-0.5 * torch.tensor([1.25, 0.25, 0.75]) ** 2 / 4.0**2)
    torch.testing.assert_close(heat[2, 7, 2:5], expected)


def test_heat_map_is_round_in_millimetres_on_thick_slices() -> None:
    heat = encode([pair(voi(click_zyx=(4, 5, 6), spacing_zyx_mm=(5.0, 2.5, 1.0)))], CLICKED).followup[0, 1]
    torch.testing.assert_close(heat[5, 5, 6], heat[4, 7, 6])
    torch.testing.assert_close(heat[5, 5, 6], heat[4, 5, 11])
    torch.testing.assert_close(heat[5, 5, 6], torch.exp(torch.tensor(-0.5 * (5.0 / 4.0) ** 2)))


def test_heat_map_is_the_wider_the_less_sure_the_click_is() -> None:
    settings = CLICKED.model_copy(update={"unsure_click_sigma_mm": 12.0})
    heats = [
        encode([pair(replace(voi(click_zyx=(4, 5, 6)), click_confidence=confidence))], settings).followup[0, 1]
        for confidence in (1.0, 0.5, 0.0)
    ]
    # 4, 8 and 12 mm wide.
    for heat, sigma_mm in zip(heats, (4.0, 8.0, 12.0), strict=True):
        assert float(heat[4, 5, 6]) == 1.0
        assert float(heat[4, 5, 10]) == pytest.approx(np.exp(-0.5 * (4.0 / sigma_mm) ** 2), abs=1e-5)


@given(click=st.tuples(*(st.integers(0, size - 1) for size in SHAPE)), sigma=st.floats(0.5, 3.0))
def test_heat_map_in_voxels_is_scipys_gaussian_rescaled_to_1(click: tuple[int, int, int], sigma: float) -> None:
    """Whatever the spacing, and whatever the click's confidence."""
    settings = CLICKED.model_copy(update={"click_sigma_voxels": sigma})
    seen = replace(voi(click_zyx=click, spacing_zyx_mm=(5.0, 2.5, 1.0)), click_confidence=0.3)
    heat = encode([pair(seen)], settings).followup[0, 1].numpy()
    unit = np.zeros(SHAPE)
    unit[click] = 1.0
    expected = gaussian_filter(unit, sigma, mode="constant", truncate=60.0)
    assert heat[click] == 1.0
    np.testing.assert_allclose(heat, expected / expected[click], atol=1e-6)


def test_heat_map_of_a_click_outside_the_lattice_only_rises_towards_it() -> None:
    heat = encode([pair(voi(click_zyx=(4.0, 5.0, 20.0)))], CLICKED).followup[0, 1, 4, 5]
    assert heat.max() < 1
    assert bool((heat.diff() > 0).all())


def test_mask_channel_holds_the_lesion_at_1_and_others_at_their_value() -> None:
    settings = EncodingSettings(other_lesions_value=-1.0)
    batch = encode([pair(None, voi(), share(x1=1.0, x2=0.25), share(x2=0.5, x3=1.0))], settings)
    torch.testing.assert_close(batch.baseline[0, 1, 0, 0, :5], torch.tensor([0, 1, 0.25 - 0.5, -1, 0]))


def test_weight_of_the_lesion_is_that_of_its_channel_alone() -> None:
    settings = EncodingSettings(lesion_mask_weight=0.3, other_lesions_value=-1.0)
    batch = encode([pair(None, voi(), share(x1=1.0, x2=0.5), share(x3=1.0))], settings)
    torch.testing.assert_close(batch.baseline[0, 1, 0, 0, :5], torch.tensor([0, 0.3, 0.15, -1, 0]))
    torch.testing.assert_close(batch.prior_mask[0, 0, 0, 0, :5], torch.tensor([0, 1, 0.5, 0, 0]))


def test_organ_is_a_channel_of_either_stream_and_0_where_unknown() -> None:
    settings = EncodingSettings(followup_channels=("image", "organ_mask"), baseline_channels=("organ_mask",))
    organ = share(x1=1.0, x2=0.25)
    batch = encode([pair(replace(voi(), organ=organ), voi()), pair(voi(), replace(voi(), organ=organ))], settings)
    np.testing.assert_array_equal(batch.followup[0, 1], organ)
    np.testing.assert_array_equal(batch.baseline[1, 0], organ)
    assert not batch.followup[1, 1].any()
    assert not batch.baseline[0].any()


def test_lattice_that_nobody_clicked_has_no_heat_map_and_no_likelihood() -> None:
    channels = ("image", "lesion_likelihood", "click_heatmap")
    settings = EncodingSettings(followup_channels=channels, baseline_channels=channels)
    clicked = pair(voi(), voi(), share(x1=1.0), share())
    unclicked = replace(clicked, followup=replace(voi(), is_clicked=False), baseline=replace(voi(), is_clicked=False))
    batch = encode([clicked, unclicked], settings)
    for stream in (batch.followup, batch.baseline):
        assert stream[0, 1:].flatten(1).any(1).all()
        assert not stream[1, 1:].any()
        assert torch.equal(stream[0, 0], stream[1, 0])


def test_other_lesions_are_no_lesion_by_default() -> None:
    batch = encode([pair(None, voi(), share(x1=1.0), share(x3=1.0))], EncodingSettings())
    assert batch.baseline[0, 1].sum() == 1


def test_each_stream_has_its_own_channels_in_fixed_order() -> None:
    batch = encode([pair(voi(click_zyx=(0, 0, 0)), voi(click_zyx=(0, 0, 0)), share(x0=1.0), share())], CLICKED)
    image = 1040 / 1400
    torch.testing.assert_close(batch.followup[0, :, 0, 0, 0], torch.tensor([image, 1]))
    torch.testing.assert_close(batch.baseline[0, :, 0, 0, 0], torch.tensor([image, 1]))


def test_prior_mask_is_the_lesion_without_the_others_whatever_their_value() -> None:
    settings = EncodingSettings(other_lesions_value=-1.0)
    batch = encode([pair(None, voi(), share(x1=1.0, x2=0.25), share(x2=0.5, x3=1.0)), pair()], settings)
    torch.testing.assert_close(batch.prior_mask[0, 0, 0, 0, :5], torch.tensor([0.0, 1, 0, 0, 0]))
    assert not batch.prior_mask[1].any()


def test_no_prior_mask_where_the_network_is_not_to_see_it() -> None:
    settings = EncodingSettings(baseline_channels=("image",))
    batch = encode([pair(None, voi(), share(x1=1.0), share())], settings)
    assert batch.prior_mask is None
    assert batch.baseline.shape[1] == 1


def test_baseline_without_channels_is_empty_and_still_known() -> None:
    batch = encode([pair(None, voi(), share(x1=1.0), share()), pair()], EncodingSettings(baseline_channels=()))
    assert batch.baseline.shape == (2, 0, *SHAPE)
    assert batch.has_baseline.tolist() == [True, False]


def test_no_prior_is_a_baseline_of_zeros_that_says_so() -> None:
    batch = encode([pair(), pair(None, voi(), share(x1=1.0), share())], CLICKED)
    assert batch.has_baseline.tolist() == [False, True]
    assert not batch.baseline[0].any()
    assert batch.baseline[1].any()


def test_prior_without_a_lesion_map_keeps_its_image() -> None:
    batch = encode([pair(None, voi(40.0))], CLICKED)
    assert batch.has_baseline.tolist() == [True]
    torch.testing.assert_close(batch.baseline[0, 0], torch.full(SHAPE, 1040 / 1400))
    assert not batch.baseline[0, 1:].any()


@pytest.mark.parametrize("others_value", [0.0, -1.0])
def test_new_lesion_has_a_prior_whose_map_lacks_it(others_value: float) -> None:
    grid = Grid.from_spacing((20, 20, 20), (2.0, 2.0, 2.0))
    scan, lesions = scan_with({4: ((30.0, 20.0, 20.0), 5.0)}, grid)
    point = (20.0, 20.0, 20.0)
    sampled = sample_voi_pair(
        case_of((), followups={"primary": scan}, baselines={"primary": (scan, lesions)}),
        prompt(9, click(point), click(point)),
        Placement(followup_xyz_mm=point, baseline_xyz_mm=point, zoom=1.0),
        model_settings(shape_zyx=(16, 16, 16)).voi,
    )
    batch = encode([sampled], EncodingSettings(other_lesions_value=others_value))
    assert batch.has_baseline.tolist() == [True]
    mask = batch.baseline[0, 1]
    assert mask.max() == 0
    assert mask.min() == others_value


def test_batch_is_its_lesions_one_by_one() -> None:
    generator = np.random.default_rng(0)
    pairs = [
        pair(voi(generator.normal(0, 300, SHAPE)), voi(generator.normal(0, 300, SHAPE)), share(x1=1.0), share(x5=1.0)),
        pair(voi(generator.normal(0, 300, SHAPE))),
    ]
    together = encode(pairs, CLICKED)
    for index, single in enumerate(pairs):
        alone = encode([single], CLICKED)
        assert torch.equal(alone.followup[0], together.followup[index])
        assert torch.equal(alone.baseline[0], together.baseline[index])
