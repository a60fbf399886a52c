import json
import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from longilesion.bundle import read_manifest
from longilesion.ensemble import load_ensemble
from longilesion.errors import InputError
from longilesion.evaluation.lesions import LesionScore
from longilesion.evaluation.run import evaluate_methods
from test.unit.prepared_data import CASES, LICENCE, RECIPE, write_prepared
from training import crossvalidate, train
from training.crossvalidate import Arguments, cross_validate, main, pooled_threshold
from training.preparation.prepared import PreparedData, read_prepared
from training.recipe import PresenceSettings, read_recipe


@pytest.fixture(scope="module", autouse=True)
def _quickly() -> Iterator[None]:
    """Without pictures and with few draws for the intervals, which take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossvalidate, "evaluate_methods", partial(evaluate_methods, draws=10))
        patch.setattr("longilesion.evaluation.output.draw_plots", lambda evaluations, detections: {})
        patch.setattr("training.run_log.draw_curve", lambda folder: None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, the recipe, and a cross-validation of two folds whose presence heads were not fitted further."""
    folder = tmp_path_factory.mktemp("all")
    write_prepared(folder / "data")
    (folder / "tiny.toml").write_text(RECIPE)
    cross_validate(arguments(folder))
    return folder


def arguments(folder: Path, **changes: object) -> Arguments:
    given = {"folds": (0, 1), "presence": False, "workers": 0, "device": "cpu"} | changes
    return Arguments(recipe=folder / "tiny.toml", data=folder / "data", output=folder / "cv", **given)


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """All that again, for tests that change it."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "train", lambda arguments: pytest.fail(f"trained {arguments.output}"))


def held_out(data: PreparedData, fold: int) -> set[str]:
    return {case.case_id for case in data.split(fold)[1]}


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "cv" / "out_of_fold" / "evaluation.json").read_text())["evaluations"][0]


# ------------------------------------------------------------------------------------------------------- out of fold


def test_every_case_is_judged_once_and_by_the_fold_that_has_not_seen_its_patient(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of a trained run stand in for all five."""
    data = read_prepared(trained / "data")
    judges: list[tuple[str, str]] = []

    def stand_in(given: train.Arguments) -> None:
        shutil.copytree(trained / "cv" / "fold_0", given.output, ignore=shutil.ignore_patterns("out_of_fold_*"))

    def segment(bundle: Path, cases: list, folder: Path, *, device: str) -> None:
        judges.extend((bundle.parent.name, case.case_id) for case in cases)
        for case in cases:
            shutil.copytree(done / case.case_id, folder / case.case_id)

    done = tmp_path / "done"
    crossvalidate._segment(trained / "cv" / "fold_0" / "last", data.cases, done, device="cpu")
    monkeypatch.setattr(train, "train", stand_in)
    monkeypatch.setattr(crossvalidate, "_segment", segment)
    given = arguments(trained, folds=(0, 1, 2, 3, 4))
    given.output = tmp_path / "cv"
    cross_validate(given)
    assert sorted(case for _, case in judges) == sorted(CASES)
    for fold in range(5):
        assert {case for judge, case in judges if judge == f"fold_{fold}"} == held_out(data, fold)
    assert [row["exam"] for row in evaluation(tmp_path)["exams"]] == sorted(CASES)
    assert len(load_ensemble(tmp_path / "cv" / "model", device="cpu").networks) == 5


def test_only_the_cases_of_the_chosen_folds_are_judged_and_their_networks_exported(trained: Path) -> None:
    data = read_prepared(trained / "data")
    assert {row["exam"] for row in evaluation(trained)["exams"]} == held_out(data, 0) | held_out(data, 1)
    ensemble = load_ensemble(trained / "cv" / "model", device="cpu", precision="float32")
    for fold, network in enumerate(ensemble.networks):
        (own,) = load_ensemble(trained / "cv" / f"fold_{fold}" / "last", device="cpu", precision="float32").networks
        assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert len(ensemble.networks) == 2
    provenance = read_manifest(trained / "cv" / "model").provenance
    assert (provenance["folds"], provenance["recipe"], provenance["data licence"]) == ("0, 1", "tiny", LICENCE)


