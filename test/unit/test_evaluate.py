import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from longilesion.bundle import save_bundle
from longilesion.case import AIR_HU, Case, LesionMap, Scan
from longilesion.config import InferenceSettings
from longilesion.evaluation.challenge import challenge_score
from longilesion.evaluation.detection import ExamLesions
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.scoring import ExamScore
from longilesion.geometry import Grid, Triple
from longilesion.networks import build_network
from test.unit.builders import case_of, click, model_settings, scan_with
from test.unit.synthetic import block, pair
from training.evaluate import Arguments, Scored, evaluate, exam_of, print_tables, report
from training.naive_methods import grow_region, paste_baseline

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "compact.toml"


# ------------------------------------------------------------------------------------------------- naive methods


GRID = Grid.from_spacing((24, 48, 48), (2.0, 1.0, 1.0))
BEFORE, AFTER = (20.0, 22.0, 20.0), (27.0, 18.0, 26.0)


def followup_of(centre: Triple, radius_mm: float = 7.0) -> tuple[Scan, LesionMap]:
    return scan_with({5: (centre, radius_mm)}, GRID)


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


@pytest.fixture
def one_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.training_data.phantom_sources", lambda seeds: (block(),))
    monkeypatch.setattr("training.training_data.synthetic_pair", lambda *_, **__: pair(1))


@pytest.mark.usefixtures("one_pair")
def test_every_method_is_scored_on_every_lesion(model: Path) -> None:
    found = evaluate(Arguments(model=model, recipe=RECIPE, cases=1))
    facts = pair(1).facts
    assert set(found.scores) == {"longilesion", "without presence", "paste baseline", "region growing"}
    for method, lesions in found.lesions.items():
        own = {lesion.lesion_id: lesion for lesion in lesions}
        assert set(own) == set(facts)
        for lesion_id, lesion in own.items():
            assert lesion.fate == facts[lesion_id].fate
            assert lesion.lesion_type == ("real tumour" if facts[lesion_id].real else "inserted")
            assert (lesion.challenge_dice is None) == (lesion.fate == "gone")
            assert (lesion.presence is None) == (method in {"paste baseline", "region growing"})
        assert len(found.distances_mm[method]) == sum(fact.fate != "gone" for fact in facts.values())
    # A presence threshold of 1 empties every lesion, and "without presence" outlines them all the same.
    assert not any(lesion.predicted_volume_ml for lesion in found.lesions["longilesion"])
    assert any(lesion.predicted_volume_ml for lesion in found.lesions["without presence"])


def test_baseline_of_a_synthetic_exam_is_that_of_its_case() -> None:
    prior = pair(1).case.baselines["primary"]
    exam = exam_of("a/0", pair(1))
    volumes = {
        lesion_id: region.voxels * prior.scan.grid.voxel_volume_ml for lesion_id, region in prior.regions.items()
    }
    assert {lesion_id: lesion.volume_ml for lesion_id, lesion in exam.baseline.items()} == pytest.approx(volumes)
    assert {lesion_id for lesion_id, fact in exam.facts.items() if fact.fate == "new"}.isdisjoint(exam.baseline)
    assert set(exam.clicks) == set(pair(1).facts)


@pytest.mark.usefixtures("one_pair")
def test_report_writes_what_the_evaluator_writes(model: Path, tmp_path: Path) -> None:
    report(Arguments(model=model, recipe=RECIPE, cases=1, output=tmp_path / "out"))
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [each["name"] for each in content["evaluations"]][:2] == ["longilesion", "without presence"]


def lesion(lesion_id: int, *, dice: float | None, predicted_ml: float) -> LesionScore:
    fate = "gone" if dice is None else "persists"
    return LesionScore(
        exam="a/0",
        scan="primary",
        lesion_id=lesion_id,
        true_id=None if dice is None else lesion_id,
        fate=fate,
        predicted_fate=fate,
        lesion_type="inserted",
        is_target=None,
        diameter_mm=15.0,
        click_error_mm=None,
        presence=0.55 if predicted_ml else 0.1,
        baseline_volume_ml=1.0,
        baseline_diameter_mm=15.0,
        true_volume_ml=0.0 if dice is None else 1.0,
        predicted_volume_ml=predicted_ml,
        true_diameter_mm=0.0 if dice is None else 15.0,
        predicted_diameter_mm=10.0,
        dice=dice,
        challenge_dice=dice,
    )


def test_tables_show_a_row_per_method_and_the_share_of_gone_lesions_recognised() -> None:
    # Dice 0.8 and 0.6, one of two gone lesions left empty; the naive method has 0.3 on its only lesion.
    ours = [
        lesion(1, dice=0.8, predicted_ml=1.0),
        lesion(2, dice=0.6, predicted_ml=1.0),
        lesion(3, dice=None, predicted_ml=0.0),
        lesion(4, dice=None, predicted_ml=0.2),
    ]
    theirs = [lesion(1, dice=0.3, predicted_ml=1.0)]

    def scores(lesions: list[LesionScore]) -> list[ExamScore]:
        nothing = np.empty(0)
        detection = ExamLesions(
            true_mm=nothing,
            true_ml=nothing,
            predicted_mm=nothing,
            predicted_ml=nothing,
            confidence=nothing,
            iou=np.empty((0, 0)),
        )
        return [
            ExamScore(
                exam="a/0",
                challenge=challenge_score([]),
                lesions=tuple(lesions),
                detection=detection,
                missing=(),
                unknown_labels=0,
                extra_ml=0.0,
                has_baseline=True,
            )
        ]

    console = Console(file=io.StringIO(), width=200)
    scored = Scored(
        scores={"longilesion": scores(ours), "paste baseline": scores(theirs)},
        distances_mm={"longilesion": [("persists", 8.0), ("persists", 6.0)], "paste baseline": []},
    )
    print_tables(scored, console)
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
