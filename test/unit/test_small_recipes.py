"""Every recipe of the project, made small: it trains, is exported, and segments a case as the container does."""

import json
from pathlib import Path

import pytest

import process
import training.train
from test.container.mixed_bundle import write_mixed_bundle
from test.unit.case_folders import write_case
from test.unit.small_recipes import shrunk
from test.unit.training_runs import arguments, few_pairs
from training.export import Arguments, export
from training.recipe import read_recipe
from training.run_log import read_log

FOLDER = Path(__file__).parents[2] / "training" / "recipes"
# Detectors train on exams: test_detectors.py.
RECIPES = [path for path in sorted(FOLDER.glob("*.toml")) if read_recipe(path).task == "lesions"]


# One that has neither zoom nor presence head is quick; the rest take a second each.
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem == "promptable_longiseg" else pytest.mark.slow)
        for path in RECIPES
    ],
)
@pytest.mark.usefixtures("restored_logging")
def test_recipe_trains_is_exported_and_segments_a_case(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_pairs(monkeypatch)
    monkeypatch.setattr(training.train, "read_recipe", shrunk)
    monkeypatch.setattr("training.run_log.draw_curve", lambda folder: None)
    monkeypatch.setattr(process, "_log_to_streams", lambda: None)
    run, model = tmp_path / "run", tmp_path / "model"
    training.train.train(arguments(path, run))
    rows = read_log(run / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["loss"] > 0 for row in rows)
    export(Arguments(bundles=(run,), output=model))
    case, output, report = write_case(tmp_path / "case"), tmp_path / "output", tmp_path / "report.json"
    given = {"--input": case, "--output": output, "--model": model, "--report": report, "--device": "cpu"}
    assert process.main([str(word) for pair in given.items() for word in pair]) == 0
    assert len(list(output.rglob("*.mha"))) == 1
    (lesion,) = json.loads(report.read_text())["lesions"]
    has_head = shrunk(path).model.network.model_dump().get("presence_features", 0) > 0
    assert (lesion["presence"] is not None) == has_head


@pytest.mark.slow
def test_members_of_every_recipe_segment_a_case_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_log_to_streams", lambda: None)
    model, output, report = (tmp_path / name for name in ("model", "output", "report.json"))
    members = write_mixed_bundle(model)
    assert {member.settings.network.kind for member in members} >= {"dual_encoder", "early_fusion"}
    case = write_case(tmp_path / "case")
    given = {"--input": case, "--output": output, "--model": model, "--report": report, "--device": "cpu"}
    assert process.main([str(word) for pair in given.items() for word in pair]) == 0
    assert len(list(output.rglob("*.mha"))) == 1
    (lesion,) = json.loads(report.read_text())["lesions"]
    assert 0 < lesion["presence"] < 1
