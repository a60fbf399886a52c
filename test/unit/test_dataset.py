from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longilesion.alignment import place_vois
from longilesion.case import LesionMap
from longilesion.config import EncodingSettings
from longilesion.encoding import encode
from longilesion.errors import InputError
from longilesion.geometry import Grid
from longilesion.prompts import complete_prompts
from longilesion.voi import lattice_around, sample_voi_pair
from test.unit.builders import ball, dual_encoder, model_settings
from test.unit.synthetic import block, pair, tumour_pairs
from training.cache import Cache, CachedLesion
from training.cutout import CutOut, cut
from training.cutout_file import read_cut_out, write_cut_out
from training.dataset import CachedLesions, SyntheticLesions, pair_lesions
from training.recipe import DataSettings, JitterSettings, Recipe
from training.samples import Sample, _moved_lattices, collate, sample_lesion, sample_target, unjittered
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
    data=DataSettings(reuse=2, drawn_together=6),
    jitter=NO_JITTER,
    model=MODEL,
)


@cache
def lesions_of(drawn: SyntheticPair) -> tuple[CutOut, ...]:
    return tuple(pair_lesions(drawn, MODEL))


def sample(lesion: CutOut, jitter: JitterSettings = NO_JITTER, seed: int = 0) -> Sample | None:
    return sample_lesion(lesion, MODEL, jitter, np.random.default_rng(seed))


def tumour() -> tuple[SyntheticPair, CutOut]:
    drawn = tumour_pairs()[0]
    return drawn, next(lesion for lesion in lesions_of(drawn) if drawn.facts[lesion.prompt.lesion_id].real)


@cache
def all_samples() -> tuple[tuple[CutOut, Sample], ...]:
    lesions = [lesion for seed in range(6) for lesion in lesions_of(pair(seed))]
    return tuple((lesion, drawn) for lesion in lesions if (drawn := sample(lesion)) is not None)


# ------------------------------------------------------------------------------------------------------------- samples


def test_training_sample_is_the_inference_sample_bit_for_bit() -> None:
    compared = 0
    for drawn in (pair(1), *tumour_pairs()):
        prompts = {prompt.lesion_id: prompt for prompt in complete_prompts(drawn.case).lesions}
        for lesion in lesions_of(drawn):
            training = sample(lesion)
            if training is None:
                continue
            prompt = prompts[lesion.prompt.lesion_id]
            placement = place_vois(drawn.case, prompt, MODEL)
            inference = encode([sample_voi_pair(drawn.case, prompt, placement, MODEL.voi)], MODEL.encoding)
            given = collate([training], RECIPE).input
            assert torch.equal(given.followup, inference.followup)
            assert torch.equal(given.baseline, inference.baseline)
            assert torch.equal(given.has_baseline, inference.has_baseline)
            compared += 1
    assert compared >= 3


def test_lattice_of_training_is_the_middle_of_that_of_inference() -> None:
    _, lesion = tumour()
    whole, part = sample(lesion), sample(lesion, NO_JITTER.model_copy(update={"shape_zyx": (8, 16, 16)}))
    assert whole is not None
    assert part is not None
    middle = (slice(4, 12), slice(8, 24), slice(8, 24))
    np.testing.assert_allclose(part.pair.followup.hu, whole.pair.followup.hu[middle], atol=0.01)
    np.testing.assert_allclose(part.pair.baseline_mask, whole.pair.baseline_mask[middle], atol=1e-5)
    np.testing.assert_array_equal(part.target, whole.target[middle])


def test_target_is_the_lesion_where_its_lattice_lies() -> None:
    grid = Grid.from_spacing((40, 80, 80), (2.0, 1.0, 1.0))
    centre = (40.0, 44.0, 36.0)
    ids = np.zeros(grid.shape_zyx, np.uint16)
    ids[ball(grid, centre, 9.0)] = 7
    ids[ball(grid, (62.0, 44.0, 36.0), 9.0)] = 8
    lattice = grid.lattice(start_zyx=(10.3, 20.7, 12.2), step_zyx=(1.0, 2.0, 2.0), shape_zyx=(16, 24, 30))
    target = sample_target(LesionMap(ids=ids, grid=grid), 7, lattice)
    assert target.dtype == np.float32
    assert set(np.unique(target)) == {0, 1}
    expected = ball(lattice, centre, 9.0)
    assert (target != expected).sum() < 0.06 * expected.sum()


