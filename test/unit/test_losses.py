"""Losses against values worked by hand."""

import math

import pytest
import torch
from torch import Tensor

from longilesion.encoding import NetworkInput
from longilesion.networks.backbone import NetworkOutput
from training.dataset import Batch
from training.losses import outline_loss, soft_dice_loss, training_loss
from training.recipe import LossSettings

# Cross-entropy of an undecided VOI that is half lesion: ln 2 in each voxel, over 6 lesions and a thousandth of the VOI.
UNDECIDED = math.log(2) / (6 * 0.5 + 0.001)
YES, NO = torch.tensor([True]), torch.tensor([False])


def half_full(side: int = 2, size: int = 1) -> Tensor:
    """A target whose lower half is lesion: 4 of 8 voxels where the side is 2."""
    target = torch.zeros(size, 1, side, side, side)
    target[:, :, : side // 2] = 1
    return target


def sure(target: Tensor) -> Tensor:
    return 40 * target - 20


def test_perfect_outline_costs_nothing() -> None:
    assert float(soft_dice_loss(sure(half_full()), half_full())) == pytest.approx(0, abs=1e-6)
    assert float(outline_loss([sure(half_full())], half_full(), YES)) == pytest.approx(0, abs=1e-6)


def test_undecided_outline_costs_what_the_formula_says() -> None:
    # Probability 0.5 in 8 voxels, 4 of them lesion: Dice (2 * 2 + 1) / (4 + 4 + 1).
    undecided = torch.zeros(1, 1, 2, 2, 2)
    assert float(soft_dice_loss(undecided, half_full())) == pytest.approx(4 / 9)
    assert float(outline_loss([undecided], half_full(), YES)) == pytest.approx(4 / 9 + UNDECIDED)


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
    loss = outline_loss([logits], half_full(size=2), torch.tensor([True, False]))
    assert loss.item() == pytest.approx(4 / 9 + UNDECIDED)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0
    assert not logits.grad[1].any()


def test_batch_of_absent_lesions_costs_nothing_and_is_defined() -> None:
    logits = torch.zeros(1, 1, 2, 2, 2, requires_grad=True)
    loss = outline_loss([logits], torch.zeros(1, 1, 2, 2, 2), NO)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_mean_runs_over_the_present_lesions() -> None:
    logits = torch.cat((torch.zeros(1, 1, 2, 2, 2), sure(half_full())))
    loss = outline_loss([logits], half_full(size=2), torch.tensor([True, True]))
    assert float(loss) == pytest.approx((4 / 9 + UNDECIDED) / 2, abs=1e-6)


def test_resolutions_weigh_half_as_much_each_time() -> None:
    target = half_full(4)
    fine, coarse, coarsest = (torch.zeros(1, 1, side, side, side) for side in (4, 2, 1))
    # Undecided at one resolution, perfect at the others; the coarsest voxel is half lesion, so it cannot be perfect.
    fine_loss = 1 - (2 * 16 + 1) / (32 + 32 + 1) + UNDECIDED
    coarse_loss = 4 / 9 + UNDECIDED
    perfect = [sure(target), sure(half_full(2))]
    assert float(outline_loss([fine, perfect[1]], target, YES)) == pytest.approx(2 / 3 * fine_loss, abs=1e-5)
    assert float(outline_loss([perfect[0], coarse], target, YES)) == pytest.approx(1 / 3 * coarse_loss, abs=1e-5)
    # Dice of two halves: (2 * 0.25 + 1) / (0.5 + 0.5 + 1).
    last = 1 - 1.5 / 2 + UNDECIDED
    assert float(outline_loss([*perfect, coarsest], target, YES)) == pytest.approx(1 / 7 * last, abs=1e-5)


def batch_of(present: Tensor, prior: Tensor) -> Batch:
    """Lesions of 8 voxels whose baseline stream is an image and a mask."""
    size = len(present)
    image = torch.zeros(size, 1, 2, 2, 2)
    return Batch(
        input=NetworkInput(
            followup=torch.cat((image, image), 1),
            baseline=torch.cat((image, prior), 1),
            has_baseline=torch.ones(size, dtype=torch.bool),
        ),
        target=half_full(size=size) * present[:, None, None, None, None],
        present=present,
    )


def said(size: int, *, presence: float, reconstruction: bool = True) -> NetworkOutput:
    undecided = (torch.zeros(size, 1, 2, 2, 2),)
    return NetworkOutput(
        lesion_logits=undecided,
        presence_logit=torch.full((size,), presence),
        presence_features=torch.zeros(size, 1),
        baseline_logits=undecided if reconstruction else None,
    )


def test_parts_of_the_loss_are_weighted() -> None:
    settings = LossSettings(presence=0.3, reconstruction=0.2)
    parts = training_loss(said(1, presence=2.0), batch_of(YES, half_full()), settings, mask_channel=1)
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
        said(2, presence=2.0), batch_of(present, half_full(size=2)), LossSettings(presence=1.0), mask_channel=1
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
        mask_channel=1,
    )
    assert float(both["reconstruction"]) == pytest.approx(4 / 9 + UNDECIDED)


def test_other_lesions_in_the_mask_channel_are_not_reconstructed() -> None:
    prior = half_full() - half_full().flip(2)
    parts = training_loss(said(1, presence=0.0), batch_of(YES, prior), LossSettings(reconstruction=1.0), mask_channel=1)
    assert float(parts["reconstruction"]) == pytest.approx(4 / 9 + UNDECIDED)


@pytest.mark.parametrize(("mask_channel", "reconstruction"), [(None, True), (1, False)])
def test_without_a_mask_or_a_reconstruction_there_is_no_such_part(
    mask_channel: int | None, reconstruction: bool
) -> None:
    output = said(1, presence=0.0, reconstruction=reconstruction)
    parts = training_loss(output, batch_of(YES, half_full()), LossSettings(), mask_channel=mask_channel)
    assert set(parts) == {"outline", "presence"}


def test_confident_circle_around_a_small_lesion_still_learns() -> None:
    # The Dice alone has no gradient where the probability is 0 or 1; the cross-entropy keeps one, whatever the VOI.
    for side in (8, 16):
        target = torch.zeros(1, 1, side, side, side)
        target[..., :2, :2, :2] = 1
        logits = torch.full_like(target, -20.0)
        logits[..., :4, :4, :4] = 20.0
        logits.requires_grad_()
        outline_loss([logits], target, YES).backward()
        assert logits.grad is not None
        assert float(logits.grad[..., 3, 3, 3]) == pytest.approx(1 / (6 * 8 + 0.001 * side**3), rel=1e-3)
