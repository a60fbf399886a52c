"""Dice against the clicks' error, on pairs of a small source: with oracles, and by the command."""

import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import click_errors
from benchmarks.click_errors import draw_curves, estimates, score_errors
from longilesion.case import Case, Click, LesionMap
from longilesion.evaluation.exam import Prediction
from test.unit.synthetic import pair
from training.synthesis.pairs import SyntheticPair

ERRORS_MM = (3.0, 10.0)
SEEDS = (1, 3)


def pairs() -> Iterator[tuple[str, SyntheticPair]]:
    for seed in SEEDS:
        yield f"block/{seed}", pair(seed)


def offsets_xyz_mm(case: Case, drawn: SyntheticPair) -> NDArray[np.float64]:
    """The follow-up clicks, relative to their exact positions."""

    def points(clicks: list[Click | None]) -> list[tuple[float, float, float]]:
        return [click.point_xyz_mm for click in clicks if click is not None]

    given, exact = ([each.followup for each in clicks] for clicks in (case.clicks, drawn.exact_clicks))
    return np.subtract(points(given), points(exact))


def true_where_near(case: Case) -> Prediction:
    """The true outline where the click is off by less than 5 mm, and one of a gone lesion where it is off by more."""
    drawn = next(each for _, each in pairs() if each.truth.grid is case.followups["primary"].grid)
    ids = np.zeros_like(drawn.truth.ids)
    for clicks, offset in zip(case.clicks, offsets_xyz_mm(case, drawn), strict=True):
        is_near, is_gone = np.linalg.norm(offset) < 5.0, drawn.facts[clicks.lesion_id].fate == "gone"
        if is_near and not is_gone:
            ids[drawn.truth.ids == clicks.lesion_id] = clicks.lesion_id
        elif is_gone and not is_near:
            ids[0, 0, clicks.lesion_id] = clicks.lesion_id
    return Prediction(maps={"primary": LesionMap(ids=ids, grid=drawn.truth.grid)}, presence={}, merged_into={})


def test_all_clicks_are_off_by_the_error_in_the_same_direction_for_every_error() -> None:
    seen: list[Case] = []

    def watch(case: Case) -> Prediction:
        seen.append(case)
        return true_where_near(case)

    score_errors([("block/1", pair(1))], {"watch": watch}, ERRORS_MM, seed=0)
    offsets = [offsets_xyz_mm(case, pair(1)) for case in seen]
    for error_mm, own in zip(ERRORS_MM, offsets, strict=True):
        np.testing.assert_allclose(np.linalg.norm(own, axis=1), error_mm, atol=1e-6)
        np.testing.assert_allclose(own / error_mm, offsets[-1] / ERRORS_MM[-1], atol=1e-6)
    for case in seen:
        assert [each.baseline for each in case.clicks] == [each.baseline for each in pair(1).case.clicks]
    assert len({tuple(direction) for direction in offsets[-1].round(3)}) == len(pair(1).facts)


def test_curve_falls_where_the_method_fails() -> None:
    found = estimates(score_errors(pairs(), {"near": true_where_near}, ERRORS_MM, seed=0))
    counts = {fate: sum(fact.fate == fate for _, each in pairs() for fact in each.facts.values()) for fate in found}
    assert min(counts.values()) > 0
    for fate, by_method in found.items():
        for error_mm, estimate in by_method["near"].items():
            assert estimate.value == (1.0 if error_mm < 5.0 else 0.0)
            assert estimate.count == counts[fate]
    figure = draw_curves(found)
    assert [axes.get_title(loc="left").split(":")[0] for axes in figure.axes] == ["persists", "new", "gone"]
    for axes in figure.axes:
        np.testing.assert_array_equal(axes.lines[0].get_xdata(), ERRORS_MM)
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1.0, 0.0])


def test_command_prints_and_plots_the_model_beside_naive_methods(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "curve.png"
    monkeypatch.setattr(click_errors, "held_out_sources", lambda data, recipe: ())
    monkeypatch.setattr(click_errors, "whole_pairs", lambda sources, recipe, *, cases, seed: [("block/1", pair(1))])
    arguments = ["--model", str(bundle), "--cases", "1", "--errors-mm", "20", "0", "--output", str(picture)]
    monkeypatch.setattr(sys, "argv", ["click_errors", *arguments])
    assert click_errors.main() == 0
    printed = capsys.readouterr().out
    for name in ("paste baseline", "region growing", "persists: Dice of", "new: Dice of", "gone: share recognised of"):
        assert name in printed
    assert matplotlib.image.imread(picture).std() > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "curve.pdf"], "curve.pdf: not a picture; expected a name that ends with .png"),
        (["--cases", "0"], "--cases 0: expected a number from 1 on"),
        (["--errors-mm", "-3"], "--errors-mm -3.0: expected distances from 0 mm on"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_unusable_arguments_are_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["click_errors", *arguments])
    assert click_errors.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
