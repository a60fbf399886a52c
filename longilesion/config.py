"""Settings that must be equal in training and inference; those of training alone are in recipes.

They are stored in the model bundle, the only source of settings for inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from longilesion.geometry import ZYX, Triple
from longilesion.network_settings import AnyNetworkSettings, UNetSettings
from longilesion.settings import Settings

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Channel = Literal["image", "lesion_likelihood", "lesion_mask", "click_heatmap", "organ_mask"]
# Their order in every stream: first those computed from the scan's Hounsfield units.
CHANNELS: tuple[Channel, ...] = ("image", "lesion_likelihood", "lesion_mask", "click_heatmap", "organ_mask")
Axis = Literal["z", "y", "x"]
PositiveTriple = Annotated[Triple, Field(description="z, y, x; each over 0")]


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
    unoutlined_zoom: float = Field(
        default=1.0,
        gt=0,
        description="zoom for a lesion without an outline in the baseline, before it is sampled again",
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


class SearchStep(Settings):
    """One step of the local translation search: a template of the baseline, correlated with the follow-up."""

    spacing_mm: float = Field(gt=0)
    template_radius_mm: float = Field(gt=0, description="of the template; up to twice as much for a large lesion")
    falloff_mm: float | None = Field(
        default=None,
        gt=0,
        description="deviation of the Gaussian by which the template's weight falls from the lesion on",
    )
    search_radius_mm: float = Field(ge=0)
    distance_penalty: float = Field(
        default=0.1, ge=0, description="loss of correlation at the search radius, growing with the squared distance"
    )


class AlignmentSettings(Settings):
    """How the lesion's neighbourhood is aligned in both scans: by a local translation search, coarse to fine.

    With the method "clicks", both lattices are centred on the clicks, and the search only measures the similarity.
    """

    method: Literal["search", "clicks"] = "search"
    windows_hu: tuple[tuple[float, float], ...] = Field(
        default=((-1000.0, -200.0), (-150.0, 250.0)), min_length=1, description="compared apart: lung, and soft tissue"
    )
    steps: tuple[SearchStep, ...] = Field(
        default=(
            SearchStep(
                spacing_mm=5.0, template_radius_mm=50.0, falloff_mm=30.0, search_radius_mm=60.0, distance_penalty=0.1
            ),
            SearchStep(
                spacing_mm=2.0, template_radius_mm=20.0, falloff_mm=8.0, search_radius_mm=10.0, distance_penalty=0.1
            ),
        ),
        min_length=1,
        description="each searches around the position that the previous one found",
    )
    lesion_weight: float = Field(
        default=0.5, ge=0, le=1, description="weight of the ball of the lesion's extent, which may have changed"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_one_step(cls, values: Any) -> Any:
        """Settings up to version 0.2, of one step and one window, as of today."""
        if not isinstance(values, Mapping) or not values.keys() & {"clip_hu", *SearchStep.model_fields}:
            return values
        step = {"spacing_mm": 2.5, "template_radius_mm": 20.0, "search_radius_mm": 30.0} | {
            name: value for name, value in values.items() if name != "clip_hu"
        }
        return {"windows_hu": [values.get("clip_hu", (-300.0, 300.0))], "steps": [step], "lesion_weight": 1.0}

    @model_validator(mode="after")
    def _check(self) -> AlignmentSettings:
        if any(low >= high for low, high in self.windows_hu):
            raise ValueError("windows_hu needs windows whose lower limit is below its upper one")
        return self


class LikelihoodSettings(Settings):
    """How Hounsfield units become the lesion's likelihood; HU, and voxels of the lattice.

    Without an outline, the lesion is the tissue at the click or, with "neighbourhood", the tissues that are more
    frequent near the click than elsewhere in the VOI, above all those that have changed since the baseline.
    """

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
    without_outline: Literal["click", "neighbourhood"] = "click"
    propagated_without_outline: Literal["click", "neighbourhood"] | None = Field(
        default=None, description="the same for a propagated click, which may miss the lesion; None for no difference"
    )
    near_mm: float = Field(
        default=6.0, gt=0, description="deviation of the Gaussian that weights voxels near the click"
    )
    far_mm: float = Field(
        default=14.0, gt=0, description="the same of the Gaussian whose complement weights voxels elsewhere"
    )
    elsewhere_weight: float = Field(
        default=3.0, gt=0, description="weight of the frequency elsewhere against that near the click"
    )
    bandwidth_hu: float = Field(default=12.0, gt=0, description="of the smoothing of both histograms")
    rare: float = Field(
        default=0.02,
        gt=0,
        description="frequency, relative to that of a pure tissue, below which a value is in neither",
    )
    unchanged_weight: float = Field(
        default=0.02, ge=0, le=1, description="weight near the click of a voxel that has not changed"
    )
    soft_tissue_hu: float = Field(default=-50.0, description="tissue above it changes with contrast agent")
    alike_hu: float = Field(default=20.0, gt=0, description="tissue this near to the shell shows how it has changed")
    alike_voxels: int = Field(default=200, ge=1, description="fewer of them show nothing")
    greatest_change_hu: float = Field(default=80.0, ge=0, description="a greater change is misalignment")


class EncodingSettings(Settings):
    """The channels of the two streams, in the order of `CHANNELS`, and how they are computed from a pair of VOIs.

    `image` gives one channel per HU window, `lesion_likelihood` one: how likely each voxel's HU is inside the lesion.
    """

    clip_hu: tuple[tuple[float, float], ...] = ((-1000.0, 400.0),)
    z_score: Literal["voi"] | tuple[float, float] | None = Field(
        default=None,
        description="scale of a clipped window: by mean and deviation, those in the VOI or these two (HU); else 0 to 1",
    )
    followup_channels: tuple[Channel, ...] = Field(default=("image",), min_length=1)
    baseline_channels: tuple[Channel, ...] = ("image", "lesion_mask")
    click_sigma_mm: float = Field(default=6.0, gt=0)
    click_sigma_voxels: float | None = Field(
        default=None, gt=0, description="in place of both others: the same in voxels of the lattice"
    )
    unsure_click_sigma_mm: float = Field(
        default=16.0, gt=0, description="the same for a click of confidence 0; a surer one's lies between"
    )
    lesion_mask_weight: float = Field(default=1.0, gt=0, description="value of the lesion in the mask channel")
    other_lesions_value: float = Field(default=0.0, description="value of the other marked lesions in the mask channel")
    likelihood: LikelihoodSettings = LikelihoodSettings()

    @field_validator("followup_channels", "baseline_channels")
    @classmethod
    def _in_order(cls, channels: tuple[Channel, ...]) -> tuple[Channel, ...]:
        return tuple(channel for channel in CHANNELS if channel in channels)

    @model_validator(mode="after")
    def _check(self) -> EncodingSettings:
        if not self.clip_hu or any(low >= high for low, high in self.clip_hu):
            raise ValueError("clip_hu needs at least one window whose lower limit is below its upper one")
        if isinstance(self.z_score, tuple) and self.z_score[1] <= 0:
            raise ValueError(f"z_score has the deviation {self.z_score[1]:g}; expected one over 0")
        return self

    @property
    def has_prior_mask(self) -> bool:
        """Whether networks see the lesion's outline in the baseline."""
        return "lesion_mask" in self.baseline_channels

    def width(self, channels: Iterable[Channel]) -> int:
        """The number of a tensor's channels that these are encoded in."""
        return sum(len(self.clip_hu) if channel == "image" else 1 for channel in channels)

    def intensity_width(self, channels: Iterable[Channel]) -> int:
        """The same of those of these channels that are computed from the scan's Hounsfield units; they come first."""
        return self.width(channel for channel in channels if channel in ("image", "lesion_likelihood"))


