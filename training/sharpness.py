"""Sharpness-aware minimisation (Foret et al. 2020, algorithm 1), around any optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

_Result = TypeVar("_Result")


def sharpness_aware_gradients(one_pass: Callable[[], _Result], parameters: Iterable[Tensor], *, rho: float) -> _Result:
    """Leaves the gradients at w + rho * g / ||g||, g being those at w, and w as it was; returns the first pass' result.

    `one_pass` clears the gradients, goes forward and backward. It is called twice with torch's generators in the same
    state, and has to draw alike from any other. It is called once where rho is 0, as without this function, and where
    g is not finite, which is left for the caller to skip the step.
    """
    if rho == 0:
        return one_pass()
    weights = list(parameters)
    with torch.random.fork_rng({each.device for each in weights if each.is_cuda}):
        result = one_pass()
    with perturbed(weights, rho) as is_moved:
        if is_moved:
            one_pass()
    return result


@contextmanager
def perturbed(parameters: Iterable[Tensor], rho: float) -> Iterator[bool]:
    """Moves weights by rho along their gradient (eq. 2), whatever its scale, and puts the very same weights back.

    Yields False, and moves nothing, where the gradient is not finite.
    """
    weights = [each for each in parameters if each.grad is not None]
    norm = get_total_norm([cast("Tensor", each.grad) for each in weights])
    if not norm.isfinite():
        yield False
        return
    # A gradient of zero moves nothing.
    factor = rho / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    before = [each.detach().clone() for each in weights]
    try:
        with torch.no_grad():
            for each in weights:
                each.addcmul_(cast("Tensor", each.grad), factor)
        yield True
    finally:
        with torch.no_grad():
            for each, own in zip(weights, before, strict=True):
                each.copy_(own)
