"""A transformer decoder in 3D whose queries each attend to the region that they outline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from math import pi

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from longilesion.network_settings import LesionQueriesSettings

# The longest wavelength of the position encoding over the shortest (Vaswani et al., 2017).
_TEMPERATURE = 10000.0


class MaskDecoder(nn.Module):
    """Mask2Former's decoder (Cheng et al., 2022, section 3.2) in 3D, with prediction heads that all layers share.

    The first layer attends to the coarsest scale, the next ones to finer ones, and so on in turn. A query attends where
    the mask that it predicted before is above one half; where that is nowhere, everywhere.
    """

    def __init__(self, settings: LesionQueriesSettings, *, classes: int, scales: int) -> None:
        """Builds the queries, the layers and the heads."""
        super().__init__()
        features = settings.pyramid_features
        self.queries = nn.Parameter(torch.randn(settings.queries, features))
        self.positions = nn.Parameter(torch.randn(settings.queries, features))
        self.scale_embeddings = nn.Parameter(torch.randn(scales, features))
        self.pixels = nn.Conv3d(features, features, kernel_size=1)
        self.layers = nn.ModuleList(
            DecoderLayer(features, heads=settings.attention_heads, hidden=settings.feedforward_features)
            for _ in range(settings.decoder_layers)
        )
        self.norm = nn.LayerNorm(features)
        self.class_head = nn.Linear(features, classes)
        self.mask_head = nn.Sequential(
            nn.Linear(features, features),
            nn.ReLU(),
            nn.Linear(features, features),
            nn.ReLU(),
            nn.Linear(features, features),
        )

    def forward(
        self, scales: Sequence[Float[Tensor, "batch c _ _ _"]], pixels: Float[Tensor, "batch c z y x"]
    ) -> list[Float[Tensor, "batch queries c"]]:
        """The normalised queries before the first layer and after each; the scales come coarsest first.

        `pixels` are the features that masks are predicted from, as `pixels` makes them.
        """
        memories = []
        for scale, embedding in zip(scales, self.scale_embeddings, strict=True):
            values = scale.flatten(2).transpose(1, 2) + embedding
            # The mean of a mask is the product of its query with the features' mean: no mask is made to be averaged.
            means = nn.functional.interpolate(pixels, size=scale.shape[2:], mode="area")
            memories.append((values + sine_positions(scale), values, means))
        queries = self.queries.expand(len(pixels), -1, -1)
        states = [self.norm(queries)]
        for layer, (keys, values, means) in zip(self.layers, cycle(memories), strict=False):
            region = attended(self.mask_logits(states[-1], means))
            queries = layer(queries, self.positions, keys=keys, values=values, region=region)
            states.append(self.norm(queries))
        return states

    def mask_logits(
        self, states: Float[Tensor, "batch queries c"], pixels: Float[Tensor, "batch c z y x"]
    ) -> Float[Tensor, "batch queries z y x"]:
        """A mask per query: the product of its embedding with the features of each voxel."""
        logits: Tensor = self.mask_head(states) @ pixels.flatten(2)
        return logits.reshape(*logits.shape[:2], *pixels.shape[2:])


class DecoderLayer(nn.Module):
    """Attention to the image, then among the queries, then a feed-forward network, each added and normalised."""

    def __init__(self, channels: int, *, heads: int, hidden: int) -> None:
        """Builds the layer; `hidden` is the width of the feed-forward network."""
        super().__init__()
        self.to_image, self.to_queries = (Attention(channels, heads=heads) for _ in range(2))
        self.feedforward = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self,
        queries: Float[Tensor, "batch queries c"],
        positions: Float[Tensor, "queries c"],
        *,
        keys: Float[Tensor, "batch voxels c"],
        values: Float[Tensor, "batch voxels c"],
        region: Bool[Tensor, "batch queries voxels"],
    ) -> Float[Tensor, "batch queries c"]:
        """The queries, with what they gather from their regions and from each other."""
        after_image, after_queries, after_feedforward = self.norms
        queries = after_image(queries + self.to_image(queries + positions, keys, values, region=region))
        placed = queries + positions
        queries = after_queries(queries + self.to_queries(placed, placed, queries))
        result: Tensor = after_feedforward(queries + self.feedforward(queries))
        return result


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017, section 3.2).

    nn.MultiheadAttention is not used, since it copies the regions for every head.
    """

    def __init__(self, channels: int, *, heads: int) -> None:
        """Builds the projections of that many channels, which the heads divide among them."""
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(
        self,
        queries: Float[Tensor, "batch queries c"],
        keys: Float[Tensor, "batch n c"],
        values: Float[Tensor, "batch n c"],
        *,
        region: Bool[Tensor, "batch queries n"] | None = None,
    ) -> Float[Tensor, "batch queries c"]:
        """What every query gathers; only where its region is true, if one is given."""
        query, key, value = (
            projected.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projected in (self.query(queries), self.key(keys), self.value(values))
        )
        mask = None if region is None else region[:, None]
        gathered = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        result: Tensor = self.out(gathered.transpose(1, 2).flatten(2))
        return result


def attended(mask_logits: Float[Tensor, "batch queries _ _ _"]) -> Bool[Tensor, "batch queries voxels"]:
    """Where each query may attend: inside its mask, or everywhere if it is empty. A threshold passes no gradient."""
    inside = mask_logits.flatten(2) > 0
    return inside | ~inside.any(dim=2, keepdim=True)


def sine_positions(maps: Float[Tensor, "batch c z y x"]) -> Float[Tensor, "voxels c"]:
    """Sines and cosines of every voxel's place along z, y, x, in as many wavelengths as the channels have room for.

    A place is the share of the map up to the voxel's centre, times two pi. Channels that are left over are zero.
    """
    channels, shape = maps.shape[1], maps.shape[2:]
    wavelengths = channels // 6
    exponents = torch.arange(wavelengths, device=maps.device) / wavelengths
    encoding = torch.zeros((*shape, channels), device=maps.device)
    for axis, length in enumerate(shape):
        places = (torch.arange(length, device=maps.device) + 0.5) * (2 * pi / length)
        angles = places[:, None] / _TEMPERATURE**exponents
        waves = torch.cat((angles.sin(), angles.cos()), dim=1)
        along = [1, 1, 1, 2 * wavelengths]
        along[axis] = length
        encoding[..., 2 * wavelengths * axis : 2 * wavelengths * (axis + 1)] = waves.reshape(along)
    return encoding.flatten(0, 2)