class Thresholds(Settings):
    """The probability from which a voxel belongs to a lesion, and the presence below which a lesion is gone."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    presence_threshold: float = Field(default=0.5, ge=0, le=1)


class MeasurementErrors(Settings):
    """95 % intervals of an outline's measures, from those of its narrow and its wide outline (`uncertainty.Band`).

    The volume's runs from volume / f to volume * f with log f = `volume_scale` * (log(wide / narrow) +
    `volume_offset`), the diameter's from d - e to d + e with e = `diameter_scale` * (wide - narrow +
    `diameter_offset_mm`).
    """

    volume_scale: float = Field(gt=0)
    volume_offset: float = Field(ge=0)
    diameter_scale: float = Field(gt=0)
    diameter_offset_mm: float = Field(ge=0)


class InferenceSettings(Thresholds):
    """How a network is applied, and post-processing of its outputs."""

    mirror_axes: tuple[Axis, ...] = ()
    zoom_factors: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default=(1.0,),
        min_length=1,
        description="a lesion is seen at its zoom times each of these; a search for lesions ignores them",
    )
    uses_baseline: bool = Field(default=True, description="whether the networks see the earlier time points at all")

    @model_validator(mode="after")
    def _check(self) -> InferenceSettings:
        if len(set(self.mirror_axes)) < len(self.mirror_axes):
            raise ValueError("mirror_axes names an axis twice")
        if len(set(self.zoom_factors)) < len(self.zoom_factors):
            raise ValueError("zoom_factors names a factor twice")
        return self

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds alone."""
        return Thresholds(threshold=self.threshold, presence_threshold=self.presence_threshold)


