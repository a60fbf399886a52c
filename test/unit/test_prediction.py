from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from longilesion.alignment import place_vois
from longilesion.bundle import Member
from longilesion.case import Case, LesionPrediction, LesionPrompt
from longilesion.config import EncodingSettings, InferenceSettings, ModelSettings, Thresholds
from longilesion.encoding import encode
from longilesion.ensemble import Ensemble
from longilesion.geometry import ZYX, Grid, Triple, box_slices
from longilesion.labelling import label_lesions
from longilesion.networks.interface import NetworkInput, NetworkOutput
from longilesion.pipeline import Segmentation, segment_case
from longilesion.prediction import mean_probability, place_lesions, predict_lesions
from longilesion.prompts import complete_prompts
from longilesion.timing import Stopwatch
from longilesion.voi import Placement, paste_probability, sample_voi_pair
from test.unit.builders import NetworkWithoutWeights, case_of, click, flipped, model_settings, prompt, scan_with

GRID = Grid.from_spacing((20, 40, 40), (3.0, 1.5, 1.5), origin_xyz_mm=(-30.0, 12.0, 200.0))
LESIONS = {3: (-10.0, 30.0, 225.0), 8: (10.0, 55.0, 240.0)}
THRESHOLDS = Thresholds(threshold=0.5, presence_threshold=0.5)


class Brightness(NetworkWithoutWeights):
    """A network that outlines what is bright in the first channel; it records the sizes of its batches."""

    def __init__(
        self, log: list[tuple[str, int]] | None = None, name: str = "", *, presence: float | None = None
    ) -> None:
        super().__init__()
        self.log, self.name, self.judged = [] if log is None else log, name, presence

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        self.log.append((self.name, len(batch)))
        judged = None if self.judged is None else torch.logit(torch.full((len(batch),), self.judged))
        return NetworkOutput(lesion_logits=(20 * (batch.followup[:, :1] - 0.85),), presence_logit=judged)


class Constant(NetworkWithoutWeights):
    """A network that gives every voxel the same probability."""

    def __init__(self, probability: float, *, presence: float | None = None) -> None:
        super().__init__()
        self.probability, self.judged = probability, presence

    def forward(self, batch: NetworkInput) -> NetworkOutput:
        outline = torch.full_like(batch.followup[:, :1], self.probability)
        judged = None if self.judged is None else torch.logit(torch.full((len(batch),), self.judged))
        return NetworkOutput(lesion_logits=(torch.logit(outline),), presence_logit=judged)


NEAR = model_settings(shape_zyx=(8, 16, 16), spacing_zyx_mm=(3.0, 2.0, 2.0))
WIDE = model_settings(shape_zyx=(16, 16, 24), spacing_zyx_mm=(2.5, 2.5, 2.5))


def member(network: NetworkWithoutWeights, *, like: ModelSettings = NEAR, weight: float = 1.0) -> Member:
    return Member(settings=like, networks=(network,), weight=weight)


def ensemble_of(*members: Member, thresholds: Thresholds = THRESHOLDS) -> Ensemble:
    return Ensemble(members=members, thresholds=thresholds, device=torch.device("cpu"), precision=torch.float32)


def bright_case() -> Case:
    scan, lesions = scan_with({number: (point, 5.0) for number, point in LESIONS.items()}, GRID)
    clicks = [(number, click(point), click(point)) for number, point in LESIONS.items()]
    return case_of(clicks, followups={"primary": scan}, baselines={"primary": (scan, lesions)})


def predicted(case: Case, ensemble: Ensemble) -> list[LesionPrediction]:
    prompts = complete_prompts(case).lesions
    watch = Stopwatch()
    return predict_lesions(case, prompts, place_lesions(case, prompts, ensemble, watch), ensemble, watch)


def on_scan(prediction: LesionPrediction) -> NDArray[np.float32]:
    """The probability in the whole scan, 0 where the prediction does not say."""
    whole = np.zeros(GRID.shape_zyx, np.float32)
    values, window = paste_probability(prediction, GRID)
    whole[window] = values
    return whole


def same(first: Segmentation, second: Segmentation) -> bool:
    outcomes = [(one.probability, one.presence, one.volume_followup_ml, one.place_xyz_mm) for one in first.lesions]
    others = [(one.probability, one.presence, one.volume_followup_ml, one.place_xyz_mm) for one in second.lesions]
    return outcomes == others and np.array_equal(first.maps["primary"].ids, second.maps["primary"].ids)


# ------------------------------------------------------------------------------------------------------- one lattice


