"""The figures of an evaluation: sizes, volumes, detection, presence, and strata of lesions."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

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
from longilesion.evaluation.plot_style import (
    FAINT,
    HALO,
    INK,
    Method,
    add_legend,
    counted,
    new_figure,
    scale_log,
    shortened,
    styled,
    tidy,
)
from longilesion.evaluation.strata import strata_of
from longilesion.evaluation.summary import Evaluation

Points: TypeAlias = tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]
Curves: TypeAlias = tuple[Float[np.ndarray, "draws steps"], Float[np.ndarray, "draws steps"]]

PLOTS = ("dice_by_diameter", "volume_bland_altman", "froc", "presence_roc", "strata")
FEWEST_FOR_MEDIAN = 20
# A method with very many false positives would compress the others' curves.
MOST_FALSE_POSITIVES = 8.0
DRAWS = 200


def draw_plots(evaluations: Sequence[Evaluation], detections: Mapping[str, Sequence[ExamLesions]]) -> dict[str, Figure]:
    """Draws the figures that compare one to six methods, by the stem of their file.

    `detections` are the exams' lesions by the evaluation's name. `presence_roc` is left out where no method gives the
    presence of both present and gone lesions, `strata` where no stratum has a measured lesion.
    """
    methods = styled(evaluations, detections)
    drawings = (_dice_by_diameter, _volume_bland_altman, _froc, _presence_roc, _strata)
    figures = {stem: draw(methods) for stem, draw in zip(PLOTS, drawings, strict=True)}
    return {stem: figure for stem, figure in figures.items() if figure is not None}


def _dice_by_diameter(methods: Sequence[Method]) -> Figure:
    has_medians = any(len(method.measured) >= FEWEST_FOR_MEDIAN for method in methods)
    subtitle = _lesions_and_exams(methods) + ("; lines: running medians" if has_medians else "")
    figure = new_figure(8.0, 5.6, "Dice of each lesion by its true size", subtitle)
    axes = tidy(figure.subplots())
    handles = []
    for method in methods:
        diameter_mm = np.array([lesion.true_diameter_mm for lesion in method.measured], np.float64)
        dice = np.array([lesion.dice for lesion in method.measured], np.float64)
        axes.plot(diameter_mm, dice, **method.dots)
        look = {**method.look, "linestyle": "none"}
        if len(dice) >= FEWEST_FOR_MEDIAN:
            look = {**method.look, "linewidth": 2.4}
            (line,) = axes.plot(*_running_median(diameter_mm, dice), **{**look, "marker": None})
            line.set(label=f"{method.label}, median", path_effects=HALO)
        handles.append(Line2D([], [], **look))
    scale_log(axes, [lesion.true_diameter_mm for method in methods for lesion in method.measured], (1.0, 2.0, 5.0))
    axes.set(xlabel="true largest axial diameter (mm)", ylabel="Dice (by id)", ylim=(-0.03, 1.03))
    add_legend(figure, handles, [method.label for method in methods])
    return figure


def _running_median(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Points:
    """Medians over windows of a fifth of the points, at least nine, sorted by x."""
    order = np.argsort(x, kind="stable")
    window = max(9, len(x) // 5)
    across, up = (np.lib.stride_tricks.sliding_window_view(side[order], window) for side in (x, y))
    return np.median(across, axis=1), np.median(up, axis=1)


def _volume_bland_altman(methods: Sequence[Method]) -> Figure:
    columns = len(methods) if len(methods) <= 3 else (len(methods) + 1) // 2
    rows = -(-len(methods) // columns)
    subtitle = f"{_lesions_and_exams(methods)}; solid: bias, dashed: bias ± 1.96 SD"
    figure = new_figure(
        max(6.4, 4.6 * columns), 4.0 * rows + 0.8, "Predicted less true volume of each lesion", subtitle
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    # Errors grow with the size of lesions: on a linear axis only those of the largest would be visible.
    panels[0].set_yscale("symlog", linthresh=1.0)
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:+g}" if number else "0"))
    means_ml: list[float] = []
    for place, (axes, method) in enumerate(zip(panels, methods, strict=False)):
        volumes_ml = np.array([(row.true_volume_ml, row.predicted_volume_ml) for row in method.measured]).reshape(-1, 2)
        difference_ml = volumes_ml[:, 1] - volumes_ml[:, 0]
        means_ml += volumes_ml.mean(axis=1).tolist()
        tidy(axes).axhline(0.0, color=FAINT, linewidth=0.8, label="zero")
        axes.plot(volumes_ml.mean(axis=1), difference_ml, **method.dots)
        found = _draw_limits(axes, difference_ml)
        axes.set_title(f"{method.label}\n{counted([len(difference_ml)], 'lesion')}{found}", fontsize=10, loc="left")
        axes.tick_params(labelbottom=place + columns >= len(methods))
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    scale_log(panels[0], means_ml, (1.0,))
    figure.supxlabel("mean of true and predicted volume (ml)", fontsize=10)
    figure.supylabel("predicted less true volume (ml, linear up to ±1)", fontsize=10)
    return figure


def _draw_limits(axes: Axes, difference_ml: Float[np.ndarray, " n"]) -> str:
    """Draws the bias and its limits of agreement, which need two lesions, and returns their text."""
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


def _froc(methods: Sequence[Method]) -> Figure:
    rankings = [ranked(method.exams, iou=MATCH_IOU, over_mm=0.0) for method in methods]
    curves = [_froc_curve(ranking) for ranking in rankings]
    reach = min(MOST_FALSE_POSITIVES, max(1.0, *(drawn[0][-1] for drawn in curves)))
    lesions = counted([int(ranking.true_counts.sum()) for ranking in rankings], "lesion")
    exams = counted([len(method.exams) for method in methods], "exam")
    rates = " and ".join(f"{rate:g}" for rate in FALSE_POSITIVES_PER_EXAM)
    title = f"Lesions found, at an IoU of {MATCH_IOU:g} or more, by the number of false positives"
    subtitle = f"{lesions} of {exams}; filled: {rates} false positives per exam, open: all predictions"
    unsure = [method.label for method in methods if not method.evaluation.has_presence]
    if unsure:
        subtitle += f"; {', '.join(unsure)}: all equally sure, as there is no run report"
    figure = new_figure(8.0, 5.6, title, subtitle)
    axes = tidy(figure.subplots())
    for method, ranking, (false_positives, sensitivity) in zip(methods, rankings, curves, strict=True):
        if not ranking.true_counts.sum():
            continue
        # Extended to the end of the axis, as allowing more false positives finds no more lesions.
        x, y = np.append(false_positives, max(reach, false_positives[-1])), np.append(sensitivity, sensitivity[-1])
        axes.plot(x, y, **{**method.look, "marker": None}, drawstyle="steps-post", label=method.label)
        even = np.ones((1, len(method.exams)))
        found = [sensitivity_at(ranking, even, rate=rate)[0] for rate in FALSE_POSITIVES_PER_EXAM]
        spots = {**method.look, "linestyle": "none", "markersize": 8, "clip_on": False, "zorder": 3}
        axes.plot(FALSE_POSITIVES_PER_EXAM, found, **spots, markeredgecolor="white", label=f"{method.label}, at rates")
        if false_positives[-1] <= reach:
            axes.plot(false_positives[-1:], sensitivity[-1:], **spots, markerfacecolor="white", label="all predictions")
    axes.set(xlabel="mean false positives per exam", ylabel="sensitivity", xlim=(0.0, reach), ylim=(0.0, 1.03))
    add_legend(figure, [Line2D([], [], **method.look) for method in methods], [method.label for method in methods])
    return figure


def _froc_curve(ranking: Ranking) -> Points:
    """False positives per exam and sensitivity, starting at 0, 0."""
    if not ranking.true_counts.sum():
        return np.zeros(1), np.zeros(1)
    steps = curve(ranking, np.ones((1, len(ranking.true_counts))))
    return np.append(0.0, steps.false_positives[0]), np.append(0.0, steps.sensitivity[0])


def _presence_roc(methods: Sequence[Method]) -> Figure | None:
    shown = [(method, rows) for method in methods if _has_both(rows := _judged(method))]
    if not shown:
        return None
    here = counted([sum(row.is_present is True for row in rows) for _, rows in shown], "lesion")
    gone = counted([sum(row.is_present is False for row in rows) for _, rows in shown])
    exams = counted([len({row.exam for row in rows}) for _, rows in shown], "exam")
    title = "How well presence tells lesions that are there from gone ones"
    figure = new_figure(6.6, 7.2, title, f"{here} there and {gone} gone, of {exams}; shaded: 95 % of draws of patients")
    axes = tidy(figure.subplots())
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, label="chance")
    rates = np.linspace(0.0, 1.0, 201)
    for method, rows in shown:
        low, high = _roc_band(rows, rates)
        axes.fill_between(rates, low, high, color=method.look["color"], alpha=0.24 / len(shown), linewidth=0.0)
        edge = {**method.look, "marker": None, "linewidth": 0.7, "alpha": 0.8, "label": f"{method.label}, band"}
        axes.plot(rates, low, **edge)
        axes.plot(rates, high, **edge)
        (false,), (true,) = _roc(rows, np.ones((1, len(rows))))
        axes.plot(false, true, **method.look, markevery=0.12, label=method.label)
    axes.set(xlabel="gone lesions taken for present (share)", ylabel="lesions recognised as present (share)")
    axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.02), aspect="equal")
    add_legend(
        figure, [Line2D([], [], **method.look) for method, _ in shown], [_auc_label(method) for method, _ in shown]
    )
    return figure


def _judged(method: Method) -> list[LesionScore]:
    """The present and gone lesions for which the method gives a presence."""
    return [row for row in method.evaluation.lesions if None not in (row.presence, row.is_present)]


def _has_both(rows: Iterable[LesionScore]) -> bool:
    return len({row.is_present for row in rows}) == 2


def _roc(rows: Sequence[LesionScore], weights: Float[np.ndarray, "draws rows"]) -> Curves:
    """The curve of each draw, from no lesion taken for present to all; each draw has lesions of both kinds."""
    is_present = np.array([row.is_present is True for row in rows])
    presence = np.array([row.presence for row in rows], np.float64)
    order = np.argsort(-presence, kind="stable")
    ends = np.flatnonzero(np.diff(presence[order], append=-np.inf))
    false, true = (
        np.pad(np.cumsum(weights[:, order] * side[order], axis=1)[:, ends], ((0, 0), (1, 0)))
        for side in (~is_present, is_present)
    )
    return false / false[:, -1:], true / true[:, -1:]


def _roc_band(rows: Sequence[LesionScore], rates: Float[np.ndarray, " rates"]) -> Float[np.ndarray, "2 rates"]:
    """The 95 % band of the curve over the draws of patients; NaN for fewer than two patients."""
    place_of = {exam: place for place, exam in enumerate(dict.fromkeys(row.exam for row in rows))}
    patients, patient_of = len(place_of), [place_of[row.exam] for row in rows]
    even = np.full(patients, 1 / patients)
    draws = np.random.default_rng(0).multinomial(patients, even, size=DRAWS if patients > 1 else 0)
    weighted = [drawn for drawn in draws[:, patient_of].astype(np.float64) if _has_both(compress(rows, drawn))]
    if not weighted:
        return np.full((2, len(rates)), np.nan)
    curves = [np.interp(rates, *curve) for curve in zip(*_roc(rows, np.array(weighted)), strict=True)]
    return np.asarray(np.quantile(curves, [0.025, 0.975], axis=0))


def _auc_label(method: Method) -> str:
    area = method.evaluation.presence_auc
    found = "" if area.value is None else f": AUC {area.value:.2f}"
    return f"{method.label}{found}" + ("" if area.low is None else f" ({area.low:.2f} to {area.high:.2f})")


def _strata(methods: Sequence[Method]) -> Figure | None:
    panels: dict[str, dict[str, list[list[float]]]] = {}
    found_by = [{(by, name): rows for by, name, rows in strata_of(method.measured)} for method in methods]
    # The strata over all methods' lesions, in order.
    for by, name, _ in strata_of([row for method in methods for row in method.measured]):
        groups = [found.get((by, name), []) for found in found_by]
        panels.setdefault(by, {})[name] = [[row.dice for row in rows if row.dice is not None] for rows in groups]
    if not panels:
        return None
    rows, columns = -(-len(panels) // 2), min(len(panels), 2)
    subtitle = f"{_lesions_and_exams(methods)}; box: quartiles, line: median, marker: mean"
    figure = new_figure(6.2 * columns, 3.9 * rows + 0.9, "Dice by kind of lesion", subtitle)
    axes_of = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (by, strata) in zip(axes_of, panels.items(), strict=False):
        _draw_boxes(tidy(axes), methods, strata)
        axes.set_title(f"By {by}", fontsize=10, loc="left")
    for axes in axes_of[len(panels) :]:
        axes.set_axis_off()
    handles = [(Patch(**_box_look(method)), Line2D([], [], **_mean_look(method))) for method in methods]
    add_legend(figure, handles, [method.label for method in methods])
    return figure


def _draw_boxes(axes: Axes, methods: Sequence[Method], strata: Mapping[str, Sequence[Sequence[float]]]) -> None:
    width = 0.8 / len(methods)
    for place, method in enumerate(methods):
        boxes = {at: values[place] for at, values in enumerate(strata.values()) if values[place]}
        if not boxes:
            continue
        axes.boxplot(
            list(boxes.values()),
            positions=[at + (place - (len(methods) - 1) / 2) * width for at in boxes],
            widths=0.82 * width,
            patch_artist=True,
            manage_ticks=False,
            showmeans=True,
            boxprops=_box_look(method),
            medianprops={"color": INK, "linewidth": 2.0, "path_effects": HALO},
            meanprops=_mean_look(method),
            flierprops={**_mean_look(method), "markersize": 3, "markerfacecolor": method.look["color"]},
        )
    # Many names only fit when rotated, and a rotated name of two lines would overlap the next.
    is_aslant = len(strata) > 6
    names = [shortened(name) if is_aslant else textwrap.fill(shortened(name), 14) for name in strata]
    counts = [counted([len(found) for found in values]) for values in strata.values()]
    ticks = axes.set_xticks(range(len(strata)), [f"{name}\nn = {n}" for name, n in zip(names, counts, strict=True)])
    for tick in ticks:
        tick.label1.set(fontsize=9, rotation=45 if is_aslant else 0, ha="right" if is_aslant else "center")
    axes.set(xlim=(-0.6, len(strata) - 0.4), ylim=(-0.03, 1.03), ylabel="Dice (by id)")


def _box_look(method: Method) -> dict[str, Any]:
    """The style of boxes: a pale face under a hatch in full colour."""
    pale = tuple(0.4 * channel + 0.6 for channel in to_rgb(method.look["color"]))
    return {"facecolor": pale, "edgecolor": method.look["color"], "hatch": method.hatch}


def _mean_look(method: Method) -> dict[str, Any]:
    edge = {"markerfacecolor": "white", "markeredgecolor": method.look["color"], "markeredgewidth": 1.0}
    return {**method.look, **edge, "linestyle": "none", "markersize": 6}


def _lesions_and_exams(methods: Sequence[Method]) -> str:
    lesions = counted([len(method.measured) for method in methods], "lesion")
    return f"{lesions} of {counted([len({row.exam for row in method.measured}) for method in methods], 'exam')}"
