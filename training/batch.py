"""A training batch: what the network gets, and what is true of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from longilesion.networks.interface import NetworkInput


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """An encoded batch and what is true of it; absent lesions have an empty target.

    Samples of one origin show one patient or one synthetic pair. `skipped` says which damaged cut-outs were replaced by
    others.
    """

    input: NetworkInput
    target: Float32[Tensor, "batch 1 z y x"]
    present: Bool[Tensor, " batch"]
    origins: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return replace(
            self, input=self.input.to(device), target=self.target.to(device), present=self.present.to(device)
        )