def test_one_member_predicts_exactly_what_its_networks_do() -> None:
    case, ensemble = bright_case(), ensemble_of(member(Brightness(presence=0.7)))
    prompts = complete_prompts(case).lesions
    placements = place_lesions(case, prompts, ensemble, Stopwatch())
    pairs = [sample_voi_pair(case, each, own[0], NEAR.voi) for each, own in zip(prompts, placements, strict=True)]
    outline, presence, _ = ensemble.predict(encode(pairs, NEAR.encoding))
    for index, prediction in enumerate(predicted(case, ensemble)):
        assert np.array_equal(prediction.probability, outline[index].numpy())
        assert prediction.presence == float(presence[index])
        assert prediction.grid.matches(pairs[index].followup.grid)


def test_members_of_one_lattice_are_averaged_on_it_by_weight() -> None:
    inverse = model_settings(
        shape_zyx=(8, 16, 16),
        spacing_zyx_mm=(3.0, 2.0, 2.0),
        encoding=EncodingSettings(clip_hu=((-500.0, 800.0),), baseline_channels=("image",)),
    )
    one, other = member(Brightness()), member(Brightness(), like=inverse, weight=3.0)
    case = bright_case()
    both = ensemble_of(one, other)
    assert [len(group) for group in both.groups] == [2]
    apart = [predicted(case, ensemble_of(each)) for each in (one, other)]
    for mean, first, second in zip(predicted(case, both), *apart, strict=True):
        assert not np.allclose(first.probability, second.probability)
        np.testing.assert_allclose(mean.probability, (first.probability + 3 * second.probability) / 4, atol=1e-6)
        assert mean.grid.matches(first.grid)


def test_bundle_may_hold_one_network_twice_and_predict_the_same() -> None:
    case = bright_case()
    for settings_of_second in (NEAR, NEAR.model_copy(update={"inference": InferenceSettings(threshold=0.2)})):
        twice = ensemble_of(member(Brightness()), member(Brightness(), like=settings_of_second))
        assert same(segment_case(case, twice), segment_case(case, ensemble_of(member(Brightness()))))


# --------------------------------------------------------------------------------------------------- several lattices


def at_zooms(*factors: float) -> ModelSettings:
    return NEAR.with_views((), factors)


def with_zoom(factor: float) -> ModelSettings:
    """Settings whose lattice is that many times as wide for every lesion."""
    voi = NEAR.voi
    changed = {
        "zoom_min": voi.zoom_min * factor,
        "zoom_max": voi.zoom_max * factor,
        "unoutlined_zoom": voi.unoutlined_zoom * factor,
        "lesion_fraction": voi.lesion_fraction / factor,
    }
    return NEAR.model_copy(update={"voi": voi.model_copy(update=changed)})


FACTORS = st.lists(st.floats(0.4, 2.5), min_size=1, max_size=3, unique=True)


@settings(max_examples=15, deadline=None)
@given(factors=FACTORS, weight=st.floats(0.2, 5.0))
def test_zooms_are_averaged_as_members_with_lattices_of_their_own(factors: list[float], weight: float) -> None:
    case = bright_case()
    other = member(Constant(0.4, presence=0.3), like=WIDE)
    zoomed = member(Brightness(presence=0.9), like=at_zooms(*factors), weight=weight)
    apart = [member(Brightness(presence=0.9), like=with_zoom(each), weight=weight / len(factors)) for each in factors]
    for one, expected in zip(
        predicted(case, ensemble_of(zoomed, other)), predicted(case, ensemble_of(*apart, other)), strict=True
    ):
        np.testing.assert_allclose(on_scan(one), on_scan(expected), atol=1e-5)
        assert one.presence == pytest.approx((weight * 0.9 + 0.3) / (weight + 1))
        assert expected.presence == pytest.approx(one.presence)


