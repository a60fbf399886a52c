"""Pictures of synthetic pairs for a person to judge: each row is one pair, plain and outlined, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt16
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from longilesion.case import Click, LesionMap, Scan
from longilesion.evaluation.measures import Outline, largest_axial_diameter_mm
from longilesion.evaluation.plot_style import HALO, INK, LOOKS
from longilesion.files import written_together
from longilesion.geometry import Triple
from training.synthesis.pairs import SyntheticPair

Window = Literal["soft tissue", "lung", "bone"]

# Lowest and highest HU that are shown.
WINDOWS: Mapping[Window, tuple[float, float]] = {
    "soft tissue": (-125.0, 225.0),
    "lung": (-1350.0, 150.0),
    "bone": (-400.0, 1100.0),
}
# The picture is that many times as wide as the lesion, within limits.
_FIELD, _FIELD_MM = 3.2, (70.0, 200.0)
_BASELINE, _TRUTH, _OTHERS, _CLICK = LOOKS[2][0], LOOKS[5][0], "#ffffff", LOOKS[1][0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A lesion of a pair that a row shows; the source's name goes into its caption."""

    source: str
    pair: SyntheticPair
    lesion_id: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _View:
    """One scan of an example: the slice through the lesion's middle, or through its click where it is not outlined.

    `label` is the lesion's id in this map, None where it has none; `off_mm` is the click's way from the lesion's centre.
    """

    title: str
    scan: Scan
    lesions: LesionMap
    label: int | None
    center_zyx: Triple
    click: Click | None
    color: str

    @property
    def outlined(self) -> bool:
        return self.label is not None

    @property
    def slice(self) -> int:
        return int(np.clip(round(self.center_zyx[0]), 0, self.scan.grid.shape_zyx[0] - 1))

    @property
    def diameter_mm(self) -> float:
        if self.label is None:
            return 0.0
        outline = Outline(mask=self.lesions.ids == self.label, start_zyx=(0, 0, 0), grid=self.lesions.grid)
        return largest_axial_diameter_mm(outline)


def draw_examples(examples: Sequence[Example]) -> Figure:
    """Draws one row per example: the baseline plain and outlined, then the follow-up."""
    rows = max(len(examples), 1)
    figure = Figure(figsize=(9.6, 0.8 + 2.62 * rows), dpi=110, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.0, hspace=0.0)  # type: ignore[union-attr]
    subfigures = np.atleast_1d(np.asarray(figure.subfigures(rows, 1), dtype=object))
    for subfigure, example in zip(subfigures, examples, strict=False):
        _draw_row(subfigure, example)
    figure.legend(handles=_legend(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Writes the picture as PNG; raises InputError where it cannot be written."""
    figure = draw_examples(examples)
    FigureCanvasAgg(figure)
    with written_together([path]) as (temporary,):
        figure.savefig(temporary, format="png")


def window_of(example_type: str, around_hu: float) -> Window:
    """The window in which a reader would look at a lesion of that type, with that median density around it."""
    if example_type == "Skeleton":
        return "bone"
    return "lung" if around_hu < -400 else "soft tissue"
