from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.text import Text

from longilesion.evaluation.bootstrap import Bootstrap
from longilesion.evaluation.challenge import ChallengeScore
from longilesion.evaluation.detection import ExamLesions
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.plots import draw_plots
from longilesion.evaluation.scoring import ExamScore
from longilesion.evaluation.summary import Evaluation, summarise

NOTHING = ExamLesions(
    true_mm=np.empty(0),
    true_ml=np.empty(0),
    predicted_mm=np.empty(0),
    predicted_ml=np.empty(0),
    confidence=np.empty(0),
    iou=np.empty((0, 0)),
)


def lesion(dice: float | None = 0.8, **changes: object) -> LesionScore:
    """A lesion that persists, or one that is gone where there is no Dice."""
    is_there = dice is not None
    facts = {
        "exam": "anna",
        "scan": "followup",
        "lesion_id": 1,
        "true_id": 1 if is_there else None,
        "fate": "persists" if is_there else "gone",
        "predicted_fate": None,
        "lesion_type": None,
        "is_target": None,
        "diameter_mm": 12.0,
        "click_error_mm": None,
        "presence": None,
        "baseline_volume_ml": None,
        "baseline_diameter_mm": None,
        "true_volume_ml": 1.0 if is_there else 0.0,
        "predicted_volume_ml": 1.0 if is_there else 0.0,
        "true_diameter_mm": 12.0 if is_there else 0.0,
        "predicted_diameter_mm": 12.0 if is_there else 0.0,
        "dice": dice,
    }
    return LesionScore(**{**facts, **changes})


def evaluation(lesions: Sequence[LesionScore], name: str = "ours") -> Evaluation:
    exams = dict.fromkeys(row.exam for row in lesions) or ["anna"]
    scores = [
        ExamScore(
            exam=exam,
            challenge=ChallengeScore(dice=np.nan, false_positive_ml=np.nan, false_negative_ml=np.nan, entries=0),
            lesions=tuple(row for row in lesions if row.exam == exam),
            detection=NOTHING,
            missing=(),
            unknown_labels=0,
            extra_ml=0.0,
            has_baseline=False,
        )
        for exam in exams
    ]
    return summarise(name, scores, Bootstrap(len(scores), draws=20, seed=0))


def detection(confidence: Sequence[float], iou: Sequence[Sequence[float]]) -> ExamLesions:
    """Lesions and predictions of 10 mm, a row of overlaps per lesion."""
    overlaps = np.array(iou, np.float64).reshape(len(iou), len(confidence))
    true, predicted = overlaps.shape
    return ExamLesions(
        true_mm=np.full(true, 10.0),
        true_ml=np.full(true, 0.5),
        predicted_mm=np.full(predicted, 10.0),
        predicted_ml=np.full(predicted, 0.5),
        confidence=np.array(confidence, np.float64),
        iou=overlaps,
    )


def drawn(*evaluations: Evaluation, exams: Sequence[ExamLesions] = (NOTHING,)) -> dict[str, Figure]:
    return draw_plots(evaluations, {each.name: exams for each in evaluations})


def saved(*evaluations: Evaluation, exams: Sequence[ExamLesions] = (NOTHING,)) -> dict[str, Figure]:
    figures = drawn(*evaluations, exams=exams)
    for figure in figures.values():
        figure.savefig(BytesIO(), dpi=40)
    return figures


def lines(axes: Axes, label: str) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_label() == label]


def line(axes: Axes, label: str) -> Line2D:
    (found,) = lines(axes, label)
    return found


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def some_lesions(count: int, *, seed: int = 0, sure: bool = True) -> list[LesionScore]:
    """Lesions of several patients, every fifth gone."""
    generator = np.random.default_rng(seed)
    return [
        lesion(
            None if place % 5 == 0 else float(generator.uniform()),
            exam=f"patient {place // 6}",
            lesion_type=("lung", "liver")[place % 2],
            diameter_mm=float(size),
            true_diameter_mm=float(size),
            click_error_mm=float(generator.uniform(0.0, 20.0)),
            predicted_volume_ml=float(generator.uniform(0.5, 2.0)),
            presence=float(generator.uniform()) if sure else None,
        )
        for place, size in enumerate(generator.uniform(3.0, 60.0, count))
    ]


