"""Series in training: chains of prepared cases, their cache, numbers of priors, errors and augmentation, a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from longilesion.alignment import place_vois
from longilesion.case import EarlierVisit
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.networks.interface import NetworkInput
from longilesion.pipeline import segment_case
from longilesion.prompts import complete_prompts
from longilesion.voi import VoiPair, sample_voi_pair
from test.unit.series import BESIDE, MIDDLE, MODEL, pair_at, visit, write_series_data
from test.unit.synthetic import block, pair
from test.unit.training_runs import arguments, write_recipe
from training import train
from training.augmentation import augmented
from training.batch import Batch
from training.cache import _key, _made_of, build_cache
from training.cutout_file import read_cut_out
from training.dataset import CachedLesions, SyntheticLesions
from training.mask_errors import with_mask_errors
from training.preparation.prepared import PreparedData, read_prepared_case
from training.recipe import (
    AugmentationSettings,
    DataSettings,
    IntensityAugmentation,
    MaskErrorSettings,
    Recipe,
    SpatialAugmentation,
    read_recipe,
)
from training.samples import sample_lesion, unjittered


def written(path: Path, *, fusion: str = "iterative") -> Path:
    text = write_recipe(path).read_text()
    text = text.replace('kind = "dual_encoder"', f'kind = "dual_encoder"\nfusion = "{fusion}"')
    path.write_text(text.replace("steps = 8", "steps = 2").replace("every = 4", "every = 2"))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return read_recipe(written(tmp_path / "iterative.toml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_series_data(tmp_path_factory.mktemp("series"))


def by_name(data: PreparedData) -> dict[str, list[str]]:
    return {case.case_id: [before.case_id for before in case.earlier] for case in data.cases}


def test_baselines_of_the_cases_before_are_the_earlier_time_points_oldest_first(data: PreparedData) -> None:
    assert by_name(data)["ann_3"] == ["ann_1", "ann_2"]
    assert by_name(data)["bob_1"] == []
    last = next(case for case in data.cases if case.case_id == "ann_3")
    case, _ = read_prepared_case(last, with_earlier=True)
    origins = [each.baselines["primary"].scan.grid.world_xyz_mm((0, 0, 0))[0] for each in case.earlier]
    assert origins == [0.0, 70.0]
    assert [sorted(each.clicks) for each in case.earlier] == [[1, 2], [1, 2]]
    assert read_prepared_case(last, with_earlier=False)[0].earlier == ()


def test_broken_chain_ends_where_it_is_broken(tmp_path: Path) -> None:
    assert by_name(write_series_data(tmp_path, {"ann_2": None}))["ann_3"] == ["ann_2"]


@pytest.mark.parametrize("previous", ["nobody", "bob_1", "ann_2", "ann_3"])
def test_previous_case_that_cannot_be_one_is_refused(previous: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.json: \w+ before ann_[23]; expected an earlier case of ann"):
        write_series_data(tmp_path, {"ann_2": previous})


def test_cached_sample_is_the_inference_sample_bit_for_bit(data: PreparedData, recipe: Recipe) -> None:
    cache = build_cache(data, data.cases, recipe, workers=1)
    folders = {case.case_id: case for case in data.cases}
    for lesion in cache.lesions:
        case, _ = read_prepared_case(folders[lesion.case_id], with_earlier=True)
        prompt = next(each for each in complete_prompts(case).lesions if each.lesion_id == lesion.lesion_id)
        expected = sample_voi_pair(case, prompt, place_vois(case, prompt, recipe.model), recipe.model.voi)
        sample = sample_lesion(
            read_cut_out(cache.path(lesion)), recipe.model, unjittered(recipe.jitter), np.random.default_rng(0)
        )
        assert sample is not None
        assert len(sample.pair.earlier) == len(expected.earlier) == len(case.earlier)
        for found, wanted in zip(sample.pair.earlier, expected.earlier, strict=True):
            np.testing.assert_array_equal(found.voi.hu, wanted.voi.hu)
            np.testing.assert_allclose(found.mask, wanted.mask, atol=1e-6)


def test_changed_earlier_scan_makes_the_later_cases_outdated_where_the_network_sees_it(tmp_path: Path) -> None:
    data = write_series_data(tmp_path / "data")

    def fingerprints() -> list[dict[str, str]]:
        return [{case.case_id: _made_of(case, with_earlier=seen) for case in data.cases} for seen in (False, True)]

    before = fingerprints()
    (path,) = (data.cases[1].input / "images" / "primary-baseline-ct").glob("*.mha")
    sitk.WriteImage(sitk.ReadImage(str(path)) + 1, str(path))
    after = fingerprints()
    changed = [{name for name in one if one[name] != two[name]} for one, two in zip(before, after, strict=True)]
    assert changed == [{"ann_2"}, {"ann_2", "ann_3"}]
    assert all(before[0][name] == before[1][name] for name in ("ann_1", "bob_1"))


def test_networks_that_see_the_baseline_alone_share_a_cache(tmp_path: Path) -> None:
    pointwise, difference, iterative = (
        read_recipe(written(tmp_path / f"{fusion}.toml", fusion=fusion))
        for fusion in ("pointwise", "difference", "iterative")
    )
    assert _key(pointwise) == _key(difference) != _key(iterative)


def test_number_of_priors_is_drawn_from_those_that_are_there(data: PreparedData, recipe: Recipe) -> None:
    cache = build_cache(data, data.cases, recipe, workers=1)

    def shown(**settings: object) -> set[int]:
        changed = recipe.model_copy(update={"data": DataSettings(**settings)})
        lesions = CachedLesions(cache, changed, seed=0)
        return {1 + len(lesions[index].pair.earlier) for index in range(20)}

    assert shown() == {1, 2, 3}
    assert shown(priors=(1, 2)) == {1, 2}
    assert shown(priors=(1, 1)) == {1}
    # All that there are, where fewer are there.
    assert shown(priors=(3, 5)) == {1, 2, 3}


def test_drawn_pair_has_as_many_priors_as_the_recipe_says(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[int] = []

    def drawn(_source: object, generator: np.random.Generator, *, priors: int, **_: object) -> object:
        wanted.append(priors)
        return pair(int(generator.integers(4)))

    monkeypatch.setattr("training.dataset.synthetic_pair", drawn)
    few = recipe.model_copy(update={"data": DataSettings(drawn_together=16, reuse=1, priors=(2, 3))})
    SyntheticLesions([block()], few, seed=0)[0]
    assert set(wanted) == {2, 3}


def sampled(times: int = 2) -> VoiPair:
    lesions = {1: MIDDLE, 2: BESIDE}
    case = pair_at(times, lesions, earlier=[visit(number, lesions) for number in range(times)])
    prompt = complete_prompts(case).lesions[0]
    return sample_voi_pair(case, prompt, place_vois(case, prompt, MODEL), MODEL.voi)


def test_each_time_point_has_mask_errors_of_its_own() -> None:
    every = MaskErrorSettings(shifted_voxels=2.0, spurious_share=1.0)
    whole = sampled()
    one, alone = (
        with_mask_errors(each, every, np.random.default_rng(3)) for each in (whole, replace(whole, earlier=()))
    )
    np.testing.assert_array_equal(one.baseline_mask, alone.baseline_mask)
    masks = [one.baseline_mask, *(past.mask for past in one.earlier)]
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            assert np.abs(mask - other).max() > 0.1
    for before, after in zip(whole.earlier, one.earlier, strict=True):
        assert after.voi is before.voi


def noise(times: int, *, seed: int = 0) -> NetworkInput:
    """A sample whose time points before the follow-up are equal."""
    encoding, shape = MODEL.encoding, MODEL.voi.shape_zyx
    generator = torch.Generator().manual_seed(seed)
    baseline = torch.rand((1, encoding.width(encoding.baseline_channels), *shape), generator=generator)
    return NetworkInput(
        followup=torch.rand((1, encoding.width(encoding.followup_channels), *shape), generator=generator),
        baseline=baseline,
        has_baseline=torch.tensor([True]),
        prior_mask=baseline[:, 1:2].clone(),
        earlier=torch.stack([baseline] * times, dim=1) if times else None,
        has_earlier=torch.ones((1, times), dtype=torch.bool) if times else None,
    )


def augmented_with(settings: AugmentationSettings, *inputs: NetworkInput) -> NetworkInput:
    joined = NetworkInput.joined(inputs)
    batch = Batch(input=joined, target=torch.ones(len(joined), 1, *MODEL.voi.shape_zyx), present=joined.has_baseline)
    seeds = list(range(5, 5 + len(joined)))
    return augmented(batch, settings, MODEL.encoding, spacing_zyx_mm=MODEL.voi.spacing_zyx_mm, seeds=seeds).input


def test_separate_augmentation_moves_all_priors_alike_and_varies_each_by_itself() -> None:
    moving = SpatialAugmentation(probability=1.0, rotation_deg=20.0, scaling=0.2, mirror_axes=("x", "y"))
    moved = augmented_with(AugmentationSettings(separate=moving), noise(2))
    for maps in moved.earlier.unbind(1):
        torch.testing.assert_close(maps, moved.baseline, rtol=0, atol=0)
    assert not torch.equal(moved.baseline, noise(2).baseline)
    varying = IntensityAugmentation(probability=1.0, scale=0.3)
    alike = augmented_with(AugmentationSettings(joint_intensity=varying), noise(2))
    apart = augmented_with(AugmentationSettings(intensity=varying), noise(2))
    images = [apart.baseline[:, 0], *(maps[:, 0] for maps in apart.earlier.unbind(1))]
    for number, image in enumerate(images):
        assert all(not torch.equal(image, other) for other in images[:number])
    for maps in alike.earlier.unbind(1):
        torch.testing.assert_close(maps, alike.baseline, rtol=0, atol=0)
    torch.testing.assert_close(apart.earlier[:, :, 1], noise(2).earlier[:, :, 1], rtol=0, atol=0)


def test_augmented_time_points_do_not_depend_on_those_of_other_samples_and_absent_ones_stay_zero() -> None:
    settings = AugmentationSettings(
        joint=SpatialAugmentation(probability=1.0, rotation_deg=10.0),
        intensity=IntensityAugmentation(probability=1.0, shift=0.3, noise=0.1),
    )
    alone, padded = augmented_with(settings, noise(1)), augmented_with(settings, noise(1), noise(3, seed=1))
    torch.testing.assert_close(padded.earlier[:1, 2:], alone.earlier, rtol=0, atol=0)
    assert not padded.earlier[:1, :2].any()
    assert padded.has_earlier.tolist() == [[False, False, True], [True, True, True]]


def test_network_of_one_to_three_priors_trains_and_segments(data: PreparedData, recipe: Recipe, tmp_path: Path) -> None:
    path = written(tmp_path / "again.toml")
    train.train(arguments(path, tmp_path / "run", data=data.folder, fold=0))
    ensemble = load_ensemble(tmp_path / "run" / "last", device="cpu")
    assert ensemble.settings.network.uses_earlier
    lesions = {1: MIDDLE, 2: BESIDE}
    case = pair_at(2, lesions, earlier=[visit(number, lesions) for number in range(2)])
    with_all, with_one, with_none = (
        segment_case(replace(case, earlier=earlier), ensemble) for earlier in (case.earlier, case.earlier[1:], ())
    )
    presences = [[lesion.presence for lesion in each.lesions] for each in (with_all, with_one, with_none)]
    assert all(presence is not None for each in presences for presence in each)
    assert presences[0] != presences[1] != presences[2]
    unknown = EarlierVisit(baselines={}, clicks={})
    again = segment_case(replace(case, earlier=(unknown, *case.earlier)), ensemble)
    assert [lesion.presence for lesion in again.lesions] == presences[0]
