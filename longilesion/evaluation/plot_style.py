"""Styles of methods and axes in all figures.

Methods differ by marker, line style and hatch, and their colours by lightness, so that they are
distinguishable in greyscale and with colour vision deficiency.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from longilesion.evaluation.detection import ExamLesions
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.summary import Evaluation

# Colour, marker, line, hatch. The first four colours are at least 0.15 apart in grey; the last two are closer.
LOOKS: tuple[tuple[str, str, Any, str], ...] = (
    ("#004488", "o", "-", ""),
    ("#bb5566", "^", "--", "////"),
    ("#ddaa33", "s", "-.", "...."),
    ("#000000", "X", ":", "xxxx"),
    ("#117733", "D", (0, (8, 2)), "\\\\\\\\"),
    ("#44aa99", "v", (0, (3, 1, 1, 1, 1, 1)), "----"),
)
INK, FAINT = "#222222", "#999999"
HALO = [withStroke(linewidth=3.6, foreground="white")]
LONGEST_LABEL = 36
# The first code point after Latin, Greek and Cyrillic; the font lacks many of those above.
FOREIGN_LETTERS = 0x530


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """An evaluation and its style; `measured` are the lesions that are present in the truth."""

    evaluation: Evaluation
    exams: Sequence[ExamLesions]
    measured: Sequence[LesionScore]
    label: str
    look: Mapping[str, Any]
    hatch: str

    @property
    def dots(self) -> dict[str, Any]:
        """The style of points for single lesions, pale so that their density is visible."""
        pale = {"markersize": 4.5, "alpha": 0.5, "markeredgewidth": 0.0}
        return {**self.look, **pale, "linestyle": "none", "label": self.label}


def styled(evaluations: Sequence[Evaluation], detections: Mapping[str, Sequence[ExamLesions]]) -> list[Method]:
    """Assigns each evaluation a style; the seventh repeats the first."""
    return [
        Method(
            evaluation=evaluation,
            exams=detections[evaluation.name],
            measured=[lesion for lesion in evaluation.lesions if lesion.dice is not None],
            label=shortened(evaluation.name),
            look={"color": color, "marker": marker, "linestyle": line, "linewidth": 1.8},
            hatch=hatch,
        )
        for evaluation, (color, marker, line, hatch) in zip(evaluations, cycle(LOOKS), strict=False)
    ]


def new_figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    """An empty figure of a size in inches, with a title and a subtitle."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    lines = [title, *textwrap.wrap(subtitle, int(12 * width))]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
    return figure


def tidy(axes: Axes) -> Axes:
    """Removes the top and right of the frame, and adds faint grid lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Puts the legend below the axes, in as many columns as fit."""
    widest = max(map(_width_inches, labels))
    columns = min(3, max(1, int(figure.get_figwidth() / (0.9 + widest))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=4)


@cache
def _width_inches(label: str) -> float:
    """The width of a label in a legend; most labels are in several figures, and measuring takes as long as drawing."""
    return float(TextPath((0.0, 0.0), label, size=9).get_extents().width) / 72


def scale_log(axes: Axes, values: Sequence[float], ticks: Sequence[float]) -> None:
    """Makes x logarithmic, with a linear part around zero only if there are zeros to be shown."""
    positive = [value for value in values if value > 0]
    if len(positive) < len(values):
        axes.set_xscale("symlog", linthresh=min(positive, default=1.0), linscale=0.5)
    else:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.autoscale_view()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def counted(counts: Sequence[int], noun: str = "") -> str:
    """The counts as text, as a range from the fewest to the most of any method."""
    low, high = min(counts), max(counts)
    number = f"{low}" if low == high else f"{low} to {high}"
    return f"{number} {noun}{'' if high == 1 else 's'}" if noun else number


def shortened(name: str) -> str:
    """A name for a figure: short, with letters that the font has, parsed neither as a formula nor as a hidden label."""
    known = "".join(letter if letter.isprintable() and ord(letter) < FOREIGN_LETTERS else "?" for letter in name)
    known, half = known.strip() or "unnamed", LONGEST_LABEL // 2
    short = known if len(known) <= LONGEST_LABEL else f"{known[: half - 1]}…{known[-half:]}"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")
