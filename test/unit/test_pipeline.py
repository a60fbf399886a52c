import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import longilesion.ensemble
from longilesion.alignment import place_vois
from longilesion.case import Case, Click, ClickPair, LesionMap, OutsideLesion, Scan
from longilesion.ensemble import Ensemble
from longilesion.geometry import Grid, Triple
from longilesion.networks.interface import NetworkInput, NetworkOutput
from longilesion.pipeline import LesionOutcome, Segmentation, segment_case
from longilesion.prompts import Prompts, complete_prompts
from longilesion.voi import sample_voi_pair
from test.unit.builders import (
    TISSUE_HU,
    NetworkWithoutWeights,
    alignment,
    case_of,
    click,
    flipped,
    model_settings,
    scan_with,
)

GRID = Grid.from_spacing((30, 56, 56), (3.0, 1.5, 1.5), origin_xyz_mm=(-40.0, -40.0, 500.0))
FIRST, SECOND = (-15.0, -12.0, 525.0), (18.0, 15.0, 560.0)


class BrightVoxels(NetworkWithoutWeights):
    """A network that outlines what is above 190 HU, and finds a lesion present if there is any of it.

    A lesion whose presence is `doubtful` is outlined all the same.
    """

    def __init__(self, *, doubtful: bool = False) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.doubt = 10.0 if doubtful else -0.5

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        self.batches.append(len(batch.followup))
        logits = 30 * (batch.followup[:, :1] - 0.85)
        return NetworkOutput(
            lesion_logits=(logits,),
            presence_logit=logits.flatten(1).amax(1) - self.doubt,
        )


def bright_voxels(*, growth_limit: int = 0, doubtful: bool = False) -> Ensemble:
    settings = model_settings(shape_zyx=(16, 16, 16), spacing_zyx_mm=(2.0, 2.0, 2.0), growth_limit=growth_limit)
    network = BrightVoxels(doubtful=doubtful)
    return Ensemble.of(settings, [network], device=torch.device("cpu"), precision=torch.float32)


def batches_of(ensemble: Ensemble) -> list[int]:
    (network,) = ensemble.networks
    assert isinstance(network, BrightVoxels)
    return network.batches


def lesion_of(result: Segmentation, lesion_id: int) -> LesionOutcome:
    (outcome,) = (lesion for lesion in result.lesions if lesion.prompt.lesion_id == lesion_id)
    return outcome


def dice(ids: NDArray, truth: NDArray, lesion_id: int) -> float:
    found, true = ids == lesion_id, truth == lesion_id
    return 2 * float((found & true).sum()) / float(found.sum() + true.sum())


def two_lesions(points: Mapping[int, Triple] | None = None, *, radius_mm: float = 6.0) -> tuple[Scan, LesionMap]:
    points = points or {4: FIRST, 300: SECOND}
    return scan_with({number: (point, radius_mm) for number, point in points.items()}, GRID)


def empty_scan() -> Scan:
    return Scan(hu=np.full(GRID.shape_zyx, TISSUE_HU, np.int16), grid=GRID)


def pairs(*lesions: tuple[int, Triple | None, Triple | None]) -> list[tuple[int, Click | None, Click | None]]:
    return [
        (number, None if before is None else click(before), None if now is None else click(now))
        for number, before, now in lesions
    ]


def simple_case() -> tuple[Case, LesionMap]:
    """Two lesions that have not changed."""
    scan, lesions = two_lesions()
    clicks = pairs((4, FIRST, FIRST), (300, SECOND, SECOND))
    return case_of(clicks, followups={"primary": scan}, baselines={"primary": (scan, lesions)}), lesions


def test_lesions_are_found_labelled_and_reported() -> None:
    case, truth = simple_case()
    result = segment_case(case, bright_voxels())
    assert set(result.maps) == {"primary"}
    found = result.maps["primary"]
    assert found.grid is case.followups["primary"].grid
    assert set(np.unique(found.ids)) == {0, 4, 300}
    for lesion_id in (4, 300):
        assert dice(found.ids, truth.ids, lesion_id) > 0.85
        outcome = lesion_of(result, lesion_id)
        volume = float((found.ids == lesion_id).sum()) * GRID.voxel_volume_ml
        assert outcome.volume_followup_ml == pytest.approx(volume)
        true_volume = float((truth.ids == lesion_id).sum()) * GRID.voxel_volume_ml
        assert outcome.volume_baseline_ml == pytest.approx(true_volume)
        assert outcome.presence > 0.9
        assert 0.5 < outcome.probability <= 1
        assert outcome.note == ""
    assert set(result.seconds) == {"propagate", "sample", "network", "label"}
    assert all(spent > 0 for spent in result.seconds.values())


