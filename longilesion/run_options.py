"""How a case is run: the options of `process.py` besides its files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from longilesion.config import Device, Precision
from longilesion.shipped import SHIPPED_MODEL

# Stands for the model's own bundle of lesion types.
USUAL_TYPES = Path("(the model's own)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Models and what is done with them; the options of `process.py` of the same names describe them."""

    model: Path = SHIPPED_MODEL
    device: Device = "auto"
    precision: Precision = "auto"
    refine_clicks: bool = False
    find_new: bool = False
    organs: Path | None = None
    organ: Collection[str] = ()
    detector: Path | None = None
    types: Path | None = None
