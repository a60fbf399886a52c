"""Augmentation moves both time points and the target as one, in millimetres, and depends on a sample's seed alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longilesion.config import EncodingSettings
from longilesion.geometry import Triple
from longilesion.networks.interface import NetworkInput
from training.augmentation import augmented
from training.batch import Batch
from training.recipe import AugmentationSettings, IntensityAugmentation, SpatialAugmentation

ENCODING = EncodingSettings(
    clip_hu=((-1000.0, 400.0), (-160.0, 240.0)),
    followup_channels=("image", "lesion_likelihood", "click_heatmap"),
    baseline_channels=("image", "lesion_likelihood", "lesion_mask", "click_heatmap"),
    other_lesions_value=-1.0,
)
IMAGES, OTHERS, MASK = slice(0, 2), slice(2, 5), slice(3, 4)
SHAPE, SPACING = (16, 32, 32), (2.5, 1.25, 1.25)
TURNS = SpatialAugmentation(probability=1.0, rotation_deg=30.0, scaling=0.2, mirror_axes=("z", "y", "x"))
VARIES = IntensityAugmentation(
    probability=1.0, noise=0.02, scale=0.2, shift=0.1, gamma=(0.8, 1.2), blur_voxels=(0.5, 1)
)
EVERY = {"joint": TURNS, "separate": TURNS, "joint_intensity": VARIES, "intensity": VARIES}


def offsets_mm(shape: tuple[int, ...] = SHAPE, spacing: Triple = SPACING) -> np.ndarray:
    """Offsets of all voxels' centres from the lattice's middle: z, y, x in mm."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def ball(centre_zyx_mm: Triple, radius_mm: float, shape: tuple[int, ...] = SHAPE, spacing: Triple = SPACING) -> Tensor:
    distance = np.linalg.norm(offsets_mm(shape, spacing) - centre_zyx_mm, axis=-1)
    return torch.from_numpy((distance <= radius_mm).astype(np.float32))


def batch_of(target: Tensor, *, size: int = 1, known: bool = True) -> Batch:
    """Streams whose every channel is noise in which the lesion can be seen, its outline among the baseline's."""
    generator = torch.Generator().manual_seed(0)
    followup = 0.5 * torch.rand((size, 5, *target.shape), generator=generator)
    followup[:, IMAGES] += 0.5 * target
    followup[:, MASK] = 0
    baseline = 0.5 * torch.rand((size, 5, *target.shape), generator=generator)
    baseline[:, MASK] = target
    baseline[:, MASK, 4:6, 16:20, 20:24] = -1
    return Batch(
        input=NetworkInput(
            followup=followup,
            baseline=baseline * known,
            has_baseline=torch.full((size,), known, dtype=torch.bool),
            prior_mask=baseline[:, MASK].clamp(min=0) * known,
        ),
        target=target.expand(size, 1, *target.shape).clone(),
        present=target.any().expand(size).clone(),
    )


def changed(batch: Batch, *, seeds: range | tuple[int, ...] = (0,), **parts: object) -> Batch:
    return augmented(batch, AugmentationSettings(**parts), ENCODING, spacing_zyx_mm=SPACING, seeds=seeds)


def tensors(batch: Batch) -> dict[str, Tensor]:
    return {**batch.input.tensors(), "target": batch.target}


def assert_same(one: Batch, other: Batch) -> None:
    for name, values in tensors(one).items():
        assert torch.equal(values, tensors(other)[name]), name


LESION = ball((5.0, -4.0, 3.0), 8.0)


def test_augmentation_switched_off_gives_back_the_very_same_batch() -> None:
    batch = batch_of(LESION)
    # Limits without a probability are off as well.
    still = SpatialAugmentation(rotation_deg=30.0, scaling=0.1)
    assert changed(batch) is batch
    assert changed(batch, joint=still, separate=still, intensity=IntensityAugmentation(noise=1.0)) is batch


def test_what_is_given_stays_as_it_was() -> None:
    batch, same = batch_of(LESION), batch_of(LESION)
    changed(batch, **EVERY)
    assert_same(batch, same)


