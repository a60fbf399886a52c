"""Starts a network from an nnU-Net's weights: `python -m training.pretrained FOLDER --recipe RECIPE` shows what fits.

LongiNet (section 2.3) starts from a single-time-point nnU-Net, the baseline model of ULS23.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import tyro
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from torch import Tensor

from longilesion.config import ModelSettings
from longilesion.errors import InputError
from longilesion.networks import build_network
from longilesion.networks.dual_encoder import DualEncoder
from training.command import run_command
from training.nnunet import Checkpoint, Fold, NnUnetWeights, read_nnunet
from training.recipe import read_recipe

Fate: TypeAlias = Literal["copied", "adapted", "fresh", "unused"]

# Where ours keeps what theirs has.
_COUNTERPARTS = {"encoder.stages.": "encoder.", "decoder.unet.": "decoder."}


class TensorTransfer(BaseModel):
    """What became of a tensor of ours, from which of theirs, or of one of theirs that is not used."""

    model_config = ConfigDict(frozen=True)

    ours: str | None
    theirs: str | None
    shape: tuple[int, ...]
    fate: Fate
    reason: str = ""


class TransferReport(BaseModel):
    """What an initialisation took from where, and how the two networks and their images differ."""

    model_config = ConfigDict(frozen=True)

    checkpoint: str
    tensors: tuple[TensorTransfer, ...]
    differences: tuple[str, ...]

    def count(self, *fates: Fate) -> int:
        """How many tensors came to one of these."""
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
    """What one tensor of ours gets; a value of None leaves it as it is."""

    value: Tensor | None
    fate: Fate
    reason: str = ""


@dataclass
class Arguments:
    """Command line."""

    folder: tyro.conf.Positional[Path]
    """nnU-Net's training folder, which holds plans.json, dataset.json and the folds."""
    recipe: Path
    fold: Fold | None = None
    """fold_all, or else the first one there is, where it is not given."""
    configuration: str | None = None
    """The one that was trained, where it is not given."""
    checkpoint: Checkpoint | None = None
    """The final one, or else the best, where it is not given."""


def initialise(network: DualEncoder, weights: NnUnetWeights, settings: ModelSettings) -> TransferReport:
    """Takes over every tensor that fits by name and shape; `settings` are those that the network was built from.

    The decoder is left alone where it has other stages or no norms. Where all of it and of the encoder is taken over,
    the fusion begins with the follow-up's features alone: the network then outlines it as nnU-Net would. Raises
    InputError where no convolution of the encoder fits; the network is then as it was.
    """
    offers = {name: _offer(name, tensor, weights, settings) for name, tensor in network.named_parameters()}
    taken = [name for name, offer in offers.items() if offer.value is not None]
    if not any(name.startswith("encoder.") and name.endswith("conv.weight") for name in taken):
        raise InputError(
            f"{weights.checkpoint}: 0 of {len(weights.tensors)} tensors fit; theirs is a {weights.network_class} of "
            f"{_joined(weights.features_per_stage)} features, ours has a {settings.network.encoder} encoder of "
            f"{_joined(settings.network.features_per_stage)}; expected an encoder of one kind and size"
        )
    if all(offer.value is not None for name, offer in offers.items() if name.startswith(tuple(_COUNTERPARTS))):
        offers.update(
            {
                name: _passed_on(name, tensor)
                for name, tensor in network.named_parameters()
                if name.startswith("fusion.")
            }
        )
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            offered = offers[name].value
            if offered is not None:
                tensor.copy_(offered)
    return TransferReport(
        checkpoint=str(weights.checkpoint),
        tensors=tuple(_rows(network, offers, weights)),
        differences=tuple(_differences(weights, settings)),
    )


def _offer(name: str, ours: Tensor, weights: NnUnetWeights, settings: ModelSettings) -> _Offer:
    theirs = weights.tensors.get(_counterpart(name))
    if theirs is None:
        return _Offer(value=None, fate="fresh", reason="nnU-Net has no such tensor")
    if name.startswith("decoder."):
        if not settings.network.decoder_norm:
            return _Offer(value=None, fate="fresh", reason="without norms, features of another scale")
        if len(settings.network.features_per_stage) != len(weights.features_per_stage):
            return _Offer(value=None, fate="fresh", reason="another number of stages")
    if ".seg_layers." in name and theirs.shape[1:] == ours.shape[1:] and len(theirs) in (1, 2):
        logit = theirs[-1] - theirs[0] if len(theirs) == 2 else theirs[0]
        return _Offer(value=logit.expand_as(ours), fate="adapted", reason="lesion's logit against background's")
    if _is_first(name) and theirs.shape[1] == 1 and (len(theirs), *theirs.shape[2:]) == (len(ours), *ours.shape[2:]):
        return _Offer(
            value=_first_convolution(theirs, ours, weights, settings),
            fate="adapted",
            reason="their image is our HU windows' mean; other channels begin at 0",
        )
    if theirs.shape != ours.shape or _is_first(name):
        return _Offer(value=None, fate="fresh", reason=f"theirs is {_joined(theirs.shape)}, ours {_joined(ours.shape)}")
    return _Offer(value=theirs, fate="copied")


