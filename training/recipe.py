"""A training recipe: the model's settings and how to train it, one TOML file per variant."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from longilesion.config import ModelSettings, Settings
from longilesion.errors import InputError
from longilesion.geometry import ZYX


class OptimizerSettings(Settings):
    """LongiNet (section 2.5) trains with SGD and a polynomial decay; AdamW needs fewer steps from scratch."""

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(default=2.5e-3, gt=0)
    weight_decay: float = Field(default=3e-5, ge=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    decay_exponent: float = Field(default=0.9, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_factor: float = Field(default=0.1, gt=0, le=1)
    gradient_clip: float = Field(default=12.0, gt=0)


class LossSettings(Settings):
    """Weights of the loss' parts; the outline's Dice and cross-entropy have weight 1."""

    presence: float = Field(default=0.3, ge=0)
    reconstruction: float = Field(default=0.2, ge=0)


class JitterSettings(Settings):
    """How far a training placement strays from the one that inference would choose."""

    shift_mm: float = Field(default=2.0, ge=0, description="standard deviation per axis")
    unaligned_share: float = Field(
        default=0.1, ge=0, le=1, description="how often the follow-up VOI stays on the click"
    )
    zoom_factor: float = Field(default=1.25, ge=1)
    placements: int = Field(default=2, ge=1, description="placements drawn of each lesion")
    shape_zyx: ZYX | None = Field(
        default=None, description="size of the lattice in training, cropped to its middle; inference's if not given"
    )


class DataSettings(Settings):
    """Which volumes of the data folder train and which validate."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    reuse: int = Field(default=3, ge=1, description="how often a drawn lesion is seen, each time augmented anew")


class PresenceSettings(Settings):
    """How the presence head is fitted once the network is trained, and the share of present lesions it has to keep."""

    lesions: int = Field(default=4000, ge=8)
    kept: float = Field(default=0.96, gt=0, lt=1)
    jitter: JitterSettings = JitterSettings(shift_mm=1.0, unaligned_share=0.0, zoom_factor=1.1, placements=1)


class Recipe(Settings):
    """Everything that a training run depends on besides its data folder and its seed."""

    name: str
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    average_decay: float = Field(default=0.999, ge=0, lt=1, description="of the exponential average of weights")
    data: DataSettings
    jitter: JitterSettings = JitterSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    loss: LossSettings = LossSettings()
    presence: PresenceSettings = PresenceSettings()
    model: ModelSettings

    @model_validator(mode="after")
    def _check_lattices(self) -> Recipe:
        """Training's own lattice has to suit the network as inference's does."""
        for part, jitter in (("jitter", self.jitter), ("presence.jitter", self.presence.jitter)):
            if jitter.shape_zyx is not None:
                if min(jitter.shape_zyx) < 8:
                    raise ValueError(f"{part}.shape_zyx: a VOI needs at least 8 voxels along each axis")
                self.model.check_lattice(jitter.shape_zyx, f"{part}.shape_zyx")
        return self


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe; raises InputError that names the file and the first wrong entry."""
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {error}; expected a TOML recipe") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(": ".join(filter(None, (str(path), where, first["msg"])))) from error
