"""A picture of the lesions that a diagnosis has found: a row per lesion, with its outline in a column per phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longilesion.case import lesion_regions
from longilesion.diagnosis.exam import LiverExam, RegisteredPhases
from longilesion.diagnosis.findings import Diagnosis, TypedLesion
from longilesion.diagnosis.phases import PHASE_NAMES
from longilesion.diagnosis_settings import PHASES, STATEMENT, TYPE_NAMES, LesionType, Phase
from longilesion.geometry import Grid
from longilesion.registered import sample_moved, sample_share
from longilesion.voi import sample_shown

# Liver and lesions in every phase, calcifications too bright.
_WINDOW_HU = (-60.0, 220.0)
_PIXELS = 160
# Length of a panel: the lesion and the liver around it.
_LEAST_MM, _DIAMETERS = 80.0, 2.0

_PAPER, _INK, _FAINT, _OUTLINE = "#14171c", "#e8eaee", "#98a0ab", "#35d07f"
_UNSEEN = "#2b3a4d"
_PANEL_INCHES, _LEFT_INCHES, _GAP_INCHES = 2.1, 1.7, 0.06
_TOP_INCHES, _BOTTOM_INCHES = 0.65, 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plane:
    """A row: an axial plane of the reference scan, the outline's share of its pixels, and what is written beside it."""

    lattice: Grid
    outline: Float32[np.ndarray, "rows columns"]
    label: str


def draw_lesions(exam: LiverExam, phases: RegisteredPhases, found: Diagnosis) -> Figure:
    """Draws every lesion in the axial plane that shows most of it, in all phases registered to the reference.

    Without a lesion, the plane through the middle of what was searched is drawn.
    """
    rows = _planes(found) or [_middle(exam, phases)]
    width = _LEFT_INCHES + len(PHASES) * (_PANEL_INCHES + _GAP_INCHES)
    height = _TOP_INCHES + len(rows) * (_PANEL_INCHES + _GAP_INCHES) + _BOTTOM_INCHES
    figure = Figure(figsize=(width, height), dpi=100, facecolor=_PAPER)
    for number, row in enumerate(rows):
        bottom = height - _TOP_INCHES - number * (_PANEL_INCHES + _GAP_INCHES) - _PANEL_INCHES
        middle = (bottom + _PANEL_INCHES / 2) / height
        figure.text(0.1 / width, middle, row.label, color=_INK, fontsize=9, va="center", linespacing=1.5)
        for column, phase in enumerate(PHASES):
            left = _LEFT_INCHES + column * (_PANEL_INCHES + _GAP_INCHES)
            axes = figure.add_axes(
                (left / width, bottom / height, _PANEL_INCHES / width, _PANEL_INCHES / height), facecolor=_UNSEEN
            )
            axes.set(xticks=[], yticks=[])
            if number == 0:
                axes.set_title(PHASE_NAMES[phase], fontsize=10, color=_INK, pad=5)
            _draw(axes, exam, phases, phase, row)
    figure.text(0.1 / width, 1 - 0.12 / height, _title(found), fontsize=12, color=_INK, va="top")
    footer = f"{_patient(found.patient)}\n{STATEMENT}"
    figure.text(0.1 / width, 0.08 / height, footer, fontsize=8, color=_FAINT, va="bottom", linespacing=1.5)
    return figure


def _planes(found: Diagnosis) -> list[_Plane]:
    ids, lps = found.lesions.grid.lps_view(found.lesions.ids)
    regions = lesion_regions(np.ascontiguousarray(ids))
    planes = []
    for lesion in found.typed:
        region = regions[lesion.lesion_id]
        mask = ids[region.box] == lesion.lesion_id
        at = int(mask.sum(axis=(1, 2)).argmax())
        y, x = np.argwhere(mask[at]).mean(axis=0)
        z_first, y_first, x_first = region.start_zyx
        lattice = _lattice(
            lps,
            (z_first + at, y_first + y, x_first + x),
            length_mm=max(_LEAST_MM, _DIAMETERS * lesion.diameter_mm),
        )
        outline = sample_share(found.lesions.ids == lesion.lesion_id, found.lesions.grid, lattice)[0]
        planes.append(_Plane(lattice=lattice, outline=outline, label=_label(lesion)))
    return planes


def _middle(exam: LiverExam, phases: RegisteredPhases) -> _Plane:
    centre = phases.region.grid.world_xyz_mm(np.argwhere(phases.region.mask).mean(axis=0))
    scan = exam.phases[exam.reference]
    _, lps = scan.grid.lps_view(scan.hu)
    z, y, x = lps.index_zyx(centre)
    return _Plane(
        lattice=_lattice(lps, (round(z), y, x), length_mm=2 * _LEAST_MM),
        outline=np.zeros((_PIXELS, _PIXELS), np.float32),
        label="no lesion\nfound",
    )


def _lattice(lps: Grid, centre_zyx: Sequence[float], *, length_mm: float) -> Grid:
    """A square of one slice around a point of a grid in LPS order."""
    _, *steps_mm = lps.spacing_zyx_mm
    step = np.array([1.0, *(length_mm / _PIXELS / np.array(steps_mm))])
    start = np.array(centre_zyx) - step * [0, (_PIXELS - 1) / 2, (_PIXELS - 1) / 2]
    return lps.lattice(start_zyx=start, step_zyx=step, shape_zyx=(1, _PIXELS, _PIXELS))


def _draw(axes: Axes, exam: LiverExam, phases: RegisteredPhases, phase: Phase, row: _Plane) -> None:
    sampled = _sampled(exam, phases, phase, row.lattice)
    if sampled is None:
        reason = "left out" if phase in exam.phases else "missing"
        axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", color=_FAINT, fontsize=10)
        return
    axes.imshow(sampled, cmap="gray", vmin=_WINDOW_HU[0], vmax=_WINDOW_HU[1], interpolation="bilinear")
    if row.outline.min() < 0.5 <= row.outline.max():
        axes.contour(row.outline, levels=[0.5], colors=[_OUTLINE], linewidths=1.0)


def _sampled(
    exam: LiverExam, phases: RegisteredPhases, phase: Phase, lattice: Grid
) -> Float32[np.ndarray, "rows columns"] | None:
    """A phase in a plane of the reference, NaN beyond what it shows; None where it is missing or left out."""
    if phase == exam.reference:
        hu, shown = sample_shown(exam.phases[phase], lattice)
    elif phase in phases.registrations:
        moved = sample_moved(exam.phases[phase], phases.registrations[phase], lattice)
        if moved is None:
            return np.full(lattice.shape_zyx[1:], np.nan, np.float32)
        hu, shown = moved
    else:
        return None
    return np.asarray(np.where(shown, hu, np.nan)[0], np.float32)


def _label(lesion: TypedLesion) -> str:
    likeliest = sorted(lesion.probabilities.items(), key=lambda each: -each[1])[:3]
    types = "\n".join(f"{TYPE_NAMES[name]} {probability:.2f}" for name, probability in likeliest)
    return f"lesion {lesion.lesion_id}\n{types}\n{lesion.diameter_mm:.0f} mm, score {lesion.score:.2f}"


def _title(found: Diagnosis) -> str:
    count = len(found.typed)
    return f"{count or 'No'} liver lesion{'' if count == 1 else 's'} found"


def _patient(patient: Mapping[LesionType, float]) -> str:
    likeliest = sorted(patient.items(), key=lambda each: -each[1])
    return "Patient: " + ", ".join(f"{TYPE_NAMES[name]} {probability:.2f}" for name, probability in likeliest)
