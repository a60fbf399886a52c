"""Pictures of synthetic pairs, plain and outlined, and of series: each row is one lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from longilesion.alignment import place_vois
from longilesion.case import LesionMap, LesionPrompt, Scan, lesion_regions
from longilesion.config import ModelSettings
from longilesion.evaluation.measures import Outline, centre_xyz_mm, largest_axial_diameter_mm
from longilesion.evaluation.plot_style import INK, LOOKS
from longilesion.files import check_picture, written_together
from longilesion.geometry import Triple
from training.synthesis.pairs import SyntheticPair, SyntheticSeries

# Lowest and highest displayed HU.
WINDOWS: Mapping[str, tuple[float, float]] = {
    "soft tissue": (-125.0, 225.0),
    "lung": (-1350.0, 150.0),
    "bone": (-500.0, 1300.0),
}
# Width of a picture relative to the lesion, within limits.
_FIELD, _FIELD_MM = 3.5, (80.0, 220.0)
_BASELINE, _TRUTH, _OTHERS, _CLICK = LOOKS[2][0], LOOKS[5][0], "#ffffff", LOOKS[1][0]
_ROW_INCHES, _WIDTH_INCHES = 2.65, 9.4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A lesion of a pair, to be shown in a row; the source's name is in its caption."""

    source: str
    pair: SyntheticPair
    lesion_id: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesExample:
    """A lesion of a series, to be shown in a row; the source's name is in its caption."""

    source: str
    series: SyntheticSeries
    lesion_id: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """One scan of an example; `outline` is None where it does not outline the lesion.

    The slice goes through `middle_xyz_mm`: the lesion's centre or, where it is not outlined, its expected position.
    """

    scan: Scan
    lesions: LesionMap
    label: int
    outline: Outline | None
    middle_xyz_mm: Triple
    click_xyz_mm: Triple
    color: str

    @property
    def diameter_mm(self) -> float:
        """The largest axial diameter, 0 where there is none."""
        return 0.0 if self.outline is None else largest_axial_diameter_mm(self.outline)


def views_of(example: Example, model: ModelSettings) -> tuple[View, View]:
    """The baseline's view and the follow-up's; a gone lesion is shown where the model's pipeline would look."""
    case, fact = example.pair.case, example.pair.facts[example.lesion_id]
    prior, scan = case.baselines["primary"], case.followups["primary"]
    clicks = next(click for click in case.clicks if click.lesion_id == example.lesion_id)
    if clicks.baseline is None or clicks.followup is None or prior.lesions is None:
        raise ValueError(f"lesion {example.lesion_id} of a synthetic pair has no clicks")
    prompt = LesionPrompt(
        lesion_id=example.lesion_id,
        followup=clicks.followup,
        baseline=clicks.baseline,
        propagated=False,
        confidence=1.0,
    )
    label = example.lesion_id if fact.true_id is None else fact.true_id
    old, now = _outline(prior.lesions, example.lesion_id), _outline(example.pair.truth, label)
    sought_xyz_mm = place_vois(case, prompt, model).followup_xyz_mm
    before_xyz_mm = next(
        each.baseline.point_xyz_mm
        for each in example.pair.exact_clicks
        if each.lesion_id == example.lesion_id and each.baseline is not None
    )
    return (
        View(
            scan=prior.scan,
            lesions=prior.lesions,
            label=example.lesion_id,
            outline=old,
            middle_xyz_mm=before_xyz_mm if old is None else centre_xyz_mm(old),
            click_xyz_mm=clicks.baseline.point_xyz_mm,
            color=_BASELINE,
        ),
        View(
            scan=scan,
            lesions=example.pair.truth,
            label=label,
            outline=now,
            middle_xyz_mm=sought_xyz_mm if now is None else centre_xyz_mm(now),
            click_xyz_mm=clicks.followup.point_xyz_mm,
            color=_TRUTH,
        ),
    )


