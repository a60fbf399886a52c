"""A wider network that begins as a trained narrower one of the same kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from longilesion.errors import InputError
from longilesion.networks.dual_encoder import DualEncoder
from longilesion.networks.interface import LesionNetwork

# The layers of a decoder that see its own features and, after them, as many of a skip.
_TWO_BLOCKS = re.compile(r"(baseline_)?decoder\.unet\.stages\.\d+\.convs\.0\.conv\.weight")
_TRANSPOSED = re.compile(r"(baseline_)?decoder\.unet\.transpconvs\.\d+\.weight")
_PRESENCE_INPUTS = re.compile(r"presence\.(norm\.(weight|bias)|layers\.0\.weight)")


@torch.no_grad()
def widen(network: LesionNetwork, narrow: LesionNetwork) -> None:
    """Copies the features of `narrow` into the first ones of `network`, which then gives the same outlines.

    The other features keep their random initial values and see all features. The copied ones do not see them: these
    weights are zero, so that training begins where the narrow network's ended, as in Net2Net (section 2), but with new
    features in place of copied ones. The presence head normalises over all features; what it says is near to the
    narrow one's. Raises InputError where the networks are not dual encoders with pointwise fusion, or differ in more
    than their features.
    """
    if not (isinstance(network, DualEncoder) and isinstance(narrow, DualEncoder)):
        raise InputError("expected two dual encoders")
    unet, thin = network.settings.unet, narrow.settings.unet
    as_narrow = unet.model_copy(update={"features_per_stage": thin.features_per_stage})
    same_but_features = network.settings.model_copy(update={"unet": as_narrow}) == narrow.settings
    if not same_but_features or network.settings.fusion != "pointwise" or network.channels != narrow.channels:
        raise InputError("expected pointwise fusion, and settings that differ in the features alone")
    if any(wide < few for wide, few in zip(unet.features_per_stage, thin.features_per_stage, strict=True)):
        found, least = list(unet.features_per_stage), list(thin.features_per_stage)
        raise InputError(f"features_per_stage = {found}; expected at least {least}")
    finest = unet.features_per_stage[0], thin.features_per_stage[0]
    # What the presence head sees of each of five regions: the features of decoder, follow-up and baseline, the images.
    pooled = 5 * [*(3 * [finest]), 2 * (2 * network.intensity_channels,)]
    values = dict(narrow.named_parameters())
    for name, tensor in network.named_parameters():
        is_transposed = _TRANSPOSED.fullmatch(name) is not None
        wide, old = ((each.transpose(0, 1) if is_transposed else each) for each in (tensor, values[name]))
        inputs = -1 if wide.ndim == 1 else 1
        sizes = wide.shape[inputs], old.shape[inputs]
        if _TWO_BLOCKS.fullmatch(name):
            places = _places(2 * [(sizes[0] // 2, sizes[1] // 2)])
        elif _PRESENCE_INPUTS.fullmatch(name):
            rest = sizes[1] - sum(few for _, few in pooled)
            places = _places([*pooled, (rest, rest)])
        else:
            places = _places([sizes])
        if wide.ndim == 1:
            wide[places] = old
        else:
            wide[: len(old)] = 0
            wide[: len(old), places] = old


def _places(blocks: Sequence[tuple[int, int]]) -> Tensor:
    """The places of a narrow network's values in the wide one's; of each block, the wide and the narrow size."""
    starts = [0, *accumulate(wide for wide, _ in blocks)]
    return torch.cat([start + torch.arange(few) for start, (_, few) in zip(starts[:-1], blocks, strict=True)])
