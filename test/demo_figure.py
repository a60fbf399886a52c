"""The demo's picture: each lesion in the baseline and the follow-up scan, side by side, with its outlines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from longilesion.case import Case, Click
from longilesion.geometry import Grid

if TYPE_CHECKING:
    from test.demo import ComparedLesion

HALF_WIDTH_MM = 48.0
LUNG_WINDOW_HU, SOFT_TISSUE_WINDOW_HU = (-1150.0, 350.0), (-140.0, 240.0)
BASELINE, TRUTH, FOUND, CLICK = "#ffb000", "#35d07f", "#ff4fa3", "#7fd4ff"
PAPER, INK, FAINT = "#14171c", "#e8eaee", "#98a0ab"


def draw_lesions(case: Case, lesions: tuple[ComparedLesion, ...], path: Path) -> None:
    """Draws all lesions, two pairs of pictures in a row, and writes a PNG."""
    rows = (len(lesions) + 1) // 2
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK}):
        figure = Figure(figsize=(13.2, 2.98 * rows + 0.8), dpi=110, facecolor=PAPER)
        halves = figure.add_gridspec(
            1,
            2,
            left=0.01,
            right=0.99,
            bottom=0.5 / (2.98 * rows + 0.8),
            top=1 - 0.3 / (2.98 * rows + 0.8),
            wspace=0.05,
        )
        for number in range(2 * rows):
            inner = halves[number % 2].subgridspec(rows, 2, wspace=0.04, hspace=0.13)
            axes = [figure.add_subplot(inner[number // 2, column]) for column in range(2)]
            if number >= len(lesions):
                for empty in axes:
                    empty.set_axis_off()
                continue
            _draw_pair(axes, case, lesions[number])
        _draw_legend(figure)
        figure.savefig(path, facecolor=PAPER)


def _draw_pair(axes: list[Axes], case: Case, lesion: ComparedLesion) -> None:
    prior = case.baselines[lesion.baseline.scan_name]
    scan = case.followups[lesion.followup.scan_name]
    marked = None if prior.lesions is None else prior.lesions.ids == lesion.lesion_id
    before = [(marked, BASELINE, "-")] if lesion.volumes_ml[0] else []
    after = [(lesion.truth, TRUTH, "-"), (lesion.found, FOUND, (0, (4, 2)))]
    shown_after = [outline for outline in after if outline[0] is not None]
    window = _window_hu(prior.scan.hu, prior.scan.grid, lesion.baseline)
    _draw_slice(axes[0], prior.scan.hu, prior.scan.grid, lesion.baseline, before, window)
    _draw_slice(axes[1], scan.hu, scan.grid, lesion.followup, shown_after, window)
    earlier, true, found = lesion.volumes_ml
    _caption(axes[0], f"{lesion.lesion_id}", lesion.fate, f"baseline {_volume(earlier)}")
    dice = "rightly empty" if lesion.dice is None else f"Dice {lesion.dice:.2f}"
    _caption(axes[1], "", f"follow-up {_volume(true)}, found {_volume(found)}", dice)


def _draw_slice(
    axes: Axes,
    hu: np.ndarray,
    grid: Grid,
    click: Click,
    outlines: list[tuple[np.ndarray, str, object]],
    window_hu: tuple[float, float],
) -> None:
    """An axial slice as radiologists see it, through the middle of the first outline (or the click), in millimetres."""
    view, lps = grid.lps_view(hu)
    place = np.array(lps.index_zyx(click.point_xyz_mm))
    masks = [(lps_mask, color, dashes) for mask, color, dashes in outlines for lps_mask in [grid.lps_view(mask)[0]]]
    middle = np.argwhere(masks[0][0]).mean(axis=0) if masks else place
    z, y, x = middle
    section = int(np.clip(round(z), 0, view.shape[0] - 1))
    _, height, width = lps.spacing_zyx_mm
    extent = (-0.5 * width, (view.shape[2] - 0.5) * width, (view.shape[1] - 0.5) * height, -0.5 * height)
    axes.imshow(
        view[section], cmap="gray", vmin=window_hu[0], vmax=window_hu[1], extent=extent, interpolation="bilinear"
    )
    columns, rows = np.arange(view.shape[2]) * width, np.arange(view.shape[1]) * height
    for mask, color, dashes in masks:
        if mask[section].any():
            axes.contour(
                columns, rows, mask[section], levels=[0.5], colors=[color], linewidths=1.5, linestyles=[dashes]
            )
    if abs(place[0] - section) * lps.spacing_zyx_mm[0] < 15.0:
        axes.plot(place[2] * width, place[1] * height, "+", color=CLICK, markersize=8, markeredgewidth=1.2)
    axes.set_xlim(x * width - HALF_WIDTH_MM, x * width + HALF_WIDTH_MM)
    axes.set_ylim(y * height + 0.8 * HALF_WIDTH_MM, y * height - 0.8 * HALF_WIDTH_MM)
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    for edge in axes.spines.values():
        edge.set_visible(False)


def _window_hu(hu: np.ndarray, grid: Grid, click: Click) -> tuple[float, float]:
    """The lung window where a lesion's surroundings are mostly air, else that for soft tissue."""
    z, y, x = np.round(grid.clamped(grid.index_zyx(click.point_xyz_mm))).astype(int)
    reach = [max(1, round(25.0 / spacing)) for spacing in grid.spacing_zyx_mm]
    box = tuple(slice(max(0, i - r), i + r + 1) for i, r in zip((z, y, x), reach, strict=True))
    return LUNG_WINDOW_HU if np.median(hu[box]) < -400 else SOFT_TISSUE_WINDOW_HU


def _caption(axes: Axes, number: str, text: str, value: str) -> None:
    axes.text(0.0, 1.02, number, transform=axes.transAxes, fontsize=12, fontweight="bold", va="bottom")
    axes.text(0.09 if number else 0.0, 1.025, text, transform=axes.transAxes, va="bottom")
    axes.text(1.0, 1.025, value, transform=axes.transAxes, ha="right", va="bottom", color=FAINT)


def _volume(ml: float) -> str:
    return f"{ml:.1f} ml" if ml else "none"


def _draw_legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=BASELINE, label="baseline outline (given)"),
        Line2D([], [], color=TRUTH, label="follow-up, truth"),
        Line2D([], [], color=FOUND, linestyle=(0, (4, 2)), label="follow-up, found"),
        Line2D(
            [], [], color=CLICK, marker="+", linestyle="none", markersize=9, label="click (within 15 mm of the slice)"
        ),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False, labelcolor=INK, fontsize=10)