def series_views_of(example: SeriesExample, model: ModelSettings) -> tuple[View | None, ...]:
    """The view of each time point; None where the lesion is in neither scan of any pair with that time point."""
    pairs, views = example.series.pairs, list[View | None]()
    for time in range(len(pairs) + 1):
        # As the follow-up of the pair before, else as the baseline of the next one.
        found = [
            views_of(Example(source=example.source, pair=pairs[number], lesion_id=example.lesion_id), model)[side]
            for number, side in ((time - 1, 1), (time, 0))
            if 0 <= number < len(pairs) and example.lesion_id in pairs[number].facts
        ]
        views.append(found[0] if found else None)
    return tuple(views)


def window_of(lesion_type: str, around_hu: float) -> str:
    """The window of a reader for a lesion of that type, with surrounding tissue of that mean HU."""
    if lesion_type == "Skeleton":
        return "bone"
    return "lung" if around_hu < -400 else "soft tissue"


def draw_examples(examples: Sequence[Example], model: ModelSettings) -> Figure:
    """Draws a row per example: the baseline plain and outlined, then the follow-up."""
    height = 0.35 + _ROW_INCHES * len(examples)
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=110, facecolor="white", layout="constrained")
    grid = figure.add_gridspec(len(examples), 4)
    for row, example in enumerate(examples):
        before, after = views_of(example, model)
        fact = example.pair.facts[example.lesion_id]
        field_mm = float(np.clip(_FIELD * max(before.diameter_mm, after.diameter_mm), *_FIELD_MM))
        shown = before if before.outline is not None else after
        window = window_of(fact.lesion_type, _around_hu(shown))
        axes = [figure.add_subplot(grid[row, column]) for column in range(4)]
        for view, name, (plain, outlined) in ((before, "baseline", axes[:2]), (after, "follow-up", axes[2:])):
            for each in (plain, outlined):
                _show(each, view, field_mm=field_mm, window=window)
            _mark(outlined, view)
            plain.set_title(
                f"{name}, {view.scan.grid.spacing_zyx_mm[0]:.1f} mm slices", fontsize=8, loc="left", color=INK
            )
            outlined.set_title(_measures(view), fontsize=8, loc="left", color=INK)
        kind = "real" if fact.real else "painted"
        caption = f"{fact.lesion_type}, {kind}: {fact.fate}\n{example.source}, {window} window"
        axes[0].set_ylabel(caption, fontsize=8, color=INK)
    figure.legend(handles=_legend(), loc="outside upper left", ncols=4, frameon=False, fontsize=8)
    return figure


def draw_series(examples: Sequence[SeriesExample], model: ModelSettings) -> Figure:
    """Draws a row per example and a column per time point."""
    rows = [(example, series_views_of(example, model)) for example in examples]
    times = max(len(views) for _, views in rows)
    height = 0.35 + _ROW_INCHES * len(examples)
    figure = Figure(figsize=(_WIDTH_INCHES / 4 * times, height), dpi=110, facecolor="white", layout="constrained")
    grid = figure.add_gridspec(len(examples), times)
    for row, (example, views) in enumerate(rows):
        shown = [view for view in views if view is not None and view.outline is not None]
        field_mm = float(np.clip(_FIELD * max(view.diameter_mm for view in shown), *_FIELD_MM))
        fact = next(pair.facts[example.lesion_id] for pair in example.series.pairs if example.lesion_id in pair.facts)
        window = window_of(fact.lesion_type, _around_hu(shown[0]))
        for column, view in enumerate(views):
            axes = figure.add_subplot(grid[row, column])
            if column == 0:
                kind = "real" if fact.real else "painted"
                axes.set_ylabel(f"{fact.lesion_type}, {kind}\n{example.source}, {window} window", fontsize=8, color=INK)
            if view is None:
                axes.set_box_aspect(1)
                axes.set_axis_off()
                title = "not there"
            else:
                _show(axes, view, field_mm=field_mm, window=window)
                _mark(axes, view)
                title = "not outlined" if view.outline is None else f"{view.diameter_mm:.0f} mm"
            axes.set_title(f"time point {column + 1}: {title}", fontsize=8, loc="left", color=INK)
    return figure


def write_series(path: Path, examples: Sequence[SeriesExample], model: ModelSettings) -> None:
    """Writes the picture as PNG; raises InputError where it cannot be written."""
    _write(path, draw_series(examples, model))


def write_examples(path: Path, examples: Sequence[Example], model: ModelSettings) -> None:
    """Writes the picture as PNG; raises InputError where it cannot be written."""
    _write(path, draw_examples(examples, model))


