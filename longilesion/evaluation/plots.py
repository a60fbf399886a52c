"""The figures of an evaluation, which tell methods apart in grey print and to colour-blind people as well.

Methods differ by marker, line style and hatch, and their colours by lightness, so that no figure needs its hues.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from sklearn.metrics import roc_curve

from longilesion.evaluation.detection import (
    FALSE_POSITIVES_PER_EXAM,
    MATCH_IOU,
    ExamLesions,
    Ranking,
    curve,
    ranked,
    sensitivity_at,
)
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.strata import strata_of
from longilesion.evaluation.summary import Evaluation

Points: TypeAlias = tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]

# Colour, marker, line, hatch. The first four colours are at least 0.15 apart in grey; two more have to do with less.
LOOKS: tuple[tuple[str, str, Any, str], ...] = (
    ("#004488", "o", "-", ""),
    ("#bb5566", "^", "--", "////"),
    ("#ddaa33", "s", "-.", "...."),
    ("#000000", "X", ":", "xxxx"),
    ("#117733", "D", (0, (8, 2)), "\\\\\\\\"),
    ("#44aa99", "v", (0, (3, 1, 1, 1, 1, 1)), "----"),
)
INK, FAINT = "#222222", "#999999"
LONGEST_LABEL = 28
# The first letter after Latin, Greek and Cyrillic; the font lacks many of those that follow.
FOREIGN_LETTERS = 0x530
FEWEST_FOR_MEDIAN = 20
# A method of very many false positives would press the others' curves against the axis.
MOST_FALSE_POSITIVES = 8.0
DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Method:
    """An evaluation and how it is drawn; `measured` are the lesions that are truly there."""

    evaluation: Evaluation
    exams: Sequence[ExamLesions]
    measured: Sequence[LesionScore]
    label: str
    look: Mapping[str, Any]
    hatch: str

    @property
    def dots(self) -> dict[str, Any]:
        """How its lesions are drawn, pale so that their number shows."""
        pale = {"markersize": 4.5, "alpha": 0.5, "markeredgewidth": 0.0}
        return {**self.look, **pale, "linestyle": "none", "label": self.label}


def draw_plots(evaluations: Sequence[Evaluation], detections: Mapping[str, Sequence[ExamLesions]]) -> dict[str, Figure]:
    """Draws the figures that compare one to six methods, by the stem of their file.

    `detections` are the exams' lesions by the evaluation's name. `presence_roc` is left out where no method says how
    sure it is of lesions that are there and of some that are gone, `strata` where no stratum has a measured lesion.
    """
    methods = [
        _Method(
            evaluation=evaluation,
            exams=detections[evaluation.name],
            measured=[lesion for lesion in evaluation.lesions if lesion.dice is not None],
            label=_label(evaluation.name),
            look={"color": color, "marker": marker, "linestyle": line, "linewidth": 1.8},
            hatch=hatch,
        )
        for evaluation, (color, marker, line, hatch) in zip(evaluations, cycle(LOOKS), strict=False)
    ]
    figures = {
        "dice_by_diameter": _dice_by_diameter(methods),
        "volume_bland_altman": _volume_bland_altman(methods),
        "froc": _froc(methods),
        "presence_roc": _presence_roc(methods),
        "strata": _strata(methods),
    }
    return {stem: figure for stem, figure in figures.items() if figure is not None}


def _dice_by_diameter(methods: Sequence[_Method]) -> Figure:
    has_median = any(len(method.measured) >= FEWEST_FOR_MEDIAN for method in methods)
    note = "; lines: running medians" if has_median else ""
    figure = _figure(8.0, 5.6, "Dice of each lesion by its true size", _lesions_and_exams(methods) + note)
    axes = _tidy(figure.subplots())
    handles = []
    for method in methods:
        diameter_mm = np.array([lesion.true_diameter_mm for lesion in method.measured], np.float64)
        dice = np.array([lesion.dice for lesion in method.measured], np.float64)
        axes.plot(diameter_mm, dice, **method.dots)
        look = {**method.look, "linestyle": "none"}
        if len(dice) >= FEWEST_FOR_MEDIAN:
            look = {**method.look, "linewidth": 2.4}
            (line,) = axes.plot(*_running_median(diameter_mm, dice), **{**look, "marker": None})
            line.set(
                label=f"{method.label}, running median", path_effects=[withStroke(linewidth=3.6, foreground="white")]
            )
        handles.append(Line2D([], [], **look, label=method.label))
    _scale_log(axes, [lesion.true_diameter_mm for method in methods for lesion in method.measured], (1.0, 2.0, 5.0))
    axes.set(xlabel="true largest axial diameter (mm)", ylabel="Dice (by id)", ylim=(-0.03, 1.03))
    _legend(figure, handles)
    return figure


def _running_median(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Points:
    """Medians of a fifth of the points, at least nine, that follow each other in x."""
    order = np.argsort(x, kind="stable")
    window = max(9, len(x) // 5)
    across, up = (np.lib.stride_tricks.sliding_window_view(side[order], window) for side in (x, y))
    return np.median(across, axis=1), np.median(up, axis=1)


def _volume_bland_altman(methods: Sequence[_Method]) -> Figure:
    columns = len(methods) if len(methods) <= 3 else (len(methods) + 1) // 2
    rows = -(-len(methods) // columns)
    subtitle = f"{_lesions_and_exams(methods)}; solid: bias, dashed: bias ± 1.96 SD"
    figure = _figure(max(6.4, 4.6 * columns), 4.0 * rows + 0.8, "Predicted less true volume of each lesion", subtitle)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    means_ml: list[float] = []
    for place, (axes, method) in enumerate(zip(panels, methods, strict=False)):
        volumes_ml = np.array([(row.true_volume_ml, row.predicted_volume_ml) for row in method.measured]).reshape(-1, 2)
        difference_ml = volumes_ml[:, 1] - volumes_ml[:, 0]
        means_ml += volumes_ml.mean(axis=1).tolist()
        _tidy(axes).axhline(0.0, color=FAINT, linewidth=0.8, label="zero")
        axes.plot(volumes_ml.mean(axis=1), difference_ml, **method.dots)
        found = _draw_limits(axes, difference_ml)
        axes.set_title(f"{method.label}\n{_counted([len(difference_ml)], 'lesion')}{found}", fontsize=10, loc="left")
        axes.tick_params(labelbottom=place + columns >= len(methods))
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    _scale_log(panels[0], means_ml, (1.0,))
    # Errors grow with lesions: a linear axis would show those of the largest only.
    panels[0].set_yscale("symlog", linthresh=1.0)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:+g}" if number else "0"))
    figure.supxlabel("mean of true and predicted volume (ml)", fontsize=10)
    figure.supylabel("predicted less true volume (ml, linear up to ±1)", fontsize=10)
    return figure


def _draw_limits(axes: Axes, difference_ml: Float[np.ndarray, " n"]) -> str:
    """Draws the bias and its limits, which need two lesions, and says what they are."""
    if not len(difference_ml):
        return ""
    bias = float(difference_ml.mean())
    axes.axhline(bias, color=INK, linewidth=1.4, label="bias")
    if len(difference_ml) == 1:
        return f", bias {bias:+.2f} ml"
    spread = 1.96 * float(difference_ml.std(ddof=1))
    for limit in (bias - spread, bias + spread):
        axes.axhline(limit, color=INK, linestyle="--", linewidth=1.2, label="limit")
    return f", bias {bias:+.2f} ({bias - spread:+.2f} to {bias + spread:+.2f}) ml"


def _froc(methods: Sequence[_Method]) -> Figure:
    rankings = [ranked(method.exams, iou=MATCH_IOU, over_mm=0.0) for method in methods]
    curves = [_froc_curve(ranking) for ranking in rankings]
    reach = min(MOST_FALSE_POSITIVES, max(1.0, *(drawn[0][-1] for drawn in curves)))
    lesions = _counted([int(ranking.true_counts.sum()) for ranking in rankings], "lesion")
    exams = _counted([len(method.exams) for method in methods], "exam")
    rates = " and ".join(f"{rate:g}" for rate in FALSE_POSITIVES_PER_EXAM)
    title = f"Lesions found, at an IoU of {MATCH_IOU:g} or more, by the number of false positives"
    subtitle = f"{lesions} of {exams}; filled: at {rates} false positives per exam, open: all predictions"
    figure = _figure(7.6, 5.8, title, subtitle)
    axes = _tidy(figure.subplots())
    for method, ranking, (false_positives, sensitivity) in zip(methods, rankings, curves, strict=True):
        if not ranking.true_counts.sum():
            continue
        # To the axis' end, as no more is found where more false positives are allowed.
        x, y = np.append(false_positives, max(reach, false_positives[-1])), np.append(sensitivity, sensitivity[-1])
        axes.plot(x, y, **{**method.look, "marker": None}, drawstyle="steps-post", label=method.label)
        found = [
            sensitivity_at(ranking, np.ones((1, len(method.exams))), rate=rate)[0] for rate in FALSE_POSITIVES_PER_EXAM
        ]
        spots = {**method.look, "linestyle": "none", "markersize": 8, "clip_on": False, "zorder": 3}
        axes.plot(FALSE_POSITIVES_PER_EXAM, found, **spots, markeredgecolor="white", label=f"{method.label}, at rates")
        if false_positives[-1] <= reach:
            axes.plot(false_positives[-1:], sensitivity[-1:], **spots, markerfacecolor="white", label="all predictions")
    axes.set(xlabel="mean false positives per exam", ylabel="sensitivity", xlim=(0.0, reach), ylim=(0.0, 1.03))
    _legend(figure, [Line2D([], [], **method.look, label=method.label) for method in methods])
    return figure


def _froc_curve(ranking: Ranking) -> Points:
    """False positives per exam and sensitivity, from where nothing is predicted."""
    if not ranking.true_counts.sum():
        return np.zeros(1), np.zeros(1)
    steps = curve(ranking, np.ones((1, len(ranking.true_counts))))
    return np.append(0.0, steps.false_positives[0]), np.append(0.0, steps.sensitivity[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judged:
    """The lesions that are there or gone, and how sure a method is that they are there."""

    method: _Method
    patient: Int[np.ndarray, " n"]
    is_present: Bool[np.ndarray, " n"]
    presence: Float[np.ndarray, " n"]

    @classmethod
    def by(cls, method: _Method) -> _Judged:
        judged = [row for row in method.evaluation.lesions if None not in (row.presence, row.is_present)]
        place_of = {exam: place for place, exam in enumerate(dict.fromkeys(row.exam for row in judged))}
        return cls(
            method=method,
            patient=np.array([place_of[row.exam] for row in judged], np.int64),
            is_present=np.array([row.is_present for row in judged], np.bool_),
            presence=np.array([row.presence for row in judged], np.float64),
        )

    def has_both(self, weights: Float[np.ndarray, " n"]) -> bool:
        return bool(weights[self.is_present].any()) and bool(weights[~self.is_present].any())

    def roc(self, weights: Float[np.ndarray, " n"]) -> Points:
        false, true, _ = roc_curve(self.is_present, self.presence, sample_weight=weights, drop_intermediate=False)
        return false, true

    def band(self, rates: Float[np.ndarray, " rates"]) -> Float[np.ndarray, "2 rates"]:
        """Between which values the curve lies in 95 % of the draws of patients; NaN where no draw has both classes."""
        patients = int(self.patient.max()) + 1
        draws = np.random.default_rng(0).multinomial(patients, np.full(patients, 1 / patients), size=DRAWS)
        weighted = [drawn for drawn in draws[:, self.patient].astype(np.float64) if self.has_both(drawn)]
        curves = [np.interp(rates, *self.roc(weights)) for weights in weighted] or [np.full(len(rates), np.nan)]
        return np.asarray(np.quantile(curves, [0.025, 0.975], axis=0))

    def label(self) -> str:
        """The method's name and the area under its curve."""
        area = self.method.evaluation.presence_auc
        found = "" if area.value is None else f": AUC {area.value:.2f}"
        return f"{self.method.label}{found}" + ("" if area.low is None else f" ({area.low:.2f} to {area.high:.2f})")