def test_lesions_are_aligned_once_for_all_zooms(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(case: Case, prompt: LesionPrompt, settings: ModelSettings) -> Placement:
        calls.append(prompt.lesion_id)
        return place_vois(case, prompt, settings)

    monkeypatch.setattr("longilesion.prediction.place_vois", counted)
    log: list[tuple[str, int]] = []
    predicted(bright_case(), ensemble_of(member(Brightness(log), like=at_zooms(1.0, 0.7, 1.3))))
    assert sorted(calls) == sorted(LESIONS)
    assert len(log) == 3


def test_one_zoom_is_predicted_on_its_lattice() -> None:
    case = bright_case()
    for one, expected in zip(
        predicted(case, ensemble_of(member(Brightness(), like=at_zooms(0.6)))),
        predicted(case, ensemble_of(member(Brightness(), like=with_zoom(0.6)))),
        strict=True,
    ):
        assert np.array_equal(one.probability, expected.probability)
        assert one.grid.matches(expected.grid)


def test_mean_of_two_lattices_is_known_where_both_cover_the_scan_and_where_one_does() -> None:
    ensemble = ensemble_of(
        member(Constant(0.2), like=NEAR, weight=3.0),
        member(Constant(0.8), like=WIDE),
        thresholds=Thresholds(threshold=0.01, presence_threshold=0.5),
    )
    case = bright_case()
    covered = [
        [on_scan(each) for each in predicted(case, ensemble_of(member(Constant(0.999999), like=like)))]
        for like in (NEAR, WIDE)
    ]
    for prediction, near, wide in zip(predicted(case, ensemble), *covered, strict=True):
        mean = on_scan(prediction)
        is_near, is_wide = near > 0.9, wide > 0.9
        np.testing.assert_allclose(mean[is_near & is_wide], (3 * 0.2 + 0.8) / 4, atol=1e-5)
        np.testing.assert_allclose(mean[(near == 0) & is_wide], 0.8, atol=1e-5)
        assert (is_near & is_wide).sum() > 100
        assert ((near == 0) & is_wide).sum() > 100
        assert (mean[(near == 0) & (wide == 0)] == 0).all()


def on_lattice(probability: NDArray[np.float32], start: Triple, step: Triple) -> LesionPrediction:
    grid = GRID.lattice(start_zyx=start, step_zyx=step, shape_zyx=probability.shape)
    return LesionPrediction(prompt=prompt(1, GRID.centre_xyz_mm), probability=probability, presence=None, grid=grid)


LATTICES = st.tuples(
    st.tuples(*[st.integers(3, 9)] * 3),
    st.tuples(*[st.floats(-6, 30)] * 3),
    st.tuples(*[st.floats(0.4, 3.0)] * 3),
    st.floats(0.05, 0.95),
    st.floats(0.1, 10),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(LATTICES, min_size=1, max_size=4))
def test_mean_of_constants_lies_between_those_that_reach_the_voxel(
    drawn: Sequence[tuple[ZYX, Triple, Triple, float, float]],
) -> None:
    lattices = [
        (on_lattice(np.full(shape, value, np.float32), start, step), value, weight)
        for shape, start, step, value, weight in drawn
    ]
    mean, window = mean_probability([(lattice, weight) for lattice, _, weight in lattices], GRID)
    lowest, highest = np.full(GRID.shape_zyx, np.inf), np.full(GRID.shape_zyx, -np.inf)
    for lattice, value, _ in lattices:
        _, box = paste_probability(lattice, GRID)
        lowest[box] = np.minimum(lowest[box], value)
        highest[box] = np.maximum(highest[box], value)
    whole = np.zeros(GRID.shape_zyx, np.float32)
    low = GRID.axis_steps(window)[0].round().astype(int)
    whole[box_slices(low, low + mean.shape)] = mean
    is_covered = highest > 0
    assert (whole[~is_covered] == 0).all()
    assert (whole[is_covered] >= lowest[is_covered] - 1e-5).all()
    assert (whole[is_covered] <= highest[is_covered] + 1e-5).all()


def test_lattices_outside_the_scan_give_no_voxel() -> None:
    far = on_lattice(np.ones((4, 4, 4), np.float32), (90.0, 90.0, 90.0), (1.0, 1.0, 1.0))
    mean, window = mean_probability([(far, 1.0), (far, 2.0)], GRID)
    assert not mean.any()
    labelled = label_lesions([replace(far, probability=mean, grid=window)], GRID, THRESHOLDS)
    assert not labelled.lesions.ids.any()
    assert labelled.notes == {1: "no voxel reaches probability 0.50"}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), turned=st.booleans(), low=st.tuples(*[st.integers(0, 8)] * 3))
def test_labels_of_a_window_of_the_scan_are_its_voxels(seed: int, turned: bool, low: ZYX) -> None:
    values = np.random.default_rng(seed).random((6, 7, 8), np.float32)
    _, lps = flipped(np.zeros(GRID.shape_zyx, np.uint8), GRID) if turned else (None, GRID)
    view, grid = lps.lps_view(np.zeros(lps.shape_zyx, np.float32))
    high = tuple(int(a + n) for a, n in zip(low, values.shape, strict=True))
    window = grid.window(low, high)
    pasted, box = paste_probability(
        LesionPrediction(prompt=prompt(1, window.centre_xyz_mm), probability=values, presence=None, grid=window), grid
    )
    assert tuple(side.start for side in box) == low
    assert tuple(side.stop for side in box) == high
    np.testing.assert_allclose(pasted, values, atol=1e-6)
    assert view.shape == grid.shape_zyx