def test_exported_threshold_is_that_of_all_out_of_fold_lesions_together(trained: Path) -> None:
    sure = [row["presence"] for row in evaluation(trained)["lesions"] if row["fate"] == "persists"]
    kept = read_recipe(trained / "tiny.toml").presence.kept
    threshold = load_ensemble(trained / "cv" / "model", device="cpu").settings.inference.presence_threshold
    assert len(sure) == len(evaluation(trained)["exams"])
    assert threshold == pytest.approx(float(torch.quantile(torch.tensor(sure), 1 - kept)), abs=1e-3)


def score(presence: float | None, *, dice: float | None, true_id: int | None, fate: str = "persists") -> LesionScore:
    nothing = dict.fromkeys(LesionScore.model_fields, None)
    volumes = {name: 0.0 for name in LesionScore.model_fields if name.startswith(("true_", "predicted_"))}
    own = {
        "exam": "a",
        "lesion_id": 1,
        "true_id": true_id,
        "presence": presence,
        "dice": dice,
        "fate": fate,
        "predicted_fate": None,
    }
    return LesionScore(**(nothing | volumes | own))


def test_threshold_ignores_gone_lesions_new_ones_and_those_taken_up_by_another() -> None:
    there = [score(presence, dice=0.0, true_id=1) for presence in (0.2, 0.4, 0.6, 0.8, 1.0)]
    gone, new, merged, unasked = (
        score(0.9, dice=None, true_id=None, fate="gone"),
        score(0.1, dice=0.5, true_id=1, fate="new"),
        score(0.0, dice=None, true_id=2),
        score(None, dice=0, true_id=1),
    )
    settings = PresenceSettings(kept=0.75)
    assert pooled_threshold([gone, new, *there, merged, unasked], settings) == pytest.approx(0.4)
    assert pooled_threshold([gone, new, merged, unasked], settings) is None


def test_fitted_presence_head_takes_the_place_of_the_trained_one(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.presence._EPOCHS", 2)
    cross_validate(arguments(copied, folds=(0,), presence=True))
    assert {path.name for path in (copied / "cv" / "fold_0").glob("out_of_fold_*")} == {
        "out_of_fold_last",
        "out_of_fold_presence",
    }
    (network,), (fitted,) = (
        load_ensemble(copied / "cv" / name, device="cpu", precision="float32").networks
        for name in ("model", "fold_0/presence")
    )
    assert all(torch.equal(tensor, fitted.state_dict()[name]) for name, tensor in network.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ resumed


@pytest.mark.usefixtures("forbid_training")
def test_finished_folds_and_segmented_cases_are_not_done_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluation(copied)
    case = next(iter(held_out(read_prepared(copied / "data"), 1)))
    shutil.rmtree(copied / "cv" / "fold_1" / "out_of_fold_last" / case)
    segmented: list[str] = []
    segment = crossvalidate.segment_case
    monkeypatch.setattr(crossvalidate, "segment_case", lambda *given: segmented.append("once") or segment(*given))
    cross_validate(arguments(copied))
    assert segmented == ["once"]
    assert evaluation(copied) == first


def test_stopped_cross_validation_exports_nothing_and_resumes_where_it_stopped(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    given = arguments(trained, folds=(0, 1), minutes=0.0)
    given.output = tmp_path / "cv"
    assert cross_validate(given) is None
    assert not (given.output / "fold_1").exists()
    assert not (given.output / "model").exists()
    given.minutes = float("inf")
    assert cross_validate(given) == given.output / "model.tar.gz"
    assert "resumed from step 1" in caplog.text
    weights = [
        torch.load(folder / "cv" / "fold_0" / "checkpoint.pt", weights_only=True)["network"]
        for folder in (trained, tmp_path)
    ]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


# ---------------------------------------------------------------------------------------------------------- collected


@pytest.mark.usefixtures("forbid_training")
def test_folds_trained_elsewhere_are_collected(copied: Path) -> None:
    shutil.rmtree(copied / "cv" / "model")
    cross_validate(arguments(copied, collect=True))
    assert len(load_ensemble(copied / "cv" / "model", device="cpu").networks) == 2


@pytest.mark.usefixtures("forbid_training")
def test_missing_fold_is_named(copied: Path) -> None:
    with pytest.raises(InputError, match=r"fold_2: no run of fold 2; expected one to collect$"):
        cross_validate(arguments(copied, collect=True, folds=(0, 1, 2)))


@pytest.mark.usefixtures("forbid_training")
def test_unfinished_fold_is_named(copied: Path) -> None:
    summary = copied / "cv" / "fold_1" / "summary.json"
    summary.write_text(summary.read_text().replace('"steps":2', '"steps":1').replace('"steps": 2', '"steps": 1'))
    with pytest.raises(InputError, match=r"fold_1: not trained to its end 1; expected one to collect$"):
        cross_validate(arguments(copied, collect=True))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("average_decay = 0.5", "average_decay = 0.6", "recipe.average_decay = 0.5; expected 0.6"),
        ("lesions = 24", "lesions = 25", "recipe.presence.lesions = 24; expected 25"),
        ("steps = 2", "steps = 3", "recipe.steps = 2; expected 3"),
    ],
)
@pytest.mark.usefixtures("forbid_training")
def test_fold_of_another_recipe_is_refused(copied: Path, old: str, new: str, message: str) -> None:
    recipe = copied / "tiny.toml"
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"fold_0/run\.json: {message}, as in this cross-validation$"):
        cross_validate(arguments(copied, collect=True))


