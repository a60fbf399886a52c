"""A training recipe: the model's settings and how to train it, one TOML file per variant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from longilesion.config import Axis, ModelSettings, VoiSettings
from longilesion.geometry import ZYX
from longilesion.settings import Settings
from training.recipe_file import recipe_of
from training.synthesis.settings import SynthesisSettings

Precision: TypeAlias = Literal["32-true", "bf16-mixed", "16-mixed"]
# Of a presence fit: four parts of patients or pairs, two each.
LEAST_LESIONS = 8


class OptimizerSettings(Settings):
    """LongiNet (section 2.5) trains with SGD and a polynomial decay, LiFE-Net with Adam; AdamW needs fewer steps."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=2.5e-3, gt=0)
    weight_decay: float = Field(default=3e-5, ge=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    decay_exponent: float = Field(default=0.9, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_factor: float = Field(default=0.1, gt=0, le=1)
    gradient_clip: float = Field(default=12.0, gt=0)
    sharpness: float = Field(
        default=0.0, ge=0, description="rho of sharpness-aware minimisation, whose steps take two passes; 0 for none"
    )


class LossSettings(Settings):
    """The loss; weights are relative to the outline's loss, which has weight 1."""

    outline: Literal["dice_ce", "focal_dice"] = Field(
        default="dice_ce", description="LongiNet's Dice + cross-entropy, or focal loss + half the Dice loss"
    )
    cross_entropy: Literal["lesion", "voi"] = Field(
        default="lesion", description="divide the sum over the VOI by the lesion's size, or by that of the VOI"
    )
    focal_gamma: float = Field(default=2.0, ge=0)
    deep_supervision: bool = Field(default=True, description="judge every resolution of the decoder, not only the last")
    absent: bool | None = Field(
        default=None,
        description="whether the outline's loss counts lesions that are gone; by default, where no presence head does",
    )
    presence: float = Field(default=0.3, ge=0)
    reconstruction: float = Field(default=0.2, ge=0)


class JitterSettings(Settings):
    """Random deviation of a training placement from that of inference."""

    shift_mm: float = Field(default=2.0, ge=0, description="standard deviation per axis, cut at three times as much")
    unaligned_share: float = Field(
        default=0.1, ge=0, le=1, description="how often the follow-up VOI stays on the click"
    )
    click_voxels: float = Field(
        default=0.0, ge=0, description="both clicks move by up to as many voxels of the lattice along each axis"
    )
    shift_voxels: float = Field(
        default=0.0, ge=0, description="each lattice moves on its own by up to as many of its voxels along each axis"
    )
    centre_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="all lattices move alike: what is in their middle lies anywhere in this share of their length",
    )
    zoom_factor: float = Field(default=1.25, ge=1)
    placements: int = Field(default=2, ge=1, description="placements drawn of each lesion of a synthetic pair")
    shape_zyx: ZYX | None = Field(
        default=None, description="size of the lattice in training, cropped to its middle; inference's if not given"
    )

    def lattice(self, voi: VoiSettings) -> VoiSettings:
        """The lattice of inference, cropped to its centre where the recipe has a smaller one."""
        return voi.model_copy(update={"shape_zyx": self.shape_zyx or voi.shape_zyx})

    def reach_voxels(self, shape_zyx: ZYX) -> tuple[float, float, float]:
        """How far a lattice of that size can move along each axis by `shift_voxels` and `centre_share`."""
        z, y, x = (self.shift_voxels + self.centre_share / 2 * voxels for voxels in shape_zyx)
        return z, y, x


class MaskErrorSettings(Settings):
    """Simulated reader errors in the baseline's outlines (LiFE-Net: false positives and negatives).

    In a detector's window, each outline that touches no other is missing on its own.
    """

    missing_share: float = Field(default=0.0, ge=0, le=1, description="how often the lesion's outline is missing")
    resized_share: float = Field(default=0.0, ge=0, le=1, description="how often it is too wide or too narrow")
    resized_voxels: int = Field(default=1, ge=1, description="by up to as many voxels of the lattice")
    shifted_voxels: float = Field(default=0.0, ge=0, description="outlines move by up to as much along each axis")
    spurious_share: float = Field(
        default=0.0, ge=0, le=1, description="how often another lesion is marked where there is none"
    )
    spurious_lesions: int = Field(default=1, ge=1, description="as many of them at most")


class SpatialAugmentation(Settings):
    """Rotation, scaling and mirroring of a lattice."""

    probability: float = Field(default=0.0, ge=0, le=1, description="of rotation and scaling")
    rotation_deg: float = Field(default=0.0, ge=0, description="up to as much about each axis")
    scaling: float = Field(default=0.0, ge=0, lt=1, description="up to that share longer or shorter")
    mirror_axes: tuple[Axis, ...] = Field(default=(), description="each flipped half of the time")


class IntensityAugmentation(Settings):
    """Changes of a time point's image channels, whose values run from 0 to 1, or are unbounded z-scores."""

    probability: float = Field(default=0.0, ge=0, le=1, description="of each change on its own")
    noise: float = Field(default=0.0, ge=0, description="standard deviation")
    scale: float = Field(default=0.0, ge=0, lt=1, description="multiplies by up to 1 + and - that share")
    shift: float = Field(default=0.0, ge=0, lt=1, description="adds up to + and - that much")
    gamma: tuple[float, float] = (1.0, 1.0)
    blur_voxels: tuple[float, float] | None = Field(default=None, description="range of the Gaussian's deviation")


class AugmentationSettings(Settings):
    """Augmentation of encoded samples; with all off it is the identity."""

    joint: SpatialAugmentation = Field(default=SpatialAugmentation(), description="of both time points alike")
    separate: SpatialAugmentation = Field(default=SpatialAugmentation(), description="of the baseline alone, on top")
    joint_intensity: IntensityAugmentation = Field(default=IntensityAugmentation(), description="of both alike")
    intensity: IntensityAugmentation = Field(default=IntensityAugmentation(), description="of each time point apart")


class DataSettings(Settings):
    """Volumes of a CT folder for training, for validation, and by fold; prepared data have folds of their own."""

    train: tuple[str, ...] = Field(
        default=(), description="all but those of the validation if empty, or where none is there"
    )
    validation: tuple[str, ...] = Field(default=(), description="every fifth volume if empty, or where none is there")
    folds: tuple[tuple[str, ...], ...] = Field(
        default=(), description="training volumes that validate, and do not train, in each fold; none belongs to two"
    )
    shapes: Path | None = Field(
        default=None, description="file of lesion shapes for lesions drawn on the fly (`training.shapes`)"
    )
    reuse: int = Field(
        default=3, ge=1, description="how often a lesion drawn on the fly is seen, each time augmented anew"
    )
    pool: int = Field(
        default=0,
        ge=0,
        description="samples kept on the network's device, of which steps take random ones; 0 for none. Each is seen "
        "`reuse` times on average, augmented once and then mirrored anew",
    )
    priors: tuple[int, int] = Field(
        default=(1, 3),
        description="fewest and most time points before the follow-up, for networks that see more than the baseline",
    )
    drawn_together: int = Field(
        default=40, ge=1, description="lesions drawn on the fly whose order is shuffled; a worker holds them in memory"
    )

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        both = sorted(set(self.train) & set(self.validation))
        if both:
            raise ValueError(f"{both[0]} is to train and to validate")
        in_folds = [name for fold in self.folds for name in fold]
        for name in in_folds:
            if in_folds.count(name) > 1 or name not in self.train:
                raise ValueError(f"{name} is in folds; expected volumes of train, each in one fold")
        if not 1 <= self.priors[0] <= self.priors[1]:
            raise ValueError(f"priors is {list(self.priors)}; expected at least 1, and the greater number last")
        return self


class ValidationSettings(Settings):
    """Interval of validation, and number of whole scans."""

    every: int = Field(default=1000, ge=1, description="steps")
    cases: int = Field(default=12, ge=1, description="at most")


class PresenceSettings(Settings):
    """Fit of the presence head after training, and the share of persisting lesions that it has to keep."""

    lesions: int = Field(default=4000, ge=LEAST_LESIONS)
    kept: float = Field(default=0.96, gt=0, lt=1)
    jitter: JitterSettings = JitterSettings(shift_mm=1.0, unaligned_share=0.0, zoom_factor=1.1, placements=1)


class ExamSettings(Settings):
    """What a detector is trained on: windows around an organ, with all lesions of the follow-up as the target."""

    lesion_share: float = Field(
        default=0.5, ge=0, le=1, description="of the windows, where exams have lesions, that show at least one's centre"
    )


class Recipe(Settings):
    """Everything that a training run depends on besides its data folder and its seed."""

    name: str
    task: Literal["lesions", "detection"] = Field(
        default="lesions", description="outline lesions that are clicked, or find all lesions of an organ"
    )
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    average_decay: float = Field(default=0.999, ge=0, lt=1, description="of the exponential average of weights")
    baseline_masking: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="how often a sample's baseline is hidden (LiFE-Net, 2.1: the features of the prior are masked)",
    )
    data: DataSettings = DataSettings()
    precision: Precision = "bf16-mixed"
    synthesis: SynthesisSettings = SynthesisSettings()
    jitter: JitterSettings = JitterSettings()
    mask_errors: MaskErrorSettings = MaskErrorSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    validation: ValidationSettings = ValidationSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    loss: LossSettings = LossSettings()
    presence: PresenceSettings = PresenceSettings()
    exams: ExamSettings = ExamSettings()
    model: ModelSettings

    def with_shapes(self, path: Path | None) -> Recipe:
        """The recipe with another file of lesion shapes, if one is given."""
        if path is None:
            return self
        return self.model_copy(update={"data": self.data.model_copy(update={"shapes": path})})

    def drawn_priors(self, generator: np.random.Generator, *, available: int | None = None) -> int:
        """A random number of time points before the follow-up, of those available; 1 where the network sees no more."""
        if not self.model.network.uses_earlier:
            return 1
        fewest, most = self.data.priors
        most = most if available is None else min(most, available)
        return int(generator.integers(min(fewest, most), most + 1))

    def drawn(self) -> Recipe:
        """The recipe for what workers draw: with a pool, the part of every batch that is new."""
        if not self.data.pool:
            return self
        data = self.data.model_copy(update={"reuse": 1, "pool": 0})
        return self.model_copy(update={"data": data, "batch_size": self.batch_size // self.data.reuse})

    def for_presence(self) -> Recipe:
        """The recipe for the presence head's lesions: almost as in inference."""
        return self.model_copy(
            update={
                "jitter": self.presence.jitter,
                "mask_errors": MaskErrorSettings(),
                "augmentation": AugmentationSettings(),
                "data": self.data.model_copy(update={"reuse": 1, "pool": 0}),
            }
        )

    @model_validator(mode="after")
    def _check_pool(self) -> Recipe:
        """A step takes `reuse` equal parts from the pool."""
        if self.data.pool and self.batch_size % self.data.reuse:
            raise ValueError(
                f"batch_size: with a pool, expected a multiple of data.reuse ({self.data.reuse}), not {self.batch_size}"
            )
        if 0 < self.data.pool < self.batch_size:
            raise ValueError(f"data.pool: expected at least batch_size ({self.batch_size}), not {self.data.pool}")
        return self

    @model_validator(mode="after")
    def _check_lattices(self) -> Recipe:
        """The training lattice has to fit the network, as that of inference does."""
        for part, jitter in (("jitter", self.jitter), ("presence.jitter", self.presence.jitter)):
            if jitter.shape_zyx is not None:
                if min(jitter.shape_zyx) < 8:
                    raise ValueError(f"{part}.shape_zyx: a VOI needs at least 8 voxels along each axis")
                self.model.check_lattice(jitter.shape_zyx, f"{part}.shape_zyx")
        return self


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe of `training.train`; raises InputError that names the first wrong entry."""
    return recipe_of(path, Recipe)
