"""Interface of networks to the other modules: input, output, and properties that training uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from longilesion.network_settings import UNetSettings

LossPart: TypeAlias = Literal["outline", "presence", "reconstruction"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkInput:
    """A batch of encoded pairs of VOIs; each stream has the channels of its own setting.

    The baseline's maps are zero where `has_baseline` is false. `prior_mask` is the lesion's share of each voxel in the
    baseline, without other lesions; None where the settings do not show it. `earlier` are time points before the
    baseline, oldest first, with the baseline's channels; where a pair has fewer than others of the batch, its first
    ones are zero and `has_earlier` is false. Both are None where no pair has any.
    """

    followup: Float[Tensor, "batch f z y x"]
    baseline: Float[Tensor, "batch b z y x"]
    has_baseline: Bool[Tensor, "batch"]
    prior_mask: Float[Tensor, "batch 1 z y x"] | None = None
    earlier: Float[Tensor, "batch times b z y x"] | None = None
    has_earlier: Bool[Tensor, "batch times"] | None = None

    def __len__(self) -> int:
        return len(self.followup)

    def __getitem__(self, chosen: slice) -> NetworkInput:
        """A slice of the batch."""
        return NetworkInput(**{name: tensor[chosen] for name, tensor in self.tensors().items()})

    @classmethod
    def joined(cls, parts: Sequence[NetworkInput]) -> NetworkInput:
        """Several batches concatenated; those with fewer earlier time points get absent ones before their first."""
        times = max(part.times for part in parts)
        each = [part._with_times(times).tensors() for part in parts]
        return cls(**{name: torch.cat([tensors[name] for tensors in each]) for name in each[0]})

    @property
    def prior(self) -> Float[Tensor, "batch 1 z y x"]:
        """The prior mask, or zeros where the settings do not show it."""
        return torch.zeros_like(self.followup[:, :1]) if self.prior_mask is None else self.prior_mask

    @property
    def times(self) -> int:
        """The number of time points before the baseline."""
        return 0 if self.earlier is None else self.earlier.shape[1]

    def _with_times(self, times: int) -> NetworkInput:
        missing = times - self.times
        if not missing:
            return self
        size = len(self)
        maps = self.baseline.new_zeros((size, missing, *self.baseline.shape[1:]))
        is_there = self.has_baseline.new_zeros((size, missing))
        if self.earlier is not None and self.has_earlier is not None:
            maps = torch.cat((maps, self.earlier), dim=1)
            is_there = torch.cat((is_there, self.has_earlier), dim=1)
        return replace(self, earlier=maps, has_earlier=is_there)

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
        """The batch with every map (batch, channels, z, y, x) of all time points changed."""
        return replace(self.changed_baseline(change), followup=change(self.followup))

    def changed_baseline(self, change: Callable[[Tensor], Tensor]) -> NetworkInput:
        """The batch with every map of the baseline, and of the time points before it, changed."""
        prior = None if self.prior_mask is None else change(self.prior_mask)
        earlier = self.earlier
        if earlier is not None:
            earlier = torch.stack([change(maps) for maps in earlier.unbind(1)], dim=1)
        return replace(self, baseline=change(self.baseline), prior_mask=prior, earlier=earlier)

    def without_baseline(self) -> NetworkInput:
        """The batch as of lesions of which only the follow-up is there."""
        unknown = replace(self, has_baseline=torch.zeros_like(self.has_baseline), earlier=None, has_earlier=None)
        return unknown.changed_baseline(torch.zeros_like)

    def mirrored(self, axes: list[int]) -> NetworkInput:
        """The batch flipped along those dimensions of its maps."""
        return self.changed(lambda maps: maps.flip(axes))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkOutput:
    """A network's outputs for a batch; those that a kind of network does not have are None.

    `lesion_logits` and `baseline_logits` hold one map per decoder resolution, the finest, at the input's size, first;
    only the finest outside training. `presence_features` is the input of the presence head. `baseline_logits` is the
    auxiliary reconstruction of the prior mask.
    """

    lesion_logits: tuple[Float[Tensor, "batch 1 _ _ _"], ...]
    presence_logit: Float[Tensor, " batch"] | None = None
    presence_features: Float[Tensor, "batch d"] | None = None
    baseline_logits: tuple[Float[Tensor, "batch 1 _ _ _"], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NnUnetCounterparts:
    """Those of a network's tensors that can be initialised from an nnU-Net.

    `prefixes` maps the prefixes of our tensors' names to those of the nnU-Net's; the first input channels of our first
    convolution are the follow-up's HU windows. `followup_alone` are values of the other tensors with which the outline
    of the initialised network is nearest to the nnU-Net's of the follow-up, and equal to it where that can be.
    """

    unet: UNetSettings
    prefixes: Mapping[str, str]
    followup_alone: Mapping[str, Tensor] = field(default_factory=dict)


class LesionNetwork(nn.Module, ABC):
    """A network that outlines one lesion per pair of VOIs.

    A kind of network is a subclass that is built from `ModelSettings`, a class of settings, and a row for each in
    `networks.NETWORKS` and `network_settings.NETWORK_SETTINGS`; the settings define the factor of which a lattice's
    size has to be a multiple. With deep supervision at every resolution, all weights contribute to the loss.

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
        """A description for the model card: a noun phrase without an article."""

    @abstractmethod
    def forward(self, batch: NetworkInput) -> NetworkOutput:
        """Outlines a batch; outside training, only the outputs and the resolution that inference needs."""

    @abstractmethod
    def output_layers(self) -> Iterable[nn.Module]:
        """The layers whose output is a lesion's logit, with a bias that is initialised to a low probability."""

    @property
    def loss_parts(self) -> tuple[LossPart, ...]:
        """The parts of the loss; each compares an output with the truth, over samples of its own."""
        return ("outline",) if self.presence is None else ("outline", "presence")

    def counterparts(self) -> NnUnetCounterparts | None:
        """The tensors that can be initialised from an nnU-Net; None where there are none."""
        return None
