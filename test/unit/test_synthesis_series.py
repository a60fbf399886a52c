"""Series of time points: one anatomy, ids that stay, and lesions that appear, change, vanish and come back."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from test.unit.synthetic import block, block_with_tumour
from test.unit.test_synthesis_lesions import lesion, part
from training.synthesis.changes import merging, with_history
from training.synthesis.pairs import SyntheticSeries, synthetic_pair, synthetic_series
from training.synthesis.settings import FateShares, MotionSettings, SeriesSettings, SynthesisSettings

TIMES = 4
LIVELY = SynthesisSettings(
    fates=FateShares(persists=0.4, new=0.3, gone=0.3),
    merging_share=0.3,
    missing_outlines=0.2,
    false_outlines=0.1,
    series=SeriesSettings(vanishing_share=0.4, returning_share=0.6),
    motion=MotionSettings(rotation_deg=2.0, deformation_mm=(0.1, 0.5)),
)


@cache
def series(seed: int) -> SyntheticSeries:
    source = block_with_tumour() if seed % 2 == 0 else block()
    generator = np.random.default_rng(seed)
    return synthetic_series(source, generator, times=TIMES, shapes=[source], settings=LIVELY)


def volumes_ml(drawn: SyntheticSeries, lesion_id: int) -> list[float]:
    volumes = [float((each.ids == lesion_id).sum()) * each.grid.voxel_volume_ml for each in drawn.lesions]
    assert drawn.volumes_ml[lesion_id] == pytest.approx(volumes)
    return volumes


def test_series_of_two_is_a_pair() -> None:
    (drawn,) = synthetic_series(block(), np.random.default_rng(1), times=2, shapes=[block()]).pairs
    pair = synthetic_pair(block(), np.random.default_rng(1), shapes=[block()])
    np.testing.assert_array_equal(drawn.truth.ids, pair.truth.ids)
    np.testing.assert_array_equal(drawn.case.followups["primary"].hu, pair.case.followups["primary"].hu)
    assert drawn.case.clicks == pair.case.clicks
    assert drawn.facts.keys() == pair.facts.keys()


@pytest.mark.parametrize("seed", range(4))
def test_follow_up_of_each_pair_is_the_baseline_of_the_next(seed: int) -> None:
    drawn = series(seed)
    assert len(drawn.pairs) == TIMES - 1
    assert len(drawn.scans) == len(drawn.lesions) == TIMES
    for earlier, later in pairwise(drawn.pairs):
        prior = later.case.baselines["primary"]
        assert prior.lesions is not None
        assert prior.scan.grid == earlier.case.followups["primary"].grid
        np.testing.assert_array_equal(prior.scan.hu, earlier.case.followups["primary"].hu)
        np.testing.assert_array_equal(prior.lesions.ids, earlier.truth.ids)
    origins = {scan.grid.world_xyz_mm((0, 0, 0)) for scan in drawn.scans}
    assert len(origins) == TIMES


@pytest.mark.parametrize("seed", range(4))
def test_facts_of_each_pair_say_what_its_maps_show(seed: int) -> None:
    drawn = series(seed)
    kinds: dict[int, set[str]] = {}
    for pair in drawn.pairs:
        lesions = pair.case.baselines["primary"].lesions
        assert lesions is not None
        assert set(np.unique(lesions.ids)) | set(np.unique(pair.truth.ids)) == {0, *pair.facts}
        assert {clicks.lesion_id for clicks in pair.case.clicks} == set(pair.facts)
        for lesion_id, fact in pair.facts.items():
            seen = [bool((ids == lesion_id).any()) for ids in (lesions.ids, pair.truth.ids)]
            is_absorbed = fact.true_id is not None and fact.true_id != lesion_id
            assert seen == [fact.fate != "new", fact.fate != "gone" and not is_absorbed]
            kinds.setdefault(lesion_id, set()).add(fact.lesion_type)
    assert all(len(types) == 1 for types in kinds.values())


def test_lesions_have_histories_of_all_kinds() -> None:
    found = set()
    for seed in range(4):
        ids = {lesion_id for pair in series(seed).pairs for lesion_id in pair.facts}
        for lesion_id in ids:
            volumes = volumes_ml(series(seed), lesion_id)
            there = "".join("x" if volume else "-" for volume in volumes)
            found |= {part for part in ("xxxx", "--x", "xx-", "x-x") if part in there}
            for before, later in pairwise(volumes):
                found.add("grows" if 0 < before < later / 1.2 else "shrinks" if 0 < later < before / 1.2 else "")
    assert {"xxxx", "--x", "xx-", "x-x", "grows", "shrinks"} <= found


def test_real_tumour_is_in_every_scan_and_changes() -> None:
    for seed in (0, 2):
        ids = {lesion_id for pair in series(seed).pairs for lesion_id, fact in pair.facts.items() if fact.real}
        for lesion_id in ids:
            volumes = volumes_ml(series(seed), lesion_id)
            assert all(volumes[1:])
            assert len({round(volume, 2) for volume in volumes}) == TIMES


def test_history_ends_with_merging_and_keeps_to_its_limit() -> None:
    generator = np.random.default_rng(0)
    settings = SynthesisSettings(series=SeriesSettings(vanishing_share=1.0, returning_share=1.0))
    host, other = merging(lesion(), generator, other_id=9)
    assert with_history(other, generator, settings, times=5) is other
    kept = with_history(host, generator, settings, times=5, stays=True)
    assert [len(kept.at(time)) for time in range(6)] == [1, 2, 2, 2, 2, 0]
    alternating = with_history(lesion(), generator, settings, times=5, largest_mm=10.0)
    assert [bool(alternating.at(time)) for time in range(5)] == [True, True, False, True, False]
    assert alternating.largest_mm == 10.0
    late = [with_history(lesion(baseline=()), generator, settings, times=5) for _ in range(20)]
    firsts = {next(time for time in range(5) if each.at(time)) for each in late}
    assert firsts == {1, 2, 3, 4}
    grown = with_history(
        lesion(followup=(part(radius_mm=34.0),)),
        generator,
        SynthesisSettings(series=SeriesSettings(vanishing_share=0.0)),
        times=8,
    )
    assert grown.largest_mm <= 30.0 * 1.7
