"""Convolutions of few slices in bfloat16 on a CPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from training.shallow import ShallowInFloat32


@settings(deadline=None, max_examples=60)
@given(
    depth=st.integers(1, 6),
    size=st.integers(2, 6),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_gradients_in_bfloat16_are_those_of_float32_for_any_number_of_slices(
    depth: int, size: int, kernel: int, stride: int, batch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    network = nn.Conv3d(8, 8, kernel, padding=kernel // 2, stride=(stride, 1, 1)).to(
        memory_format=torch.channels_last_3d  # type: ignore[call-overload]
    )
    maps = torch.randn(batch, 8, depth, size, size)
    direction = torch.randn_like(network(maps))

    def gradient(*, mixed: bool) -> torch.Tensor:
        network.zero_grad()
        # Memory that is freed and then taken by the gradient; it must not show in it.
        del_me = [torch.full((count,), torch.nan) for count in (1_000, 30_000, 200_000)]
        del del_me
        with ShallowInFloat32(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            (network(maps) * direction).sum().backward()
        assert network.weight.grad is not None
        return network.weight.grad.clone()

    expected = gradient(mixed=False)
    torch.testing.assert_close(gradient(mixed=True), expected, rtol=0.0, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize(("depth", "expected"), [(2, torch.float32), (3, torch.bfloat16), (16, torch.bfloat16)])
def test_only_convolutions_of_fewer_slices_than_their_kernel_are_in_float32(depth: int, expected: torch.dtype) -> None:
    network = nn.Conv3d(1, 1, 3, padding=1)
    with ShallowInFloat32(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.ones(1, 1, depth, 4, 4)).dtype == expected