def test_present_lesions_are_in_their_target_and_gone_ones_are_not() -> None:
    fates = Counter(lesion.fate for lesion, _ in all_samples())
    assert fates["gone"] > 0
    assert fates["persists"] > 0
    for lesion, drawn in all_samples():
        assert drawn.is_present == (lesion.fate != "gone")
        assert (drawn.target.sum() > 8) == drawn.is_present


def test_target_moves_with_a_jittered_lattice() -> None:
    drawn, lesion = tumour()
    wide = JitterSettings(shift_mm=4.0, unaligned_share=0.0, zoom_factor=1.25, placements=3)
    shaken = [each for seed in range(4) if (each := sample(lesion, wide, seed)) is not None]
    grids = {tuple(each.pair.followup.grid.world_from_voxel.ravel()) for each in shaken}
    assert len(grids) == len(shaken) > 1
    truth_ml = np.pi / 6 * drawn.facts[lesion.prompt.lesion_id].diameter_mm ** 3 / 1000
    for each in shaken:
        assert each.target.sum() * each.pair.followup.grid.voxel_volume_ml == pytest.approx(truth_ml, rel=0.15)


def test_lattice_that_misses_its_lesion_teaches_nothing() -> None:
    _, lesion = tumour()
    astray = JitterSettings(shift_mm=400.0, unaligned_share=0.0, zoom_factor=1.0)
    assert [sample(lesion, astray, seed) for seed in range(5)].count(None) >= 4


def test_clicks_move_in_the_heat_map_alone() -> None:
    _, lesion = tumour()
    moved = sample(lesion, NO_JITTER.model_copy(update={"click_voxels": 4.0}))
    still = sample(lesion)
    assert moved is not None
    assert still is not None
    assert moved.pair.baseline is not None
    assert still.pair.baseline is not None
    np.testing.assert_array_equal(moved.pair.followup.hu, still.pair.followup.hu)
    for now, before in ((moved.pair.followup, still.pair.followup), (moved.pair.baseline, still.pair.baseline)):
        shift = np.abs(np.subtract(now.click_zyx, before.click_zyx))
        assert 0 < shift.max() <= 4.0 + 1e-6


@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(0.0, 4.0), share=st.floats(0.0, 0.5), zoom=st.floats(1.0, 1.3))
@settings(deadline=None, max_examples=25)
def test_lattices_shift_apart_and_the_centre_lies_in_the_inner_share(
    seed: int, shift: float, share: float, zoom: float
) -> None:
    """Promptable LongiSeg (section 3.2): up to 4 voxels, and the inner half."""
    _, lesion = tumour()
    jitter = NO_JITTER.model_copy(update={"shift_voxels": shift, "centre_share": share, "zoom_factor": zoom})
    drawn = sample(lesion, jitter, seed)
    # The tumour is wide enough to be in every such lattice.
    assert drawn is not None
    assert drawn.pair.baseline is not None
    middle = (np.array(MODEL.voi.shape_zyx) - 1) / 2
    offsets = [
        lattice.index_zyx(centre) - middle
        for lattice, centre in (
            (drawn.pair.followup.grid, lesion.placement.followup_xyz_mm),
            (drawn.pair.baseline.grid, lesion.placement.baseline_xyz_mm),
        )
    ]
    assert (np.abs(offsets) <= shift + share / 2 * np.array(MODEL.voi.shape_zyx) + 1e-6).all()
    assert (np.abs(offsets[0] - offsets[1]) <= 2 * shift + 1e-6).all()


def test_offsets_reach_all_of_their_ranges() -> None:
    _, lesion = tumour()
    common, apart = [], []
    shape = np.array(MODEL.voi.shape_zyx)
    for seed in range(200):
        own, alike = (
            moved_offsets(lesion, NO_JITTER.model_copy(update=change), seed)
            for change in ({"shift_voxels": 4.0}, {"centre_share": 0.5})
        )
        apart.append(own)
        common.append(alike)
    apart, common = np.array(apart), np.array(common) / shape
    # Each moves on its own by up to 4 voxels; together by up to a quarter of the lattice.
    np.testing.assert_allclose(np.abs(apart).max(axis=0), 4.0, atol=0.2)
    np.testing.assert_allclose(apart.mean(axis=0), 0.0, atol=0.6)
    assert np.abs(np.corrcoef(apart[:, 0, 0], apart[:, 1, 0])[0, 1]) < 0.25
    np.testing.assert_allclose(np.abs(common).max(axis=0), 0.25, atol=0.01)
    np.testing.assert_allclose(common[:, 0], common[:, 1], atol=1e-6)


