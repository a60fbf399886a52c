"""Everything that must be equal in training and inference; nothing here concerns training alone, which recipes hold.

It travels in the model bundle, and inference has no other source for it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longilesion.geometry import ZYX, Triple

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Channel = Literal["image", "lesion_likelihood", "lesion_mask", "click_heatmap"]
PositiveTriple = Annotated[Triple, Field(description="z, y, x; each over 0")]


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VoiSettings(Settings):
    """The lattice on which a lesion's neighbourhood is sampled, and how its zoom follows the lesion's extent."""

    shape_zyx: ZYX
    spacing_zyx_mm: PositiveTriple
    zoom_min: float = Field(default=1.0, gt=0)
    zoom_max: float = Field(default=3.0, gt=0)
    lesion_fraction: float = Field(
        default=0.5, gt=0, le=1, description="share of the lattice's length that the baseline lesion may span"
    )
    unsure_zoom: float = Field(
        default=1.5, ge=1, description="factor on the zoom for a click of confidence 0; a surer one widens it less"
    )
    growth_limit: int = Field(
        default=1, ge=0, description="how often a lesion at the border is sampled again, twice as wide"
    )

    @model_validator(mode="after")
    def _check(self) -> VoiSettings:
        if min(self.shape_zyx) < 8 or min(self.spacing_zyx_mm) <= 0:
            raise ValueError("a VOI needs at least 8 voxels and a positive spacing along each axis")
        if self.zoom_min > self.zoom_max:
            raise ValueError("zoom_min is greater than zoom_max")
        return self


class AlignmentSettings(Settings):
    """The local translation search that brings the baseline's neighbourhood onto the follow-up's."""

    spacing_mm: float = Field(default=2.5, gt=0)
    template_radius_mm: float = Field(default=20.0, gt=0)
    search_radius_mm: float = Field(default=30.0, ge=0)
    clip_hu: tuple[float, float] = (-300.0, 300.0)
    distance_penalty: float = Field(
        default=0.1, ge=0, description="loss of correlation at the search radius, growing with the squared distance"
    )


class LikelihoodSettings(Settings):
    """How Hounsfield units become the lesion's likelihood; HU, and voxels of the lattice."""

    spread_hu: tuple[float, float] = Field(
        default=(10.0, 40.0), description="limits of the deviation within a tissue, whatever the noise"
    )
    other_tissues: float = Field(
        default=0.1, gt=0, description="likelihood of all that is neither lesion nor around it"
    )
    shell_voxels: int = Field(default=3, ge=1, description="thickness of what counts as around an outline")
    core_mm: float = Field(
        default=4.0, gt=0, description="without an outline, the lesion reaches this far from the click"
    )
    ring_mm: tuple[float, float] = Field(default=(14.0, 22.0), description="and this ring is around it")
    least_contrast_hu: float = Field(default=15.0, ge=0, description="below it, core and ring are not told apart")
    soft_tissue_hu: float = Field(default=-50.0, description="tissue above it changes with contrast agent")
    alike_hu: float = Field(default=20.0, gt=0, description="tissue this near to the shell shows how it has changed")
    alike_voxels: int = Field(default=200, ge=1, description="fewer of them show nothing")
    greatest_change_hu: float = Field(default=80.0, ge=0, description="a greater change is misalignment")


