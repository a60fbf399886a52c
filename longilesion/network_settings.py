"""Settings of the networks, one class per kind."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from longilesion.geometry import ZYX
from longilesion.settings import Settings


class EncoderSettings(Settings):
    """An nnU-Net encoder, plain or residual, behind a space-to-depth stem."""

    encoder: Literal["plain", "residual"] = "plain"
    stem_zyx: ZYX = Field(default=(1, 1, 1), description="space-to-depth factor before the first stage")
    features_per_stage: tuple[int, ...]
    kernel_sizes: tuple[ZYX, ...]
    strides: tuple[ZYX, ...]
    blocks_per_stage: tuple[int, ...]

    @model_validator(mode="after")
    def _check_stages(self) -> EncoderSettings:
        stages = len(self.features_per_stage)
        if not len(self.kernel_sizes) == len(self.strides) == len(self.blocks_per_stage) == stages:
            raise ValueError("features_per_stage, kernel_sizes, strides and blocks_per_stage differ in length")
        return self

    @property
    def factor_zyx(self) -> ZYX:
        """The total downsampling of the stem and the strides, along each axis."""
        z, y, x = (prod(along) for along in zip(self.stem_zyx, *self.strides, strict=True))
        return z, y, x


class UNetSettings(EncoderSettings):
    """An nnU-Net: an encoder and its decoder."""

    decoder_convolutions: tuple[int, ...]
    decoder_norm: bool = Field(default=True, description="whether the decoder normalises its features per VOI")

    @model_validator(mode="after")
    def _check(self) -> UNetSettings:
        stages = len(self.features_per_stage)
        if len(self.decoder_convolutions) != stages - 1:
            raise ValueError(
                f"decoder_convolutions has {len(self.decoder_convolutions)} entries, expected {stages - 1}"
            )
        return self


class NetworkSettings(Settings):
    """Base of the settings of every kind of network."""

    kind: str

    @property
    def lattice_factor_zyx(self) -> ZYX:
        """The factor of which a lattice's number of voxels has to be a multiple, along each axis."""
        return 1, 1, 1

    @property
    def lattice_least_zyx(self) -> ZYX:
        """The fewest voxels of a lattice along each axis."""
        return 1, 1, 1

    @property
    def uses_earlier(self) -> bool:
        """Whether the network sees time points before the baseline."""
        return False


class UNetNetworkSettings(NetworkSettings):
    """Base of the settings of networks of one U-Net and a presence head."""

    unet: UNetSettings
    presence_features: int = Field(default=64, ge=0, description="width of the presence head; 0 for none")

    @property
    def lattice_factor_zyx(self) -> ZYX:
        """The U-Net's."""
        return self.unet.factor_zyx

    @property
    def lattice_least_zyx(self) -> ZYX:
        """The presence head pools up to two voxels around a lesion, after the stem."""
        z, y, x = self.unet.stem_zyx
        return 5 * z, 5 * y, 5 * x


class DualEncoderSettings(UNetNetworkSettings):
    """One nnU-Net encoder for all time points, whose features are fused at every skip and the bottleneck; one decoder.

    Fusion is LongiNet's ("pointwise"), that of Difference Weighting, or LIDIA's ("iterative"), which alone sees time
    points before the baseline.
    """

    kind: Literal["dual_encoder"] = "dual_encoder"
    fusion: Literal["pointwise", "difference", "iterative"] = "pointwise"
    baseline_reconstruction: bool = True

    @model_validator(mode="before")
    @classmethod
    def _refuse_flat(cls, values: Any) -> Any:
        """Refuses the layout of version 0.1, with the U-Net's settings beside these, and names the present one."""
        misplaced = [name for name in UNetSettings.model_fields if isinstance(values, Mapping) and name in values]
        if misplaced:
            raise ValueError(f"{misplaced[0]} stands beside kind; expected it in the table unet ([model.network.unet])")
        return values

    @property
    def uses_earlier(self) -> bool:
        """With iterative fusion."""
        return self.fusion == "iterative"


class EarlyFusionSettings(UNetNetworkSettings):
    """Promptable LongiSeg: one nnU-Net of the channels of both time points, concatenated."""

    kind: Literal["early_fusion"] = "early_fusion"