def moved_offsets(lesion: CutOut, jitter: JitterSettings, seed: int) -> np.ndarray:
    """How far both lattices' middles moved, in voxels."""
    moved = _moved_lattices(lesion.placement, lesion, np.random.default_rng(seed), jitter, MODEL.voi)
    offsets = []
    for name, scan in (
        ("followup_xyz_mm", lesion.case.followups["primary"]),
        ("baseline_xyz_mm", lesion.case.baselines["primary"].scan),
    ):
        _, grid = scan.grid.lps_view(scan.hu)
        lattice = lattice_around(grid, getattr(lesion.placement, name), MODEL.voi, zoom=lesion.placement.zoom)
        offsets.append(lattice.index_zyx(getattr(moved, name)) - (np.array(MODEL.voi.shape_zyx) - 1) / 2)
    return np.array(offsets)


def test_lattices_are_exactly_centred_without_jitter() -> None:
    _, lesion = tumour()
    jitter = JitterSettings(shift_voxels=4.0, centre_share=0.5, shape_zyx=(8, 16, 16))
    drawn = sample(lesion, unjittered(jitter))
    assert drawn is not None
    for seen, centre in (
        (drawn.pair.followup, lesion.placement.followup_xyz_mm),
        (drawn.pair.baseline, lesion.placement.baseline_xyz_mm),
    ):
        np.testing.assert_allclose(seen.grid.index_zyx(centre), (3.5, 7.5, 7.5), atol=1e-9)


def test_batch_holds_targets_and_presence_in_the_samples_order() -> None:
    samples = [drawn for _, drawn in all_samples()[:4]]
    batch = collate(samples, RECIPE)
    assert batch.target.shape == (4, 1, 16, 32, 32)
    assert batch.present.tolist() == [each.is_present for each in samples]
    for index, each in enumerate(samples):
        np.testing.assert_array_equal(batch.target[index, 0], each.target)


def test_batch_says_which_lesions_have_an_outline_in_the_baseline() -> None:
    drawn = next(
        each for _, each in all_samples() if each.pair.baseline_mask is not None and each.pair.baseline_mask.any()
    )
    new = replace(drawn, pair=replace(drawn.pair, baseline_mask=np.zeros_like(drawn.pair.baseline_mask)))
    without = replace(drawn, pair=replace(drawn.pair, baseline=None, baseline_mask=None, baseline_others=None))
    assert collate([drawn, new, without, drawn], RECIPE).outlined == (True, False, False, True)
    hidden = RECIPE.model_copy(update={"baseline_masking": 1.0})
    assert collate([drawn], hidden).outlined == (False,)


def test_baselines_are_hidden_as_often_as_the_recipe_says_whatever_else_is_in_the_batch() -> None:
    drawn = next(each for _, each in all_samples() if each.pair.baseline_mask is not None)
    samples = [replace(drawn, seed=seed) for seed in range(60)]

    def shown(samples: list[Sample], share: float) -> list[bool]:
        batch = collate(samples, RECIPE.model_copy(update={"baseline_masking": share}))
        maps = batch.input.baseline.flatten(1).any(1)
        assert batch.input.has_baseline.tolist() == maps.tolist()
        return maps.tolist()

    half = shown(samples, 0.5)
    assert 18 < sum(half) < 42
    assert shown(samples[7:9], 0.5) == half[7:9]
    assert all(shown(samples[:4], 0.0))
    assert not any(shown(samples[:4], 1.0))


# --------------------------------------------------------------------------------------------------- drawn on the fly


@pytest.fixture
def _few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(source: object, generator: np.random.Generator, **_: object) -> SyntheticPair:
        return pair(int(generator.integers(6)))

    monkeypatch.setattr("training.dataset.synthetic_pair", drawn)


@pytest.mark.usefixtures("_few_pairs")
def test_stream_shows_each_drawn_lesion_as_often_as_the_recipe_says() -> None:
    lesions = SyntheticLesions([block()], RECIPE, seed=0)
    assert lesions.drawn_together == 12
    seen = [lesions[index] for index in range(12)]
    times = Counter(id(each.pair) for each in seen)
    assert max(times.values()) == 2
    assert sum(one.pair is two.pair for one, two in pairwise(seen)) < 6
    assert len({each.seed for each in seen}) == 12


