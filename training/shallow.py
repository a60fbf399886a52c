"""Convolutions of few slices, which PyTorch's CPU build differentiates wrongly in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import conv3d
from torch.overrides import TorchFunctionMode


class ShallowInFloat32(TorchFunctionMode):
    """Within it, 3D convolutions on a CPU of fewer slices than their kernel has are in float32, whatever autocast says.

    In bfloat16, parts of the gradient of their weights are memory that nobody wrote (decision 89). It concerns depth
    alone, not height or width; these maps are the smallest ones, so that float32 costs nothing that can be measured.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, as a convolution of few slices without autocast."""
        del types
        kwargs = kwargs or {}
        if func is conv3d and _is_shallow(args[0], args[1]):
            with torch.autocast("cpu", enabled=False):
                return func(*(_in_float32(each) for each in args), **kwargs)
        return func(*args, **kwargs)


def _is_shallow(maps: torch.Tensor, weight: torch.Tensor) -> bool:
    return maps.device.type == "cpu" and maps.shape[2] < weight.shape[2]


def _in_float32(argument: Any) -> Any:
    return argument.float() if isinstance(argument, torch.Tensor) else argument