def methods(count: int, *, lesions: int = 30) -> list[Evaluation]:
    return [evaluation(some_lesions(lesions, seed=place), f"method {place}") for place in range(count)]


def test_gone_lesions_are_not_in_the_dice_plot() -> None:
    rows = [lesion(0.7, true_diameter_mm=8.0), lesion(None, diameter_mm=20.0), lesion(0.9, true_diameter_mm=30.0)]
    figure = drawn(evaluation(rows))["dice_by_diameter"]
    dots = line(figure.axes[0], "ours")
    assert dots.get_xdata().tolist() == [8.0, 30.0]
    assert dots.get_ydata().tolist() == [0.7, 0.9]
    assert figure.axes[0].get_xscale() == "log"
    assert title(figure).endswith("2 lesions of 1 exam")


@pytest.mark.parametrize(("count", "has_line"), [(19, False), (20, True)])
def test_median_runs_through_twenty_lesions_but_not_through_fewer(count: int, has_line: bool) -> None:
    rows = [lesion(place / 100, true_diameter_mm=100.0 - place) for place in range(count)]
    figure = drawn(evaluation(rows))["dice_by_diameter"]
    found = lines(figure.axes[0], "ours, median")
    assert len(found) == has_line
    assert ("running medians" in title(figure)) == has_line
    if has_line:
        # Nine of twenty lesions at a time; the smallest have the highest Dice.
        assert found[0].get_xdata().tolist() == [85.0 + step for step in range(12)]
        np.testing.assert_allclose(found[0].get_ydata(), [0.15 - step / 100 for step in range(12)])


def test_limits_lie_two_standard_deviations_around_the_bias() -> None:
    volumes = [(1.0, 2.0), (4.0, 3.0), (10.0, 13.0)]
    rows = [lesion(true_volume_ml=true, predicted_volume_ml=predicted) for true, predicted in volumes]
    gone = lesion(None, predicted_volume_ml=50.0)
    (axes,) = drawn(evaluation([*rows, gone]))["volume_bland_altman"].axes
    assert line(axes, "ours").get_xdata().tolist() == [1.5, 3.5, 11.5]
    assert line(axes, "ours").get_ydata().tolist() == [1.0, -1.0, 3.0]
    assert line(axes, "bias").get_ydata() == pytest.approx([1.0, 1.0])
    # The differences lie 0, -2 and 2 ml from their mean.
    assert [limit.get_ydata()[0] for limit in lines(axes, "limit")] == pytest.approx([1 - 3.92, 1 + 3.92])
    assert axes.get_title("left") == "ours\n3 lesions, bias +1.00 (-2.92 to +4.92) ml"


def test_single_lesion_has_a_bias_but_no_limits() -> None:
    (axes,) = drawn(evaluation([lesion(predicted_volume_ml=1.5)]))["volume_bland_altman"].axes
    assert line(axes, "bias").get_ydata() == [0.5, 0.5]
    assert not lines(axes, "limit")
    assert axes.get_title("left") == "ours\n1 lesion, bias +0.50 ml"


def test_lesion_of_no_volume_is_shown_at_zero() -> None:
    rows = [lesion(true_volume_ml=0.0, predicted_volume_ml=0.0), lesion(predicted_volume_ml=3.0)]
    (axes,) = drawn(evaluation(rows))["volume_bland_altman"].axes
    assert axes.get_xscale() == "symlog"
    assert axes.get_xlim()[0] <= 0.0 < 2.0 < axes.get_xlim()[1]


def test_every_volume_lies_within_the_axes_that_panels_share() -> None:
    rows = [lesion(true_volume_ml=200.0, predicted_volume_ml=8.0), lesion(true_volume_ml=0.01)]
    panels = drawn(evaluation([lesion()]), evaluation(rows, "theirs"))["volume_bland_altman"].axes
    for axes in panels:
        assert axes.get_ylim() == panels[0].get_ylim()
        assert axes.get_ylim()[0] < -192.0
        assert axes.get_xlim()[0] < 0.505 < 104.0 < axes.get_xlim()[1]