@pytest.mark.usefixtures("_few_pairs")
def test_drawn_sample_depends_on_its_number_and_the_seed_alone() -> None:
    first, again, other = (SyntheticLesions([block()], RECIPE, seed=seed) for seed in (1, 1, 2))
    forwards = [first[index] for index in (0, 5, 13)]
    backwards = [again[index] for index in (13, 5, 0)][::-1]
    for one, two in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(one.pair.followup.hu, two.pair.followup.hu)
        np.testing.assert_array_equal(one.target, two.target)
        assert one.seed == two.seed
    assert any(
        not np.array_equal(one.pair.followup.hu, other[index].pair.followup.hu)
        for one, index in zip(forwards, (0, 5, 13), strict=True)
    )


# ------------------------------------------------------------------------------------------------------ from the cache


@pytest.fixture
def cached(tmp_path: Path) -> Cache:
    """Three patients: one with many lesions, two with one."""
    lesions = [lesion for lesion, _ in all_samples()][:6]
    patients = ["many"] * 4 + ["one", "two"]
    entries = []
    for number, (lesion, patient) in enumerate(zip(lesions, patients, strict=True)):
        entry = CachedLesion(
            case_id=f"case{number}",
            patient=patient,
            lesion_id=lesion.prompt.lesion_id,
            fate=lesion.fate,
            is_seen=True,
        )
        entries.append(entry)
        path = Cache(folder=tmp_path, lesions=()).path(entry)
        write_cut_out(path, cut(lesion, MODEL, (RECIPE.jitter,)))
    return Cache(folder=tmp_path, lesions=tuple(entries))


def test_every_patient_is_seen_once_in_each_round(cached: Cache) -> None:
    lesions = CachedLesions(cached, RECIPE, seed=3)
    numbers = {cached.path(entry): entry.patient for entry in cached.lesions}
    read: list[str] = []
    original = numbers.__getitem__

    def noted(path: Path) -> CutOut:
        read.append(original(path))
        return read_cut_out(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.dataset.read_cut_out", noted)
        for index in range(12):
            lesions[index]
    for start in range(0, 12, 3):
        assert sorted(read[start : start + 3]) == ["many", "one", "two"]
    assert [read[start : start + 3] for start in range(0, 12, 3)].count(read[:3]) < 4


def test_cached_sample_depends_on_its_number_and_the_seed_alone(cached: Cache) -> None:
    first, again, other = (CachedLesions(cached, RECIPE, seed=seed) for seed in (1, 1, 2))
    for index in (7, 0, 3):
        np.testing.assert_array_equal(first[index].pair.followup.hu, again[index].pair.followup.hu)
        assert first[index].seed == again[index].seed != other[index].seed


def test_damaged_cut_out_is_named_and_another_takes_its_place(cached: Cache) -> None:
    broken = cached.path(cached.lesions[4])
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 0xFF
    broken.write_bytes(content)
    lesions = CachedLesions(cached, RECIPE, seed=0)
    skipped = [name for index in range(6) for name in lesions[index].skipped]
    assert len(skipped) >= 2
    assert all(str(broken) in name for name in skipped)


def test_cache_of_damaged_cut_outs_alone_is_refused_in_one_line(cached: Cache) -> None:
    for lesion in cached.lesions:
        cached.path(lesion).write_bytes(b"nothing")
    with pytest.raises(InputError, match="in a row") as caught:
        CachedLesions(cached, RECIPE, seed=0)[0]
    assert "\n" not in str(caught.value)


def test_lesions_that_no_lattice_shows_are_left_out_and_a_cache_without_others_is_refused(cached: Cache) -> None:
    unseen = [lesion.model_copy(update={"is_seen": False}) for lesion in cached.lesions]
    with pytest.raises(InputError, match="no lesion lies where it is looked for"):
        CachedLesions(Cache(folder=cached.folder, lesions=tuple(unseen)), RECIPE, seed=0)
    only = Cache(folder=cached.folder, lesions=(*unseen[:5], cached.lesions[5]))
    samples = list(islice((CachedLesions(only, RECIPE, seed=0)[index] for index in range(3)), 3))
    assert len({each.pair.followup.hu.tobytes() for each in samples}) == 1