def test_flips_turn_both_time_points_and_the_target_alike() -> None:
    batch = batch_of(LESION, size=24)
    flipped = changed(batch, joint=SpatialAugmentation(mirror_axes=("z", "x")), seeds=range(24))
    seen = set()
    for index in range(24):
        axes = next(
            axes
            for axes in ((), (1,), (3,), (1, 3))
            if torch.equal(flipped.target[index], batch.target[index].flip(axes))
        )
        seen.add(axes)
        assert torch.equal(flipped.input.followup[index], batch.input.followup[index].flip(axes))
        assert torch.equal(flipped.input.baseline[index], batch.input.baseline[index].flip(axes))
        assert torch.equal(flipped.input.prior_mask[index], batch.input.prior_mask[index].flip(axes))
    assert seen == {(), (1,), (3,), (1, 3)}


def test_turns_take_both_time_points_and_the_target_along() -> None:
    batch = batch_of(LESION, size=6)
    # One map in every channel of both streams: it has to stay one map.
    one = batch.input.followup[:, :1].expand(6, 5, *SHAPE).clone()
    turned = changed(
        replace(batch, input=replace(batch.input, followup=one, baseline=one)), joint=TURNS, seeds=range(6)
    )
    assert torch.equal(turned.input.followup, turned.input.baseline)
    assert torch.equal(turned.input.followup, turned.input.followup[:, :1].expand_as(one))
    for index in range(6):
        image, target = turned.input.followup[index, 0], turned.target[index, 0] > 0
        # The lesion is half a unit brighter than what is around it, wherever it has gone.
        assert float(image[target].mean()) > 0.65
        assert float(image[~target].mean()) < 0.3
    assert not torch.equal(turned.target[0], turned.target[1])


@pytest.mark.parametrize("seed", range(4))
def test_ball_stays_a_ball_where_voxels_are_no_cubes(seed: int) -> None:
    shape, centre, radius = (32, 64, 64), (12.0, -8.0, 10.0), 15.0
    turning = SpatialAugmentation(probability=1.0, rotation_deg=60.0)
    turned = changed(batch_of(ball(centre, radius, shape)), joint=turning, seeds=(seed,)).target[0, 0].numpy() > 0
    points = offsets_mm(shape)[turned]
    middle = points.mean(axis=0)
    # About the lattice's middle: the ball's distance from it is kept, its place is not.
    assert np.linalg.norm(middle) == pytest.approx(np.linalg.norm(centre), abs=0.5)
    assert np.linalg.norm(middle - centre) > 1
    # A ball's moments are a fifth of its squared radius about every axis; turned as voxels it would be far from one.
    moments = np.linalg.eigvalsh(np.cov(points.T))
    np.testing.assert_allclose(moments, radius**2 / 5, rtol=0.04)


def test_turns_stay_within_their_angle() -> None:
    shape = (32, 64, 64)
    turning = SpatialAugmentation(probability=1.0, rotation_deg=10.0)
    far = ball((0.0, 0.0, 28.0), 7.0, shape)
    angles = []
    for seed in range(12):
        turned = changed(batch_of(far), joint=turning, seeds=(seed,)).target[0, 0].numpy() > 0
        z, y, x = offsets_mm(shape)[turned].mean(axis=0)
        angles.append(np.degrees([np.arctan2(y, x), np.arcsin(z / np.sqrt(x * x + y * y + z * z))]))
    # The middle of a ball that the lattice's voxels show is a tenth of a voxel off, a quarter of a degree at most.
    assert np.abs(angles).max() <= 10.5
    assert np.abs(angles).max(axis=0).min() > 5


def test_scaled_ball_is_longer_or_shorter_by_up_to_the_share() -> None:
    shape, share = (32, 64, 64), 0.2
    scaling = SpatialAugmentation(probability=1.0, scaling=share)
    ratios = []
    for seed in range(12):
        turned = changed(batch_of(ball((0.0, 0.0, 0.0), 25.0, shape)), joint=scaling, seeds=(seed,))
        points = offsets_mm(shape)[turned.target[0, 0].numpy() > 0]
        ratios.append(points.std(axis=0) / (25.0 / 5**0.5))
    assert 1 - share - 0.02 < np.min(ratios) < 0.9
    assert 1.1 < np.max(ratios) < 1 + share + 0.02


def test_outline_in_the_baseline_goes_where_its_channel_goes() -> None:
    batch = batch_of(LESION, size=6)
    shown = batch.input.baseline.clone()
    shown[:, MASK] = batch.input.prior_mask
    turned = changed(replace(batch, input=replace(batch.input, baseline=shown)), seeds=range(6), **EVERY)
    assert torch.equal(turned.input.prior_mask, turned.input.baseline[:, MASK])
    assert not torch.equal(turned.input.prior_mask, batch.input.prior_mask)