def test_free_response_curve_climbs_with_every_lesion_found() -> None:
    # Four lesions in two exams. Surest first: found, wrong, wrong (it overlaps too little), found.
    exams = [
        detection([0.9, 0.8, 0.6], [[0.5, 0.0, 0.0], [0.0, 0.0, 0.3]]),
        detection([0.7], [[0.05], [0.0]]),
    ]
    figure = drawn(evaluation([lesion()]), exams=exams)["froc"]
    steps = line(figure.axes[0], "ours")
    assert steps.get_drawstyle() == "steps-post"
    assert steps.get_xdata().tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    assert steps.get_ydata().tolist() == [0.0, 0.25, 0.25, 0.25, 0.5, 0.5]
    rates = line(figure.axes[0], "ours, at rates")
    assert list(rates.get_xdata()) == [0.2, 0.5]
    assert list(rates.get_ydata()) == [0.25, 0.25]
    assert "4 lesions of 2 exams;" in title(figure)


def test_free_response_curve_goes_on_level_after_the_last_prediction() -> None:
    exams = [detection([1.0, 1.0], [[0.9, 0.0]])] + 3 * [detection([1.0], [[0.9]])]
    axes = drawn(evaluation([lesion()]), exams=exams)["froc"].axes[0]
    assert line(axes, "ours").get_xdata().tolist() == [0.0, 0.25, 1.0]
    assert line(axes, "ours").get_ydata().tolist() == [0.0, 1.0, 1.0]
    assert list(line(axes, "ours, at rates").get_ydata()) == [0.0, 1.0]
    assert (line(axes, "all predictions").get_xdata(), line(axes, "all predictions").get_ydata()) == ([0.25], [1.0])
    assert axes.get_xlim() == (0.0, 1.0)


@pytest.mark.parametrize(("wrong", "reach"), [(3, 3.0), (100, 8.0)])
def test_axis_of_false_positives_is_as_long_as_needed_but_not_endless(wrong: int, reach: float) -> None:
    exams = [detection([0.9] + [0.5] * wrong, [[0.9] + [0.0] * wrong])]
    axes = drawn(evaluation([lesion()]), exams=exams)["froc"].axes[0]
    assert axes.get_xlim() == (0.0, reach)


def judged() -> list[LesionScore]:
    sure = [("anna", 0.8, 0.9), ("anna", None, 0.4), ("ben", 0.7, 0.3), ("ben", None, 0.1), ("cleo", 0.6, None)]
    return [lesion(dice, exam=exam, presence=presence) for exam, dice, presence in sure]


def test_roc_curve_passes_through_every_threshold() -> None:
    merged = lesion(None, true_id=7, fate="merged", presence=0.99)
    figure = drawn(evaluation([*judged(), merged]))["presence_roc"]
    curve = line(figure.axes[0], "ours")
    assert curve.get_xdata().tolist() == [0.0, 0.0, 0.5, 0.5, 1.0]
    assert curve.get_ydata().tolist() == [0.0, 0.5, 0.5, 1.0, 1.0]
    assert line(figure.axes[0], "chance").get_xydata().tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert "2 lesions there and 2 gone, of 2 exams" in title(figure)


def test_legend_of_roc_curves_says_area_and_interval() -> None:
    ours = evaluation(judged())
    area = ours.presence_auc
    assert area.value == 0.75
    assert legend(drawn(ours)["presence_roc"]) == [f"ours: AUC 0.75 ({area.low:.2f} to {area.high:.2f})"]


def test_band_around_roc_curve_comes_from_drawing_patients() -> None:
    # Whoever is drawn, one patient's curve is perfect, the other's the worst.
    rows = [
        lesion(dice, exam=exam, presence=presence)
        for exam, dice, presence in [("anna", 0.8, 0.9), ("anna", None, 0.1), ("ben", 0.8, 0.2), ("ben", None, 0.7)]
    ]
    low, high = lines(drawn(evaluation(rows))["presence_roc"].axes[0], "ours, band")
    assert set(low.get_ydata()[:-1]) == {0.0}
    assert set(high.get_ydata()) == {1.0}


def test_single_patient_has_a_roc_curve_without_band_and_interval() -> None:
    rows = [lesion(0.8, presence=0.9), lesion(None, presence=0.1)]
    figure = drawn(evaluation(rows))["presence_roc"]
    assert all(np.isnan(edge.get_ydata()).all() for edge in lines(figure.axes[0], "ours, band"))
    assert legend(figure) == ["ours: AUC 1.00"]


