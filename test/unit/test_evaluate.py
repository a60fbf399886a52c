import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from longilesion.case import AIR_HU, Case, LesionMap, Scan
from longilesion.config import InferenceSettings
from longilesion.ensemble import save_bundle
from longilesion.geometry import Grid, Triple
from longilesion.networks import build_network
from test.unit.builders import case_of, click, model_settings, scan_with
from test.unit.synthetic import block, pair
from training.evaluate import Arguments, LesionScore, challenge_dice, evaluate, print_tables
from training.opponents import grow_region, paste_baseline

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "compact.toml"


# ------------------------------------------------------------------------------------------------- the challenge's Dice


def ten_lesions() -> NDArray[np.uint16]:
    """Ten lesions of 1000 voxels side by side, each touching the next."""
    ids = np.zeros((10, 10, 100), np.uint16)
    for number in range(10):
        ids[:, :, 10 * number : 10 * number + 10] = number + 1
    return ids


def scores(ids: NDArray[np.uint16]) -> list[float]:
    return [challenge_dice(ten_lesions() == number, ids) for number in range(1, 11)]


def test_perfect_labels_score_1_also_with_other_ids() -> None:
    assert scores(ten_lesions()) == [1.0] * 10
    assert scores((300 - ten_lesions()).astype(np.uint16)) == [1.0] * 10


def test_binary_labels_score_what_the_toy_table_says() -> None:
    # One label of ten lesions: 2 * 1 / (1 + 10).
    assert scores((ten_lesions() > 0).astype(np.uint16)) == pytest.approx([0.18] * 10, abs=0.005)


def test_lesion_split_into_two_labels_scores_their_mean() -> None:
    split = ten_lesions()
    split[:5][split[:5] == 4] = 44
    # Each half: 2 * 0.5 / (0.5 + 1). With one entry more, the table's mean is (9 + 2 * 2 / 3) / 11.
    assert scores(split)[3] == pytest.approx(2 / 3)
    assert (9 + 2 * scores(split)[3]) / 11 == pytest.approx(0.94, abs=0.005)


def test_one_voxel_of_a_neighbour_halves_a_lesions_score() -> None:
    bled = ten_lesions()
    bled[0, 0, 10] = 1
    first, second, *others = scores(bled)
    assert first == pytest.approx(1, abs=0.001)
    assert second == pytest.approx(0.5, abs=0.002)
    assert others == [1.0] * 8


def test_missed_lesion_scores_0() -> None:
    missed = ten_lesions()
    missed[missed == 7] = 0
    assert scores(missed) == [1.0] * 6 + [0.0] + [1.0] * 3


# ------------------------------------------------------------------------------------------------------------ opponents


GRID = Grid.from_spacing((24, 48, 48), (2.0, 1.0, 1.0))
BEFORE, AFTER = (20.0, 22.0, 20.0), (27.0, 18.0, 26.0)


def followup_of(center: Triple, radius_mm: float = 7.0) -> tuple[Scan, LesionMap]:
    return scan_with({5: (center, radius_mm)}, GRID)


def one_lesion(after: tuple[float, float, float] = AFTER) -> Case:
    scan, lesions = followup_of(BEFORE)
    return case_of(
        [(5, click(BEFORE), click(after))],
        followups={"primary": followup_of(AFTER)[0]},
        baselines={"primary": (scan, lesions)},
    )


def test_pasting_moves_the_baseline_mask_by_the_vector_between_the_clicks() -> None:
    _, expected = followup_of(AFTER)
    np.testing.assert_array_equal(paste_baseline(one_lesion()), expected.ids)


def test_pasting_follows_the_click_and_not_the_lesion() -> None:
    stray = (AFTER[0] + 3.0, AFTER[1], AFTER[2])
    _, expected = followup_of(stray)
    np.testing.assert_array_equal(paste_baseline(one_lesion(stray)), expected.ids)


def test_region_growing_fills_a_bright_ball_from_a_click_inside() -> None:
    _, truth = followup_of(AFTER)
    grown = grow_region(one_lesion((AFTER[0] + 2.0, AFTER[1], AFTER[2]))) == 5
    inside = truth.ids == 5
    assert 2 * (grown & inside).sum() / (grown.sum() + inside.sum()) > 0.8
    assert not (grown & ~inside).any()


def test_region_growing_finds_nothing_far_from_the_lesion() -> None:
    assert not grow_region(one_lesion((8.0, 40.0, 6.0))).any()


