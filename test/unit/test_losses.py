"""Losses against values worked by hand, and against MONAI's where they agree."""

import math

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss
from torch import Tensor

from longilesion.networks.interface import LossPart, NetworkInput, NetworkOutput
from training.batch import Batch
from training.losses import counted_samples, focal_loss, outline_loss, soft_dice_loss, training_loss
from training.recipe import LossSettings

# Cross-entropy of an undecided VOI that is half lesion: ln 2 in each voxel, over 6 lesions and a thousandth of the VOI.
UNDECIDED = math.log(2) / (6 * 0.5 + 0.001)
EVERY: tuple[LossPart, ...] = ("outline", "presence", "reconstruction")
YES, NO = torch.tensor([True]), torch.tensor([False])
DEFAULT = LossSettings()
# Weights that tell the parts apart.
WEIGHTED = LossSettings(presence=0.7, reconstruction=0.4)


def half_full(side: int = 2, size: int = 1) -> Tensor:
    """A target whose lower half is lesion: 4 of 8 voxels where the side is 2."""
    target = torch.zeros(size, 1, side, side, side)
    target[:, :, : side // 2] = 1
    return target


def sure(target: Tensor) -> Tensor:
    return 40 * target - 20


def test_perfect_outline_costs_nothing() -> None:
    assert float(soft_dice_loss(sure(half_full()), half_full())) == pytest.approx(0, abs=1e-6)
    assert float(outline_loss([sure(half_full())], half_full(), YES, DEFAULT)) == pytest.approx(0, abs=1e-6)


def test_undecided_outline_costs_what_the_formula_says() -> None:
    # Probability 0.5 in 8 voxels, 4 of them lesion: Dice (2 * 2 + 1) / (4 + 4 + 1).
    undecided = torch.zeros(1, 1, 2, 2, 2)
    assert float(soft_dice_loss(undecided, half_full())) == pytest.approx(4 / 9)
    assert float(outline_loss([undecided], half_full(), YES, DEFAULT)) == pytest.approx(4 / 9 + UNDECIDED)


def test_wrong_outline_costs_nearly_all_the_dice() -> None:
    # Disjoint outlines of 4 voxels each: Dice (0 + 1) / (4 + 4 + 1).
    assert float(soft_dice_loss(sure(1 - half_full()), half_full())) == pytest.approx(8 / 9, abs=1e-6)


def test_empty_target_and_empty_outline_agree() -> None:
    nothing = torch.zeros(1, 1, 2, 2, 2)
    assert float(soft_dice_loss(sure(nothing), nothing)) == pytest.approx(0, abs=1e-6)
    # Probability 0.5 in 8 voxels, none of them lesion: Dice 1 / (4 + 1).
    assert float(soft_dice_loss(nothing, nothing)) == pytest.approx(4 / 5)


def test_absent_lesion_has_no_part_in_the_outline() -> None:
    logits = torch.zeros(2, 1, 2, 2, 2, requires_grad=True)
    loss = outline_loss([logits], half_full(size=2), torch.tensor([True, False]), DEFAULT)
    assert loss.item() == pytest.approx(4 / 9 + UNDECIDED)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0
    assert not logits.grad[1].any()


def test_batch_of_absent_lesions_costs_nothing_and_is_defined() -> None:
    logits = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
    loss = outline_loss([logits], torch.zeros(1, 1, 2, 2, 2), NO, DEFAULT)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_mean_runs_over_the_present_lesions() -> None:
    logits = torch.cat((torch.zeros(1, 1, 2, 2, 2), sure(half_full())))
    loss = outline_loss([logits], half_full(size=2), torch.tensor([True, True]), DEFAULT)
    assert float(loss) == pytest.approx((4 / 9 + UNDECIDED) / 2, abs=1e-6)


def test_resolutions_weigh_half_as_much_each_time() -> None:
    target = half_full(4)
    fine, coarse, coarsest = (torch.zeros(1, 1, side, side, side) for side in (4, 2, 1))
    # Undecided at one resolution, perfect at the others; the coarsest voxel is half lesion, so it cannot be perfect.
    fine_loss = 1 - (2 * 16 + 1) / (32 + 32 + 1) + UNDECIDED
    coarse_loss = 4 / 9 + UNDECIDED
    perfect = [sure(target), sure(half_full(2))]
    assert float(outline_loss([fine, perfect[1]], target, YES, DEFAULT)) == pytest.approx(2 / 3 * fine_loss, abs=1e-5)
    assert float(outline_loss([perfect[0], coarse], target, YES, DEFAULT)) == pytest.approx(
        1 / 3 * coarse_loss, abs=1e-5
    )
    # Dice of two halves: (2 * 0.25 + 1) / (0.5 + 0.5 + 1).
    last = 1 - 1.5 / 2 + UNDECIDED
    assert float(outline_loss([*perfect, coarsest], target, YES, DEFAULT)) == pytest.approx(1 / 7 * last, abs=1e-5)


def batch_of(present: Tensor, prior: Tensor) -> Batch:
    """Lesions of 8 voxels, with that outline in the baseline."""
    size = len(present)
    image = torch.zeros(size, 1, 2, 2, 2)
    return Batch(
        input=NetworkInput(
            followup=image, baseline=image, has_baseline=torch.ones(size, dtype=torch.bool), prior_mask=prior
        ),
        target=half_full(size=size) * present[:, None, None, None, None],
        present=present,
    )


def said(size: int, *, presence: float) -> NetworkOutput:
    undecided = (torch.zeros(size, 1, 2, 2, 2),)
    return NetworkOutput(
        lesion_logits=undecided,
        presence_logit=torch.full((size,), presence),
        presence_features=torch.zeros(size, 1),
        baseline_logits=undecided,
    )


def test_parts_of_the_loss_are_weighted() -> None:
    settings = LossSettings(presence=0.3, reconstruction=0.2)
    parts = training_loss(said(1, presence=2.0), batch_of(YES, half_full()), settings, parts=EVERY)
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        {
            "outline": 4 / 9 + UNDECIDED,
            "presence": 0.3 * math.log(1 + math.exp(-2.0)),
            "reconstruction": 0.2 * (4 / 9 + UNDECIDED),
        }
    )


