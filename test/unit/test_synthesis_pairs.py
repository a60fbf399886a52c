from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.ndimage import binary_dilation, label

from longilesion.case import AIR_HU
from test.unit.synthetic import TUMOUR_RADIUS_MM, block, block_with_tumour, pair, tumour_pairs
from training.evaluate import exam_of
from training.synthesis.pairs import SyntheticPair, synthetic_pair
from training.synthesis.settings import FateShares, MotionSettings, ProtocolChanges, SynthesisSettings

SEEDS = range(8)
PERSISTING = FateShares(persists=1, new=0, gone=0)
CALM = MotionSettings(rotation_deg=0, deformation_mm=(0, 0))


def baseline_ids(drawn: SyntheticPair) -> NDArray[np.uint16]:
    lesions = drawn.case.baselines["primary"].lesions
    assert lesions is not None
    return lesions.ids


def drawn_with(settings: SynthesisSettings, seed: int, *, whole: bool = False) -> SyntheticPair:
    return synthetic_pair(block(), np.random.default_rng(seed), shapes=[block()], settings=settings, whole=whole)


@cache
def faulty_pairs() -> tuple[SyntheticPair, ...]:
    settings = SynthesisSettings(fates=PERSISTING, missing_outlines=0.5, false_outlines=0.4, distractor_share=0)
    return tuple(drawn_with(settings, seed) for seed in range(3))


# ------------------------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("whole", [False, True])
def test_pair_depends_on_its_generator_alone(whole: bool) -> None:
    source = block()
    first, again, other = (
        synthetic_pair(source, np.random.default_rng(seed), shapes=[source], whole=whole) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.truth.ids, again.truth.ids)
    np.testing.assert_array_equal(first.case.followups["primary"].hu, again.case.followups["primary"].hu)
    np.testing.assert_array_equal(first.case.baselines["primary"].scan.hu, again.case.baselines["primary"].scan.hu)
    np.testing.assert_array_equal(baseline_ids(first), baseline_ids(again))
    assert first.case.clicks == again.case.clicks
    assert first.case.clicks != other.case.clicks


@pytest.mark.parametrize("seed", SEEDS)
def test_facts_say_what_the_maps_show(seed: int) -> None:
    drawn = pair(seed)
    before, after = baseline_ids(drawn), drawn.truth.ids
    assert set(np.unique(before)) | set(np.unique(after)) == {0, *drawn.facts}
    assert {clicks.lesion_id for clicks in drawn.case.clicks} == set(drawn.facts)
    for lesion_id, fact in drawn.facts.items():
        voxels = int((before == lesion_id).sum()), int((after == lesion_id).sum())
        assert [count >= 10 for count in voxels] == [fact.fate != "new", fact.fate != "gone"]
        assert fact.fate == "persists" or min(voxels) == 0
        assert fact.true_id == (None if fact.fate == "gone" else lesion_id)
        grid = drawn.truth.grid if fact.fate != "gone" else drawn.case.baselines["primary"].scan.grid
        volume_ml = np.pi / 6 * fact.diameter_mm**3 / 1000
        assert volume_ml == pytest.approx(voxels[fact.fate != "gone"] * grid.voxel_volume_ml)


def test_all_fates_are_drawn() -> None:
    fates = Counter(fact.fate for seed in SEEDS for fact in pair(seed).facts.values())
    assert set(fates) == {"persists", "new", "gone"}


@pytest.mark.parametrize("seed", SEEDS)
def test_maps_and_scans_share_their_grids_and_the_two_frames_are_unrelated(seed: int) -> None:
    drawn = pair(seed)
    prior, followup = drawn.case.baselines["primary"], drawn.case.followups["primary"]
    assert prior.lesions is not None
    assert prior.lesions.grid is prior.scan.grid
    assert drawn.truth.grid is followup.grid
    assert drawn.truth.ids.shape == followup.hu.shape == followup.grid.shape_zyx
    assert np.linalg.norm(np.subtract(prior.scan.grid.centre_xyz_mm, followup.grid.centre_xyz_mm)) > 1
    for scan in (prior.scan, followup):
        assert scan.hu.dtype == np.int16
        assert AIR_HU <= scan.hu.min() <= -200 < 0 < scan.hu.max() <= 3000


def test_real_tumour_stays_outlined_in_both_scans() -> None:
    volume_ml = 4 / 3 * np.pi * TUMOUR_RADIUS_MM**3 / 1000
    for drawn in tumour_pairs():
        assert [lesion_id for lesion_id, fact in drawn.facts.items() if fact.real] == [1]
        assert drawn.facts[1].fate == "persists"
        prior, followup = drawn.case.baselines["primary"], drawn.case.followups["primary"]
        baseline_ml = (baseline_ids(drawn) == 1).sum() * prior.scan.grid.voxel_volume_ml
        assert baseline_ml == pytest.approx(volume_ml, rel=0.1)
        followup_ml = (drawn.truth.ids == 1).sum() * followup.grid.voxel_volume_ml
        assert 0.15 < followup_ml / volume_ml < 4
        for hu, ids in ((prior.scan.hu, baseline_ids(drawn)), (followup.hu, drawn.truth.ids)):
            mask = ids == 1
            around = binary_dilation(mask, iterations=3) & ~binary_dilation(mask) & (ids == 0)
            assert np.median(hu[mask]) - np.median(hu[around]) > 30


