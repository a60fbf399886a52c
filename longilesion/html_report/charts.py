"""Charts of a course as SVG: every lesion's diameter over time, and the change of all of them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longilesion.course import CourseRecord, LesionRecord
from longilesion.response import PARTIAL_RESPONSE, PROGRESSION

_INK, _FAINT, _LINE = "#1b1f24", "#8a939e", "#0b5fa5"
_FEWEST_BARS = 6
_MARKERS = "os^vDPX*<>"


def times_of(course: CourseRecord) -> tuple[list[float], list[str], str]:
    """The places of the time points on an axis, their labels, and its name: days, if all are known and differ."""
    days = [point.on for point in course.time_points]
    known = [day for day in days if day is not None]
    if len(set(known)) == len(days):
        return [float((day - known[0]).days) for day in known], [str((day - known[0]).days) for day in known], "days"
    numbers = [float(point.number) for point in course.time_points]
    return numbers, [str(point.number) for point in course.time_points], "scan"


def curve(course: CourseRecord, lesion_id: int) -> str:
    """The longest diameter and the volume of a lesion over time."""
    places, labels, name = times_of(course)
    rows = course.of(lesion_id)
    figure = Figure(figsize=(2.6, 1.7))
    axes = figure.add_axes((0.2, 0.26, 0.6, 0.62))
    shown = [(at, row) for at, row in zip(places, rows, strict=True) if row is not None and not row.is_outside]
    axes.errorbar(
        [at for at, _ in shown],
        [row.longest_mm for _, row in shown],
        yerr=[row.error_mm or 0.0 for _, row in shown],
        fmt="o-",
        color=_LINE,
        elinewidth=0.8,
        capsize=2,
        label="mm",
    )
    other = axes.twinx()
    other.plot([at for at, _ in shown], [row.volume_ml for _, row in shown], "s--", color=_FAINT, label="ml")
    for each, text, colour in ((axes, "diameter, mm", _LINE), (other, "volume, ml", _FAINT)):
        # Room for the marker of the largest value.
        each.set_ylim(0, 1.08 * each.get_ylim()[1])
        each.set_ylabel(text, fontsize=7, color=colour)
        each.tick_params(labelsize=7)
        each.spines[["top"]].set_visible(False)
    axes.set_xticks(places, labels, fontsize=7)
    axes.set_xlabel(name, fontsize=7)
    return _svg(figure)


def waterfall(course: CourseRecord) -> str | None:
    """The change of each lesion's diameter from the first to the last time point, the largest growth first."""
    changes = []
    for lesion_id in course.lesion_ids:
        rows = [row for row in course.of(lesion_id) if row is not None and not row.is_outside]
        if _is_followed(rows) and rows[-1].merged_into is None:
            changes.append((lesion_id, 100 * (rows[-1].longest_mm / rows[0].longest_mm - 1)))
    if not changes:
        return None
    changes.sort(key=lambda each: -each[1])
    figure = Figure(figsize=(5.6, 2.8))
    axes = figure.add_axes((0.11, 0.16, 0.87, 0.78))
    bars = axes.bar(range(len(changes)), [change for _, change in changes], color=_LINE, edgecolor=_INK)
    for bar, (lesion_id, _) in zip(bars, changes, strict=True):
        if lesion_id in course.targets:
            bar.set_hatch("//")
    _limits(axes)
    # One lesion is no wall.
    axes.set_xlim(-0.6, max(len(changes), _FEWEST_BARS) - 0.4)
    axes.set_xticks(range(len(changes)), [str(lesion_id) for lesion_id, _ in changes], fontsize=8)
    axes.set_xlabel("lesion (hatched: target)", fontsize=8)
    axes.set_ylabel("change of diameter, %", fontsize=8)
    return _svg(figure)


def spider(course: CourseRecord) -> str | None:
    """The change of each lesion's diameter from its first time point, over time."""
    places, labels, name = times_of(course)
    figure = Figure(figsize=(5.6, 2.8))
    axes = figure.add_axes((0.11, 0.16, 0.66, 0.78))
    is_empty = True
    for number, lesion_id in enumerate(course.lesion_ids):
        rows = [
            (at, row)
            for at, row in zip(places, course.of(lesion_id), strict=True)
            if row is not None and not row.is_outside and row.merged_into is None
        ]
        if not _is_followed([row for _, row in rows]):
            continue
        is_empty = False
        first = rows[0][1].longest_mm
        axes.plot(
            [at for at, _ in rows],
            [100 * (row.longest_mm / first - 1) for _, row in rows],
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle="-" if lesion_id in course.targets else "--",
            markersize=5,
            linewidth=1.2,
            label=str(lesion_id),
        )
    if is_empty:
        return None
    _limits(axes)
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_xlabel(name, fontsize=8)
    axes.set_ylabel("change of diameter, %", fontsize=8)
    axes.legend(title="lesion", fontsize=7, title_fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.02), ncols=2)
    return _svg(figure)


def _is_followed(rows: Sequence[LesionRecord]) -> bool:
    """Whether a change can be given: two sizes or more, from the first one on; candidates are nobody's lesions."""
    return len(rows) > 1 and rows[0].longest_mm > 0 and not rows[-1].is_candidate


def _limits(axes: Axes) -> None:
    """RECIST's limits of the sum, for orientation."""
    for limit in (100 * PROGRESSION, 100 * PARTIAL_RESPONSE):
        axes.axhline(limit, color=_FAINT, linestyle=":", linewidth=1)
    axes.axhline(0, color=_INK, linewidth=0.8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    """The figure as an element of a page: text as text, no identifiers that two figures could share."""
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "longilesion", "font.family": "sans-serif"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
