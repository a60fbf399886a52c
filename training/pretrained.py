"""Starts a network from an nnU-Net's weights: `python -m training.pretrained FOLDER --recipe RECIPE` shows what fits.

LongiNet (section 2.3) starts from a single-time-point nnU-Net, the baseline model of ULS23; Promptable LongiSeg
(table 1) also from nnInteractive, whose folder is an nnU-Net's and whose network sees the image first, then prompts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import tyro
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from torch import Tensor

from longilesion.config import EncodingSettings, ModelSettings
from longilesion.errors import InputError
from longilesion.network_settings import UNetSettings
from longilesion.networks import build_network
from longilesion.networks.interface import LesionNetwork, NnUnetCounterparts
from training.command import run_command
from training.nnunet import Checkpoint, Fold, NnUnetWeights, read_nnunet
from training.recipe import read_recipe

Fate: TypeAlias = Literal["copied", "adapted", "fresh", "unused"]

# nnU-Net's names of the first convolution, of a plain or a residual encoder.
_FIRST = ("encoder.stages.0.0.convs.0.conv.weight", "encoder.stem.convs.0.conv.weight")


class TensorTransfer(BaseModel):
    """The fate of a tensor of our network and its nnU-Net source, or of an unused nnU-Net tensor."""

    model_config = ConfigDict(frozen=True)

    ours: str | None
    theirs: str | None
    shape: tuple[int, ...]
    fate: Fate
    reason: str = ""


class TransferReport(BaseModel):
    """The transferred tensors of an initialisation, and the differences between the two networks and their images."""

    model_config = ConfigDict(frozen=True)

    checkpoint: str
    tensors: tuple[TensorTransfer, ...]
    differences: tuple[str, ...]

    def count(self, *fates: Fate) -> int:
        """The number of tensors with one of these fates."""
        return sum(tensor.fate in fates for tensor in self.tensors)

    def table(self) -> Table:
        """A line for each part of the network and fate, and one for each difference."""
        table = Table("part", "tensors", "parameters", "fate", "reason", title=f"Weights from {self.checkpoint}")
        lines: dict[tuple[str, Fate, str], list[TensorTransfer]] = {}
        for tensor in self.tensors:
            part = ".".join(tensor.ours.split(".")[:-1][:4]) if tensor.ours else "(theirs)"
            lines.setdefault((part, tensor.fate, tensor.reason), []).append(tensor)
        for (part, fate, reason), tensors in lines.items():
            parameters = sum(torch.Size(tensor.shape).numel() for tensor in tensors)
            table.add_row(part, str(len(tensors)), f"{parameters:,}", fate, reason)
        table.caption = "\n".join(self.differences)
        return table


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Offer:
    """The value for one tensor of our network; None leaves it unchanged."""

    value: Tensor | None
    fate: Fate
    reason: str = ""


@dataclass
class Arguments:
    """Command line."""

    folder: tyro.conf.Positional[Path]
    """nnU-Net's or nnInteractive's training folder, which holds plans.json, dataset.json and the folds."""
    recipe: Path
    fold: Fold | None = None
    """fold_all, or else the first one there is, where it is not given."""
    configuration: str | None = None
    """The one that was trained, where it is not given."""
    checkpoint: Checkpoint | None = None
    """The final one, or else the best, where it is not given."""


def initialise(network: LesionNetwork, weights: NnUnetWeights, settings: ModelSettings) -> TransferReport:
    """Copies every tensor that fits by name and shape; `settings` are those that the network was built from.

    The decoder is left unchanged where it has other stages or no norms. Where both parts are copied completely, the
    fusion is initialised so that the network outlines the follow-up as nnU-Net would. Raises InputError where no
    convolution of the encoder fits, or the follow-up's image is not shown; the network is then unchanged.
    """
    ours = network.counterparts()
    if ours is None:
        raise InputError(f"{weights.checkpoint}: nothing in a {settings.network.kind} is an nnU-Net's")
    if "image" not in settings.encoding.followup_channels:
        raise InputError(f"{weights.checkpoint}: its image has no counterpart; expected image in followup_channels")
    offers = {name: _offer(name, tensor, ours, weights, settings) for name, tensor in network.named_parameters()}
    filled = [name for name, offer in offers.items() if offer.value is not None]
    if not any(_counterpart(name, ours).startswith("encoder.") and name.endswith("conv.weight") for name in filled):
        raise InputError(
            f"{weights.checkpoint}: 0 of {len(weights.tensors)} tensors fit; theirs is a {weights.network_class} of "
            f"{_joined(weights.features_per_stage)} features, ours has a {ours.unet.encoder} encoder of "
            f"{_joined(ours.unet.features_per_stage)}; expected an encoder of one kind and size"
        )
    if all(offer.value is not None for name, offer in offers.items() if _counterpart(name, ours)):
        offers.update({name: _begun(value) for name, value in ours.followup_alone.items()})
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            offered = offers[name].value
            if offered is not None:
                tensor.copy_(offered)
    return TransferReport(
        checkpoint=str(weights.checkpoint),
        tensors=tuple(_rows(network, offers, ours, weights)),
        differences=tuple(_differences(weights, ours.unet, settings)),
    )


def _offer(
    name: str, tensor: Tensor, ours: NnUnetCounterparts, weights: NnUnetWeights, settings: ModelSettings
) -> _Offer:
    counterpart = _counterpart(name, ours)
    theirs = weights.tensors.get(counterpart)
    if theirs is None:
        return _Offer(value=None, fate="fresh", reason="nnU-Net has no such tensor")
    if counterpart.startswith("decoder."):
        if not ours.unet.decoder_norm:
            return _Offer(value=None, fate="fresh", reason="without norms, features of another scale")
        if len(ours.unet.features_per_stage) != len(weights.features_per_stage):
            return _Offer(value=None, fate="fresh", reason="another number of stages")
    if ".seg_layers." in counterpart and theirs.shape[1:] == tensor.shape[1:] and len(theirs) in (1, 2):
        logit = theirs[-1] - theirs[0] if len(theirs) == 2 else theirs[0]
        return _Offer(value=logit.expand_as(tensor), fate="adapted", reason="lesion's logit against background's")
    is_first = counterpart in _FIRST
    if is_first and (len(theirs), *theirs.shape[2:]) == (len(tensor), *tensor.shape[2:]):
        unused = f", {theirs.shape[1] - 1} more of theirs are not used" if theirs.shape[1] > 1 else ""
        return _Offer(
            value=_first_convolution(theirs[:, :1], tensor, ours, weights, settings),
            fate="adapted",
            reason=f"their first channel, the image, is our HU windows' mean; other channels begin at 0{unused}",
        )
    if theirs.shape != tensor.shape or is_first:
        reason = f"theirs is {_joined(theirs.shape)}, ours {_joined(tensor.shape)}"
        return _Offer(value=None, fate="fresh", reason=reason)
    return _Offer(value=theirs, fate="copied")


def _counterpart(name: str, ours: NnUnetCounterparts) -> str:
    """nnU-Net's name of a tensor of our network, empty where it has none."""
    for prefix, theirs in ours.prefixes.items():
        if name.startswith(prefix):
            return theirs + name.removeprefix(prefix)
    return ""