def test_presence_learns_from_absent_lesions_too() -> None:
    present = torch.tensor([True, False])
    parts = training_loss(
        said(2, presence=2.0), batch_of(present, half_full(size=2)), LossSettings(presence=1.0), parts=EVERY
    )
    expected = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(2.0))) / 2
    assert float(parts["presence"]) == pytest.approx(expected)
    assert float(parts["outline"]) == pytest.approx(4 / 9 + UNDECIDED)


def test_new_lesion_has_nothing_to_reconstruct() -> None:
    prior = half_full(size=2)
    prior[1] = 0
    both = training_loss(
        said(2, presence=0.0),
        batch_of(torch.tensor([True, True]), prior),
        LossSettings(reconstruction=1.0),
        parts=EVERY,
    )
    assert float(both["reconstruction"]) == pytest.approx(4 / 9 + UNDECIDED)


@pytest.mark.parametrize("parts", [("outline",), ("outline", "presence"), EVERY])
def test_network_is_trained_by_the_parts_that_it_names(parts: tuple[LossPart, ...]) -> None:
    batch = batch_of(YES, half_full())
    assert tuple(training_loss(said(1, presence=0.0), batch, LossSettings(), parts=parts)) == parts
    assert tuple(counted_samples(batch, DEFAULT, parts=parts)) == parts


def test_confident_circle_around_a_small_lesion_still_learns() -> None:
    # The Dice alone has no gradient where the probability is 0 or 1; the cross-entropy keeps one, whatever the VOI.
    for side in (8, 16):
        target = torch.zeros(1, 1, side, side, side)
        target[..., :2, :2, :2] = 1
        logits = torch.full_like(target, -20.0)
        logits[..., :4, :4, :4] = 20.0
        logits.requires_grad_()
        outline_loss([logits], target, YES, DEFAULT).backward()
        assert logits.grad is not None
        assert float(logits.grad[..., 3, 3, 3]) == pytest.approx(1 / (6 * 8 + 0.001 * side**3), rel=1e-3)


def random_maps(size: int = 3, side: int = 4, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of all sizes, and masks of about half the voxels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size, 1, side, side, side)
    return 4 * torch.randn(shape, generator=generator), (torch.rand(shape, generator=generator) < 0.5).float()


