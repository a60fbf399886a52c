"""Time points before the baseline: where a lesion is looked for in them, and what the network is shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longilesion.alignment import place_vois
from longilesion.case import Baseline, Case, Click, EarlierVisit, LesionPrompt, Scan
from longilesion.config import EncodingSettings, ModelSettings
from longilesion.encoding import encode
from longilesion.networks.interface import NetworkInput
from longilesion.prompts import complete_prompts
from longilesion.voi import VoiPair, sample_voi_pair
from test.unit.builders import dual_encoder
from test.unit.series import BESIDE, MIDDLE, MODEL, at, frame, pair_at, seen, visit, without_outline

ENCODING = EncodingSettings(
    followup_channels=("image", "lesion_likelihood", "click_heatmap"),
    baseline_channels=("image", "lesion_likelihood", "lesion_mask", "click_heatmap"),
    other_lesions_value=-0.5,
)


def prompt_of(case: Case, lesion_id: int = 1) -> LesionPrompt:
    return next(prompt for prompt in complete_prompts(case).lesions if prompt.lesion_id == lesion_id)


def places(case: Case, settings: ModelSettings = MODEL, *, lesion_id: int = 1) -> tuple[Click | None, ...]:
    return place_vois(case, prompt_of(case, lesion_id), settings).earlier


def pair_of(case: Case, lesion_id: int = 1) -> VoiPair:
    prompt = prompt_of(case, lesion_id)
    return sample_voi_pair(case, prompt, place_vois(case, prompt, MODEL), MODEL.voi)


def distance_mm(found: Click | None, expected: Click) -> float:
    assert found is not None
    return float(np.linalg.norm(np.subtract(found.point_xyz_mm, expected.point_xyz_mm)))


def test_outlined_lesion_is_looked_for_at_its_outlines_centre() -> None:
    wrong = {1: at(0, MIDDLE, (9.0, 0.0, 0.0))}
    (found,) = places(pair_at(1, {1: MIDDLE}, earlier=[visit(0, {1: MIDDLE}, wrong)]))
    assert distance_mm(found, at(0, MIDDLE)) < 0.1


def test_lesion_with_a_click_alone_is_looked_for_near_the_click() -> None:
    error = (4.0, -3.0, 3.0)
    earlier = without_outline(visit(0, {1: MIDDLE}, {1: at(0, MIDDLE, error)}), 1)
    (found,) = places(pair_at(1, {1: MIDDLE}, earlier=[earlier]))
    assert distance_mm(found, at(0, MIDDLE)) < 3.0 < distance_mm(at(0, MIDDLE, error), at(0, MIDDLE))


def test_unknown_lesion_is_looked_for_beside_one_that_both_time_points_show() -> None:
    case = pair_at(1, {1: MIDDLE, 2: BESIDE}, earlier=[without_outline(visit(0, {1: MIDDLE, 2: BESIDE}), 1)])
    (found,) = places(case)
    assert distance_mm(found, at(0, MIDDLE)) < 2.0


def test_time_point_that_shows_nothing_known_or_nothing_similar_is_left_out() -> None:
    elsewhere = EarlierVisit(baselines={"primary": seen(0, {}, seed=9)}, clicks={1: at(0, MIDDLE)})
    one_value = Baseline.of(Scan(hu=np.full((4, 5, 6), 40, np.int16), grid=frame(0).window((0, 0, 0), (4, 5, 6))), None)
    flat = EarlierVisit(baselines={"primary": one_value}, clicks={1: at(0, (3.0, 3.0, 3.0))})
    no_such_scan = EarlierVisit(baselines={}, clicks={1: at(0, MIDDLE)})
    case = pair_at(1, {1: MIDDLE}, earlier=[visit(0, {}), elsewhere, flat, no_such_scan, visit(0, {1: MIDDLE})])
    *absent, found = places(case)
    assert absent == [None] * 4
    assert found is not None
    assert len(pair_of(case).earlier) == 1


def test_new_lesion_is_looked_for_where_its_baseline_lattice_lies() -> None:
    known = pair_at(1, {1: MIDDLE, 2: BESIDE}, earlier=[visit(0, {2: BESIDE})])
    new = replace(known, baselines={"primary": seen(1, {2: BESIDE})})
    (found,) = places(new)
    assert found is not None
    placement = place_vois(new, prompt_of(new), MODEL)
    moved = np.subtract(placement.baseline_xyz_mm, at(1, MIDDLE).point_xyz_mm)
    assert distance_mm(found, at(0, MIDDLE, tuple(moved.tolist()))) < 2.0


def test_alignment_by_clicks_takes_the_click_and_searches_nothing() -> None:
    by_clicks = MODEL.model_copy(update={"alignment": MODEL.alignment.model_copy(update={"method": "clicks"})})
    given_click = at(0, MIDDLE, (9.0, 0.0, 0.0))
    case = pair_at(
        1, {1: MIDDLE}, earlier=[visit(0, {1: MIDDLE}, {1: given_click}), visit(0, {1: MIDDLE}), visit(0, {})]
    )
    clicked, outlined, unknown = places(case, by_clicks)
    assert clicked == given_click
    assert distance_mm(outlined, at(0, MIDDLE)) < 0.1
    assert unknown is None


def test_lesion_of_the_second_scan_is_shown_in_that_scan() -> None:
    both = EarlierVisit(
        baselines={"primary": seen(0, {}), "secondary": seen(3, {1: MIDDLE})}, clicks={1: at(0, MIDDLE)}
    )
    case = pair_at(1, {1: MIDDLE}, earlier=[both])
    (found,) = places(case)
    assert found == replace(at(3, MIDDLE), scan_name="secondary", point_xyz_mm=found.point_xyz_mm)
    (past,) = pair_of(case).earlier
    # The click lies in another scan: the lattice's centre takes its place.
    np.testing.assert_allclose(past.voi.click_zyx, (np.array(MODEL.voi.shape_zyx) - 1) / 2, atol=1e-6)
    assert past.mask is not None
    assert past.mask.max() == 1


def test_networks_that_see_the_baseline_alone_cost_nothing_and_see_nothing_else() -> None:
    plain = MODEL.model_copy(update={"network": dual_encoder()})
    case = pair_at(1, {1: MIDDLE}, earlier=[visit(0, {1: MIDDLE})])
    prompt = prompt_of(case)
    placement = place_vois(case, prompt, plain)
    assert placement.earlier == ()
    assert sample_voi_pair(case, prompt, placement, plain.voi).earlier == ()


@pytest.mark.parametrize("lesion_id", [1, 2])
def test_earlier_time_points_that_equal_the_baseline_are_encoded_as_it_is(lesion_id: int) -> None:
    case = pair_at(1, {1: MIDDLE, 2: BESIDE})
    case = replace(case, earlier=(EarlierVisit.of(case),) * 3)
    encoded = encode([pair_of(case, lesion_id)], ENCODING)
    assert encoded.has_earlier is not None
    assert encoded.has_earlier.tolist() == [[True] * 3]
    assert encoded.baseline.any()
    for maps in encoded.earlier.unbind(1):
        torch.testing.assert_close(maps, encoded.baseline, rtol=0, atol=1e-6)
    mask = encoded.baseline[0, 2]
    assert mask.max() == 1
    assert mask.min() < 0


def test_time_points_are_encoded_oldest_first_and_those_without_the_lesion_left_out() -> None:
    earlier = [visit(0, {1: MIDDLE}), visit(0, {}), visit(0, {1: MIDDLE})]
    for number, each in enumerate(earlier):
        each.baselines["primary"].scan.hu[:] = 100 * number
    encoded = encode([pair_of(pair_at(1, {1: MIDDLE}, earlier=earlier))], EncodingSettings(clip_hu=((0.0, 1000.0),)))
    assert encoded.earlier is not None
    assert [round(float(maps[0, 0].mean()), 3) for maps in encoded.earlier.unbind(1)] == [0.0, 0.2]


@given(times=st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_batch_pads_the_first_time_points_and_keeps_what_is_there(times: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> NetworkInput:
        return NetworkInput(
            followup=torch.rand((1, 1, 2, 3, 4), generator=generator),
            baseline=torch.rand((1, 2, 2, 3, 4), generator=generator),
            has_baseline=torch.tensor([True]),
            earlier=torch.rand((1, count, 2, 2, 3, 4), generator=generator) if count else None,
            has_earlier=torch.ones((1, count), dtype=torch.bool) if count else None,
        )

    parts = [part(count) for count in times]
    joined = NetworkInput.joined(parts)
    assert joined.times == max(times)
    if not joined.times:
        assert joined.earlier is None
        return
    mirrored = joined.mirrored([-1, -3])
    for place, (alone, count) in enumerate(zip(parts, times, strict=True)):
        (row,) = joined.split(1)[place : place + 1]
        assert row.has_earlier.tolist() == [[False] * (max(times) - count) + [True] * count]
        assert not row.earlier[:, : max(times) - count].any()
        if count:
            torch.testing.assert_close(row.earlier[:, -count:], alone.earlier, rtol=0, atol=0)
            torch.testing.assert_close(
                mirrored.earlier[place, -count:], alone.earlier[0].flip([-1, -3]), rtol=0, atol=0
            )
    tripled = joined.changed_baseline(lambda maps: 3 * maps)
    torch.testing.assert_close(tripled.earlier, 3 * joined.earlier, rtol=0, atol=0)
    torch.testing.assert_close(tripled.followup, joined.followup, rtol=0, atol=0)
