"""How tissues and lesions of the liver enhance: ranges of HU by contrast phase, as data, and values drawn from them.

The tables are `TISSUES` here, and the kinds of lesions in `lesion_kinds` and `rare_kinds`; docs/lesion-kinetics.md
shows them with the source of each number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from longilesion.diagnosis_settings import PHASES, LesionType, Phase

Range: TypeAlias = tuple[float, float]
# Of the non-contrast, arterial, venous and delayed phase.
PhaseRanges: TypeAlias = tuple[Range, Range, Range, Range]
Tissue: TypeAlias = Literal["liver", "artery", "vein", "spleen", "kidney"]
# What the HU of a lesion's part are relative to: that tissue in the same phase, or water.
Reference: TypeAlias = Literal["liver", "artery", "water"]
# HU by tissue and phase of one patient.
Levels: TypeAlias = Mapping[Tissue, Mapping[Phase, float]]

# Marks a number without a source; with "~" before a source, that describes the behaviour and gives no such number.
ASSUMPTION, BEHAVIOUR = "assumption", "~"
# Deviation of a phase's place within its range from the place that is common to all phases.
_JITTER = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueRow:
    """A tissue's HU; `sources` are one for all phases, or one for each, in the keys of `kinetics_table.SOURCES`."""

    hu: PhaseRanges
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a lesion: what lies between two depths below its surface, in shares of its greatest depth.

    It begins at the same depth in all phases; a part that fills in ends deeper in later ones. `unevenness` is the
    deviation of the depths by place, with `grain` values of it along the lesion's diameter. Sources as of a tissue.
    """

    name: str
    relative_to: Reference
    hu: PhaseRanges
    begins: Range = (0.0, 0.0)
    ends: PhaseRanges = ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    unevenness: Range = (0.0, 0.0)
    grain: int = 4
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionKind:
    """A kind of lesion: `parts` are painted in this order, the first is the whole lesion.

    `share` is its weight among the kinds of its type. `size` is the range of its radius against that of the size
    class, `edge_mm` of its border's width, `lumpiness` and `elongation` those of `random_shape`, `texture_hu` the
    deviation of its uneven density; `kept_structure` is how much of the liver's own structure is left in it.
    """

    name: str
    lesion_type: LesionType
    share: float
    parts: tuple[Part, ...]
    size: Range = (0.8, 1.6)
    edge_mm: Range = (1.0, 2.5)
    lumpiness: float = 0.15
    elongation: float = 0.15
    texture_hu: Range = (2.0, 6.0)
    kept_structure: float = 0.15


TISSUES: Mapping[Tissue, TissueRow] = {
    "liver": TissueRow(
        hu=((45, 68), (65, 92), (100, 130), (80, 105)), sources=("RT-L", "G2006", "G2006", "assumption")
    ),
    "artery": TissueRow(
        hu=((35, 48), (290, 360), (150, 185), (105, 130)),
        sources=("assumption", "R-LA", "G2006", "assumption"),
    ),
    "vein": TissueRow(
        hu=((35, 48), (75, 145), (155, 195), (105, 130)), sources=("assumption", "G2006", "assumption", "assumption")
    ),
    "spleen": TissueRow(
        hu=((40, 60), (137, 168), (113, 142), (85, 110)), sources=("SK-L", "G2006", "G2006", "assumption")
    ),
    "kidney": TissueRow(
        hu=((30, 50), (170, 235), (165, 205), (130, 180)), sources=("SK-K", "GK2007", "GK2007", "assumption")
    ),
}


def drawn_hu(hu: PhaseRanges, generator: np.random.Generator) -> dict[Phase, float]:
    """Draws a value for each phase, at about the same place within all ranges; one value where these are equal."""
    place = generator.uniform()
    jitter = _JITTER if len(set(hu)) > 1 else 0.0
    places = np.clip(place + jitter * generator.normal(size=len(PHASES)), 0.0, 1.0)
    return {phase: low + float(at) * (high - low) for phase, (low, high), at in zip(PHASES, hu, places, strict=True)}


def drawn_levels(generator: np.random.Generator) -> Levels:
    """Draws the tissues' HU of a patient."""
    return {tissue: drawn_hu(row.hu, generator) for tissue, row in TISSUES.items()}