def _write(path: Path, figure: Figure) -> None:
    with written_together({path: check_picture}) as (temporary,):
        figure.savefig(temporary, format="png")


def _show(axes: Axes, view: View, *, field_mm: float, window: str) -> None:
    """Shows the slice in radiological orientation: the patient's right on the left, the front on top."""
    low, high = WINDOWS[window]
    plane = view.scan.hu[_slice_index(view)]
    axes.imshow(plane, cmap="gray", vmin=low, vmax=high, extent=_extent_mm(view), interpolation="bilinear")
    _, row, column = view.scan.grid.index_zyx(view.middle_xyz_mm)
    _, row_mm, column_mm = view.scan.grid.spacing_zyx_mm
    y, x = row * row_mm, column * column_mm
    axes.set_xlim(x - field_mm / 2, x + field_mm / 2)
    axes.set_ylim(y + field_mm / 2, y - field_mm / 2)
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal")


def _mark(axes: Axes, view: View) -> None:
    """Outlines the lesion and its neighbours, and marks the click whatever its z."""
    ids = view.lesions.ids[_slice_index(view)]
    _, row_mm, column_mm = view.scan.grid.spacing_zyx_mm
    rows, columns = (np.arange(length) * step for length, step in zip(ids.shape, (row_mm, column_mm), strict=True))
    for mask, color, style in (
        ((ids != view.label) & (ids > 0), _OTHERS, "dotted"),
        (ids == view.label, view.color, "solid"),
    ):
        if mask.any():
            axes.contour(columns, rows, mask, levels=[0.5], colors=color, linewidths=1.1, linestyles=style)
    _, row, column = view.scan.grid.index_zyx(view.click_xyz_mm)
    axes.plot(column * column_mm, row * row_mm, marker="+", color=_CLICK, markersize=9, markeredgewidth=1.6)


def _measures(view: View) -> str:
    if view.outline is None:
        return "not outlined"
    way_mm = float(np.linalg.norm(np.subtract(view.click_xyz_mm, view.middle_xyz_mm)))
    return f"{view.diameter_mm:.0f} mm; click {way_mm:.0f} mm off"


def _legend() -> list[Line2D]:
    click = Line2D([], [], color=_CLICK, marker="+", linestyle="none", markersize=8, markeredgewidth=1.6)
    handles = [
        Line2D([], [], color=_BASELINE),
        Line2D([], [], color=_TRUTH),
        Line2D([], [], color="#777777", linestyle="dotted"),
        click,
    ]
    for handle, label in zip(
        handles, ("outline in the baseline", "true outline in the follow-up", "other lesions", "click"), strict=True
    ):
        handle.set_label(label)
    return handles


def _outline(lesions: LesionMap, label: int) -> Outline | None:
    region = lesion_regions(lesions.ids).get(label)
    return None if region is None else Outline.of(lesions, [label], [region])


def _slice_index(view: View) -> int:
    index = round(view.scan.grid.index_zyx(view.middle_xyz_mm)[0])
    return min(max(index, 0), view.scan.grid.shape_zyx[0] - 1)


def _extent_mm(view: View) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the slice, whose first voxel's centre is the origin."""
    (_, rows, columns), (_, row_mm, column_mm) = view.scan.grid.shape_zyx, view.scan.grid.spacing_zyx_mm
    return -column_mm / 2, (columns - 0.5) * column_mm, (rows - 0.5) * row_mm, -row_mm / 2


def _around_hu(view: View) -> float:
    """The median HU in a slice around the lesion, without the lesion."""
    _, row, column = view.scan.grid.index_zyx(view.middle_xyz_mm)
    _, row_mm, column_mm = view.scan.grid.spacing_zyx_mm
    reach_mm = 0.6 * view.diameter_mm + 8.0
    y, x = np.ogrid[: view.scan.grid.shape_zyx[1], : view.scan.grid.shape_zyx[2]]
    near = np.hypot((y - row) * row_mm, (x - column) * column_mm) < reach_mm
    index = _slice_index(view)
    around = view.scan.hu[index][near & (view.lesions.ids[index] == 0)]
    return float(np.median(around)) if len(around) else 0.0
