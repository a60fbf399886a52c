"""What kind of synthetic pairs are drawn; a part of every recipe."""

from __future__ import annotations

from typing import Literal

from longilesion.config import Settings


class SynthesisSettings(Settings):
    """Which generator draws the lesions: our own for all tissues, or LiFE-Net's for one organ."""

    generator: Literal["general", "lifenet"] = "general"