def test_baseline_alone_moves_apart() -> None:
    batch = batch_of(LESION)
    apart = changed(batch, separate=SpatialAugmentation(probability=1.0, rotation_deg=10.0))
    assert torch.equal(apart.input.followup, batch.input.followup)
    assert torch.equal(apart.target, batch.target)
    assert not torch.equal(apart.input.baseline[:, MASK], batch.input.baseline[:, MASK])
    overlap = (apart.input.baseline[:, MASK] > 0.5) & (batch.input.baseline[:, MASK] > 0.5)
    assert overlap.sum() > 0.6 * batch.target.sum()


def test_what_is_turned_in_from_beyond_the_lattice_is_air_without_lesions() -> None:
    everywhere = batch_of(torch.ones(SHAPE))
    full = everywhere.input.changed(torch.ones_like)
    turned = changed(
        replace(everywhere, input=full), joint=SpatialAugmentation(probability=1.0, rotation_deg=45.0), seeds=(3,)
    )
    for name, values in tensors(turned).items():
        if name == "has_baseline":
            continue
        assert float((values == 0).float().mean()) > 0.05, name
        middle = values[..., 7:9, 14:18, 14:18]
        torch.testing.assert_close(middle, torch.ones_like(middle), msg=name)


@given(seed=st.integers(0, 2**63 - 1))
def test_masks_and_images_keep_their_range(seed: int) -> None:
    batch = batch_of(LESION)
    varied = changed(batch, **EVERY, seeds=(seed,))
    for stream in (varied.input.followup, varied.input.baseline):
        assert stream.isfinite().all()
        assert 0 <= float(stream[:, IMAGES].min()) <= float(stream[:, IMAGES].max()) <= 1
    mask = varied.input.baseline[:, MASK]
    # Linear interpolation neither leaves the range nor thresholds; sums of weights are off by a rounding.
    assert -1 - 1e-5 <= float(mask.min()) < 0 < float(mask.max()) <= 1 + 1e-5
    assert len(mask.unique()) > 3
    assert set(varied.target.unique().tolist()) == {0.0, 1.0}


def test_z_scores_are_not_clipped() -> None:
    batch = batch_of(LESION)
    batch.input.followup[:, IMAGES] = 4 * batch.input.followup[:, IMAGES] - 2
    settings = AugmentationSettings(intensity=IntensityAugmentation(probability=1.0, shift=0.1))
    scores = ENCODING.model_copy(update={"z_score": "voi"})
    varied = augmented(batch, settings, scores, spacing_zyx_mm=SPACING, seeds=(0,)).input.followup
    change = varied[:, IMAGES] - batch.input.followup[:, IMAGES]
    assert float(varied[:, IMAGES].min()) < -1.5
    assert float(varied[:, IMAGES].max()) > 1.5
    assert 0 < float(change.abs().max()) <= 0.1 + 1e-5
    assert torch.equal(varied[:, OTHERS], batch.input.followup[:, OTHERS])


def test_intensities_change_image_channels_only() -> None:
    batch = batch_of(LESION)
    varied = changed(batch, joint_intensity=VARIES, intensity=VARIES)
    for name in ("followup", "baseline"):
        now, before = tensors(varied)[name], tensors(batch)[name]
        assert torch.equal(now[:, OTHERS], before[:, OTHERS])
        assert (now[:, IMAGES] != before[:, IMAGES]).float().mean() > 0.9
    assert torch.equal(varied.target, batch.target)


@pytest.mark.parametrize(("part", "alike"), [("joint_intensity", True), ("intensity", False)])
def test_time_points_vary_alike_or_apart(part: str, alike: bool) -> None:
    batch = batch_of(LESION)
    batch = replace(batch, input=replace(batch.input, baseline=batch.input.followup.clone()))
    varied = changed(batch, **{part: VARIES}).input
    assert not torch.equal(varied.followup, batch.input.followup)
    assert torch.equal(varied.followup, varied.baseline) is alike


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        ({"scale": 0.2}, 0.4 * 0.8, 0.4 * 1.2),
        ({"shift": 0.1}, 0.3, 0.5),
        # The darkest and the brightest voxel of a window stay as they are; between them 0.4 becomes 0.4^gamma.
        ({"gamma": (0.8, 1.2)}, 0.4**1.2, 0.4**0.8),
    ],
)
def test_intensity_changes_by_up_to_its_setting(change: dict[str, object], low: float, high: float) -> None:
    batch = batch_of(torch.zeros(SHAPE), size=40)
    batch.input.followup[:, IMAGES] = 0.4
    batch.input.followup[:, IMAGES, 0, 0, :2] = torch.tensor([0.0, 1.0])
    varied = changed(batch, intensity=IntensityAugmentation(probability=1.0, **change), seeds=range(40))
    values = varied.input.followup[:, IMAGES, 5, 5, 5]
    spread = high - low
    assert low - 1e-6 <= float(values.min()) < low + 0.1 * spread
    assert high - 0.1 * spread < float(values.max()) <= high + 1e-6


