"""Fusion of contrast phases: equations 1 and 2 of LIDIA written out, and phases that are absent."""

from itertools import combinations

import pytest
import torch
from torch import nn

from longilesion.networks.lesion_queries import PhaseInput
from longilesion.networks.phase_fusion import PHASE_FUSIONS, IterativePhaseFusion, PhaseConcatenation
from test.unit.lesion_queries import random_phases

SUBSETS = ["".join(chosen) for number in (1, 2, 3, 4) for chosen in combinations("NAVD", number)]


def fusion_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return PHASE_FUSIONS[name](1, 4, phases=4)


def fused(fusion: nn.Module, batch: PhaseInput) -> torch.Tensor:
    with torch.inference_mode():
        return fusion(batch.phases, batch.is_there)


def by_hand(fusion: IterativePhaseFusion, batch: PhaseInput, phases: str) -> torch.Tensor:
    """Equation 2 over those phases of the batch."""
    (step,) = fusion.fusion.blocks
    with torch.inference_mode():
        features = ["NAVD".index(phase) for phase in phases]
        h = fusion.blocks[features[0]](batch.phases[:, features[0]])
        for phase in features[1:]:
            h = step(torch.cat((h, fusion.blocks[phase](batch.phases[:, phase])), dim=1))
        return h


@pytest.mark.parametrize("phases", SUBSETS)
def test_fusion_is_the_recursion_over_the_phases_that_are_there(phases: str) -> None:
    fusion, batch = fusion_of("iterative"), random_phases(phases, phases)
    assert torch.equal(fused(fusion, batch), by_hand(fusion, batch, phases))


def test_without_the_delayed_phase_the_recursion_stops_at_the_venous_one() -> None:
    fusion, batch = fusion_of("iterative"), random_phases("NAV")
    (step,) = fusion.fusion.blocks
    with torch.inference_mode():
        non_contrast, arterial, venous, _ = (
            block(image) for block, image in zip(fusion.blocks, batch.phases.unbind(1), strict=True)
        )
        second = step(torch.cat((non_contrast, arterial), dim=1))
        third = step(torch.cat((second, venous), dim=1))
    assert torch.equal(fused(fusion, batch), third)


def test_every_phase_that_is_there_counts_in_its_place() -> None:
    fusion, batch = fusion_of("iterative"), random_phases("NAVD")
    for first, second in combinations(range(4), 2):
        order = list(range(4))
        order[first], order[second] = second, first
        swapped = PhaseInput(phases=batch.phases[:, order], is_there=batch.is_there)
        assert not torch.allclose(fused(fusion, swapped), fused(fusion, batch), atol=1e-3)


@pytest.mark.parametrize("name", PHASE_FUSIONS)
def test_whatever_stands_in_an_absent_phase_has_no_influence(name: str) -> None:
    fusion, batch = fusion_of(name), random_phases("NAV", "AD", "V")
    known = batch.is_there[:, :, None, None, None, None]
    garbage = PhaseInput(phases=batch.phases.where(known, 1e4), is_there=batch.is_there)
    assert torch.equal(fused(fusion, garbage), fused(fusion, batch))
    images = garbage.phases.clone().requires_grad_()
    fusion(images, batch.is_there).square().sum().backward()
    influence = images.grad.abs().amax(dim=(2, 3, 4, 5))
    assert torch.equal(influence > 0, batch.is_there)


@pytest.mark.parametrize("name", PHASE_FUSIONS)
def test_batch_of_different_phases_is_each_sample_alone(name: str) -> None:
    fusion, batch = fusion_of(name), random_phases("NAV", "NAVD", "V", "AD", "D")
    together = fused(fusion, batch)
    for number in range(5):
        one = slice(number, number + 1)
        alone = fused(fusion, PhaseInput(phases=batch.phases[one], is_there=batch.is_there[one]))
        torch.testing.assert_close(together[one], alone, rtol=1e-4, atol=1e-5)


def test_phase_that_no_sample_has_is_not_computed() -> None:
    fusion, batch = fusion_of("iterative"), random_phases("NV", "V")
    computed: list[int] = []
    for number, block in enumerate(fusion.blocks):
        block.register_forward_hook(lambda *_, number=number: computed.append(number))
    fused(fusion, batch)
    assert computed == [0, 2]


def test_concatenation_sees_all_phases_at_once_with_as_many_weights() -> None:
    iterative, concatenation = (
        sum(part.weight.numel() for part in fusion.modules() if isinstance(part, nn.Conv3d))
        for fusion in (IterativePhaseFusion(2, 6, phases=3), PhaseConcatenation(2, 6, phases=3))
    )
    assert concatenation == iterative
    first = next(part for part in PhaseConcatenation(2, 6, phases=3).modules() if isinstance(part, nn.Conv3d))
    assert first.in_channels == 6