def test_binary_labels_reach_the_map() -> None:
    case, truth = simple_case()
    ids = segment_case(case, bright_voxels(), labels="binary").maps["primary"].ids
    assert set(np.unique(ids)) == {0, 1}
    assert dice(ids, truth.ids > 0, 1) > 0.85


def test_lesion_of_the_primary_baseline_is_found_in_the_secondary_followup() -> None:
    scan, lesions = two_lesions({8: FIRST})
    far = replace(scan, grid=Grid.from_spacing(GRID.shape_zyx, GRID.spacing_zyx_mm, origin_xyz_mm=(0.0, 0.0, -900.0)))
    there = far.grid.world_xyz_mm(GRID.index_zyx(FIRST))
    case = case_of(
        [(8, click(FIRST), click(there, "secondary"))],
        followups={"primary": empty_scan(), "secondary": far},
        baselines={"primary": (scan, lesions)},
    )
    result = segment_case(case, bright_voxels())
    assert not result.maps["primary"].ids.any()
    assert dice(result.maps["secondary"].ids, lesions.ids, 8) > 0.85
    assert result.maps["secondary"].grid is far.grid
    assert lesion_of(result, 8).volume_baseline_ml == pytest.approx((lesions.ids == 8).sum() * GRID.voxel_volume_ml)


def test_clicks_in_the_secondary_followup_only_still_give_the_primary_its_map() -> None:
    scan, lesions = two_lesions({8: FIRST})
    case = case_of([(8, None, click(FIRST, "secondary"))], followups={"primary": empty_scan(), "secondary": scan})
    result = segment_case(case, bright_voxels())
    assert set(result.maps) == {"primary", "secondary"}
    assert result.maps["primary"].ids.shape == GRID.shape_zyx
    assert not result.maps["primary"].ids.any()
    assert dice(result.maps["secondary"].ids, lesions.ids, 8) > 0.85


def test_secondary_followup_alone_gives_one_map() -> None:
    scan, lesions = two_lesions({8: FIRST})
    case = case_of([(8, None, click(FIRST, "secondary"))], followups={"secondary": scan})
    result = segment_case(case, bright_voxels())
    assert set(result.maps) == {"secondary"}
    assert dice(result.maps["secondary"].ids, lesions.ids, 8) > 0.85


def test_lesions_of_two_scans_that_share_a_frame_do_not_mix() -> None:
    scan, _ = two_lesions()
    case = case_of(
        [(4, None, click(FIRST)), (300, None, click(SECOND, "secondary"))],
        followups={"primary": scan, "secondary": scan},
    )
    result = segment_case(case, bright_voxels())
    assert set(np.unique(result.maps["primary"].ids)) == {0, 4}
    assert set(np.unique(result.maps["secondary"].ids)) == {0, 300}


def test_no_lesion_at_all_gives_zero_maps() -> None:
    scan, _ = two_lesions()
    ensemble = bright_voxels()
    result = segment_case(case_of((), followups={"primary": scan, "secondary": scan}), ensemble)
    assert result.lesions == ()
    assert not any(found.ids.any() for found in result.maps.values())
    assert set(result.maps) == {"primary", "secondary"}
    assert batches_of(ensemble) == []


@pytest.mark.parametrize("prior", ["no scan", "no map", "a map without the lesion"])
def test_lesion_without_a_prior_is_found_by_its_click(prior: str) -> None:
    scan, lesions = two_lesions({8: FIRST})
    outlines = LesionMap(ids=np.zeros(GRID.shape_zyx, np.uint16), grid=GRID) if prior != "no map" else None
    baselines = {} if prior == "no scan" else {"primary": (empty_scan(), outlines)}
    case = case_of(pairs((8, FIRST, FIRST)), followups={"primary": scan}, baselines=baselines)
    result = segment_case(case, bright_voxels())
    assert dice(result.maps["primary"].ids, lesions.ids, 8) > 0.85
    expected = 0.0 if prior == "a map without the lesion" else None
    assert lesion_of(result, 8).volume_baseline_ml == expected