class JointEncoderSettings(NetworkSettings):
    """LiFE-Net: an encoder for each time point, self-attention over both, a joint encoder, one decoder."""

    kind: Literal["joint_encoder"] = "joint_encoder"
    features_per_stage: tuple[int, ...] = Field(default=(8, 16, 32), min_length=1)
    strides: tuple[ZYX, ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    joint_features_per_stage: tuple[int, ...] = Field(default=(128, 256), min_length=1)
    joint_strides: tuple[ZYX, ...] = ((2, 2, 2), (2, 2, 2))
    attention_heads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check(self) -> JointEncoderSettings:
        stages = (len(self.strides), len(self.joint_strides))
        if stages != (len(self.features_per_stage), len(self.joint_features_per_stage)):
            raise ValueError("strides and joint_strides need an entry per stage of features")
        if 2 * self.features_per_stage[-1] % self.attention_heads:
            raise ValueError(
                f"attention_heads is {self.attention_heads}; expected a divisor of {2 * self.features_per_stage[-1]}"
            )
        return self

    @property
    def lattice_factor_zyx(self) -> ZYX:
        """The product of all strides."""
        z, y, x = (prod(along) for along in zip(*self.strides, *self.joint_strides, strict=True))
        return z, y, x


# Mask2Former, section 3.2.2.
_ATTENDED_LEVELS = 3


class LesionQueriesSettings(Settings):
    """LIDIA: fused phases, an nnU-Net encoder, a feature pyramid, and a transformer decoder with a mask per query.

    "concatenation" stacks the images of a fixed set of phases, as the baseline of LIDIA's table 2; "iterative" is its
    fusion module (eq. 2). The encoder's stem comes before the fusion. Without queries, the semantic output is all there
    is: LIDIA's nnU-Net.
    """

    fusion: Literal["iterative", "concatenation"] = "iterative"
    phase_features: int = Field(default=32, ge=1, description="channels of a phase's features, and of the fused ones")
    encoder: EncoderSettings
    pyramid_features: int = Field(
        default=256,
        ge=6,
        description="channels of the pyramid's levels from that of the masks on; finer ones have the encoder's at most",
    )
    mask_level: int = Field(
        default=0, ge=0, description="level of the pyramid, 0 being the finest, on which masks are predicted"
    )
    attention_level: int | None = Field(
        default=None,
        ge=0,
        description="finest of the three levels that queries attend to; null: the one next to that of the masks",
    )
    queries: int = Field(default=50, ge=0)
    decoder_layers: int = Field(
        default=9, ge=1, description="layers of the transformer decoder, which attend to three scales in turn"
    )
    attention_heads: int = Field(default=8, ge=1)
    feedforward_features: int = Field(default=2048, ge=1)
    embedding_features: int = Field(
        default=128, ge=1, description="length of the projected queries that the contrastive loss compares"
    )

    @model_validator(mode="after")
    def _check(self) -> LesionQueriesSettings:
        if self.pyramid_features % self.attention_heads:
            raise ValueError(
                f"attention_heads is {self.attention_heads}; expected a divisor of {self.pyramid_features}"
            )
        levels, finest = len(self.encoder.features_per_stage), self.attention_level
        if finest is None and self.mask_level + 1 >= levels:
            raise ValueError(
                f"mask_level is {self.mask_level} of {levels} levels; expected one with a coarser level to attend to"
            )
        if finest is not None and finest >= levels:
            raise ValueError(f"attention_level is {finest} of {levels} levels; expected one of them")
        if finest is not None and finest < self.mask_level:
            raise ValueError(f"attention_level is {finest}, finer than mask_level {self.mask_level}")
        return self

    @property
    def attended_levels(self) -> tuple[int, ...]:
        """The levels that the decoder's layers attend to in turn, coarsest first; one that none comes to is no part."""
        finest = self.mask_level + 1 if self.attention_level is None else self.attention_level
        levels = range(len(self.encoder.features_per_stage))[finest : finest + _ATTENDED_LEVELS]
        return tuple(reversed(levels))[: self.decoder_layers]


# Every kind of network that settings can name; `networks.NETWORKS` has the network of each.
NETWORK_SETTINGS: dict[str, type[NetworkSettings]] = {
    "dual_encoder": DualEncoderSettings,
    "early_fusion": EarlyFusionSettings,
    "joint_encoder": JointEncoderSettings,
}


def _of_kind(value: Any) -> Any:
    """Validates a network's settings by the class of their kind."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind")
    settings = NETWORK_SETTINGS.get(kind) if isinstance(kind, str) else None
    if settings is None:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(NETWORK_SETTINGS)}")
    return settings.model_validate(value)


# A union discriminated by `kind`, which grows with the table.
AnyNetworkSettings: TypeAlias = Annotated[SerializeAsAny[NetworkSettings], BeforeValidator(_of_kind)]