def _first_convolution(
    theirs: Tensor, tensor: Tensor, ours: NnUnetCounterparts, weights: NnUnetWeights, settings: ModelSettings
) -> Tensor:
    """Weights for our HU windows and the stem's blocks of voxels, equivalent to nnU-Net's for its image.

    Our windows, and nnU-Net's image, are HU divided by a number; where either divisor is that of each image, both are
    taken as equal. What is subtracted is a constant, which the norm after the convolution removes.
    """
    blocks = prod(ours.unet.stem_zyx)
    divisors = _divisors_hu(settings.encoding)
    value = torch.zeros_like(tensor)
    for number, divisor in enumerate(divisors):
        gain = 1.0 if divisor is None or weights.deviation_hu is None else divisor / weights.deviation_hu
        value[:, number * blocks : (number + 1) * blocks] = theirs * gain / (len(divisors) * blocks)
    return value


def _divisors_hu(encoding: EncodingSettings) -> list[float | None]:
    """What each window's HU are divided by; None where it is the deviation in each VOI."""
    match encoding.z_score:
        case None:
            return [high - low for low, high in encoding.clip_hu]
        case "voi":
            return [None] * len(encoding.clip_hu)
        case _, deviation:
            return [deviation] * len(encoding.clip_hu)


def _begun(value: Tensor) -> _Offer:
    """Initial values with which only the follow-up's features contribute."""
    reason = "begins with the follow-up's features" if bool(value.any()) else "begins at 0"
    return _Offer(value=value, fate="adapted", reason=reason)