def test_real_tumour_can_change_as_the_anatomy_around_it_lets_it() -> None:
    source = block_with_tumour()
    settings = SynthesisSettings(real_share=1, anatomy_share=1, motion=CALM)
    drawn = synthetic_pair(source, np.random.default_rng(3), shapes=[source], settings=settings)
    volumes_ml = [
        (ids == 1).sum() * grid.voxel_volume_ml
        for ids, grid in (
            (baseline_ids(drawn), drawn.case.baselines["primary"].scan.grid),
            (drawn.truth.ids, drawn.truth.grid),
        )
    ]
    assert abs(np.log(volumes_ml[1] / volumes_ml[0])) > 0.1


def test_whole_scan_shows_all_of_the_volume_without_empty_slices() -> None:
    drawn = drawn_with(
        SynthesisSettings(whole_attempts=(6, 6), protocol_changes=ProtocolChanges(slices=False)), 5, whole=True
    )
    for scan in (drawn.case.baselines["primary"].scan, drawn.case.followups["primary"]):
        np.testing.assert_allclose(np.multiply(scan.hu.shape, scan.grid.spacing_zyx_mm), (180, 180, 180), atol=3)
        assert all((section > -200).mean() > 0.5 for section in scan.hu)
    assert (
        drawn.case.baselines["primary"].scan.grid.spacing_zyx_mm == drawn.case.followups["primary"].grid.spacing_zyx_mm
    )
    assert len(drawn.facts) >= 2


@pytest.mark.gpu
def test_pair_is_the_same_on_a_gpu_but_for_rounding() -> None:
    drawn = [
        synthetic_pair(block(), np.random.default_rng(3), shapes=[block()], device=torch.device(name))
        for name in ("cpu", "cuda")
    ]
    on_cpu, on_gpu = (each.case.followups["primary"].hu.astype(float) for each in drawn)
    assert np.quantile(np.abs(on_cpu - on_gpu), 0.999) <= 2


# ------------------------------------------------------------------------------------------------------------ fates


def test_two_lesions_merge_into_one_outline() -> None:
    found = 0
    for seed in range(3):
        drawn = drawn_with(SynthesisSettings(fates=PERSISTING, merging_share=1, motion=CALM), seed)
        before, after = baseline_ids(drawn), drawn.truth.ids
        for lesion_id, fact in drawn.facts.items():
            if fact.true_id == lesion_id:
                continue
            found += 1
            assert fact.true_id is not None
            assert fact.fate == drawn.facts[fact.true_id].fate == "merged"
            assert (before == lesion_id).sum() >= 10
            assert (before == fact.true_id).sum() >= 10
            assert not (after == lesion_id).any()
            assert (after == fact.true_id).sum() >= 10
            clicks = next(each for each in drawn.case.clicks if each.lesion_id == lesion_id)
            assert clicks.baseline is not None
            assert clicks.followup is not None
        exam = exam_of("merged", drawn)
        assert {each: fact.true_id for each, fact in exam.facts.items()} == {
            each: fact.true_id for each, fact in drawn.facts.items()
        }
    assert found >= 2


def test_larger_lesion_falls_into_two_parts_of_one_id() -> None:
    settings = SynthesisSettings(fates=PERSISTING, splitting_share=1, distractor_share=0, motion=CALM)
    parts = Counter(
        label(drawn.truth.ids == lesion_id, np.ones((3, 3, 3)))[1]
        for drawn in (drawn_with(settings, seed) for seed in range(3))
        for lesion_id in drawn.facts
    )
    assert parts[2] >= 2


def test_missed_lesion_is_new_and_false_outline_is_gone() -> None:
    fates: Counter[str] = Counter()
    for drawn in faulty_pairs():
        for lesion_id, fact in drawn.facts.items():
            fates[fact.fate] += 1
            assert (baseline_ids(drawn) == lesion_id).any() == (fact.fate != "new")
            assert (drawn.truth.ids == lesion_id).any() == (fact.fate != "gone")
    # Without errors, all of them would persist.
    assert fates["new"] >= 2
    assert fates["gone"] >= 2
    assert fates["persists"] >= 2


def test_settings_refuse_what_cannot_be_drawn() -> None:
    with pytest.raises(ValidationError, match="attempts: expected a range"):
        SynthesisSettings(attempts=(5, 2))
    with pytest.raises(ValidationError, match="fates: expected at least one share above 0"):
        SynthesisSettings(fates=FateShares(persists=0, new=0, gone=0))
