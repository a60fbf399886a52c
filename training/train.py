"""Trains one network from a recipe: `python -m training.train RECIPE --data FOLDER --output RUN`.

A run resumes from its checkpoint. Where the data folder is absent, phantoms take its place.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from longilesion.ensemble import Device, find_device, save_bundle
from longilesion.networks import build_network
from longilesion.networks.dual_encoder import DualEncoder
from training.command import run_command
from training.dataset import Batch, Sample, augmented, collate, lesion_samples
from training.loading import batches
from training.losses import soft_dice_loss, training_loss
from training.recipe import JitterSettings, OptimizerSettings, Recipe, read_recipe
from training.synthesis.pairs import synthetic_pair
from training.synthesis.sources import Source, load_sources, phantom_sources

_Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]

_log = logging.getLogger("training")

_LOG_EVERY = 50
_SAVE_EVERY = 500
_RARE_LOGIT = -4.0
_NO_JITTER = JitterSettings(shift_mm=0.0, unaligned_share=0.0, zoom_factor=1.0, placements=1)


@dataclass
class Arguments:
    """Command line of a training run."""

    recipe: tyro.conf.Positional[Path]
    output: Path
    """Folder of the run: checkpoint and the exported bundle."""
    data: Path | None = None
    """Folder with one subfolder per CT volume (ct.nii.gz, lesions.nii.gz); phantoms where it is not given."""
    steps: int | None = None
    """Train for fewer steps than the recipe says; the learning rate's decay follows."""
    minutes: float = float("inf")
    """Stop after this time with a checkpoint, to be resumed later."""
    seed: int = 0
    workers: int = 1
    """Processes that draw lesions. A GPU takes what a dozen of them draw; two CPU cores have time for one."""
    device: Device = "auto"


def train(arguments: Arguments) -> None:
    """Runs or resumes a training and exports the averaged weights as a bundle."""
    recipe = read_recipe(arguments.recipe)
    steps = arguments.steps or recipe.steps
    sources, held_out = _sources(recipe, arguments.data)
    device = find_device(arguments.device)
    torch.manual_seed(arguments.seed)
    network = initialised(build_network(recipe.model)).to(device)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = AveragedModel(network, multi_avg_fn=_averaging(recipe.average_decay))
    optimizer = _optimizer(network, recipe.optimizer)
    checkpoint = arguments.output / "checkpoint.pt"
    first = _resume(checkpoint, network, average, optimizer, device) if checkpoint.exists() else 0
    stream = batches(sources, recipe, seed=arguments.seed + 1000 * first, workers=arguments.workers)
    watched = [batch.to(device) for batch in _validation_batches(recipe, held_out)]
    generator = torch.Generator().manual_seed(arguments.seed + first)
    begun = time.monotonic()
    sums: dict[str, float] = {}
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, steps, recipe.optimizer)
        batch = augmented(next(stream), recipe, generator).to(device)
        parts = _step(network, batch, optimizer, recipe)
        average.update_parameters(network)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value / _LOG_EVERY
        done = step + 1
        if done % _LOG_EVERY == 0:
            figures = "  ".join(f"{name} {value:.3f}" for name, value in sums.items())
            _log.info(
                "step %d of %d  %s  %.2f s a step", done, steps, figures, (time.monotonic() - begun) / (done - first)
            )
            sums = {}
        late = (time.monotonic() - begun) / 60 > arguments.minutes
        if done % _SAVE_EVERY == 0 or done == steps or late:
            _save(checkpoint, network, average, optimizer, done)
            save_bundle(
                arguments.output / "bundle", recipe.model, [average.module], provenance=_provenance(recipe, arguments)
            )
            _log.info("validation at step %d: %s", done, _validate(average.module, watched))
        if late:
            _log.info("stopped at step %d after %.0f minutes; run again to resume", done, arguments.minutes)
            break
    _log.info("the bundle is in %s", arguments.output / "bundle")