class DetectionSettings(Settings):
    """How a network is slid over a scan to find lesions that nobody clicked, and what counts as a candidate."""

    threshold: float = Field(default=0.5, gt=0, lt=1, description="probability from which a voxel is outlined")
    least_diameter_mm: float = Field(default=6.0, ge=0, description="longest axial diameter of the smallest candidate")
    overlap: float = Field(default=0.5, ge=0, lt=1, description="share of a window that the next one covers again")


class ModelSettings(Settings):
    """All settings of a model."""

    voi: VoiSettings
    alignment: AlignmentSettings = AlignmentSettings()
    encoding: EncodingSettings
    network: AnyNetworkSettings
    inference: InferenceSettings = InferenceSettings()
    detection: DetectionSettings = DetectionSettings()

    @model_validator(mode="after")
    def _check_lattice(self) -> ModelSettings:
        self.check_lattice(self.voi.shape_zyx, "voi.shape_zyx")
        return self

    def with_views(self, mirror_axes: Sequence[Axis], zoom_factors: Sequence[float] = (1.0,)) -> ModelSettings:
        """The same with these views, of which none is named twice; by default with mirrored ones alone."""
        views = {"mirror_axes": tuple(mirror_axes), "zoom_factors": tuple(zoom_factors)}
        inference = self.inference.model_copy(update=views)
        return self.model_copy(update={"inference": inference})

    def check_lattice(self, shape_zyx: ZYX, name: str) -> None:
        """Raises ValueError, with the setting's name, for a lattice that the network cannot take."""
        limits = zip("zyx", shape_zyx, self.network.lattice_factor_zyx, self.network.lattice_least_zyx, strict=True)
        for along, voxels, factor, least in limits:
            if voxels % factor:
                raise ValueError(f"{name}: {voxels} along {along} is not a multiple of the network's {factor}")
            if voxels < least:
                raise ValueError(f"{name}: {voxels} along {along}; the network needs at least {least}")


def from_schema_1(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a bundle of schema 1, as of schema 2: the U-Net's settings have a table of their own."""
    network = settings.get("network")
    if not isinstance(network, Mapping):
        return dict(settings)
    unet = {name: value for name, value in network.items() if name in UNetSettings.model_fields}
    rest = {name: value for name, value in network.items() if name not in unet}
    return {**settings, "network": {"kind": "dual_encoder", **rest, "unet": unet}}
