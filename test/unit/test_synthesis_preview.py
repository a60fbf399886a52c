"""The preview's pictures and statistics, on a pair made by hand, and its command on a folder with one small volume."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from longilesion.case import Baseline, Case, Click, ClickPair, LesionMap, Scan
from longilesion.errors import InputError
from longilesion.geometry import Grid, Triple
from test.unit.builders import ball, model_settings
from test.unit.case_folders import write_image
from test.unit.synthetic import block
from training import synth
from training.synthesis.pairs import SyntheticPair
from training.synthesis.preview import Example, View, draw_examples, draw_series, views_of, window_of
from training.synthesis.settings import SynthesisSettings
from training.synthesis.sources import Source
from training.synthesis.statistics import LesionNumbers, as_json, as_markdown, lesion_numbers, statistics_table
from training.synthesis.truth import SyntheticFact

GRID = Grid.from_spacing((30, 60, 60), (3.0, 1.5, 1.5), origin_xyz_mm=(100.0, -50.0, 20.0))
# 1 persists and grows, 2 is new, 3 is gone, 4 merges into 1.
PLACES: dict[int, Triple] = {
    1: (145.0, -5.0, 65.0),
    2: (125.0, 20.0, 65.0),
    3: (165.0, 20.0, 50.0),
    4: (165.0, -5.0, 65.0),
}
CLICK_ERROR_XYZ_MM = (0.775 * 3, 0.0, 3.0 * 4)


def scan_of(radii_mm: dict[int, float]) -> tuple[Scan, NDArray[np.uint16]]:
    hu, ids = np.full(GRID.shape_zyx, 100, np.int16), np.zeros(GRID.shape_zyx, np.uint16)
    for lesion_id, radius_mm in radii_mm.items():
        inside = ball(GRID, PLACES[lesion_id], radius_mm)
        hu[inside], ids[inside] = 40, lesion_id
    return Scan(hu=hu, grid=GRID), ids


@cache
def pair() -> SyntheticPair:
    prior, before = scan_of({1: 8.0, 3: 6.0, 4: 5.0})
    scan, after = scan_of({1: 12.0, 2: 7.0})

    def click(place: Triple, error: Triple = (0.0, 0.0, 0.0)) -> Click:
        x, y, z = np.add(place, error).tolist()
        return Click(scan_name="primary", point_xyz_mm=(x, y, z))

    exact = tuple(
        ClickPair(lesion_id=each, baseline=click(place), followup=click(place)) for each, place in PLACES.items()
    )
    # The click of the new lesion is propagated backwards.
    clicks = tuple(
        replace(one, baseline=click(PLACES[2], (0.0, 1.55, 0.0)))
        if one.lesion_id == 2
        else replace(one, followup=click(PLACES[one.lesion_id], CLICK_ERROR_XYZ_MM))
        for one in exact
    )
    facts = {
        each: SyntheticFact(fate=fate, real=False, diameter_mm=10.0, true_id=true_id, lesion_type="Liver")
        for each, fate, true_id in ((1, "persists", 1), (2, "new", 2), (3, "gone", None), (4, "merged", 1))
    }
    case = Case(
        baselines={"primary": Baseline.of(prior, LesionMap(ids=before, grid=GRID))},
        followups={"primary": scan},
        clicks=clicks,
    )
    return SyntheticPair(case=case, truth=LesionMap(ids=after, grid=GRID), facts=facts, exact_clicks=exact)


def numbers() -> dict[int, LesionNumbers]:
    return {each.lesion_id: each for each in lesion_numbers(pair())}


# ------------------------------------------------------------------------------------------------------- statistics


def test_ball_has_its_volume_diameter_and_contrast() -> None:
    first = numbers()[1]
    assert first.baseline is not None
    assert first.followup is not None
    assert first.baseline.volume_ml == pytest.approx(4 / 3 * np.pi * 0.8**3, rel=0.1)
    assert first.followup.volume_ml == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.1)
    # Voxels of 1.5 mm.
    assert first.baseline.diameter_mm == pytest.approx(16.0, abs=1.6)
    assert first.followup.contrast_hu == -60.0


def test_lesion_is_measured_only_in_the_scans_that_outline_it() -> None:
    there = {each: (one.baseline is not None, one.followup is not None) for each, one in numbers().items()}
    assert there == {1: (True, True), 2: (False, True), 3: (True, False), 4: (True, False)}


def test_other_lesions_are_no_part_of_the_shell() -> None:
    # A neighbour covers two thirds of the shell, all but its right.
    hu, ids = np.full(GRID.shape_zyx, 100, np.int16), np.zeros(GRID.shape_zyx, np.uint16)
    inside = ball(GRID, PLACES[1], 8.0)
    neighbour = ball(GRID, PLACES[1], 20.0) & ~inside & (np.arange(60) * 1.5 + 100.0 > 141.0)
    hu[inside], ids[inside] = 40, 1
    hu[neighbour], ids[neighbour] = -80, 4
    changed = SyntheticPair(
        case=Case(
            baselines={"primary": Baseline.of(Scan(hu=hu, grid=GRID), LesionMap(ids=ids, grid=GRID))},
            followups=pair().case.followups,
            clicks=pair().case.clicks[:1],
        ),
        truth=pair().truth,
        facts={1: pair().facts[1]},
        exact_clicks=pair().exact_clicks[:1],
    )
    (first,) = lesion_numbers(changed)
    assert first.baseline is not None
    assert first.baseline.contrast_hu == -60.0


def test_click_errors_are_in_the_challenges_voxels() -> None:
    # 3 voxels along x and 4 along z are 5 voxels; the baseline click of the new lesion is 2 voxels off along y.
    rows = {row.quantity: row for row in statistics_table([lesion_numbers(pair())])}
    error = "click error, voxels of 0.775 x 0.775 x 3 mm"
    assert (rows[f"{error}: median"].drawn, rows[f"{error}: median"].published) == ("5.0", "3.7")
    assert (rows[f"{error}, Liver: median"].drawn, rows[f"{error}, Liver: median"].published) == ("5.0", "7.9")
    assert rows[f"{error}, Lung: median"].drawn == "-"
    new = "click error in the baseline, voxels of 0.775 x 0.775 x 3 mm, new lesions: median / p90"
    assert rows[new].drawn == "2.0 / 2.0"


def test_shares_of_fates_stand_beside_those_of_the_challenge() -> None:
    rows = {row.quantity: row for row in statistics_table([lesion_numbers(pair()), []])}
    assert {row.drawn for name, row in rows.items() if name.startswith("lesions: ")} == {"25.0 %"}
    assert rows["lesions: gone"].published == "30.5 %"
    assert (rows["pairs"].drawn, rows["lesions"].drawn, rows["pairs without any lesion"].drawn) == ("2", "4", "50.0 %")
    assert rows["lesions of a pair, baseline: mean (range)"].drawn == "1.50 (0-3)"


def test_no_lesion_at_all_still_gives_a_table() -> None:
    rows = {row.quantity: row.drawn for row in statistics_table([[], []])}
    assert rows["lesions"] == "0"
    assert rows["lesions: gone"] == rows["volume, ml, baseline: mean (range)"] == "-"


def test_table_is_written_for_people_and_for_machines() -> None:
    measured = [lesion_numbers(pair())]
    rows = statistics_table(measured)
    lines = as_markdown(rows).splitlines()
    assert len(lines) == len(rows) + 2
    assert {line.count("|") for line in lines} == {5}
    read = json.loads(as_json(rows, measured))
    assert read["pairs"][0][0]["baseline"]["volume_ml"] == pytest.approx(2.14, rel=0.1)


# --------------------------------------------------------------------------------------------------------- pictures


def views(lesion_id: int) -> tuple[View, View]:
    return views_of(Example(source="by hand", pair=pair(), lesion_id=lesion_id), model_settings())


def test_views_look_at_the_lesion_or_where_it_is_sought() -> None:
    before, after = views(1)
    assert np.linalg.norm(np.subtract(before.middle_xyz_mm, PLACES[1])) < 1
    assert np.linalg.norm(np.subtract(after.middle_xyz_mm, PLACES[1])) < 1
    before, after = views(3)
    assert before.diameter_mm == pytest.approx(12.0, abs=1.6)
    assert after.outline is None
    assert np.linalg.norm(np.subtract(after.middle_xyz_mm, PLACES[3])) < 30
    before, _ = views(2)
    assert before.outline is None
    assert before.middle_xyz_mm == PLACES[2]
    _, after = views(4)
    assert after.label == 1


def test_each_row_shows_both_scans_plain_and_outlined_with_captions() -> None:
    examples = [Example(source="by hand", pair=pair(), lesion_id=each) for each in (1, 3)]
    figure = draw_examples(examples, model_settings())
    assert len(figure.axes) == 8
    assert [len(axes.images) for axes in figure.axes] == [1] * 8
    # Plain slices carry no marks.
    assert [len(axes.lines) for axes in figure.axes[:4]] == [0, 1, 0, 1]
    assert "persists" in figure.axes[0].get_ylabel()
    assert "gone" in figure.axes[4].get_ylabel()
    assert figure.axes[0].get_title(loc="left") == "baseline, 3.0 mm slices"
    # 2.3 mm along x and 12 mm along z.
    assert figure.axes[3].get_title(loc="left").endswith("mm; click 12 mm off")
    assert figure.axes[7].get_title(loc="left") == "not outlined"
    # Dark lesion, in the middle of the picture.
    image = figure.axes[0].images[0]
    left, right = figure.axes[0].get_xlim()
    assert (left + right) / 2 == pytest.approx(145.0 - 100.0, abs=1)
    assert np.asarray(image.get_array())[30, 30] == 40


@pytest.mark.parametrize(
    ("lesion_type", "around_hu", "window"),
    [("Skeleton", 200, "bone"), ("Lung", -800, "lung"), ("Lung", 40, "soft tissue"), ("Liver", 90, "soft tissue")],
)
def test_window_suits_the_tissue(lesion_type: str, around_hu: float, window: str) -> None:
    assert window_of(lesion_type, around_hu) == window


# ---------------------------------------------------------------------------------------------------------- command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["synth", *arguments])
    return synth.main()


@cache
def volume(folder: Path) -> Path:
    write_image(folder / "block" / "ct.nii.gz", block().hu, spacing_xyz_mm=block().spacing_zyx_mm[::-1].tolist())
    return folder


def test_command_writes_picture_and_statistics_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, table = tmp_path / "out" / "preview.png", tmp_path / "statistics.md"
    arguments = ["--data", str(volume(tmp_path / "data")), "--examples", "2", "--pairs", "2"]
    assert run(monkeypatch, *arguments, "--output", str(picture), "--statistics", str(table)) == 0
    height, width, _ = matplotlib.image.imread(picture).shape
    assert width > 900
    assert height > 500
    assert table.read_text().startswith("| quantity | drawn |")
    assert "click error" in capsys.readouterr().out
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "{folder}"), "no <volume>/ct.nii.gz; expected a folder with one subfolder per CT volume"),
        (("--output", "a.jpg"), "a.jpg: not a picture; expected a name that ends with .png"),
        (("--statistics", "a.csv"), "a.csv: not a table; expected a name that ends with .md or .json"),
        (("--times", "1"), "--times 1: expected at least two time points"),
        (("--shapes", "none.npz"), "none.npz: no such file; expected lesion shapes"),
        (("--pairs", "0"), "--pairs 0: expected a number from 1 on"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *(argument.format(folder=tmp_path) for argument in arguments)) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def drawn_pairs(settings: SynthesisSettings, *, seed: int) -> Iterator[tuple[Source, SyntheticPair]]:
    return synth.consecutive_pairs(synth.drawn_series([block()], settings, seed=seed))


def test_examples_show_fates_in_turn_and_follow_from_the_seed() -> None:
    chosen = [synth.find_examples(drawn_pairs(SynthesisSettings(), seed=5), count=3) for _ in range(2)]
    assert len({each.pair.facts[each.lesion_id].fate for each in chosen[0]}) > 1
    assert [each.lesion_id for each in chosen[0]] == [each.lesion_id for each in chosen[1]]
    np.testing.assert_array_equal(chosen[0][0].pair.truth.ids, chosen[1][0].pair.truth.ids)


def test_settings_that_give_healthy_pairs_only_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "_TRIES_PER_EXAMPLE", 3)
    healthy = SynthesisSettings().lifenet.model_copy(update={"healthy_share": 1.0})
    settings = SynthesisSettings(generator="lifenet", lifenet=healthy)
    with pytest.raises(InputError, match="expected 1, see the recipe's shares"):
        synth.find_examples(drawn_pairs(settings, seed=0), count=1)


def test_series_show_different_histories_with_a_column_per_time_point() -> None:
    drawn = synth.drawn_series([block()], SynthesisSettings(), times=3, seed=1)
    examples = synth.find_series(drawn, count=3)
    histories = {tuple(volume > 0 for volume in example.series.volumes_ml[example.lesion_id]) for example in examples}
    assert len(histories) == 3
    axes = draw_series(examples, model_settings()).axes
    assert len(axes) == 9
    for example, row in zip(examples, (axes[:3], axes[3:6], axes[6:]), strict=True):
        for volume_ml, panel in zip(example.series.volumes_ml[example.lesion_id], row, strict=True):
            title = panel.get_title(loc="left")
            assert title.endswith(" mm") == (volume_ml > 0)
            assert bool(panel.images) == (not title.endswith("not there"))
