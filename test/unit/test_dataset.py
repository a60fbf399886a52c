from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from longilesion.alignment import place_vois
from longilesion.case import LesionMap
from longilesion.config import EncodingSettings
from longilesion.encoding import encode
from longilesion.geometry import Grid
from longilesion.prompts import complete_prompts
from longilesion.voi import sample_voi_pair
from test.unit.builders import ball, dual_encoder, model_settings
from test.unit.synthetic import block, pair, tumour_pairs
from training.dataset import Sample, SyntheticLesions, augmented, collate, lesion_samples, sample_target
from training.recipe import DataSettings, JitterSettings, Recipe
from training.synthesis.pairs import SyntheticPair

NO_JITTER = JitterSettings(shift_mm=0.0, unaligned_share=0.0, zoom_factor=1.0, placements=1)
MODEL = model_settings(
    shape_zyx=(16, 32, 32),
    spacing_zyx_mm=(4.0, 2.0, 2.0),
    encoding=EncodingSettings(
        clip_hu=((-1000.0, 400.0), (-160.0, 240.0)),
        followup_channels=("image", "click_heatmap"),
        baseline_channels=("image", "lesion_mask", "click_heatmap"),
        other_lesions_value=-1.0,
    ),
    network=dual_encoder(),
)
RECIPE = Recipe(
    name="test",
    steps=4,
    batch_size=2,
    data=DataSettings(train=(), validation=(), reuse=2),
    jitter=NO_JITTER,
    model=MODEL,
)
IMAGES, MASK, CLICK = slice(0, 2), 2, 3


def samples_of(drawn: SyntheticPair, jitter: JitterSettings = NO_JITTER) -> list[Sample]:
    return list(lesion_samples(drawn, MODEL, np.random.default_rng(0), jitter=jitter))


@cache
def all_samples() -> tuple[Sample, ...]:
    return tuple(sample for seed in range(6) for sample in samples_of(pair(seed)))


