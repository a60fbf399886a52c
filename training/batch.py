"""A training batch: network input and ground truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from longilesion.networks.interface import NetworkInput


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """An encoded batch and its ground truth; absent lesions have an empty target.

    Samples with the same origin are of one patient or one synthetic pair; `outlined` says which have an outline in the
    baseline. `skipped` lists damaged cut-outs that were replaced by others.
    """

    input: NetworkInput
    target: Float32[Tensor, "batch 1 z y x"]
    present: Bool[Tensor, " batch"]
    origins: tuple[str, ...] = ()
    outlined: tuple[bool, ...] = ()
    skipped: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return replace(
            self, input=self.input.to(device), target=self.target.to(device), present=self.present.to(device)
        )
