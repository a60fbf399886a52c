"""The picture of a diagnosis: rows of lesions, columns of phases, outlines, and what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longilesion.case import LesionMap, Scan
from longilesion.diagnosis import registration
from longilesion.diagnosis.exam import LiverExam
from longilesion.diagnosis.findings import Diagnosis, TypedLesion
from longilesion.diagnosis.picture import draw_lesions
from longilesion.diagnosis.registration import register_phases
from longilesion.diagnosis_settings import LESION_TYPES, STATEMENT
from longilesion.geometry import Grid
from test.unit.builders import ball
from test.unit.diagnosis_builders import block_scan, diagnosis_settings, in_place

FIRST, SECOND = (0.0, -16.0, 130.0), (10.0, -2.0, 145.0)
VENOUS = block_scan({FIRST: 150, SECOND: -20})
OTHER = Grid.from_spacing((30, 34, 36), (2.5, 2.0, 2.0), origin_xyz_mm=(-33.0, -41.0, 98.0))
ARTERIAL = block_scan({FIRST: 250, SECOND: -30}, grid=OTHER, seed=1)


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "register_scans", in_place)
    monkeypatch.setattr(registration, "trust_in", lambda *_: 1.0)


def exam() -> LiverExam:
    venous = Scan(hu=VENOUS.hu, grid=VENOUS.grid, organ=ball(VENOUS.grid, VENOUS.grid.centre_xyz_mm, 24.0))
    return LiverExam(phases={"arterial": ARTERIAL, "venous": venous, "delayed": ARTERIAL}, reference="venous")


def diagnosis(*places: tuple[float, float, float]) -> Diagnosis:
    ids = np.zeros(VENOUS.grid.shape_zyx, np.uint16)
    typed = []
    for number, place in enumerate(places, 1):
        ids[ball(VENOUS.grid, place, 8.0)] = number
        probabilities = dict.fromkeys(LESION_TYPES, 0.01) | {"fnh": 0.93}
        typed.append(
            TypedLesion(lesion_id=number, probabilities=probabilities, score=0.8, volume_ml=2.0, diameter_mm=16.0)
        )
    none = dict.fromkeys(LESION_TYPES, 0.25)
    return Diagnosis(lesions=LesionMap(ids=ids, grid=VENOUS.grid), typed=tuple(typed), patient=none, by_volume=none)


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def shown(axes: Axes) -> str:
    return "\n".join(text.get_text() for text in axes.texts)


def test_a_row_per_lesion_and_a_column_per_phase() -> None:
    settings = diagnosis_settings(phases=("non_contrast", "arterial", "venous"))
    phases = register_phases(exam(), settings)
    figure = draw_lesions(exam(), phases, diagnosis(FIRST, SECOND))
    assert len(figure.axes) == 8
    assert [axes.get_title() for axes in figure.axes[:4]] == ["non-contrast", "arterial", "venous", "delayed"]
    for row, values in enumerate(((250, 150), (-30, -20))):
        missing, arterial, venous, delayed = figure.axes[4 * row : 4 * row + 4]
        assert (shown(missing), shown(delayed)) == ("missing", "left out")
        for axes, value in zip((arterial, venous), values, strict=True):
            (image,) = axes.images
            pixels = np.asarray(image.get_array())
            # The lesion in the middle, of its phase's value, and the outline around it.
            assert np.nanmedian(pixels[72:88, 72:88]) == pytest.approx(value, abs=8)
            (contour,) = axes.collections
            (low, high) = (bound(contour.get_paths()[0].vertices, axis=0) for bound in (np.min, np.max))
            np.testing.assert_allclose((low + high) / 2, [79.5, 79.5], atol=4)
            np.testing.assert_allclose((high - low) * 80 / 160, [16, 16], atol=2.5)
    said = texts(figure)
    for text in ("2 liver lesions found", "lesion 1\nFNH 0.93", "16 mm, score 0.80", "Patient: HCC 0.25", STATEMENT):
        assert text in said


def test_without_a_lesion_the_liver_is_drawn() -> None:
    phases = register_phases(exam(), diagnosis_settings())
    figure = draw_lesions(exam(), phases, diagnosis())
    assert len(figure.axes) == 4
    assert "No liver lesions found" in texts(figure)
    assert STATEMENT in texts(figure)
    assert len(figure.axes[2].images) == 1
    assert not figure.axes[2].collections