def test_lesion_at_the_border_of_its_voi_is_sampled_again_twice_as_wide() -> None:
    scan, lesions = scan_with({1: (GRID.centre_xyz_mm, 20.0)}, GRID)
    case = case_of(pairs((1, None, GRID.centre_xyz_mm)), followups={"primary": scan})
    narrow, wide = bright_voxels(), bright_voxels(growth_limit=1)
    cut = segment_case(case, narrow).maps["primary"].ids
    whole = segment_case(case, wide).maps["primary"].ids
    assert batches_of(narrow) == [1]
    assert batches_of(wide) == [1, 1]
    # A lattice of 32 mm holds about the middle cube of a ball of 40 mm.
    assert dice(cut, lesions.ids, 1) < 0.9
    assert dice(whole, lesions.ids, 1) > 0.9


def test_only_lesions_at_the_border_are_sampled_again_and_only_once() -> None:
    huge = (GRID.centre_xyz_mm, 60.0)
    scan, _ = scan_with({1: huge}, GRID)
    small, lesions = two_lesions({2: FIRST})
    case = case_of(
        [(1, None, click(GRID.centre_xyz_mm)), (2, None, click(FIRST, "secondary"))],
        followups={"primary": scan, "secondary": small},
    )
    ensemble = bright_voxels(growth_limit=1)
    result = segment_case(case, ensemble)
    assert batches_of(ensemble) == [2, 1]
    assert dice(result.maps["secondary"].ids, lesions.ids, 2) > 0.85
    lattice_ml = (16 * 4.0) ** 3 / 1000
    assert lesion_of(result, 1).volume_followup_ml == pytest.approx(lattice_ml, rel=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [-1, 1])
def test_lesion_that_reaches_one_side_of_its_voi_is_sampled_again(axis: int, side: int) -> None:
    centre = GRID.centre_xyz_mm
    scan, lesions = scan_with({1: (centre, 8.0)}, GRID)
    # The lattice reaches 16 mm from the click, the lesion 10 + 8 mm.
    x, y, z = (position + (10.0 * side if number == axis else 0.0) for number, position in enumerate(centre))
    ensemble = bright_voxels(growth_limit=1)
    result = segment_case(case_of(pairs((1, None, (x, y, z))), followups={"primary": scan}), ensemble)
    assert batches_of(ensemble) == [1, 1]
    # The wider lattice's voxels are half the lesion's radius.
    assert dice(result.maps["primary"].ids, lesions.ids, 1) > 0.7


def test_lesion_inside_its_voi_is_not_sampled_again() -> None:
    ensemble = bright_voxels(growth_limit=1)
    segment_case(simple_case()[0], ensemble)
    assert batches_of(ensemble) == [2]


def test_lesion_held_to_be_absent_is_not_sampled_again() -> None:
    scan, _ = scan_with({1: (GRID.centre_xyz_mm, 20.0)}, GRID)
    ensemble = bright_voxels(growth_limit=1, doubtful=True)
    result = segment_case(case_of(pairs((1, None, GRID.centre_xyz_mm)), followups={"primary": scan}), ensemble)
    assert batches_of(ensemble) == [1]
    assert not result.maps["primary"].ids.any()
    assert lesion_of(result, 1).note.startswith("gone: ")


class FirstLookOnly(BrightVoxels):
    """A network to which lesions fade, or are not to be seen at all, on the wider lattice."""

    def __init__(self, *, faded: bool) -> None:
        super().__init__()
        self.faded = faded

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        output = super().forward(batch)
        if len(self.batches) == 1:
            return output
        if self.faded:
            return replace(output, presence_logit=torch.full_like(output.presence_logit, -10.0))
        (logits,) = output.lesion_logits
        return replace(output, lesion_logits=(torch.full_like(logits, -10.0),))