def test_noise_has_its_standard_deviation() -> None:
    batch = batch_of(torch.zeros(SHAPE))
    batch.input.followup[:, IMAGES] = 0.5
    noisy = changed(batch, intensity=IntensityAugmentation(probability=1.0, noise=0.02))
    assert float(noisy.input.followup[:, IMAGES].std()) == pytest.approx(0.02, rel=0.02)


def test_blur_spreads_a_bright_voxel_and_keeps_its_sum() -> None:
    batch = batch_of(torch.zeros(SHAPE))
    batch.input.followup[:, IMAGES] = 0
    batch.input.followup[:, IMAGES, 8, 16, 16] = 1
    blurred = changed(batch, intensity=IntensityAugmentation(probability=1.0, blur_voxels=(0.7, 0.7)))
    for window in blurred.input.followup[0, IMAGES]:
        assert float(window.sum()) == pytest.approx(1, abs=1e-4)
        # The Gaussian's value at its middle along each axis, of whole voxels' values that sum to 1.
        peak = 1 / sum(np.exp(-0.5 * (step / 0.7) ** 2) for step in range(-4, 5))
        assert float(window[8, 16, 16]) == pytest.approx(peak**3, rel=0.03)


def test_probability_is_how_often_a_change_is_made() -> None:
    batch = batch_of(LESION, size=100)
    varied = changed(batch, intensity=IntensityAugmentation(probability=0.3, scale=0.2), seeds=range(100))
    made = (varied.input.followup != batch.input.followup).flatten(1).any(1)
    # 30 are expected, with a standard deviation of 4.6.
    assert 16 < int(made.sum()) < 44


def test_absent_baseline_stays_zero() -> None:
    batch = batch_of(LESION, known=False)
    varied = changed(batch, **EVERY)
    assert not varied.input.baseline.any()
    assert not varied.input.prior_mask.any()
    assert not varied.input.has_baseline.any()
    # The follow-up is changed as it would be beside a baseline.
    assert torch.equal(varied.input.followup, changed(batch_of(LESION), **EVERY).input.followup)


def test_lesion_that_would_be_turned_out_of_the_lattice_is_not_turned() -> None:
    corner = torch.zeros(SHAPE)
    corner[:2, :2, :2] = 1
    batch = batch_of(corner)
    kept = 0
    for seed in range(12):
        turned = changed(batch, joint=SpatialAugmentation(probability=1.0, rotation_deg=45.0), seeds=(seed,))
        assert turned.target.any()
        if torch.equal(turned.target, batch.target):
            kept += 1
            assert_same(turned, batch)
    assert kept > 0
    gone = batch_of(torch.zeros(SHAPE))
    assert not torch.equal(changed(gone, joint=TURNS).input.followup, gone.input.followup)


def test_sample_depends_on_its_seed_alone() -> None:
    batch = batch_of(LESION, size=3)
    together = changed(batch, seeds=(5, 6, 7), **EVERY)
    one = slice(1, 2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        alone = changed(
            Batch(input=batch.input[one], target=batch.target[one], present=batch.present[one]), seeds=(6,), **EVERY
        )
    for name, values in tensors(alone).items():
        assert torch.equal(values[0], tensors(together)[name][1]), name
        assert name == "has_baseline" or not torch.equal(values[0], tensors(together)[name][2]), name


def test_global_generators_are_left_as_they_were() -> None:
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    changed(batch_of(LESION), **EVERY)
    numpy_after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(numpy_before[1], numpy_after[1])
    assert numpy_before[2:] == numpy_after[2:]
    assert torch.equal(torch_before, torch.get_rng_state())


def test_seeds_have_to_be_one_per_sample() -> None:
    with pytest.raises(ValueError, match="zip"):
        changed(batch_of(LESION, size=2), joint=TURNS, seeds=(1,))
