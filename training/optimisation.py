"""Objective, optimiser, learning rate and average of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from longilesion.networks.interface import LesionNetwork, NetworkInput
from training.batch import Batch
from training.losses import training_loss
from training.recipe import LossSettings, OptimizerSettings

_Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]

# A lesion fills about a hundredth of its VOI.
_RARE_LOGIT = -4.0


class Objective(nn.Module):
    """A network and its loss, from tensors to the parts of the loss, as data-parallel wrappers require."""

    def __init__(self, network: LesionNetwork, settings: LossSettings) -> None:
        """Stores both."""
        super().__init__()
        self.network, self.settings = network, settings

    def forward(
        self, inputs: Mapping[str, Tensor], target: Tensor, present: Tensor, counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The weighted parts of the loss, from the tensors of a NetworkInput.

        `counts` are those of `losses.counted_samples` per process.
        """
        # Mixed precision rounds all inputs; sums over a target's voxels must not be rounded as well.
        batch = Batch(input=NetworkInput(**inputs), target=target.float(), present=present)
        return training_loss(
            self.network(batch.input), batch, self.settings, parts=self.network.loss_parts, counts=counts
        )


def initialised(network: LesionNetwork) -> LesionNetwork:
    """Initialises the output layers so that lesion voxels are rare, as in a VOI.

    From a probability of one half, the first hundreds of steps would only lower the probability.
    """
    for layer in network.output_layers():
        nn.init.constant_(cast("Tensor", layer.bias), _RARE_LOGIT)
    return network


def build_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (LongiNet, section 2.5), Adam (LiFE-Net), or AdamW."""
    if settings.kind == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
    kind = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    return kind(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def learning_rate(step: int, share_done: float, settings: OptimizerSettings) -> float:
    """Polynomial decay with the run's share that is done, after a warm-up at a fraction (LongiNet, section 2.5)."""
    warmup = settings.warmup_factor if step < settings.warmup_steps else 1.0
    return float(settings.learning_rate * warmup * (1 - share_done) ** settings.decay_exponent)


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential average of a network's weights, for validation and the bundle."""
    return AveragedModel(network, multi_avg_fn=averaging(decay))


def averaging(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """An exponential average with a faster decay at first, because early weights are far from later ones."""

    def update(averages: _Tensors, weights: _Tensors, count: Tensor | int) -> None:
        ramp = (1 + int(count)) / (10 + int(count))
        get_ema_multi_avg_fn(min(decay, ramp))(averages, weights, count)

    return update