def test_method_that_is_not_sure_of_anything_has_no_roc_curve() -> None:
    figure = drawn(evaluation(judged()), evaluation([lesion(0.8), lesion(None)], "theirs"))["presence_roc"]
    assert len(legend(figure)) == 1
    assert not lines(figure.axes[0], "theirs")


@pytest.mark.parametrize(
    "rows",
    [[lesion(0.8), lesion(None)], [lesion(0.8, presence=0.9)], [lesion(None, presence=0.9)], []],
    ids=["not sure", "none gone", "all gone", "no lesion"],
)
def test_without_both_classes_there_is_no_roc_figure(rows: list[LesionScore]) -> None:
    assert "presence_roc" not in drawn(evaluation(rows))


def test_every_stratum_says_how_many_lesions_it_has() -> None:
    rows = [
        lesion(0.8, diameter_mm=4.0, fate="persists", lesion_type="lung nodule"),
        lesion(0.6, diameter_mm=50.0, fate="new", lesion_type="lymph node of the mediastinum"),
        lesion(0.7, diameter_mm=5.0, fate="persists", lesion_type="lung nodule"),
        lesion(None, diameter_mm=15.0, lesion_type="liver"),
    ]
    figure = drawn(evaluation(rows))["strata"]
    labels = {
        axes.get_title("left"): [label.get_text() for label in axes.get_xticklabels()]
        for axes in figure.axes
        if axes.axison
    }
    assert labels == {
        "By diameter": ["0-6 mm\nn = 2", "over 40 mm\nn = 1"],
        "By fate": ["new\nn = 1", "persists\nn = 2"],
        "By type": ["lung nodule\nn = 2", "lymph node of\nthe\nmediastinum\nn = 1"],
    }


def test_methods_that_were_run_on_different_lesions_say_both_numbers() -> None:
    figure = drawn(evaluation([lesion(), lesion()]), evaluation([lesion()], "theirs"))["strata"]
    assert figure.axes[0].get_xticklabels()[0].get_text() == "10-20 mm\nn = 1 to 2"
    assert "1 to 2 lesions of 1 exam;" in title(figure)


def test_boxes_stand_side_by_side_at_the_median() -> None:
    rows = {
        name: [lesion(middle - 0.1), lesion(middle), lesion(middle + 0.1)] for name, middle in (("a", 0.3), ("b", 0.7))
    }
    axes = drawn(*(evaluation(each, name) for name, each in rows.items()))["strata"].axes[0]
    boxes = [box for box in axes.patches if isinstance(box, PathPatch)]
    edges = [box.get_path().get_extents() for box in boxes]
    assert [edge.y0 for edge in edges] == pytest.approx([0.25, 0.65])
    assert edges[0].x1 < edges[1].x0
    assert len({box.get_hatch() for box in boxes}) == 2
    means = [spot for spot in axes.get_lines() if spot.get_marker() in ("o", "^") and len(spot.get_xdata())]
    assert [spot.get_ydata()[0] for spot in means] == pytest.approx([0.3, 0.7])
    assert [to_rgb(spot.get_markeredgecolor()) for spot in means] == [box.get_edgecolor()[:3] for box in boxes]


def test_method_without_lesions_leaves_the_boxes_of_others_alone() -> None:
    figures = saved(evaluation([], "none"), evaluation([lesion(), lesion(None, presence=0.5)], "one"))
    assert sum(isinstance(box, PathPatch) for box in figures["strata"].axes[0].patches) == 1
    assert legend(figures["strata"]) == ["none", "one"]
    assert "0 to 1 lesion of 0 to 1 exam;" in title(figures["strata"])


def test_without_measured_lesions_there_are_no_strata() -> None:
    assert "strata" not in drawn(evaluation([lesion(None), lesion(None, exam="ben")]))


def test_methods_differ_in_marker_and_line_style_and_hatch() -> None:
    figures = drawn(*methods(6), exams=[detection([0.9], [[0.5]])])
    for stem, suffix in (("dice_by_diameter", ", median"), ("froc", ""), ("presence_roc", "")):
        axes = figures[stem].axes[0]
        dashes = {str(line(axes, f"method {place}{suffix}")._unscaled_dash_pattern) for place in range(6)}
        assert len(dashes) == 6, stem
        assert len({str(handle.get_marker()) for handle in figures[stem].legends[0].legend_handles}) == 6, stem
    hatches = {box.get_hatch() for box in figures["strata"].axes[0].patches if isinstance(box, PathPatch)}
    assert len(hatches) == 6


