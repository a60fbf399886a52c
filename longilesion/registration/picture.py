"""A picture for visual verification of a registration: three planes of both scans, side by side and superimposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float32, Float64
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import AbstractPathEffect, withStroke

from longilesion.case import LOW_CONFIDENCE, LesionPrompt, OutsideLesion, Scan
from longilesion.registration.planes import PIXEL_MM, Frame, Plane, View, is_inside, sample_plane
from longilesion.registration.reduction import ReducedScan, transformed
from longilesion.registration.result import Registration

Lesion: TypeAlias = LesionPrompt | OutsideLesion

_SQUARE_MM = 32.0
# Lesions this close to a plane are marked in it.
_RING_REACH_MM = 5.0

_PAPER, _INK, _FAINT = "#14171c", "#e8eaee", "#98a0ab"
# Complementary: where both scans are equal, they add up to grey.
_BEFORE, _AFTER = "#ff8000", "#007fff"
_UNSEEN = "#2b3a4d"
_RING, _LOW_RING = "#35d07f", "#ff4fa3"
_RING_LOOK: Mapping[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "markersize": 9,
    "markerfacecolor": "none",
    "markeredgewidth": 1.3,
}
_HALO: list[AbstractPathEffect] = [withStroke(linewidth=1.8, foreground="black")]

_COLUMN_INCHES, _ROW_INCHES, _GAP_INCHES = 3.2, (0.7, 4.8), 0.06
_LEFT_INCHES, _TOP_INCHES, _BOTTOM_INCHES = 0.3, 0.88, 0.42


# Radiological convention: the patient is seen from the feet, from the front, from the left.
_VIEWS = (
    View(name="axial", across=2, right=0, height=1, left_right=("R", "L"), bottom_top=("P", "A")),
    View(name="coronal", across=1, right=0, height=2, left_right=("R", "L"), bottom_top=("F", "H")),
    View(name="sagittal", across=0, right=1, height=2, left_right=("A", "P"), bottom_top=("F", "H")),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Mark:
    """A lesion's position in the baseline's local frame; `is_propagated` is true if it has one in the follow-up."""

    lesion_id: int
    xyz_mm: Float64[np.ndarray, "3"]
    confidence: float
    is_propagated: bool


def draw_registration(
    registration: Registration, baseline: Scan, followup: Scan, lesions: Sequence[Lesion] = ()
) -> Figure:
    """Draws an axial, a coronal and a sagittal plane of both scans, the follow-up resampled to the baseline.

    The planes go through the propagated lesion of lowest confidence, or where there is none through the middle of the
    part that both scans show. Lesions are drawn at their baseline clicks, which lie in this baseline scan.
    """
    marks = _marks(registration.baseline, lesions)
    place, where = _telling_place(registration, followup, marks)
    frame = _frame(registration.baseline, place, baseline)
    sizes = [frame.size_mm(view) for view in _VIEWS]
    inches_per_mm = _COLUMN_INCHES / max(width for width, _ in sizes)
    heights = [float(np.clip(height * inches_per_mm, *_ROW_INCHES)) for _, height in sizes]
    figure, panels = _panels(heights)
    for view, row in zip(_VIEWS, panels, strict=True):
        plane = sample_plane(view, frame, registration, (baseline, followup))
        images = _grey(plane.before), _grey(plane.after), _checkerboard(plane), _overlay(plane)
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, extent=frame.extent_mm(view), interpolation="bilinear")
            axes.set_axis_off()
            _mark_lesions(axes, view, frame, marks)
        _name(row[0], view, height_mm=frame.size_mm(view)[1])
    for axes, title in zip(panels[0], ("baseline", "follow-up, registered", "checkerboard", "overlay"), strict=True):
        axes.set_title(title, fontsize=10, color=_INK, pad=5)
    found = f"Registration: {registration.stage}, similarity {registration.overall_similarity:.2f}"
    _write_around(figure, found, f"Planes through {where}", has_lesions=bool(marks))
    return figure


def _marks(scan: ReducedScan, lesions: Sequence[Lesion]) -> list[_Mark]:
    return [
        _Mark(
            lesion_id=lesion.lesion_id,
            xyz_mm=transformed(scan.local_from_world, np.array([lesion.baseline.point_xyz_mm]))[0],
            confidence=lesion.confidence,
            is_propagated=isinstance(lesion, LesionPrompt),
        )
        for lesion in lesions
        if lesion.baseline is not None
    ]


def _telling_place(
    registration: Registration, followup: Scan, marks: Sequence[_Mark]
) -> tuple[Float64[np.ndarray, "3"], str]:
    """The position that the planes go through, in the baseline's local frame, and its description."""
    propagated = [mark for mark in marks if mark.is_propagated]
    if propagated:
        mark = min(propagated, key=lambda each: each.confidence)
        least = ", the least certain one" if len(propagated) > 1 else ""
        return mark.xyz_mm, f"lesion {mark.lesion_id}{least} (confidence {mark.confidence:.2f})"
    scan = registration.baseline
    body = np.argwhere(scan.body)[:, ::-1] * scan.spacing_mm
    world = transformed(np.linalg.inv(scan.local_from_world), body)
    shown = is_inside(followup, registration.followup_xyz_mm(world))
    if shown.any():
        return np.asarray(body[shown].mean(axis=0)), "the middle of what both scans show"
    return np.asarray(body.mean(axis=0)), "the middle of the baseline: the follow-up shows none of it"