def _presence_roc(methods: Sequence[_Method]) -> Figure | None:
    all_judged = [
        judged for method in methods if (judged := _Judged.by(method)).has_both(np.ones(len(judged.presence)))
    ]
    if not all_judged:
        return None
    here = _counted([int(judged.is_present.sum()) for judged in all_judged], "lesion")
    gone = _counted([int((~judged.is_present).sum()) for judged in all_judged])
    exams = _counted([int(judged.patient.max()) + 1 for judged in all_judged], "exam")
    title = "How well presence tells lesions that are there from gone ones"
    figure = _figure(6.6, 7.2, title, f"{here} there and {gone} gone, of {exams}; shaded: 95 % of draws of patients")
    axes = _tidy(figure.subplots())
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, label="chance")
    rates = np.linspace(0.0, 1.0, 201)
    for judged in all_judged:
        look = judged.method.look
        low, high = judged.band(rates)
        axes.fill_between(rates, low, high, color=look["color"], alpha=0.24 / len(all_judged), linewidth=0.0)
        for edge in (low, high):
            axes.plot(rates, edge, **{**look, "marker": None, "linewidth": 0.7}, alpha=0.8, label="limit of the band")
        axes.plot(*judged.roc(np.ones(len(judged.presence))), **look, markevery=0.12, label=judged.method.label)
    axes.set(xlabel="gone lesions taken for present (share)", ylabel="lesions recognised as present (share)")
    axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.02), aspect="equal")
    _legend(figure, [Line2D([], [], **judged.method.look, label=judged.label()) for judged in all_judged], columns=1)
    return figure