@pytest.mark.parametrize("faded", [True, False])
def test_lesion_that_a_wider_look_does_not_find_stays_as_the_first_look_saw_it(faded: bool) -> None:
    scan, lesions = scan_with({4: (GRID.centre_xyz_mm, 22.0)}, GRID)
    middle = click(GRID.centre_xyz_mm)
    case = case_of([(4, None, middle)], followups={"primary": scan})
    once = segment_case(case, bright_voxels(growth_limit=0))
    ensemble = bright_voxels(growth_limit=3)
    ensemble = replace(ensemble, members=(replace(ensemble.only_member, networks=(FirstLookOnly(faded=faded),)),))
    result = segment_case(case, ensemble)
    # One look, and one wider that found nothing; none that is wider still.
    assert batches_of(ensemble) == [1, 1]
    np.testing.assert_array_equal(result.maps["primary"].ids, once.maps["primary"].ids)
    assert lesion_of(result, 4).presence == lesion_of(once, 4).presence
    assert dice(result.maps["primary"].ids, lesions.ids, 4) > 0.3


def noise_case(middles: Mapping[int, Triple]) -> Case:
    """The same noise in both scans, whose every neighbourhood is like nothing else, with clicks in their places."""
    hu = np.random.default_rng(4).normal(40, 300, GRID.shape_zyx).astype(np.int16)
    scan = Scan(hu=hu, grid=GRID)
    clicks = [(number, click(point), click(point)) for number, point in middles.items()]
    return case_of(clicks, followups={"primary": scan}, baselines={"primary": (scan, None)})


def test_given_clicks_that_lead_nowhere_alike_are_said_and_are_no_sign_of_a_lesion_that_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    middles = {4: FIRST, 8: SECOND, 300: (18.0, -12.0, 540.0)}
    right = noise_case(middles)
    with caplog.at_level(logging.WARNING):
        result = segment_case(right, bright_voxels())
    assert caplog.records == []
    assert all(lesion.similarity > 0.9 and not lesion.is_unsure for lesion in result.lesions)
    turned = [middles[number] for number in (8, 300, 4)]
    clicks = tuple(replace(pair, followup=click(point)) for pair, point in zip(right.clicks, turned, strict=True))
    with caplog.at_level(logging.WARNING):
        result = segment_case(replace(right, clicks=clicks), bright_voxels())
    (record,) = caplog.records
    assert "3 of 3 given follow-up clicks" in record.getMessage()
    assert "lesion 300" in record.getMessage()
    assert all(lesion.similarity < 0.4 and lesion.is_unsure for lesion in result.lesions)


def test_propagated_clicks_are_not_given_ones(caplog: pytest.LogCaptureFixture) -> None:
    hu = np.random.default_rng(5).normal(40, 60, GRID.shape_zyx).astype(np.int16)
    case = noise_case({4: FIRST})
    clicks = (ClickPair(lesion_id=4, baseline=click(FIRST), followup=None),)
    with caplog.at_level(logging.WARNING):
        result = segment_case(
            replace(case, clicks=clicks, followups={"primary": Scan(hu=hu, grid=GRID)}), bright_voxels()
        )
    assert caplog.records == []
    assert not lesion_of(result, 4).is_unlike


def test_new_lesion_without_a_baseline_click_had_no_volume_before() -> None:
    scan, lesions = two_lesions({4: FIRST})
    case = case_of([(8, None, click(SECOND))], followups={"primary": scan}, baselines={"primary": (scan, lesions)})
    assert lesion_of(segment_case(case, bright_voxels()), 8).volume_baseline_ml == 0.0


def test_click_that_slipped_towards_a_neighbour_still_means_its_own_lesion() -> None:
    # 7 mm from the lesion's middle and 5 mm from the neighbour's; the baseline's anatomy says which is meant.
    lesion, neighbour = (0.0, 0.0, 540.0), (12.0, 0.0, 540.0)
    scan, lesions = scan_with({1: (lesion, 4.0), 2: (neighbour, 4.0)}, GRID)
    slipped = (7.0, 0.0, 540.0)
    case = case_of(pairs((1, lesion, slipped)), followups={"primary": scan}, baselines={"primary": (scan, lesions)})
    ensemble = bright_voxels()
    wide = ensemble.settings.model_copy(update={"alignment": alignment(search_radius_mm=15.0)})
    ensemble = replace(ensemble, members=(replace(ensemble.only_member, settings=wide),))
    result = segment_case(case, ensemble)
    ids = result.maps["primary"].ids
    assert dice(ids, lesions.ids, 1) > 0.5
    assert not (ids[lesions.ids == 2] == 1).any()
    assert np.linalg.norm(np.subtract(result.lesions[0].place_xyz_mm, lesion)) < 3.0


