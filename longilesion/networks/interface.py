"""What everybody else knows of a network: what it gets, what it says, and what training may ask it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from longilesion.config import UNetSettings

LossPart: TypeAlias = Literal["outline", "presence", "reconstruction"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkInput:
    """A batch of encoded pairs of VOIs; each stream has the channels of its own setting.

    The baseline's maps are zero where `has_baseline` is false. `prior_mask` is the lesion's share of each voxel in the
    baseline, without other lesions; None where the settings do not show it.
    """

    followup: Float32[Tensor, "batch f z y x"]
    baseline: Float32[Tensor, "batch b z y x"]
    has_baseline: Bool[Tensor, "batch"]
    prior_mask: Float32[Tensor, "batch 1 z y x"] | None = None

    def __len__(self) -> int:
        return len(self.followup)

    def __getitem__(self, chosen: slice) -> NetworkInput:
        """Some of the pairs."""
        return NetworkInput(**{name: tensor[chosen] for name, tensor in self.tensors().items()})

    @classmethod
    def joined(cls, parts: Sequence[NetworkInput]) -> NetworkInput:
        """One batch of several."""
        each = [part.tensors() for part in parts]
        return cls(**{name: torch.cat([tensors[name] for tensors in each]) for name in each[0]})

    def split(self, size: int) -> list[NetworkInput]:
        """Batches of up to that many pairs."""
        return [self[start : start + size] for start in range(0, len(self), size)]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their field's name, without those that are None."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def to(self, device: torch.device) -> NetworkInput:
        """The same batch on a device."""
        return NetworkInput(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def changed(self, change: Callable[[Tensor], Tensor]) -> NetworkInput:
        """The batch with every map (batch, channels, z, y, x) of both time points changed."""
        return replace(self.changed_baseline(change), followup=change(self.followup))

    def changed_baseline(self, change: Callable[[Tensor], Tensor]) -> NetworkInput:
        """The batch with every map of the baseline changed."""
        prior = None if self.prior_mask is None else change(self.prior_mask)
        return replace(self, baseline=change(self.baseline), prior_mask=prior)

    def mirrored(self, axes: list[int]) -> NetworkInput:
        """The batch flipped along those dimensions of its maps."""
        return self.changed(lambda maps: maps.flip(axes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkOutput:
    """What a network says of a batch; whatever a kind of network does not say is None.

    `lesion_logits` and `baseline_logits` hold one map per decoder resolution, the finest, at the input's size, first;
    only the finest outside training. `presence_features` is what the presence was judged by. `baseline_logits` is the
    auxiliary reconstruction of the prior mask. `queries` describe the lesions that a network finds by itself, and
    `class_logits` says of each what it is.
    """

    lesion_logits: tuple[Float[Tensor, "batch 1 _ _ _"], ...]
    presence_logit: Float[Tensor, " batch"] | None = None
    presence_features: Float[Tensor, "batch d"] | None = None
    baseline_logits: tuple[Float[Tensor, "batch 1 _ _ _"], ...] | None = None
    class_logits: Float[Tensor, "batch queries classes"] | None = None
    queries: Float[Tensor, "batch queries e"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NnUnetCounterparts:
    """Which of a network's tensors an nnU-Net's can fill.

    `prefixes` leads from the beginning of our names to that of theirs; our first convolution sees the follow-up's HU
    windows first. `followup_alone` are the values with which the other tensors leave such a network the outline of the
    follow-up that the nnU-Net would give, once all named ones are filled.
    """

    unet: UNetSettings
    prefixes: Mapping[str, str]
    followup_alone: Mapping[str, Tensor] = field(default_factory=dict)


class LesionNetwork(nn.Module, ABC):
    """A network that outlines one lesion per pair of VOIs.

    A kind of network is a subclass that is built from `ModelSettings`, a class of settings, and a row for each in
    `networks.NETWORKS` and `config.NETWORK_SETTINGS`; the settings say what a lattice has to be a multiple of. Where
    every resolution is judged, all weights have a share in the loss.

    `presence` is the head that turns `NetworkOutput.presence_features` into `presence_logit`, and None where there is
    none.
    """

    presence: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.presence = None

    @property
    @abstractmethod
    def description(self) -> str:
        """What it is, for the model card: a noun phrase without an article."""

    @abstractmethod
    def forward(self, batch: NetworkInput) -> NetworkOutput:
        """Outlines a batch; the finest resolution only, and nothing that only training needs, outside training."""

    @abstractmethod
    def output_layers(self) -> Iterable[nn.Module]:
        """The layers whose output is a lesion's logit, and whose bias says at first that lesions are rare."""

    @property
    def loss_parts(self) -> tuple[LossPart, ...]:
        """What it is trained by; each part compares an output with the truth, over samples of its own."""
        return ("outline",) if self.presence is None else ("outline", "presence")

    def counterparts(self) -> NnUnetCounterparts | None:
        """What an nnU-Net's weights can fill; None where that is nothing."""
        return None