def initialised(network: DualEncoder) -> DualEncoder:
    """The network, saying at first that a voxel is hardly ever lesion, as is true of a VOI.

    From a probability of one half, the first hundreds of steps only teach how rare lesions are.
    """
    for decoder in (network.decoder, network.baseline_decoder):
        if decoder is not None:
            for layer in decoder.unet.seg_layers:
                nn.init.constant_(layer.bias, _RARE_LOGIT)
    return network


def _sources(recipe: Recipe, data: Path | None) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    if data is None:
        return phantom_sources(range(4)), phantom_sources(range(100, 102))
    return load_sources(data, recipe.data.train), load_sources(data, recipe.data.validation)


def _optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    if settings.kind == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=True,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _averaging(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """An exponential average that forgets faster at first: the first steps' weights are no use to the thousandth's."""

    def update(averages: _Tensors, weights: _Tensors, count: Tensor | int) -> None:
        ramp = (1 + int(count)) / (10 + int(count))
        get_ema_multi_avg_fn(min(decay, ramp))(averages, weights, count)

    return update


def _learning_rate(step: int, steps: int, settings: OptimizerSettings) -> float:
    """Polynomial decay after a warm-up at a fraction of the rate (LongiNet, section 2.5)."""
    warmup = settings.warmup_factor if step < settings.warmup_steps else 1.0
    return float(settings.learning_rate * warmup * (1 - step / steps) ** settings.decay_exponent)


def _step(network: DualEncoder, batch: Batch, optimizer: torch.optim.Optimizer, recipe: Recipe) -> dict[str, float]:
    network.train()
    with torch.autocast(batch.target.device.type, dtype=torch.bfloat16):
        output = network(batch.input)
    parts = training_loss(output, batch, recipe.loss, mask_channel=network.mask_channel)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(parts.values())).sum().backward()
    nn.utils.clip_grad_norm_(network.parameters(), recipe.optimizer.gradient_clip)
    optimizer.step()
    return {name: value.item() for name, value in parts.items()}


def _validation_batches(recipe: Recipe, sources: tuple[Source, ...]) -> list[Batch]:
    """The same few dozen held-out lesions every time, placed exactly as inference would."""
    generator = np.random.default_rng(7)
    samples: list[Sample] = []
    while len(samples) < 48:
        source = sources[len(samples) % len(sources)]
        pair = synthetic_pair(source, generator, shapes=sources)
        samples.extend(lesion_samples(pair, recipe.model, generator, jitter=_NO_JITTER))
    return [collate(samples[start : start + 4], recipe) for start in range(0, 48, 4)]


def _validate(network: nn.Module, batches: list[Batch]) -> str:
    network.eval()
    dice: list[float] = []
    kept: list[bool] = []
    recognised: list[bool] = []
    with torch.inference_mode(), torch.autocast(batches[0].target.device.type, dtype=torch.bfloat16):
        for batch in batches:
            output = network(batch.input)
            hard = (output.lesion_logits[0].float() > 0).float() * 40 - 20
            scores = 1 - soft_dice_loss(hard, batch.target)
            said = output.presence_logit > 0
            for score, there, says in zip(scores.tolist(), batch.present.tolist(), said.tolist(), strict=True):
                if there:
                    dice.append(score)
                    kept.append(says)
                else:
                    recognised.append(not says)
    return f"Dice {np.mean(dice):.3f}, present kept {np.mean(kept):.2f}, gone recognised {np.mean(recognised):.2f}"


def _save(path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(
        {
            "network": network.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
        },
        temporary,
    )
    temporary.replace(path)


def _resume(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> int:
    state = torch.load(path, weights_only=True, map_location=device)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    step: int = state["step"]
    _log.info("resumed from step %d", step)
    return step


def _provenance(recipe: Recipe, arguments: Arguments) -> dict[str, str]:
    data = "phantoms" if arguments.data is None else ", ".join(recipe.data.train)
    return {"recipe": recipe.name, "data": data, "licence": "research use only"}


def main() -> int:
    """Command line; 1 where the recipe or the data cannot be used."""
    return run_command(train, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