def test_dice_is_monais() -> None:
    logits, target = random_maps()
    reference = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0, reduction="none")
    torch.testing.assert_close(soft_dice_loss(logits, target), reference(logits, target).flatten())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_monais(gamma: float) -> None:
    logits, target = random_maps()
    reference = FocalLoss(gamma=gamma, reduction="none")
    torch.testing.assert_close(focal_loss(logits, target, gamma=gamma), reference(logits, target))


def test_focal_loss_of_a_voxel_that_is_a_quarter_lesion_is_the_mean_of_both() -> None:
    logit, quarter = torch.full((1, 1, 1, 1, 1), math.log(4.0)), torch.full((1, 1, 1, 1, 1), 0.25)
    # Said with probability 0.8: as lesion 0.2^2 ln(1 / 0.8), as tissue 0.8^2 ln(1 / 0.2).
    expected = 0.25 * 0.04 * math.log(1 / 0.8) + 0.75 * 0.64 * math.log(1 / 0.2)
    assert float(focal_loss(logit, quarter, gamma=2.0)) == pytest.approx(expected)


def test_focal_loss_learns_from_voxels_it_is_sure_of() -> None:
    logits = torch.tensor([-200.0, 200.0]).reshape(2, 1, 1, 1, 1).requires_grad_()
    focal_loss(logits, torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1, 1), gamma=0.5).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (LossSettings(cross_entropy="voi"), 4 / 9 + math.log(2)),
        (LossSettings(outline="focal_dice", cross_entropy="voi"), 2 / 9 + math.log(2) / 4),
        (LossSettings(outline="focal_dice", cross_entropy="lesion"), 2 / 9 + UNDECIDED / 4),
        (LossSettings(outline="focal_dice", cross_entropy="voi", focal_gamma=1.0), 2 / 9 + math.log(2) / 2),
    ],
)
def test_undecided_outline_costs_what_its_setting_says(settings: LossSettings, expected: float) -> None:
    assert float(outline_loss([torch.zeros(1, 1, 2, 2, 2)], half_full(), YES, settings)) == pytest.approx(expected)


def output_of(size: int, *, seed: int = 0) -> NetworkOutput:
    """Random logits at two resolutions, for the outline and the reconstruction."""
    logits, baseline = random_maps(size, 4, seed=seed)[0], random_maps(size, 4, seed=seed + 1)[0]
    return NetworkOutput(
        lesion_logits=(logits, logits[..., ::2, ::2, ::2]),
        presence_logit=logits.flatten(1)[:, 0],
        presence_features=torch.zeros(size, 1),
        baseline_logits=(baseline, baseline[..., ::2, ::2, ::2]),
    )


def random_batch(present: list[bool], marked: list[bool]) -> Batch:
    size = len(present)
    there, known = (torch.tensor(flags)[:, None, None, None, None].float() for flags in (present, marked))
    target, prior = random_maps(size, 4, seed=3)[1] * there, random_maps(size, 4, seed=4)[1] * known
    return Batch(
        input=NetworkInput(
            followup=prior, baseline=prior, has_baseline=torch.ones(size, dtype=torch.bool), prior_mask=prior
        ),
        target=target,
        present=torch.tensor(present),
    )


def part_of(output: NetworkOutput, batch: Batch, part: slice) -> tuple[NetworkOutput, Batch]:
    """Some of the samples."""
    assert output.baseline_logits is not None
    return NetworkOutput(
        lesion_logits=tuple(level[part] for level in output.lesion_logits),
        presence_logit=output.presence_logit[part],
        presence_features=output.presence_features[part],
        baseline_logits=tuple(level[part] for level in output.baseline_logits),
    ), Batch(
        input=batch.input[part],
        target=batch.target[part],
        present=batch.present[part],
    )


def test_without_deep_supervision_only_the_finest_resolution_counts() -> None:
    output, batch = output_of(2), random_batch([True, True], [True, True])
    parts = training_loss(output, batch, LossSettings(deep_supervision=False, reconstruction=1.0), parts=EVERY)
    assert output.baseline_logits is not None
    for part, logits, truth in (
        ("outline", output.lesion_logits, batch.target),
        ("reconstruction", output.baseline_logits, batch.input.prior_mask),
    ):
        finest = outline_loss(logits[:1], truth, torch.tensor([True, True]), DEFAULT)
        torch.testing.assert_close(parts[part], finest)
        assert not torch.isclose(finest, outline_loss(logits, truth, torch.tensor([True, True]), DEFAULT))