def test_missing_followup_click_is_propagated_and_the_note_says_so() -> None:
    scan, lesions = two_lesions({8: FIRST})
    case = case_of(pairs((8, FIRST, None)), followups={"primary": scan}, baselines={"primary": (scan, lesions)})
    result = segment_case(case, bright_voxels())
    assert dice(result.maps["primary"].ids, lesions.ids, 8) > 0.85
    assert lesion_of(result, 8).note.startswith("no follow-up click, propagated from the baseline with confidence 0.")


def test_lesion_outside_the_field_of_view_is_reported_and_has_an_empty_label(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, lesions = two_lesions()
    case = case_of(
        pairs((4, FIRST, FIRST), (300, SECOND, None)),
        followups={"primary": scan},
        baselines={"primary": (scan, lesions)},
    )
    given = complete_prompts(replace(case, clicks=case.clicks[:1])).lesions[0]
    away = OutsideLesion(lesion_id=300, baseline=click(SECOND), confidence=0.9)
    monkeypatch.setattr(
        "longilesion.pipeline.complete_prompts",
        lambda case, **_: Prompts(lesions=(given,), outside=(away,)),
    )
    result = segment_case(case, bright_voxels())
    assert set(np.unique(result.maps["primary"].ids)) == {0, 4}
    assert [outcome.prompt.lesion_id for outcome in result.lesions] == [4, 300]
    outcome = lesion_of(result, 300)
    assert (outcome.presence, outcome.place_xyz_mm, outcome.volume_followup_ml) == (None, None, 0.0)
    assert outcome.volume_baseline_ml == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.2)
    assert outcome.note == "outside the follow-up's field of view, with confidence 0.90"
    assert 300 not in result.left_out


def test_click_moved_to_the_scans_border_is_noted() -> None:
    corner = GRID.world_xyz_mm((0, 0, 0))
    case = case_of([(8, None, click(corner, clamped=True))], followups={"primary": empty_scan()})
    note = lesion_of(segment_case(case, bright_voxels()), 8).note
    assert "click outside the scan, moved to its border" in note
    assert note.startswith("gone: ")


def test_lesion_that_is_gone_is_empty_and_its_neighbour_is_not() -> None:
    before, outlined = two_lesions()
    after, truth = two_lesions({300: SECOND})
    clicks = pairs((4, FIRST, FIRST), (300, SECOND, SECOND))
    case = case_of(clicks, followups={"primary": after}, baselines={"primary": (before, outlined)})
    result = segment_case(case, bright_voxels())
    assert set(np.unique(result.maps["primary"].ids)) == {0, 300}
    assert dice(result.maps["primary"].ids, truth.ids, 300) > 0.85
    gone = lesion_of(result, 4)
    assert gone.note.startswith("gone: ")
    assert gone.volume_followup_ml == 0
    assert gone.probability == 0
    assert gone.volume_baseline_ml > 0


def test_lesion_whose_place_lies_beyond_the_scan_is_empty_and_the_others_are_not() -> None:
    # The baseline click is far from the outline, so the outline's place in the follow-up is far from the click.
    before, outlined = two_lesions({4: FIRST})
    after, truth = two_lesions({300: SECOND})
    stray = (FIRST[0] + 400.0, FIRST[1], FIRST[2])
    clicks = pairs((4, stray, FIRST), (300, SECOND, SECOND))
    case = case_of(clicks, followups={"primary": after}, baselines={"primary": (before, outlined)})
    result = segment_case(case, bright_voxels())
    assert lesion_of(result, 4).note != ""
    assert dice(result.maps["primary"].ids, truth.ids, 300) > 0.85


def test_two_clicks_in_one_lesion_give_one_label_and_a_note() -> None:
    scan, lesions = two_lesions({1: FIRST})
    beside = (FIRST[0] + 4.0, FIRST[1], FIRST[2])
    case = case_of(pairs((1, None, FIRST), (2, None, beside)), followups={"primary": scan})
    result = segment_case(case, bright_voxels())
    assert dice(result.maps["primary"].ids, lesions.ids, 1) > 0.85
    assert lesion_of(result, 2).note == "merged with lesion 1"