def _strata(methods: Sequence[_Method]) -> Figure | None:
    dice = [
        {
            (by, name): [row.dice for row in rows if row.dice is not None]
            for by, name, rows in strata_of(method.measured)
        }
        for method in methods
    ]
    # All methods' lesions together have every stratum, in order.
    panels: dict[str, dict[str, list[list[float]]]] = {}
    for by, name, _ in strata_of([row for method in methods for row in method.measured]):
        panels.setdefault(by, {})[name] = [found.get((by, name), []) for found in dice]
    if not panels:
        return None
    rows, columns = -(-len(panels) // 2), min(len(panels), 2)
    subtitle = f"{_lesions_and_exams(methods)}; box: quartiles, line: median, marker: mean"
    figure = _figure(6.2 * columns, 3.9 * rows + 0.9, "Dice by kind of lesion", subtitle)
    axes_of = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (by, strata) in zip(axes_of, panels.items(), strict=False):
        _draw_boxes(_tidy(axes), methods, strata)
        axes.set_title(f"By {by}", fontsize=10, loc="left")
    for axes in axes_of[len(panels) :]:
        axes.set_axis_off()
    _legend(figure, [Patch(label=method.label, **_box_look(method)) for method in methods])
    return figure


def _draw_boxes(axes: Axes, methods: Sequence[_Method], strata: Mapping[str, Sequence[Sequence[float]]]) -> None:
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        boxes = {at: values[place] for at, values in enumerate(strata.values()) if values[place]}
        color, marker = method.look["color"], method.look["marker"]
        axes.boxplot(
            list(boxes.values()),
            positions=[at + (place - (len(methods) - 1) / 2) * width for at in boxes],
            widths=0.82 * width,
            patch_artist=True,
            manage_ticks=False,
            showmeans=True,
            boxprops=_box_look(method),
            medianprops={
                "color": INK,
                "linewidth": 2.0,
                "path_effects": [withStroke(linewidth=3.2, foreground="white")],
            },
            meanprops={"marker": marker, "markersize": 6, "markerfacecolor": "white", "markeredgecolor": color},
            flierprops={"marker": marker, "markersize": 3, "markerfacecolor": color, "markeredgecolor": color},
        )
    counts = [_counted([len(found) for found in values]) for values in strata.values()]
    labels = [f"{textwrap.fill(_label(name), 14)}\nn = {count}" for name, count in zip(strata, counts, strict=True)]
    turned = {"rotation": 45, "ha": "right"} if len(strata) > 6 else {}
    axes.set_xticks(range(len(strata)), labels, fontsize=9, **turned)
    axes.set(xlim=(-0.6, len(strata) - 0.4), ylim=(-0.03, 1.03), ylabel="Dice (by id)")


def _box_look(method: _Method) -> dict[str, Any]:
    """A pale face under a hatch in full colour."""
    pale = tuple(0.4 * channel + 0.6 for channel in to_rgb(method.look["color"]))
    return {"facecolor": pale, "edgecolor": method.look["color"], "hatch": method.hatch}


def _figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    lines = [title, *textwrap.wrap(subtitle, int(12 * width))]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
    return figure


def _tidy(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def _legend(figure: Figure, handles: Sequence[Line2D | Patch], *, columns: int = 3) -> None:
    figure.legend(
        handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=4.0
    )


def _scale_log(axes: Axes, values: Sequence[float], ticks: Sequence[float]) -> None:
    """Makes x logarithmic, with a linear piece around zero only if there are zeros to be shown."""
    positive = [value for value in values if value > 0]
    if len(positive) < len(values):
        axes.set_xscale("symlog", linthresh=min(positive, default=1.0), linscale=0.5)
    else:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _lesions_and_exams(methods: Sequence[_Method]) -> str:
    lesions = _counted([len(method.measured) for method in methods], "lesion")
    return f"{lesions} of {_counted([len({row.exam for row in method.measured}) for method in methods], 'exam')}"


def _counted(counts: Sequence[int], noun: str = "") -> str:
    """How many there are, from the fewest to the most of any method."""
    low, high = min(counts), max(counts)
    number = f"{low}" if low == high else f"{low} to {high}"
    return f"{number} {noun}{'' if high == 1 else 's'}" if noun else number


def _label(name: str) -> str:
    """A name for a figure: not too long, of letters that the font has, taken neither for a formula nor for hidden."""
    known = "".join(letter if letter.isprintable() and ord(letter) < FOREIGN_LETTERS else "?" for letter in name)
    half = LONGEST_LABEL // 2
    short = known if len(known) <= LONGEST_LABEL else f"{known[: half - 1]}…{known[-half:]}"
    return (" " if short.startswith("_") else "") + short.replace("$", r"\$")