def test_cropped_mean_gives_the_labels_of_the_whole_mean() -> None:
    case = bright_case()
    ensemble = ensemble_of(member(Brightness()), member(Brightness(), like=WIDE, weight=2.0))
    cropped = predicted(case, ensemble)
    apart = [predicted(case, ensemble_of(each)) for each in ensemble.members]
    whole = []
    for near, wide in zip(*apart, strict=True):
        mean, window = mean_probability([(near, 1.0), (wide, 2.0)], GRID)
        whole.append(replace(wide, probability=mean, grid=window, deviation=None))
        assert (mean >= 0.5).any()
    ids = [label_lesions(each, GRID, THRESHOLDS).lesions.ids for each in (cropped, whole)]
    assert np.array_equal(*ids)
    assert set(np.unique(ids[0])) == {0, *LESIONS}
    assert all(
        one.probability.size < all_of_it.probability.size / 4 for one, all_of_it in zip(cropped, whole, strict=True)
    )


def test_order_of_members_changes_nothing() -> None:
    case = bright_case()
    members = [
        member(Brightness(presence=0.9), weight=1.5),
        member(Brightness(presence=0.6), like=WIDE, weight=2.5),
        member(Constant(0.3), like=WIDE),
    ]
    results = [segment_case(case, ensemble_of(*order)) for order in (members, members[::-1], members[1:] + members[:1])]
    for other in results[1:]:
        assert np.array_equal(other.maps["primary"].ids, results[0].maps["primary"].ids)
        for one, first in zip(other.lesions, results[0].lesions, strict=True):
            assert one.place_xyz_mm == first.place_xyz_mm
            assert one.presence == pytest.approx(first.presence)
            assert one.probability == pytest.approx(first.probability, abs=1e-6)


@pytest.mark.parametrize("wide", [NEAR, WIDE], ids=["one lattice", "two lattices"])
@pytest.mark.parametrize(
    ("presences", "expected"),
    [((0.9, 0.5), (0.9 + 3 * 0.5) / 4), ((0.9, None), 0.9), ((None, 0.5), 0.5), ((None, None), None)],
)
def test_presence_is_the_mean_over_the_members_that_judge_it(
    presences: tuple[float | None, float | None], expected: float | None, wide: ModelSettings
) -> None:
    ensemble = ensemble_of(
        member(Constant(0.6, presence=presences[0])),
        member(Constant(0.6, presence=presences[1]), like=wide, weight=3.0),
    )
    for prediction in predicted(bright_case(), ensemble):
        assert prediction.presence == (None if expected is None else pytest.approx(expected))


def test_position_is_that_of_the_heaviest_group() -> None:
    assert [
        group[0].settings for group in ensemble_of(member(Constant(0.1)), member(Constant(0.1), like=WIDE)).groups
    ] == [
        NEAR,
        WIDE,
    ]
    heavy = ensemble_of(
        member(Constant(0.1), like=WIDE, weight=1.5), member(Constant(0.1)), member(Constant(0.1), weight=0.6)
    )
    assert [group[0].settings for group in heavy.groups] == [NEAR, WIDE]


@pytest.mark.parametrize("zooms", [False, True], ids=["members", "zooms"])
def test_few_lesions_are_in_memory_on_several_lattices(zooms: bool) -> None:
    """Every lattice of a batch of lesions is averaged before the next batch is sampled."""
    log: list[tuple[str, int]] = []
    scan, lesions = scan_with({1: (LESIONS[3], 5.0)}, GRID)
    clicks = [(number, click(LESIONS[3]), click(LESIONS[3])) for number in range(1, 6)]
    case = case_of(clicks, followups={"primary": scan}, baselines={"primary": (scan, lesions)})
    if zooms:
        ensemble = ensemble_of(member(Brightness(log), like=at_zooms(1.0, 1.2)))
    else:
        ensemble = ensemble_of(member(Brightness(log)), member(Brightness(log), like=WIDE))
    assert len(predicted(case, ensemble)) == 5
    assert [size for _, size in log] == [2, 2, 2, 2, 1, 1]
