import numpy as np
import pytest
from numpy.typing import NDArray

from longilesion.config import EncodingSettings, LikelihoodSettings
from longilesion.encoding import encode
from longilesion.geometry import Grid, Triple
from longilesion.likelihood import lesion_likelihood
from longilesion.voi import Voi, VoiPair

SIDE = 24
MIDDLE = (SIDE // 2,) * 3
SETTINGS = LikelihoodSettings()
GRID = Grid.from_spacing((SIDE,) * 3, (2.0, 2.0, 2.0))


def ball(radius: float, centre: Triple = MIDDLE) -> NDArray[np.bool_]:
    z, y, x = np.ogrid[:SIDE, :SIDE, :SIDE]
    return np.asarray((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2)


def voi(tissue: float, lesion: float, where: NDArray[np.bool_], *, click_zyx: Triple = MIDDLE, noise: float = 0) -> Voi:
    hu = np.where(where, lesion, tissue) + np.random.default_rng(0).normal(0, noise, where.shape)
    return Voi(hu=hu.astype(np.float32), grid=GRID, click_zyx=click_zyx)


def followed(
    baseline: Voi, followup: Voi, outline: NDArray[np.bool_], others: NDArray[np.bool_] | None = None
) -> VoiPair:
    return VoiPair(
        followup=followup,
        baseline=baseline,
        baseline_mask=outline.astype(np.float32),
        baseline_others=np.zeros_like(outline, np.float32) if others is None else others.astype(np.float32),
    )


@pytest.mark.parametrize("lesion", [140.0, 20.0], ids=["brighter", "darker"])
def test_lesion_is_likely_and_tissue_is_not_whichever_is_brighter(lesion: float) -> None:
    before, after = ball(4), ball(7)
    pair = followed(voi(80, lesion, before, noise=15), voi(80, lesion, after, noise=15), before)
    followup, baseline = lesion_likelihood(pair, SETTINGS)
    assert baseline is not None
    for likelihood, lesion_mask in ((followup, after), (baseline, before)):
        assert likelihood.min() >= 0
        assert likelihood.max() <= 1
        core = ball(3 if lesion_mask is before else 6)
        assert likelihood[core].mean() > 0.7
        assert likelihood[~ball(9)].mean() < 0.15


def test_lesion_that_is_gone_is_likely_nowhere() -> None:
    outline = ball(5)
    followup, _ = lesion_likelihood(followed(voi(80, 140, outline), voi(80, 80, outline), outline), SETTINGS)
    assert followup.max() < 0.05


def test_contrast_agent_lifts_the_lesion_with_its_surroundings() -> None:
    outline = ball(5)
    followup, _ = lesion_likelihood(followed(voi(60, 20, outline), voi(100, 60, outline), outline), SETTINGS)
    assert followup[ball(3)].min() > 0.8
    assert followup[~ball(8)].max() < 0.05


def test_nodule_keeps_its_hu_though_the_lung_around_it_changes() -> None:
    outline = ball(5)
    followup, _ = lesion_likelihood(followed(voi(-850, 30, outline), voi(-800, 30, outline), outline), SETTINGS)
    assert followup[ball(3)].min() > 0.8


def test_change_that_no_contrast_agent_makes_is_not_believed() -> None:
    outline = ball(5)
    # The follow-up shows another part of the body.
    followup, _ = lesion_likelihood(followed(voi(60, 160, outline), voi(-100, 160, outline), outline), SETTINGS)
    assert followup[ball(3)].min() > 0.8


def test_too_few_voxels_like_the_shell_show_no_change() -> None:
    outline = ball(5)
    pair = followed(voi(60, 20, outline), voi(100, 60, outline), outline)
    followup, _ = lesion_likelihood(pair, LikelihoodSettings(alike_voxels=SIDE**3))
    assert followup[ball(3)].max() < 0.2


def test_other_lesion_beside_it_is_no_surrounding_tissue() -> None:
    outline, other = ball(4), ball(20) & ~ball(4)
    other[..., SIDE // 2 :] = False
    hu = np.where(other, 120.0, 40.0)
    hu[outline] = 120
    baseline = Voi(hu=hu.astype(np.float32), grid=GRID, click_zyx=MIDDLE)
    followup, _ = lesion_likelihood(followed(baseline, baseline, outline, other), SETTINGS)
    assert followup[ball(2)].min() > 0.8


def test_lesion_smaller_than_a_voxel_of_the_lattice_has_hu_statistics() -> None:
    outline = ball(1).astype(np.float32) * 0.3
    before = voi(40, 110, ball(1))
    pair = VoiPair(followup=before, baseline=before, baseline_mask=outline, baseline_others=np.zeros_like(outline))
    followup, _ = lesion_likelihood(pair, SETTINGS)
    assert bool(np.isfinite(followup).all())
    assert followup[MIDDLE] > followup[~ball(4)].max()


def test_new_lesion_is_what_lies_at_the_click() -> None:
    lesion, nothing = ball(4), np.zeros((SIDE,) * 3, bool)
    pair = followed(voi(50, 50, nothing), voi(50, 110, lesion), nothing)
    followup, baseline = lesion_likelihood(pair, SETTINGS)
    assert baseline is not None
    assert followup[ball(2)].min() > 0.8
    assert followup[~ball(7)].max() < 0.05
    assert baseline.max() < 0.05


@pytest.mark.parametrize("has_baseline", [False, True], ids=["no prior", "no lesion map"])
def test_without_an_outline_the_click_tells(has_baseline: bool) -> None:
    lesion = ball(4)
    pair = VoiPair(
        followup=voi(50, 110, lesion),
        baseline=voi(50, 50, lesion) if has_baseline else None,
        baseline_mask=None,
        baseline_others=None,
    )
    followup, baseline = lesion_likelihood(pair, SETTINGS)
    assert followup[ball(2)].min() > 0.8
    assert (baseline is None) != has_baseline


def test_click_outside_the_lattice_counts_at_its_border() -> None:
    corner = ball(6, (0, 0, 0))
    pair = VoiPair(
        followup=voi(50, 110, corner, click_zyx=(-30.0, -4.0, 0.2)),
        baseline=None,
        baseline_mask=None,
        baseline_others=None,
    )
    followup, _ = lesion_likelihood(pair, SETTINGS)
    assert followup[0, 0, 0] > 0.8
    assert followup[-1, -1, -1] < 0.05


def test_click_on_uniform_tissue_finds_it_likely_everywhere() -> None:
    nothing = np.zeros((SIDE,) * 3, bool)
    pair = VoiPair(followup=voi(50, 50, nothing), baseline=None, baseline_mask=None, baseline_others=None)
    assert lesion_likelihood(pair, SETTINGS)[0].min() > 0.8


def test_both_streams_get_their_likelihood_between_image_and_mask() -> None:
    outline = ball(5)
    pair = followed(voi(80, 140, outline), voi(80, 140, ball(7)), outline)
    settings = EncodingSettings(
        followup_channels=("image", "lesion_likelihood", "click_heatmap"),
        baseline_channels=("image", "lesion_likelihood", "lesion_mask"),
    )
    batch = encode([pair], settings)
    followup, baseline = lesion_likelihood(pair, SETTINGS)
    np.testing.assert_array_equal(batch.followup[0, 1].numpy(), followup)
    np.testing.assert_array_equal(batch.baseline[0, 1].numpy(), baseline)
    assert (batch.followup.shape[1], batch.baseline.shape[1]) == (3, 3)