class EncodingSettings(Settings):
    """How a pair of VOIs becomes the channels of the two streams.

    `image` gives one channel per HU window, `lesion_likelihood` one: how likely each voxel's HU is inside the lesion.
    """

    clip_hu: tuple[tuple[float, float], ...] = ((-1000.0, 400.0),)
    followup_channels: tuple[Channel, ...] = ("image",)
    baseline_channels: tuple[Channel, ...] = ("image", "lesion_mask")
    click_sigma_mm: float = Field(default=6.0, gt=0)
    unsure_click_sigma_mm: float = Field(
        default=16.0, gt=0, description="the same for a click of confidence 0; a surer one's lies between"
    )
    other_lesions_value: float = Field(default=0.0, description="value of the other marked lesions in the mask channel")
    likelihood: LikelihoodSettings = LikelihoodSettings()

    @model_validator(mode="after")
    def _check(self) -> EncodingSettings:
        if not self.clip_hu or any(low >= high for low, high in self.clip_hu):
            raise ValueError("clip_hu needs at least one window whose lower limit is below its upper one")
        return self

    @property
    def stream_channels(self) -> tuple[Channel, ...]:
        """The channels of one stream of a network with shared weights: all that either stream uses, in fixed order."""
        used = (*self.followup_channels, *self.baseline_channels)
        ordered: tuple[Channel, ...] = ("image", "lesion_likelihood", "lesion_mask", "click_heatmap")
        return tuple(channel for channel in ordered if channel in used)

    @property
    def channel_count(self) -> int:
        """Number of channels of one stream."""
        return sum(self._width(channel) for channel in self.stream_channels)

    @property
    def intensity_channels(self) -> int:
        """How many of a stream's channels, the first ones, come from its scan's Hounsfield units."""
        return sum(
            self._width(channel) for channel in self.stream_channels if channel in ("image", "lesion_likelihood")
        )

    def _width(self, channel: Channel) -> int:
        return len(self.clip_hu) if channel == "image" else 1


class DualEncoderSettings(Settings):
    """LongiNet: two nnU-Net encoders with shared weights, fused at every skip and at the bottleneck, one decoder."""

    kind: Literal["dual_encoder"] = "dual_encoder"
    fusion: Literal["pointwise"] = "pointwise"
    encoder: Literal["plain", "residual"] = "plain"
    stem_zyx: ZYX = Field(default=(1, 1, 1), description="space-to-depth factor before the first stage")
    features_per_stage: tuple[int, ...]
    kernel_sizes: tuple[ZYX, ...]
    strides: tuple[ZYX, ...]
    blocks_per_stage: tuple[int, ...]
    decoder_convolutions: tuple[int, ...]
    decoder_norm: bool = Field(default=True, description="whether the decoder normalises its features per VOI")
    baseline_reconstruction: bool = True
    presence_features: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _check(self) -> DualEncoderSettings:
        stages = len(self.features_per_stage)
        if not len(self.kernel_sizes) == len(self.strides) == len(self.blocks_per_stage) == stages:
            raise ValueError("features_per_stage, kernel_sizes, strides and blocks_per_stage differ in length")
        if len(self.decoder_convolutions) != stages - 1:
            raise ValueError(
                f"decoder_convolutions has {len(self.decoder_convolutions)} entries, expected {stages - 1}"
            )
        return self


class InferenceSettings(Settings):
    """Decisions after the network."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    presence_threshold: float = Field(default=0.5, ge=0, le=1)
    mirror_axes: tuple[Literal["z", "y", "x"], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> InferenceSettings:
        if len(set(self.mirror_axes)) < len(self.mirror_axes):
            raise ValueError("mirror_axes names an axis twice")
        return self


class ModelSettings(Settings):
    """All settings of a model."""

    voi: VoiSettings
    alignment: AlignmentSettings = AlignmentSettings()
    encoding: EncodingSettings
    network: DualEncoderSettings
    inference: InferenceSettings = InferenceSettings()

    @model_validator(mode="after")
    def _check_lattice(self) -> ModelSettings:
        self.check_lattice(self.voi.shape_zyx, "voi.shape_zyx")
        return self

    def check_lattice(self, shape_zyx: ZYX, name: str) -> None:
        """Raises ValueError, with the setting's name, for a lattice that the network cannot take."""
        for axis, along in enumerate("zyx"):
            stem = self.network.stem_zyx[axis]
            factor = stem
            for stride in self.network.strides:
                factor *= stride[axis]
            if shape_zyx[axis] % factor:
                raise ValueError(f"{name}: {shape_zyx[axis]} along {along} is not a multiple of the network's {factor}")
            if shape_zyx[axis] < 5 * stem:
                raise ValueError(f"{name}: fewer than 5 voxels along {along} after the stem; presence needs them")