def _counterpart(name: str) -> str:
    for ours, theirs in _COUNTERPARTS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return ""


def _is_first(name: str) -> bool:
    """Whether a tensor is the weight of the convolution that sees the image, in a plain or a residual encoder."""
    first = ("encoder.stages.stages.0.0.convs.0.conv.weight", "encoder.stages.stem.convs.0.conv.weight")
    return name in first


def _first_convolution(theirs: Tensor, ours: Tensor, weights: NnUnetWeights, settings: ModelSettings) -> Tensor:
    """Weights that see the mean over our HU windows, and over the stem's blocks of voxels, as theirs see their image.

    Our windows run from 0 to 1 where theirs are HU divided by a deviation. What theirs subtract is a constant, which
    the norm after the convolution takes away.
    """
    z, y, x = settings.network.stem_zyx
    blocks = z * y * x
    windows = settings.encoding.clip_hu
    value = torch.zeros_like(ours)
    for number, (low, high) in enumerate(windows):
        gain = 1.0 if weights.deviation_hu is None else (high - low) / weights.deviation_hu
        value[:, number * blocks : (number + 1) * blocks] = theirs * gain / (len(windows) * blocks)
    return value


def _passed_on(name: str, ours: Tensor) -> _Offer:
    """A fusion's tensor that passes on the follow-up's features as they are, and none of the baseline's."""
    if name.startswith("fusion.followup.") and name.endswith(".weight"):
        value = torch.eye(len(ours)).reshape(ours.shape)
        return _Offer(value=value, fate="adapted", reason="begins with the follow-up's features")
    return _Offer(value=torch.zeros_like(ours), fate="adapted", reason="begins at 0")


def _rows(network: DualEncoder, offers: dict[str, _Offer], weights: NnUnetWeights) -> Iterator[TensorTransfer]:
    used = set()
    for name, tensor in network.named_parameters():
        offer = offers[name]
        theirs = _counterpart(name) if offer.value is not None else ""
        used.add(theirs)
        yield TensorTransfer(
            ours=name, theirs=theirs or None, shape=tuple(tensor.shape), fate=offer.fate, reason=offer.reason
        )
    for theirs in sorted(weights.tensors.keys() - used):
        yield TensorTransfer(ours=None, theirs=theirs, shape=tuple(weights.tensors[theirs].shape), fate="unused")


def _differences(weights: NnUnetWeights, settings: ModelSettings) -> Iterator[str]:
    """What differs between the two networks and the images they see; all of it may still work."""
    network = settings.network
    stem = network.stem_zyx
    spacing = tuple(step * factor for step, factor in zip(settings.voi.spacing_zyx_mm, stem, strict=True))
    shape = tuple(size // factor for size, factor in zip(settings.voi.shape_zyx, stem, strict=True))
    compared = {
        "features": (weights.features_per_stage, network.features_per_stage),
        "kernel sizes": (weights.kernel_sizes, network.kernel_sizes),
        "strides": (weights.strides, network.strides),
        "blocks": (weights.blocks_per_stage, network.blocks_per_stage),
        "decoder's convolutions": (weights.decoder_convolutions, network.decoder_convolutions),
        "spacing in mm of the first stage": (weights.spacing_mm, spacing),
        "voxels of the first stage": (weights.patch_size, shape),
    }
    for what, (theirs, ours) in compared.items():
        if theirs != ours:
            yield f"{what}: theirs {_joined(theirs)}, ours {_joined(ours)}"
    if weights.deviation_hu is None:
        yield f"normalisation: theirs {weights.normalization}, ours windows of HU from 0 to 1"
    if len(weights.labels) != 2:
        yield f"labels: theirs {', '.join(weights.labels)}, ours the lesion"


def _joined(values: tuple[object, ...] | torch.Size) -> str:
    """Sizes as people write them."""
    return ", ".join("x".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values)


def show(arguments: Arguments) -> None:
    """Prints what an nnU-Net's weights would give the recipe's network."""
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