@pytest.mark.parametrize("prior", ["no scan", "no map", "a map without the lesion"])
def test_without_a_prior_nothing_is_pasted_and_growing_starts_from_the_clicks_surroundings(prior: str) -> None:
    scan, truth = followup_of(AFTER)
    outlines = None if prior == "no map" else LesionMap(ids=np.zeros(GRID.shape_zyx, np.uint16), grid=GRID)
    baselines = {} if prior == "no scan" else {"primary": (scan, outlines)}
    case = case_of([(5, click(BEFORE), click(AFTER))], followups={"primary": scan}, baselines=baselines)
    assert not paste_baseline(case).any()
    grown = grow_region(case) == 5
    assert grown.any()
    assert not (grown & (truth.ids != 5)).any()


def test_click_in_air_grows_no_further_than_its_reach() -> None:
    air = Scan(hu=np.full(GRID.shape_zyx, AIR_HU, np.int16), grid=GRID)
    grown = grow_region(case_of([(5, None, click(AFTER))], followups={"primary": air}))
    offsets = (np.argwhere(grown == 5) - GRID.index_zyx(AFTER)) * GRID.spacing_zyx_mm
    assert 0 < np.linalg.norm(offsets, axis=1).max() <= 18.0


# ----------------------------------------------------------------------------------------------------- whole evaluation


@pytest.fixture
def model(tmp_path: Path) -> Path:
    settings = model_settings(
        shape_zyx=(8, 16, 16),
        spacing_zyx_mm=(6.0, 3.0, 3.0),
        inference=InferenceSettings(threshold=0.01, presence_threshold=1.0),
    )
    save_bundle(tmp_path, settings, [build_network(settings)], provenance={})
    return tmp_path


def test_every_method_is_scored_on_every_lesion(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.evaluate.phantom_sources", lambda seeds: (block(),))
    monkeypatch.setattr("training.evaluate.synthetic_pair", lambda *_, **__: pair(1))
    found = evaluate(Arguments(model=model, recipe=RECIPE, cases=1))
    facts = pair(1).facts
    methods = {score.method for score in found}
    assert methods == {"longilesion", "without presence", "paste baseline", "region growing"}
    for method in methods:
        own = {score.lesion_id: score for score in found if score.method == method}
        assert set(own) == set(facts)
        for lesion_id, score in own.items():
            assert (score.fate, score.diameter_mm) == (facts[lesion_id].fate, facts[lesion_id].diameter_mm)
            assert (score.dice is None) == (score.fate == "gone")
            assert (score.distance_mm is None) == (score.fate == "gone")
            assert (score.presence is None) == (method in {"paste baseline", "region growing"})
    # A presence threshold of 1 empties every lesion, and "without presence" outlines them all the same.
    assert not any(score.voxels for score in found if score.method == "longilesion")
    assert any(score.voxels for score in found if score.method == "without presence")


def test_tables_show_a_row_per_method_and_the_share_of_gone_lesions_recognised() -> None:
    def score(method: str, fate: str, *, dice: float | None, voxels: int) -> LesionScore:
        return LesionScore(
            method=method,
            case="a/0",
            lesion_id=1,
            fate=fate,
            real=False,
            diameter_mm=15.0,
            dice=dice,
            voxels=voxels,
            presence=0.55 if voxels else 0.1,
            distance_mm=None if fate == "gone" else 10 * (dice or 0.0),
        )

    drawn = [
        score("longilesion", "persists", dice=0.8, voxels=50),
        score("longilesion", "persists", dice=0.6, voxels=50),
        score("longilesion", "gone", dice=None, voxels=0),
        score("longilesion", "gone", dice=None, voxels=9),
        score("paste baseline", "persists", dice=0.3, voxels=50),
    ]
    console = Console(file=io.StringIO(), width=200)
    print_tables(drawn, console)
    text = console.file.getvalue()
    rows: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("│"):
            rows.setdefault(line.split("│")[1].strip(), line)
    assert "0.700 (2)" in rows["longilesion"]
    assert "0.500 (2)" in rows["longilesion"]
    assert "0.300 (1)" in rows["paste baseline"]
    assert [cell.strip() for cell in rows["0.60"].split("│")[2:4]] == ["1.000 (2)", "0.000 (2)"]
    assert "7.0 / 7.8" in text