def test_four_methods_differ_in_grey_print() -> None:
    axes = drawn(*methods(4))["dice_by_diameter"].axes[0]
    colors = [to_rgb(line(axes, f"method {place}").get_color()) for place in range(4)]
    greys = [float(np.dot(color, (0.299, 0.587, 0.114))) for color in colors]
    assert min(abs(one - other) for one, other in combinations(greys, 2)) >= 0.15
    assert max(greys) < 0.75, "too pale for white paper"


@pytest.mark.parametrize("count", range(1, 7))
def test_up_to_six_methods_get_a_panel_each(count: int) -> None:
    axes = drawn(*methods(count))["volume_bland_altman"].axes
    assert [panel.get_title("left").split("\n")[0] for panel in axes if panel.axison] == [
        f"method {place}" for place in range(count)
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "nnU-Net with the whole of the first follow-up scan, without its mask, fold {}",
            "nnU-Net with the …t its mask, fold 0",
        ),
        ("M" * 60 + "{}", "M" * 17 + "…" + "M" * 17 + "0"),
    ],
)
def test_long_names_are_shortened_in_the_middle_and_stay_within_the_picture(name: str, shown: str) -> None:
    evaluations = [evaluation(some_lesions(30), name.format(place)) for place in range(6)]
    for stem, figure in saved(*evaluations).items():
        for box in figure.legends:
            extent = box.get_window_extent()
            assert extent.x0 >= 0.0, stem
            assert extent.x1 <= figure.bbox.x1, stem
            assert legend(figure)[0].startswith(shown), stem


@pytest.mark.parametrize(
    ("name", "shown"),
    [("_hidden", " _hidden"), ("$x_1$ costs", r"\$x_1\$ costs"), ("肺\n", "??"), ("Größe", "Größe"), (" ", "unnamed")],
)
def test_odd_names_are_written_as_far_as_they_can_be(name: str, shown: str) -> None:
    assert legend(saved(evaluation([lesion(), lesion()], name))["froc"]) == [shown]


ALWAYS = {"dice_by_diameter", "volume_bland_altman", "froc"}


@pytest.mark.parametrize(
    ("rows", "exams", "stems"),
    [
        ([], [], ALWAYS),
        ([lesion(None)], [NOTHING], ALWAYS),
        ([lesion()], [detection([0.9], [[0.5]])], ALWAYS | {"strata"}),
        ([lesion(0.0, predicted_volume_ml=0.0)], [detection([], [[]])], ALWAYS | {"strata"}),
        ([lesion(1.0, true_volume_ml=0.0, predicted_volume_ml=0.0)] * 2, [NOTHING], ALWAYS | {"strata"}),
        ([lesion(true_diameter_mm=0.0)], [detection([0.5], [])], ALWAYS | {"strata"}),
        ([lesion(lesion_type=f"kind {place}") for place in range(12)], [NOTHING], ALWAYS | {"strata"}),
        (some_lesions(40), [NOTHING, detection([0.3], [[0.1]])], ALWAYS | {"strata", "presence_roc"}),
    ],
    ids=["nothing", "all gone", "one", "missed", "no volume", "no diameter", "many kinds", "many lesions"],
)
def test_whatever_the_lesions_are_figures_are_drawn_without_warning(
    rows: list[LesionScore], exams: list[ExamLesions], stems: set[str]
) -> None:
    assert saved(evaluation(rows), exams=exams).keys() == stems


def test_all_writing_is_large_enough_to_be_read_on_white() -> None:
    for stem, figure in drawn(*methods(2)).items():
        written = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in written) >= 9, stem
        assert to_rgb(figure.get_facecolor()) == (1.0, 1.0, 1.0), stem


def test_axes_say_what_is_measured_in_which_unit() -> None:
    figures = drawn(evaluation(some_lesions(30)))
    assert figures["dice_by_diameter"].axes[0].get_xlabel() == "true largest axial diameter (mm)"
    assert "(ml)" in figures["volume_bland_altman"].get_supxlabel()
    assert "(ml," in figures["volume_bland_altman"].get_supylabel()
    assert figures["froc"].axes[0].get_xlabel() == "mean false positives per exam"