def five_lesions() -> Case:
    """Lesions that persist, are new, are gone, need a wider lattice, or have no follow-up click."""
    points: dict[int, Triple] = {
        1: (-20.0, -20.0, 520.0),
        2: (20.0, -20.0, 520.0),
        3: (-20.0, 20.0, 545.0),
        4: (15.0, 15.0, 540.0),
        5: (-20.0, -15.0, 570.0),
    }
    before, outlined = scan_with({number: (points[number], 5.0) for number in (1, 3, 5)}, GRID)
    after, _ = scan_with({1: (points[1], 5.0), 2: (points[2], 4.0), 4: (points[4], 17.0), 5: (points[5], 5.0)}, GRID)
    clicks = pairs(
        (1, points[1], points[1]),
        (2, points[2], points[2]),
        (3, points[3], points[3]),
        (4, None, points[4]),
        (5, points[5], None),
    )
    return case_of(clicks, followups={"primary": after}, baselines={"primary": (before, outlined)})


def test_batches_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    case = five_lesions()
    results = []
    for size in (1, 2, 5):
        monkeypatch.setitem(longilesion.ensemble._BATCH_SIZE, "cpu", size)
        ensemble = bright_voxels(growth_limit=1)
        results.append(segment_case(case, ensemble))
        assert max(batches_of(ensemble)) == size
    for result in results[1:]:
        np.testing.assert_array_equal(result.maps["primary"].ids, results[0].maps["primary"].ids)
        assert result.lesions == results[0].lesions


def test_no_lesion_is_lost_without_a_word() -> None:
    result = segment_case(five_lesions(), bright_voxels(growth_limit=1))
    assert [lesion.prompt.lesion_id for lesion in result.lesions] == [1, 2, 3, 4, 5]
    found = set(np.unique(result.maps["primary"].ids)) - {0}
    assert {lesion.prompt.lesion_id for lesion in result.lesions if lesion.volume_followup_ml > 0} == found
    assert 3 not in found
    assert all(lesion.note for lesion in result.lesions if lesion.volume_followup_ml == 0)


def test_lesion_clicked_only_in_a_missing_baseline_scan_is_left_out_by_name() -> None:
    case, _ = simple_case()
    lost = ClickPair(lesion_id=77, baseline=None, followup=None)
    result = segment_case(replace(case, clicks=(*case.clicks, lost)), bright_voxels())
    assert result.left_out == (77,)
    assert 77 not in {lesion.prompt.lesion_id for lesion in result.lesions}


def test_scan_stored_the_other_way_round_gives_the_same_lattices_and_labels() -> None:
    case, _ = simple_case()
    scan, prior = case.followups["primary"], case.baselines["primary"]
    assert prior.lesions is not None
    hu, grid = flipped(scan.hu, scan.grid)
    ids, _ = flipped(prior.lesions.ids, grid)
    turned = case_of(
        pairs((4, FIRST, FIRST), (300, SECOND, SECOND)),
        followups={"primary": Scan(hu=hu, grid=grid)},
        baselines={"primary": (Scan(hu=hu, grid=grid), LesionMap(ids=ids, grid=grid))},
    )
    ensemble = bright_voxels()
    sampled = []
    for version in (case, turned):
        prompt = complete_prompts(version).lesions[0]
        placement = place_vois(version, prompt, ensemble.settings)
        sampled.append(sample_voi_pair(version, prompt, placement, ensemble.settings.voi))
    straight, mirrored = sampled
    assert straight.baseline is not None
    assert mirrored.baseline is not None
    np.testing.assert_allclose(mirrored.followup.hu, straight.followup.hu, atol=0.01)
    np.testing.assert_allclose(mirrored.baseline.hu, straight.baseline.hu, atol=0.01)
    np.testing.assert_allclose(mirrored.baseline_mask, straight.baseline_mask, atol=1e-4)
    # Both lattices show the lesion at the same place.
    np.testing.assert_allclose(mirrored.followup.hu, mirrored.baseline.hu, atol=10)
    result = segment_case(turned, ensemble).maps["primary"]
    expected = segment_case(case, ensemble).maps["primary"]
    np.testing.assert_array_equal(result.ids[::-1, ::-1, ::-1], expected.ids)
