"""A picture of synthetic exams: a row for a lesion of each type, a column for each phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longilesion.case import lesion_regions
from longilesion.diagnosis_settings import LESION_TYPES, PHASES, STATEMENT
from longilesion.errors import InputError
from longilesion.evaluation.plot_style import INK, LOOKS
from longilesion.files import check_picture, written_together
from training.synthesis.exam_settings import ExamSettings, MissingShares
from training.synthesis.liver_host import LiverHost
from training.synthesis.phases import SyntheticExam, synthetic_exam
from training.synthesis.real_shapes import RealShape

# Lowest and highest displayed HU, as readers set them for the liver.
_WINDOW_HU = (-40.0, 220.0)
# Width of a picture relative to the lesion, within limits.
_FIELD, _FIELD_MM = 3.0, (70.0, 130.0)
_OUTLINE = LOOKS[5][0]
_CELL_INCHES = 2.1
# Exams drawn until one has a lesion.
_TRIES = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhaseExample:
    """A lesion of an exam, to be shown in a row; the host's name is in its caption."""

    host: str
    exam: SyntheticExam
    lesion_id: int


def find_phase_examples(
    hosts: Sequence[LiverHost], *, count: int, seed: int, shapes: Sequence[RealShape] = ()
) -> list[PhaseExample]:
    """Draws exams from the hosts in turn, with all phases, and chooses the largest lesion of each; types in turn.

    Raises InputError where the livers have no room for lesions.
    """
    examples: list[PhaseExample] = []
    for number in range(count):
        host = hosts[number % len(hosts)]
        lesion_type = LESION_TYPES[number % len(LESION_TYPES)]
        settings = ExamSettings(
            types=(lesion_type,), healthy_share=0.0, second_share=0.0, missing=MissingShares(delayed=0.0)
        )
        generator = np.random.default_rng((seed, number))
        drawn = (synthetic_exam(host, generator, settings, shapes=shapes) for _ in range(_TRIES))
        exam = next((exam for exam in drawn if exam.lesions), None)
        if exam is None:
            raise InputError(f"{host.source.name}: no room for a lesion in the liver; expected another volume")
        largest = max(exam.lesions.values(), key=lambda lesion: lesion.radius_mm)
        examples.append(PhaseExample(host=host.source.name, exam=exam, lesion_id=largest.lesion_id))
    return examples


def draw_phases(examples: Sequence[PhaseExample]) -> Figure:
    """Draws a row per lesion: the venous phase's slice with most of it, in all phases, and outlined at the end."""
    size = _CELL_INCHES * (len(PHASES) + 1) + 0.3, 0.35 + (_CELL_INCHES + 0.25) * len(examples)
    figure = Figure(figsize=size, dpi=110, facecolor="white", layout="constrained")
    grid = figure.add_gridspec(len(examples), len(PHASES) + 1)
    for row, example in enumerate(examples):
        lesion = example.exam.lesions[example.lesion_id]
        cells = [figure.add_subplot(grid[row, column]) for column in range(len(PHASES) + 1)]
        for axes, phase in zip(cells, (*PHASES, "venous"), strict=True):
            _show(axes, example, phase)
        _outline(cells[-1], example)
        caption = f"{lesion.kind.lesion_type}\n{lesion.kind.name}\n{example.host}, {2 * lesion.radius_mm:.0f} mm"
        cells[0].set_ylabel(caption, fontsize=7, color=INK)
    figure.suptitle(STATEMENT, fontsize=8, color=INK)
    return figure


def write_phases(path: Path, examples: Sequence[PhaseExample]) -> None:
    """Writes the picture as PNG; raises InputError where it cannot be written."""
    with written_together({path: check_picture}) as (temporary,):
        draw_phases(examples).savefig(temporary, format="png")


def _show(axes: Axes, example: PhaseExample, phase: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")
    axes.set_title(phase.replace("_", "-"), fontsize=7, loc="left", color=INK)
    scan = {str(each): scan for each, scan in example.exam.phases.items()}.get(phase)
    if scan is None:
        axes.set_title(f"{phase.replace('_', '-')}: missing", fontsize=7, loc="left", color=INK)
        axes.set_box_aspect(1)
        return
    index, y_mm, x_mm = _middle(example)
    _, rows, columns = scan.grid.shape_zyx
    _, row_mm, column_mm = scan.grid.spacing_zyx_mm
    extent = (-column_mm / 2, (columns - 0.5) * column_mm, (rows - 0.5) * row_mm, -row_mm / 2)
    low, high = _WINDOW_HU
    axes.imshow(scan.hu[index], cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    field_mm = float(np.clip(2 * _FIELD * example.exam.lesions[example.lesion_id].radius_mm, *_FIELD_MM))
    axes.set_xlim(x_mm - field_mm / 2, x_mm + field_mm / 2)
    axes.set_ylim(y_mm + field_mm / 2, y_mm - field_mm / 2)


def _outline(axes: Axes, example: PhaseExample) -> None:
    truth = example.exam.truth
    index, _, _ = _middle(example)
    _, row_mm, column_mm = truth.grid.spacing_zyx_mm
    mask = truth.ids[index] > 0
    rows, columns = (np.arange(length) * step for length, step in zip(mask.shape, (row_mm, column_mm), strict=True))
    axes.contour(columns, rows, mask, levels=[0.5], colors=_OUTLINE, linewidths=1.0)
    axes.set_title("truth", fontsize=7, loc="left", color=INK)


def _middle(example: PhaseExample) -> tuple[int, float, float]:
    """The slice with most of the lesion, and its middle there in mm along y and x."""
    truth = example.exam.truth
    region = lesion_regions(truth.ids)[example.lesion_id]
    mask = truth.ids[region.box] == example.lesion_id
    index = int(mask.sum(axis=(1, 2)).argmax())
    z, y, x = (side.start for side in region.box)
    row, column = np.argwhere(mask[index]).mean(axis=0)
    _, row_mm, column_mm = truth.grid.spacing_zyx_mm
    return z + index, float((y + row) * row_mm), float((x + column) * column_mm)
