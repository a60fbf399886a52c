"""The papers' equations of fusion and attention, written out, against the networks' own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from longilesion.networks.fusion import DifferenceFusion, Fusion, IterativeFusion, PointwiseFusion, TimePointFeatures
from longilesion.networks.joint_encoder import SelfAttention

LEVELS = ((3, 4), (5, 2))


def features(*, seed: int, batch: int = 2) -> list[Tensor]:
    """Noise at two levels, of 3 and 5 features."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((batch, count, size, size, size), generator=generator) for count, size in LEVELS]


def prior(*, seed: int, is_there: tuple[bool, ...] = (True, True)) -> TimePointFeatures:
    known = torch.tensor(is_there)
    levels = [level * known[:, None, None, None, None] for level in features(seed=seed, batch=len(is_there))]
    return TimePointFeatures(levels=levels, is_there=known)


def with_random_weights(fusion: Fusion) -> Fusion:
    generator = torch.Generator().manual_seed(7)
    for parameter in fusion.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return fusion


def test_difference_weighting_is_equation_2() -> None:
    fusion = with_random_weights(DifferenceFusion((3, 5)))
    now, before = features(seed=0), prior(seed=1)
    with torch.no_grad():
        fused = fusion(now, [before])
    for level, norm in enumerate(fusion.norms):
        current, earlier = now[level].double().numpy(), before.levels[level].double().numpy()
        weight, bias = (each.detach().double().numpy()[:, None, None, None] for each in (norm.weight, norm.bias))
        expected = np.empty_like(current)
        for lesion in range(2):
            for channel in range(len(weight)):
                change = current[lesion, channel] - earlier[lesion, channel]
                change = (change - change.mean()) / np.sqrt(change.var() + 1e-5)
                change = weight[channel] * change + bias[channel]
                expected[lesion, channel] = current[lesion, channel] * change + current[lesion, channel]
        np.testing.assert_allclose(fused[level].numpy(), expected, atol=1e-5)


def written_out(fusion: IterativeFusion, lesion: int, series: list[list[Tensor]], level: int) -> Tensor:
    """Equation 2 of LIDIA for one lesion: the convolution, the normalisation and the rectification of each step."""
    block = fusion.blocks[level].convs[0]
    state = series[0][level][lesion : lesion + 1]
    for levels in series[1:]:
        both = torch.cat((state, levels[level][lesion : lesion + 1]), dim=1)
        state = nn.functional.conv3d(both, block.conv.weight, block.conv.bias, padding=1)
        state = (state - state.mean((2, 3, 4), keepdim=True)) / (
            state.var((2, 3, 4), False, keepdim=True) + 1e-5
        ).sqrt()
        state = state * block.norm.weight[:, None, None, None] + block.norm.bias[:, None, None, None]
        state = torch.where(state > 0, state, 0.01 * state)
    return state


@pytest.mark.parametrize(
    "is_there",
    [
        [(True, True)],
        [(True, True), (True, True)],
        [(True, True), (True, True), (True, True)],
        [(False, True), (True, True), (True, True)],
        [(True, False), (False, True), (True, False)],
        [(True, False), (False, False), (True, False)],
        [(False, True)],
        [],
    ],
)
def test_iterative_fusion_is_the_recursion_over_the_time_points_that_there_are(
    is_there: list[tuple[bool, bool]],
) -> None:
    fusion = with_random_weights(IterativeFusion((3, 5)))
    assert isinstance(fusion, IterativeFusion)
    followup = features(seed=0)
    priors = [prior(seed=number, is_there=known) for number, known in enumerate(is_there, start=1)]
    with torch.no_grad():
        fused = fusion(followup, priors)
        for lesion in range(2):
            known = [each.levels for each, there in zip(priors, is_there, strict=True) if there[lesion]]
            for level in range(2):
                expected = written_out(fusion, lesion, [*known, followup], level)
                torch.testing.assert_close(fused[level][lesion : lesion + 1], expected)


@pytest.mark.parametrize("kind", [PointwiseFusion, DifferenceFusion])
def test_fusion_begun_with_the_followup_alone_passes_its_features_on(kind: type[Fusion]) -> None:
    fusion = with_random_weights(kind((3, 5)))
    fusion.load_state_dict(fusion.followup_alone())
    followup = features(seed=0)
    with torch.no_grad():
        fused = fusion(followup, [prior(seed=1, is_there=(True, False))])
    for level, expected in zip(fused, followup, strict=True):
        torch.testing.assert_close(level, expected)


def test_iterative_fusion_begun_with_the_followup_alone_normalises_and_rectifies_its_features() -> None:
    fusion = with_random_weights(IterativeFusion((3, 5)))
    values = fusion.followup_alone()
    assert values.keys() == dict(fusion.named_parameters()).keys()
    fusion.load_state_dict(values, strict=False)
    followup = features(seed=0)
    with torch.no_grad():
        fused = fusion(followup, [prior(seed=1), prior(seed=2)])
    for level, given in zip(fused, followup, strict=True):
        expected = nn.functional.leaky_relu(nn.functional.instance_norm(given), 0.01)
        torch.testing.assert_close(level, expected)


def test_difference_weighting_without_a_baseline_leaves_the_followup_as_it_is() -> None:
    fusion = with_random_weights(DifferenceFusion((3, 5)))
    followup = features(seed=0)
    with torch.no_grad():
        fused = fusion(followup, [prior(seed=1, is_there=(False, True))])
    for level, given in zip(fused, followup, strict=True):
        assert torch.equal(level[0], given[0])
        assert not torch.allclose(level[1], given[1])


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_torchs_and_the_softmax_written_out(heads: int) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, heads=heads)
    reference = nn.MultiheadAttention(8, heads, batch_first=True)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.5)
    attention.into.load_state_dict({"weight": reference.in_proj_weight, "bias": reference.in_proj_bias})
    attention.out.load_state_dict(reference.out_proj.state_dict())
    maps = torch.randn(2, 8, 2, 3, 4)
    positions = maps.flatten(2).transpose(1, 2)
    with torch.no_grad():
        seen = (attention(maps) - maps).flatten(2).transpose(1, 2)
        expected, _ = reference(positions, positions, positions)
        query, key, value = (
            part.unflatten(2, (heads, -1)).transpose(1, 2)
            for part in (positions @ reference.in_proj_weight.T + reference.in_proj_bias).chunk(3, dim=2)
        )
        weights = (query @ key.transpose(2, 3) / (8 / heads) ** 0.5).softmax(dim=3)
        by_hand = reference.out_proj((weights @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen, by_hand, atol=1e-5, rtol=1e-4)


def test_attention_over_many_positions_never_holds_a_weight_for_each_pair() -> None:
    attention = SelfAttention(4, heads=1).eval()
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, called, types, args=(), kwargs=None):
            nonlocal largest
            result = called(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, Tensor):
                    largest = max(largest, tensor.numel())
            return result

    maps = torch.rand(1, 4, 8, 16, 16)
    with Largest(), torch.inference_mode():
        attention(maps)
    assert maps.numel() <= largest <= 3 * maps.numel()