@pytest.mark.usefixtures("forbid_training")
def test_fold_in_the_place_of_another_is_refused(copied: Path) -> None:
    shutil.copytree(copied / "cv" / "fold_0", copied / "cv" / "fold_2")
    with pytest.raises(InputError, match=r"fold_2/run\.json: data = blocks, .* cases .*; expected blocks, "):
        cross_validate(arguments(copied, collect=True, folds=(0, 1, 2)))


@pytest.mark.usefixtures("restored_logging")
def test_fold_that_the_data_lack_is_refused_in_one_line(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["crossvalidate", trained / "tiny.toml", "--data", trained / "data", "--output", trained / "other"]
    monkeypatch.setattr("sys.argv", [*map(str, words), "--folds", "0", "5"])
    assert main() == 1
    assert "fold 5; expected 0 to 4" in capsys.readouterr().err
    assert not (trained / "other").exists()


def test_several_processes_are_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="several processes; expected one"):
        cross_validate(arguments(trained))


# ----------------------------------------------------------------------------------------- weights and presence heads


def test_every_fold_begins_with_the_given_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Path | None] = []
    monkeypatch.setattr(train, "train", lambda arguments: begun.append(arguments.weights))
    monkeypatch.setattr(crossvalidate, "is_finished", lambda run: run.path.name in {"fold_0", "fold_1"} and bool(begun))
    weights = tmp_path / "pretrained"
    for fold in (0, 1):
        begun.clear()
        given = arguments(trained, folds=(fold,), weights=weights)
        given.output = tmp_path / "cv"
        recipe = read_recipe(given.recipe)
        assert crossvalidate._all_trained(crossvalidate._folds(given, recipe, read_prepared(given.data)), given)
        assert begun == [weights]


@pytest.mark.usefixtures("forbid_training")
def test_cross_validation_with_other_weights_is_another_one(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights = None; expected .*pretrained"):
        cross_validate(arguments(trained, weights=tmp_path / "pretrained"))


def test_network_without_a_presence_head_has_none_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.presence.fit_presence", lambda given: pytest.fail("there is no head"))
    write_prepared(tmp_path / "data")
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("presence_features = 4", "presence_features = 0"))
    assert cross_validate(arguments(tmp_path, folds=(0,), presence=True)) is not None
    (network,) = load_ensemble(tmp_path / "cv" / "model", device="cpu").networks
    assert network.presence is None
    assert all(lesion["presence"] is None for lesion in evaluation(tmp_path)["lesions"])