@pytest.mark.parametrize(
    ("present", "marked", "first"),
    [
        ([True, False, True, True], [False, True, True, True], 2),
        # One process has no present lesion, no marked one, and more samples.
        ([True, False, False, False], [True, False, False, False], 1),
        ([False] * 4, [False] * 4, 2),
    ],
)
def test_mean_of_two_processes_is_the_loss_of_the_whole_batch(
    present: list[bool], marked: list[bool], first: int
) -> None:
    output, batch = output_of(4), random_batch(present, marked)
    whole = training_loss(output, batch, WEIGHTED, parts=EVERY)
    shares = [part_of(output, batch, part) for part in (slice(first), slice(first, 4))]
    counted = [counted_samples(share, DEFAULT, parts=EVERY) for _, share in shares]
    assert sum(count["outline"] for count in counted) == sum(present)
    counts = {name: sum(count[name] for count in counted) / 2 for name in counted[0]}
    parts = [training_loss(said, share, WEIGHTED, parts=EVERY, counts=counts) for said, share in shares]
    assert set(whole) == set(counts)
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts) / 2, value, msg=name)


def test_counted_samples_are_present_marked_and_all() -> None:
    batch = random_batch([True, False, False], [True, True, False])
    assert counted_samples(batch, DEFAULT, parts=EVERY) == {"outline": 1, "reconstruction": 2, "presence": 3}
    assert counted_samples(batch, DEFAULT, parts=("outline", "presence")) == {"outline": 1, "presence": 3}


def test_without_a_presence_head_the_outline_counts_absent_lesions() -> None:
    batch = random_batch([True, False, False], [True, True, False])
    assert counted_samples(batch, DEFAULT, parts=("outline",)) == {"outline": 3}
    for absent, counted in ((True, 3), (False, 1)):
        assert counted_samples(batch, LossSettings(absent=absent), parts=EVERY)["outline"] == counted


@pytest.mark.parametrize("part", ["lesion", "voi"])
def test_absent_lesion_is_learnt_as_an_empty_outline(part: str) -> None:
    settings = LossSettings(cross_entropy=part)
    batch = batch_of(torch.tensor([True, False]), half_full(size=2))
    logits = torch.zeros(2, 1, 2, 2, 2, requires_grad=True)
    loss = training_loss(NetworkOutput(lesion_logits=(logits,)), batch, settings, parts=("outline",))["outline"]
    # Of an undecided empty outline: Dice 1 / (4 + 1); a lesion that is gone counts as one of a hundredth of the VOI.
    present = 4 / 9 + (UNDECIDED if part == "lesion" else math.log(2))
    gone = 4 / 5 + (math.log(2) / (6 * 0.01 + 0.001) if part == "lesion" else math.log(2))
    assert loss.item() == pytest.approx((present + gone) / 2)
    loss.backward()
    assert logits.grad is not None
    # Descent empties it: no voxel of it becomes lesion.
    assert bool((logits.grad[1] > 0).all())
    empty = NetworkOutput(lesion_logits=(sure(batch.target),))
    assert float(training_loss(empty, batch, settings, parts=("outline",))["outline"]) == pytest.approx(0, abs=1e-6)


def test_loss_of_half_precision_logits_is_taken_in_single_precision() -> None:
    output, batch = output_of(2), random_batch([True, True], [True, True])
    assert output.baseline_logits is not None
    half = NetworkOutput(
        lesion_logits=tuple(level.bfloat16() for level in output.lesion_logits),
        presence_logit=output.presence_logit.bfloat16(),
        presence_features=output.presence_features,
        baseline_logits=tuple(level.bfloat16() for level in output.baseline_logits),
    )
    same = NetworkOutput(
        lesion_logits=tuple(level.float() for level in half.lesion_logits),
        presence_logit=half.presence_logit.float(),
        presence_features=half.presence_features,
        baseline_logits=tuple(level.float() for level in half.baseline_logits or ()),
    )
    settings = LossSettings(outline="focal_dice")
    expected = training_loss(same, batch, settings, parts=EVERY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = training_loss(half, batch, settings, parts=EVERY)
    for name, value in parts.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name]), name