def _rows(
    network: LesionNetwork, offers: dict[str, _Offer], ours: NnUnetCounterparts, weights: NnUnetWeights
) -> Iterator[TensorTransfer]:
    used = set()
    for name, tensor in network.named_parameters():
        offer = offers[name]
        theirs = _counterpart(name, ours) if offer.value is not None else ""
        used.add(theirs)
        yield TensorTransfer(
            ours=name, theirs=theirs or None, shape=tuple(tensor.shape), fate=offer.fate, reason=offer.reason
        )
    for theirs in sorted(weights.tensors.keys() - used):
        yield TensorTransfer(ours=None, theirs=theirs, shape=tuple(weights.tensors[theirs].shape), fate="unused")


def _differences(weights: NnUnetWeights, unet: UNetSettings, settings: ModelSettings) -> Iterator[str]:
    """Differences between the two networks and their images; none of them prevents the transfer."""
    stem = unet.stem_zyx
    spacing = tuple(step * factor for step, factor in zip(settings.voi.spacing_zyx_mm, stem, strict=True))
    shape = tuple(size // factor for size, factor in zip(settings.voi.shape_zyx, stem, strict=True))
    compared = {
        "features": (weights.features_per_stage, unet.features_per_stage),
        "kernel sizes": (weights.kernel_sizes, unet.kernel_sizes),
        "strides": (weights.strides, unet.strides),
        "blocks": (weights.blocks_per_stage, unet.blocks_per_stage),
        "decoder's convolutions": (weights.decoder_convolutions, unet.decoder_convolutions),
        "spacing in mm of the first stage": (weights.spacing_mm, spacing),
        "voxels of the first stage": (weights.patch_size, shape),
    }
    for what, (theirs, ours) in compared.items():
        if theirs != ours:
            yield f"{what}: theirs {_joined(theirs)}, ours {_joined(ours)}"
    by_image = settings.encoding.z_score == "voi"
    if by_image or weights.deviation_hu is None:
        scale = "from 0 to 1" if settings.encoding.z_score is None else "as z-scores"
        yield f"normalisation: theirs {weights.normalization}, ours windows of HU {scale}{' of each VOI' * by_image}"
    if len(weights.labels) != 2:
        # nnInteractive's data sets have thousands.
        labels = ", ".join(weights.labels) if len(weights.labels) < 20 else f"{len(weights.labels)} of them"
        yield f"labels: theirs {labels}, ours the lesion"


def _joined(values: tuple[object, ...] | torch.Size) -> str:
    """Sizes joined for messages."""
    return ", ".join("x".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values)


def show(arguments: Arguments) -> None:
    """Prints which tensors of the recipe's network an nnU-Net's weights would initialise."""
    settings = read_recipe(arguments.recipe).model
    weights = read_nnunet(
        arguments.folder,
        fold=arguments.fold,
        configuration=arguments.configuration,
        checkpoint=arguments.checkpoint,
    )
    Console().print(initialise(build_network(settings), weights, settings).table())


def main() -> int:
    """Command line; 1 where the folder or the recipe cannot be used."""
    return run_command(show, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