def _frame(scan: ReducedScan, place_xyz_mm: Float64[np.ndarray, "3"], baseline: Scan) -> Frame:
    """The box around the body, extended to the position of the planes, and limited to the scan."""
    low, high = -scan.spacing_mm / 2, (np.array(scan.hu.shape[::-1]) - 0.5) * scan.spacing_mm
    reach = 2 * _RING_REACH_MM
    _, grid = baseline.grid.lps_view(baseline.hu)
    corners = [grid.world_xyz_mm(index) for index in ((-0.5, -0.5, -0.5), np.array(grid.shape_zyx) - 0.5)]
    first, last = transformed(scan.local_from_world, np.array(corners))
    return Frame(
        low_xyz_mm=np.maximum(first, np.minimum(low, place_xyz_mm - reach)),
        high_xyz_mm=np.minimum(last, np.maximum(high, place_xyz_mm + reach)),
        place_xyz_mm=place_xyz_mm,
    )


# ------------------------------------------------------------------------------------------------------------ images


def _grey(intensities: Float32[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "rows columns 3"]:
    return _with_unseen(np.repeat(intensities[..., None], 3, axis=-1))


def _checkerboard(plane: Plane) -> Float32[np.ndarray, "rows columns 3"]:
    """Alternating squares of both scans: where they are aligned, edges continue from square to square."""
    row, column = (np.arange(length) * PIXEL_MM // _SQUARE_MM for length in plane.before.shape)
    squares = np.where((row[:, None] + column) % 2 == 0, plane.before, plane.after)
    return _grey(np.where(np.isnan(plane.before + plane.after), np.float32(np.nan), squares))


def _overlay(plane: Plane) -> Float32[np.ndarray, "rows columns 3"]:
    """Both scans in complementary colours, added."""
    before, after = (np.array(to_rgb(color), np.float32) for color in (_BEFORE, _AFTER))
    return _with_unseen(np.clip(plane.before[..., None] * before + plane.after[..., None] * after, 0.0, 1.0))


def _with_unseen(rgb: Float32[np.ndarray, "rows columns 3"]) -> Float32[np.ndarray, "rows columns 3"]:
    return np.where(np.isnan(rgb), np.array(to_rgb(_UNSEEN), np.float32), rgb)


# ----------------------------------------------------------------------------------------------------------- drawing


def _panels(row_inches: Sequence[float]) -> tuple[Figure, list[list[Axes]]]:
    """A figure with four panels per row, of given heights."""
    gaps = _GAP_INCHES * (len(row_inches) - 1)
    width = _LEFT_INCHES + 4 * _COLUMN_INCHES + 3 * _GAP_INCHES + _GAP_INCHES
    height = _TOP_INCHES + sum(row_inches) + gaps + _BOTTOM_INCHES
    figure = Figure(figsize=(width, height), dpi=120, facecolor=_PAPER)
    grid = figure.add_gridspec(
        len(row_inches),
        4,
        height_ratios=row_inches,
        left=_LEFT_INCHES / width,
        right=1 - _GAP_INCHES / width,
        top=1 - _TOP_INCHES / height,
        bottom=_BOTTOM_INCHES / height,
        wspace=_GAP_INCHES / _COLUMN_INCHES,
        hspace=_GAP_INCHES / (sum(row_inches) / len(row_inches)),
    )
    return figure, [[figure.add_subplot(grid[row, column]) for column in range(4)] for row in range(len(row_inches))]


def _mark_lesions(axes: Axes, view: View, frame: Frame, marks: Sequence[_Mark]) -> None:
    """Draws rings, with ids, around the lesions near the plane."""
    for mark in marks:
        if abs(mark.xyz_mm[view.across] - frame.place_xyz_mm[view.across]) > _RING_REACH_MM:
            continue
        place = float(mark.xyz_mm[view.right]), float(mark.xyz_mm[view.height])
        color = _LOW_RING if mark.confidence < LOW_CONFIDENCE else _RING
        axes.plot(*place, color=color, **_RING_LOOK)
        axes.annotate(
            str(mark.lesion_id),
            place,
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
            color=color,
            path_effects=_HALO,
            annotation_clip=True,
        )


def _name(axes: Axes, view: View, *, height_mm: float) -> None:
    """Labels the row's plane, and the panel's edges with the patient's sides."""
    cell = axes.get_position(original=True)
    middle = (cell.y0 + cell.y1) / 2
    axes.figure.text(cell.x0 / 2, middle, view.name, rotation=90, ha="center", va="center", fontsize=10, color=_INK)
    (left, right), (bottom, top) = view.left_right, view.bottom_top
    sides = [(left, 0.02, 0.5, "left", "center"), (right, 0.98, 0.5, "right", "center")]
    # In a plane across a few slices the labels would overlap.
    if height_mm > _SQUARE_MM:
        sides += [(bottom, 0.5, 0.02, "center", "bottom"), (top, 0.5, 0.98, "center", "top")]
    for letter, x, y, horizontal, vertical in sides:
        text = axes.text(x, y, letter, transform=axes.transAxes, ha=horizontal, va=vertical, fontsize=9, color=_INK)
        text.set_path_effects(_HALO)


def _write_around(figure: Figure, title: str, subtitle: str, *, has_lesions: bool) -> None:
    width, height = figure.get_size_inches()
    left = _LEFT_INCHES / width
    figure.text(left, 1 - 0.12 / height, title, fontsize=13, color=_INK, va="top")
    figure.text(left, 1 - 0.39 / height, subtitle, fontsize=10, color=_FAINT, va="top")
    handles: list[Line2D | Patch] = [
        Patch(facecolor=_BEFORE, label="overlay: higher HU in the baseline"),
        Patch(facecolor=_AFTER, label="overlay: higher HU in the follow-up"),
        Patch(facecolor=_UNSEEN, edgecolor=_FAINT, linewidth=0.5, label="not in the field of view"),
    ]
    if has_lesions:
        near = f"lesion within {_RING_REACH_MM:g} mm of the plane"
        handles += [
            Line2D([], [], color=_RING, label=near, **_RING_LOOK),
            Line2D([], [], color=_LOW_RING, label=f"of confidence below {LOW_CONFIDENCE:g}", **_RING_LOOK),
        ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(left, 0.0),
        borderaxespad=0.6,
        ncols=len(handles),
        frameon=False,
        labelcolor=_INK,
        fontsize=9,
        handlelength=1.4,
        columnspacing=1.8,
    )