class FixedDraws:
    """Stands in for torch.rand: always the same value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, size: Sequence[int], *, generator: torch.Generator) -> torch.Tensor:
        return torch.full(tuple(size), self.value)


def test_training_sample_is_the_inference_sample_bit_for_bit() -> None:
    compared = 0
    for drawn in (pair(1), *tumour_pairs()):
        prompts = {drawn.facts[prompt.lesion_id]: prompt for prompt in complete_prompts(drawn.case)}
        for sample in samples_of(drawn):
            prompt = prompts[sample.fact]
            placement = place_vois(drawn.case, prompt, MODEL)
            inference = encode([sample_voi_pair(drawn.case, prompt, placement, MODEL.voi)], MODEL.encoding)
            training = collate([sample], RECIPE).input
            assert torch.equal(training.followup, inference.followup)
            assert torch.equal(training.baseline, inference.baseline)
            assert torch.equal(training.has_baseline, inference.has_baseline)
            compared += 1
    assert compared >= 3


def test_lattice_of_training_is_the_middle_of_that_of_inference() -> None:
    cropped = NO_JITTER.model_copy(update={"shape_zyx": (8, 16, 16)})
    drawn = tumour_pairs()[0]
    whole, part = (
        next(sample for sample in samples_of(drawn, jitter) if sample.fact.real) for jitter in (NO_JITTER, cropped)
    )
    middle = (slice(4, 12), slice(8, 24), slice(8, 24))
    np.testing.assert_allclose(part.pair.followup.hu, whole.pair.followup.hu[middle], atol=0.01)
    np.testing.assert_allclose(part.pair.baseline_mask, whole.pair.baseline_mask[middle], atol=1e-5)
    np.testing.assert_array_equal(part.target, whole.target[middle])


def test_target_is_the_lesion_where_its_lattice_lies() -> None:
    grid = Grid.from_spacing((40, 80, 80), (2.0, 1.0, 1.0))
    center = (40.0, 44.0, 36.0)
    ids = np.zeros(grid.shape_zyx, np.uint16)
    ids[ball(grid, center, 9.0)] = 7
    ids[ball(grid, (62.0, 44.0, 36.0), 9.0)] = 8
    lattice = grid.lattice(start_zyx=(10.3, 20.7, 12.2), step_zyx=(1.0, 2.0, 2.0), shape_zyx=(16, 24, 30))
    target = sample_target(LesionMap(ids=ids, grid=grid), 7, lattice)
    assert target.dtype == np.float32
    assert set(np.unique(target)) == {0, 1}
    expected = ball(lattice, center, 9.0)
    assert (target != expected).sum() < 0.06 * expected.sum()


def test_present_lesions_are_in_their_target_and_gone_ones_are_not() -> None:
    for sample in all_samples():
        if sample.fact.fate == "gone":
            assert not sample.target.any()
        else:
            assert sample.target.sum() > 8


def test_target_moves_with_a_jittered_lattice() -> None:
    wide = JitterSettings(shift_mm=4.0, unaligned_share=0.0, zoom_factor=1.25, placements=3)
    shaken = [sample for sample in samples_of(tumour_pairs()[0], wide) if sample.fact.real]
    assert len({tuple(sample.pair.followup.grid.world_from_voxel.ravel()) for sample in shaken}) == len(shaken) > 1
    truth_ml = np.pi / 6 * shaken[0].fact.diameter_mm ** 3 / 1000
    for sample in shaken:
        volume_ml = float(sample.target.sum()) * sample.pair.followup.grid.voxel_volume_ml
        assert volume_ml == pytest.approx(truth_ml, rel=0.25)
        assert sample.pair.baseline is not None
        # Both time points keep one zoom.
        np.testing.assert_allclose(
            sample.pair.baseline.grid.spacing_zyx_mm, sample.pair.followup.grid.spacing_zyx_mm, rtol=1e-5
        )


def test_lesion_that_the_lattice_misses_is_left_out() -> None:
    drawn = pair(0)
    far = {
        clicks.lesion_id: replace(clicks, followup=replace(clicks.followup, point_xyz_mm=(9e3, 9e3, 9e3)))
        for clicks in drawn.case.clicks
        if clicks.followup is not None
    }
    astray = replace(drawn, case=replace(drawn.case, clicks=tuple(far.values())))
    assert {sample.fact.fate for sample in samples_of(astray)} <= {"gone"}


def test_batch_holds_targets_and_presence_in_the_samples_order() -> None:
    samples = all_samples()[:4]
    batch = collate(samples, RECIPE)
    assert batch.target.shape == (4, 1, 16, 32, 32)
    assert batch.present.tolist() == [sample.fact.fate != "gone" for sample in samples]
    for index, sample in enumerate(samples):
        np.testing.assert_array_equal(batch.target[index, 0], sample.target)


def test_augmentation_switched_off_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    # Draws from the middle: no flip, scale and gamma 1, shift 0.
    monkeypatch.setattr(torch, "rand", FixedDraws(0.5))
    batch = collate(all_samples()[:3], RECIPE)
    same = augmented(batch, RECIPE, torch.Generator())
    torch.testing.assert_close(same.input.followup, batch.input.followup)
    torch.testing.assert_close(same.input.baseline, batch.input.baseline)
    assert torch.equal(same.target, batch.target)
    assert torch.equal(same.present, batch.present)


def test_flips_turn_both_time_points_and_the_target_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", FixedDraws(0.49))
    batch = collate(all_samples()[:3], RECIPE)
    turned = augmented(batch, RECIPE, torch.Generator())
    axes = (2, 3, 4)
    assert torch.equal(turned.target, batch.target.flip(axes))
    assert torch.equal(turned.input.baseline[:, MASK:], batch.input.baseline[:, MASK:].flip(axes))
    assert torch.equal(turned.input.followup[:, MASK:], batch.input.followup[:, MASK:].flip(axes))
    torch.testing.assert_close(turned.input.followup, batch.input.followup.flip(axes), atol=0.01, rtol=0)


def test_intensities_of_the_two_time_points_vary_apart_and_masks_and_clicks_do_not() -> None:
    batch = collate(all_samples()[:3], RECIPE)
    batch = replace(batch, input=replace(batch.input, followup=batch.input.baseline))
    varied = augmented(batch, RECIPE, torch.Generator().manual_seed(1)).input
    assert not torch.allclose(varied.followup[:, IMAGES], varied.baseline[:, IMAGES], atol=0.01)
    assert torch.equal(varied.followup[:, MASK:], varied.baseline[:, MASK:])
    for stream in (varied.followup, varied.baseline):
        assert 0 <= float(stream[:, IMAGES].min()) <= float(stream[:, IMAGES].max()) <= 1


def test_absent_baseline_stays_zero_under_augmentation() -> None:
    sample = all_samples()[0]
    unknown = replace(sample, pair=replace(sample.pair, baseline=None, baseline_mask=None, baseline_others=None))
    varied = augmented(collate([unknown, sample], RECIPE), RECIPE, torch.Generator().manual_seed(0)).input
    assert varied.has_baseline.tolist() == [False, True]
    assert not varied.baseline[0].any()
    assert varied.baseline[1].any()


def test_augmentation_depends_on_its_generator_alone() -> None:
    batch = collate(all_samples()[:3], RECIPE)
    first, again, other = (augmented(batch, RECIPE, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.input.followup, again.input.followup)
    assert torch.equal(first.target, again.target)
    assert not torch.equal(first.input.followup, other.input.followup)


def test_stream_shows_each_drawn_lesion_as_often_as_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Sample] = []

    def counted(*_: object, **__: object) -> list[Sample]:
        sample = replace(all_samples()[len(drawn) % len(all_samples())])
        drawn.append(sample)
        return [sample]

    monkeypatch.setattr("training.dataset.lesion_samples", counted)
    monkeypatch.setattr("training.dataset.synthetic_pair", lambda *_, **__: None)
    seen = list(islice(SyntheticLesions([block()], RECIPE, seed=0), 60))
    times = Counter(id(sample) for sample in seen)
    assert max(times.values()) == 2
    assert set(times) <= {id(sample) for sample in drawn}
    assert sum(one is two for one, two in pairwise(seen)) < 10


def test_stream_depends_on_its_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(source: object, generator: np.random.Generator, *, shapes: object) -> Sample:
        return all_samples()[int(generator.integers(len(all_samples())))]

    monkeypatch.setattr("training.dataset.synthetic_pair", drawn)
    monkeypatch.setattr("training.dataset.lesion_samples", lambda sample, *_, **__: [sample])

    def diameters(seed: int) -> list[float]:
        stream = SyntheticLesions([block()], RECIPE, seed=seed)
        return [sample.fact.diameter_mm for sample in islice(stream, 10)]

    assert diameters(1) == diameters(1)
    assert diameters(1) != diameters(2)
